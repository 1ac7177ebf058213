"""The parameter server as the process that `asyncrl run` starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.parameter_server.live_server import DEADLINE, SCHEMA, fragment

from asyncrl_worker.fault import FAILED
from asyncrl_worker.protocol.actor_client import ActorStream
from asyncrl_worker.protocol.errors import Refused
from asyncrl_worker.protocol.learner_client import LearnerClient
from asyncrl_worker.protocol.messages import Ack, Drain, Ticket

TESTS = Path(__file__).parents[2]

MANIFEST = """
apiVersion: asyncrl.io/v1alpha1
kind: AsyncRLJob
metadata: {name: process}
spec:
  workload: {gymnasium: {id: CartPole-v1, environments: 2}}
  algorithm: {fragmentLength: 3, fragmentsPerBatch: 1}
  staleness: {max: 3}
"""


class Process:
    """One parameter server process and where it writes."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        address: str | None = None,
        module: str = "asyncrl_worker.parameter_server.main",
    ) -> None:
        self.address = address or f"unix:{folder / 'ps.sock'}"
        self.log = folder / "log"
        self.termination = folder / "termination"
        manifest = folder / "job.yaml"
        manifest.write_text(MANIFEST)
        command = [
            *(sys.executable, "-m", module),
            *("--manifest", str(manifest), "--run-directory", str(folder)),
            *("--address", self.address, *options),
        ]
        environment = os.environ | {
            "ASYNCRL_TERMINATION_LOG": str(self.termination),
            "PYTHONPATH": str(TESTS),
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)

    def end(self) -> int:
        return self.process.wait(DEADLINE)

    def message(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.termination.read_text())
        return document


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes that do not outlive the test."""
    processes: list[Process] = []

    def start(**settings: str) -> Process:
        processes.append(Process(tmp_path, **settings))
        return processes[-1]

    yield start
    for process in processes:
        process.process.kill()
        process.process.wait()


@pytest.fixture
def started(start: Callable[..., Process]) -> Process:
    return start()


def learner(process: Process) -> LearnerClient:
    return LearnerClient(process.address, attempt=0, schema=SCHEMA, deadline=DEADLINE)


def test_a_run_ends_with_every_actor_gone_and_exit_code_0(started: Process) -> None:
    stream = ActorStream(
        started.address, actor_index=0, attempt=0, schema=SCHEMA, deadline=DEADLINE
    )
    with learner(started) as client, stream:
        client.publish(0, b"weights")
        ticket = stream.receive(DEADLINE)
        assert isinstance(ticket, Ticket)
        stream.send_fragment(ticket, fragment(0))
        batch = client.next_batch(DEADLINE)
        assert batch is not None
        client.publish(1, b"weights 1")
        client.consumed(batch.batch_id, "trained")
        assert client.finish().trained == 1
        assert any(isinstance(message, Drain) for message in stream)
        assert started.process.poll() is None, "it waits for its actors"
    assert started.end() == 0
    log = started.log.read_text()
    assert "event=staleness_bound worst-case staleness 3 versions" in log


def test_a_batch_beyond_the_bound_is_not_handed_out_and_ends_the_run(
    start: Callable[..., Process],
) -> None:
    server = start(module="unit.parameter_server.too_wide")
    stream = ActorStream(server.address, actor_index=0, attempt=0, schema=SCHEMA, deadline=DEADLINE)
    with learner(server) as client, stream:
        client.publish(0, b"weights")
        client.pace(100)
        ticket = stream.receive(DEADLINE)
        assert isinstance(ticket, Ticket)
        stream.send_fragment(ticket, fragment(0))
        assert isinstance(stream.receive(DEADLINE), Ack)
        for version in range(1, 5):
            client.publish(version, b"weights")
        with pytest.raises(Refused, match=r"staleness 4 of a batch is outside 0\.\.3"):
            client.next_batch(DEADLINE)
        assert server.end() == FAILED
    assert server.message() == {
        "role": "parameter-server",
        "index": 0,
        "reason": "StalenessViolated",
        "message": "parameter server: staleness 4 of a batch is outside 0..3 (max); this is a "
        "defect, not a setting",
    }


def test_a_signal_ends_it_with_130_and_no_orphan_socket_is_in_the_way(
    started: Process, start: Callable[..., Process]
) -> None:
    with learner(started):
        started.process.send_signal(signal.SIGTERM)
        assert started.end() == 130
    assert not started.termination.exists()
    again = start()
    with learner(again) as client:
        assert client.epoch
    again.process.kill()
    assert again.end() == -signal.SIGKILL
    third = start()
    with learner(third) as client:
        client.finish()
    assert third.end() == 0


def test_tcp_without_tls_ends_with_a_clear_refusal(tmp_path: Path) -> None:
    process = Process(tmp_path, address="127.0.0.1:0")
    assert process.end() == 2
    message = process.message()
    assert message["reason"] == "InvalidSpec"
    assert "TCP without TLS is refused; pass --tls DIR" in str(message["message"])


def test_it_needs_no_torch_and_little_memory(started: Process) -> None:
    with learner(started) as client:
        client.publish(0, bytes(10 << 20))
        status = Path(f"/proc/{started.process.pid}/status").read_text()
        maps = Path(f"/proc/{started.process.pid}/maps").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    assert "torch" not in maps
    assert resident < 80 + 2 * 10, f"{resident:.0f} MiB"


def test_it_imports_with_torch_blocked() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['gymnasium'] = None\n"
        "import asyncrl_worker.parameter_server.main\n"
        "import asyncrl_worker.protocol.actor_client, asyncrl_worker.protocol.learner_client\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE)
