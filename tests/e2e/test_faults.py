"""Broken environments, full disks, taken ports: one line with cause and remedy, and an end."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.harness import Command, gated_document, is_alive, job_document

FIELD = "spec.workload.gymnasium"
LARGE = {"hiddenSizes": [64, 64]}
"""A checkpoint of this network has about 130 KiB, its weights have 20."""


def faulty(fault: str, at: int = 30) -> dict[str, Any]:
    """A workload that goes wrong at one step of every episode."""
    return {
        "gymnasium": {
            "id": "Faulty-v0",
            "kwargs": {"fault": fault, "at": at},
            "modules": ["unit.environments.toys"],
        }
    }


def assert_fails(command: Command, reason: str, *words: str) -> str:
    """The run ends as Failed, everywhere with the same single line; returns that line."""
    code, out, err = command.end()
    assert code == 1
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[:1], err
    line = lines[0].removeprefix("error: ")
    assert [word for word in words if word not in line] == [], line
    status = command.folder.read_status()
    assert status is not None
    assert (status.phase, status.reason, status.message) == ("Failed", reason, line)
    failed = next(c for c in status.conditions if c.type == "Failed")
    assert (failed.status, failed.reason, failed.message) == ("True", reason, line)
    assert "Failed" in out
    assert line.split(";")[-1].strip(), "a remedy"
    assert not any(map(is_alive, command.folder.pids().values()))
    return line


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", ("'Faulty-v0' raised at step", "ZeroDivisionError: division by zero")),
        ("nan", ("returned at step", "an observation that is NaN or infinite")),
        ("shape", ("returned at step", "of shape [2, 2], expected [3]")),
        ("constructor", ("raised while it was made: RuntimeError: no licence",)),
    ],
)
def test_an_environment_that_misbehaves(fault: str, words: tuple[str, ...], tmp_path: Path) -> None:
    with Command(job_document(workload=faulty(fault)), tmp_path / "run") as command:
        assert_fails(command, "EnvironmentFailed", f"{FIELD}.id: ", *words, "; correct the ")


def test_an_environment_that_hangs(tmp_path: Path) -> None:
    """In a step while the run goes on, in the first reset, or before that."""
    cases = (
        ("hang", 30, "step 30 of environment 0"),
        ("hang", 0, "a reset of environment 0"),
        ("constructor that hangs", 0, "the constructor of environment 0"),
    )
    with contextlib.ExitStack() as stack:
        for number, (fault, at, where) in enumerate(cases):
            document = job_document(
                workload=faulty(fault, at), runPolicy={"stallTimeoutSeconds": 15}
            )
            command = stack.enter_context(Command(document, tmp_path / str(number)))
            stack.callback(
                assert_fails,
                command,
                "EnvironmentFailed",
                f"{FIELD}.id: 'Faulty-v0' has not returned from {where} for 15 s",
                "raise spec.runPolicy.stallTimeoutSeconds",
            )


def test_an_environment_that_does_not_exist(tmp_path: Path) -> None:
    workload = {"gymnasium": {"id": "CartPool-v1"}}
    with Command(job_document(workload=workload), tmp_path / "run") as command:
        words = (f"{FIELD}.id: 'CartPool-v1' is not registered", "did you mean 'CartPole-v1'?")
        assert_fails(command, "UnknownEnvironment", *words)


@pytest.mark.parametrize("role", ["actors", "learner", "parameterServer"])
def test_a_port_that_is_taken(role: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        document = job_document(**{role: {"metricsPort": port}})
        with Command(document, tmp_path / "run") as command:
            words = (f"127.0.0.1:{port}: Address already in use", "choose another metricsPort")
            assert_fails(command, "PortTaken", *words)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """Root may write everywhere, but not below a file."""
    (tmp_path / "file").touch()
    with Command(job_document(), tmp_path / "file" / "run") as command:
        code, _, err = command.end()
    assert code == 2
    assert f"{tmp_path}/file/run: Not a directory; choose another folder with --output" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("kilobytes", "interval", "file"),
    [(64, 5, "checkpoints/v000000005"), (16, None, "metrics.jsonl")],
)
def test_a_file_that_does_not_fit(
    kilobytes: int, interval: int | None, file: str, tmp_path: Path
) -> None:
    """Files may have 64 KiB, less than a checkpoint, or 16 KiB, less than the metrics."""
    document = gated_document(
        tmp_path / "gate", network=LARGE, checkpoint={"intervalVersions": interval}
    )
    with limited_files(kilobytes << 10), Command(document, tmp_path / "run") as command:
        where = f"learner-0: {tmp_path / 'run' / file}: "
        assert_fails(command, "DiskFull", where, "File too large; free space")
    assert list(command.folder.checkpoints.iterdir()) == [], "nothing half-written is left"


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The checkpoints fill it; whatever can still be written says so."""
    document = gated_document(
        tmp_path / "gate",
        network=LARGE,
        checkpoint={"intervalVersions": 5, "keep": 1000},
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk), Command(document, disk / "run") as command:
        code, _, err = command.end()
        assert code == 1
        line = err.splitlines()[0]
        assert str(disk) in line
        assert "No space left on device" in line or "File too large" in line
        assert "free space" in line
        status = command.folder.read_status()
        assert status is not None
        assert (status.phase, status.reason) == ("Failed", "DiskFull")


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Files of this process's children are at most `size` bytes; needs no privilege."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of half a MiB; where mounting is not allowed, files of 64 KiB instead."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        with limited_files(64 << 10):
            yield
        return
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
