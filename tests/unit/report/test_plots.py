"""Charts: scales, ticks, reduction and labels."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl.report.plots import BINS, Axis, Chart, Rule, Series, compact, render, table


def chart(values: list[float | None], **options: object) -> str:
    axis = Axis("updates", [float(i) for i in range(len(values))])
    return render(Chart("Title", "Note", [Series("key", "label", values)], **options), axis)  # type: ignore[arg-type]


def tick_labels(html: str) -> list[str]:
    ys = html.split('class="ys">')[1].split("</div>")[0]
    return re.findall(r">([^<]+)</span>", ys)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0, "0"),
        (0.5, "0.5"),
        (-0.25, "-0.25"),
        (475, "475"),
        (1234.5, "1234"),
        (20_000, "20k"),
        (1_500_000, "1.5M"),
        (999_999.9, "1M"),
        (2_000_000_000, "2G"),
        (0.00002, "2e-5"),
        (1e-10, "1e-10"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert compact(value) == text


def test_values_over_many_decades_get_a_logarithmic_axis() -> None:
    values: list[float | None] = [10.0 ** (-i / 20) for i in range(90)]
    assert tick_labels(chart(values, scale="auto")) == ["1e-4", "0.001", "0.01", "0.1", "1"]
    assert "1e-4" not in tick_labels(chart(values))


def test_zeros_do_not_stretch_a_logarithmic_axis() -> None:
    values: list[float | None] = [0.0, 1e-300] + [10.0 ** (-i / 200) for i in range(1000)]
    assert "1e-300" not in chart(values, scale="auto")


def test_constant_values_are_drawn() -> None:
    assert "curve" in chart([3.0] * 10)
    assert "curve" in chart([0.0] * 10, scale="auto", low=0.0)


def test_a_distant_threshold_does_not_flatten_the_curve() -> None:
    values: list[float | None] = [0.01 * i for i in range(10)]
    assert 'class="rule' in chart(values, rules=[Rule(0.1, "near")])
    assert 'class="rule' not in chart(values, rules=[Rule(100.0, "far")])


def test_words_are_escaped() -> None:
    html = render(
        Chart(
            "<t>", "<n>", [Series("k", "<l>", [1.0, 2.0], name_at_end="<e>")], [Rule(1.5, "<r>")]
        ),
        Axis("<x>", [0.0, 1.0]),
    )
    assert not re.search("<[tnlerx]>", html)
    assert all(f"&lt;{c}&gt;" in html for c in "tnlerx")


def test_a_lone_value_between_gaps_is_drawn() -> None:
    assert 'd="M500.0' in chart([None, None, 1.0, None, None], low=0.0)


number = st.one_of(st.none(), st.floats(-1e9, 1e9))


@given(st.lists(number, max_size=4 * BINS), st.sampled_from(["linear", "auto"]))
def test_any_values_are_drawn_inside_the_chart(values: list[float | None], scale: str) -> None:
    html = chart(values, scale=scale)
    assert "nan" not in html and "inf" not in html
    for path in re.findall(r'class="curve[^"]*" d="([^"]*)"', html):
        points = re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)
        assert all(0 <= float(x) <= 1000 and 0 <= float(y) <= 1000 for x, y in points)
    assert ("Not measured" in html) == all(value is None for value in values)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=4 * BINS).map(sorted))
def test_every_row_is_in_exactly_one_bin_and_the_table_has_one_entry_per_bin(
    xs: list[float],
) -> None:
    axis = Axis("updates", xs)
    assert [index for bin_ in axis.bins for index in bin_] == list(range(len(xs)))
    assert len(axis.bins) <= 2 * BINS
    columns = table(axis, [Series("key", "label", xs)])
    assert len(columns["x"]) == len(columns["key"]) == len(axis.bins)
