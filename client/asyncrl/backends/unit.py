"""A unit of the run: processes that fail and restart together, and what their ends mean.

One actor is a unit, the parameter server is one, and so are all learner ranks together, since
torch.distributed cannot replace a single rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from asyncrl_api.exits import FAILURE_MEMORY_SECONDS, Note, Verdict, explain, verdict
from asyncrl_api.reasons import Reason


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
            return Verdict.FATAL, _explain(*self._worst)
        if self._wanted is not None:
            return Verdict.RETRY, self._wanted
        if self._worst is None:
            return Verdict.DISRUPTED, Note(Reason.INTERNAL_ERROR, f"{self.members[0]}: terminated")
        return verdict(self._worst[1]), _explain(*self._worst)

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


def _explain(name: ProcessName, code: int, note: Note | None) -> Note:
    return explain(str(name), code, note)
