"""The judge itself: evidence of one update, score, hysteresis, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asyncrl_worker.stability.evidence import GradientNorm, Latch, ReturnDrop, scarcity, severity
from asyncrl_worker.stability.observables import (
    Judgement,
    Observables,
    StabilityThresholds,
    Verdict,
)

KINDS = {
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
"""The reasons of a verdict and what kind of evidence each is; one kind sees one thing."""

CAUSES = frozenset({"divergence", "tail", "gradient", "alignment"})
"""Kinds that say why a return may fall, not that it does."""

KL_BEYOND = 5.0
"""Times the degraded threshold of the KL where its severity is 3. By default that is 1 nat, more
than twice of what any recorded run of the default settings stayed at for ten updates."""

RELATIVE_WEIGHT = 0.1
RELATIVE_LIMIT = 1.5
"""The relative alignment is a quotient of two noisy cosines: held in bounds, then averaged."""


class StabilityJudge:
    """Call `observe` once per update, in order; `state_dict` is JSON and restores it exactly."""

    def __init__(self, thresholds: StabilityThresholds | None = None) -> None:
        self.thresholds = thresholds or StabilityThresholds()
        enter, leave = self.thresholds.enter_updates, self.thresholds.leave_updates
        self._latches = {
            Verdict.WATCH: Latch(enter, leave),
            Verdict.DEGRADED: Latch(enter, leave),
            Verdict.DIVERGED: Latch(3 * enter, leave),
        }
        self._non_finite = Latch(enter, leave)
        self._lost: str | None = None
        self._gradient_norm = GradientNorm()
        self._return = ReturnDrop()
        self._relative: float | None = None
        self._reasons: dict[Verdict, tuple[str, ...]] = {}
        self._verdict = Verdict.HEALTHY
        self._since = 0

    def observe(self, o: Observables) -> Judgement:
        """The verdict after this update."""
        evidence = self._weigh(self._evidence(o))
        score = _score(evidence)
        strongest = sorted(evidence, key=evidence.__getitem__, reverse=True)
        reasons = tuple(reason for reason in strongest if evidence[reason] >= 1.0)

        verdict = Verdict.HEALTHY
        for level, latch in self._latches.items():
            call = score >= level.rank
            if call:
                self._reasons[level] = reasons
            if latch.step(call):
                verdict = level
        why = self._reasons.get(verdict, ())

        self._lost = self._lost or self._beyond_recovery(o, evidence)
        if self._lost is not None:
            verdict, why, score = Verdict.DIVERGED, (self._lost,), 3.0
        if verdict is not self._verdict:
            self._verdict, self._since = verdict, o.update
        return Judgement(verdict, why, self._since, score)

    def _evidence(self, o: Observables) -> dict[str, float]:
        """Severity 0..3 of everything this update measured."""
        t = self.thresholds
        found: dict[str, float] = {}
        if not _finite(o.value_loss, o.policy_loss, o.entropy):
            # Entropy over finite observations is NaN only if the policy's parameters are.
            found["NonFiniteLoss"] = 3.0
        if o.kl is not None:
            found["HighKL"] = severity(o.kl, t.kl, beyond=KL_BEYOND * t.kl.degraded)
        if o.max_log_ratio is not None:
            # A single sample, which a clip silences: while finite, no more than degraded.
            largest = severity(o.max_log_ratio, t.max_log_ratio, beyond=math.inf)
            found["HighImportanceRatio"] = largest
        if o.effective_sample_size is not None:
            share = scarcity(o.effective_sample_size, t.effective_sample_size)
            found["LowEffectiveSampleSize"] = share
        if not _finite(o.gradient_norm):
            found["NonFiniteGradient"] = 3.0
        elif o.gradient_norm is not None:
            z = self._gradient_norm.z_score(o.gradient_norm)
            if z is not None:
                limit = t.gradient_norm_z_score
                found["GradientNormSpike"] = severity(z, limit, beyond=10.0 * limit.degraded)
        aligned = self._alignment(o)
        if aligned is not None:
            found["GradientsAligned"] = aligned
        return found | self._outcome(o)

    def _weigh(self, evidence: Mapping[str, float]) -> dict[str, float]:
        """Causes count one level less until the return has fallen: no harm is done yet."""
        drop = self._return.drop
        if drop is not None and drop >= self.thresholds.return_drop.watch:
            return dict(evidence)
        return {
            reason: max(0.0, value - 1.0) if KINDS[reason] in CAUSES else value
            for reason, value in evidence.items()
        }

    def _alignment(self, o: Observables) -> float | None:
        if o.relative_alignment is None or not math.isfinite(o.relative_alignment):
            return None
        value = max(-RELATIVE_LIMIT, min(RELATIVE_LIMIT, o.relative_alignment))
        old = value if self._relative is None else self._relative
        self._relative = old + RELATIVE_WEIGHT * (value - old)
        if o.staleness_mean is not None and o.staleness_mean <= 0.0:
            return None  # without lag, alignment is no more than a long way to go
        limit = self.thresholds.relative_alignment
        return min(2.0, severity(self._relative, limit, beyond=math.inf))

    def _outcome(self, o: Observables) -> dict[str, float]:
        """Return and entropy, which only together tell a solved task from a collapse."""
        t = self.thresholds
        found: dict[str, float] = {}
        if o.episode_return is not None and math.isfinite(o.episode_return):
            self._return.step(o.episode_return)
        drop = self._return.drop
        if drop is not None:
            found["ReturnFalling"] = min(2.0, severity(drop, t.return_drop, beyond=math.inf))
        if o.entropy_fraction is not None and math.isfinite(o.entropy_fraction):
            collapse = scarcity(o.entropy_fraction, t.entropy_fraction)
            if drop is None:
                collapse = min(1.0, collapse)  # nothing learned yet, or no return known
            elif drop < t.return_drop.watch:
                collapse = 0.0  # nearly deterministic and near its best return: solved
            found["EntropyCollapse"] = collapse
        return found

    def _beyond_recovery(self, o: Observables, evidence: Mapping[str, float]) -> str | None:
        """Why no later update can help: one dropped step can pass, a parameter cannot."""
        if o.parameters_finite is False:
            return "NonFiniteParameters"
        found = [name for name in ("NonFiniteLoss", "NonFiniteGradient") if name in evidence]
        return found[0] if self._non_finite.step(bool(found)) and found else None

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable: finite numbers, strings, lists and null."""
        returns, norm = self._return, self._gradient_norm
        known = returns.now is not None
        return {
            "latches": {level.value: latch.state_dict() for level, latch in self._latches.items()},
            "non_finite": self._non_finite.state_dict(),
            "lost": self._lost,
            "gradient_norm": [norm.count, norm.mean, norm.variance],
            "return": [returns.now, returns.best, returns.lowest] if known else None,
            "relative": self._relative,
            "reasons": {level.value: list(reasons) for level, reasons in self._reasons.items()},
            "verdict": self._verdict.value,
            "since": self._since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; KeyError or ValueError when it is not one."""
        for level, latch in self._latches.items():
            latch.load_state_dict(state["latches"][level.value])
        self._non_finite.load_state_dict(state["non_finite"])
        self._lost = state["lost"]
        self._gradient_norm = GradientNorm(*state["gradient_norm"])
        self._return = ReturnDrop(*(state["return"] or ()))
        self._relative = state["relative"]
        self._reasons = {Verdict(k): tuple(v) for k, v in state["reasons"].items()}
        self._verdict, self._since = Verdict(state["verdict"]), int(state["since"])


def _score(evidence: Mapping[str, float]) -> float:
    """min(a, 1 + b) of the strongest two kinds of evidence: one kind alone stays below 2."""
    kinds: dict[str, float] = {}
    for reason, value in evidence.items():
        kind = KINDS[reason]
        kinds[kind] = max(kinds.get(kind, 0.0), value)
    strongest, second, *_ = [*sorted(kinds.values(), reverse=True), 0.0, 0.0]
    # A second kind below its own watch threshold is no evidence, only a number.
    return min(strongest, 1.0 + second if second >= 1.0 else 1.0)


def _finite(*values: float | None) -> bool:
    return all(value is None or math.isfinite(value) for value in values)
