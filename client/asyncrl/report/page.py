"""report.html: a finished or running run on one page that needs nothing else.

One file without requests to anywhere (its content security policy forbids them), to be mailed or
put next to a paper. It is made from what the run left behind, and says what is missing when the run
has only begun, or was killed.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path

from asyncrl.numbers import duration
from asyncrl.report.charts import plots_section
from asyncrl.report.plots import compact
from asyncrl.report.run import RunRecord, at, number
from asyncrl.report.tables import (
    badge,
    conditions_section,
    events_section,
    manifest_section,
    processes_section,
)
from asyncrl.run_folder import RunFolder
from asyncrl_worker.atomic import write_atomically

PHASES = {
    "Complete": "good",
    "Running": "good",
    "Restarting": "watch",
    "Suspended": "watch",
    "Failed": "bad",
}


def write_report(run_directory: Path) -> Path:
    """Write run_directory/report.html, replacing an older one; returns its path.

    Works at any time of a run. Raises OSError, naming the file, when the folder does not exist, or
    cannot be read or written.
    """
    folder = RunFolder(run_directory)
    if not run_directory.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such run folder", str(run_directory))
    page = _page(RunRecord.read(folder), now=datetime.now(UTC))
    write_atomically(folder.report, page.encode())
    return folder.report


def _page(run: RunRecord, *, now: datetime) -> str:
    style = resources.files("asyncrl.report").joinpath("style.css").read_text(encoding="utf-8")
    body = [
        _header(run),
        plots_section(run) if run.rows else "",
        events_section(run),
        conditions_section(run),
        processes_section(run),
        manifest_section(run),
        f"<footer>Made by asyncrl on {now:%Y-%m-%d %H:%M} UTC from {len(run.rows):,} "
        "recorded updates.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{escape(run.name)} – asyncrl</title><style>{style}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _header(run: RunRecord) -> str:
    phase = str(run.status.get("phase") or "Unknown")
    outcome = badge(phase, PHASES.get(phase, ""))
    return (
        f'<header><div class="title"><h1>{escape(run.name)}</h1>{outcome}</div>'
        f'<p class="lead">{escape(_summary(run))}</p>{_notice(run, phase)}{_tiles(run)}</header>'
    )


def _summary(run: RunRecord) -> str:
    """The run in one line: task, algorithm, size, lag, control."""
    inject, bound = run.spec("staleness", "inject"), run.spec("staleness", "max")
    actors = run.spec("actors", "replicas")
    environments = run.spec("workload", "gymnasium", "environments")
    lag = None
    if inject is not None:
        lag = f"every batch exactly {inject} versions late"
    elif bound is not None:
        lag = "synchronous" if bound == 0 else f"staleness at most {bound}"
    size = f"{actors} {'actor' if actors == 1 else 'actors'}" if actors is not None else None
    if size and environments:
        size += f" × {environments} environments"
    mode = run.spec("alignment", "mode")
    seed = run.spec("seed")
    parts = [
        run.spec("workload", "gymnasium", "id"),
        run.spec("algorithm", "name"),
        size,
        lag,
        f"gradient alignment: {mode}" if mode else None,
        f"seed {seed}" if seed is not None else None,
    ]
    return " · ".join(str(part) for part in parts if part) or "The manifest could not be read."


def _notice(run: RunRecord, phase: str) -> str:
    words, state = "", ""
    reason, message = run.status.get("reason"), run.status.get("message")
    told = ": ".join(str(part) for part in (reason, message) if part)
    if phase == "Failed":
        words, state = told or "The run failed; the logs in its folder say why.", "bad"
    elif not run.rows:
        words = "Nothing was trained yet: this run has no recorded update."
        state = "watch"
    elif phase == "Unknown":
        words, state = "There is no status of this run; what follows are its recorded updates.", ""
    elif phase != "Complete":
        words, state = "This run is not complete; this page shows it as far as it went.", "watch"
        if told:
            words = f"{words} {told}"
    return f'<p class="notice {state}">{escape(words)}</p>' if words else ""


def _tiles(run: RunRecord) -> str:
    if not run.rows:
        return ""
    target = number(run.spec("stopping", "targetReturn"))
    evaluations = [value for value in run.evaluations if value is not None]
    returns = [value for value in run.column("episodeReturn") if value is not None]
    goal = f" · target {compact(target)}" if target is not None else ""
    tiles: list[tuple[str, str, str]] = []
    if evaluations:
        best = f"best {compact(max(evaluations))}{goal}"
        tiles.append(("Evaluated return", compact(evaluations[-1]), best))
    elif returns:
        best = f"best {compact(max(returns))}{goal}"
        tiles.append(("Episode return", compact(returns[-1]), best))
    steps, seconds = run.last("environmentSteps"), run.last("time")
    versions = run.last("policyVersion")
    made = f"{versions:,.0f} policy versions" if versions is not None else ""
    tiles.append(("Environment steps", compact(steps, 4), made))
    speed = steps / seconds if steps is not None and seconds else run.last("throughput")
    tiles.append(("Steps per second", compact(speed), "learning included"))
    if seconds is not None:
        tiles.append(("Time", duration(seconds), "of training"))
    tiles.append(_staleness_tile(run))
    if (touched := _touched(run)) is not None:
        tiles.append(touched)
    verdicts = [verdict for verdict in run.verdicts if verdict is not None]
    if verdicts:
        healthy = _percent(verdicts.count("Healthy") / len(verdicts))
        tiles.append(("Verdict", verdicts[-1], f"healthy in {healthy} of the updates"))
    cells = (
        f"<div class='tile'><dt>{escape(name)}</dt><dd>{escape(value)}"
        f"<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _staleness_tile(run: RunRecord) -> tuple[str, str, str]:
    means = [value for value in run.column("stalenessMean") if value is not None]
    largest = max(
        (value for value in run.column("stalenessMax") if value is not None), default=None
    )
    mean = math.fsum(means) / len(means) if means else None
    bound = run.staleness_bound
    note = f"versions; largest {compact(largest)}"
    if bound is not None:
        note += f", bound {compact(bound)}"
    return ("Mean staleness", compact(mean), note)


def _touched(run: RunRecord) -> tuple[str, str, str] | None:
    """How often alignment control changed an update."""
    regimes = Counter(word for word in run.words("regime") if word is not None)
    if not regimes:
        return None
    total = regimes.total()
    projected = number(at(run.status, "alignment", "projectedFraction"))
    skipped = number(at(run.status, "alignment", "skippedFraction"))
    projected = regimes["Project"] / total if projected is None else projected
    skipped = regimes["Skip"] / total if skipped is None else skipped
    note = f"{_percent(projected)} projected, {_percent(skipped)} skipped"
    return ("Updates realigned", _percent(projected + skipped), note)


def _percent(share: float) -> str:
    percent = 100.0 * share
    if 0 < percent < 0.1:
        return "< 0.1%"
    return f"{percent:.3g}%" if percent < 99.95 or share >= 1 else "> 99.9%"
