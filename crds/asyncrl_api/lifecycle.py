"""The course of a run: when it stops, what it saves, how it is measured and kept going."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from asyncrl_api.model import Model, Rule, option
from asyncrl_api.quantity import Quantity

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


class ClaimTemplate(Model):
    """A volume claim that is made for the job, and deleted with it."""

    size: Quantity = option(
        "1Gi",
        "Size of the volume. It may grow while the job exists, where the storage class allows it.",
    )
    storage_class_name: str | None = option(
        None, "Storage class; null for the cluster's default.", min_length=1, max_length=253
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"] = option(
        "ReadWriteOnce", "Who may mount it; ReadWriteMany for several learner ranks."
    )


class CheckpointVolume(Model):
    """Where checkpoints are kept on a cluster: exactly one kind."""

    claim: ClaimTemplate | None = option(None, "A claim made for the job.")
    existing_claim: str | None = option(
        None,
        "Name of a PersistentVolumeClaim. The job keeps its files in a folder of its own, "
        "NAME-UID; they outlive the job.",
        min_length=1,
        max_length=253,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=(),
            cel="has(self.claim) != has(self.existingClaim)",
            holds=lambda volume: (volume.claim is None) != (volume.existing_claim is None),
            message="must have exactly one kind of volume; give claim: {} or existingClaim: NAME",
        ),
    )


class Checkpoint(Model):
    """When the learner saves all that it needs to resume; also at the end and on SIGTERM."""

    interval_versions: int | None = option(
        200,
        "Save every so many policy versions; null for off. With exact staleness (max 0 or inject) "
        "each save restarts the episodes.",
        unit="policy versions",
        ge=1,
        le=10**9,
        remedy="use null for off",
    )
    interval_seconds: int | None = option(
        None,
        "Save when this much time has passed since the last; null for off. With exact staleness "
        "(max 0 or inject) a run depends on the clock then, as each save restarts the episodes.",
        unit="seconds",
        ge=1,
        le=10**9,
        remedy="use null for off",
    )
    keep: int = option(3, "Newest checkpoints kept.", unit="checkpoints", ge=1, le=1000)
    volume: CheckpointVolume | None = option(
        None,
        "Where checkpoints outlive the learner's pod; null for a folder of the pod, which outlives "
        "its process only. Not used on one machine.",
    )


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
    episodes: int = option(
        20,
        "Episodes of one evaluation; after half of runPolicy.stallTimeoutSeconds it is given up.",
        unit="episodes",
        ge=1,
        le=100_000,
    )


class RunPolicy(Model):
    """How a run is kept going and cleaned up."""

    suspend: bool = option(
        False, "Checkpoint and stop all roles; false again resumes from the checkpoint."
    )
    active_deadline_seconds: int | None = option(
        None,
        "Fail when the run has been active for this long; a resume begins anew.",
        unit="seconds",
        ge=1,
        le=10**9,
    )
    pre_running_deadline_seconds: int | None = option(
        None,
        "Fail when the roles have not come to run within this long. Not used on one machine.",
        unit="seconds",
        ge=1,
        le=10**9,
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
    disruption_limit: int | None = option(
        None,
        "Losses of the learner, or of the parameter server, from outside, such as evictions and "
        "lost nodes, over the whole run, after which it fails; null for no limit. Those of actors "
        "do not count. Not used on one machine.",
        unit="disruptions",
        ge=0,
        le=10**6,
    )
    ttl_seconds_after_finished: int | None = option(
        None,
        "Delete the job this long after it finished; null to keep it. Not used on one machine.",
        unit="seconds",
        ge=0,
        le=10**9,
    )
    clean_pod_policy: Literal["None", "Running", "All"] = option(
        "Running", "Pods deleted when the run has finished. Not used on one machine."
    )
