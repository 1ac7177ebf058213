"""When a run counts as unstable, and what is done then."""

from __future__ import annotations

from typing import ClassVar, Literal

from asyncrl_api.model import Model, Rule, option


class Ceiling(Model):
    """Thresholds of an observable of which more is worse."""

    watch: float
    degraded: float

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("watch",),
            cel="self.watch <= self.degraded",
            holds=lambda threshold: threshold.watch <= threshold.degraded,
            message="must not be greater than degraded; more is worse here",
        ),
    )


class Floor(Model):
    """Thresholds of an observable of which less is worse."""

    watch: float
    degraded: float

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("watch",),
            cel="self.watch >= self.degraded",
            holds=lambda threshold: threshold.watch >= threshold.degraded,
            message="must not be less than degraded; less is worse here",
        ),
    )


class KlThresholds(Ceiling):
    """Thresholds of the KL divergence."""

    watch: float = option(0.1, "Watch above this.", unit="nats", gt=0, le=100)
    degraded: float = option(0.2, "Degraded above this.", unit="nats", gt=0, le=100)


class LogRatioThresholds(Ceiling):
    """Thresholds of the largest absolute log importance ratio."""

    watch: float = option(1.5, "Watch above this.", unit="nats", gt=0, le=100)
    degraded: float = option(3.0, "Degraded above this.", unit="nats", gt=0, le=100)


class SampleSizeThresholds(Floor):
    """Thresholds of the effective sample size."""

    watch: float = option(0.7, "Watch below this.", unit="share of the batch", ge=0, le=1)
    degraded: float = option(0.3, "Degraded below this.", unit="share of the batch", ge=0, le=1)


class EntropyThresholds(Floor):
    """Thresholds of the policy's entropy."""

    watch: float = option(0.1, "Watch below this.", unit="share of the maximum", ge=0, le=1)
    degraded: float = option(0.02, "Degraded below this.", unit="share of the maximum", ge=0, le=1)


class GradientNormThresholds(Ceiling):
    """Thresholds of the gradient norm, against its own recent mean and deviation."""

    watch: float = option(4.0, "Watch above this.", unit="standard deviations", gt=0, le=1000)
    degraded: float = option(8.0, "Degraded above this.", unit="standard deviations", gt=0, le=1000)


class RelativeAlignmentThresholds(Ceiling):
    """Thresholds of the alignment relative to what identical parameters would show."""

    watch: float = option(0.85, "Watch above this.", unit="quotient of cosines", gt=0, le=10)
    degraded: float = option(1.0, "Degraded above this.", unit="quotient of cosines", gt=0, le=10)


class StabilityThresholds(Model):
    """Thresholds of each observable of an update."""

    kl: KlThresholds = option(
        KlThresholds, "Mean KL divergence of behaviour and current policy; more is worse."
    )
    max_log_ratio: LogRatioThresholds = option(
        LogRatioThresholds, "Largest absolute log importance ratio of a batch; more is worse."
    )
    effective_sample_size: SampleSizeThresholds = option(
        SampleSizeThresholds,
        "Effective sample size of the importance weights, as share of the batch; less is worse.",
    )
    entropy_fraction: EntropyThresholds = option(
        EntropyThresholds, "Policy entropy as share of the maximum; less is worse."
    )
    gradient_norm_z_score: GradientNormThresholds = option(
        GradientNormThresholds,
        "Gradient norm before clipping, in standard deviations from its recent mean; more is "
        "worse.",
    )
    relative_alignment: RelativeAlignmentThresholds = option(
        RelativeAlignmentThresholds,
        "Cosine relative to the one that the two halves of the batch predict for identical "
        "parameters; more is worse.",
    )


class Stability(Model):
    """The verdict on a run: Healthy, Watch, Degraded or Diverged, with hysteresis."""

    on_degraded: Literal["warn", "pace", "suspend", "fail"] = option(
        "warn",
        "What follows a Degraded verdict. warn: a condition only. pace: lower the effective "
        "staleness bound until it recovers. suspend: checkpoint and suspend. fail: checkpoint and "
        "fail.",
    )
    thresholds: StabilityThresholds = option(
        StabilityThresholds,
        "Thresholds per observable. Until the return has lost half of what it gained, KL, ratios, "
        "gradient norm and alignment count one level less.",
    )
    enter_updates: int = option(
        10,
        "A verdict is entered on this many calls for it within twice as many updates; Diverged "
        "takes three times as many.",
        unit="updates",
        ge=1,
        le=100_000,
    )
    leave_updates: int = option(
        30,
        "A verdict is left when this many updates hold fewer than half the calls that enter it.",
        unit="updates",
        ge=1,
        le=100_000,
    )
