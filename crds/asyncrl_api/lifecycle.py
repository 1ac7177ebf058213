"""The course of a run: when it stops, what it saves, how it is measured and kept going."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from asyncrl_api.model import Model, option

DEFAULT_ENVIRONMENT_STEPS = 1_000_000


class Stopping(Model):
    """When the run is complete: at the first of the limits given.

    Where none is given, after 1,000,000 environment steps.
    """

    environment_steps: int | None = option(
        None,
        "Complete after this many trained steps, over all environments; 1000000 where no limit is "
        "given.",
        unit="environment steps",
        ge=1,
        le=10**15,
    )
    policy_versions: int | None = option(
        None,
        "Complete after this many policy versions.",
        unit="policy versions",
        ge=1,
        le=10**12,
    )
    target_return: float | None = option(
        None,
        "Complete once an evaluation's mean return reaches this; the mean return of training "
        "episodes where evaluation is off.",
        unit="undiscounted reward per episode",
        ge=-1e12,
        le=1e12,
    )
    wall_time_seconds: int | None = option(
        None, "Complete after this much time of training.", unit="seconds", ge=1, le=10**9
    )

    @model_validator(mode="before")
    @classmethod
    def _limit_an_unlimited_run(cls, data: Any) -> Any:
        if isinstance(data, dict) and all(value is None for value in data.values()):
            others = {key: None for key in data if key != "environment_steps"}
            return others | {"environmentSteps": DEFAULT_ENVIRONMENT_STEPS}
        return data


class Checkpoint(Model):
    """When the learner saves all that it needs to resume; also at the end and on SIGTERM."""

    interval_versions: int | None = option(
        200,
        "Save every so many policy versions; null for off.",
        unit="policy versions",
        ge=1,
        le=10**9,
        remedy="use null for off",
    )
    interval_seconds: int | None = option(
        None,
        "Save when this much time has passed since the last; null for off.",
        unit="seconds",
        ge=1,
        le=10**9,
        remedy="use null for off",
    )
    keep: int = option(3, "Newest checkpoints kept.", unit="checkpoints", ge=1, le=1000)


class Evaluation(Model):
    """How the policy is measured: greedy episodes of one fixed version, by the actors."""

    interval_versions: int | None = option(
        25,
        "Evaluate every so many policy versions; null for off.",
        unit="policy versions",
        ge=1,
        le=10**9,
        remedy="use null for off",
    )
    episodes: int = option(20, "Episodes of one evaluation.", unit="episodes", ge=1, le=100_000)


class RunPolicy(Model):
    """How a run is kept going and cleaned up."""

    suspend: bool = option(
        False, "Checkpoint and stop all roles; false again resumes from the checkpoint."
    )
    active_deadline_seconds: int | None = option(
        None, "Fail when the run has been active for this long.", unit="seconds", ge=1, le=10**9
    )
    stall_timeout_seconds: int = option(
        60,
        "A role without progress for this long counts as stalled and is restarted.",
        unit="seconds",
        ge=1,
        le=86_400,
    )
    termination_grace_period_seconds: int = option(
        30, "Time to checkpoint and drain after SIGTERM.", unit="seconds", ge=1, le=86_400
    )
    backoff_limit: int = option(
        6, "Restarts of one role after which the run fails.", unit="restarts", ge=0, le=10_000
    )
    ttl_seconds_after_finished: int | None = option(
        None,
        "Delete the job this long after it finished; null to keep it.",
        unit="seconds",
        ge=0,
        le=10**9,
    )
    clean_pod_policy: Literal["None", "Running", "All"] = option(
        "Running", "Pods deleted when the run has finished."
    )
