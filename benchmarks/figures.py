"""Figures of the studies, as SVG. Colours are those of Okabe and Ito, told apart by everybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
INK, GRID = "#333333", "#DDDDDD"
STYLE: Any = {
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "asyncrl",
}


def signature(data: dict[str, Any]) -> Figure:
    """Left the cosine along the run by lag, right the final return of every arm."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), width_ratios=(1.0, 1.25))
    for colour, (lag, cosine) in zip(COLOURS, data["cosine"].items(), strict=False):
        along = [point for point in enumerate(cosine["along"]) if point[1] is not None]
        x = [100.0 * (index + 0.5) / len(cosine["along"]) for index, _ in along]
        left.plot(x, [point["mean"] for _, point in along], color=colour, label=f"s = {lag}")
        low, high = ([point[key] for _, point in along] for key in ("low", "high"))
        left.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    left.set(xlabel="% of the run", ylabel="cosine of consecutive policy gradients")
    left.axhline(0.0, color=INK, linewidth=0.6)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    left.set_title("Plain V-trace, Adam's beta1 = .9")
    _arms(right, data["return"], f"Final return, CartPole-v1, {data['seeds']} seeds")
    figure.tight_layout()
    return figure


def guard(data: dict[str, Any]) -> Figure:
    """Per task, percent of synchronous against lag, with and without the guard."""
    tasks = data["tasks"]
    figure, axes = plt.subplots(1, len(tasks), figsize=(4.5 * len(tasks), 3.2), squeeze=False)
    for axis, (environment, rows) in zip(axes[0], tasks.items(), strict=True):
        for offset, colour, arm in ((-0.06, COLOURS[0], "with"), (0.06, COLOURS[1], "without")):
            cells = [row["percent"][arm] for row in rows.values()]
            _points(
                axis, [i + offset for i in range(len(cells))], cells, colour, f"{arm} the guard"
            )
        axis.axhline(98.0, color=INK, linewidth=0.6, linestyle="--")
        axis.set_xticks(range(len(rows)), list(rows))
        axis.set(xlabel="s, versions of lag", ylabel="% of synchronous")
        axis.set_title(f"{environment}, {data['seeds']} seeds")
        axis.legend()
    figure.tight_layout()
    return figure


def unprotected(data: dict[str, Any]) -> Figure:
    """Final return of each arm with every seed."""
    figure, axis = plt.subplots(figsize=(7.0, 2.8))
    arms = list(data["arms"].items())[::-1]
    for row, (_, cell) in enumerate(arms):
        finals = cell["final_returns"]
        axis.plot(finals, [row] * len(finals), "o", color=COLOURS[0], alpha=0.35, markersize=4)
        axis.plot([cell["final"]["low"], cell["final"]["high"]], [row, row], color=INK)
        axis.plot(cell["final"]["mean"], row, "D", color=COLOURS[2], markersize=6)
    axis.set_yticks(range(len(arms)), [arm for arm, _ in arms])
    axis.set(xlabel="final return (each seed, mean, 95 % interval)", xlim=(0, 510))
    axis.set_title(f"CartPole-v1, s = {data['lag']}, protections off, {data['seeds']} seeds")
    figure.tight_layout()
    return figure


FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "signature": signature,
    "guard": guard,
    "unprotected": unprotected,
}


def draw(benchmark: str, data: dict[str, Any], folder: Path) -> Path | None:
    """Write FOLDER/BENCHMARK.svg; None for a benchmark without a figure."""
    if benchmark not in FIGURES:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}.svg"
    with plt.rc_context(STYLE):
        figure = FIGURES[benchmark](data)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def _arms(axis: Axes, arms: dict[str, Any], title: str) -> None:
    count = len(next(iter(arms.values())))
    for index, (arm, cells) in enumerate(arms.items()):
        offset = 0.12 * (index - (len(arms) - 1) / 2)
        finals = [cell["final"] for cell in cells.values()]
        colour = COLOURS[index % len(COLOURS)]
        _points(axis, [i + offset for i in range(count)], finals, colour, arm)
    axis.set_xticks(range(count), [f"s = {lag}" for lag in next(iter(arms.values()))])
    axis.set_ylabel("final return")
    axis.set_ylim(bottom=0.0)
    axis.set_title(title)
    axis.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)


def _points(
    axis: Axes, x: list[float], cells: list[dict[str, float]], colour: str, label: str
) -> None:
    means = [cell["mean"] for cell in cells]
    below = [cell["mean"] - cell["low"] for cell in cells]
    above = [cell["high"] - cell["mean"] for cell in cells]
    axis.errorbar(
        x, means, yerr=(below, above), fmt="o", color=colour, markersize=4, capsize=2, label=label
    )
