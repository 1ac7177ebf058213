"""Charts of the run report: numbers in, one HTML <figure> out.

Plain SVG, written here: curves carry classes instead of colours, so the page's style sheet themes
them for light and dark, and only curves are SVG. They stretch with the page while every word stays
HTML at its own size, which keeps a chart readable on a phone.

Long runs are reduced to bins of equal width. A curve passes through the least and the greatest
value of every bin, so a spike of one update among 100,000 is still drawn at its height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Literal

__all__ = ["Axis", "Chart", "Rule", "Series", "Strip", "compact", "render", "render_strip", "table"]

BINS = 480
"""Bins of a reduced curve: about two device pixels each on a wide screen."""

SIZE = 1000
"""Width and height of a chart's coordinates; the page stretches them."""

DECADES_ARE_LOG = 1.7
"""A positive range of more decades than this gets a logarithmic axis."""

Value = float | None
"""A finite number, or None where there is none: gaps stay gaps."""

Style = Literal["line", "thin", "specks", "dots", "dashed", "rug"]


@dataclass(frozen=True)
class Series:
    """A curve. `tint` names its colour in the style sheet.

    step: a value holds until the next one. smooth: the measured curve is drawn thinly, and its
    moving average over it. name_at_end: written beside the last value.
    """

    key: str
    label: str
    values: Sequence[Value]
    tint: str = "blue"
    style: Style = "line"
    step: bool = False
    smooth: bool = False
    name_at_end: str = ""


@dataclass(frozen=True)
class Rule:
    """A horizontal line with a name, such as a threshold."""

    at: float
    label: str
    tint: str = "grey"
    side: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Chart:
    """One panel. `scale` auto takes a logarithm when the values span many decades.

    low, high: ends of the axis that must be shown; data may widen them, rules do so only within
    `rule_reach` times the data's range, so that a distant threshold does not flatten the curve.
    """

    title: str
    note: str
    series: Sequence[Series]
    rules: Sequence[Rule] = ()
    marks: Sequence[Series] = ()
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "auto"] = "linear"
    tall: bool = False
    rule_reach: float = 1.5


@dataclass(frozen=True)
class Strip:
    """A timeline of named states; `levels` gives each its height 0..1 and its tint."""

    title: str
    note: str
    states: Sequence[str | None]
    levels: dict[str, tuple[float, str]]


@dataclass(frozen=True)
class Axis:
    """The shared horizontal axis and how rows fall into its bins."""

    label: str
    xs: Sequence[float]
    bins: list[list[int]] = field(init=False)
    start: float = field(init=False)
    end: float = field(init=False)

    def __post_init__(self) -> None:
        start = min(self.xs, default=0.0)
        end = max(self.xs, default=1.0)
        if end <= start:
            end = start + 1.0
        bins: list[list[int]] = []
        if len(self.xs) <= 2 * BINS:
            bins = [[index] for index in range(len(self.xs))]
        else:
            current = -1
            for index, x in enumerate(self.xs):
                number = min(BINS - 1, int((x - start) / (end - start) * BINS))
                if number != current:
                    bins.append([])
                    current = number
                bins[-1].append(index)
        object.__setattr__(self, "bins", bins)
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)

    @property
    def reduced(self) -> bool:
        """Whether bins hold more than one row."""
        return len(self.bins) < len(self.xs)

    def place(self, x: float) -> float:
        """Position in chart coordinates."""
        return (x - self.start) / (self.end - self.start) * SIZE


def compact(value: float | None, digits: int = 3) -> str:
    """A number as people write it on a chart: 1.5M, 20k, 0.031, 2e-5; a dash when absent."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit * (1 - 0.5 * 10.0**-digits):
            return f"{value / divisor:.{digits}g}{unit}"
    if size >= 100:
        return f"{value:.0f}"
    if size and size < 1e-3:
        mantissa, _, exponent = f"{value:.{max(0, digits - 2)}e}".partition("e")
        return (
            f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
        )
    return f"{value:.{digits}g}"


class _Scale:
    """The vertical axis: range, ticks, and where a value lies on it."""

    def __init__(self, chart: Chart, values: Sequence[float]) -> None:
        positive = [value for value in values if value > 0]
        self.logarithmic = (
            chart.scale == "auto"
            and len(positive) > 1
            and math.log10(max(positive) / min(positive)) > DECADES_ARE_LOG
        )
        if self.logarithmic:
            # Zeros and the very rare tiny value must not stretch the axis over twenty decades.
            ranked = sorted(positive)
            bottom, top = math.log10(ranked[len(ranked) // 200]), math.log10(ranked[-1])
            rules = [math.log10(rule.at) for rule in chart.rules if rule.at > 0]
            reach = 1.0
        else:
            ends = [end for end in (chart.low, chart.high) if end is not None]
            bottom, top = min([*values, *ends]), max([*values, *ends])
            rules = [rule.at for rule in chart.rules]
            reach = (chart.rule_reach - 1.0) * (top - bottom)
        for rule in rules:
            if bottom - reach <= rule <= top + reach:
                bottom, top = min(bottom, rule), max(top, rule)
        if top - bottom < 1e-12 * max(1.0, abs(top)):
            bottom, top = bottom - 0.5, top + 0.5
        margin = 0.05 * (top - bottom)
        self.top = top if not self.logarithmic and top == chart.high else top + margin
        self.bottom = bottom if not self.logarithmic and bottom == chart.low else bottom - margin

    @property
    def least(self) -> float:
        """The smallest value that a logarithmic axis shows."""
        return float(10.0**self.bottom)

    def place(self, value: float) -> float:
        """Position from the top in chart coordinates, held inside the chart."""
        if self.logarithmic:
            value = math.log10(value) if value > 0 else self.bottom
        share = (value - self.bottom) / (self.top - self.bottom)
        return (1.0 - max(0.0, min(1.0, share))) * SIZE

    def shows(self, value: float) -> bool:
        """Whether a rule lies inside."""
        if self.logarithmic:
            if value <= 0:
                return False
            value = math.log10(value)
        return self.bottom <= value <= self.top

    def ticks(self) -> list[float]:
        """At most six round values."""
        if not self.logarithmic:
            return _round_values(self.bottom, self.top, 5)
        first, last = math.ceil(self.bottom), math.floor(self.top)
        every = max(1, math.ceil((last - first + 1) / 6))
        decades = [10.0**power for power in range(first, last + 1, every)]
        if len(decades) >= 3:
            return decades
        steps = [base * 10.0**power for power in range(first - 1, last + 1) for base in (1, 2, 5)]
        return [value for value in steps if self.bottom <= math.log10(value) <= self.top]


def _round_values(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(base * power for base in (1, 2, 2.5, 5, 10) if base * power >= raw)
    first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
    return [round(number * width, 12) for number in range(first, last + 1)]


def render(chart: Chart, axis: Axis) -> str:
    """The chart as a <figure>; a line saying so when it has no values at all."""
    present = [s for s in chart.series if any(value is not None for value in s.values)]
    marks = [s for s in chart.marks if any(value is not None for value in s.values)]
    head = _head(chart.title, chart.note, "".join(_legend(s) for s in [*present, *marks]))
    if not present:
        return (
            f'<figure class="chart">{head}<p class="absent">Not measured in this run.</p></figure>'
        )
    scale = _Scale(chart, [v for series in present for v in series.values if v is not None])

    svg: list[str] = []
    labels: list[str] = []
    for tick in scale.ticks():
        y = scale.place(tick)
        svg.append(f'<path class="grid" d="M0 {y:.0f}H{SIZE}"/>')
        labels.append(f'<span style="top:{y / 10:.1f}%">{compact(tick)}</span>')
    notes: list[str] = []
    above = -math.inf
    for rule in sorted(chart.rules, key=lambda rule: -rule.at):
        if scale.shows(rule.at):
            y = scale.place(rule.at)
            svg.append(f'<path class="rule {rule.tint}" d="M0 {y:.0f}H{SIZE}"/>')
            notes.append(_note(rule.label, f"{rule.tint} {rule.side}", y, room=y - above))
            above = y
    for series in present:
        path = _path(series, axis, scale)
        hollow = series.style == "specks" and axis.reduced
        style = "thin" if series.smooth or hollow else series.style
        svg.append(f'<path class="curve {style} {series.tint}" d="{path}"/>')
        if series.smooth:
            average = replace(series, values=_moving_average(series.values, scale))
            path = _path(average, axis, scale)
            svg.append(f'<path class="curve {series.style} {series.tint}" d="{path}"/>')
        if series.name_at_end:
            y = scale.place(next(v for v in reversed(series.values) if v is not None))
            notes.append(_note(series.name_at_end, f"{series.tint} right", y, room=y))
    for series in marks:
        svg.append(_rug(series, axis))
    keys = " ".join(series.key for series in present)
    size = "plot tall" if chart.tall else "plot"
    return (
        f'<figure class="chart" data-keys="{escape(keys)}">{head}'
        f'<div class="{size}"><div class="ys">{"".join(labels)}</div>'
        f'<div class="canvas"><svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(chart.title)}">{"".join(svg)}</svg>{"".join(notes)}</div>'
        f"{_x_labels(axis)}</div></figure>"
    )


def render_strip(strip: Strip, axis: Axis) -> str:
    """The timeline as a <figure>: height and colour both tell the state."""
    spans: list[tuple[float, float, str | None]] = []
    for bin_ in axis.bins:
        # The worst state of a bin stands for it: a short alarm stays visible.
        states = [state for i in bin_ if (state := strip.states[i]) in strip.levels]
        worst = max(states, key=lambda state: strip.levels[str(state)][0], default=None)
        x = axis.place(axis.xs[bin_[0]])
        if spans and spans[-1][2] == worst:
            continue
        if spans:
            spans[-1] = (spans[-1][0], x, spans[-1][2])
        spans.append((x, SIZE, worst))
    if not any(state for _, _, state in spans):
        head = _head(strip.title, strip.note, "")
        return f'<figure class="chart">{head}<p class="absent">No verdict yet.</p></figure>'
    svg = []
    for start, end, state in spans:
        if state is not None:
            height, tint = strip.levels[state]
            width = max(end - start, SIZE / BINS)
            top = SIZE * (1 - height)
            svg.append(
                f'<rect class="{tint}" x="{start:.1f}" y="{top:.0f}" width="{width:.1f}" '
                f'height="{SIZE * height:.0f}"><title>{escape(state)}</title></rect>'
            )
    seen = {state for _, _, state in spans if state}
    legend = "".join(
        f'<li class="{tint}"><i class="block"></i>{escape(state)}</li>'
        for state, (_, tint) in strip.levels.items()
        if state in seen
    )
    return (
        f'<figure class="chart" data-keys="verdict">{_head(strip.title, strip.note, legend)}'
        f'<div class="plot strip"><div class="ys"></div><div class="canvas">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(strip.title)}">{"".join(svg)}</svg></div>{_x_labels(axis)}'
        "</div></figure>"
    )


def _note(text: str, style: str, y: float, *, room: float) -> str:
    # Below its line where a word has no room above it.
    place = " under" if min(room, y) < SIZE / 12 else ""
    return f'<span class="note {style}{place}" style="top:{y / 10:.1f}%">{escape(text)}</span>'


def _moving_average(values: Sequence[Value], scale: _Scale) -> list[Value]:
    """Exponential, over about a fortieth of the curve; of logarithms on such an axis."""
    weight = min(0.2, 80.0 / max(1, len(values)))
    average: float | None = None
    result: list[Value] = []
    for value in values:
        if value is None or (scale.logarithmic and value <= 0):
            result.append(None)
            continue
        point = math.log(max(value, scale.least)) if scale.logarithmic else value
        average = point if average is None else average + weight * (point - average)
        result.append(math.exp(average) if scale.logarithmic else average)
    return result


def _head(title: str, note: str, legend: str) -> str:
    key = f'<ul class="legend">{legend}</ul>' if legend else ""
    return f"<figcaption><h3>{escape(title)}</h3>{key}<p>{escape(note)}</p></figcaption>"


def _legend(series: Series) -> str:
    return f'<li class="{series.tint}"><i class="{series.style}"></i>{escape(series.label)}</li>'


def _x_labels(axis: Axis) -> str:
    ticks = [x for x in _round_values(axis.start, axis.end, 5) if axis.start <= x <= axis.end]
    spans = []
    for x in ticks:
        left = axis.place(x) / 10
        edge = ' class="first"' if left < 3 else ' class="last"' if left > 95 else ""
        spans.append(f'<span{edge} style="left:{left:.1f}%">{compact(x)}</span>')
    return f'<div class="xs">{"".join(spans)}</div><div class="xlabel">{escape(axis.label)}</div>'


def _path(series: Series, axis: Axis, scale: _Scale) -> str:
    # Specks of the extremes alone would leave a hollow between them; a line fills it.
    sparse = series.style == "dots" or (series.style == "specks" and not axis.reduced)
    pieces: list[str] = []
    previous: float | None = None
    for bin_ in axis.bins:
        points = _extremes(series.values, bin_)
        if not points:
            previous = previous if sparse else None
            continue
        for index in points:
            x = axis.place(axis.xs[index])
            value = series.values[index]
            assert value is not None
            y = scale.place(value)
            if sparse:
                # A line of no length with round ends is a round dot at any stretch.
                pieces.append(f"M{x:.1f} {y:.0f}h0")
            elif previous is None:
                # A lone point between gaps still shows.
                pieces.append(f"M{x:.1f} {y:.0f}h.5")
            elif series.step:
                pieces.append(f"H{x:.1f}V{y:.0f}")
            else:
                pieces.append(f"L{x:.1f} {y:.0f}")
            previous = y
    return "".join(pieces)


def _extremes(values: Sequence[Value], bin_: Sequence[int]) -> list[int]:
    """Indices of the least and the greatest known value of a bin, in order."""
    known = [(value, index) for index in bin_ if (value := values[index]) is not None]
    return sorted({min(known)[1], max(known)[1]}) if known else []


def _rug(series: Series, axis: Axis) -> str:
    """Short marks at the foot of the chart where there are values."""
    places = [
        f"M{axis.place(axis.xs[bin_[0]]):.1f} {SIZE}v-40"
        for bin_ in axis.bins
        if any(series.values[index] is not None for index in bin_)
    ]
    return f'<path class="rug {series.tint}" d="{"".join(places)}"/>'


def table(axis: Axis, series: Sequence[Series]) -> dict[str, list[float | None]]:
    """Per bin and series the mean of the known values, for the page's read-out; x under `x`."""
    result: dict[str, list[float | None]] = {
        "x": [_short(math.fsum(axis.xs[i] for i in bin_) / len(bin_)) for bin_ in axis.bins]
    }
    for each in series:
        column: list[float | None] = []
        for bin_ in axis.bins:
            known = [value for i in bin_ if (value := each.values[i]) is not None]
            column.append(_short(math.fsum(known) / len(known)) if known else None)
        result[each.key] = column
    return result


def _short(value: float) -> float:
    return float(f"{value:.4g}")
