"""Runs recorded for the stability judge: what every update showed it, and the way back.

A recording has the columns of metrics.jsonl that the judge looks at, one JSON object per update,
floats to four digits, gzipped. With it any rule or threshold can be tried without training again.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asyncrl_api.manifest import load_manifest
from asyncrl_worker.learner.report import observables as learner_observables
from asyncrl_worker.stability import Observables
from benchmarks.ours import run_job
from benchmarks.single_process import SingleProcess, Update

Row = Mapping[str, Any]

COLUMNS = {
    "cosine": "cosine",
    "smoothed": "smoothed_cosine",
    "relative": "relative_alignment",
    "kl": "kl",
    "maxLogRatio": "max_log_ratio",
    "effectiveSampleSize": "effective_sample_size",
    "clippedFraction": "clipped_fraction",
    "entropy": "entropy",
    "entropyFraction": "entropy_fraction",
    "gradientNorm": "gradient_norm",
    "policyLoss": "policy_loss",
    "valueLoss": "value_loss",
    "stalenessMean": "staleness_mean",
    "episodeReturn": "episode_return",
}
"""Columns of metrics.jsonl, and the observables that they are."""

MEASURED = ("entropy", "gradientNorm", "policyLoss", "valueLoss")
"""Columns that every update has: a null in them was not finite. A column left out is no news."""

DEADLINE = 600.0
"""Seconds that a run with processes may take."""


def observables(row: Row) -> Observables:
    """What the judge saw at this update."""
    seen: dict[str, Any] = {name: row.get(column) for column, name in COLUMNS.items()}
    lost = {COLUMNS[column]: math.nan for column in MEASURED if row.get(column, 0) is None}
    return Observables(update=row["update"], **(seen | lost))


def record(manifest: Path, overrides: list[str], *, processes: bool) -> list[Row]:
    """Train to the end; `processes` as a user runs it, else in one process with exact lag."""
    if processes:
        return [_kept(row) for row in run_job(manifest, overrides, deadline=DEADLINE).rows]
    run = SingleProcess(load_manifest(manifest, overrides))
    return [_row(index, update) for index, update in enumerate(run.updates(), start=1)]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Whole, or not at all. The same rows make the same bytes."""
    half = path.with_suffix(".part")
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    half.write_bytes(gzip.compress(text.encode(), mtime=0))
    half.replace(path)


def read(path: Path) -> list[Row]:
    """The rows of a recording."""
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _row(index: int, update: Update) -> Row:
    seen = learner_observables(index, update.result, update.episode_return)
    columns = {column: getattr(seen, name) for column, name in COLUMNS.items()}
    return _kept({"update": index, "environmentSteps": update.environment_steps, **columns})


def _kept(row: Row) -> Row:
    names = ("update", "environmentSteps", *COLUMNS)
    return {name: _short(row.get(name)) for name in names}


def _short(value: Any) -> Any:
    """Four digits; not finite becomes null, as in metrics.jsonl."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
