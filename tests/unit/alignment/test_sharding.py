"""One rank and several shards measure the same cosine and make the same parameters."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("sharded_loop.py")
RANKS = 2


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sharded_loop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Any]:
    script = load_script()
    result: dict[str, Any] = script.train(script.build_network())
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run(
        [sys.executable, SCRIPT, str(RANKS), folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=True,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_shards_agree_with_one_rank(
    layout: str, one_rank: dict[str, Any], ranks: list[dict[str, Any]]
) -> None:
    expected = one_rank["decisions"]
    assert {regime for _, regime, _ in expected} == {"Pass", "Project", "Skip"}
    assert expected[0][0] is None
    for result in (rank[layout] for rank in ranks):
        decisions = result["decisions"]
        assert [regime for _, regime, _ in decisions] == [regime for _, regime, _ in expected]
        for column in (0, 2):
            assert [row[column] for row in decisions[1:]] == pytest.approx(
                [row[column] for row in expected[1:]], abs=1e-5
            )
        assert result["parameters"] == pytest.approx(one_rank["parameters"], abs=1e-5)


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_ranks_agree_exactly(layout: str, ranks: list[dict[str, Any]]) -> None:
    first, second = (rank[layout] for rank in ranks)
    assert first["decisions"] == second["decisions"]
    assert first["parameters"] == second["parameters"]


def test_each_shard_remembers_its_own_part(
    one_rank: dict[str, Any], ranks: list[dict[str, Any]]
) -> None:
    parts = [rank["fsdp"]["remembered"] for rank in ranks]
    assert sum(parts) == one_rank["remembered"]
    assert min(parts) < max(parts) < one_rank["remembered"]
