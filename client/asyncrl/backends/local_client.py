"""Jobs on this machine, in the background: each a LocalRun in a thread of this process."""

from __future__ import annotations

import atexit
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from asyncrl.backends.local import LocalRun
from asyncrl.backends.run_logs import LogLine, RunLogs
from asyncrl.backends.supervisor import Outcome
from asyncrl.errors import JobError, JobNotFoundError
from asyncrl.run_folder import (
    RUNS,
    RunFolder,
    RunFolderError,
    find_run_folder,
    find_run_of,
    new_run_folder,
)
from asyncrl_api.manifest import load_manifest
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus

POLL_SECONDS = 0.5


class _Background:
    """A run in a thread; a Display, so that it knows when the run has begun."""

    def __init__(self, job: AsyncRLJob, folder: RunFolder, *, resume: bool) -> None:
        self.run = LocalRun(job, folder.path, resume=resume, display=self)
        self.outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._begun = threading.Event()
        # Not Thread.join: interrupted by Ctrl-C, it takes the thread for ended (bpo-45274).
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"run {folder.path}", daemon=True)

    @property
    def going(self) -> bool:
        """Whether the run goes on."""
        return not self._over.is_set()

    def begin(self) -> None:
        """Return when the folder has its first status. Raises RunFolderError if it cannot."""
        self._thread.start()
        self._begun.wait()
        self.check()

    def check(self) -> None:
        """Raise what ended the thread, if that was no outcome."""
        if self._error is not None:
            raise self._error

    def status(self, status: JobStatus) -> None:
        """It has begun."""
        self._begun.set()

    def event(self, line: str) -> None:
        """The status says it too."""

    def _work(self) -> None:
        try:
            self.outcome = self.run.wait()
        except BaseException as error:  # raised where the run is waited for
            self._error = error
        finally:
            self._over.set()
            self._begun.set()

    def wait(self, seconds: float | None = None) -> None:
        """Return when the run is over, or the time."""
        self._over.wait(seconds)

    def end(self) -> None:
        """Checkpoint and end; returns when the processes are gone."""
        if self.going:
            self.run.stop()
        self.wait()


class LocalClient:
    """The verbs of `asyncrl.client.Client` on this machine; runs are folders below `runs`.

    What this client submitted ends, after a checkpoint, when the program ends. Runs of others can
    be looked at. Every method raises JobError, one line, or ManifestError.
    """

    def __init__(self, runs: Path = RUNS) -> None:
        self._runs = runs
        self._mine: dict[str, _Background] = {}
        atexit.register(self.close)

    def close(self) -> None:
        """End every run of this client, after a checkpoint."""
        atexit.unregister(self.close)
        for background in self._mine.values():
            if background.going:
                background.run.stop()
        for background in self._mine.values():
            background.wait()

    def submit(self, manifest: str | Path | AsyncRLJob, overrides: Sequence[str] = ()) -> str:
        """Start the job of a manifest in a folder of its own. Returns its name."""
        job = manifest if isinstance(manifest, AsyncRLJob) else load_manifest(manifest, overrides)
        mine = self._mine.get(job.name)
        if mine is not None and mine.going:
            raise JobError(f"{job.name}: runs already; wait for it, or suspend or delete it first")
        self._start(job, new_run_folder(job.name, runs=self._runs), resume=False)
        return job.name

    def status(self, name: str) -> JobStatus:
        """The status as it is now."""
        folder = self._folder(name)
        try:
            return JobStatus.model_validate_json(folder.status.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return JobStatus()
        except (OSError, ValidationError) as error:
            raise RunFolderError(f"{folder.status}: no readable status ({error})") from error

    def watch(self, name: str, timeout: float | None = None) -> Iterator[JobStatus]:
        """The status now and at every change, until the run has ended or the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, shown = threading.Event(), None
        while True:
            going = self._going(name)
            status = self.status(name)
            if status != shown:
                shown = status
                yield status
            if not going or (deadline is not None and time.monotonic() >= deadline):
                return
            pause.wait(POLL_SECONDS)

    def wait(self, name: str, timeout: float | None = None) -> Outcome:
        """How the run ended. Raises TimeoutError after `timeout` seconds; the job goes on."""
        mine = self._mine.get(name)
        if mine is not None:
            mine.wait(timeout)
            mine.check()
            if mine.outcome is not None:
                return mine.outcome
        else:
            for _ in self.watch(name, timeout):
                pass
        status = self.status(name)
        if self._going(name):
            raise TimeoutError(f"{name}: still {status.phase} after {timeout:g} s")
        if status.phase in ("Complete", "Failed", "Suspended"):
            return Outcome(status.phase, status.reason or "", status.message or "")
        raise JobError(f"{name}: its supervisor is gone; resume it")

    def logs(
        self,
        name: str,
        *,
        role: str | None = None,
        index: int | None = None,
        lines: int | None = None,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """What the processes of the run wrote; with `follow`, on until the run ends."""
        return RunLogs(self._folder(name)).read(role, index, lines, follow=follow)

    def scale(self, name: str, actors: int) -> None:
        """Another number of actors: the run stops at a checkpoint and goes on from it with them."""
        folder = self._folder(name)
        job = load_manifest(folder.manifest, [f"spec.actors.replicas={actors}"])
        self._own(name).end()
        self._start(job, folder, resume=True)

    def suspend(self, name: str) -> None:
        """Checkpoint and end all processes; returns when they are gone."""
        self._own(name).end()

    def resume(self, name: str) -> None:
        """Go on from the checkpoint."""
        folder = self._folder_of(name)
        if self._going(name):
            return
        phase = self.status(name).phase
        if phase in ("Complete", "Failed"):
            raise JobError(f"{name}: is {phase}, there is nothing to resume; submit it again")
        self._start(load_manifest(folder.manifest), folder, resume=True)

    def delete(self, name: str) -> None:
        """End the run and remove its folder."""
        folder = self._folder_of(name)
        if name in self._mine or folder.in_use():
            self._own(name).end()
            self._mine.pop(name)
        shutil.rmtree(folder.path)

    def _start(self, job: AsyncRLJob, folder: RunFolder, *, resume: bool) -> None:
        background = self._mine[job.name] = _Background(job, folder, resume=resume)
        background.begin()

    def _folder(self, name: str) -> RunFolder:
        """What to look at: the newest run of the job, or else the folder of this name."""
        with suppress(JobNotFoundError):
            return self._folder_of(name)
        try:
            return find_run_folder(name, self._runs)
        except RunFolderError as error:
            raise JobNotFoundError(str(error)) from None

    def _folder_of(self, name: str) -> RunFolder:
        """What to resume or remove: only a run of the job itself, never a folder called alike."""
        mine = self._mine.get(name)
        if mine is not None:
            return mine.run.folder
        try:
            return find_run_of(name, self._runs)
        except RunFolderError as error:
            raise JobNotFoundError(str(error)) from None

    def _going(self, name: str) -> bool:
        mine = self._mine.get(name)
        return mine.going if mine is not None else self._folder(name).in_use()

    def _own(self, name: str) -> _Background:
        mine = self._mine.get(name)
        if mine is None:
            folder = self._folder(name)
            raise JobError(
                f"{name}: {folder.path} is not a run of this program; end it where it runs"
            )
        return mine
