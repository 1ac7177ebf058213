"""Exponential backoff with a total deadline: nobody waits for ever, nobody gives up at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from asyncrl_worker.protocol.errors import PeerUnavailable

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Retry:
    """The pauses between the tries of one operation; times in seconds on `clock`."""

    def __init__(self, peer: str, phase: str, deadline: float, clock: Callable[[], float]) -> None:
        self._peer = peer
        self._phase = phase
        self._deadline = deadline
        self._clock = clock
        self._start = clock()
        self._pause = _FIRST_PAUSE

    def wait(self, interrupted: threading.Event, detail: str) -> None:
        """Pauses before the next try; `interrupted` ends the pause.

        Raises PeerUnavailable where the deadline is over or `interrupted` is set; `detail` is what
        the last try failed with.
        """
        elapsed = self._clock() - self._start
        if elapsed + self._pause > self._deadline or interrupted.wait(self._pause):
            raise PeerUnavailable(self._peer, self._phase, elapsed, detail)
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
