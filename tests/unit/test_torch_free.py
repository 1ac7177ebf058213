"""Everything but the learner imports and works without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import importlib, pkgutil, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise ImportError(f"{name} is blocked")
        return None

sys.meta_path.insert(0, NoTorch())

def walk(name):
    module = importlib.import_module(name)
    yield name
    if hasattr(module, "__path__"):
        for found in pkgutil.walk_packages(module.__path__, name + "."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
                yield found.name
"""

PACKAGES = {
    "asyncrl_api": "asyncrl_api.spec",
    "asyncrl": "asyncrl.cli.run",
    "asyncrl_operator": "asyncrl_operator.main",
    "asyncrl_worker.parameter_server": "asyncrl_worker.parameter_server.main",
    "asyncrl_worker.actor": "asyncrl_worker.actor.main",
    "asyncrl_worker.protocol": "asyncrl_worker.protocol.learner_client",
    "asyncrl_worker.environments": "asyncrl_worker.environments.factory",
    "asyncrl_worker.stability": "asyncrl_worker.stability.judge",
    "asyncrl_worker.staleness": "asyncrl_worker.staleness",
    "asyncrl_worker.policies.inference": "asyncrl_worker.policies.inference",
    "asyncrl_worker.fragment": "asyncrl_worker.fragment",
    "asyncrl_worker.role": "asyncrl_worker.role",
    "asyncrl_worker.endpoint": "asyncrl_worker.endpoint",
    "asyncrl_worker.telemetry": "asyncrl_worker.telemetry",
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_torch_these_packages_import_whole() -> None:
    program = f"""
for package in {list(PACKAGES)!r}:
    print(*walk(package))
assert not [name for name in sys.modules if name.split(".")[0] == "torch"]
"""
    result = run(program)
    assert result.returncode == 0, result.stderr
    assert set(PACKAGES.values()) <= set(result.stdout.split())


@pytest.mark.parametrize("module", ["torch", "asyncrl_worker.learner.step"])
def test_the_blocker_blocks(module: str) -> None:
    result = run(f"import {module}")
    assert result.returncode == 1
    assert "torch is blocked" in result.stderr
