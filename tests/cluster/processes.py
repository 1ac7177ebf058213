"""Processes of a cluster: started, waited for, ended by their own id."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class NotReady(RuntimeError):
    """A program ended early or did not become ready; the message ends with its last lines."""


class Process:
    """A running program that writes to a log file and ends with this process at the latest.

    On Linux the kernel ends it when this process dies, by any signal; elsewhere only `stop` does.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with log.open("ab") as stream:
            self._popen = subprocess.Popen(
                [*guard, *command],
                env=os.environ | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return once `ready()`; raise NotReady when the program ends or time is up."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise NotReady(f"{self.name}: ended with {self._popen.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotReady(f"{self.name}: not ready after {seconds:.0f} s\n{self.tail()}")
            time.sleep(0.05)

    def stop(self, seconds: float = 20.0) -> None:
        """SIGTERM, then SIGKILL after `seconds`; return when it is gone and its ports are free."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def kill(self) -> None:
        """SIGKILL; return when it is gone."""
        self._popen.kill()
        self._popen.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nothing listens on now, below those that the kernel gives to clients."""
    for _ in range(100):
        port = random.randrange(20_000, 32_768)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((address, port))
            return port
    raise NotReady(f"no free port on {address} between 20000 and 32767")


def answers(url: str, authority: Path | None = None) -> bool:
    """Whether a GET of `url` answers 200, verified against the certificate of `authority`."""
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    try:
        with urllib.request.urlopen(url, timeout=2, context=context) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
