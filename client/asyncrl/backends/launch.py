"""How each process of a local run is started: its command line, environment and addresses."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from asyncrl.backends.processes import child_environment
from asyncrl.backends.unit import ProcessName, Role
from asyncrl.run_folder import RunFolder
from asyncrl_api.spec import AsyncRLJob

LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel's limit is 107 on Linux and 103 on macOS."""

SOCKET = "ps.sock"

COMMANDS: Mapping[Role, Sequence[str]] = {
    Role.PARAMETER_SERVER: (sys.executable, "-m", "asyncrl_worker.parameter_server.main"),
    Role.LEARNER: (sys.executable, "-m", "asyncrl_worker.learner.main"),
    Role.ACTOR: (sys.executable, "-m", "asyncrl_worker.actor.main"),
}


class Launch:
    """Builds what the processes of one run are started with; `address` is set before the first."""

    def __init__(
        self,
        job: AsyncRLJob,
        folder: RunFolder,
        *,
        commands: Mapping[Role, Sequence[str]],
        resume: bool,
    ) -> None:
        self.address = ""
        self._job = job
        self._folder = folder
        self._commands = commands
        self._resume = resume
        self._rendezvous_port = 0

    def choose_rendezvous(self) -> None:
        """Choose a port where the learner ranks meet; once for each of their attempts."""
        self._rendezvous_port = _free_port()

    def command(self, name: ProcessName, attempt: int) -> list[str]:
        """The command line of a process."""
        spec = self._job.spec
        port = {
            Role.ACTOR: spec.actors.metrics_port,
            Role.LEARNER: spec.learner.metrics_port,
            Role.PARAMETER_SERVER: spec.parameter_server.metrics_port,
        }[name.role]
        command = [
            *self._commands[name.role],
            *("--manifest", str(self._folder.manifest)),
            *("--address", self.address),
            *("--run-directory", str(self._folder.path)),
            *("--index", str(name.index)),
            *("--attempt", str(attempt)),
            # Replicas share this machine's ports: each takes the next one.
            *("--http", f"127.0.0.1:{port + name.index if port else 0}"),
        ]
        if self._resume and name.role is Role.LEARNER:
            command.append("--resume")
        return command

    def environment(self, name: ProcessName) -> dict[str, str]:
        """The environment of a process."""
        spec = self._job.spec
        role = {
            Role.ACTOR: spec.actors,
            Role.LEARNER: spec.learner,
            Role.PARAMETER_SERVER: spec.parameter_server,
        }[name.role]
        extra = {variable.name: variable.value for variable in role.env}
        if name.role is Role.LEARNER:
            extra["RANK"] = extra["LOCAL_RANK"] = str(name.index)
            extra["WORLD_SIZE"] = str(spec.learner.replicas)
            extra["MASTER_ADDR"] = "127.0.0.1"
            extra["MASTER_PORT"] = str(self._rendezvous_port)
        return child_environment(os.environ, extra, self._folder.termination(str(name)))


@contextmanager
def socket_path(folder: RunFolder) -> Iterator[Path]:
    """Where the parameter server listens: in the run folder, which the next run takes over.

    Socket paths are limited to 107 bytes, and not every file system has sockets: then it is in a
    short folder of our own, which stays behind when this process is killed.
    """
    path = folder.roles / SOCKET
    if _can_listen(path):
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
        return
    with _private_folder() as private:
        yield private / SOCKET


def _can_listen(path: Path) -> bool:
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        return False
    path.unlink(missing_ok=True)  # left by a run that was killed
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path))
        path.unlink()
    except OSError:
        return False
    return True


@contextmanager
def _private_folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="asyncrl-"))
    if len(os.fsencode(path / SOCKET)) > LONGEST_SOCKET_PATH:
        path.rmdir()
        path = Path(tempfile.mkdtemp(prefix="asyncrl-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _free_port() -> int:
    """A port that was free a moment ago; a clash ends the ranks, and the next attempt asks anew."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
