"""`make cluster` and `make cluster-down`: a cluster that stays up, and nothing left of it.

Without a node, which other tests have: its images would be imported a second time here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import parts
from cluster.build import build
from cluster.parts import cache_folder

ROOT = Path(__file__).parents[2]
START_SECONDS = 900


class User:
    """Somebody with a cache folder of their own, who has built every part before."""

    def __init__(self, cache: Path) -> None:
        self.state = cache / "asyncrl-cluster" / "running"
        self.state.parent.mkdir()
        for entry in cache_folder().iterdir():
            if entry.name != self.state.name:
                (self.state.parent / entry.name).symlink_to(entry)
        self._environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": "tests"}

    def make(self, *words: str) -> str:
        """What the Makefile runs for a target."""
        return self._run([sys.executable, "-m", "cluster", *words])

    def shell(self, *lines: str) -> str:
        return self._run(["bash", "-euc", "\n".join(lines)])

    def processes(self) -> list[str]:
        """Command lines that name the folder of the cluster."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if str(self.state).encode() in words:
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    # Into the cache that all tests share, so that nothing is built for this one.
    build(parts.control_plane(), parts.ETCD, parts.HELM)
    user = User(tmp_path_factory.mktemp("up"))
    yield user
    user.make("down")


def test_a_cluster_stays_up_until_it_is_taken_down(user: User) -> None:
    said = user.make("up", "--control-plane")
    exports = [line.strip() for line in said.splitlines() if line.startswith("  export ")]
    assert len(exports) == 2
    assert user.make("up", "--control-plane") == said, "it is the same one"

    user.shell(
        *exports,
        "helm install asyncrl charts/asyncrl --namespace asyncrl --create-namespace",
        "kubectl apply -f examples/cartpole.yaml",
    )
    assert "cartpole" in user.shell(*exports, "kubectl get arl -o name")

    assert any("kube-apiserver" in words for words in user.processes())
    assert "The cluster is gone." in user.make("down")
    assert user.processes() == []
    assert not user.state.exists()
    assert "No cluster is up." in user.make("down")
