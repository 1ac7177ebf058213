"""What a display remembers of a run: its recent pace and its recent returns."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

WINDOW_SECONDS = 30.0
SPARKS = "▁▂▃▄▅▆▇█"
ASCII_SPARKS = "_.-~=+*#"


class TimeLeft:
    """Estimates the time left from the progress of the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def observe(self, progress: float | None, now: float) -> None:
        """Progress 0..1 at a time in seconds. Going back (a restart) begins anew."""
        if progress is None:
            return
        if self._seen and progress < self._seen[-1][1]:
            self._seen.clear()
        if self._seen and progress == self._seen[-1][1]:
            return
        self._seen.append((now, progress))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def seconds(self, now: float) -> float | None:
        """Seconds left, or None while there is too little to judge by."""
        if len(self._seen) < 2:
            return None
        (then, before), (last, progress) = self._seen[0], self._seen[-1]
        if progress >= 1.0:
            return 0.0
        pace = (progress - before) / (last - then) if last > then else 0.0
        return max(0.0, (1.0 - progress) / pace - (now - last)) if pace > 0 else None


class History:
    """The newest values of one number, thinned to a fixed length so that all of the run shows."""

    def __init__(self, length: int = 120) -> None:
        self._values: list[float] = []
        self._length = length
        self._stride = 1
        self._skipped = 0

    def add(self, value: float | None) -> None:
        """Remember a value; the same one as before counts as no news."""
        if value is None or (self._values and value == self._values[-1]):
            return
        self._skipped += 1
        if self._skipped < self._stride:
            return
        self._skipped = 0
        self._values.append(value)
        if len(self._values) > self._length:
            self._values = self._values[::2]
            self._stride *= 2

    def sparkline(self, width: int, characters: str = SPARKS) -> str:
        """The values as a line of bars, from the lowest to the highest; empty with fewer than 2."""
        values = self._values
        if len(values) < 2 or width < 2:
            return ""
        if len(values) > width:
            # The mean of each slice, the newest on the right.
            edges = [round(index * len(values) / width) for index in range(width + 1)]
            values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
        low, high = min(values), max(values)
        if high == low:
            return characters[len(characters) // 2] * len(values)
        top = len(characters) - 1
        return "".join(characters[round((value - low) / (high - low) * top)] for value in values)
