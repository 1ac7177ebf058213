"""Runs many trials, several at once, and keeps each record so that a study can be interrupted."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.options import Options
from benchmarks.processes import THREAD_VARIABLES
from benchmarks.studies.trial import Record, Trial

START_UP_SECONDS = 4.0
"""Of a worker process, for estimates only."""


def run_trials(name: str, trials: Sequence[Trial], options: Options) -> list[Record]:
    """Records in the order of `trials`, those of earlier runs from their files."""
    files = {trial: options.partial / f"{trial.digest}.json" for trial in trials}
    missing = [trial for trial in files if not files[trial].is_file()]
    options.partial.mkdir(parents=True, exist_ok=True)
    if missing:
        _run(name, missing, files, options.processes)
    # The same run may belong to several studies, under other names.
    return [
        {**json.loads(files[trial].read_text()), "arm": trial.arm, "lag": trial.lag}
        for trial in trials
    ]


def estimate(trials: Sequence[Trial], options: Options) -> float:
    """Seconds that the trials without a record will take."""
    missing = [t for t in trials if not (options.partial / f"{t.digest}.json").is_file()]
    if not missing:
        return 0.0
    steps = {t: t.task.quick_steps if options.quick else t.task.steps for t in missing}
    busy = sum(steps[trial] / trial.task.rate for trial in missing)
    return START_UP_SECONDS + busy / min(options.processes, len(missing))


def _run(name: str, missing: list[Trial], files: dict[Trial, Path], processes: int) -> None:
    # Before the workers import numpy and torch: they inherit it.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(min(processes, len(missing)), mp_context=context) as executor,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task(name, total=len(missing))
        futures = {executor.submit(_work, trial): trial for trial in missing}
        try:
            for future in as_completed(futures):
                _keep(files[futures[future]], future.result())
                bar.advance(task)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _work(trial: Trial) -> Record:
    from benchmarks.studies.runner import run_trial  # torch is for the workers only

    return run_trial(trial)


def _keep(path: Path, record: Record) -> None:
    half = path.with_suffix(".part")
    half.write_text(json.dumps(record))
    half.replace(path)
