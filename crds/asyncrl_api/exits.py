"""What the end of a role's process means for its run, on one machine and in a pod."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum

from asyncrl_api.reasons import Reason

FAILURE_MEMORY_SECONDS = 600.0
"""Failures further apart than this are not failures in a row."""

FATAL_CODES = (1, 2, 74)
"""Training failed, wrong configuration or environment code, disk: trying again does not help."""


@dataclass(frozen=True)
class Note:
    """Why a process ended: a CamelCase reason and one line for a person."""

    reason: str
    message: str


class Verdict(Enum):
    """What an exit code means for the run."""

    DONE = "done"
    DISRUPTED = "disrupted"
    RETRY = "retry"
    FATAL = "fatal"


def verdict(code: int) -> Verdict:
    """The meaning of an exit code; a signal is negative as in `subprocess`, or 128 + its number."""
    if code == 0:
        return Verdict.DONE
    if code in (130, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT):
        return Verdict.DISRUPTED
    if code in FATAL_CODES:
        return Verdict.FATAL
    return Verdict.RETRY


def describe_exit(code: int) -> str:
    """An exit code in words: `ended with exit code 70`, `killed by SIGKILL (out of memory?)`."""
    number = -code if code < 0 else code - 128
    if code >= 0 and (code == 130 or number not in set(signal.Signals)):
        return f"ended with exit code {code}"
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def explain(process: str, code: int, note: Note | None) -> Note:
    """Why a process, such as `learner-0`, ended; with its name in front unless the line has it."""
    if note is None:
        return Note(Reason.INTERNAL_ERROR, f"{process}: {describe_exit(code)}")
    role = process.rpartition("-")[0]
    if note.message.startswith((role, role.replace("-", " "))):
        return note
    return Note(note.reason, f"{process}: {note.message}")
