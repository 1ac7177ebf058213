"""A queue of job keys: a key waits once, and is worked on by one worker at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

Key = tuple[str, str]
"""Namespace and name of a job."""

BACKOFF_SECONDS = (0.5, 60.0)


class WorkQueue:
    """Keys to reconcile; bounded by the number of jobs, since equal keys are one.

    A key that is added while it is worked on is worked on again afterwards. `clock` gives seconds
    that only grow, as the event loop's own.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Work on this key soon."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_later(self, key: Key, seconds: float) -> None:
        """Work on this key after so many seconds, unless it is due earlier anyway."""
        due = self._clock() + max(0.0, seconds)
        known = self._timers.get(key)
        if known is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        handle = asyncio.get_running_loop().call_later(max(0.0, seconds), self._fire, key)
        self._timers[key] = (due, handle)

    def retry(self, key: Key) -> float:
        """Work on a key that failed again, after a capped exponential back-off; the seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        low, high = BACKOFF_SECONDS
        delay = min(high, low * 2.0 ** min(failures - 1, 16))
        self.add_later(key, delay)
        return delay

    def succeeded(self, key: Key) -> None:
        """The next failure of this key is the first again."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key; `done` must follow."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """A worker is finished with a key."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _fire(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
