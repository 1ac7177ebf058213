"""Everything that a reader can copy from the pages works, and nothing is left out by accident."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from cluster import parts
from cluster.kubectl import install_crd
from docs.blocks import PAGES, ROOT, Block, all_blocks, blocks
from docs.lines import ELSEWHERE, ENDING, FILES, FOLLOWED, GIVEN, INSTALLED
from docs.stage import Stage
from docs.workplace import Workplace

from asyncrl_api.manifest import load_manifest
from asyncrl_api.spec import KIND

INSTALL = "helm install asyncrl charts/asyncrl --namespace asyncrl --create-namespace"
PROGRAMS = ("$", "asyncrl", "docker", "helm", "kubectl", "make", "pip", "python")


def with_language(language: str) -> list[str]:
    return list(dict.fromkeys(block.page for block in all_blocks(language)))


def python(block: Block) -> str:
    return GIVEN.get(block.page, "") + block.text


def run_block(block: Block, workplace: Workplace, stage: Stage) -> None:
    if block.file is not None:
        (workplace.folder / block.file).write_text(block.text)
    if block.language == "python":
        ending = ENDING.get(block.page)
        workplace.run_python(python(block), partial(stage.complete, *ending) if ending else None)
    if block.language == "sh":
        for command in block.commands():
            run_command(command, workplace, stage)


def run_command(command: str, workplace: Workplace, stage: Stage) -> None:
    if command in ELSEWHERE:
        return
    if command in FOLLOWED:
        workplace.follow(command, FOLLOWED[command])
        return
    ending = ENDING.get(command)
    workplace.run(command, partial(stage.complete, *ending) if ending else None)
    if command.startswith("helm"):
        stage.settled()


@pytest.mark.parametrize("page", with_language("sh"))
def test_the_blocks_of_a_page_run_in_order(page: str, workplace: Workplace, stage: Stage) -> None:
    for name, text in FILES.get(page, {}).items():
        (workplace.folder / name).write_text(text)
    if page in INSTALLED:
        run_command(INSTALL, workplace, stage)
    for block in blocks(page):
        run_block(block, workplace, stage)


@pytest.mark.parametrize("page", sorted({*with_language("python")} - {*with_language("sh")}))
def test_the_python_of_a_page_without_commands_runs(page: str, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            command = [sys.executable, "-c", python(block)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=120)


def test_every_manifest_is_accepted_and_every_other_file_is_one_of_values(
    stage: Stage, helm: Path, workplace: Workplace
) -> None:
    install_crd(stage.kubectl)
    for block in all_blocks("yaml"):
        documents = list(yaml.safe_load_all(block.text))
        manifests = [document for document in documents if "kind" in document]
        if not manifests:
            (workplace.folder / "values.yaml").write_text(block.text)
            version = f"--kube-version {parts.KUBERNETES}"
            workplace.run(f"helm template asyncrl charts/asyncrl --values values.yaml {version}")
            continue
        assert manifests == documents, block
        for manifest in manifests:
            if manifest["kind"] == KIND:
                load_manifest(yaml.safe_dump(manifest))
            manifest["metadata"].pop("namespace", None)
        dry_run = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
        stage.kubectl(*dry_run, stdin=yaml.safe_dump_all(manifests))


def test_the_job_of_the_readme_is_the_example() -> None:
    (job,) = (block for block in blocks("README.md") if block.language == "yaml")
    assert job.text == (ROOT / "examples" / "cartpole.yaml").read_text()


def test_every_block_says_what_it_is() -> None:
    unknown = [block for page in PAGES for block in blocks(page)]
    unknown = [block for block in unknown if block.language not in ("sh", "yaml", "python", "")]
    assert unknown == [], "use sh, yaml, python, or nothing for what nobody enters"
    for block in all_blocks(""):
        words = [line.split()[0] for line in block.text.splitlines() if line.strip()]
        assert not set(words) & set(PROGRAMS), f"{block}: commands belong into a block of sh"


def test_the_lists_name_only_what_the_pages_have() -> None:
    commands = {command for block in all_blocks("sh") for command in block.commands()}
    assert {*FOLLOWED, *ELSEWHERE} <= commands
    assert set(ENDING) <= commands | set(with_language("python"))
    assert INSTALLED | set(FILES) <= set(with_language("sh"))
    assert set(GIVEN) <= set(with_language("python"))
    assert not set(FOLLOWED) & set(ELSEWHERE)
