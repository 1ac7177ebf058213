"""The API imports without the machinery of workers, operators and clusters."""

import subprocess
import sys

BLOCKED = ("torch", "numpy", "kubernetes", "kopf", "gymnasium", "grpc", "asyncrl", "asyncrl_worker")

PROGRAM = f"""
import importlib, pkgutil, sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import asyncrl_api
names = [module.name for module in pkgutil.iter_modules(asyncrl_api.__path__, "asyncrl_api.")]
for name in names:
    importlib.import_module(name)
print(" ".join(names))
"""


def test_every_module_imports_with_torch_numpy_and_cluster_clients_blocked() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert {"asyncrl_api.spec", "asyncrl_api.status", "asyncrl_api.crd"} <= set(
        result.stdout.split()
    )
