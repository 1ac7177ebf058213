"""Runs of asyncrl as a user starts them: `asyncrl run`, every role a process."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncrl_worker.telemetry import read_rows
from benchmarks.processes import Finished, run_to_end

EXAMPLES = Path(__file__).parent.parent / "examples"


class RunFailed(Exception):
    """`asyncrl run` did not complete. One line."""


@dataclass(frozen=True)
class OurRun:
    """The process, the rows of metrics.jsonl and the final status.json."""

    process: Finished
    rows: list[dict[str, Any]]
    status: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Wall time from the start of the command to its end."""
        return self.process.ended - self.process.started


def run_job(manifest: Path, overrides: Sequence[str], *, deadline: float) -> OurRun:
    """Run a manifest with `--set` overrides to its end. Raises RunFailed or TimedOut."""
    settings = [word for assignment in overrides for word in ("--set", assignment)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, "-m", "asyncrl.cli.main", "run", str(manifest), "--quiet"]
        finished = run_to_end([*command, "--output", str(output), *settings], deadline=deadline)
        if finished.returncode != 0:
            raise RunFailed(f"asyncrl: exit code {finished.returncode}: {finished.last_error}")
        status = json.loads((output / "status.json").read_text())
        return OurRun(finished, read_rows(output / "metrics.jsonl"), status)
