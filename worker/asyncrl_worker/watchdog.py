"""Notices an environment that never returns."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple

from asyncrl_api.reasons import Reason
from asyncrl_worker.environments.faults import FIELD
from asyncrl_worker.environments.vector import Progress
from asyncrl_worker.fault import WRONG_CONFIGURATION
from asyncrl_worker.role import RoleArguments
from asyncrl_worker.termination import end_with

LONGEST_INTERVAL_SECONDS = 1.0


class StallDetector:
    """Judges whether the user's code has been running without any progress for too long.

    Time spent outside of it (waiting for a ticket, sending) does not count: those waits have
    deadlines of their own.
    """

    def __init__(
        self,
        name: str,
        progress: Sequence[Progress],
        *,
        timeout: float,
        clock: Callable[[], float],
    ) -> None:
        """`name`: id of the environment; `timeout` in seconds on `clock`."""
        self._name = name
        self._progress = progress
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = [astuple(progress) for progress in self._progress]
        self._since = [clock()] * len(progress)

    def check(self) -> str | None:
        """None, or one line: the environment, where it is, for how long, and the remedy."""
        now = self._clock()
        with self._lock:
            for i, progress in enumerate(self._progress):
                current = astuple(progress)
                if progress.phase is None or current != self._seen[i]:
                    self._seen[i] = current
                    self._since[i] = now
                elif now - self._since[i] >= self._timeout:
                    return self._line(progress, now - self._since[i])
        return None

    def _line(self, progress: Progress, seconds: float) -> str:
        doing = {"making": "the constructor", "reset": "a reset"}.get(
            progress.phase or "", f"step {progress.step}"
        )
        which = "" if progress.environment is None else f" of environment {progress.environment}"
        return (
            f"{FIELD}: '{self._name}' has not returned from {doing}{which} for {seconds:.0f} s; "
            "correct its code, or raise spec.runPolicy.stallTimeoutSeconds if it is slow"
        )


class Watchdog:
    """Asks the detector from a thread of its own, and reports the first stall."""

    def __init__(
        self, detector: StallDetector, *, timeout: float, on_stall: Callable[[str], None]
    ) -> None:
        self._detector = detector
        self._interval = min(LONGEST_INTERVAL_SECONDS, timeout / 4)
        self._on_stall = on_stall
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            problem = self._detector.check()
            if problem is not None:
                self._on_stall(problem)
                return


def end_stalled(arguments: RoleArguments, line: str) -> None:
    """End the process from the watchdog's thread: the main thread is inside the environment."""
    code = end_with(
        arguments.role, arguments.index, Reason.ENVIRONMENT_FAILED, line, WRONG_CONFIGURATION
    )
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
