"""Checkpoints: whole or not there, checked, bounded in number, and bitwise."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncrl_worker.fault import DISK_ERROR
from asyncrl_worker.learner.checkpoint import (
    DIGESTS,
    STATE,
    TENSORS,
    Checkpoint,
    CheckpointFolder,
    CheckpointInvalid,
)

SCRIPT = Path(__file__).with_name("crash_points.py")


def checkpoint(version: int, **state: Any) -> Checkpoint:
    tensors = {"weight": torch.full((4,), float(version)), "count": torch.tensor(version)}
    return Checkpoint(version, tensors, {"updates": version, **state})


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "run" / "checkpoints", keep=3)


def test_what_is_saved_comes_back_to_the_bit(folder: CheckpointFolder) -> None:
    tensors = {
        "f32": torch.randn(3, 5),
        "f64": torch.tensor([1 / 3], dtype=torch.float64),
        "bf16": torch.randn(7).to(torch.bfloat16),
        "u8": torch.get_rng_state(),
        "scalar": torch.tensor(2.5),
        "transposed": torch.randn(4, 3).t(),
        "empty": torch.zeros(0),
    }
    state = {"float": 0.1 + 0.2, "none": None, "nested": {"a": [1, 2.5]}}
    path = folder.save(Checkpoint(12, tensors, state))
    assert path.name == "v000000012"
    loaded = folder.load_newest()
    assert loaded is not None
    assert (loaded.version, loaded.state) == (12, state)
    assert set(loaded.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_nothing_there_is_nothing_loaded(folder: CheckpointFolder) -> None:
    assert folder.load_newest() is None


def test_the_newest_few_are_kept_in_the_order_of_versions(folder: CheckpointFolder) -> None:
    for version in (5, 50, 500, 5000, 50000):
        folder.save(checkpoint(version))
    assert names(folder) == ["v000000500", "v000005000", "v000050000"]


def test_what_is_not_a_checkpoint_is_left_alone(folder: CheckpointFolder) -> None:
    for version in (1, 2, 3):
        folder.save(checkpoint(version))
    (folder.path / "v-notes").mkdir()
    (folder.path / "best").mkdir()
    folder.save(checkpoint(4))
    assert {"v-notes", "best"} < set(names(folder))
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 4


@pytest.mark.parametrize("name", [TENSORS, STATE, DIGESTS])
@pytest.mark.parametrize("damage", ["flip first", "flip middle", "flip last", "cut", "remove"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    folder: CheckpointFolder, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.save(checkpoint(1))
    path = folder.save(checkpoint(2)) / name
    data = bytearray(path.read_bytes())
    place = {"flip first": 0, "flip middle": len(data) // 2, "flip last": -1}.get(damage)
    if place is not None:
        data[place] ^= 0x01
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 1
    assert "event=checkpoint_skipped" in caplog.text
    assert "v000000002" in caplog.text


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "{}", '{"tensors.safetensors": 1}'])
def test_digests_of_another_form_are_damage_too(folder: CheckpointFolder, content: str) -> None:
    folder.save(checkpoint(1))
    (folder.save(checkpoint(2)) / DIGESTS).write_text(content)
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 1


def test_checkpoints_that_are_all_damaged_are_an_error_not_a_new_beginning(
    folder: CheckpointFolder,
) -> None:
    for version in (1, 2):
        (folder.save(checkpoint(version)) / STATE).write_text("{")
    with pytest.raises(CheckpointInvalid, match=r"none of the 2 in .*checkpoints can be read") as e:
        folder.load_newest()
    assert (e.value.reason, e.value.exit_code) == ("CheckpointInvalid", DISK_ERROR)


def test_a_damaged_newer_one_does_not_push_out_what_can_be_loaded(tmp_path: Path) -> None:
    """The run resumed from 6 because 9 is damaged; with keep 1 the new one must survive."""
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(checkpoint(6))
    (CheckpointFolder(tmp_path, keep=2).save(checkpoint(9)) / STATE).write_text("{")
    folder.save(checkpoint(7))
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 7
    assert names(folder) == ["v000000007", "v000000009"]
    folder.save(checkpoint(9, again=True))
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.state == {"updates": 9, "again": True}
    assert names(folder) == ["v000000009"]


def test_a_checkpoint_of_another_format_is_refused(folder: CheckpointFolder) -> None:
    folder.save(checkpoint(1))
    path = folder.save(checkpoint(2))
    state = path / STATE
    document = json.loads(state.read_text()) | {"format": 99}
    state.write_text(json.dumps(document))
    digests = json.loads((path / DIGESTS).read_text())
    digests[STATE] = hashlib.sha256(state.read_bytes()).hexdigest()
    (path / DIGESTS).write_text(json.dumps(digests))
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 1


def test_remains_of_a_killed_save_are_ignored_and_removed(folder: CheckpointFolder) -> None:
    path = folder.save(checkpoint(1))
    remains = folder.path / ".v000000002.tmp"
    shutil.copytree(path, remains)
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 1
    folder.save(checkpoint(3))  # another version than that of the remains
    assert names(folder) == ["v000000001", "v000000003"]


@contextmanager
def small_files() -> Iterator[None]:
    """Files may not grow beyond 100 bytes: the nearest thing to a full disk without root.

    No fixture: its end comes after pytest has written the result, maybe to a larger file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_fails_leaves_the_old_checkpoint_and_no_remains(
    folder: CheckpointFolder,
) -> None:
    folder.save(checkpoint(1))
    with small_files(), pytest.raises(OSError) as error:
        folder.save(checkpoint(2))
    assert error.value.errno == errno.EFBIG
    assert names(folder) == ["v000000001"]
    loaded = folder.load_newest()
    assert loaded is not None
    assert loaded.version == 1


@pytest.mark.parametrize("version", [2, 1], ids=["a new version", "the same version again"])
def test_a_kill_at_any_moment_of_a_save_leaves_the_old_or_the_new_checkpoint(
    version: int, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    CheckpointFolder(root, keep=1).save(
        Checkpoint(1, {"weight": torch.full((64,), 1.0)}, {"updates": 1})
    )
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(root), str(version)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    loaded = [int(row[1]) for row in rows]
    assert len(loaded) > 12  # every file's open and flush, the folder's, the renames, the removals
    assert loaded == sorted(loaded)
    assert {1, 2} == set(loaded)
    assert {row[2] for row in rows} == {"v000000003"}
