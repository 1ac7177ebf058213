"""The learner's process: `python -m asyncrl_worker.learner.main`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

import torch
from safetensors.torch import save

from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_api.spec import StabilityThresholds as ThresholdsSpec
from asyncrl_worker.admission import staleness_policy
from asyncrl_worker.endpoint import Endpoint
from asyncrl_worker.environments.factory import describe
from asyncrl_worker.environments.spaces import EnvironmentDescription
from asyncrl_worker.fault import (
    COMPLETE,
    FAILED,
    TERMINATED,
    WRONG_CONFIGURATION,
    RoleError,
)
from asyncrl_worker.learner.checkpoint import CheckpointFolder
from asyncrl_worker.learner.exchange import (
    Exchange,
    LockstepExchange,
    OverlappedExchange,
)
from asyncrl_worker.learner.fellows import Fellows, Follower
from asyncrl_worker.learner.loop import TrainingLoop
from asyncrl_worker.learner.memory import RunMemory
from asyncrl_worker.learner.metrics import LearnerMetrics
from asyncrl_worker.learner.progress import Progress
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.protocol.learner_client import LearnerClient
from asyncrl_worker.role import RoleArguments, Stop, pin_threads, run_role, write_atomically
from asyncrl_worker.stability import (
    Response,
    StabilityJudge,
    StabilityThresholds,
    Threshold,
)
from asyncrl_worker.staleness import StalenessViolation
from asyncrl_worker.telemetry import Telemetry

log = logging.getLogger("asyncrl")


def main(arguments: RoleArguments, stop: Stop) -> int:
    """Rank 0 trains and talks; the other ranks follow it."""
    torch.set_num_threads(pin_threads())
    spec = arguments.job.spec
    description = describe(spec.workload)
    layout = PolicyLayout.from_spec(description, spec.network)
    ranks = Ranks.from_environment(deadline=2.0 * spec.run_policy.stall_timeout_seconds)
    step = LearnerStep(spec, layout, ranks)
    policy = staleness_policy(spec)
    response = Response(spec.stability.on_degraded, staleness_max=policy.bound)
    judge = StabilityJudge(stability_thresholds(spec.stability.thresholds, spec))
    memory = RunMemory(step, Progress(spec.stopping, time.monotonic), judge, response)
    checkpoints = CheckpointFolder(
        arguments.run_directory / "checkpoints", keep=spec.checkpoint.keep
    )
    ledger = None
    if arguments.resume or arguments.attempt > 0:
        ledger = memory.load(checkpoints)
        log.info("event=resumed version=%d found=%s", step.version, ledger is not None)
    if not ranks.agrees(step.updates):
        message = (
            f"{arguments.name}: resumed at update {step.updates}, not where rank 0 is; give every "
            "rank the same run directory"
        )
        raise RoleError(Reason.CHECKPOINT_INVALID, message, WRONG_CONFIGURATION)
    metrics = LearnerMetrics()
    if ranks.rank > 0:
        return _follow(arguments, step, ranks, description, metrics, stop)
    log.info("event=staleness %s", policy.explain())
    client = LearnerClient(
        arguments.address,
        tls=arguments.tls,
        attempt=arguments.attempt,
        schema=description.schema,
        version=step.version,
        ledger=ledger,
        deadline=float(spec.run_policy.stall_timeout_seconds),
    )
    with client, Telemetry(arguments.run_directory) as telemetry:
        exact = policy.exact_lag is not None
        # A resumed run restarts its episodes where the uninterrupted one did: at the checkpoint.
        client.publish(
            step.version, save(step.weights()), reset_environments=exact and step.version > 0
        )
        if response.staleness_bound < policy.bound:
            client.pace(response.staleness_bound)
        exchange: Exchange = LockstepExchange(client) if exact else OverlappedExchange(client)
        loop = TrainingLoop(
            spec,
            description,
            step=step,
            memory=memory,
            client=client,
            exchange=exchange,
            fellows=Fellows(ranks),
            judge=judge,
            response=response,
            policy=policy,
            checkpoints=checkpoints,
            telemetry=telemetry,
            metrics=metrics,
            stop=stop,
            attempt=arguments.attempt,
        )
        try:
            return _serve(arguments, loop, metrics)
        except StalenessViolation as error:
            raise RoleError("StalenessViolated", f"learner: {error}", FAILED) from error
        finally:
            client.close()
            exchange.close()
            ranks.close()


def _health(arguments: RoleArguments, trained: TrainingLoop | Follower) -> Callable[[], str | None]:
    timeout = arguments.job.spec.run_policy.stall_timeout_seconds

    def health() -> str | None:
        idle = time.monotonic() - trained.progressed_at
        return None if idle < timeout else f"no update for {idle:.0f} s, more than {timeout} s"

    return health


def _follow(
    arguments: RoleArguments,
    step: LearnerStep,
    ranks: Ranks,
    description: EnvironmentDescription,
    metrics: LearnerMetrics,
    stop: Stop,
) -> int:
    """A rank other than 0; a wish to stop reaches it through rank 0, which checkpoints first."""
    follower = Follower(
        step, ranks, length=arguments.job.spec.algorithm.fragment_length, description=description
    )
    with Endpoint(
        arguments,
        registry=metrics.registry,
        health=_health(arguments, follower),
        ready=lambda: True,
    ):
        follower.run()
        ranks.close()
    return TERMINATED if stop.requested else COMPLETE


def _serve(arguments: RoleArguments, loop: TrainingLoop, metrics: LearnerMetrics) -> int:
    def report() -> str:
        return loop.snapshot.report().model_dump_json(by_alias=True)

    with Endpoint(
        arguments,
        registry=metrics.registry,
        health=_health(arguments, loop),
        ready=lambda: True,
        report=report,
    ):
        ending = loop.run()
        # The endpoint goes with the process; the last word stays.
        final = arguments.run_directory / "roles" / f"{arguments.name}.report.json"
        write_atomically(final, report().encode())
    if ending is None:
        return TERMINATED
    log.info("event=ended outcome=%s reason=%s", ending.outcome, ending.reason)
    if ending.outcome == "Failed":
        raise RoleError(ending.reason, f"learner: {ending.message}", FAILED)
    return COMPLETE


def stability_thresholds(thresholds: ThresholdsSpec, spec: AsyncRLJobSpec) -> StabilityThresholds:
    """The manifest's `stability.thresholds` for the judge, which knows nothing of manifests."""
    return StabilityThresholds(
        kl=Threshold(thresholds.kl.watch, thresholds.kl.degraded),
        max_log_ratio=Threshold(thresholds.max_log_ratio.watch, thresholds.max_log_ratio.degraded),
        effective_sample_size=Threshold(
            thresholds.effective_sample_size.watch, thresholds.effective_sample_size.degraded
        ),
        entropy_fraction=Threshold(
            thresholds.entropy_fraction.watch, thresholds.entropy_fraction.degraded
        ),
        gradient_norm_z_score=Threshold(
            thresholds.gradient_norm_z_score.watch, thresholds.gradient_norm_z_score.degraded
        ),
        relative_alignment=Threshold(
            thresholds.relative_alignment.watch, thresholds.relative_alignment.degraded
        ),
        enter_updates=spec.stability.enter_updates,
        leave_updates=spec.stability.leave_updates,
    )


if __name__ == "__main__":
    sys.exit(run_role("learner", main))
