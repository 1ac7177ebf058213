"""The operator as a process of this machine, where it needs no pod."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.processes import Process, answers, free_port

ROOT = Path(__file__).parents[2]
READY_SECONDS = 120.0


def start_operator(kubeconfig: Path, log: Path, *options: str, home: str = "default") -> Process:
    """An operator in the namespace `home` that is ready; `stop` ends it. Raises NotReady."""
    port = free_port()
    process = Process(
        "operator",
        [
            *(sys.executable, "-m", "asyncrl_operator"),
            *("--metrics-host", "127.0.0.1", "--metrics-port", str(port)),
            *options,
        ],
        log,
        {
            "KUBECONFIG": str(kubeconfig),
            "POD_NAMESPACE": home,
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'crds'}",
        },
    )
    process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), READY_SECONDS)
    return process
