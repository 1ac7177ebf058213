"""What every role process shares: arguments, logging, signals, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from asyncrl_api.errors import ManifestError
from asyncrl_api.manifest import load_manifest
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_worker.fault import DISK_ERROR, INTERNAL_ERROR, TERMINATED, WRONG_CONFIGURATION, Fault
from asyncrl_worker.termination import end_with

PARENT_VARIABLE = "ASYNCRL_PARENT_PID"
"""Environment variable: the process id of a local supervisor, which a role ends with."""
PARENT_CHECK_SECONDS = 1.0

DISK_ERRORS = {
    errno.ENOSPC: Reason.DISK_FULL,
    errno.EDQUOT: Reason.DISK_FULL,
    errno.EFBIG: Reason.DISK_FULL,
    errno.EACCES: Reason.DISK_UNWRITABLE,
    errno.EPERM: Reason.DISK_UNWRITABLE,
    errno.EROFS: Reason.DISK_UNWRITABLE,
    errno.EIO: Reason.DISK_UNWRITABLE,
    errno.ENOENT: Reason.DISK_UNWRITABLE,
    errno.ENOTDIR: Reason.DISK_UNWRITABLE,
    errno.EISDIR: Reason.DISK_UNWRITABLE,
    errno.ENAMETOOLONG: Reason.DISK_UNWRITABLE,
}
"""Errors of the operating system that are about files; any other one is a defect."""

log = logging.getLogger("asyncrl")


@dataclass(frozen=True)
class RoleArguments:
    """What a role is told on its command line; the same words in a pod and on one machine."""

    role: str
    job: AsyncRLJob
    address: str
    run_directory: Path
    index: int = 0
    attempt: int = 0
    tls: Path | None = None
    http: str = "127.0.0.1:0"
    report: str | None = None
    resume: bool = False

    @property
    def name(self) -> str:
        """Role and index, as file names and logs show it."""
        return f"{self.role}-{self.index}"


class Stop:
    """The wish of SIGTERM or Ctrl-C to end, for the loops of a role to look at."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def requested(self) -> bool:
        """True from the first signal on."""
        return self._event.is_set()

    def request(self) -> None:
        """Ask the role to end; runs the callbacks once."""
        with self._lock:
            first = not self._event.is_set()
            self._event.set()
            callbacks = list(self._callbacks) if first else []
        for callback in callbacks:
            callback()

    def wait(self, seconds: float) -> bool:
        """Wait for the wish to end, at most `seconds`; True if it came."""
        return self._event.wait(seconds)

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Call this (from another thread) when the wish comes; at once if it is there already."""
        with self._lock:
            late = self._event.is_set()
            if not late:
                self._callbacks.append(callback)
        if late:
            callback()


RoleMain = Callable[[RoleArguments, Stop], int]


def run_role(role: str, main: RoleMain, argv: Sequence[str] | None = None) -> int:
    """Run a role's main function and turn whatever ends it into an exit code and a message."""
    try:
        namespace = _parser(role).parse_args(argv)
    except _UsageError as error:
        _configure_logging(role, 0)
        return end_with(role, 0, Reason.INVALID_SPEC, str(error), WRONG_CONFIGURATION)
    name = f"{role}-{namespace.index}"
    _configure_logging(name, namespace.attempt)
    try:
        arguments = _arguments(role, namespace)
        stop = Stop()
        _install_signals(stop)
        _watch_parent(stop, arguments.job.spec.run_policy.termination_grace_period_seconds)
        return main(arguments, stop)
    except Fault as error:
        return end_with(role, namespace.index, error.reason, str(error), error.exit_code)
    except ManifestError as error:
        message = "; ".join(str(error).splitlines())
        return end_with(role, namespace.index, Reason.INVALID_SPEC, message, WRONG_CONFIGURATION)
    except Exception as error:
        # The last fence of a process: the trace for the log, one line for the status.
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            where = f"{error.filename}: " if error.filename else ""
            message = f"{name}: {where}{error.strerror}; free space or check permissions"
            reason = DISK_ERRORS[error.errno]
            return end_with(role, namespace.index, reason, message, DISK_ERROR)
        log.exception("event=crashed")
        message = f"{name}: {type(error).__name__}: {error}; the trace is in this role's log"
        return end_with(role, namespace.index, Reason.INTERNAL_ERROR, message, INTERNAL_ERROR)


def leave(exit_code: int) -> NoReturn:
    """End the process at once; what had to be closed was closed by the role's context managers.

    The interpreter takes a second to unload torch, in which a finished run would seem to go on.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(exit_code)


class _UsageError(Exception):
    """A command line that cannot be; one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Instead of argparse's own exit, which leaves no termination message."""
        raise _UsageError(f"{self.prog}: {message}; --help lists the arguments")


def _parser(role: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"asyncrl_worker {role}", allow_abbrev=False)
    parser.add_argument("--manifest", type=Path, required=True, help="resolved AsyncRLJob manifest")
    parser.add_argument("--address", required=True, help="parameter server: unix:PATH or HOST:PORT")
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--index", type=int, default=0, help="actor index or learner rank")
    parser.add_argument("--attempt", type=int, default=0, help="restarts of this role so far")
    parser.add_argument("--tls", type=Path, default=None, help="folder: ca.crt, tls.crt, tls.key")
    parser.add_argument("--http", default="127.0.0.1:0", help="metrics and health; port 0 is any")
    parser.add_argument("--report", default=None, help="the learner's report, over mutual TLS")
    parser.add_argument("--resume", action="store_true", help="load the newest valid checkpoint")
    return parser


def _arguments(role: str, namespace: argparse.Namespace) -> RoleArguments:
    return RoleArguments(
        role=role,
        job=load_manifest(namespace.manifest),
        address=namespace.address,
        run_directory=namespace.run_directory,
        index=namespace.index,
        attempt=namespace.attempt,
        tls=namespace.tls,
        http=namespace.http,
        report=namespace.report,
        resume=namespace.resume,
    )


def _configure_logging(name: str, attempt: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    layout = f"%(asctime)s.%(msecs)03d %(levelname)s role={name} attempt={attempt} %(message)s"
    handler.setFormatter(logging.Formatter(layout, datefmt="%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _install_signals(stop: Stop) -> None:
    def on_signal(number: int, frame: Any) -> None:
        # Locks and callbacks may be held by the interrupted thread, so another one does the work.
        threading.Thread(target=stop.request, name="stop", daemon=True).start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def _watch_parent(stop: Stop, grace: float) -> None:
    """End with the local supervisor: a role whose parent was killed must not run on alone."""
    expected = os.environ.get(PARENT_VARIABLE, "")
    if not expected.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(expected):
            threading.Event().wait(PARENT_CHECK_SECONDS)
        log.error("event=orphaned parent=%s", expected)
        stop.request()
        threading.Event().wait(grace)  # as long as a parent would wait after SIGTERM
        os._exit(TERMINATED)

    threading.Thread(target=watch, name="parent", daemon=True).start()
