"""Checkpoints: atomic, digest-checked folders of safetensors and JSON; the newest valid one resumes.

    checkpoints/
      v000000500/
        tensors.safetensors   weights, optimizers, alignment memory, normaliser, random state
        state.json            versions, counters, ledger, scalars
        digests.json          sha256 of the two; written last

A folder is written under a temporary name, flushed to disk and renamed, so a reader sees a whole
checkpoint or none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger("asyncrl")

TENSORS = "tensors.safetensors"
STATE = "state.json"
DIGESTS = "digests.json"
FORMAT = 1
READ_BYTES = 1 << 20


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
        target = self.path / f"v{checkpoint.version:09d}"
        temporary = self.path / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            self._write(temporary, checkpoint)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if target.exists():  # the same version again, after a resume: the newer one wins
            shutil.rmtree(target)
        temporary.replace(target)
        _sync_folder(self.path)
        for old in self._folders()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint whose digests fit; older ones are tried in turn, with a warning."""
        for folder in reversed(self._folders()):
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("event=checkpoint_skipped path=%s error=%s", folder, error)
        return None

    def _folders(self) -> list[Path]:
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if path.name.startswith("v"))

    @staticmethod
    def _write(folder: Path, checkpoint: Checkpoint) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        try:
            save_file(tensors, folder / TENSORS)
        except SafetensorError as error:
            # safetensors wraps the operating system's error; callers handle OSError.
            raise OSError(f"checkpoint {folder.parent}: {error}") from error
        document = {"format": FORMAT, "version": checkpoint.version, "state": checkpoint.state}
        (folder / STATE).write_text(json.dumps(document, indent=1), encoding="utf-8")
        digests = {name: _digest(folder / name) for name in (TENSORS, STATE)}
        (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        for name in (TENSORS, STATE, DIGESTS):
            descriptor = os.open(folder / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(folder)


def _read(folder: Path) -> Checkpoint:
    digests: dict[str, str] = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    for name in (TENSORS, STATE):
        if _digest(folder / name) != digests[name]:
            raise ValueError(f"{name} does not match its digest")
    document = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']}, this program reads {FORMAT}")
    tensors = load_file(folder / TENSORS)
    return Checkpoint(version=document["version"], tensors=tensors, state=document["state"])


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


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
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
