"""Runs a job on this machine: the same role processes as in pods, under a local supervisor.

outcome = LocalRun(load_manifest(Path("job.yaml")), Path("runs/mine")).wait()
"""

from __future__ import annotations

import contextlib
import errno
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from asyncrl.backends.launch import COMMANDS, Launch, socket_path
from asyncrl.backends.poller import POLL_SECONDS, Observation, Poller, health_problem
from asyncrl.backends.processes import ChildProcess
from asyncrl.backends.status import StatusBuilder, StatusFile, utc_now
from asyncrl.backends.supervisor import (
    Outcome,
    Policy,
    Supervisor,
)
from asyncrl.backends.unit import (
    Action,
    Diagnose,
    Kill,
    ProcessName,
    Role,
    Start,
    Terminate,
)
from asyncrl.run_folder import RunFolder, RunFolderError, read_json_object
from asyncrl_api.exits import Note, describe_exit
from asyncrl_api.immutability import STATE, immutable_changes
from asyncrl_api.manifest import dump_manifest, load_manifest
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus, LearnerReport
from asyncrl_worker.atomic import write_atomically

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Display(Protocol):
    """Shows a run while it goes on; called from one thread."""

    def status(self, status: JobStatus) -> None:
        """The newest status, about twice a second."""

    def event(self, line: str) -> None:
        """Something worth telling happened."""


class Silent:
    """Shows nothing."""

    def status(self, status: JobStatus) -> None:
        """Show nothing."""

    def event(self, line: str) -> None:
        """Show nothing."""


@dataclass(frozen=True)
class _Exited:
    process: ProcessName
    attempt: int
    code: int


@dataclass(frozen=True)
class _Diagnosed:
    problems: Mapping[ProcessName, str]


class _Interrupted:
    pass


_Event = _Exited | _Diagnosed | _Interrupted | Observation


class LocalRun:
    """One run of a job in `directory`, or its continuation with `resume`.

    `wait` starts the processes and returns when all of them are gone; SIGINT, SIGTERM and SIGHUP
    end the run after a checkpoint when it is called from the main thread. Raises RunFolderError for
    a folder that cannot be used. `commands` replaces the programs of the
    roles; the learner is asked for its report every `poll_seconds`.
    """

    def __init__(
        self,
        job: AsyncRLJob,
        directory: Path,
        *,
        resume: bool = False,
        display: Display | None = None,
        commands: Mapping[Role, Sequence[str]] = COMMANDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.folder = RunFolder(directory.absolute())
        self._job = job
        self._resume = resume
        self._display = display or Silent()
        self._launch = Launch(job, self.folder, commands=commands, resume=resume)
        self._poll_seconds = poll_seconds
        self._supervisor = Supervisor(policy_of(job))
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._children: dict[ProcessName, ChildProcess] = {}
        self._ready: frozenset[str] = frozenset()
        self._report: LearnerReport | None = None
        self._builder = StatusBuilder(job, utc_now())
        self._file = StatusFile(self.folder)
        self._status = JobStatus()

    @property
    def status(self) -> JobStatus:
        """The newest status; what status.json holds, or will hold within a second."""
        return self._status

    def wait(self) -> Outcome:
        """Run to the end."""
        self._check_folder()
        self.folder.create()
        with self.folder.locked(), socket_path(self.folder) as path, self._signals():
            self._launch.address = f"unix:{path}"
            self._prepare()
            processes = [member for unit in self._supervisor.units for member in unit.members]
            try:
                with Poller(self.folder, processes, self._events.put, self._poll_seconds):
                    return self._loop()
            finally:
                for child in self._children.values():
                    child.kill()

    def stop(self) -> None:
        """End the run after a checkpoint; a second call kills. Safe from any thread or signal."""
        self._events.put(_Interrupted())

    def _check_folder(self) -> None:
        path, manifest = self.folder.path, self.folder.manifest
        if not self._resume:
            if not self.folder.is_empty():
                raise RunFolderError(
                    f"{path}: not empty; continue the run in it with --resume, "
                    "or choose another folder with --output"
                )
            return
        if not manifest.is_file():
            raise RunFolderError(f"{path}: no run to resume here; leave out --resume to start one")
        known = load_manifest(manifest)
        if known.name != self._job.name:
            raise RunFolderError(
                f"metadata.name: {self._job.name} is not {known.name}, the job of the run in "
                f"{path}; leave out --resume and choose another folder with --output"
            )
        changes = immutable_changes(known.spec, self._job.spec, STATE)
        if changes:
            raise RunFolderError("\n".join(str(change) for change in changes))

    def _prepare(self) -> None:
        try:
            write_atomically(self.folder.manifest, dump_manifest(self._job).encode())
            for leftover in self.folder.roles.iterdir():
                if leftover.suffix in (".json", ".termination"):
                    leftover.unlink()
        except OSError as error:
            raise RunFolderError(
                f"{self.folder.path}: {error.strerror}; choose a writable folder with --output"
            ) from error

    def _loop(self) -> Outcome:
        supervisor = self._supervisor
        self._act(supervisor.begin(time.monotonic()))
        self._publish(None)
        while (outcome := supervisor.outcome) is None:
            wake_at = supervisor.wake_at()
            timeout = None if wake_at is None else max(0.0, wake_at - time.monotonic())
            event = None
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=timeout)
            now = time.monotonic()
            if event is not None:
                self._act(self._handle(event, now))
            self._act(supervisor.tick(now))
            self._publish(None)
        self._publish(outcome)
        return outcome

    def _handle(self, event: _Event, now: float) -> list[Action]:
        supervisor = self._supervisor
        if isinstance(event, _Exited):
            return self._exited(event, now)
        if isinstance(event, Observation):
            self._ready = event.ready
            return self._reported(event.report, now) if event.report is not None else []
        if isinstance(event, _Diagnosed):
            return supervisor.diagnosed(event.problems, now)
        self._display.event(
            "killing the processes" if supervisor.ending else "ending after a checkpoint"
        )
        return supervisor.interrupted(now)

    def _reported(self, report: LearnerReport, now: float) -> list[Action]:
        if report.attempt != supervisor_attempt(self._supervisor):
            return []  # from the process that has just been replaced
        self._report = report
        trained, produced = report.ledger.trained, report.ledger.produced
        token = (report.attempt, report.update, trained, produced)
        return self._supervisor.reported(token, now)

    def _exited(self, event: _Exited, now: float) -> list[Action]:
        name, code = event.process, event.code
        note = self._note(name, code)
        if name == ProcessName(Role.LEARNER, 0):
            final = self._final_report(event.attempt)
            if final is not None:
                self._report = final
            if code == 0:
                self._supervisor.concludes(_conclusion(final, note))
                note = None
        return self._supervisor.exited(name, code, note, now)

    def _final_report(self, attempt: int) -> LearnerReport | None:
        """The report that the learner leaves when it ends, for what the last poll missed."""
        document = read_json_object(self.folder.roles / "learner-0.report.json")
        if document is None:
            return None
        report = LearnerReport.model_validate(document)
        return report if report.attempt == attempt else None

    def _note(self, name: ProcessName, code: int) -> Note | None:
        document = read_json_object(self.folder.termination(str(name)))
        if document is not None:
            reason = str(document.get("reason"))
            known = reason.isalnum() and reason[0].isalpha() and len(reason) <= 64
            return Note(reason if known else Reason.INTERNAL_ERROR, str(document.get("message")))
        if code == 0:
            return None
        if code == -signal.SIGKILL:
            return Note(Reason.OUT_OF_MEMORY, f"{name}: {describe_exit(code)}")
        log = self.folder.log(str(name))
        return Note(Reason.INTERNAL_ERROR, f"{name}: {describe_exit(code)}{_last_words(log)}")

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._start(action)
            elif isinstance(action, Terminate):
                if (child := self._children.get(action.process)) is not None:
                    child.terminate()
            elif isinstance(action, Kill):
                if (child := self._children.get(action.process)) is not None:
                    child.kill()
            elif isinstance(action, Diagnose):
                running = [name for unit in self._supervisor.units for name in unit.running]
                threading.Thread(
                    target=self._diagnose, args=(running,), name="diagnose", daemon=True
                ).start()

    def _diagnose(self, running: Sequence[ProcessName]) -> None:
        problems = {name: health_problem(self.folder, str(name)) for name in running}
        found = {name: line for name, line in problems.items() if line is not None}
        self._events.put(_Diagnosed(found))

    def _start(self, action: Start) -> None:
        name, attempt = action.process, action.attempt
        if self._supervisor.ending:  # a start before this one failed
            self._act(self._supervisor.exited(name, 130, None, time.monotonic()))
            return
        if name == ProcessName(Role.LEARNER, 0):
            self._launch.choose_rendezvous()

        def on_exit(code: int) -> None:
            self._events.put(_Exited(name, attempt, code))

        try:
            for stale in (self.folder.endpoint(str(name)), self.folder.termination(str(name))):
                stale.unlink(missing_ok=True)
            self._children[name] = ChildProcess(
                self._launch.command(name, attempt),
                environment=self._launch.environment(name),
                log=self.folder.log(str(name)),
                header=f"{name} attempt {attempt}",
                on_exit=on_exit,
            )
        except OSError as error:
            self._act(self._supervisor.exited(name, 74, disk_note(error), time.monotonic()))

    def _publish(self, outcome: Outcome | None) -> None:
        for line in self._supervisor.events:
            self._display.event(line)
        self._supervisor.events.clear()
        status = self._builder.build(
            self._supervisor.units,
            self._ready,
            report=self._report,
            restarting=self._supervisor.learner_restarting,
            outcome=outcome,
            now=utc_now(),
        )
        self._status = status
        self._display.status(status)
        try:
            self._file.write(status, final=outcome is not None)
        except OSError as error:
            note = disk_note(error)
            if outcome is not None:
                self._display.event(f"status.json is not up to date: {note.message}")
            self._act(self._supervisor.fail(note, time.monotonic()))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn signals into an event; the queue may be fed from a signal handler."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.stop()

        # What is ignored stays ignored: SIGHUP under nohup, SIGINT of a shell's background job.
        numbers = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        previous = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def policy_of(job: AsyncRLJob) -> Policy:
    """The part of a job that the supervisor needs."""
    run = job.spec.run_policy
    return Policy(
        actors=job.spec.actors.replicas,
        learners=job.spec.learner.replicas,
        backoff_limit=run.backoff_limit,
        stall_timeout=run.stall_timeout_seconds,
        grace=run.termination_grace_period_seconds,
        active_deadline=run.active_deadline_seconds,
    )


def supervisor_attempt(supervisor: Supervisor) -> int:
    """The attempt of the learner that runs now."""
    return max(unit.attempt for unit in supervisor.units if unit.role is Role.LEARNER)


def disk_note(error: OSError) -> Note:
    """One line for a failed write: file, cause and remedy."""
    where = f"{error.filename}: " if error.filename else ""
    cause = error.strerror or str(error)
    if error.errno in DISK_FULL:
        return Note(Reason.DISK_FULL, f"run folder: {where}{cause}; free space, then --resume")
    return Note(Reason.DISK_UNWRITABLE, f"run folder: {where}{cause}; check its permissions")


def _conclusion(report: LearnerReport | None, note: Note | None) -> Outcome:
    if report is not None and report.outcome is not None:
        reason = report.reason or Reason.FINISHED
        return Outcome(report.outcome, reason, report.message or "")
    if note is not None:
        return Outcome("Suspended", note.reason, note.message)
    return Outcome("Complete", Reason.FINISHED, "")


def _last_words(log: Path) -> str:
    """The last line of a log, where a crash before any message leaves its error."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
        words = next((line for line in reversed(lines) if line and not line.startswith("---")), "")
        return f": {words[:200]}; see {log}" if words else f"; see {log}"
    return ""
