"""A real parameter server (gRPC, its own event loop and thread) and fragments to feed it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from asyncrl_worker.fragment import Fragment
from asyncrl_worker.parameter_server.service import ParameterServerService
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.protocol.channel import open_server
from asyncrl_worker.protocol.messages import Schema
from asyncrl_worker.protocol.rollouts_pb2_grpc import add_ParameterServerServicer_to_server
from asyncrl_worker.protocol.tensors import encode
from asyncrl_worker.staleness import StalenessPolicy

Result = TypeVar("Result")

SCHEMA = Schema(observation_size=4, action_kind="discrete", action_size=2)
STEPS = 3
ENVIRONMENTS = 2
DEADLINE = 20.0

_epochs = itertools.count(1)


def policy(
    maximum: int = 4, *, inject: int | None = None, batch: int = 2, replicas: int = 2
) -> StalenessPolicy:
    return StalenessPolicy(
        maximum=maximum,
        on_stale="drop",
        inject=inject,
        fragments_per_batch=batch,
        replicas=replicas,
    )


def fragment(version: int, **changes: object) -> bytes:
    """A valid fragment of SCHEMA whose steps are all by `version`, with arrays replaced."""
    shape = (STEPS, ENVIRONMENTS)
    tensors = Fragment(
        observations=np.zeros((STEPS + 1, ENVIRONMENTS, SCHEMA.observation_size), np.float32),
        actions=np.zeros(shape, np.int64),
        rewards=np.ones(shape, np.float32),
        terminated=np.zeros(shape, np.bool_),
        truncated=np.zeros(shape, np.bool_),
        valid=np.ones(shape, np.bool_),
        log_probabilities=np.full(shape, -0.7, np.float32),
        policy_versions=np.full(STEPS, version, np.int64),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
    ).to_tensors()
    tensors.update(changes)  # type: ignore[arg-type]
    return encode({name: array for name, array in tensors.items() if array is not None})


class LiveServer:
    """Serves at `address` from entering the context until `kill` or its end."""

    def __init__(self, address: str, policy: StalenessPolicy, *, tls: Path | None = None) -> None:
        self.address = address
        self._policy = policy
        self._tls = tls
        self._ready = threading.Event()
        self._stopped: asyncio.Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Ends the server without a word to anybody, as kill -9 does."""
        if self._thread.is_alive() and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def look(self, read: Callable[[ParameterServerState], Result]) -> Result:
        """`read(state)`, run where the state lives."""

        async def call() -> Result:
            return read(self._state)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(DEADLINE)

    def metrics(self, read: Callable[[ParameterServerService], Result]) -> Result:
        """`read(service)`, run where the service lives."""

        async def call() -> Result:
            return read(self._service)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(DEADLINE)

    def until(self, holds: Callable[[ParameterServerState], bool]) -> None:
        """Returns once an event has made `holds(state)` true."""

        async def wait() -> None:
            async with asyncio.timeout(DEADLINE):
                while not holds(self._state):
                    await self._service.until_changed()

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(2 * DEADLINE)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._state = ParameterServerState(
            self._policy, epoch=next(_epochs), seed=0, clock=time.monotonic
        )
        self._service = ParameterServerService(self._state, steps=STEPS, environments=ENVIRONMENTS)
        server, self.address = open_server(self.address, self._tls)
        add_ParameterServerServicer_to_server(  # type: ignore[no-untyped-call]
            self._service, server
        )
        await server.start()
        self._ready.set()
        await self._stopped.wait()
        await server.stop(grace=None)
