"""Stored weights: visible only when whole, immutable, mapped by neighbours, dropped in time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from asyncrl_worker.parameter_server.weights import SHARED_BYTES, WeightsStore
from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.errors import MalformedMessage
from asyncrl_worker.protocol.weights_transfer import MAX_WEIGHTS_BYTES, digest, map_weights

SMALL = b"weights" * 10
LARGE = hashlib.shake_128(b"weights").digest(SHARED_BYTES + 123)


def put(store: WeightsStore, version: int, blob: bytes, chunk: int = 1000) -> None:
    upload = store.upload(version, len(blob), digest(blob))
    for start in range(0, len(blob), chunk):
        upload.write(blob[start : start + chunk])
    upload.commit()


@pytest.mark.parametrize("blob", [SMALL, LARGE])
def test_weights_come_back_as_they_went_in(blob: bytes) -> None:
    store = WeightsStore()
    put(store, 4, blob)
    stored = store.get(4)
    assert stored is not None and stored is store.newest
    assert bytes(stored.data) == blob and store.digest(4) == digest(blob)
    assert stored.data.readonly
    assert store.get(3) is None and store.digest(3) == b""


@pytest.mark.parametrize("blob", [SMALL, LARGE])
def test_incomplete_damaged_or_overlong_uploads_never_become_visible(blob: bytes) -> None:
    store = WeightsStore()
    put(store, 0, b"before")
    damaged = blob[:5] + bytes([blob[5] ^ 1]) + blob[6:]
    for content in (blob[:-1], damaged):
        upload = store.upload(1, len(blob), digest(blob))
        upload.write(content)
        with pytest.raises(MalformedMessage, match="not published"):
            upload.commit()
    upload = store.upload(1, len(blob), digest(blob))
    upload.write(blob)
    with pytest.raises(MalformedMessage, match="more than the announced"):
        upload.write(b"!")
    assert store.versions == [0]
    assert store.newest is not None and store.newest.version == 0


@pytest.mark.parametrize("size", [0, -1, MAX_WEIGHTS_BYTES + 1])
def test_an_impossible_size_is_refused_before_memory_is_reserved(size: int) -> None:
    with pytest.raises(MalformedMessage, match="size"):
        WeightsStore().upload(0, size, bytes(16))


def test_the_digest_has_its_length() -> None:
    with pytest.raises(MalformedMessage, match="16 bytes, not 8"):
        WeightsStore().upload(0, 10, bytes(8))


def test_only_wanted_versions_and_the_newest_are_kept() -> None:
    store = WeightsStore()
    for version in range(6):
        put(store, version, SMALL)
    store.keep({1, 4, 77})
    assert store.versions == [1, 4, 5]
    assert store.size == 3 * len(SMALL)
    put(store, 2, SMALL)
    store.keep(())
    assert store.versions == [2], "the newest is the one that came last"


def test_a_reader_keeps_its_version_alive() -> None:
    store = WeightsStore()
    put(store, 0, LARGE)
    stored = store.get(0)
    put(store, 1, SMALL)
    store.keep(())
    assert stored is not None and bytes(stored.data) == LARGE


def info(store: WeightsStore, **changes: object) -> pb.WeightsInfo:
    stored = store.newest
    assert stored is not None
    message = pb.WeightsInfo(
        version=stored.version, size=len(stored.data), digest=stored.digest, path=stored.path
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_a_neighbour_maps_the_bytes_and_keeps_them() -> None:
    store = WeightsStore()
    put(store, 0, LARGE)
    mapped = map_weights(info(store))
    assert mapped is not None and bytes(mapped.data) == LARGE
    put(store, 1, SMALL)
    store.keep(())
    assert bytes(mapped.data) == LARGE
    assert store.newest is not None and store.newest.path == "", "small weights are not shared"


def test_shared_bytes_cannot_be_changed_by_anybody() -> None:
    store = WeightsStore()
    put(store, 0, LARGE)
    descriptor = os.open(info(store).path, os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 1)
    finally:
        os.close(descriptor)


def test_a_path_that_names_something_else_is_not_used(tmp_path: Path) -> None:
    store = WeightsStore()
    put(store, 0, LARGE)
    other = tmp_path / "other"
    other.write_bytes(LARGE[::-1])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "missing", other, pipe, tmp_path):
        assert map_weights(info(store, path=str(path))) is None
    assert map_weights(info(store, size=5)) is None


def test_memory_is_given_back() -> None:
    store = WeightsStore()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for version in range(50):
        put(store, version, LARGE, chunk=len(LARGE))
        store.keep(())
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208
