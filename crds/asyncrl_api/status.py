"""What is known of a run: JobStatus for its users, LearnerReport from the learner.

Pure data. None means absent: not measured yet, or not measured at all; never 0.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
)
from pydantic.alias_generators import to_camel

from asyncrl_api.model import option

Phase = Literal["Pending", "Running", "Restarting", "Suspending", "Suspended", "Complete", "Failed"]
Regime = Literal["Pass", "Project", "Skip"]
Verdict = Literal["Healthy", "Watch", "Degraded", "Diverged"]
Outcome = Literal["Complete", "Failed", "Suspended"]
ConditionStatus = Literal["True", "False", "Unknown"]
ConditionType = Literal[
    "Accepted",
    "QuotaReserved",
    "Running",
    "Suspended",
    "Restarting",
    "AlignmentHealthy",
    "Stable",
    "Complete",
    "Failed",
]

SIGNIFICANT_DIGITS = 4
"""For people; metrics have more. Larger numbers lose their fraction only."""
MESSAGE_LENGTH = 200
LONG_MESSAGE_LENGTH = 360
"""Of what a person looks for when a run does not run; the whole status stays below 8 kB."""
LONG_CONDITIONS = ("Running", "Restarting", "Failed")
REASON_LENGTH = 128
REASONS = 8


def _finite_or_absent(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _significant(value: float | None) -> float | None:
    if value is None:
        return None
    large = abs(value) >= 10**SIGNIFICANT_DIGITS
    return float(round(value)) if large else float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Number = Annotated[float | None, BeforeValidator(_finite_or_absent), PlainSerializer(_significant)]
"""A measured number: non-finite counts as absent, written with four significant digits at least."""


def one_line(text: str, length: int) -> str:
    """The text with single spaces for white space, cut to a length."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def _one_line(length: int) -> BeforeValidator:
    def cut(value: object) -> object:
        return one_line(value, length) if isinstance(value, str) else value

    return BeforeValidator(cut)


def _one_line_of_condition(value: object, info: ValidationInfo) -> object:
    long = info.data.get("type") in LONG_CONDITIONS
    length = LONG_MESSAGE_LENGTH if long else MESSAGE_LENGTH
    return one_line(value, length) if isinstance(value, str) else value


def _first_lines(value: object) -> object:
    return value[:REASONS] if isinstance(value, list) else value


Message = Annotated[str, _one_line(MESSAGE_LENGTH), Field(max_length=MESSAGE_LENGTH)]
LongMessage = Annotated[str, _one_line(LONG_MESSAGE_LENGTH), Field(max_length=LONG_MESSAGE_LENGTH)]
ConditionMessage = Annotated[
    str, BeforeValidator(_one_line_of_condition), Field(max_length=LONG_MESSAGE_LENGTH)
]
ReasonText = Annotated[str, _one_line(REASON_LENGTH), Field(max_length=REASON_LENGTH)]
"""Text for people: white space becomes single spaces, and what is too long is cut, not refused."""

Time = Annotated[AwareDatetime, PlainSerializer(_rfc3339, when_used="json")]
"""A time with zone, written in UTC to the second, as Kubernetes does."""


class Section(BaseModel):
    """A part of the status. Unknown fields of a newer version are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


class Condition(Section):
    """A condition of the job, as in Kubernetes' metav1.Condition."""

    type: ConditionType = option(..., "What the condition is about.")
    status: ConditionStatus = option(..., "Whether it holds.")
    reason: str = option(
        ...,
        "Why, in one CamelCase word for programs.",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )
    message: ConditionMessage = option("", "Why, in one line for people.")
    last_transition_time: Time = option(..., "When status last changed.")
    observed_generation: int | None = option(None, "Generation of the spec that was seen.", ge=0)


class Failure(Section):
    """The newest unexpected end of a process."""

    process: str = option(..., "Role and index, as in learner-0.", max_length=64)
    pod: str | None = option(None, "Its pod.", max_length=253)
    exit_code: int | None = option(None, "Exit code of its container.")
    reason: str | None = option(None, "Why, in one CamelCase word.", max_length=64)
    message: ReasonText = option("", "Why, in one line.")
    node: ReasonText | None = option(None, "Its node, with what that complained of.")
    time: Time = option(..., "When it ended.")


class Counted(Section):
    """Counters of the processes that exist, as they were when their sums were updated."""

    restarts: int = option(0, "Restarts of containers.", unit="restarts", ge=0)
    losses: int = option(0, "Lost pods.", unit="pods", ge=0)


class RoleStatus(Section):
    """The processes of one role."""

    name: Literal["actors", "learner", "parameterServer"] = option(..., "The role.")
    desired: int = option(0, "Processes asked for.", unit="processes", ge=0)
    ready: int = option(0, "Processes ready.", unit="processes", ge=0)
    restarts: int = option(0, "Restarts after failures.", unit="restarts", ge=0)
    disruptions: int = option(
        0, "Restarts after disruptions from outside, such as evictions.", unit="restarts", ge=0
    )
    failures: int = option(
        0, "Failures in a row; ten minutes without one clear them.", unit="failures", ge=0
    )
    failed_at: Time | None = option(None, "When the newest of them happened.")
    losses: int = option(
        0,
        "Attempts of the learner lost in a row, each of which the next one waits longer for; ten "
        "minutes without one clear them.",
        unit="attempts",
        ge=0,
    )
    lost_at: Time | None = option(None, "When the newest of them was lost.")
    counted: Counted = option(
        Counted, "What restarts and disruptions already contain of the processes that exist."
    )


class ActorsStatus(Section):
    """The actors, for the scale subresource."""

    replicas: int = option(0, "Actors that exist.", unit="processes", ge=0)
    selector: str | None = option(None, "Label selector of the actors' pods.", max_length=512)


class TrainingStatus(Section):
    """How far the run is and how well it does."""

    policy_version: int | None = option(None, "Newest policy version.", unit="versions", ge=0)
    environment_steps: int | None = option(
        None, "Steps trained, over all environments.", unit="environment steps", ge=0
    )
    episode_return: Number = option(
        None,
        "Mean return of the newest training episodes.",
        unit="undiscounted reward per episode",
    )
    evaluation_return: Number = option(
        None, "Mean return of the newest evaluation.", unit="undiscounted reward per episode"
    )
    throughput: Number = option(
        None, "Steps trained per second, recently.", unit="environment steps per second"
    )
    progress: Number = option(
        None, "Share of the run that is done, by its nearest limit.", unit="0 to 1"
    )


class AlignmentStatus(Section):
    """Alignment of consecutive policy gradients."""

    cosine: Number = option(None, "Cosine of the newest two policy gradients.", unit="cosine")
    smoothed: Number = option(None, "Exponential moving average of it.", unit="cosine")
    relative: Number = option(
        None,
        "Cosine relative to the one that the halves of a batch predict for identical parameters.",
        unit="quotient of cosines",
    )
    regime: Regime | None = option(None, "What was done with the newest update.")
    low: Number = option(None, "Cosine up to which an update passes.", unit="cosine")
    high: Number = option(None, "Cosine above which an update is skipped.", unit="cosine")
    calibrated: bool | None = option(None, "Whether low and high come from calibration.")
    projected_fraction: Number = option(None, "Updates projected.", unit="share of updates")
    skipped_fraction: Number = option(None, "Updates skipped.", unit="share of updates")


class StabilityStatus(Section):
    """The verdict on the run, and the observables it rests on."""

    verdict: Verdict | None = option(None, "The verdict.")
    reasons: Annotated[list[ReasonText], BeforeValidator(_first_lines)] = option(
        list, "What the verdict rests on, one line each; the first of them.", max_length=REASONS
    )
    kl: Number = option(None, "Mean KL divergence of behaviour and current policy.", unit="nats")
    max_log_ratio: Number = option(None, "Largest absolute log importance ratio.", unit="nats")
    effective_sample_size: Number = option(
        None, "Effective sample size.", unit="share of the batch"
    )
    clipped_fraction: Number = option(None, "Samples beyond the clip.", unit="share of the batch")
    entropy: Number = option(None, "Entropy of the policy.", unit="nats")
    gradient_norm: Number = option(None, "Norm of the policy gradient before clipping.")
    value_loss: Number = option(None, "Loss of the value network.")


class StalenessStatus(Section):
    """Staleness of the newest batches."""

    mean: Number = option(None, "Mean.", unit="policy versions")
    p50: Number = option(None, "Median.", unit="policy versions")
    p95: Number = option(None, "95th percentile.", unit="policy versions")
    max: int | None = option(None, "Largest.", unit="policy versions", ge=0)
    bound: int | None = option(None, "Bound in effect.", unit="policy versions", ge=0)


class LedgerStatus(Section):
    """Fragments: produced = trained + dropped + queued + in flight, at every moment."""

    produced: int = option(0, "Admitted.", unit="fragments", ge=0)
    trained: int = option(0, "Trained on.", unit="fragments", ge=0)
    dropped: dict[str, int] = option(dict, "Dropped, by reason.", unit="fragments", max_length=16)
    queued: int = option(0, "Received, not yet consumed.", unit="fragments", ge=0)
    in_flight: int = option(0, "Admitted, not yet received.", unit="fragments", ge=0)

    @property
    def balanced(self) -> bool:
        """Whether the invariant of the ledger holds."""
        known = self.trained + sum(self.dropped.values()) + self.queued + self.in_flight
        return self.produced == known


class CheckpointStatus(Section):
    """The newest checkpoint."""

    version: int | None = option(None, "Its policy version.", unit="versions", ge=0)
    path: str | None = option(None, "Its folder.", max_length=4096)
    time: Time | None = option(None, "When it was complete.")


class JobStatus(Section):
    """The status of an AsyncRLJob, on a cluster and in status.json."""

    phase: Phase = option("Pending", "The run in one word.")
    reason: str | None = option(None, "Why it is in this phase, for programs.", max_length=64)
    message: LongMessage | None = option(None, "Why it is in this phase, in one line.")
    conditions: list[Condition] = option(
        list, "Conditions, by type.", max_length=16, list_key="type"
    )
    observed_generation: int | None = option(None, "Generation of the spec seen.", ge=0)
    attempt: int = option(
        0, "Attempt of the learner, 0 for the first; older ones are refused.", ge=0
    )
    restarts: int = option(0, "Restarts of all roles.", unit="restarts", ge=0)
    start_time: Time | None = option(None, "When the run started.")
    report_time: Time | None = option(None, "When the learner made the newest report.")
    progress_time: Time | None = option(
        None, "When a report first showed the present counters; not used on one machine."
    )
    completion_time: Time | None = option(None, "When the run ended.")
    last_failure: Failure | None = option(None, "The newest unexpected end of a process.")
    roles: list[RoleStatus] = option(list, "The roles, by name.", max_length=8, list_key="name")
    actors: ActorsStatus | None = option(None, "The actors, for the scale subresource.")
    training: TrainingStatus | None = option(None, "How far and how well.")
    alignment: AlignmentStatus | None = option(None, "Alignment of policy gradients.")
    stability: StabilityStatus | None = option(None, "The verdict on the run.")
    staleness: StalenessStatus | None = option(None, "Staleness of the newest batches.")
    ledger: LedgerStatus | None = option(None, "Where the fragments are.")
    checkpoint: CheckpointStatus | None = option(None, "The newest checkpoint.")


class LearnerReport(Section):
    """One coherent snapshot of the learner: all numbers are of the same update."""

    time: Time = option(..., "When the snapshot was taken.")
    attempt: int = option(0, "Restarts of the learner before this process.", ge=0)
    update: int = option(0, "Updates so far, skipped ones too.", unit="updates", ge=0)
    training: TrainingStatus = option(TrainingStatus, "How far and how well.")
    alignment: AlignmentStatus = option(AlignmentStatus, "Alignment of policy gradients.")
    stability: StabilityStatus = option(StabilityStatus, "The verdict on the run.")
    staleness: StalenessStatus = option(StalenessStatus, "Staleness of the newest batches.")
    ledger: LedgerStatus = option(LedgerStatus, "Where the fragments are.")
    checkpoint: CheckpointStatus = option(CheckpointStatus, "The newest checkpoint.")
    outcome: Outcome | None = option(None, "How the learner ended; None while it runs.")
    reason: str | None = option(None, "Why it ended, for programs.", max_length=64)
    message: Message | None = option(None, "Why it ended, in one line.")
