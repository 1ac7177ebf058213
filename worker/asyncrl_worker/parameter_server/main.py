"""The parameter server's process."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time

from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.admission import staleness_policy
from asyncrl_worker.endpoint import Endpoint
from asyncrl_worker.fault import COMPLETE, FAILED, TERMINATED, WRONG_CONFIGURATION, RoleError
from asyncrl_worker.parameter_server.service import ParameterServerService
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.protocol.channel import open_server
from asyncrl_worker.protocol.errors import ConfigurationError
from asyncrl_worker.protocol.rollouts_pb2_grpc import add_ParameterServerServicer_to_server
from asyncrl_worker.role import RoleArguments, Stop, leave, run_role
from asyncrl_worker.staleness import StalenessViolation

log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
"""Time for the actors to leave after the learner has finished."""

BEAT_SECONDS = 1.0


def _environments(spec: AsyncRLJobSpec) -> int:
    """Environments per actor: the width of a fragment."""
    gymnasium = spec.workload.gymnasium
    assert gymnasium is not None  # the only kind of workload, required by the API
    return gymnasium.environments


class _Heartbeat:
    """Whether the event loop still turns; read by the endpoint's thread."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall = stall_seconds
        self._last = time.monotonic()

    async def run(self) -> None:
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)

    def health(self) -> str | None:
        silent = time.monotonic() - self._last
        if silent <= self._stall:
            return None
        return f"parameter server: the event loop is blocked for {silent:.0f} s"


async def serve(arguments: RoleArguments, stop: Stop) -> int:
    """Serves until the learner finishes, an invariant breaks or `stop` is requested."""
    spec = arguments.job.spec
    policy = staleness_policy(spec)
    log.info("event=staleness_bound %s", policy.explain())
    state = ParameterServerState(
        policy, epoch=secrets.randbits(63), seed=spec.seed, clock=time.monotonic
    )
    service = ParameterServerService(
        state, steps=spec.algorithm.fragment_length, environments=_environments(spec)
    )
    server, address = open_server(arguments.address, arguments.tls)
    add_ParameterServerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    heartbeat = _Heartbeat(spec.run_policy.stall_timeout_seconds)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        loop.call_soon_threadsafe(stopped.set)

    stop.add_callback(on_stop)
    listening = threading.Event()
    with Endpoint(
        arguments,
        registry=service.metrics.registry,
        health=heartbeat.health,
        ready=listening.is_set,
    ):
        await server.start()
        listening.set()
        log.info("event=listening address=%s epoch=%d", address, state.epoch)
        beat = asyncio.create_task(heartbeat.run())
        try:
            return await _until_over(service, stopped)
        finally:
            beat.cancel()
            await server.stop(grace=0.5)


async def _until_over(service: ParameterServerService, stopped: asyncio.Event) -> int:
    waits = [
        asyncio.ensure_future(wait)
        for wait in (service.finished.wait(), stopped.wait(), service.failed.wait())
    ]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if (error := service.failure) is not None:
        stale = isinstance(error, StalenessViolation)
        reason = Reason.STALENESS_VIOLATED if stale else Reason.INTERNAL_ERROR
        raise RoleError(reason, f"parameter server: {error}", FAILED) from error
    if stopped.is_set():
        return TERMINATED
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while service.connected:
                await service.until_changed()
    except TimeoutError:
        log.warning("event=drain_timeout actors=%d", service.connected)
    return COMPLETE


def main(arguments: RoleArguments, stop: Stop) -> int:
    try:
        return asyncio.run(serve(arguments, stop))
    except ConfigurationError as error:
        message = f"parameter server: {error}"
        raise RoleError(Reason.INVALID_SPEC, message, WRONG_CONFIGURATION) from error


if __name__ == "__main__":
    leave(run_role("parameter-server", main))
