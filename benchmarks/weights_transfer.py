"""100 MB of weights to 8 actors on this host, against raw loopback sockets in the same run.

    python benchmarks/weights_transfer.py            # the table of docs/benchmarks.md

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
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import xxhash

from asyncrl_worker.parameter_server.service import ParameterServerService
from asyncrl_worker.parameter_server.state import ParameterServerState
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
from asyncrl_worker.protocol.weights_transfer import WeightsFetch
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
def parameter_server(address: str, blob: bytes) -> Iterator[float]:
    """Serves `blob` at `address`; yields the seconds that publishing it took."""
    mine, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=serve, args=(theirs, address), daemon=True)
    process.start()
    assert mine.recv() == "ready"
    with LearnerClient(address, attempt=0, schema=SCHEMA) as client:
        start = time.perf_counter()
        client.publish(0, blob)
        yield time.perf_counter() - start
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
        published = stack.enter_context(parameter_server(address, blob))
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
                actors("parameter server, gRPC stream", address, count, shared=False)
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


def versions() -> str:
    return (
        f"Python {platform.python_version()}, grpcio {grpc.__version__}, xxhash "
        f"{xxhash.VERSION}, {platform.system()} {platform.release()}, {os.cpu_count()} CPUs, "
        f"chunk {CHUNK_BYTES >> 10} KiB, load average {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    print(f"{arguments.megabytes} MB to {arguments.actors} actors, {versions()}\n")
    print(measure(arguments.megabytes * 10**6, arguments.actors, arguments.repetitions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
