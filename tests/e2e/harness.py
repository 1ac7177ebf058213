"""Runs of the real roles for tests: in this process's care, or through the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml
from safetensors.torch import load_file
from torch import Tensor

from asyncrl.backends.local import LocalRun
from asyncrl.backends.poller import endpoint_of, fetch_report, get
from asyncrl.backends.supervisor import Outcome
from asyncrl.run_folder import RunFolder
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus, LearnerReport
from asyncrl_worker.telemetry import read_rows

TESTS = Path(__file__).parent.parent
PATIENCE = float(os.environ.get("ASYNCRL_TEST_PATIENCE", "120"))
"""Seconds for anything to happen: a start takes three on idle cores and far more on busy ones."""

Document = dict[str, Any]
Found = TypeVar("Found")


def job_document(**spec: Any) -> Document:
    """A small job, quick to start and to step, with the given parts of its spec on top."""
    base: Document = {
        "workload": {"gymnasium": {"id": "CartPole-v1", "environments": 4}},
        "algorithm": {"fragmentLength": 8},
        "network": {"hiddenSizes": [16]},
        "stopping": {"policyVersions": 60},
        "evaluation": {"intervalVersions": None},
    }
    return {
        "apiVersion": "asyncrl.io/v1alpha1",
        "kind": "AsyncRLJob",
        "metadata": {"name": "test"},
        "spec": merged(base, spec),
    }


def gated_document(gate: Path, **spec: Any) -> Document:
    """A job that goes on until the file `gate` exists, then completes within a second or so."""
    kwargs = {"gate": str(gate)}
    gymnasium = {"id": "Gated-v0", "kwargs": kwargs, "modules": ["e2e.environments"]}
    base: Document = {
        "workload": {"gymnasium": gymnasium},
        "stopping": {"policyVersions": None, "targetReturn": 10, "wallTimeSeconds": 600},
        "checkpoint": {"intervalVersions": 20},
    }
    return job_document(**merged(base, spec))


def merged(base: Document, over: Mapping[str, Any]) -> Document:
    """`base` with `over` on top, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        result[key] = merged(base[key], value) if nested else value
    return result


def make_job(document: Document) -> AsyncRLJob:
    """The job of a manifest, as the command would load it."""
    return AsyncRLJob.model_validate(document)


def until(find: Callable[[], Found | None], what: str, seconds: float = PATIENCE) -> Found:
    """What `find` returns once that is something; fails when `seconds` are over."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        pause.wait(0.02)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Folder(RunFolder):
    """A run folder with what tests look at."""

    def read_status(self) -> JobStatus | None:
        """status.json, which is whole whenever it exists."""
        try:
            return JobStatus.model_validate_json(self.status.read_text())
        except FileNotFoundError:
            return None

    def pid(self, process: str) -> int:
        """The id of a process that has started."""
        return int(self._endpoint(process)["pid"])

    def attempt(self, process: str) -> int:
        """The attempt of a process that serves its health; -1 while there is none."""
        try:
            return int(self._endpoint(process)["attempt"])
        except FileNotFoundError:
            return -1

    def is_present(self, process: str) -> bool:
        """Whether a process lives and serves its health."""
        return self.attempt(process) >= 0 and is_alive(self.pid(process))

    def pids(self) -> dict[str, int]:
        """Every process that has written its endpoint file, dead ones too."""
        names = [path.stem for path in self.roles.glob("*-[0-9].json")]
        return {name: self.pid(name) for name in names}

    def _endpoint(self, process: str) -> Document:
        document: Document = json.loads(self.endpoint(process).read_text())
        return document

    def signal(self, process: str, number: int) -> None:
        """Send a signal to one process of the run."""
        os.kill(self.pid(process), number)

    def metrics_of(self, process: str) -> dict[str, float]:
        """The Prometheus metrics of a process, by name with labels; empty while it is away."""
        address = endpoint_of(self, process)
        if address is None:
            return {}
        try:
            lines = get(address, "/metrics")[1].decode().splitlines()
        except OSError:
            return {}
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def learner(self) -> LearnerReport | None:
        """The learner's answer to /report."""
        return fetch_report(self)

    def version(self) -> int:
        """The policy version that the learner reports now; -1 while it does not answer."""
        report = self.learner()
        return -1 if report is None else report.training.policy_version or 0

    def rows(self) -> list[Document]:
        """metrics.jsonl."""
        return read_rows(self.metrics)

    def words(self, process: str) -> str:
        """The log of a process."""
        path = self.log(process)
        return path.read_text() if path.exists() else ""

    def newest_checkpoint(self) -> int:
        """Version of the newest checkpoint; -1 while there is none."""
        return max((int(path.name[1:]) for path in self.checkpoints.glob("v*")), default=-1)

    def tensors(self, version: int) -> dict[str, Tensor]:
        """Everything in the tensors of a checkpoint."""
        return load_file(self.checkpoints / f"v{version:09d}" / "tensors.safetensors")

    def state(self, version: int) -> Document:
        """The rest of a checkpoint."""
        text = (self.checkpoints / f"v{version:09d}" / "state.json").read_text()
        document: Document = json.loads(text)["state"]
        return document


class SupervisedRun:
    """A LocalRun in a thread of this process; leaving the block ends it, whatever happened.

    Every status that it publishes is kept, and checked: the ledger balances at each of them.
    """

    def __init__(self, document: Document, folder: Path, *, resume: bool = False) -> None:
        self.folder = Folder(folder)
        self.statuses: list[JobStatus] = []
        self.events: list[str] = []
        self.outcome: Outcome | None = None
        self._error: BaseException | None = None
        self._run = LocalRun(
            make_job(document), folder, resume=resume, display=self, poll_seconds=0.1
        )
        self._thread = threading.Thread(target=self._wait, name="supervised-run")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._thread.is_alive():
            self._run.stop()
            if kind is not None:
                self._run.stop()  # the second one kills
            self._thread.join(5.0)
        if error is not None:
            error.add_note(self.story())
        else:
            self.check_ledgers()

    def _wait(self) -> None:
        try:
            self.outcome = self._run.wait()
        except BaseException as error:
            self._error = error

    def status(self, status: JobStatus) -> None:
        """Part of Display."""
        self.statuses.append(status)

    def event(self, line: str) -> None:
        """Part of Display."""
        self.events.append(line)

    def now(self) -> JobStatus:
        """The newest status."""
        return self._run.status

    def end(self, seconds: float = PATIENCE) -> Outcome:
        """Wait for the run's end."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the run did not end within {seconds:g} s"
        if self._error is not None:
            raise self._error
        assert self.outcome is not None
        return self.outcome

    def kill(self, process: str) -> None:
        """kill -9 a process of the run, and wait until it is dead."""
        pid = self.folder.pid(process)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), f"{process} is dead")

    def until_present(self, process: str) -> None:
        """Wait until a process lives and serves its health."""
        self.until(lambda: self.folder.is_present(process), f"{process} is here")

    def restarts(self, role: str) -> int:
        """Restarts of "actors", "learner" or "parameterServer"."""
        return next((role_.restarts for role_ in self.now().roles if role_.name == role), 0)

    def until(self, find: Callable[[], Found | None], what: str) -> Found:
        """As `until`, but fails at once when the run ends before."""

        def look() -> Found | None:
            found = find()
            assert found or self._thread.is_alive(), f"the run ended before: {what}"
            return found

        return until(look, what)

    def until_version(self, version: int) -> None:
        """Wait for a policy version."""
        self.until(lambda: self.folder.version() >= version, f"policy version {version}")

    def until_attempt(self, process: str, attempt: int) -> None:
        """Wait until a process has started again."""
        self.until(lambda: self.folder.attempt(process) >= attempt, f"{process} is back")

    def advances(self, versions: int = 5) -> None:
        """Wait until the learner has trained on; one that has just started reports a bit later."""
        self.until(lambda: self.folder.version() >= 0, "the learner reports")
        self.until_version(self.folder.version() + versions)

    def check_ledgers(self) -> None:
        """The invariant, at every status seen."""
        ledgers = [status.ledger for status in self.statuses if status.ledger is not None]
        broken = [ledger for ledger in ledgers if not ledger.balanced]
        assert not broken, f"{len(broken)} of {len(ledgers)} ledgers, the first: {broken[0]}"

    def story(self) -> str:
        """What happened, for a failed test."""
        lines = [f"outcome: {self.outcome}", *self.events]
        for path in sorted(self.folder.logs.glob("*.log")):
            lines += [f"--- {path.name}", *path.read_text().splitlines()[-15:]]
        return "\n".join(lines)


class Command:
    """`asyncrl run` as a process of its own; leaving the block kills what is left of it."""

    def __init__(self, document: Document, folder: Path, *arguments: str) -> None:
        self.folder = Folder(folder)
        beside = next(parent for parent in folder.parents if parent.is_dir())
        manifest = beside / f"{folder.name}.yaml"
        manifest.write_text(yaml.safe_dump(document))
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "asyncrl.cli.main", "run", str(manifest)),
                *("--output", str(folder), *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # the roles notice, and end
        self.process.communicate()

    def end(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def statuses(self) -> list[JobStatus]:
        """Every status.json that could be seen until the command ended."""
        seen: list[JobStatus] = []

        def look() -> bool:
            ended = self.process.poll() is not None
            status = self.folder.read_status()
            if status is not None and (not seen or seen[-1] != status):
                seen.append(status)
            return ended

        until(look, "the command ends")
        return seen

    def until(self, find: Callable[[], Found | None], what: str) -> Found:
        """As `until`, but fails at once when the command ends before."""

        def look() -> Found | None:
            found = find()
            assert found or self.process.poll() is None, f"ended before: {what}\n{self.end()}"
            return found

        return until(look, what)
