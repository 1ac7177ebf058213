"""The live view of a run in a terminal, and the same picture once, for `asyncrl status`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncrl.numbers import ABSENT, clock, count, duration, number, roughly, signed, whole
from asyncrl.progress import ASCII_SPARKS, SPARKS, History, TimeLeft
from asyncrl_api.status import AlignmentStatus, JobStatus, RoleStatus

REFRESH_HERTZ = 4
EVENTS_SHOWN = 3
WIDEST = 96
MARGIN = 2
"""Columns left free: the terminal shows ^C there, and a wrapped line would shift the picture."""
NARROW = 60
"""Below this many columns the view drops its frame and its pictures."""

PHASE_STYLES = {
    "Pending": "default",
    "Running": "bold green",
    "Restarting": "bold yellow",
    "Suspending": "bold yellow",
    "Suspended": "bold yellow",
    "Complete": "bold green",
    "Failed": "bold red",
}
VERDICT_STYLES = {"Healthy": "green", "Watch": "yellow", "Degraded": "red", "Diverged": "bold red"}
REGIME_STYLES = {"Pass": "green", "Project": "yellow", "Skip": "red"}
ROLE_TITLES = {"actors": "actors", "learner": "learner", "parameterServer": "parameter server"}


@dataclass(frozen=True)
class Glyphs:
    """Characters of the pictures, for terminals with and without Unicode."""

    line: str = "─"
    centre: str = "┼"
    mark: str = "╎"
    pointer: str = "●"
    dot: str = "·"
    sparks: str = SPARKS


ASCII = Glyphs(line="-", centre="+", mark="|", pointer="o", dot="-", sparks=ASCII_SPARKS)


class Picture:
    """One job's status as a rich renderable; remembers what sparklines and time left need."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._status: JobStatus | None = None
        self._returns = History()
        self._throughputs = History()
        self._time_left = TimeLeft()
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS_SHOWN)
        self._footer = ""

    def status(self, status: JobStatus) -> None:
        """Show this status from now on."""
        self._status = status
        if status.training is not None:
            self._returns.add(status.training.episode_return)
            self._throughputs.add(status.training.throughput)
            self._time_left.observe(status.training.progress, time.monotonic())

    def event(self, line: str) -> None:
        """Show this line, until newer ones push it out."""
        self._events.append((self._elapsed(), line))

    def footer(self, line: str) -> None:
        """Show this in the lower edge."""
        self._footer = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[RenderableType]:
        """Draw for the width at hand."""
        glyphs = ASCII if options.ascii_only else Glyphs()
        width = min(options.max_width - MARGIN, WIDEST)
        if width < NARROW:
            return [self._heading(), self._body(width, glyphs, narrow=True)]
        panel = Panel(
            self._body(width - 6, glyphs, narrow=False),
            title=self._heading(),
            title_align="left",
            subtitle=Text(self._footer, style="dim") if self._footer else None,
            subtitle_align="left",
            border_style="dim",
            padding=(0, 2),
            width=width,
        )
        return [panel]

    def _elapsed(self) -> float:
        status = self._status
        if status is None or status.start_time is None:
            return 0.0
        end = status.completion_time or datetime.now(UTC)
        return max(0.0, (end - status.start_time).total_seconds())

    def _heading(self) -> Text:
        phase = self._status.phase if self._status else "Pending"
        # A title takes on the style of its frame, which is dim.
        named, styled = "not dim bold", f"not dim {PHASE_STYLES[phase]}"
        heading = Text.assemble((self._name, named), "  ", (phase, styled))
        heading.append(f"  {clock(self._elapsed())}", "dim")
        return heading

    def _body(self, width: int, glyphs: Glyphs, *, narrow: bool) -> RenderableType:
        status = self._status
        parts: list[RenderableType] = []
        if status is None or status.training is None:
            words = status.message if status is not None else None
            parts.append(Text(words or "starting the processes", style="dim"))
        else:
            parts.append(self._progress(status, width, glyphs, narrow=narrow))
            parts.append(Text(""))
            parts.append(self._numbers(status, width, glyphs, narrow=narrow))
        if status is not None and status.roles:
            parts.append(Text(""))
            parts.append(_grid([("roles", _roles(status.roles))]))
        if self._events:
            parts.append(Text(""))
        for at, line in self._events:
            text = Text(f"{duration(at):>7}  {line}", style="dim", no_wrap=True)
            text.truncate(width, overflow="crop" if glyphs is ASCII else "ellipsis")
            parts.append(text)
        return Group(*parts)

    def _progress(
        self, status: JobStatus, width: int, glyphs: Glyphs, *, narrow: bool
    ) -> RenderableType:
        training = status.training
        done = training.progress if training and training.progress is not None else None
        text = Text(no_wrap=True)
        text.append(f"{ABSENT if done is None else format(100 * done, '.0f')} %", "bold")
        running = status.phase == "Running"
        left = self._time_left.seconds(time.monotonic()) if running else None
        if left is not None and done is not None and done < 1.0:
            text.append(f"  {roughly(left)} left", "dim")
        if narrow:
            return text
        bar = ProgressBar(
            total=1.0,
            completed=done or 0.0,
            width=max(10, width - 30),
            complete_style="green",
            finished_style="green",
        )
        row = Table.grid(padding=(0, 2))
        row.add_row(bar, text)
        return row

    def _numbers(
        self, status: JobStatus, width: int, glyphs: Glyphs, *, narrow: bool
    ) -> RenderableType:
        training, staleness, stability = status.training, status.staleness, status.stability
        assert training is not None
        spark = 0 if narrow else min(32, width - 44)
        rows: list[tuple[str, RenderableType]] = []
        returns = Text(f"{number(training.episode_return):<10}", "bold")
        if training.evaluation_return is not None:
            returns.append(f"evaluation {number(training.evaluation_return):<9}", "not bold")
        elif not narrow:
            returns.append(" " * 20)
        returns.append(self._returns.sparkline(spark, glyphs.sparks), "cyan")
        rows.append(("return", returns))
        pace = Text(f"{count(training.throughput):<10}{'steps/s':<20}")
        pace.append(self._throughputs.sparkline(spark, glyphs.sparks), "dim cyan")
        rows.append(("throughput", pace))
        steps = Text(f"{count(training.environment_steps):<10}")
        steps.append(f"version {ABSENT if training.policy_version is None else ''}")
        if training.policy_version is not None:
            steps.append(f"{training.policy_version:,}")
        rows.append(("steps", steps))
        if staleness is not None:
            dot = f" {glyphs.dot} "
            shown = Text(f"p50 {whole(staleness.p50)}{dot}p95 {whole(staleness.p95)}{dot}")
            shown.append(f"max {whole(staleness.max)}")
            shown.append(f" of {whole(staleness.bound)}", "dim")
            rows.append(("staleness", shown))
        if status.alignment is not None:
            rows.append(("alignment", _alignment(status.alignment, glyphs, narrow=narrow)))
        if stability is not None and stability.verdict is not None:
            verdict = Text(stability.verdict, VERDICT_STYLES[stability.verdict])
            for reason in stability.reasons[:2]:
                verdict.append(f"\n{reason}", "dim")
            rows.append(("stability", verdict))
        if status.checkpoint is not None and status.checkpoint.version is not None:
            saved = Text(f"version {status.checkpoint.version:,}")
            if status.checkpoint.time is not None:
                age = (datetime.now(UTC) - status.checkpoint.time).total_seconds()
                saved.append(f", {roughly(max(0.0, age))} ago", "dim")
            rows.append(("checkpoint", saved))
        return _grid(rows)


def gauge(alignment: AlignmentStatus, glyphs: Glyphs, width: int = 27) -> Text:
    """The cosine on a scale from -1 to +1, with marks at the thresholds."""
    cells: list[tuple[str, str]] = [(glyphs.line, "dim")] * width

    def place(value: float | None, glyph: str, style: str) -> None:
        if value is not None:
            clipped = max(-1.0, min(1.0, value))
            cells[round((clipped + 1.0) / 2.0 * (width - 1))] = (glyph, style)

    place(0.0, glyphs.centre, "dim")
    place(alignment.low, glyphs.mark, "yellow")
    place(alignment.high, glyphs.mark, "red")
    level = alignment.smoothed if alignment.smoothed is not None else alignment.cosine
    place(level, glyphs.pointer, f"bold {REGIME_STYLES.get(alignment.regime or '', 'default')}")
    return Text.assemble(*cells)


def _alignment(alignment: AlignmentStatus, glyphs: Glyphs, *, narrow: bool) -> Text:
    level = alignment.smoothed if alignment.smoothed is not None else alignment.cosine
    text = Text(f"{signed(level):<7}")
    if not narrow:
        text.append_text(gauge(alignment, glyphs)).append("   ")
    if alignment.regime is not None:
        text.append(alignment.regime, REGIME_STYLES[alignment.regime])
    touched = (alignment.projected_fraction or 0.0) + (alignment.skipped_fraction or 0.0)
    if touched > 0 and not narrow:
        text.append(f"  {100 * touched:.1f} % touched", "dim")
    elif alignment.low is None and alignment.calibrated is False and not narrow:
        text.append("  calibrating", "dim")
    return text


def _roles(roles: list[RoleStatus]) -> Text:
    text = Text(no_wrap=True)
    for role in roles:
        style = "green" if role.ready >= role.desired else "yellow"
        text.append(f"{ROLE_TITLES[role.name]:<18}")
        text.append(f"{f'{role.ready}/{role.desired}':<7}", style)
        times = role.restarts + role.disruptions
        if times:
            text.append(f"{times} restart{'s' if times != 1 else ''}", "yellow")
        text.append("\n")
    text.rstrip()
    return text


def _grid(rows: list[tuple[str, RenderableType]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10, no_wrap=True)
    table.add_column(no_wrap=False)
    for label, content in rows:
        table.add_row(label, content)
    return table


class LiveView:
    """Shows a run in place, redrawn a few times a second; a context manager."""

    def __init__(self, console: Console, name: str, footer: str) -> None:
        self._picture = Picture(name)
        self._picture.footer(footer)
        self._live = Live(
            self._picture,
            console=console,
            refresh_per_second=REFRESH_HERTZ,
            transient=True,
            redirect_stderr=False,
            redirect_stdout=False,
        )

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def status(self, status: JobStatus) -> None:
        """Show this status at the next redraw."""
        self._picture.status(status)

    def event(self, line: str) -> None:
        """Show this line at the next redraw."""
        self._picture.event(line)
