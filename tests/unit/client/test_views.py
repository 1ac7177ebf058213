"""What a person sees: numbers, time left, sparklines, the live picture and the plain lines."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from asyncrl import numbers
from asyncrl.live import ASCII, Glyphs, Picture, gauge
from asyncrl.plain import PlainView, status_line
from asyncrl.progress import SPARKS, History, TimeLeft
from asyncrl_api.status import (
    AlignmentStatus,
    CheckpointStatus,
    JobStatus,
    RoleStatus,
    StabilityStatus,
    StalenessStatus,
    TrainingStatus,
)

NOW = datetime.now(UTC)


def full_status(**changes: object) -> JobStatus:
    status = JobStatus(
        phase="Running",
        start_time=NOW - timedelta(seconds=12),
        roles=[
            RoleStatus(name="actors", desired=2, ready=1, restarts=3),
            RoleStatus(name="learner", desired=1, ready=1),
            RoleStatus(name="parameterServer", desired=1, ready=1),
        ],
        training=TrainingStatus(
            policy_version=210,
            environment_steps=430_080,
            episode_return=312.4,
            evaluation_return=475.0,
            throughput=98_234.5,
            progress=0.43,
        ),
        alignment=AlignmentStatus(
            cosine=0.08,
            smoothed=0.08,
            regime="Pass",
            low=0.2,
            high=0.4,
            projected_fraction=0.004,
        ),
        stability=StabilityStatus(verdict="Watch", reasons=["kl 0.041 is above 0.03"]),
        staleness=StalenessStatus(mean=1.2, p50=1, p95=2, max=3, bound=4),
        checkpoint=CheckpointStatus(version=200, time=NOW),
    )
    return status.model_copy(update=changes)


def draw(width: int, status: JobStatus | None, *, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    picture = Picture("cartpole")
    picture.footer("runs/cartpole")
    if status is not None:
        picture.status(status)
    picture.event("actor-1: killed by SIGKILL (out of memory?); restart in 0.5 s " + "x" * 200)
    console.print(picture)
    stream.flush()
    return raw.getvalue().decode(encoding).splitlines()


def test_the_picture_tells_everything_at_80_columns() -> None:
    lines = draw(80, full_status())
    text = "\n".join(lines)
    for word in (
        "cartpole",
        "Running",
        "43 %",
        "312.4",
        "evaluation 475",
        "98.2k",
        "430k",
        "version 210",
        "p50 1 · p95 2 · max 3 of 4",
        "+0.08",
        "Pass",
        "0.4 % touched",
        "Watch",
        "kl 0.041 is above 0.03",
        "version 200",
        "1/2    3 restarts",
        "parameter server  1/1",
        "actor-1: killed",
        "runs/cartpole",
    ):
        assert word in text
    assert {cell_len(line) for line in lines} == {78}, "room for ^C"
    assert len(lines) <= 24


@pytest.mark.parametrize("width", [200, 80, 60, 59, 40, 20])
@pytest.mark.parametrize("status", [None, JobStatus(), full_status()], ids=["none", "new", "full"])
def test_the_picture_fits_any_width(width: int, status: JobStatus | None) -> None:
    lines = draw(width, status)
    assert "cartpole" in lines[0]
    assert max(cell_len(line) for line in lines) <= width


def test_the_picture_needs_no_unicode() -> None:
    lines = draw(80, full_status(), encoding="ascii")
    assert any("+0.08" in line and "|" in line and "o" in line for line in lines)


@pytest.mark.parametrize("phase", ["Pending", "Restarting", "Suspended", "Complete", "Failed"])
def test_every_phase_is_drawn(phase: str) -> None:
    assert phase in draw(80, full_status(phase=phase))[0]


@pytest.mark.parametrize(
    ("cosine", "column"), [(-1.0, 0), (-0.5, 5), (0.0, 10), (1.0, 20), (5.0, 20)]
)
def test_the_gauge_points_at_the_cosine(cosine: float, column: int) -> None:
    shown = gauge(AlignmentStatus(smoothed=cosine), Glyphs(), width=21).plain
    assert shown.index("●") == column
    assert len(shown) == 21


def test_the_gauge_without_a_cosine_has_no_pointer() -> None:
    shown = gauge(AlignmentStatus(low=0.5, high=1.0), ASCII, width=21).plain
    assert shown == "-" * 10 + "+" + "-" * 4 + "|" + "-" * 4 + "|"


def test_a_plain_line_leaves_out_what_is_absent() -> None:
    assert status_line(full_status()) == (
        "v=210 steps=430k return=312.4 eval=475 c=+0.08 Pass Watch stale=1/4 98.2k/s"
    )
    assert status_line(JobStatus()) == ""
    assert status_line(JobStatus(training=TrainingStatus(policy_version=0))) == "v=0"


def test_plain_lines_come_every_two_seconds_and_on_a_new_phase() -> None:
    lines: list[str] = []
    clock = [0.0]
    view = PlainView(lines.append, clock=lambda: clock[0])
    view.status(JobStatus(start_time=NOW, completion_time=NOW))
    for quarter in range(17):
        clock[0] = 1.0 + quarter / 4
        training = TrainingStatus(policy_version=quarter)
        view.status(
            JobStatus(phase="Running", start_time=NOW, completion_time=NOW, training=training)
        )
    view.event("actor-0: lost")
    assert lines == [
        "0.0s Pending",
        "0.0s Running v=0",
        "0.0s v=8",
        "0.0s v=16",
        "0.0s actor-0: lost",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (950, "950"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (1234, "1.2k"),
        (99_960, "100k"),
        (430_080, "430k"),
        (999_999, "1.0M"),
        (2.5e9, "2.5G"),
    ],
)
def test_counts_are_short(value: float | None, text: str) -> None:
    assert numbers.count(value) == text


@given(st.floats(0, 1e14))
def test_counts_have_at_most_five_characters(value: float) -> None:
    assert len(numbers.count(value)) <= 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (475.0, "475"), (312.44, "312.4"), (-0.51234, "-0.5123"),
     (20.0, "20"), (100.0, "100"), (1e-7, "1.00e-07")],
)  # fmt: skip
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert numbers.number(value) == text


def test_durations() -> None:
    spans = (12.34, 65, 3723, 100_000)
    assert [numbers.duration(s) for s in spans] == ["12.3s", "1:05", "1:02:03", "1d 03h"]
    assert numbers.clock(12.9) == "0:12"
    waits = (3, 42, 100, 7200, 200_000)
    assert [numbers.roughly(s) for s in waits] == [
        "a few seconds",
        "40 s",
        "2 min",
        "2.0 h",
        "2.3 days",
    ]


def test_time_left_follows_the_recent_pace() -> None:
    left = TimeLeft()
    assert left.seconds(0.0) is None
    for second in range(101):  # slow at first, then ten times faster
        left.observe(0.001 * second if second <= 50 else 0.05 + 0.01 * (second - 50), float(second))
    assert left.seconds(100.0) == pytest.approx((1 - 0.55) / 0.01, rel=0.01)
    assert left.seconds(105.0) == pytest.approx(40.0, rel=0.02)
    left.observe(0.3, 106.0)
    assert left.seconds(106.0) is None, "a restart from a checkpoint begins anew"


@given(st.lists(st.floats(-1e6, 1e6), max_size=700), st.integers(2, 60))
def test_sparklines_fit_and_show_the_extremes(values: list[float], width: int) -> None:
    history = History()
    for value in values:
        history.add(value)
    line = history.sparkline(width)
    assert len(line) <= width
    assert set(line) <= set(SPARKS)
    if len(set(line)) > 1:
        assert {SPARKS[0], SPARKS[-1]} <= set(line)


def test_a_rising_history_is_a_rising_line() -> None:
    history = History()
    for value in range(1000):
        history.add(float(value))
    line = history.sparkline(16)
    assert line == "".join(sorted(line))
    assert (len(line), line[0], line[-1]) == (16, SPARKS[0], SPARKS[-1])
