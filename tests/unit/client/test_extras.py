"""What `pip install '.[EXTRA]'` brings is enough for what the pages say of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
LOOP = """
import sys
sys.modules.update(dict.fromkeys({blocked}))  # as if they were not installed
import torch
from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment
policy = torch.nn.Linear(4, 2)
optimizer = torch.optim.Adam(policy.parameters())
guard = GradientAlignment(policy.parameters(), AlignmentConfig())
policy(torch.ones(1, 4)).sum().backward()
if guard.step().apply:
    optimizer.step()
"""


def modules(extra: str) -> set[str]:
    """The modules of the packages of an extra."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    packages = project["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=]", package)[0].replace("-", "_") for package in packages}
    return {{"grpcio": "grpc", "protobuf": "google"}.get(name, name) for name in names}


def test_alignment_in_a_loop_of_ones_own_needs_its_extra_only() -> None:
    assert modules("alignment") == {"torch"}
    blocked = sorted(modules("worker") - modules("alignment"))
    assert {"numpy", "gymnasium", "grpc", "google", "prometheus_client"} <= set(blocked)
    done = subprocess.run(
        [sys.executable, "-c", LOOP.format(blocked=blocked)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "worker")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
