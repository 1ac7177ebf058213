"""The logs in a run folder: what is there, or on and on until the run ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from asyncrl.run_folder import RunFolder, RunFolderError

FOLLOW_SECONDS = 0.2


@dataclass(frozen=True)
class LogLine:
    """One line, and the process that wrote it, such as `actor-0`."""

    process: str
    text: str


class LogReader:
    """Reads the complete lines of a log that grows."""

    def __init__(self, path: Path) -> None:
        self._process = path.stem
        self._stream: BinaryIO = path.open("rb")
        self._partial = b""

    def read(self) -> list[LogLine]:
        """The lines that are new since the last call."""
        *lines, self._partial = (self._partial + self._stream.read()).split(b"\n")
        return [LogLine(self._process, line.decode(errors="replace")) for line in lines]

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class RunLogs:
    """The logs of one run. Raises RunFolderError where there is none of the role."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def read(
        self, role: str | None, index: int | None, lines: int | None, *, follow: bool = False
    ) -> Iterator[LogLine]:
        """Every line, or the last `lines` of each process; with `follow`, on until the run ends."""
        with contextlib.ExitStack() as stack:
            logs = [LogReader(path) for path in self._paths(role, index)]
            for log in logs:
                stack.callback(log.close)
                new = log.read()
                yield from new if lines is None else new[len(new) - min(lines, len(new)) :]
            pause = threading.Event()
            while follow:
                # Looked at first, so that the last lines are read after the end.
                follow = self._folder.in_use()
                for log in logs:
                    yield from log.read()
                pause.wait(FOLLOW_SECONDS if follow else 0.0)

    def _paths(self, role: str | None, index: int | None) -> list[Path]:
        paths = [
            path
            for path in sorted(self._folder.logs.glob("*.log"), key=_by_role_and_number)
            if role in (None, _by_role_and_number(path)[0])
            and index in (None, _by_role_and_number(path)[1])
        ]
        if not paths:
            wanted = "-".join(str(part) for part in (role, index) if part is not None)
            raise RunFolderError(
                f"{self._folder.logs}: no log of {wanted or 'any role'}; "
                "leave out --role and --index"
            )
        return paths


def _by_role_and_number(path: Path) -> tuple[str, int]:
    name, _, number = path.stem.rpartition("-")
    return name, int(number)
