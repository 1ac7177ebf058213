"""What the blocks of the pages run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.helm import helm as helm
from docs.stage import Stage
from docs.workplace import Workplace

TIMEOUT = 600
"""Seconds for one page; the first test also starts the cluster."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder the time that a page takes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A cluster with nothing of ours installed."""
    with Stage(tmp_path_factory.mktemp("stage")) as running:
        yield running


@pytest.fixture
def workplace(stage: Stage, helm: Path, tmp_path: Path) -> Iterator[Workplace]:
    """The folder of a reader, with an operator that waits to be installed."""
    folder = tmp_path / "asyncrl"
    folder.mkdir()
    with stage.operator(tmp_path / "operator.log"):
        yield Workplace(folder, [stage.kubectl.program.parent, helm.parent], stage.kubeconfig)
    print((tmp_path / "operator.log").read_text())
    stage.clear(helm)
