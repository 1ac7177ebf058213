"""What every role process shares: exit codes, termination message, signals, threads, files."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.role.jobs import MANIFEST, command_line, write_manifest

from asyncrl_worker.atomic import write_atomically
from asyncrl_worker.fault import (
    COMPLETE,
    DISK_ERROR,
    FAILED,
    INTERNAL_ERROR,
    TERMINATED,
    WRONG_CONFIGURATION,
    Fault,
    RoleError,
)
from asyncrl_worker.protocol.errors import ConfigurationError, PeerUnavailable, Refused
from asyncrl_worker.role import (
    RoleArguments,
    Stop,
    run_role,
)
from asyncrl_worker.termination import end_with, leave_last_word
from asyncrl_worker.threads import cpu_quota, pin_threads


@pytest.fixture
def termination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination.json"
    monkeypatch.setenv("ASYNCRL_TERMINATION_LOG", str(path))
    monkeypatch.delenv("ASYNCRL_PARENT_PID", raising=False)
    return path


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Signals and logging as they were: run_role sets them for a process of its own."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    root = logging.getLogger()
    level, logs = root.level, list(root.handlers)
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    root.setLevel(level)
    root.handlers[:] = logs


def run(tmp_path: Path, main: Any, *more: str, manifest: str = MANIFEST) -> int:
    write_manifest(tmp_path, manifest)
    return run_role("actor", main, command_line(tmp_path, *more))


class Ours(Fault):
    reason = "SomethingOfOurs"
    exit_code = FAILED


def disk(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/data/file")


@pytest.mark.parametrize(
    ("error", "code", "reason", "words"),
    [
        (RoleError("PortTaken", "taken", WRONG_CONFIGURATION), 2, "PortTaken", "taken"),
        (Ours("over\nhere"), FAILED, "SomethingOfOurs", "over here"),
        (disk(errno.ENOSPC), DISK_ERROR, "DiskFull", "actor-3: /data/file: No space left"),
        (disk(errno.EDQUOT), DISK_ERROR, "DiskFull", "/data/file"),
        (disk(errno.EACCES), DISK_ERROR, "DiskUnwritable", "check permissions"),
        (disk(errno.EROFS), DISK_ERROR, "DiskUnwritable", "Read-only"),
        (PeerUnavailable("parameter server", "asking", 9.0), 69, "PeerUnavailable", "no answer"),
        (Refused("protocol version 2"), 2, "ProtocolMismatch", "protocol version 2"),
        (ConfigurationError("--tls x"), 2, "InvalidSpec", "--tls x"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), INTERNAL_ERROR, "InternalError", "reset"),
        (TimeoutError("too late"), INTERNAL_ERROR, "InternalError", "too late"),
        (ValueError("odd"), INTERNAL_ERROR, "InternalError", "ValueError: odd"),
    ],
)
def test_every_end_has_an_exit_code_and_one_line(
    error: Exception, code: int, reason: str, words: str, tmp_path: Path, termination: Path
) -> None:
    def main(arguments: RoleArguments, stop: Stop) -> int:
        raise error

    assert run(tmp_path, main, "--index", "3") == code
    document = json.loads(termination.read_text())
    assert (document["role"], document["index"]) == ("actor", 3)
    assert document["reason"] == reason
    assert words in document["message"]
    assert "\n" not in document["message"]


def test_a_complete_role_leaves_no_message_and_gets_its_arguments(
    tmp_path: Path, termination: Path
) -> None:
    seen: list[RoleArguments] = []

    def main(arguments: RoleArguments, stop: Stop) -> int:
        seen.append(arguments)
        return COMPLETE

    more = ("--index", "1", "--attempt", "2", "--http", "127.0.0.1:9", "--resume")
    assert run(tmp_path, main, *more) == COMPLETE
    assert not termination.exists()
    (arguments,) = seen
    assert (arguments.name, arguments.attempt, arguments.resume) == ("actor-1", 2, True)
    assert (arguments.http, arguments.run_directory) == ("127.0.0.1:9", tmp_path)
    assert arguments.job.metadata.name == "test"
    assert arguments.tls is None


def test_a_wrong_manifest_is_named_field_by_field(tmp_path: Path, termination: Path) -> None:
    wrong = MANIFEST + "  stalenes: {max: 2}\n  seed: x\n"
    assert run(tmp_path, lambda a, s: 0, manifest=wrong) == WRONG_CONFIGURATION
    document = json.loads(termination.read_text())
    assert document["reason"] == "InvalidSpec"
    assert "spec.stalenes" in document["message"]
    assert "spec.seed" in document["message"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--attempt", "$(ASYNCRL_ATTEMPT)"), "argument --attempt: invalid int value: '$(ASYNCRL"),
        (("--index", ""), "argument --index"),
        (("--resume=yes",), "argument --resume"),
        (("--rapport", "0.0.0.0:1"), "unrecognized arguments: --rapport 0.0.0.0:1"),
    ],
    ids=["not expanded", "empty", "a value for a flag", "unknown"],
)
def test_a_wrong_command_line_leaves_a_message_too(
    more: tuple[str, ...], words: str, tmp_path: Path, termination: Path
) -> None:
    assert run(tmp_path, lambda a, s: 0, *more) == WRONG_CONFIGURATION
    document = json.loads(termination.read_text())
    assert (document["role"], document["reason"]) == ("actor", "InvalidSpec")
    assert words in document["message"]


def test_what_is_missing_on_the_command_line_is_named(termination: Path) -> None:
    assert run_role("learner", lambda a, s: 0, []) == WRONG_CONFIGURATION
    message = json.loads(termination.read_text())["message"]
    assert "--manifest, --address, --run-directory" in message


def test_the_message_is_optional_where_nobody_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ASYNCRL_TERMINATION_LOG", str(tmp_path / "no" / "folder"))
    assert end_with("actor", 0, "Why", "because", FAILED) == FAILED
    assert "event=termination_message_lost" in caplog.text


class TestStop:
    def test_callbacks_run_once_and_late_ones_at_once(self) -> None:
        stop, calls = Stop(), []
        stop.add_callback(lambda: calls.append("early"))
        assert not stop.requested
        assert not stop.wait(0.0)
        stop.request()
        stop.request()
        assert stop.requested
        assert stop.wait(0.0)
        stop.add_callback(lambda: calls.append("late"))
        assert calls == ["early", "late"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_asks_the_role_to_end(
        self, number: signal.Signals, tmp_path: Path, termination: Path
    ) -> None:
        called = threading.Event()

        def main(arguments: RoleArguments, stop: Stop) -> int:
            stop.add_callback(called.set)
            os.kill(os.getpid(), number)
            assert stop.wait(10)
            assert called.wait(10)
            return TERMINATED

        assert run(tmp_path, main) == TERMINATED


ORPHAN = """
import os, sys, threading
from asyncrl_worker.role import run_role

def main(arguments, stop):
    print("started", flush=True)
    stop.wait(60)
    print("stopped" if stop.requested else "ran on", flush=True)
    if "--resume" in sys.argv:
        threading.Event().wait(60)  # deaf to the wish
    return 130

sys.exit(run_role("actor", main))
"""

PARENT = """
import os, subprocess, sys
environment = os.environ | {"ASYNCRL_PARENT_PID": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], env=environment)
child.wait()
"""


def test_a_role_ends_with_the_process_that_supervises_it(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, ORPHAN, *command_line(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        # The child holds the pipe: reading to its end waits for the child's.
        assert parent.stdout.read() == "stopped\n"


class TestThreads:
    def quota(self, root: Path, **files: str) -> int:
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cpu_quota(root)

    @pytest.fixture(autouse=True)
    def eight_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("200000 100000\n", 2),
            ("250000 100000\n", 2),
            ("50000 100000\n", 1),
            ("6400000 100000\n", 8),
            ("max 100000\n", 8),
            ("garbage\n", 8),
            ("", 8),
        ],
    )
    def test_cgroup_v2(self, text: str, expected: int, tmp_path: Path) -> None:
        assert self.quota(tmp_path, cpu_dot_max=text) == expected

    @pytest.mark.parametrize(
        ("quota", "period", "expected"),
        [("300000", "100000", 3), ("-1", "100000", 8), ("1000", "100000", 1), ("1", "0", 8)],
    )
    def test_cgroup_v1(self, quota: str, period: str, expected: int, tmp_path: Path) -> None:
        found = self.quota(
            tmp_path, cpu__cpu_dot_cfs_quota_us=quota, cpu__cpu_dot_cfs_period_us=period
        )
        assert found == expected

    def test_without_a_cgroup_the_affinity_counts(self, tmp_path: Path) -> None:
        assert cpu_quota(tmp_path) == 8

    @pytest.mark.parametrize("configured", ["", "0", "-3", "two", "²"])
    def test_what_is_no_number_of_threads_is_replaced(self, configured: str) -> None:
        environment = {"OMP_NUM_THREADS": configured}
        threads = pin_threads(environment)
        assert threads >= 1
        assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == str(threads)

    def test_a_number_of_threads_is_respected(self) -> None:
        environment = {"OMP_NUM_THREADS": "3"}
        assert pin_threads(environment) == 3
        assert environment["OPENBLAS_NUM_THREADS"] == "3"


class TestWriteAtomically:
    def test_it_replaces(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomically(path, b"old")
        before = path.stat().st_ino
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new"
        assert path.stat().st_ino != before  # another file, so an open reader keeps the old one
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_a_failure_leaves_the_old_content_and_no_remains(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomically(path, b"old")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(OSError):
                write_atomically(path, b"x" * 1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == b"old"
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_readers_see_the_old_or_the_new(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        contents = [bytes([letter]) * 4096 for letter in b"ab"]
        write_atomically(path, contents[0])
        done = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            while not done.is_set():
                seen.add(path.read_bytes())

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(100):
            write_atomically(path, contents[number % 2])
        done.set()
        reader.join()
        assert seen <= set(contents)


def test_the_last_word_of_a_pod_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setattr("asyncrl_worker.termination.DEFAULT_TERMINATION_LOG", log)
    leave_last_word({"outcome": "Complete"})
    assert not log.exists(), "no pod"
    log.touch()
    leave_last_word({"message": "x" * 5000})
    assert log.read_text() == ""
    leave_last_word({"outcome": "Complete"})
    assert json.loads(log.read_text()) == {"outcome": "Complete"}
