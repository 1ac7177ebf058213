"""Child processes: started in sessions of their own, logged, ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from asyncrl_worker.role import PARENT_VARIABLE
from asyncrl_worker.termination import TERMINATION_LOG_VARIABLE


class ChildProcess:
    """One running child; `on_exit(code)` is called once, from a thread of its own.

    The child leads a session of its own: a Ctrl-C in the terminal reaches only the parent, and
    what the child starts (environment workers) is killed with it. A role ends by itself when the
    parent is killed: it compares its parent's id with ASYNCRL_PARENT_PID. stdout and stderr are
    appended to `log`, after a header line for each attempt. Raises OSError if the log or the
    program cannot be opened.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        header: str,
        on_exit: Callable[[int], None],
    ) -> None:
        with log.open("ab") as stream:
            stream.write(f"--- {header} {time.strftime('%Y-%m-%dT%H:%M:%S%z')} ---\n".encode())
            stream.flush()
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._on_exit = on_exit
        self._thread = threading.Thread(target=self._wait, name=f"wait-{self.pid}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._process.pid

    def terminate(self) -> None:
        """Send SIGTERM to the child alone; it ends what it started itself."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the child and everything in its process group."""
        # Until `_wait` has reaped the child, its id cannot belong to a stranger.
        if self._process.returncode is None:
            self._kill_group()

    def join(self, seconds: float) -> bool:
        """Wait until the child is gone and `on_exit` has returned; False after `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _wait(self) -> None:
        code = self._process.wait()
        self._kill_group()
        self._on_exit(code)

    def _kill_group(self) -> None:
        # macOS answers EPERM for a group that has only zombies left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def child_environment(
    base: Mapping[str, str], extra: Mapping[str, str], termination_log: Path
) -> dict[str, str]:
    """Environment of a role: one numerical thread unless the user says otherwise, then `extra`."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment.update(base)
    environment.update(extra)
    environment[PARENT_VARIABLE] = str(os.getpid())
    environment[TERMINATION_LOG_VARIABLE] = str(termination_log)
    return environment
