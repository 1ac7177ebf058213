"""The run folder: made, found, locked, written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from asyncrl.run_folder import (
    RunFolder,
    RunFolderError,
    find_run_folder,
    find_run_of,
    new_run_folder,
    read_json_object,
)
from asyncrl_worker.atomic import write_atomically


def make(path: Path, age: int, job: str | None = None) -> Path:
    """A run of `job`, by default of the one that its folder is called after."""
    path.mkdir(parents=True)
    manifest = path / "manifest.yaml"
    name = job or path.name.rpartition("-20")[0]
    manifest.write_text(f"metadata: {{name: {name}}}\n")
    os.utime(manifest, (1_000_000 - age, 1_000_000 - age))
    return path


def test_a_new_run_is_named_after_the_job_and_the_time(tmp_path: Path) -> None:
    folder = new_run_folder("cartpole", runs=tmp_path)
    assert re.fullmatch(r"cartpole-\d{8}-\d{6}", folder.path.name)
    assert new_run_folder("cartpole", tmp_path / "mine").path == tmp_path / "mine"


def test_two_runs_of_the_same_second_get_two_folders(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        folder = new_run_folder("cartpole", runs=tmp_path)
        folder.create()
        names.add(folder.path)
    assert len(names) == 3


def test_the_newest_run_is_found_by_name_or_by_none(tmp_path: Path) -> None:
    old = make(tmp_path / "cartpole-20260101-000000", age=20)
    new = make(tmp_path / "cartpole-20260102-000000", age=10)
    other = make(tmp_path / "acrobot-20260101-000000", age=0)
    assert find_run_folder(None, tmp_path).path == other
    assert find_run_folder("cartpole", tmp_path).path == new
    assert find_run_folder(old.name, tmp_path).path == old
    assert find_run_folder(str(old), tmp_path / "elsewhere").path == old
    with pytest.raises(RunFolderError, match="walker: no such run"):
        find_run_folder("walker", tmp_path)
    with pytest.raises(RunFolderError, match="no run here yet"):
        find_run_folder(None, tmp_path / "elsewhere")


def test_a_job_whose_name_begins_alike_is_another_one(tmp_path: Path) -> None:
    mine = make(tmp_path / "cartpole-20260101-000000", age=20)
    other = make(tmp_path / "cartpole-lag16-20260102-000000", age=0)
    assert find_run_folder("cartpole", tmp_path).path == mine
    assert find_run_of("cartpole", tmp_path).path == mine
    assert find_run_of("cartpole-lag16", tmp_path).path == other
    for name in ("cartpole-lag", "cart", "cartpole-20260101", str(tmp_path / "cartpole"), "*"):
        with pytest.raises(RunFolderError, match="no such run"):
            find_run_folder(name, tmp_path)


def test_a_folder_given_in_full_is_to_look_at_and_not_to_resume(tmp_path: Path) -> None:
    other = make(tmp_path / "cartpole", age=0, job="lag16")
    assert find_run_folder("cartpole", tmp_path).path == other
    with pytest.raises(RunFolderError, match="cartpole: no such run"):
        find_run_of("cartpole", tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "metadata: x", "metadata: {name: 1}", "{", "\x00"])
def test_a_manifest_that_says_no_name_is_of_no_job(tmp_path: Path, text: str) -> None:
    (make(tmp_path / "cartpole-20260101-000000", age=0) / "manifest.yaml").write_text(text)
    with pytest.raises(RunFolderError, match="cartpole: no such run"):
        find_run_of("cartpole", tmp_path)


def test_one_supervisor_holds_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    assert not folder.in_use()
    with folder.locked():
        assert folder.in_use()
        with pytest.raises(RunFolderError, match="another asyncrl run"), folder.locked():
            pass
    assert not folder.in_use()


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    target = tmp_path / "status.json"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "text")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(OSError):
        write_atomically(folder, b"new")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".taken")] == []


def test_only_whole_json_objects_are_read(tmp_path: Path) -> None:
    path = tmp_path / "role.json"
    assert read_json_object(path) is None
    for text, expected in [('{"http"', None), ("[1]", None), ('{"a": 1}', {"a": 1})]:
        path.write_text(text)
        assert read_json_object(path) == expected
