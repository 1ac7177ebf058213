"""The learner as a process: exit codes and termination messages of what ends it early."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from unit.environments.toys import MODULE
from unit.learner.streams import make_spec, make_step
from unit.parameter_server.live_server import (
    DEADLINE,
    ENVIRONMENTS,
    SCHEMA,
    STEPS,
    LiveServer,
    fragment,
    policy,
)

from asyncrl_worker.fault import FAILED
from asyncrl_worker.learner.checkpoint import CheckpointFolder
from asyncrl_worker.learner.memory import RunMemory
from asyncrl_worker.parameter_server.schedule import BoundedSchedule
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.protocol.actor_client import ActorStream
from asyncrl_worker.protocol.messages import Ticket
from asyncrl_worker.staleness import Ledger

TESTS = Path(__file__).parents[2]
HANGING = {"id": "Faulty-v0", "kwargs": {"fault": "constructor that hangs"}, "modules": [MODULE]}


def start(
    folder: Path,
    gymnasium: dict[str, Any],
    *options: str,
    stall: int,
    ranks: int = 1,
    rank: int = 0,
    spec: dict[str, Any] | None = None,
) -> subprocess.Popen[str]:
    """A learner whose parameter server, if there is one, is at FOLDER/ps.sock."""
    manifest = {
        "apiVersion": "asyncrl.io/v1alpha1",
        "kind": "AsyncRLJob",
        "metadata": {"name": "toy"},
        "spec": {
            "workload": {"gymnasium": gymnasium},
            "runPolicy": {"stallTimeoutSeconds": stall},
        }
        | (spec or {}),
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(manifest))
    arguments = ["--manifest", str(folder / "job.yaml"), "--run-directory", str(folder)]
    arguments += ["--address", f"unix:{folder}/ps.sock", "--index", str(rank), *options]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "OMP_NUM_THREADS": "1",
        "ASYNCRL_TERMINATION_LOG": str(folder / "termination"),
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "asyncrl_worker.learner.main", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ending(process: subprocess.Popen[str], folder: Path) -> tuple[int, dict[str, Any]]:
    _, errors = process.communicate(timeout=120)
    termination = folder / "termination"
    assert termination.exists(), errors
    return process.returncode, json.loads(termination.read_text())


def until_it_serves(process: subprocess.Popen[str], folder: Path, rank: int) -> None:
    """Its endpoint is open: it looks for its peers now."""
    path = folder / "roles" / f"learner-{rank}.json"
    while not path.exists():
        assert process.poll() is None, process.communicate()


def test_an_environment_that_cannot_be_made_in_time_is_named(tmp_path: Path) -> None:
    code, termination = ending(start(tmp_path, HANGING, stall=1), tmp_path)
    assert code == 2
    assert termination == {
        "role": "learner",
        "index": 0,
        "reason": "EnvironmentFailed",
        "message": "spec.workload.gymnasium.id: 'Faulty-v0' has not returned from the constructor "
        "of environment 0 for 1 s; correct its code, or raise "
        "spec.runPolicy.stallTimeoutSeconds if it is slow",
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_without_its_peer_it_gives_up_after_ten_stall_timeouts(rank: int, tmp_path: Path) -> None:
    """Rank 0 looks for the parameter server, the other one for rank 0."""
    process = start(tmp_path, {"id": "CartPole-v1"}, stall=1, ranks=rank + 1, rank=rank)
    code, termination = ending(process, tmp_path)
    assert code == 69
    assert termination["reason"] == "PeerUnavailable"
    words = (
        "parameter server at unix:",
        "learner-1: another rank is gone or silent, while finding",
    )
    assert termination["message"].startswith(words[rank])


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_ends_it_at_once_while_it_looks_for_its_peer(rank: int, tmp_path: Path) -> None:
    process = start(tmp_path, {"id": "CartPole-v1"}, stall=60, ranks=rank + 1, rank=rank)
    until_it_serves(process, tmp_path, rank)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert not (tmp_path / "termination").exists()


def test_a_resumed_learner_paces_before_its_weights_open_the_gate(tmp_path: Path) -> None:
    spec = make_spec({"stability.onDegraded": "pace"})
    memory = RunMemory.of(spec, make_step(spec))
    memory.response.staleness_bound = 1
    memory.save(CheckpointFolder(tmp_path / "checkpoints", keep=1), ledger=Ledger())
    bounds: list[int] = []

    def published(state: ParameterServerState) -> bool:
        if state.published_version is not None:
            bounds.append(state.eta)
        return bool(bounds)

    document = spec.model_dump(
        mode="json", by_alias=True, include={"algorithm", "network", "stability"}
    )
    with LiveServer(f"unix:{tmp_path / 'ps.sock'}", policy(maximum=4)) as server:
        learner = start(tmp_path, {"id": "CartPole-v1"}, "--resume", stall=60, spec=document)
        try:
            server.until(published)
        finally:
            learner.kill()
            learner.communicate()
    assert bounds == [1]


def test_a_batch_beyond_the_bound_is_not_trained_on_and_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameter server's job allows more than the learner's, and it keeps to no pace."""
    monkeypatch.setattr(BoundedSchedule, "pace", lambda schedule, eta: eta)
    address = f"unix:{tmp_path / 'ps.sock'}"
    spec = {
        "algorithm": {"fragmentLength": STEPS, "fragmentsPerBatch": 1},
        "staleness": {"max": 1},
    }
    gymnasium = {"id": "CartPole-v1", "environments": ENVIRONMENTS}
    with LiveServer(address, policy(maximum=4, batch=1)) as server, ExitStack() as stack:
        streams = [
            stack.enter_context(
                ActorStream(address, actor_index=i, attempt=0, schema=SCHEMA, deadline=DEADLINE)
            )
            for i in range(3)
        ]
        learner = start(tmp_path, gymnasium, stall=60, spec=spec)
        stack.callback(learner.kill)
        tickets = [stream.receive(120.0) for stream in streams]
        for stream, ticket in zip(streams, tickets, strict=True):
            assert isinstance(ticket, Ticket) and ticket.policy_version == 0
            stream.send_fragment(ticket, fragment(0))
        code, termination = ending(learner, tmp_path)
        trained = server.look(lambda state: state.ledger.trained)
    assert code == FAILED
    assert termination == {
        "role": "learner",
        "index": 0,
        "reason": "StalenessViolated",
        "message": "learner: staleness 2 of a batch is outside 0..1 (max); this is a defect, not "
        "a setting",
    }
    assert trained <= 2
