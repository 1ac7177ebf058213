"""What every benchmark is told by the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """quick: a smoke test, its numbers mean nothing. repeats: repetitions, or seeds, in place of
    the benchmark's own number. processes: studies run that many trials at once. partial: where
    finished trials are kept, so that an interrupted study goes on."""

    quick: bool = False
    repeats: int | None = None
    processes: int = 2
    partial: Path = Path(__file__).parent / "results" / "partial"

    def say(self, line: str) -> None:
        """One line of progress."""
        print(line, file=sys.stderr, flush=True)
