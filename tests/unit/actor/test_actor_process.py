"""The actor as a process: exit codes and termination messages of what ends it early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from unit.environments.toys import MODULE

TESTS = Path(__file__).parents[2]


def start(folder: Path, gymnasium: dict[str, Any], stall: int = 1) -> subprocess.Popen[str]:
    manifest = {
        "apiVersion": "asyncrl.io/v1alpha1",
        "kind": "AsyncRLJob",
        "metadata": {"name": "toy"},
        "spec": {
            "workload": {"gymnasium": {"environments": 2, "modules": [MODULE], **gymnasium}},
            "runPolicy": {"stallTimeoutSeconds": stall},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(manifest))
    arguments = ["--manifest", str(folder / "job.yaml"), "--run-directory", str(folder)]
    arguments += ["--address", f"unix:{folder}/nobody.sock", "--index", "3"]
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
        "ASYNCRL_TERMINATION_LOG": str(folder / "termination"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "asyncrl_worker.actor.main", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ending(process: subprocess.Popen[str], folder: Path) -> tuple[int, dict[str, Any]]:
    _, errors = process.communicate(timeout=60)
    termination = folder / "termination"
    assert termination.exists(), errors
    return process.returncode, json.loads(termination.read_text())


def read_until(stream: IO[str] | None, text: str) -> None:
    assert stream is not None
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"the process ended without {text!r}")


@pytest.mark.parametrize(
    ("gymnasium", "reason", "message"),
    [
        (
            {"id": "CartPol-v1"},
            "UnknownEnvironment",
            "spec.workload.gymnasium.id: 'CartPol-v1' is not registered; did you mean "
            "'CartPole-v1'? (an id from another package needs its module in "
            "spec.workload.gymnasium.modules)",
        ),
        (
            {"id": "Faulty-v0", "kwargs": {"fault": "raise", "at": 0}},
            "EnvironmentFailed",
            "spec.workload.gymnasium.id: 'Faulty-v0' raised at the reset of environment 0: "
            "ZeroDivisionError: division by zero; correct the environment's code",
        ),
        (
            {"id": "Faulty-v0", "kwargs": {"fault": "hang", "at": 0}},
            "EnvironmentFailed",
            "spec.workload.gymnasium.id: 'Faulty-v0' has not returned from a reset of environment "
            "0 for 1 s; correct its code, or raise "
            "spec.runPolicy.stallTimeoutSeconds if it is slow",
        ),
        (
            {
                "id": "Faulty-v0",
                "kwargs": {"fault": "hang", "at": 0},
                "vectorization": "async",
            },
            "EnvironmentFailed",
            "spec.workload.gymnasium.id: 'Faulty-v0' has not returned from a reset for 1 s; "
            "correct its code, or raise spec.runPolicy.stallTimeoutSeconds if it is slow",
        ),
    ],
    ids=["unknown", "raises", "hangs", "hangs in a process"],
)
def test_a_broken_environment_ends_the_actor_for_good(
    tmp_path: Path, gymnasium: dict[str, Any], reason: str, message: str
) -> None:
    code, termination = ending(start(tmp_path, gymnasium), tmp_path)
    assert code == 2
    assert termination == {"role": "actor", "index": 3, "reason": reason, "message": message}


def test_without_a_parameter_server_it_gives_up_after_its_deadline(tmp_path: Path) -> None:
    code, termination = ending(start(tmp_path, {"id": "CartPole-v1"}), tmp_path)
    assert code == 69
    assert termination["reason"] == "PeerUnavailable"
    assert termination["message"].startswith(
        f"actor-3: parameter server at unix:{tmp_path}/nobody.sock: no answer for "
    )


def test_sigterm_ends_it_while_it_still_looks_for_its_peer(tmp_path: Path) -> None:
    process = start(tmp_path, {"id": "CartPole-v1"}, stall=60)
    read_until(process.stderr, "event=environments_made")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not (tmp_path / "termination").exists()
