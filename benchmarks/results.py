"""Results as JSON files: what was measured, on what, by which command, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One benchmark's numbers with their circumstances."""

    benchmark: str
    command: str
    seconds: float
    machine: dict[str, Any]
    data: dict[str, Any]


def save(folder: Path, benchmark: str, command: str, seconds: float, data: dict[str, Any]) -> Path:
    """Write FOLDER/BENCHMARK.json, in place of an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark}.json"
    document = {
        "benchmark": benchmark,
        "command": command,
        "seconds": round(seconds, 1),
        "machine": describe_machine(),
        "data": data,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def load(folder: Path, benchmark: str) -> Result | None:
    """The saved result, None where there is none."""
    path = folder / f"{benchmark}.json"
    return Result(**json.loads(path.read_text())) if path.is_file() else None
