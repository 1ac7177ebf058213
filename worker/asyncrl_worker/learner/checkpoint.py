"""Checkpoints: atomic, digest-checked folders; a run resumes from the newest valid one.

    checkpoints/
      v000000500/
        tensors.safetensors   weights, optimizers, alignment memory, normaliser, random state
        state.json            versions, counters, ledger, scalars
        digests.json          sha256 of the two; written last

A folder is written under a temporary name, flushed to disk and renamed, so a reader sees a whole
checkpoint or none. What a killed process leaves behind is ignored, and removed by the next save.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from asyncrl_api.reasons import Reason
from asyncrl_worker.fault import DISK_ERROR, Fault

log = logging.getLogger("asyncrl")

TENSORS = "tensors.safetensors"
STATE = "state.json"
DIGESTS = "digests.json"
FORMAT = 1
FOLDER = re.compile(r"v(\d{9,})")
TEMPORARY = re.compile(r"\.v\d{9,}\.(tmp|old)")


class CheckpointInvalid(Fault):
    """There are checkpoints, and none of them can be read: one line that names the folder."""

    reason = Reason.CHECKPOINT_INVALID
    exit_code = DISK_ERROR


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory; `state` is JSON."""

    version: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of a run: save, keep the newest `keep`, load the newest valid one."""

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and delete what is beyond `keep`. Raises OSError (disk full, ...)."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._put_back()
        self._remove_temporary()
        target = self.path_of(checkpoint)
        temporary = self.path / f".{target.name}.tmp"
        temporary.mkdir()
        try:
            _write(temporary, checkpoint)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):  # those of write and fsync come without a name
                raise OSError(error.errno, error.strerror, str(target)) from error
            raise
        if target.exists():  # damaged, or of this version before its last batches
            target.rename(self.path / f".{target.name}.old")
        temporary.rename(target)
        _sync_folder(self.path)
        self._remove_temporary()
        # Newer ones than this are damaged too; they do not push out what can be loaded.
        older = [folder for folder in self._folders() if _version(folder) <= checkpoint.version]
        for folder in older[: -self._keep]:
            shutil.rmtree(folder, ignore_errors=True)
        return target

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint whose digests fit; older ones are tried in turn, with a warning.

        None if there has never been one. Raises CheckpointInvalid if all are damaged: a run that
        began anew in their place would be taken for the old one.
        """
        folders = self._folders()
        for folder in reversed(folders):
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("event=checkpoint_skipped path=%s error=%s", folder, error)
        if folders:
            raise CheckpointInvalid(
                f"checkpoint: none of the {len(folders)} in {self.path} can be read; restore one, "
                "or delete the folder to begin anew"
            )
        return None

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Where this checkpoint lies once it is saved."""
        return self.path / f"v{checkpoint.version:09d}"

    def __bool__(self) -> bool:
        """Whether there is a checkpoint, valid or not."""
        return bool(self._folders())

    def _folders(self) -> list[Path]:
        """Checkpoints from old to new; whatever else lies there is not ours."""
        if not self.path.is_dir():
            return []
        self._put_back()
        return sorted((p for p in self.path.iterdir() if FOLDER.fullmatch(p.name)), key=_version)

    def _put_back(self) -> None:
        """Undo a replacement that was killed between its two renames: the old one is whole."""
        for path in self.path.iterdir():
            if path.suffix == ".old" and TEMPORARY.fullmatch(path.name):
                target = self.path / path.stem.removeprefix(".")
                if not target.exists():
                    path.rename(target)

    def _remove_temporary(self) -> None:
        for path in self.path.iterdir():
            if TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _version(folder: Path) -> int:
    return int(folder.name[1:])


def to_bytes(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The contents of a checkpoint's two files, by their names."""
    document = {"format": FORMAT, "version": checkpoint.version, "state": checkpoint.state}
    return {
        TENSORS: save({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}),
        STATE: json.dumps(document, indent=1).encode(),
    }


def from_bytes(contents: Mapping[str, bytes]) -> Checkpoint:
    """What `to_bytes` was given. Raises ValueError, KeyError, SafetensorError."""
    document = json.loads(contents[STATE])
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']}, this program reads {FORMAT}")
    tensors = load(contents[TENSORS])
    return Checkpoint(version=document["version"], tensors=tensors, state=document["state"])


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    contents = to_bytes(checkpoint)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    contents[DIGESTS] = json.dumps(digests).encode()
    for name, data in contents.items():
        with (folder / name).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    _sync_folder(folder)


def _read(folder: Path) -> Checkpoint:
    digests: dict[str, str] = json.loads((folder / DIGESTS).read_bytes())
    contents = {name: (folder / name).read_bytes() for name in (TENSORS, STATE)}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise ValueError(f"{name} does not match its digest")
    return from_bytes(contents)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with a prefix, for one flat file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def section(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a flat file under a prefix, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The per-parameter state of an optimizer, by parameter index and name."""
    return {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; the groups' settings come from the manifest."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor.clone()
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
