"""The stability judge: from the observables of every update to one verdict with reasons.

Pure and torch-free: numbers in, a verdict out, no clock and no I/O, so a recorded run gives the
same verdicts as the run itself.

Every observable is put on one scale, its severity: 0 quiet, 1 at its watch threshold, 2 at its
degraded threshold, 3 far beyond. Observables that see the same thing form one
kind of evidence (the largest ratio and the effective sample size both see the tail of the
importance weights). With `a` the severity of the strongest kind and `b` of the second strongest,

    score = min(a, 1 + b)      b counting from 1 on

so one kind alone can call for Watch and never for more: on recorded collapses no single observable
separated them from healthy runs, two together did. Alignment is only a witness: its severity ends
at 2, and without the ratios, entropy or return it calls for Watch at most. The largest ratio is a
single sample, which a clip silences: its severity ends at 2, too.

KL, ratios, gradient norm and alignment are causes: they say why a return may fall, not that it
does, and clip and truncation are there to take it. Until the return has lost half of what it
gained, they count one level less: a run that learns is Degraded only by one far beyond, and not
Diverged by any.

A score of 1, 2, 3 calls for Watch, Degraded, Diverged. A verdict is entered after `enter_updates`
calls within twice as many updates (Diverged takes three times as many) and left when the last
`leave_updates` updates hold fewer than half as many calls. Non-finite parameters are Diverged at
once, for good. So are non-finite losses that keep coming; a single one is not, as its step is
dropped.
"""

from asyncrl_worker.stability.judge import StabilityJudge
from asyncrl_worker.stability.observables import (
    Judgement,
    Observables,
    StabilityThresholds,
    Threshold,
    Verdict,
)
from asyncrl_worker.stability.response import Action, OnDegraded, Response

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
