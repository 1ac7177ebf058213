"""Environments of their own for the peers, made on demand outside the checkout.

They need other versions of numpy and gymnasium than asyncrl does. Each lies in
$XDG_CACHE_HOME/asyncrl/peers/NAME-VERSION-HASH, the hash being that of its pinned requirements, so
a change of a pin makes a new one. Removing the folder is enough to start over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Finished, TimedOut, run_to_end

FOLDER = Path(__file__).parent
BUILD_SECONDS = 1800.0
COMPLETE = "complete"


class PeerFailed(Exception):
    """A peer's environment could not be made, or its driver did not finish. One line."""


@dataclass(frozen=True)
class Peer:
    """A library, and the folder with its requirements.txt and driver.py.

    `newest_python`: the last minor version that its pinned packages have wheels for.
    """

    name: str
    version: str
    folder: Path
    newest_python: tuple[int, int]

    @property
    def requirements(self) -> Path:
        return self.folder / "requirements.txt"

    @property
    def driver(self) -> Path:
        return self.folder / "driver.py"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


STABLE_BASELINES3 = Peer("stable-baselines3", "2.9.2", FOLDER / "stable_baselines3", (3, 13))
SAMPLE_FACTORY = Peer("sample-factory", "2.1.1", FOLDER / "sample_factory", (3, 12))


@dataclass(frozen=True)
class DriverResult:
    """What a driver printed, and how its process ran."""

    values: dict[str, Any]
    process: Finished


def location(peer: Peer) -> Path:
    """Where the environment of a peer lies, or will lie."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(peer.requirements.read_bytes()).hexdigest()[:12]
    return cache / "asyncrl" / "peers" / f"{peer.name}-{peer.version}-{digest}"


def prepare(peer: Peer) -> Path:
    """The peer's python, made now if there is none. Raises PeerFailed."""
    folder = location(peer)
    python = folder / "bin" / "python"
    with _locked(folder):
        if (folder / COMPLETE).exists():
            return python
        print(f"making an environment for {peer} in {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        for command in build_commands(peer, folder, shutil.which("uv")):
            _run(command, peer, BUILD_SECONDS)
        (folder / COMPLETE).touch()
    return python


def run_driver(peer: Peer, arguments: Sequence[str], *, deadline: float) -> DriverResult:
    """Run driver.py with one torch thread; it prints a JSON object as its last line.

    Raises PeerFailed, also after `deadline` seconds.
    """
    finished = _run([str(prepare(peer)), str(peer.driver), *arguments], peer, deadline)
    lines = finished.output.strip().splitlines() or ["nothing"]
    try:
        return DriverResult(json.loads(lines[-1]), finished)
    except ValueError as error:
        raise PeerFailed(f"{peer}: printed no JSON but: {lines[-1][:200]}") from error


def build_commands(peer: Peer, folder: Path, uv: str | None) -> list[list[str]]:
    """How to make the environment: with uv where there is one, else with venv and pip."""
    python = str(folder / "bin" / "python")
    usable = sys.version_info[:2] <= peer.newest_python
    wanted = "{}.{}".format(*peer.newest_python)
    requirements = str(peer.requirements)
    if uv is not None:
        interpreter = sys.executable if usable else wanted
        return [
            [uv, "venv", "--quiet", "--python", interpreter, str(folder)],
            [uv, "pip", "install", "--quiet", "--python", python, "-r", requirements],
        ]
    interpreter = sys.executable if usable else shutil.which(f"python{wanted}") or ""
    if not interpreter:
        raise PeerFailed(f"{peer}: needs python{wanted} or older; install it, or uv")
    return [
        [interpreter, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "--quiet", "-r", requirements],
    ]


def _run(command: list[str], peer: Peer, deadline: float) -> Finished:
    try:
        finished = run_to_end(command, deadline=deadline)
    except TimedOut as error:
        raise PeerFailed(f"{peer}: {error}") from error
    if finished.returncode != 0:
        words = " ".join(command[:3])
        raise PeerFailed(
            f"{peer}: exit code {finished.returncode} of {words}: {finished.last_error}"
        )
    return finished


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two benchmarks at once make an environment once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
