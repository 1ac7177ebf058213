"""A status with everything in it."""

from datetime import UTC, datetime
from typing import get_args

import pytest

from asyncrl_api.status import (
    ActorsStatus,
    AlignmentStatus,
    CheckpointStatus,
    Condition,
    ConditionType,
    Counted,
    Failure,
    JobStatus,
    LedgerStatus,
    RoleStatus,
    StabilityStatus,
    StalenessStatus,
    TrainingStatus,
)

LONGEST = 10**12
NUMBER = -1.2345678901234e-05
LINE = "x" * 1000
TIME = datetime(2026, 1, 31, 12, 30, 59, 123456, tzinfo=UTC)


@pytest.fixture
def full_status() -> JobStatus:
    """Every field is given, and as long as it can be in a run that failed.

    Such a run is not complete, and does not restart.
    """
    return JobStatus(
        phase="Restarting",
        reason="R" * 64,
        message=LINE,
        conditions=[
            Condition(
                type=kind,
                status="Unknown",
                reason="R" * 64,
                message="" if kind == "Restarting" else LINE,
                last_transition_time=TIME,
                observed_generation=LONGEST,
            )
            for kind in get_args(ConditionType)
            if kind != "Complete"
        ],
        observed_generation=LONGEST,
        attempt=1000,
        restarts=1000,
        start_time=TIME,
        report_time=TIME,
        progress_time=TIME,
        completion_time=TIME,
        roles=[
            RoleStatus(
                name=name,
                desired=4096,
                ready=4096,
                restarts=1000,
                disruptions=1000,
                failures=1000,
                failed_at=TIME,
                losses=1000,
                lost_at=TIME,
                counted=Counted(restarts=1000, losses=1000),
            )
            for name in ("actors", "learner", "parameterServer")
        ],
        last_failure=Failure(
            process="parameter-server-0",
            pod="p" * 63,
            exit_code=137,
            reason="R" * 64,
            message=LINE,
            node=LINE,
            time=TIME,
        ),
        actors=ActorsStatus(replicas=4096, selector="s" * 200),
        training=TrainingStatus(
            policy_version=LONGEST,
            environment_steps=LONGEST,
            episode_return=NUMBER,
            evaluation_return=NUMBER,
            throughput=NUMBER,
            progress=NUMBER,
        ),
        alignment=AlignmentStatus(
            cosine=NUMBER,
            smoothed=NUMBER,
            relative=NUMBER,
            regime="Project",
            low=NUMBER,
            high=NUMBER,
            calibrated=False,
            projected_fraction=NUMBER,
            skipped_fraction=NUMBER,
        ),
        stability=StabilityStatus(
            verdict="Degraded",
            reasons=[LINE] * 20,
            kl=NUMBER,
            max_log_ratio=NUMBER,
            effective_sample_size=NUMBER,
            clipped_fraction=NUMBER,
            entropy=NUMBER,
            gradient_norm=NUMBER,
            value_loss=NUMBER,
        ),
        staleness=StalenessStatus(mean=NUMBER, p50=NUMBER, p95=NUMBER, max=1024, bound=1024),
        ledger=LedgerStatus(
            produced=LONGEST,
            trained=LONGEST,
            dropped={f"a_reason_to_drop_{i}": LONGEST for i in range(12)},
            queued=LONGEST,
            in_flight=LONGEST,
        ),
        checkpoint=CheckpointStatus(version=LONGEST, path="/" + "p" * 254, time=TIME),
    )
