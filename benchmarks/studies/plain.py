"""The unprotected stack of two studies, and the ways to control its alignment."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.options import Options
from benchmarks.studies.trial import CARTPOLE, Record, Trial, make_trial

PLAIN = (
    "algorithm.name=impala",
    "optimizer.beta1=0.9",
    "compensation={momentumLaw: false, klFeedback: {mode: 'off'}}",
    "alignment.mode=observe",
)
"""Plain V-trace, Adam's usual beta1, nothing against staleness; alignment is only measured."""

CLASSIC = (*PLAIN, "alignment={mode: control, calibration: fixed, low: 0.05, high: 0.3}")
"""With the classic, fixed thresholds of alignment control; at most 3 skips in a row."""

GUARD = (*PLAIN, "alignment={mode: control, calibration: auto}")
"""With the guard of the defaults: thresholds calibrated to the run's first updates."""


def random_skips(arm: str, records: Sequence[Record], options: Options) -> list[Trial]:
    """For each record of a controller, a plain run that skips as often by chance, same seed."""
    return [
        make_trial(
            CARTPOLE,
            arm,
            PLAIN,
            lag=record["lag"],
            seed=record["seed"],
            quick=options.quick,
            skip_rate=record["skipped"],
        )
        for record in records
    ]
