"""`asyncrl logs`: what the processes of a run wrote."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from asyncrl.cli.arguments import UsageFailure, run_argument, usage_errors
from asyncrl.run_folder import RunFolder, find_run_folder

FOLLOW_SECONDS = 0.2


@click.command("logs")
@run_argument()
@click.option(
    "--role", type=click.Choice(["learner", "actor", "parameter-server"]), help="Only this role."
)
@click.option("--index", type=click.IntRange(min=0), help="Only this actor, or learner rank.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until the run ends.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only the last N lines of each process.  [default: all]",
)
def command(
    run: str | None, role: str | None, index: int | None, follow: bool, lines: int | None
) -> None:
    """Print the logs of RUN: a run folder, a name under runs/, or the newest by default.

    Lines of several processes carry the name of theirs.
    """
    with usage_errors():
        folder = find_run_folder(run)
    logs = [LogReader(path) for path in _paths(folder, role, index)]
    if not logs:
        wanted = "-".join(str(part) for part in (role, index) if part is not None) or "any role"
        raise UsageFailure(f"{folder.logs}: no log of {wanted}; leave out --role and --index")
    width = max(len(log.name) for log in logs) if len(logs) > 1 else 0
    for log in logs:
        _print(log, width, lines)
    if follow:
        _follow(folder, logs, width)
    for log in logs:
        log.close()


class LogReader:
    """Reads the complete lines of a log that grows."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._stream: BinaryIO = path.open("rb")
        self._partial = b""

    def read(self) -> list[str]:
        """The lines that are new since the last call."""
        *lines, self._partial = (self._partial + self._stream.read()).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def rest(self) -> list[str]:
        """The last line, if it has no end."""
        partial, self._partial = self._partial, b""
        return [partial.decode(errors="replace")] if partial else []

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _paths(folder: RunFolder, role: str | None, index: int | None) -> Iterator[Path]:
    for path in sorted(folder.logs.glob("*.log"), key=_by_role_and_number):
        name, _, number = path.stem.rpartition("-")
        if role in (None, name) and index in (None, int(number)):
            yield path


def _by_role_and_number(path: Path) -> tuple[str, int]:
    name, _, number = path.stem.rpartition("-")
    return name, int(number)


def _print(log: LogReader, width: int, lines: int | None) -> None:
    new = log.read()
    for line in new if lines is None else new[len(new) - min(lines, len(new)) :]:
        click.echo(f"{log.name:<{width}} | {line}" if width else line)


def _follow(folder: RunFolder, logs: list[LogReader], width: int) -> None:
    pause = threading.Event()
    while folder.in_use():
        for log in logs:
            _print(log, width, None)
        pause.wait(FOLLOW_SECONDS)
    for log in logs:
        _print(log, width, None)
