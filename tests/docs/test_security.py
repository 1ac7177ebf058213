"""The tables of rights in docs/security.md are those of the chart."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import parts
from docs.blocks import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()

Right = tuple[str, str]
"""Resource as kubectl writes it, with its group and subresource; verb."""


@pytest.fixture(scope="module")
def roles(helm: Path) -> dict[str, set[Right]]:
    """What the roles of the chart allow, by name."""
    command = ("template", "asyncrl", str(ROOT / "charts" / "asyncrl"), "--kube-version")
    done = subprocess.run(
        [str(helm), *command, parts.KUBERNETES], check=True, capture_output=True, text=True
    )
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {
        document["metadata"]["name"]: rights(document["rules"])
        for document in documents
        if document["kind"] in ("ClusterRole", "Role")
    }


def rights(rules: list[dict[str, Any]]) -> set[Right]:
    found = set()
    for rule in rules:
        (group,) = rule["apiGroups"]
        for resource in rule["resources"]:
            plural, _, subresource = resource.partition("/")
            path = ".".join(filter(None, (plural, group)))
            path += f"/{subresource}" if subresource else ""
            found |= {(path, verb) for verb in rule["verbs"]}
    return found


def written(section: str, resources: int, verbs: int) -> list[tuple[list[str], set[Right]]]:
    """The cells and the rights of each row of a section's table, by the numbers of its columns."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [
        (
            row,
            {(r, v) for r in re.findall("`(.+?)`", row[resources]) for v in row[verbs].split(", ")},
        )
        for row in rows
    ]


def test_the_rights_of_the_operator(roles: dict[str, set[Right]]) -> None:
    table = [right for _, row in written("The operator", 0, 1) for right in row]
    assert len(table) == len(set(table))
    assert set(table) == roles["asyncrl"] | roles["asyncrl-lease"]


@pytest.mark.parametrize("name", ["asyncrl-view", "asyncrl-edit"])
def test_the_rights_of_users(name: str, roles: dict[str, set[Right]]) -> None:
    rows = [row for cells, row in written("Users", 1, 2) if cells[0] == f"`{name}`"]
    assert set().union(*rows) == roles[name]
