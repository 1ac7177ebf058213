"""The folder of a run: what lies where, how a new one is made and an old one found."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from asyncrl.errors import JobError

RUNS = Path("runs")


class RunFolderError(JobError):
    """One line: the folder, what is wrong with it, and the remedy."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the folder of one run."""

    path: Path

    @property
    def manifest(self) -> Path:
        """The resolved manifest, every default written out."""
        return self.path / "manifest.yaml"

    @property
    def status(self) -> Path:
        """The status, in the shape of the custom resource's; replaced atomically."""
        return self.path / "status.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per line, written by the learner."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the learner."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.path / "logs"

    @property
    def roles(self) -> Path:
        """Addresses and termination messages of the processes."""
        return self.path / "roles"

    @property
    def report(self) -> Path:
        """The page with the plots."""
        return self.path / "report.html"

    def log(self, process: str) -> Path:
        """The log of one process, such as `actor-0`."""
        return self.logs / f"{process}.log"

    def endpoint(self, process: str) -> Path:
        """Where a process writes the address of its metrics and health."""
        return self.roles / f"{process}.json"

    def termination(self, process: str) -> Path:
        """Where a process writes why it ended."""
        return self.roles / f"{process}.termination"

    def create(self) -> None:
        """Make the folder and its parts. Raises RunFolderError naming the folder and the cause."""
        try:
            for folder in (self.path, self.checkpoints, self.logs, self.roles):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: {error.strerror}; choose a writable folder with --output"
            ) from error

    def is_empty(self) -> bool:
        """True if the folder does not exist or has nothing in it."""
        try:
            return not any(self.path.iterdir())
        except FileNotFoundError:
            return True
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: {error.strerror}; choose another folder with --output"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one supervisor. Raises RunFolderError if another one has it."""
        with (self.roles / "supervisor.lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"{self.path}: another asyncrl run uses this folder; "
                    "wait for its end, or choose another folder with --output"
                ) from error
            yield

    def in_use(self) -> bool:
        """True while a supervisor holds the folder."""
        with suppress(FileNotFoundError), (self.roles / "supervisor.lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def new_run_folder(name: str, output: Path | None = None, runs: Path = RUNS) -> RunFolder:
    """The folder of a new run: `output` exactly, or runs/NAME-YYYYmmdd-HHMMSS (local time)."""
    if output is not None:
        return RunFolder(output)
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidate, number = runs / stem, 2
    while candidate.exists():
        candidate, number = runs / f"{stem}-{number}", number + 1
    return RunFolder(candidate)


def find_run_folder(run: str | None, runs: Path = RUNS) -> RunFolder:
    """The run that a person means: a folder, one under `runs`, that of a job, or the newest.

    This is for looking; what ends or continues a run finds it with `find_run_of`.
    """
    if run is not None:
        for path in (Path(run), runs / run):
            if (path / "manifest.yaml").is_file():
                return RunFolder(path)
        return find_run_of(run, runs)
    for path in _newest_first(runs):
        return RunFolder(path)
    raise RunFolderError(f"{runs}/: no run here yet; start one with `asyncrl run FILE`")


def find_run_of(job: str, runs: Path = RUNS) -> RunFolder:
    """The newest run of the job of this name among the folders that are called after it."""
    for path in _newest_first(runs):
        # The name of the folder alone would take cartpole-lag16's for one of cartpole.
        if path.name.startswith(f"{job}-") and job_of(RunFolder(path)) == job:
            return RunFolder(path)
    raise RunFolderError(
        f"{job}: no such run; give the folder of a run, or a name in {runs}/; "
        "a job on a cluster is found with --namespace"
    )


def job_of(folder: RunFolder) -> str | None:
    """The name of the job that a folder is a run of; None where its manifest does not say."""
    try:
        manifest = yaml.safe_load(folder.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    metadata = manifest.get("metadata") if isinstance(manifest, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _newest_first(runs: Path) -> list[Path]:
    found = [(path.stat().st_mtime_ns, path.parent) for path in runs.glob("*/manifest.yaml")]
    return [path for _, path in sorted(found, reverse=True)]


def read_json_object(path: Path) -> dict[str, object] | None:
    """The object in a small JSON file; None if there is none, or only a part of one yet."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
