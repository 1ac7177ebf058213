"""100 MB of weights to 8 actors on this host, against raw loopback sockets in the same run.

    python -m benchmarks.weights_transfer            # the table of docs/benchmarks.md
    python -m benchmarks.weights_transfer --profile  # where the gRPC stream spends its time

Eight receiver processes each hold one connection and wait at a barrier; a repetition lasts until
the last of them has the bytes in memory. The raw contenders send from one process with sendall to
recv_into, one thread per receiver, and check nothing. The parameter server's actors also verify
the digest. The order of the contenders alternates between repetitions; medians are reported.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import xxhash

from asyncrl_worker.parameter_server.service import ParameterServerService
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.channel import (
    CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    TRANSFER_SECONDS,
    open_channel,
    open_server,
)
from asyncrl_worker.protocol.learner_client import LearnerClient
from asyncrl_worker.protocol.messages import Schema
from asyncrl_worker.protocol.rollouts_pb2_grpc import (
    ParameterServerStub,
    add_ParameterServerServicer_to_server,
)
from asyncrl_worker.protocol.weights_transfer import WeightsFetch, digest
from asyncrl_worker.staleness import StalenessPolicy

CONTEXT = multiprocessing.get_context("spawn")
SCHEMA = Schema(observation_size=4, action_kind="discrete", action_size=2)

Fetch = Callable[[], int]


# Receivers: each contender's process answers every "go" with the number of bytes it has.


def receive_raw(pipe: Connection, family: int, address: str | tuple[str, int], size: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as peer:
        peer.connect(address)
        buffer = memoryview(bytearray(size))

        def fetch() -> int:
            received = 0
            while received < size:
                received += peer.recv_into(buffer[received:])
            return received

        answer(pipe, fetch)


def receive_weights(pipe: Connection, address: str, shared: bool) -> None:
    with open_channel(address, None, receive_limit=MAX_MESSAGE_BYTES) as channel:
        stub = ParameterServerStub(channel)  # type: ignore[no-untyped-call]

        def fetch() -> int:
            weights = WeightsFetch(None, b"", shared=shared).advance(
                lambda request: stub.GetWeights(request, timeout=TRANSFER_SECONDS)
            )
            assert weights is not None
            return len(weights.data)

        answer(pipe, fetch)


def answer(pipe: Connection, fetch: Fetch) -> None:
    pipe.send("ready")
    while pipe.recv() == "go":
        pipe.send(fetch())


class Contender:
    """Eight receivers of one kind; `send` does the sender's share of a repetition, if any."""

    def __init__(self, name: str, send: Callable[[], None] | None = None) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self.send = send

    def start(self, count: int, target: Callable[..., None], *arguments: object) -> None:
        for _ in range(count):
            mine, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=target, args=(theirs, *arguments), daemon=True)
            process.start()
            self.pipes.append(mine)
            self._processes.append(process)

    def wait_ready(self) -> None:
        for pipe in self.pipes:
            assert pipe.recv() == "ready"

    def repeat(self, size: int) -> None:
        start = time.perf_counter()
        for pipe in self.pipes:
            pipe.send("go")
        if self.send is not None:
            self.send()
        for pipe in self.pipes:
            assert pipe.recv() == size
        self.seconds.append(time.perf_counter() - start)

    def stop(self) -> None:
        for pipe in self.pipes:
            pipe.send("stop")
        for process in self._processes:
            process.join(10)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]


@contextmanager
def raw(
    name: str, family: int, address: str | tuple[str, int], blob: bytes, count: int
) -> Iterator[Contender]:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(count)
        contender = Contender(name)
        contender.start(count, receive_raw, family, listener.getsockname(), len(blob))
        peers = [listener.accept()[0] for _ in range(count)]

        def send() -> None:
            threads = [threading.Thread(target=peer.sendall, args=(blob,)) for peer in peers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        contender.send = send
        contender.wait_ready()
        try:
            yield contender
        finally:
            contender.stop()
            for peer in peers:
                peer.close()


def serve(pipe: Connection, address: str) -> None:
    """A parameter server process."""

    async def run() -> None:
        policy = StalenessPolicy(
            maximum=4, on_stale="drop", inject=None, fragments_per_batch=2, replicas=8
        )
        state = ParameterServerState(policy, epoch=1, seed=0, clock=time.monotonic)
        server, _ = open_server(address, None)
        add_ParameterServerServicer_to_server(  # type: ignore[no-untyped-call]
            ParameterServerService(state, steps=32, environments=16), server
        )
        await server.start()
        pipe.send("ready")
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await server.stop(None)

    asyncio.run(run())


@contextmanager
def parameter_server(address: str, blob: bytes) -> Iterator[tuple[float, int]]:
    """Serves `blob` at `address`; yields the seconds that publishing took, and its process id."""
    mine, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=serve, args=(theirs, address), daemon=True)
    process.start()
    assert mine.recv() == "ready"
    with LearnerClient(address, attempt=0, schema=SCHEMA) as client:
        start = time.perf_counter()
        client.publish(0, blob)
        assert process.pid is not None
        yield time.perf_counter() - start, process.pid
    mine.send("stop")
    process.join(10)


@contextmanager
def actors(name: str, address: str, count: int, *, shared: bool) -> Iterator[Contender]:
    contender = Contender(name)
    contender.start(count, receive_weights, address, shared)
    contender.wait_ready()
    try:
        yield contender
    finally:
        contender.stop()


def measure(size: int, count: int, repetitions: int) -> str:
    blob = os.urandom(size)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address = f"unix:{Path(folder) / 'ps.sock'}"
        published, _ = stack.enter_context(parameter_server(address, blob))
        unix = str(Path(folder) / "raw.sock")
        contenders = [
            stack.enter_context(raw("raw Unix socket", socket.AF_UNIX, unix, blob, count)),
            stack.enter_context(
                raw("raw TCP loopback", socket.AF_INET, ("127.0.0.1", 0), blob, count)
            ),
            stack.enter_context(
                actors("parameter server, mapped (same host)", address, count, shared=True)
            ),
            stack.enter_context(
                actors("parameter server, streamed (between hosts)", address, count, shared=False)
            ),
        ]
        for repetition in range(repetitions + 1):
            for contender in contenders[:: 1 if repetition % 2 else -1]:
                contender.repeat(size)
        for contender in contenders:
            del contender.seconds[0]  # warm-up: page faults, connections
    return table(contenders, size * count, published)


def table(contenders: list[Contender], total: int, published: float) -> str:
    medians = {c.name: statistics.median(c.seconds) for c in contenders}
    best_raw = min(medians[c.name] for c in contenders[:2])
    lines = [
        "| what | seconds, median (min - max) | GB/s | against the faster raw socket |",
        "|---|---|---|---|",
    ]
    for contender in contenders:
        median = medians[contender.name]
        lines.append(
            f"| {contender.name} | {median:.3f} ({min(contender.seconds):.3f} - "
            f"{max(contender.seconds):.3f}) | {total / median / 1e9:.2f} | "
            f"{best_raw / median:.2f}x |"
        )
    lines.append(f"\nPublishing by the learner (gRPC stream, digest): {published:.3f} s, once.")
    return "\n".join(lines)


# The profile: CPU time per 100 MB, of the stages that are ours and of whole processes.


def cpu_seconds(pid: int) -> float:
    """All threads of a process, in user and kernel mode, since its start (in ticks of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stages(blob: bytes, repetitions: int) -> dict[str, float]:
    """Median CPU seconds of every step in Python that WeightsTransfers and WeightsFetch make."""
    view = memoryview(blob)
    buffer = bytearray(len(blob))

    def of_one() -> dict[str, float]:
        spent = dict.fromkeys(("cut", "serialise", "parse", "keep", "digest"), 0.0)
        for start in range(0, len(blob), CHUNK_BYTES):
            marks = [time.thread_time()]
            chunk = bytes(view[start : start + CHUNK_BYTES])
            marks.append(time.thread_time())
            wire = pb.WeightsChunk(data=chunk).SerializeToString()
            marks.append(time.thread_time())
            message = pb.WeightsChunk.FromString(wire)
            marks.append(time.thread_time())
            buffer[start : start + len(chunk)] = message.data
            marks.append(time.thread_time())
            for stage, (before, after) in zip(spent, pairwise(marks), strict=False):
                spent[stage] += after - before
        before = time.thread_time()
        digest(memoryview(buffer).toreadonly())
        spent["digest"] = time.thread_time() - before
        return spent

    runs = [of_one() for _ in range(repetitions)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def profile(size: int, count: int, repetitions: int) -> str:
    """A table of CPU time per transfer to one actor, while `count` of them fetch at once."""
    blob = os.urandom(size)
    own = stages(blob, repetitions)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        address = f"unix:{Path(folder) / 'ps.sock'}"
        _, server = stack.enter_context(parameter_server(address, blob))
        stream = stack.enter_context(actors("stream", address, count, shared=False))
        stream.repeat(size)  # warm-up
        before = cpu_seconds(server), sum(map(cpu_seconds, stream.pids))
        for _ in range(repetitions):
            stream.repeat(size)
        after = cpu_seconds(server), sum(map(cpu_seconds, stream.pids))
    del stream.seconds[0]
    sent, received = ((b - a) / (repetitions * count) for a, b in zip(before, after, strict=True))
    kept = own["parse"] + own["keep"] + own["digest"]
    rows = (
        ("parameter server", "cut the chunks out of the weights", own["cut"]),
        ("", "protobuf: message and bytes", own["serialise"]),
        ("", "the rest: gRPC, asyncio, the kernel", sent - own["cut"] - own["serialise"]),
        ("", "together", sent),
        ("actor", "protobuf: bytes to message", own["parse"]),
        ("", "out of the message into the weights", own["keep"]),
        ("", "digest", own["digest"]),
        ("", "the rest: gRPC and the kernel", received - kept),
        ("", "together", received),
    )
    lines = ["| process | stage | CPU, ms |", "|---|---|---|"]
    lines += [f"| {where} | {what} | {1e3 * seconds:.0f} |" for where, what, seconds in rows]
    wall = statistics.median(stream.seconds) / count
    lines.append(f"\nBy the clock: {1e3 * wall:.0f} ms per actor, {os.cpu_count()} CPUs.")
    return "\n".join(lines)


def versions() -> str:
    return (
        f"Python {platform.python_version()}, grpcio {grpc.__version__}, xxhash "
        f"{xxhash.VERSION}, {platform.system()}, {os.cpu_count()} CPUs, "
        f"chunk {CHUNK_BYTES >> 10} KiB, load average {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="only this: stages of the stream")
    arguments = parser.parse_args()
    print(f"{arguments.megabytes} MB to {arguments.actors} actors, {versions()}\n")
    made = profile if arguments.profile else measure
    print(made(arguments.megabytes * 10**6, arguments.actors, arguments.repetitions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
