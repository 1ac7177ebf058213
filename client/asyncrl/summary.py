"""The last words of a run: how it ended, what it reached, and what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from asyncrl.backends.supervisor import Outcome
from asyncrl.live import PHASE_STYLES
from asyncrl.numbers import ABSENT, count, duration, number
from asyncrl_api.status import JobStatus


def shown(path: Path) -> str:
    """A path as a person would type it: relative where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def summary(
    name: str, outcome: Outcome, status: JobStatus, rows: Sequence[tuple[str, str]]
) -> Text:
    """A few short lines: how it ended, its numbers, and `rows`, the last of which is what next."""
    text = Text()
    text.append(outcome.phase, PHASE_STYLES[outcome.phase])
    text.append(f"  {name}  ", "bold")
    text.append(f"{outcome.reason}\n", "dim")
    for label, value in [*_numbers(status), *rows]:
        text.append(f"  {label:<12}", "dim").append(f"{value}\n")
    text.rstrip()
    return text


def run_rows(outcome: Outcome, folder: Path, report: Path | None) -> list[tuple[str, str]]:
    """The rows of a run on this machine: where it lies, and what next."""
    rows = [("run folder", shown(folder))]
    if report is not None:
        rows.append(("report", shown(report)))
    return [*rows, ("next", _next(outcome, folder))]


def _numbers(status: JobStatus) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    training = status.training
    if training is not None:
        evaluation = training.evaluation_return
        also = f" (evaluation {number(evaluation)})" if evaluation is not None else ""
        rows.append(("return", f"{number(training.episode_return)}{also}"))
        version = ABSENT if training.policy_version is None else f"{training.policy_version:,}"
        rows.append(("steps", f"{count(training.environment_steps)}, version {version}"))
    if status.start_time is not None and status.completion_time is not None:
        seconds = (status.completion_time - status.start_time).total_seconds()
        rows.append(("wall time", duration(seconds)))
    if status.stability is not None and status.stability.verdict is not None:
        rows.append(("stability", status.stability.verdict))
    again = [
        f"{role.name} {role.restarts + role.disruptions}"
        for role in status.roles
        if role.restarts + role.disruptions
    ]
    if again:
        rows.append(("restarts", ", ".join(again)))
    return rows


def _next(outcome: Outcome, folder: Path) -> str:
    where = shlex.quote(shown(folder))
    if outcome.phase == "Suspended":
        manifest = shlex.quote(shown(folder / "manifest.yaml"))
        return f"asyncrl run {manifest} --output {where} --resume"
    if outcome.phase == "Failed":
        return f"asyncrl logs {where}"
    return f"asyncrl status {where}"
