"""The actor process: `python -m asyncrl_worker.actor.main --manifest ... --address ...`."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack
from functools import partial

from asyncrl_worker.threads import pin_threads

# Before numpy starts its threads. One, unless told otherwise: the products are small, and the way
# to use another core is another actor.
os.environ.setdefault("OMP_NUM_THREADS", "1")
pin_threads()

import numpy as np  # noqa: E402

from asyncrl_api.reasons import Reason  # noqa: E402
from asyncrl_api.spec import AsyncRLJobSpec  # noqa: E402
from asyncrl_worker.actor.actor import Actor  # noqa: E402
from asyncrl_worker.actor.metrics import ActorMetrics  # noqa: E402
from asyncrl_worker.actor.rollout import Rollout, RolloutInterrupted  # noqa: E402
from asyncrl_worker.endpoint import Endpoint  # noqa: E402
from asyncrl_worker.environments.factory import make_vector_environment  # noqa: E402
from asyncrl_worker.environments.vector import Progress, VectorEnvironment  # noqa: E402
from asyncrl_worker.fault import (  # noqa: E402
    COMPLETE,
    PEER_UNAVAILABLE,
    TERMINATED,
    WRONG_CONFIGURATION,
    RoleError,
)
from asyncrl_worker.policies.layout import PolicyLayout  # noqa: E402
from asyncrl_worker.protocol.actor_client import ActorStream  # noqa: E402
from asyncrl_worker.protocol.channel import STALL_TIMEOUTS_TO_START  # noqa: E402
from asyncrl_worker.protocol.errors import Fenced, PeerUnavailable, ProtocolError, Refused  # noqa: E402
from asyncrl_worker.role import RoleArguments, Stop, leave, run_role  # noqa: E402
from asyncrl_worker.watchdog import StallDetector, Watchdog, end_stalled  # noqa: E402

log = logging.getLogger("asyncrl.actor")

# A parameter server that hangs is found after one stall timeout and needs time to come back.
STALL_TIMEOUTS_WITHOUT_PEER = 2.0

EVALUATION_STALL_TIMEOUTS = 0.5
"""Longest evaluation. Where training needs this actor, the learner makes no progress meanwhile, and
after a whole stall timeout without any it is restarted: the rest is for the next batch."""


def main(arguments: RoleArguments, stop: Stop) -> int:
    """Make the environments, connect, and work until the run is over or a signal comes."""
    try:
        return _run(arguments, stop)
    except RolloutInterrupted:
        return TERMINATED
    except PeerUnavailable as error:
        if stop.requested:
            return TERMINATED
        message = f"{arguments.name}: {error}"
        raise RoleError(Reason.PEER_UNAVAILABLE, message, PEER_UNAVAILABLE) from error
    except Fenced as error:
        raise RoleError(error.reason, f"{arguments.name}: {error}", error.exit_code) from error
    except Refused as error:
        message = f"{arguments.name}: {error}"
        raise RoleError(Reason.PROTOCOL_MISMATCH, message, WRONG_CONFIGURATION) from error
    except ProtocolError as error:
        message = f"{arguments.name}: {error}"
        raise RoleError(Reason.INVALID_SPEC, message, WRONG_CONFIGURATION) from error


def _run(arguments: RoleArguments, stop: Stop) -> int:
    spec = arguments.job.spec
    timeout = float(spec.run_policy.stall_timeout_seconds)
    progress, evaluation_progress = Progress(), Progress()
    gymnasium = spec.workload.gymnasium
    detector = StallDetector(
        "" if gymnasium is None else gymnasium.id,
        (progress, evaluation_progress),
        timeout=timeout,
        clock=time.monotonic,
    )
    metrics = ActorMetrics()
    with ExitStack() as stack:
        watchdog = Watchdog(detector, timeout=timeout, on_stall=partial(end_stalled, arguments))
        stack.callback(watchdog.close)
        # Before gRPC starts its threads: environments may fork processes.
        environment = make_vector_environment(
            spec.workload,
            environments=1 if gymnasium is None else gymnasium.environments,
            progress=progress,
        )
        stack.callback(environment.close)
        evaluation = _evaluation_environment(spec, evaluation_progress)
        if evaluation is not None:
            stack.callback(evaluation.close)
        rollout = Rollout(environment, spec.algorithm.fragment_length, np.random.default_rng())
        rollout.reset(_seeds(spec.seed, arguments))
        stream = ActorStream(
            arguments.address,
            actor_index=arguments.index,
            attempt=arguments.attempt,
            schema=environment.description.schema,
            tls=arguments.tls,
            deadline=STALL_TIMEOUTS_WITHOUT_PEER * timeout,
            patience=STALL_TIMEOUTS_TO_START * timeout,
        )
        actor = Actor(
            stream,
            rollout,
            layout=PolicyLayout.from_spec(environment.description, spec.network),
            index=arguments.index,
            seed=spec.seed,
            evaluation=evaluation,
            evaluation_seconds=EVALUATION_STALL_TIMEOUTS * timeout,
            metrics=metrics,
            clock=time.monotonic,
        )
        log.info(
            "event=environments_made id=%s environments=%d kind=%s",
            environment.name,
            environment.environments,
            type(environment).__name__,
        )
        stop.add_callback(actor.stop)
        stop.add_callback(stream.interrupt)
        stack.enter_context(
            Endpoint(
                arguments,
                registry=metrics.registry,
                health=detector.check,
                ready=lambda: actor.ready,
            )
        )
        stack.enter_context(stream)
        finished = actor.run()
    return COMPLETE if finished else TERMINATED


def _seeds(seed: int, arguments: RoleArguments) -> list[int]:
    """A replacement does not repeat the episodes of the actor that it replaces."""
    first = [seed, arguments.index]
    return first if arguments.attempt == 0 else [*first, arguments.attempt]


def _evaluation_environment(spec: AsyncRLJobSpec, progress: Progress) -> VectorEnvironment | None:
    if spec.evaluation.interval_versions is None or spec.workload.gymnasium is None:
        return None
    count = min(spec.evaluation.episodes, spec.workload.gymnasium.environments)
    return make_vector_environment(spec.workload, environments=count, progress=progress)


if __name__ == "__main__":
    leave(run_role("actor", main))
