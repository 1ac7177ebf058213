"""The stability judge: from the observables of every update to one verdict with reasons.

Pure and torch-free: numbers in, a verdict out, no clock and no I/O, so a recorded run gives the
same verdicts as the run itself.

Every observable is put on one scale, its severity: 0 quiet, 1 at its watch threshold, 2 at its
degraded threshold, 3 an order of magnitude beyond. Observables that see the same thing form one
kind of evidence (the largest ratio and the effective sample size both see the tail of the
importance weights). With `a` the severity of the strongest kind and `b` of the second strongest,

    score = min(a, 1 + b)

so one kind alone can call for Watch and never for more: on recorded collapses no single observable
separated them from healthy runs, two together did. Alignment is only a witness: its severity ends
at 2, and without the ratios, entropy or return it calls for Watch at most.

A score of 1, 2, 3 calls for Watch, Degraded, Diverged. A verdict is entered after `enter_updates`
calls within twice as many updates (Diverged takes three times as many) and left when the last
`leave_updates` updates hold fewer than half as many. Non-finite parameters are Diverged at once,
for good. So are non-finite losses that keep coming; a single one is not, as its step is dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

__all__ = [
    "Action",
    "Judgement",
    "Observables",
    "OnDegraded",
    "Response",
    "StabilityJudge",
    "StabilityThresholds",
    "Threshold",
    "Verdict",
]


class Verdict(StrEnum):
    """State of the run, in rising order of trouble (`rank` 0..3)."""

    HEALTHY = "Healthy"
    WATCH = "Watch"
    DEGRADED = "Degraded"
    DIVERGED = "Diverged"

    @property
    def rank(self) -> int:
        return _ORDER.index(self)


_ORDER = (Verdict.HEALTHY, Verdict.WATCH, Verdict.DEGRADED, Verdict.DIVERGED)


@dataclass(frozen=True, slots=True)
class Observables:
    """What one learner update showed; None where it was not measured (never 0 for absent).

    update: count of consumed batches, rising.
    cosine, smoothed_cosine: of consecutive policy gradients, -1..1, raw and its moving average.
    relative_alignment: cosine over what the two halves of the batch predict for identical
        parameters, 2 c_split / (1 + c_split).
    kl: mean KL divergence from the behaviour policy to the trained one, nats.
    max_log_ratio: largest absolute log importance ratio of the batch.
    effective_sample_size: (sum r)^2 / (n sum r^2), 0..1.
    clipped_fraction: share of samples outside the clip, 0..1. Shown, not judged: with a clip a
        high share is the protection at work.
    entropy: policy entropy, nats. entropy_fraction: of the largest possible, 0..1; None for
        continuous actions, whose entropy has no natural zero.
    gradient_norm: policy gradient before clipping. value_loss, policy_loss: judged for finiteness.
    staleness_mean: versions. episode_return: mean of the recent training episodes.
    parameters_finite: False as soon as a parameter is not.
    """

    update: int
    cosine: float | None = None
    smoothed_cosine: float | None = None
    relative_alignment: float | None = None
    kl: float | None = None
    max_log_ratio: float | None = None
    effective_sample_size: float | None = None
    clipped_fraction: float | None = None
    entropy: float | None = None
    entropy_fraction: float | None = None
    gradient_norm: float | None = None
    value_loss: float | None = None
    staleness_mean: float | None = None
    episode_return: float | None = None
    policy_loss: float | None = None
    parameters_finite: bool | None = None


@dataclass(frozen=True, slots=True)
class Threshold:
    """Severity 1 at `watch`, 2 at `degraded`; where less is worse, watch is the larger one."""

    watch: float
    degraded: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.watch < math.inf and 0.0 <= self.degraded < math.inf):
            raise ValueError(f"{self}: thresholds must be finite and not negative")


@dataclass(frozen=True, slots=True)
class StabilityThresholds:
    """Names as in `spec.stability`; units as in Observables, the z-score in standard deviations.

    return_drop: the share of the return once gained that is lost again. It has no spec field.
    """

    kl: Threshold = Threshold(0.05, 0.1)
    max_log_ratio: Threshold = Threshold(1.5, 3.0)
    effective_sample_size: Threshold = Threshold(0.7, 0.3)
    entropy_fraction: Threshold = Threshold(0.1, 0.02)
    gradient_norm_z_score: Threshold = Threshold(4.0, 8.0)
    relative_alignment: Threshold = Threshold(0.85, 1.0)
    enter_updates: int = 10
    leave_updates: int = 30
    return_drop: Threshold = Threshold(0.5, 0.8)

    def __post_init__(self) -> None:
        for name in ("enter_updates", "leave_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is less than 1; use 1 or more")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict after one update.

    reasons: CamelCase, strongest first, of the latest update that called for this verdict.
    since_update: the update at which this verdict was entered.
    score: this update alone, 0..3, before hysteresis.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    since_update: int
    score: float


def _severity(value: float, threshold: Threshold, beyond: float) -> float:
    """Where more is worse: 0 at 0, then 1, 2, 3 at watch, degraded, beyond; linear between."""
    watch, degraded = threshold.watch, threshold.degraded
    if math.isnan(value):
        return 3.0
    if value < watch:
        return max(0.0, value / watch)
    if value < degraded:
        return 1.0 + (value - watch) / (degraded - watch)
    if beyond <= degraded:
        return 2.0
    return min(3.0, 2.0 + (value - degraded) / (beyond - degraded))


def _scarcity(share: float, threshold: Threshold) -> float:
    """Severity where less of a 0..1 share is worse; 3 at a tenth of degraded."""
    missing = Threshold(max(0.0, 1.0 - threshold.watch), max(0.0, 1.0 - threshold.degraded))
    return _severity(1.0 - share, missing, 1.0 - threshold.degraded / 10.0)


class _Latch:
    """Entered after `enter` calls within twice as many updates; left when the last `leave` updates
    hold fewer than half as many calls. A stray call neither raises nor prolongs it."""

    def __init__(self, enter: int, leave: int) -> None:
        self.enter = enter
        # Never shorter than the window of entry, or it would be re-entered as it is left.
        self.leave = max(leave, 2 * enter)
        self.calls: deque[bool] = deque(maxlen=self.leave)
        self.updates_held = 0
        self.held = False

    def step(self, call: bool) -> bool:
        self.calls.append(call)
        if not self.held:
            self.held = sum(list(self.calls)[-2 * self.enter :]) >= self.enter
            self.updates_held = 0
            return self.held
        self.updates_held += 1
        self.held = self.updates_held < self.leave or 2 * sum(self.calls) >= self.enter
        return self.held

    def state_dict(self) -> dict[str, Any]:
        calls = "".join("1" if call else "0" for call in self.calls)
        return {"calls": calls, "updates_held": self.updates_held, "held": self.held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls = deque((c == "1" for c in state["calls"]), maxlen=self.calls.maxlen)
        self.updates_held, self.held = int(state["updates_held"]), bool(state["held"])


@dataclass(slots=True)
class _GradientNorm:
    """z-score of the log gradient norm against the run's own slow mean and deviation."""

    WARM_UP = 20
    WEIGHT = 0.02
    # Below a quarter of a unit of log norm a run is so even that ordinary noise would be 8 sigma.
    LEAST_DEVIATION = 0.25

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def z_score(self, norm: float) -> float | None:
        if norm <= 0.0:
            return None
        value = math.log(norm)
        z = None
        if self.count >= self.WARM_UP:
            deviation = max(math.sqrt(self.variance), self.LEAST_DEVIATION)
            z = (value - self.mean) / deviation
            # A spike must not become the new normal at once.
            value = min(value, self.mean + 4.0 * deviation)
        self.count += 1
        weight = max(self.WEIGHT, 1.0 / self.count)
        difference = value - self.mean
        self.mean += weight * difference
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference)
        return z


@dataclass(slots=True)
class _ReturnDrop:
    """How much of what was gained has been lost again: (best - now) / (best - lowest).

    On a moving average, and only once best and lowest lie a quarter of the larger magnitude apart;
    before that the difference is noise. Any sign of returns will do.
    """

    WEIGHT = 0.1
    LEAST_SPAN = 0.25

    now: float | None = None
    best: float = -math.inf
    lowest: float = math.inf

    def step(self, value: float) -> None:
        self.now = value if self.now is None else self.now + self.WEIGHT * (value - self.now)
        self.best, self.lowest = max(self.best, self.now), min(self.lowest, self.now)

    @property
    def drop(self) -> float | None:
        """0..1, or None while too little was ever gained to speak of a loss."""
        if self.now is None:
            return None
        span = self.best - self.lowest
        if span <= self.LEAST_SPAN * max(abs(self.best), abs(self.lowest)):
            return None
        return (self.best - self.now) / span


class StabilityJudge:
    """Call `observe` once per update, in order; `state_dict` is JSON and restores it exactly."""

    def __init__(self, thresholds: StabilityThresholds | None = None) -> None:
        self.thresholds = thresholds or StabilityThresholds()
        k, m = self.thresholds.enter_updates, self.thresholds.leave_updates
        self._latches = {
            Verdict.WATCH: _Latch(k, m),
            Verdict.DEGRADED: _Latch(k, m),
            Verdict.DIVERGED: _Latch(3 * k, m),
        }
        self._gradient_norm = _GradientNorm()
        self._return = _ReturnDrop()
        self._relative: float | None = None
        self._reasons: dict[Verdict, tuple[str, ...]] = {}
        self._loss_latch = _Latch(k, m)
        self._lost: str | None = None
        self._verdict = Verdict.HEALTHY
        self._since = 0
        self.transitions: dict[Verdict, int] = dict.fromkeys(Verdict, 0)

    def observe(self, o: Observables) -> Judgement:
        if o.parameters_finite is False:
            self._lost = self._lost or "NonFiniteParameters"
        elif self._loss_latch.step(_non_finite_loss(o)):
            self._lost = self._lost or "NonFiniteLoss"
        severities = self._severities(o)
        kinds: dict[str, float] = {}
        for reason, severity in severities.items():
            kind = _KIND[reason]
            kinds[kind] = max(kinds.get(kind, 0.0), severity)
        first, second = [*sorted(kinds.values(), reverse=True), 0.0, 0.0][:2]
        score = min(first, 1.0 + second)

        strongest = sorted(severities.items(), key=lambda item: -item[1])
        reasons = tuple(reason for reason, severity in strongest if severity >= 1.0)
        verdict = Verdict.HEALTHY
        for level, latch in self._latches.items():
            call = score >= level.rank
            if call:
                self._reasons[level] = reasons
            if latch.step(call):
                verdict = level
        reasons = self._reasons.get(verdict, ())
        if self._lost is not None:
            verdict, reasons, score = Verdict.DIVERGED, (self._lost,), 3.0
        if verdict is not self._verdict:
            self._verdict, self._since = verdict, o.update
            self.transitions[verdict] += 1
        return Judgement(verdict, reasons, self._since, score)

    def _severities(self, o: Observables) -> dict[str, float]:
        t = self.thresholds
        found: dict[str, float] = {}
        if _non_finite_loss(o):
            found["NonFiniteLoss"] = 3.0
        if o.kl is not None:
            found["HighKL"] = _severity(o.kl, t.kl, beyond=10.0 * t.kl.degraded)
        if o.max_log_ratio is not None:
            # Already a logarithm: ten times the ratio is ln 10 more.
            beyond = t.max_log_ratio.degraded + math.log(10.0)
            found["HighImportanceRatio"] = _severity(o.max_log_ratio, t.max_log_ratio, beyond)
        if o.effective_sample_size is not None:
            found["LowEffectiveSampleSize"] = _scarcity(
                o.effective_sample_size, t.effective_sample_size
            )
        if o.gradient_norm is not None:
            if not math.isfinite(o.gradient_norm):
                found["NonFiniteGradient"] = 3.0
            elif (z := self._gradient_norm.z_score(o.gradient_norm)) is not None:
                limit = t.gradient_norm_z_score
                found["GradientNormSpike"] = _severity(z, limit, beyond=10.0 * limit.degraded)
        if (aligned := self._alignment(o)) is not None:
            found["GradientsAligned"] = aligned

        if o.episode_return is not None and math.isfinite(o.episode_return):
            self._return.step(o.episode_return)
        drop = self._return.drop
        if drop is not None:
            found["ReturnFalling"] = min(2.0, _severity(drop, t.return_drop, beyond=math.inf))
        if o.entropy_fraction is not None and math.isfinite(o.entropy_fraction):
            severity = _scarcity(o.entropy_fraction, t.entropy_fraction)
            if drop is None:
                severity = min(1.0, severity)  # nothing learned yet, or no return known
            elif drop < t.return_drop.watch:
                severity = 0.0  # nearly deterministic at its best return: a solved task
            found["EntropyCollapse"] = severity
        return found

    def _alignment(self, o: Observables) -> float | None:
        if o.relative_alignment is None or not math.isfinite(o.relative_alignment):
            return None
        # A quotient of two noisy cosines: bounded, then averaged.
        value = max(-1.5, min(1.5, o.relative_alignment))
        self._relative = value if self._relative is None else 0.9 * self._relative + 0.1 * value
        if o.staleness_mean is not None and o.staleness_mean <= 0.0:
            return None  # without lag, alignment is just a long way to go
        limit = self.thresholds.relative_alignment
        return min(2.0, _severity(self._relative, limit, beyond=math.inf))

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable: finite numbers, strings, lists and null."""
        returns, norm = self._return, self._gradient_norm
        known = returns.now is not None
        return {
            "latches": {level.value: latch.state_dict() for level, latch in self._latches.items()},
            "gradient_norm": [norm.count, norm.mean, norm.variance],
            "return": [returns.now, returns.best, returns.lowest] if known else None,
            "relative": self._relative,
            "reasons": {level.value: list(reasons) for level, reasons in self._reasons.items()},
            "loss_latch": self._loss_latch.state_dict(),
            "lost": self._lost,
            "verdict": self._verdict.value,
            "since": self._since,
            "transitions": {level.value: count for level, count in self.transitions.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; KeyError or ValueError when it is not one."""
        for level, latch in self._latches.items():
            latch.load_state_dict(state["latches"][level.value])
        self._gradient_norm = _GradientNorm(*state["gradient_norm"])
        self._return = _ReturnDrop(*(state["return"] or ()))
        self._relative = state["relative"]
        self._reasons = {Verdict(k): tuple(v) for k, v in state["reasons"].items()}
        self._loss_latch.load_state_dict(state["loss_latch"])
        self._lost = state["lost"]
        self._verdict, self._since = Verdict(state["verdict"]), int(state["since"])
        self.transitions = {v: int(state["transitions"][v.value]) for v in Verdict}


_KIND = {
    "HighKL": "divergence",
    "HighImportanceRatio": "tail",
    "LowEffectiveSampleSize": "tail",
    "NonFiniteLoss": "loss",
    "NonFiniteGradient": "gradient",
    "GradientNormSpike": "gradient",
    "GradientsAligned": "alignment",
    "ReturnFalling": "return",
    "EntropyCollapse": "entropy",
}


def _non_finite_loss(o: Observables) -> bool:
    # Entropy over finite observations is NaN only if the policy's parameters are.
    losses = (o.value_loss, o.policy_loss, o.entropy)
    return any(value is not None and not math.isfinite(value) for value in losses)


OnDegraded = Literal["warn", "pace", "suspend", "fail"]


@dataclass(frozen=True, slots=True)
class Action:
    """What the learner is asked to do after an update.

    kind: None = nothing. `Pace` asks for the new bound below, also when it rises again.
    staleness_bound: the effective staleness bound in versions, at most the configured one.
    """

    kind: Literal["Warn", "Pace", "Suspend", "Fail"] | None
    staleness_bound: int
    message: str = ""


class Response:
    """onDegraded as a pure state machine: a judgement in, the requested action out, counted.

    Warn, suspend and fail are requested once, when Degraded (or, worse, Diverged) is entered, so a
    run resumed by its user is not suspended again for the same trouble. Pace halves the effective
    bound when Degraded is entered and after every `hold_updates` spent in it, down to 0 (in step),
    and gives one version back per `hold_updates` of Healthy; Watch holds it. A run whose numbers
    are no longer finite fails whatever was configured: nothing is left to train.
    """

    def __init__(self, on_degraded: OnDegraded, *, staleness_max: int, hold_updates: int = 30):
        if staleness_max < 0:
            raise ValueError(f"staleness_max: {staleness_max} is less than 0; use 0 or more")
        if hold_updates < 1:
            raise ValueError(f"hold_updates: {hold_updates} is less than 1; use 1 or more")
        self.on_degraded = on_degraded
        self.staleness_max = staleness_max
        self.hold_updates = hold_updates
        self.staleness_bound = staleness_max
        self.counts: dict[str, int] = {"Warn": 0, "Pace": 0, "Suspend": 0, "Fail": 0}
        self._verdict = Verdict.HEALTHY
        self._held = 0
        self._failed = False

    def respond(self, judgement: Judgement) -> Action:
        before, self._verdict = self._verdict, judgement.verdict
        bad = judgement.verdict.rank >= Verdict.DEGRADED.rank
        worse = bad and judgement.verdict.rank > before.rank
        # Time in the pace's own terms: in trouble, healthy, or neither.
        same = bad == (before.rank >= Verdict.DEGRADED.rank) and (bad or before is self._verdict)
        self._held = self._held + 1 if same else 0
        why = f"{judgement.verdict.value}: {', '.join(judgement.reasons) or 'no single reason'}"

        if any(reason in _TERMINAL for reason in judgement.reasons):
            if self._failed:
                return Action(None, self.staleness_bound)
            self._failed = True
            return self._act("Fail", why)
        if self.on_degraded == "pace":
            return self._pace(bad, worse, why)
        if not worse:
            return Action(None, self.staleness_bound)
        kinds: dict[str, Literal["Warn", "Suspend", "Fail"]] = {
            "warn": "Warn",
            "suspend": "Suspend",
            "fail": "Fail",
        }
        return self._act(kinds[self.on_degraded], why)

    def _pace(self, bad: bool, worse: bool, why: str) -> Action:
        due = self._held > 0 and self._held % self.hold_updates == 0
        bound = self.staleness_bound
        if bad and (worse or due):
            bound //= 2
        elif self._verdict is Verdict.HEALTHY and due:
            bound = min(self.staleness_max, bound + 1)
        if bound == self.staleness_bound:
            return Action(None, bound)
        self.staleness_bound = bound
        return self._act("Pace", f"{why}; staleness bound {bound} of {self.staleness_max}")

    def _act(self, kind: Literal["Warn", "Pace", "Suspend", "Fail"], message: str) -> Action:
        self.counts[kind] += 1
        return Action(kind, self.staleness_bound, message)

    def state_dict(self) -> dict[str, Any]:
        return {
            "staleness_bound": self.staleness_bound,
            "counts": dict(self.counts),
            "verdict": self._verdict.value,
            "held": self._held,
            "failed": self._failed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; a smaller configured maximum wins over the stored bound."""
        self.staleness_bound = min(self.staleness_max, int(state["staleness_bound"]))
        self.counts = {kind: int(state["counts"][kind]) for kind in self.counts}
        self._verdict, self._held = Verdict(state["verdict"]), int(state["held"])
        self._failed = bool(state["failed"])


_TERMINAL = frozenset({"NonFiniteParameters", "NonFiniteLoss"})
