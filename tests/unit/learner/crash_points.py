"""Kills a process at every file-system call of a checkpoint's save, one call further each time.

    python crash_points.py FOLDER VERSION

FOLDER holds a checkpoint of version 1 after 1 update; each child process saves one of VERSION after
2 updates to a copy of it. For every copy, prints the number of calls survived, the updates of what
loads afterwards, and what is left in the folder after the next save.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from asyncrl_worker.learner.checkpoint import Checkpoint, CheckpointFolder

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}


def checkpoint(version: int, updates: int) -> Checkpoint:
    return Checkpoint(version, {"weight": torch.full((64,), float(updates))}, {"updates": updates})


class Killer:
    """Kills this process at its n-th call that changes, or flushes, something under the folder."""

    def __init__(self, folder: Path, calls: int) -> None:
        self._prefix = str(folder)
        self._left = calls
        self._fsync = os.fsync
        os.fsync = self._flush  # has no audit event
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(self._prefix):
            self._count()

    def _flush(self, descriptor: int) -> None:
        self._count()
        self._fsync(descriptor)

    def _count(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def main(root: Path, version: int) -> None:
    calls, killed = 0, True
    while killed:
        folder = root.with_name(f"{root.name}-{calls}")
        shutil.copytree(root, folder)
        child = os.fork()
        if child == 0:
            Killer(folder, calls)
            CheckpointFolder(folder, keep=1).save(checkpoint(version, 2))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        loaded = CheckpointFolder(folder, keep=1).load_newest()
        assert loaded is not None
        updates = loaded.state["updates"]
        assert loaded.tensors["weight"][0] == updates
        assert loaded.version == (version if updates == 2 else 1)
        CheckpointFolder(folder, keep=1).save(checkpoint(3, 3))
        left = ",".join(sorted(path.name for path in folder.iterdir()))
        sys.stdout.write(f"{calls} {updates} {left}\n")
        sys.stdout.flush()
        calls += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
