"""Measured programs: started in a session of their own, timed, and ended with all they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class TimedOut(Exception):
    """The program did not end before its deadline. One line."""


@dataclass(frozen=True)
class Finished:
    """How a program ended; times as of time.time()."""

    returncode: int
    output: str
    errors: str
    started: float
    ended: float

    @property
    def last_error(self) -> str:
        """The last line of standard error."""
        lines = self.errors.strip().splitlines()
        return lines[-1] if lines else "no message"


def run_to_end(command: Sequence[str], *, deadline: float) -> Finished:
    """Run `command` with one thread per numerical library. Raises TimedOut after `deadline` s."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1")
    started = time.time()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired as error:
            words = " ".join(command)
            raise TimedOut(f"no end after {deadline:.0f} s: {words}") from error
        finally:
            ended = time.time()
            # What it started must not disturb the next measurement.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Finished(process.returncode, output, errors, started, ended)
