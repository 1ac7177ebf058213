"""The plots of a run: which curves, which thresholds, in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from asyncrl.report.plots import (
    Axis,
    Chart,
    Rule,
    Series,
    Strip,
    Value,
    compact,
    render,
    render_strip,
    table,
)
from asyncrl.report.run import VERDICTS, RunRecord, number


def plots_section(run: RunRecord) -> str:
    """All charts, and the numbers that the page reads out under the pointer."""
    steps = run.column("environmentSteps")
    if all(step is not None for step in steps):
        axis = Axis("environment steps", [step for step in steps if step is not None])
    else:
        axis = Axis("updates", [float(row["update"]) for row in run.rows])
    verdicts = run.verdicts
    strip = Strip(
        "Stability verdict",
        "From all observables together, with hysteresis: it worsens only on lasting evidence.",
        verdicts,
        VERDICTS,
    )
    charts = _charts(run, dense=axis.reduced)
    figures = [
        f'<div class="wide">{render(charts[0], axis)}</div>',
        f'<div class="wide">{render_strip(strip, axis)}</div>',
        f'<div class="wide">{render(charts[1], axis)}</div>',
        *(render(chart, axis) for chart in charts[2:]),
    ]
    series = {each.key: each for chart in charts for each in chart.series}
    columns: dict[str, Any] = dict(table(axis, list(series.values())))
    columns["update"] = [run.rows[bin_[-1]]["update"] for bin_ in axis.bins]
    columns["verdict"] = [_worst(verdicts, bin_) for bin_ in axis.bins]
    data = {
        "label": axis.label,
        "start": axis.start,
        "end": axis.end,
        "names": {key: each.label for key, each in series.items()},
        "columns": columns,
    }
    # "<" would end the script element early.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = resources.files("asyncrl.report").joinpath("script.js").read_text(encoding="utf-8")
    return (
        f'<section class="grid2">{"".join(figures)}</section>'
        f'<script type="application/json" id="data">{text}</script><script>{script}</script>'
    )


def _charts(run: RunRecord, *, dense: bool) -> list[Chart]:
    """All charts; the first two take the full width. `dense`: more rows than can be drawn."""

    def series(key: str, label: str, tint: str = "blue", **style: Any) -> Series:
        return Series(key, label, run.column(key), tint, **style)

    def limits(name: str) -> list[Rule]:
        found = [("watch", "amber"), ("degraded", "orange")]
        values = [(number(run.spec("stability", "thresholds", name, k)), k, t) for k, t in found]
        return [Rule(value, label, tint) for value, label, tint in values if value is not None]

    def regime(name: str) -> list[Value]:
        return [1.0 if word == name else None for word in run.words("regime")]

    target = number(run.spec("stopping", "targetReturn"))
    low, high = run.last("low"), run.last("high")
    bounds = _bounds(run)
    clip = number(run.spec("algorithm", "clip"))
    entropy = "entropyFraction" if run.last("entropyFraction") is not None else "entropy"
    share = entropy == "entropyFraction"
    return [
        Chart(
            "Return",
            "Undiscounted reward per episode: of the actors while they explore, "
            "and of the greedy policy when evaluated.",
            [
                series("episodeReturn", "training"),
                Series("evaluationReturn", "evaluation", run.evaluations, "orange", "dots"),
            ],
            rules=[]
            if target is None
            else [Rule(target, f"target {compact(target)}", "green", "left")],
            tall=True,
        ),
        Chart(
            "Gradient alignment",
            "Cosine of consecutive policy gradients. A lasting rise means that stale updates push "
            "the same way again and again. Above low updates are projected, above high they are "
            "skipped; calibrated thresholds are held against the smoothed cosine.",
            [
                series("cosine", "cosine", "sky", style="specks"),
                series("smoothed", "smoothed"),
                series(
                    "low", "low", "amber", style="dashed", step=True, name_at_end=_named("low", low)
                ),
                series(
                    "high",
                    "high",
                    "red",
                    style="dashed",
                    step=True,
                    name_at_end=_named("high", high),
                ),
            ],
            marks=[
                Series("projected", "projected", regime("Project"), "amber", "rug"),
                Series("skipped", "skipped", regime("Skip"), "red", "rug"),
            ],
            low=-1.0,
            high=1.0,
            tall=True,
        ),
        Chart(
            "KL divergence",
            "Of the trained policy from the one that acted, in nats.",
            [series("kl", "KL", smooth=True)],
            rules=limits("kl"),
            scale="auto",
            low=0.0,
        ),
        Chart(
            "Largest log importance ratio",
            "How far the most extreme sample of a batch is off-policy.",
            [series("maxLogRatio", "max |log r|", "purple", smooth=True)],
            rules=limits("maxLogRatio"),
            scale="auto",
            low=0.0,
        ),
        Chart(
            "Importance weights",
            "Share of the batch that still counts, and share beyond the clip"
            + (f" of {compact(clip)}." if clip is not None else "."),
            [
                series("effectiveSampleSize", "effective sample size", "green", smooth=True),
                series("clippedFraction", "clipped", "orange", smooth=True),
            ],
            rules=limits("effectiveSampleSize"),
            low=0.0,
            high=1.0,
            rule_reach=1.0,
        ),
        Chart(
            "Policy entropy",
            "Share of the largest possible." if share else "In nats.",
            [series(entropy, "entropy", "green", smooth=True)],
            rules=limits("entropyFraction") if share else [],
            low=0.0 if share else None,
            high=1.0 if share else None,
            rule_reach=1.0,
        ),
        Chart(
            "Staleness",
            "Age of the training data, in policy versions.",
            [
                series("stalenessMax", "largest", "sky", style="thin"),
                series("stalenessMean", "mean", smooth=dense),
                Series("stalenessBound", "bound", bounds, "orange", "dashed", step=True),
            ],
            low=0.0,
            # Air above the bound, or it would hide in the frame.
            high=1.25 * max((bound for bound in bounds if bound is not None), default=0.8),
        ),
        Chart(
            "Throughput",
            "Environment steps trained per second.",
            [series("throughput", "steps per second", "purple", smooth=True)],
            low=0.0,
        ),
        Chart(
            "Policy gradient norm",
            "Before clipping.",
            [series("gradientNorm", "norm", smooth=True)],
            scale="auto",
            low=0.0,
        ),
        Chart(
            "Value loss",
            "Of the value network.",
            [series("valueLoss", "loss", "purple", smooth=True)],
            scale="auto",
            low=0.0,
        ),
    ]


def _named(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {compact(value, 2)}"


def _bounds(run: RunRecord) -> list[Value]:
    """The bound in effect where it was recorded, else the configured one."""
    recorded, configured = run.column("stalenessBound"), run.staleness_bound
    return [configured if value is None else value for value in recorded]


def _worst(verdicts: Sequence[str | None], bin_: Sequence[int]) -> str | None:
    known = [verdict for i in bin_ if (verdict := verdicts[i]) is not None]
    return max(known, key=lambda verdict: VERDICTS[verdict], default=None)
