"""Exponential backoff with a total deadline: nobody waits for ever, nobody gives up at once."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

from asyncrl_worker.protocol.errors import PeerUnavailable

log = logging.getLogger("asyncrl")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_FIRST_WORD = 5.0
_WORD_EVERY = 30.0


class Retry:
    """The pauses between the tries of one operation; times in seconds on `clock`."""

    def __init__(self, peer: str, phase: str, deadline: float, clock: Callable[[], float]) -> None:
        self._peer = peer
        self._phase = phase
        self._deadline = deadline
        self._clock = clock
        self._start = clock()
        self._pause = _FIRST_PAUSE
        self._word_at = _FIRST_WORD

    def wait(self, interrupted: threading.Event, detail: str) -> None:
        """Pauses before the next try; `interrupted` ends the pause. Logs a line now and then.

        Raises PeerUnavailable where the deadline is over or `interrupted` is set; `detail` is what
        the last try failed with.
        """
        elapsed = self._clock() - self._start
        if elapsed + self._pause > self._deadline or interrupted.wait(self._pause):
            raise PeerUnavailable(self._peer, self._phase, elapsed, detail)
        if elapsed >= self._word_at:
            self._word_at = elapsed + _WORD_EVERY
            log.warning(
                "event=waiting peer=%s phase=%s seconds=%.0f deadline_seconds=%.0f error=%s",
                json.dumps(self._peer),
                json.dumps(self._phase),
                elapsed,
                self._deadline,
                json.dumps(detail),
            )
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
