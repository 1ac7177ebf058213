"""A unit of the run: processes that fail and restart together, and what their ends mean.

One actor is a unit, the parameter server is one, and so are all learner ranks together, since
torch.distributed cannot replace a single rank.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from asyncrl_api.reasons import Reason

FAILURE_MEMORY_SECONDS = 600.0


class Role(StrEnum):
    """The kinds of process; the value is the name in files, logs and the status."""

    PARAMETER_SERVER = "parameter-server"
    LEARNER = "learner"
    ACTOR = "actor"


@dataclass(frozen=True, order=True)
class ProcessName:
    """One process of the run, `actor-3` in files and messages."""

    role: Role
    index: int

    def __str__(self) -> str:
        return f"{self.role.value}-{self.index}"


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
    """The meaning of an exit code; negative codes are signals, as in `subprocess`."""
    if code == 0:
        return Verdict.DONE
    if code in (130, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT):
        return Verdict.DISRUPTED
    if code in (1, 2, 74):
        return Verdict.FATAL
    return Verdict.RETRY


@dataclass(frozen=True)
class Start:
    """Start this process; `attempt` counts the restarts of its unit."""

    process: ProcessName
    attempt: int


@dataclass(frozen=True)
class Terminate:
    """Send SIGTERM."""

    process: ProcessName


@dataclass(frozen=True)
class Kill:
    """Send SIGKILL to the process and what it started."""

    process: ProcessName


@dataclass(frozen=True)
class Diagnose:
    """Ask the roles for their health and answer with `Supervisor.diagnosed`."""


Action = Start | Terminate | Kill | Diagnose


@dataclass
class Unit:
    """Processes that live and die together, with their restart history."""

    role: Role
    members: tuple[ProcessName, ...]
    attempt: int = 0
    restarts: int = 0
    disruptions: int = 0
    running: set[ProcessName] = field(default_factory=set)
    finished: bool = False
    restart_at: float | None = None
    _failures: int = 0
    _failed_at: float = 0.0
    _worst: tuple[ProcessName, int, Note | None] | None = None
    _asked: set[ProcessName] = field(default_factory=set)
    _kill_at: float | None = None
    _wanted: Note | None = None

    def start(self) -> list[Action]:
        """Start every member."""
        self.restart_at = self._kill_at = self._worst = self._wanted = None
        self.finished = False
        self._asked.clear()
        self.running = set(self.members)
        return [Start(member, self.attempt) for member in self.members]

    def terminate(self, kill_at: float) -> list[Action]:
        """Ask the running members to end, once, and kill them at `kill_at`."""
        if self._kill_at is None or kill_at < self._kill_at:
            self._kill_at = kill_at
        told = sorted(self.running - self._asked)
        self._asked.update(told)
        return [Terminate(member) for member in told]

    def replace(self, why: Note, kill_at: float) -> list[Action]:
        """End the members although none has failed, to start them again."""
        self._wanted = why
        return self.terminate(kill_at)

    def kill(self) -> list[Action]:
        """Kill the running members now."""
        self._kill_at = None
        return [Kill(member) for member in sorted(self.running)]

    @property
    def asked(self) -> frozenset[ProcessName]:
        """The members that were asked to end in this attempt."""
        return frozenset(self._asked)

    @property
    def kill_at(self) -> float | None:
        """When the members that were asked to end are killed."""
        return self._kill_at if self.running else None

    def member_exited(self, name: ProcessName, code: int, note: Note | None) -> None:
        """Remember the exit that explains the others: the most serious, then the first."""
        self.running.discard(name)
        order = (Verdict.DONE, Verdict.DISRUPTED, Verdict.RETRY, Verdict.FATAL)
        meaning = verdict(code)
        if name in self._asked and meaning is not Verdict.FATAL:
            return
        if self._worst is None or order.index(meaning) > order.index(verdict(self._worst[1])):
            self._worst = (name, code, note)

    def cause(self) -> tuple[Verdict, Note]:
        """Why the unit is down, once no member runs."""
        if self._worst is not None and verdict(self._worst[1]) is Verdict.FATAL:
            return Verdict.FATAL, explain(*self._worst)
        if self._wanted is not None:
            return Verdict.RETRY, self._wanted
        if self._worst is None:
            return Verdict.DISRUPTED, Note(Reason.INTERNAL_ERROR, f"{self.members[0]}: terminated")
        return verdict(self._worst[1]), explain(*self._worst)

    def count_failure(self, now: float) -> int:
        """Failures in a row, this one included."""
        if now - self._failed_at > FAILURE_MEMORY_SECONDS:
            self._failures = 0
        self._failures += 1
        self._failed_at = now
        return self._failures

    def schedule(self, delay: float, now: float) -> None:
        """Start again after `delay` seconds, as the next attempt."""
        self.attempt += 1
        self.restart_at = now + delay
        self.finished = False


def describe_exit(code: int) -> str:
    """An exit code in words: `exit code 70`, `killed by SIGKILL (out of memory?)`."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def explain(name: ProcessName, code: int, note: Note | None) -> Note:
    """Why a process ended, with its name in front unless its own line has it."""
    if note is None:
        return Note(Reason.INTERNAL_ERROR, f"{name}: {describe_exit(code)}")
    if note.message.startswith((name.role.value, name.role.value.replace("-", " "))):
        return note
    return Note(note.reason, f"{name}: {note.message}")
