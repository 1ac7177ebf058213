"""The example of a loop of one's own, run as its reader would run it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_loop.py"
ROW = re.compile(r"^(?P<name>\S.*?) +(?P<before>[\d.]+) +(?P<after>\S+) +\d+% +(?P<skipped>\d+)%$")


def test_late_gradients_ruin_the_run_and_with_the_guard_it_goes_on_learning() -> None:
    command = [sys.executable, str(EXAMPLE)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    found = filter(None, map(ROW.match, finished.stdout.splitlines()))
    rows = {row["name"]: (float(row["before"]), float(row["after"])) for row in found}
    assert len(rows) == 6, finished.stdout

    before, alone = rows["without control"]
    assert not math.isfinite(alone) or alone > 2 * before
    before, guarded = rows["the guard"]
    assert guarded < 0.75 * before, "it learns on, and does not merely survive"
    assert rows["on time to the end"][1] < guarded, "what is lost to the delay is shown"
