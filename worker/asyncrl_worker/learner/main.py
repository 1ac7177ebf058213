"""The learner's process: `python -m asyncrl_worker.learner.main`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from functools import partial

import torch
from safetensors.torch import save

from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.admission import staleness_policy
from asyncrl_worker.atomic import write_atomically
from asyncrl_worker.endpoint import Endpoint
from asyncrl_worker.environments.factory import describe
from asyncrl_worker.environments.spaces import EnvironmentDescription
from asyncrl_worker.environments.vector import Progress
from asyncrl_worker.fault import (
    COMPLETE,
    FAILED,
    TERMINATED,
    WRONG_CONFIGURATION,
    RoleError,
)
from asyncrl_worker.learner.checkpoint import Checkpoint, CheckpointFolder
from asyncrl_worker.learner.exchange import (
    Exchange,
    LockstepExchange,
    OverlappedExchange,
)
from asyncrl_worker.learner.followers import Follower, Followers, share_checkpoint
from asyncrl_worker.learner.health import LearnerHealth
from asyncrl_worker.learner.loop import PEER_SHARE_OF_GRACE, TrainingLoop
from asyncrl_worker.learner.memory import RunMemory
from asyncrl_worker.learner.metrics import LearnerMetrics
from asyncrl_worker.learner.ranks import RankLost, Ranks
from asyncrl_worker.learner.step import LearnerStep
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.protocol.channel import STALL_TIMEOUTS_TO_START
from asyncrl_worker.protocol.errors import PeerUnavailable
from asyncrl_worker.protocol.learner_client import LearnerClient
from asyncrl_worker.role import RoleArguments, Stop, leave, run_role
from asyncrl_worker.staleness import StalenessPolicy, StalenessViolation
from asyncrl_worker.telemetry import Telemetry
from asyncrl_worker.termination import leave_last_word
from asyncrl_worker.threads import pin_threads
from asyncrl_worker.watchdog import StallDetector, Watchdog, end_stalled

log = logging.getLogger("asyncrl")

STALL_TIMEOUTS_BETWEEN_RANKS = 4.0
"""A rank that says nothing for so many stall timeouts is lost. Rank 0 speaks every second, but for
a step and its settlement, of which each call may take one stall timeout."""


def main(arguments: RoleArguments, stop: Stop) -> int:
    """Rank 0 trains and talks; the other ranks follow it."""
    torch.set_num_threads(pin_threads())
    spec = arguments.job.spec
    description = _describe(arguments)
    metrics = LearnerMetrics()
    stall = float(spec.run_policy.stall_timeout_seconds)
    health = LearnerHealth(stall)
    with Endpoint(
        arguments,
        registry=metrics.registry,
        health=health.problem,
        ready=health.ready,
        report=health.report,
    ):
        ranks = Ranks.from_environment(deadline=STALL_TIMEOUTS_BETWEEN_RANKS * stall)
        step = LearnerStep(spec, PolicyLayout.from_spec(description, spec.network), ranks)
        try:
            if ranks.rank > 0:
                return _follow(arguments, step, ranks, description, health, stop)
            return _lead(arguments, step, ranks, description, metrics, health, stop)
        except (PeerUnavailable, RankLost):
            if stop.requested:
                return TERMINATED
            raise
        except StalenessViolation as error:
            raise RoleError("StalenessViolated", f"learner: {error}", FAILED) from error
        finally:
            ranks.close()


def _describe(arguments: RoleArguments) -> EnvironmentDescription:
    """What the environment looks like; one that cannot be made in time ends the process."""
    workload, progress = arguments.job.spec.workload, Progress()
    timeout = float(arguments.job.spec.run_policy.stall_timeout_seconds)
    name = "" if workload.gymnasium is None else workload.gymnasium.id
    detector = StallDetector(name, (progress,), timeout=timeout, clock=time.monotonic)
    watchdog = Watchdog(detector, timeout=timeout, on_stall=partial(end_stalled, arguments))
    try:
        return describe(workload, progress)
    finally:
        watchdog.close()


def _follow(
    arguments: RoleArguments,
    step: LearnerStep,
    ranks: Ranks,
    description: EnvironmentDescription,
    health: LearnerHealth,
    stop: Stop,
) -> int:
    """A rank other than 0; a wish to stop reaches it through rank 0, which checkpoints first."""
    spec = arguments.job.spec
    if not ranks.meet(patience=_patience(spec), stop=stop):
        return TERMINATED
    checkpoint = share_checkpoint(ranks, None)
    if checkpoint is not None:
        RunMemory.of(spec, step).restore(checkpoint, arguments.run_directory)
        log.info("event=resumed version=%d", step.version)
    health.trained = follower = Follower(
        step, ranks, length=spec.algorithm.fragment_length, description=description
    )
    follower.run()
    return TERMINATED if stop.requested else COMPLETE


def _lead(
    arguments: RoleArguments,
    step: LearnerStep,
    ranks: Ranks,
    description: EnvironmentDescription,
    metrics: LearnerMetrics,
    health: LearnerHealth,
    stop: Stop,
) -> int:
    """Rank 0: go on from the checkpoint, reach the parameter server and the ranks, and train."""
    spec = arguments.job.spec
    policy = staleness_policy(spec)
    log.info("event=staleness %s", policy.explain())
    memory = RunMemory.of(spec, step)
    checkpoints = CheckpointFolder(
        arguments.run_directory / "checkpoints", keep=spec.checkpoint.keep
    )
    checkpoint = _newest(arguments, checkpoints)
    ledger = None
    if checkpoint is not None:
        ledger = memory.restore(checkpoint, checkpoints.path_of(checkpoint))
        _tell_of_less_lag(policy, step.version)
    client = LearnerClient(
        arguments.address,
        tls=arguments.tls,
        attempt=arguments.attempt,
        schema=description.schema,
        version=step.version,
        ledger=ledger,
        deadline=float(spec.run_policy.stall_timeout_seconds),
    )
    stop.add_callback(lambda: _close_soon(client, spec, health))
    exact = policy.exact_lag is not None
    with contextlib.closing(client), Telemetry(arguments.run_directory) as telemetry:
        client.hello(_patience(spec))
        # Before the weights, which open the gate.
        client.pace(memory.response.staleness_bound)
        # A resumed run restarts its episodes where the uninterrupted one did: at the checkpoint.
        # In step it is thereby the same run; later than that, its first batches are less late.
        client.publish(
            step.version, save(step.weights()), reset_environments=exact and step.version > 0
        )
        if not ranks.meet(patience=_patience(spec), stop=stop):
            return TERMINATED
        share_checkpoint(ranks, checkpoint)
        exchange: Exchange = LockstepExchange(client) if exact else OverlappedExchange(client)
        try:
            health.trained = loop = TrainingLoop(
                spec,
                description,
                step=step,
                memory=memory,
                client=client,
                exchange=exchange,
                followers=Followers(ranks),
                policy=policy,
                checkpoints=checkpoints,
                telemetry=telemetry,
                metrics=metrics,
                stop=stop,
                attempt=arguments.attempt,
            )
            return _train(arguments, loop)
        finally:
            client.close()
            exchange.close()


def _newest(arguments: RoleArguments, checkpoints: CheckpointFolder) -> Checkpoint | None:
    """What the run goes on from, if anything.

    A learner that was restarted in place has its predecessor's command line, so that only
    --resume, or a higher attempt, tells that the checkpoints are its own. Without either they
    belong to another run, whose newest would be taken for this one's later.
    """
    if arguments.resume or arguments.attempt > 0:
        checkpoint = checkpoints.load_newest()
        version = 0 if checkpoint is None else checkpoint.version
        log.info("event=resumed version=%d found=%s", version, checkpoint is not None)
        return checkpoint
    if checkpoints:
        message = (
            f"{arguments.name}: {checkpoints.path} holds the checkpoints of an earlier start; go "
            "on from them with --resume, or give another --run-directory"
        )
        raise RoleError(Reason.CHECKPOINT_INVALID, message, WRONG_CONFIGURATION)
    return None


def _tell_of_less_lag(policy: StalenessPolicy, version: int) -> None:
    """A checkpoint holds one version, so nothing older can act after a start at it."""
    lag = policy.exact_lag
    if lag and version > 0:
        log.info(
            "event=lag_begins_anew version=%d: the batches of versions %d to %d are all produced "
            "by version %d, 0 to %d versions late",
            version,
            version,
            version + lag,
            version,
            lag,
        )


def _patience(spec: AsyncRLJobSpec) -> float:
    """Seconds for the other roles to appear."""
    return STALL_TIMEOUTS_TO_START * spec.run_policy.stall_timeout_seconds


def _close_soon(client: LearnerClient, spec: AsyncRLJobSpec, health: LearnerHealth) -> None:
    """After a signal no call waits for long: the peer got it too, and the checkpoint must not."""
    share = 0.0 if health.trained is None else PEER_SHARE_OF_GRACE
    grace = float(spec.run_policy.termination_grace_period_seconds)
    timer = threading.Timer(share * grace, client.close)
    timer.daemon = True
    timer.start()


def _train(arguments: RoleArguments, loop: TrainingLoop) -> int:
    ending = loop.run()
    # The endpoint goes with the process; the last word stays.
    final = arguments.run_directory / "roles" / f"{arguments.name}.report.json"
    write_atomically(final, loop.report().encode())
    leave_last_word(
        {
            "role": arguments.role,
            "index": arguments.index,
            "outcome": None if ending is None else ending.outcome,
            "reason": None if ending is None else str(ending.reason),
            "message": None if ending is None else ending.message,
            "report": loop.snapshot.report().model_dump(
                mode="json", by_alias=True, exclude_none=True
            ),
        }
    )
    if ending is None:
        return TERMINATED
    log.info("event=ended outcome=%s reason=%s", ending.outcome, ending.reason)
    if ending.outcome == "Failed":
        raise RoleError(ending.reason, f"learner: {ending.message}", FAILED)
    return COMPLETE


if __name__ == "__main__":
    leave(run_role("learner", main))
