"""What is asked of the learner when a run is degraded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asyncrl_worker.stability.observables import Judgement, Verdict

OnDegraded = Literal["warn", "pace", "suspend", "fail"]
Kind = Literal["Warn", "Pace", "Suspend", "Fail"]

_ONCE: dict[OnDegraded, Kind] = {"warn": "Warn", "suspend": "Suspend", "fail": "Fail"}
_TERMINAL = frozenset({"NonFiniteParameters", "NonFiniteLoss", "NonFiniteGradient"})


@dataclass(frozen=True, slots=True)
class Action:
    """What the learner is asked to do after an update.

    kind: None = nothing. `Pace` asks for the new bound below, also when it rises again.
    staleness_bound: the effective staleness bound in versions, at most the configured one.
    """

    kind: Kind | None
    staleness_bound: int
    message: str = ""


class Response:
    """onDegraded as a pure state machine: a judgement in, the requested action out.

    Warn, suspend and fail are requested once, when Degraded (or, worse, Diverged) is entered, so a
    run resumed by its user is not suspended again for the same trouble. Pace halves the effective
    bound when Degraded is entered and after every `hold_updates` spent in it, down to 0 (in step),
    and gives one version back per `hold_updates` of Healthy; Watch holds it. Where the lag is
    `exact`, pace has nothing to reduce and asks for nothing. A run that is lost for good to
    non-finite numbers fails whatever was configured: nothing is left to train.
    """

    def __init__(
        self,
        on_degraded: OnDegraded,
        *,
        staleness_max: int,
        exact: bool = False,
        hold_updates: int = 30,
    ) -> None:
        if staleness_max < 0:
            raise ValueError(f"staleness_max: {staleness_max} is less than 0; use 0 or more")
        if hold_updates < 1:
            raise ValueError(f"hold_updates: {hold_updates} is less than 1; use 1 or more")
        self.on_degraded = on_degraded
        self.staleness_max = staleness_max
        self.exact = exact
        self.hold_updates = hold_updates
        self.staleness_bound = staleness_max
        self._verdict = Verdict.HEALTHY
        self._held = 0
        self._failed = False

    def respond(self, judgement: Judgement) -> Action:
        """The action after this update."""
        before, now = self._verdict, judgement.verdict
        self._verdict = now
        self._held = self._held + 1 if _mood(now) == _mood(before) else 0
        worse = now.rank >= Verdict.DEGRADED.rank and now.rank > before.rank
        why = ": ".join(part for part in (now.value, ", ".join(judgement.reasons)) if part)

        if now is Verdict.DIVERGED and _TERMINAL.issuperset(judgement.reasons):
            first, self._failed = not self._failed, True
            return self._act("Fail", why) if first else self._nothing()
        if self.on_degraded == "pace":
            return self._nothing() if self.exact else self._pace(worse, why)
        return self._act(_ONCE[self.on_degraded], why) if worse else self._nothing()

    def _pace(self, worse: bool, why: str) -> Action:
        due = self._held > 0 and self._held % self.hold_updates == 0
        bound = self.staleness_bound
        if worse or (due and _mood(self._verdict) == "trouble"):
            bound //= 2
        elif due and _mood(self._verdict) == "healthy":
            bound = min(self.staleness_max, bound + 1)
        if bound == self.staleness_bound:
            return self._nothing()
        self.staleness_bound = bound
        return self._act("Pace", f"{why}; staleness bound {bound} of {self.staleness_max}")

    def _nothing(self) -> Action:
        return Action(None, self.staleness_bound)

    def _act(self, kind: Kind, message: str) -> Action:
        return Action(kind, self.staleness_bound, message)

    def state_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "staleness_bound": self.staleness_bound,
            "staleness_max": self.staleness_max,
            "verdict": self._verdict.value,
            "held": self._held,
            "failed": self._failed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; the maximum is the configured one, raised or lowered.

        The stored bound is kept, up to that maximum, only where pace had reduced it and may give it
        back; an exact lag has nothing to reduce.
        """
        stored = int(state["staleness_bound"])
        # States from before the maximum was in them: as not reduced.
        reduced = stored < int(state.get("staleness_max", stored))
        keeps = self.on_degraded == "pace" and not self.exact and reduced
        self.staleness_bound = min(self.staleness_max, stored) if keeps else self.staleness_max
        self._verdict, self._held = Verdict(state["verdict"]), int(state["held"])
        self._failed = bool(state["failed"])


def _mood(verdict: Verdict) -> Literal["healthy", "watch", "trouble"]:
    if verdict.rank >= Verdict.DEGRADED.rank:
        return "trouble"
    return "healthy" if verdict is Verdict.HEALTHY else "watch"
