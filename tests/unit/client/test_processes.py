"""Child processes: real ones, with real signals."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from pathlib import Path

import pytest

from asyncrl.backends.processes import ChildProcess, child_environment


class Child:
    """A Python child and its exit code."""

    def __init__(self, program: str, log: Path) -> None:
        self.codes: queue.Queue[int] = queue.Queue()
        self.log = log
        self.process = ChildProcess(
            [sys.executable, "-c", program],
            environment=os.environ,
            log=log,
            header="actor-0 attempt 0",
            on_exit=self.codes.put,
        )

    def code(self) -> int:
        return self.codes.get(timeout=20)


def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_tells_the_exit_code_and_appends_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "actor-0.log"
    program = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(74)"
    assert Child(program, log).code() == 74
    assert Child(program, log).code() == 74
    header, *lines = log.read_text().splitlines()
    assert header.startswith("--- actor-0 attempt 0 20")
    assert lines[0:3] == ["out", "err", header.replace(header, lines[2])]
    assert len(lines) == 5


def test_terminate_reaches_the_child(tmp_path: Path) -> None:
    ready = fifo(tmp_path)
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        f"open({str(ready)!r}, 'w').close()\n"
        "signal.pause()"
    )
    child = Child(program, tmp_path / "log")
    ready.open().close()
    child.process.terminate()
    assert child.code() == 130
    child.process.terminate()  # one that is gone already is no error
    child.process.kill()
    assert child.process.join(5)


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_what_the_child_started_ends_with_it(tmp_path: Path, how: str) -> None:
    """A grandchild holds the write end of a FIFO; its end is seen as the end of the file."""
    ready = fifo(tmp_path)
    wait = "import time; time.sleep(600)"
    program = (
        "import subprocess, sys, signal\n"
        f"stream = open({str(ready)!r}, 'w')\n"
        f"subprocess.Popen([sys.executable, '-c', {wait!r}], stdout=stream)\n"
        "stream.write('up\\n'); stream.close()\n" + ("signal.pause()" if how == "kill" else "")
    )
    child = Child(program, tmp_path / "log")
    with ready.open() as stream:
        assert stream.readline() == "up\n"
        if how == "kill":
            child.process.kill()
        assert child.code() == (-signal.SIGKILL if how == "kill" else 0)
        rest: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: rest.put(stream.read()), daemon=True).start()
        assert rest.get(timeout=20) == "", "the grandchild is gone"


def test_leads_a_session_of_its_own(tmp_path: Path) -> None:
    program = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0))"
    child = Child(program, tmp_path / "log")
    child.code()
    assert (tmp_path / "log").read_text().splitlines()[-1] == "True"


def test_a_program_that_does_not_exist_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ChildProcess(
            [str(tmp_path / "nothing")],
            environment={},
            log=tmp_path / "log",
            header="",
            on_exit=lambda code: None,
        )


def test_the_environment_pins_threads_unless_told_otherwise(tmp_path: Path) -> None:
    pinned = child_environment({"HOME": "/h"}, {}, tmp_path / "t")
    assert pinned["OMP_NUM_THREADS"] == pinned["MKL_NUM_THREADS"] == "1"
    assert pinned["HOME"] == "/h"
    assert pinned["ASYNCRL_PARENT_PID"] == str(os.getpid())
    assert pinned["ASYNCRL_TERMINATION_LOG"] == str(tmp_path / "t")
    chosen = child_environment({"OMP_NUM_THREADS": "3"}, {"MKL_NUM_THREADS": "5"}, tmp_path)
    assert (chosen["OMP_NUM_THREADS"], chosen["MKL_NUM_THREADS"]) == ("3", "5")
    spoofed = child_environment({}, {"ASYNCRL_PARENT_PID": "1"}, tmp_path)
    assert spoofed["ASYNCRL_PARENT_PID"] == str(os.getpid())
