"""Where the parameter server of a local run listens."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncrl.backends.launch import LONGEST_SOCKET_PATH, socket_path
from asyncrl.run_folder import RunFolder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, whatever pytest's are."""
    with tempfile.TemporaryDirectory(prefix="a-", dir="/tmp") as path:
        yield Path(path)


def folder_at(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    return folder


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def test_the_socket_lies_in_the_run_folder_and_a_killed_runs_is_taken_over(short: Path) -> None:
    folder = folder_at(short)
    with socket_path(folder) as path:
        assert path.parent == folder.roles
        listen(path)
    assert not path.exists()
    listen(path)  # as after kill -9
    with socket_path(folder) as again:
        assert again == path
        listen(again)


def test_a_long_path_gets_a_short_folder_that_goes_with_the_run(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / ("long" * 30))
    with socket_path(folder) as path:
        assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
        assert folder.path not in path.parents
        listen(path)
    assert not path.parent.exists()


def test_where_the_file_system_has_no_sockets_another_folder_serves(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_at(short)
    bind = socket.socket.bind

    def refuse(self: socket.socket, address: str) -> None:
        if str(folder.path) in address:
            raise PermissionError(1, "Operation not permitted")
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with socket_path(folder) as path:
        assert folder.path not in path.parents
