"""Decides what happens to the processes of a run; pure: events and the time in, actions out.

Restarts wait for a capped exponential back-off. `backoff_limit` restarts of one unit are allowed,
as in the Kubernetes field backoffLimitPerIndex; ten minutes without a failure clear the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from asyncrl.backends.unit import Action, Diagnose, ProcessName, Role, Unit
from asyncrl_api.exits import Note, Verdict, describe_exit, explain, verdict
from asyncrl_api.reasons import Reason

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 30.0
DRAIN_SECONDS = 10.0
"""After the learner completed, the others get this long to leave by themselves."""
UNIT_GRACE_SECONDS = 5.0
"""When one rank died, or the learner stalls, its processes get this long after SIGTERM."""
DIAGNOSIS_SECONDS = 5.0
START_STALL_TIMEOUTS = 2.0
"""Stall timeouts until the first report. A role has a watchdog of its own, which names what hangs
after one, but its clock starts only after the imports."""


@dataclass(frozen=True)
class Policy:
    """The run policy in seconds and counts; None means no limit."""

    actors: int
    learners: int = 1
    backoff_limit: int = 6
    stall_timeout: float | None = 60.0
    grace: float = 30.0
    active_deadline: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How the run ended."""

    phase: Literal["Complete", "Failed", "Suspended"]
    reason: str
    message: str

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0 Complete, 1 Failed or suspended, 130 interrupted."""
        if self.phase == "Complete":
            return 0
        return 130 if self.reason == Reason.INTERRUPTED else 1


def backoff(failures: int) -> float:
    """Seconds to wait before the restart that follows this many failures in a row."""
    return min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2.0 ** min(failures - 1, 16))


class Supervisor:
    """State machine of one run. Methods take the time (monotonic seconds) and return actions.

    The caller carries the actions out, feeds back exits and reports, and calls `tick` no later than
    `wake_at()`. The run is over when `outcome` is set.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        server = ProcessName(Role.PARAMETER_SERVER, 0)
        ranks = tuple(ProcessName(Role.LEARNER, rank) for rank in range(policy.learners))
        self._server = Unit(Role.PARAMETER_SERVER, (server,))
        self._learner = Unit(Role.LEARNER, ranks)
        self._actors = [
            Unit(Role.ACTOR, (ProcessName(Role.ACTOR, index),)) for index in range(policy.actors)
        ]
        # The learner first: it takes longest to start.
        self.units = (self._learner, self._server, *self._actors)
        self._began = 0.0
        self._token: tuple[object, ...] | None = None
        self._reported = False
        self._progress_at = 0.0
        self._stalls = 0
        self._diagnosing_until: float | None = None
        self._conclusion = Outcome("Complete", Reason.FINISHED, "the run is over")
        self._ending: Outcome | None = None
        self._drain_until: float | None = None
        self._kill_all_at: float | None = None
        self.events: list[str] = []
        """One line per thing worth telling, oldest first; the caller takes and clears them."""

    @property
    def ending(self) -> bool:
        """True once the run is being ended, for whatever reason."""
        return self._ending is not None

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended, once every process is gone."""
        if self._ending is None or any(unit.running for unit in self.units):
            return None
        return self._ending

    @property
    def learner_restarting(self) -> bool:
        """True from the learner's failure until its next report."""
        return self._learner.attempt > 0 and not self._reported and not self.ending

    def wake_at(self) -> float | None:
        """When `tick` has something to do, if nothing happens before."""
        times = [unit.kill_at for unit in self.units]
        if self._ending is None:
            times += [unit.restart_at for unit in self.units]
            times += [self._stall_at(), self._diagnosing_until]
            if self._policy.active_deadline is not None:
                times.append(self._began + self._policy.active_deadline)
        else:
            times += [self._drain_until, self._kill_all_at]
        return min((time for time in times if time is not None), default=None)

    def begin(self, now: float) -> list[Action]:
        """Start everything."""
        self._began = self._progress_at = now
        return [action for unit in self.units for action in unit.start()]

    def concludes(self, outcome: Outcome) -> None:
        """What the learner says an exit code 0 of it means: Complete, or Suspended."""
        self._conclusion = outcome

    def exited(self, name: ProcessName, code: int, note: Note | None, now: float) -> list[Action]:
        """A process ended, with the reason it gave if it gave one."""
        unit = self._unit(name)
        unit.member_exited(name, code, note)
        if name == self._learner.members[0] and code == 0:
            return self._completed(now)
        if self._ending is not None:
            if name == self._learner.members[0] and self._ending.reason == Reason.INTERRUPTED:
                self._ending = self._interrupted_outcome(name, code, note)
            return self._advance(now)
        if unit.running:
            if verdict(code) is Verdict.DONE:
                return []
            return list(unit.terminate(now + min(UNIT_GRACE_SECONDS, self._policy.grace)))
        return self._settle(unit, now)

    def reported(self, token: tuple[object, ...], now: float) -> list[Action]:
        """The learner answered; `token` changes whenever it makes progress."""
        first = not self._reported
        self._reported = True
        if first or token != self._token:
            if not first:
                # The first report of an attempt is where it starts from, no progress.
                self._stalls = 0
            self._token = token
            self._progress_at = now
        if first and self._learner.attempt > 0:
            self.events.append("learner: running again")
        return []

    def diagnosed(self, problems: Mapping[ProcessName, str], now: float) -> list[Action]:
        """Answer to `Diagnose`: the unhealthy roles, each with one line."""
        if self._diagnosing_until is None or self._ending is not None:
            return []
        self._diagnosing_until = None
        seconds = f"{self._policy.stall_timeout:g} s"
        others = {name: line for name, line in problems.items() if name.role is not Role.LEARNER}
        cause = "; ".join(f"{name}: {line}" for name, line in sorted(others.items())[:3])
        message = f"learner-0: no progress for {seconds}" + (f" ({cause})" if cause else "")
        self._stalls += 1
        if self._stalls > 1 or self._policy.backoff_limit == 0:
            remedy = "see the logs of the roles, or raise spec.runPolicy.stallTimeoutSeconds"
            return self.fail(Note(Reason.STALLED, f"{message}; {remedy}"), now)
        kill_at = now + min(UNIT_GRACE_SECONDS, self._policy.grace)
        actions = list(self._learner.replace(Note(Reason.STALLED, message), kill_at))
        for name, line in sorted(others.items()):
            unit = self._unit(name)
            if unit.running:
                why = Note(Reason.STALLED, f"{name}: {line}")
                actions += unit.replace(why, kill_at)
        return actions

    def interrupted(self, now: float) -> list[Action]:
        """Ctrl-C or SIGTERM: end with a checkpoint. The second time: kill."""
        if self._ending is None:
            return self._end(Outcome("Suspended", Reason.INTERRUPTED, "interrupted"), now)
        return [action for unit in self.units for action in unit.kill()]

    def fail(self, note: Note, now: float) -> list[Action]:
        """End the run as Failed, with the learner's checkpoint where it can still write one."""
        if self._ending is not None:
            return []
        return self._end(Outcome("Failed", note.reason, note.message), now)

    def tick(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        for unit in self.units:
            if unit.kill_at is not None and now >= unit.kill_at:
                actions += unit.kill()
        if self._ending is not None:
            return actions + self._tick_ending(now)
        deadline = self._policy.active_deadline
        if deadline is not None and now - self._began >= deadline:
            message = f"spec.runPolicy.activeDeadlineSeconds: {deadline:g} s are over"
            return actions + self.fail(Note(Reason.DEADLINE_EXCEEDED, message), now)
        for unit in self.units:
            if unit.restart_at is not None and now >= unit.restart_at:
                if unit is self._learner:
                    self._progress_at = now
                actions += unit.start()
        if self._diagnosing_until is not None and now >= self._diagnosing_until:
            actions += self.diagnosed({}, now)
        stall_at = self._stall_at()
        if stall_at is not None and now >= stall_at:
            actions += self._stalled(now)
        return actions

    def _stall_at(self) -> float | None:
        unit = self._learner
        watching = unit.running and not unit.asked and self._diagnosing_until is None
        if self._policy.stall_timeout is None or not watching:
            return None
        timeout = self._policy.stall_timeout
        return self._progress_at + (timeout if self._reported else START_STALL_TIMEOUTS * timeout)

    def _stalled(self, now: float) -> list[Action]:
        if not self._reported:
            assert self._policy.stall_timeout is not None
            message = (
                "learner-0: no report within "
                f"{START_STALL_TIMEOUTS * self._policy.stall_timeout:g} s of its start; "
                "see its log, or raise spec.runPolicy.stallTimeoutSeconds"
            )
            return self.fail(Note(Reason.STALLED, message), now)
        self._diagnosing_until = now + DIAGNOSIS_SECONDS
        return [Diagnose()]

    def _settle(self, unit: Unit, now: float) -> list[Action]:
        """The last process of a unit is gone: restart it, or end the run."""
        meaning, note = unit.cause()
        if meaning is Verdict.FATAL:
            return self.fail(note, now)
        if meaning is Verdict.DONE:
            unit.finished = True
            return []
        if meaning is Verdict.DISRUPTED:
            unit.disruptions += 1
            self._restart(unit, BACKOFF_BASE_SECONDS, note, now)
            return []
        failures = unit.count_failure(now)
        if failures > self._policy.backoff_limit:
            times = "once" if failures == 1 else f"{failures} times"
            message = f"{note.message} (failed {times}; spec.runPolicy.backoffLimit)"
            return self.fail(Note(Reason.BACKOFF_LIMIT_EXCEEDED, message), now)
        unit.restarts += 1
        self._restart(unit, backoff(failures), note, now)
        return []

    def _restart(self, unit: Unit, delay: float, note: Note, now: float) -> None:
        unit.schedule(delay, now)
        self.events.append(f"{note.message}; restart in {delay:g} s")
        if unit is self._learner:
            self._reported = False
            self._diagnosing_until = None
            for other in self.units:
                if other.finished:
                    # They drained for a learner that did not get to its end.
                    other.schedule(delay, now)

    def _completed(self, now: float) -> list[Action]:
        if self._ending is None or self._ending.reason == Reason.INTERRUPTED:
            self._ending = self._conclusion
            drain = min(DRAIN_SECONDS, self._policy.grace)
            self._drain_until = now + drain
            self._kill_all_at = now + drain + self._policy.grace
            for unit in self.units:
                unit.restart_at = None
        return self._advance(now)

    def _interrupted_outcome(self, name: ProcessName, code: int, note: Note | None) -> Outcome:
        if verdict(code) is Verdict.FATAL:
            why = explain(str(name), code, note)
            return Outcome("Failed", why.reason, f"{why.message} (while interrupted)")
        if code == 130:
            return Outcome("Suspended", Reason.INTERRUPTED, "interrupted after its checkpoint")
        message = f"interrupted, without a last checkpoint ({describe_exit(code)})"
        return Outcome("Suspended", Reason.INTERRUPTED, message)

    def _end(self, outcome: Outcome, now: float) -> list[Action]:
        self._ending = outcome
        self._diagnosing_until = None
        self._kill_all_at = now + self._policy.grace
        for unit in self.units:
            unit.restart_at = None
        return self._advance(now)

    def _tick_ending(self, now: float) -> list[Action]:
        if self._kill_all_at is not None and now >= self._kill_all_at:
            self._kill_all_at = None
            return [action for unit in self.units for action in unit.kill()]
        return self._advance(now)

    def _advance(self, now: float) -> list[Action]:
        """Ask the next role to end: the learner, then the actors, then the parameter server."""
        if self._drain_until is not None:
            if now < self._drain_until:
                return []
            self._drain_until = None
        if self._kill_all_at is None:
            return []
        for stage in ([self._learner], self._actors, [self._server]):
            if any(unit.running for unit in stage):
                kill_at = self._kill_all_at
                return [action for unit in stage for action in unit.terminate(kill_at)]
        return []

    def _unit(self, name: ProcessName) -> Unit:
        if name.role is Role.LEARNER:
            return self._learner
        return self._server if name.role is Role.PARAMETER_SERVER else self._actors[name.index]
