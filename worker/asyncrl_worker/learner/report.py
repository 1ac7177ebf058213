"""The learner's report: one coherent snapshot, all numbers of the same update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from asyncrl_api.status import (
    AlignmentStatus,
    CheckpointStatus,
    LearnerReport,
    LedgerStatus,
    Outcome,
    StabilityStatus,
    StalenessStatus,
    TrainingStatus,
)
from asyncrl_worker.learner.progress import EvaluationScore, Progress
from asyncrl_worker.learner.step import UpdateResult
from asyncrl_worker.stability import Judgement, Observables
from asyncrl_worker.staleness import Ledger


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Ending:
    """How a run ended, in the words of its status."""

    outcome: Outcome
    reason: str
    message: str


@dataclass
class AlignmentCounts:
    """Updates by what alignment control did with them."""

    updates: int = 0
    projected: int = 0
    skipped: int = 0

    def observe(self, result: UpdateResult) -> None:
        """Count one update; what was only observed was not done."""
        self.updates += 1
        self.projected += result.outcome == "trained" and result.alignment.scale != 1.0
        self.skipped += result.outcome == "skipped"


@dataclass(frozen=True)
class Snapshot:
    """Where a run stands after an update; immutable, so that another thread may show it."""

    attempt: int = 0
    update: int = 0
    time: datetime = field(default_factory=now)
    training: TrainingStatus = field(default_factory=TrainingStatus)
    alignment: AlignmentStatus = field(default_factory=AlignmentStatus)
    stability: StabilityStatus = field(default_factory=StabilityStatus)
    staleness: StalenessStatus = field(default_factory=StalenessStatus)
    ledger: LedgerStatus = field(default_factory=LedgerStatus)
    checkpoint: CheckpointStatus = field(default_factory=CheckpointStatus)
    ending: Ending | None = None

    def ended(self, ending: Ending, ledger: LedgerStatus) -> Snapshot:
        """The same numbers with the outcome and the final ledger; a complete run is all done."""
        training = self.training
        if ending.outcome == "Complete":
            training = training.model_copy(update={"progress": 1.0})
        return replace(self, ending=ending, training=training, ledger=ledger, time=now())

    def updated(
        self,
        *,
        training: TrainingStatus | None = None,
        checkpoint: CheckpointStatus | None = None,
    ) -> Snapshot:
        """The same update with newer counters or a newer checkpoint."""
        return replace(
            self,
            time=now(),
            training=training or self.training,
            checkpoint=checkpoint or self.checkpoint,
        )

    def report(self) -> LearnerReport:
        """As the API publishes it."""
        ending = self.ending
        return LearnerReport(
            time=self.time,
            attempt=self.attempt,
            update=self.update,
            training=self.training,
            alignment=self.alignment,
            stability=self.stability,
            staleness=self.staleness,
            ledger=self.ledger,
            checkpoint=self.checkpoint,
            outcome=None if ending is None else ending.outcome,
            reason=None if ending is None else ending.reason,
            message=None if ending is None else ending.message,
        )


def training_status(progress: Progress) -> TrainingStatus:
    """The counters and returns."""
    score = progress.evaluation
    return TrainingStatus(
        policy_version=progress.policy_version,
        environment_steps=progress.environment_steps,
        episode_return=progress.episode_return,
        evaluation_return=None if score is None else score.mean_return,
        throughput=progress.throughput,
        progress=progress.fraction,
    )


def alignment_status(result: UpdateResult, counts: AlignmentCounts) -> AlignmentStatus:
    """The newest cosine, the thresholds, and what was done so far; all absent in mode off."""
    decision = result.alignment
    if decision.reason == "off":
        return AlignmentStatus()
    compared = decision.cosine is not None
    return AlignmentStatus(
        cosine=decision.cosine,
        smoothed=decision.smoothed,
        relative=result.relative_alignment,
        regime=decision.regime.value if compared else None,
        low=decision.low,
        high=decision.high,
        calibrated=decision.calibrated,
        projected_fraction=counts.projected / counts.updates if counts.updates else None,
        skipped_fraction=counts.skipped / counts.updates if counts.updates else None,
    )


def stability_status(result: UpdateResult, judgement: Judgement) -> StabilityStatus:
    """The verdict and what it rests on."""
    importance = result.importance
    return StabilityStatus(
        verdict=judgement.verdict.value,
        reasons=list(judgement.reasons),
        kl=importance.kl,
        max_log_ratio=importance.max_log_ratio,
        effective_sample_size=importance.effective_sample_size,
        clipped_fraction=importance.clipped_fraction,
        entropy=importance.entropy,
        gradient_norm=result.gradient_norm,
        value_loss=result.value_loss,
    )


def staleness_status(result: UpdateResult, bound: int) -> StalenessStatus:
    """Of the newest batch."""
    measured = result.staleness
    return StalenessStatus(
        mean=measured.mean,
        p50=measured.p50,
        p95=measured.p95,
        max=round(measured.max),
        bound=bound,
    )


def ledger_status(ledger: Ledger) -> LedgerStatus:
    """The parameter server's ledger as of the newest reply."""
    return LedgerStatus(
        produced=ledger.produced,
        trained=ledger.trained,
        dropped=dict(ledger.dropped),
        queued=ledger.queued,
        in_flight=ledger.in_flight,
    )


def observables(update: int, result: UpdateResult, episode_return: float | None) -> Observables:
    """What the stability judge looks at."""
    decision, importance = result.alignment, result.importance
    return Observables(
        update=update,
        cosine=decision.cosine,
        smoothed_cosine=decision.smoothed,
        relative_alignment=result.relative_alignment,
        kl=importance.kl,
        max_log_ratio=importance.max_log_ratio,
        effective_sample_size=importance.effective_sample_size,
        clipped_fraction=importance.clipped_fraction,
        entropy=importance.entropy,
        entropy_fraction=result.entropy_fraction,
        gradient_norm=result.gradient_norm,
        value_loss=result.value_loss,
        staleness_mean=result.staleness.mean,
        episode_return=episode_return,
        policy_loss=result.policy_loss,
    )


def telemetry_row(
    snapshot: Snapshot,
    result: UpdateResult,
    judgement: Judgement,
    *,
    elapsed: float,
    score: EvaluationScore | None,
) -> dict[str, float | int | str | Sequence[str] | None]:
    """One line of metrics.jsonl; its columns are asyncrl_worker.telemetry's."""
    training, alignment, stability = snapshot.training, snapshot.alignment, snapshot.stability
    ledger = snapshot.ledger
    return {
        "time": elapsed,
        "update": snapshot.update,
        "policyVersion": training.policy_version,
        "environmentSteps": training.environment_steps,
        "episodeReturn": training.episode_return,
        "evaluationReturn": training.evaluation_return,
        "evaluationVersion": None if score is None else score.version,
        "throughput": training.throughput,
        "cosine": alignment.cosine,
        "smoothed": alignment.smoothed,
        "relative": alignment.relative,
        "regime": alignment.regime,
        "low": alignment.low,
        "high": alignment.high,
        "scale": result.alignment.scale,
        "gradientNorm": result.gradient_norm,
        "kl": stability.kl,
        "maxLogRatio": stability.max_log_ratio,
        "effectiveSampleSize": stability.effective_sample_size,
        "clippedFraction": stability.clipped_fraction,
        "entropy": stability.entropy,
        "entropyFraction": result.entropy_fraction,
        "policyLoss": result.policy_loss,
        "valueLoss": result.value_loss,
        "stalenessMean": result.staleness.mean,
        "stalenessMax": result.staleness.max,
        "stalenessBound": snapshot.staleness.bound,
        "verdict": stability.verdict,
        "score": judgement.score,
        "reasons": stability.reasons,
        "learningRate": result.learning_rate,
        "momentum": result.momentum,
        "klCoefficient": result.kl_coefficient,
        "queued": ledger.queued,
        "inFlight": ledger.in_flight,
        "dropped": sum(ledger.dropped.values()),
    }
