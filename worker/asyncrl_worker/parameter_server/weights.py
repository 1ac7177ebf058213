"""Versioned weights as bytes: written once, verified, sealed, never decoded.

On Linux the bytes live in a memfd: memory that dies with the process, can be sealed against any
further change, and can be mapped by actors of the same host through ``/proc/PID/fd/N``. Elsewhere
they live in anonymous memory and travel by stream only.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Collection
from dataclasses import dataclass

import xxhash

from asyncrl_worker.protocol.errors import MalformedMessage
from asyncrl_worker.protocol.weights_transfer import MAX_WEIGHTS_BYTES

SHARED_BYTES = 1 << 16
"""From this size on actors of the same host are offered the shared file; below it a stream is as
fast and saves the mapping."""


@dataclass(frozen=True)
class StoredWeights:
    """One policy version. `path` is empty where the bytes cannot be mapped by others."""

    version: int
    digest: bytes
    data: memoryview
    path: str


class _Memory:
    """`size` bytes, writable until sealed."""

    def __init__(self, size: int) -> None:
        self.path = ""
        self._descriptor: int | None = None
        if hasattr(os, "memfd_create") and size >= SHARED_BYTES:
            self._descriptor = os.memfd_create(
                "asyncrl-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            )
            os.ftruncate(self._descriptor, size)
            self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            self._buffer = bytearray(size)

    def write(self, offset: int, data: bytes) -> None:
        if self._descriptor is None:
            self._buffer[offset : offset + len(data)] = data
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written

    def seal(self) -> memoryview:
        """Makes the bytes immutable and returns them."""
        if self._descriptor is None:
            return memoryview(self._buffer).toreadonly()
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
        return memoryview(mmap.mmap(self._descriptor, 0, prot=mmap.PROT_READ))

    def __del__(self) -> None:
        # The last reader decides: a version may be dropped while a stream still sends it.
        if self._descriptor is not None:
            os.close(self._descriptor)


class Upload:
    """Weights on their way in. Only `commit` makes them visible."""

    def __init__(self, store: WeightsStore, version: int, size: int, digest: bytes) -> None:
        self.version = version
        self._store = store
        self._size = size
        self._digest = digest
        self._memory = _Memory(size)
        self._hash = xxhash.xxh3_128()
        self._received = 0

    def write(self, data: bytes) -> None:
        """Appends a chunk; MalformedMessage where it is more than announced."""
        if self._received + len(data) > self._size:
            raise MalformedMessage(
                f"weights version {self.version}: more than the announced {self._size} bytes"
            )
        self._memory.write(self._received, data)
        self._hash.update(data)
        self._received += len(data)

    def verify(self) -> None:
        """Raises MalformedMessage where a byte is missing or wrong."""
        if self._received != self._size or self._hash.digest() != self._digest:
            raise MalformedMessage(
                f"weights version {self.version}: {self._received} of {self._size} bytes or a "
                "wrong digest; not published"
            )

    def commit(self) -> StoredWeights:
        """Makes the verified bytes the newest weights."""
        self.verify()
        return self._store.commit(self.version, self._digest, self._memory)


class WeightsStore:
    """The newest versions. The newest is the one committed last: after a learner restart that may
    be a lower number than before."""

    def __init__(self) -> None:
        self._versions: dict[int, tuple[StoredWeights, _Memory]] = {}
        self._newest: int | None = None

    @property
    def newest(self) -> StoredWeights | None:
        return None if self._newest is None else self._versions[self._newest][0]

    def get(self, version: int) -> StoredWeights | None:
        """The weights of `version`, None where they are not (any more) here."""
        entry = self._versions.get(version)
        return None if entry is None else entry[0]

    def digest(self, version: int) -> bytes:
        """The digest of `version`, empty where it is not here."""
        weights = self.get(version)
        return b"" if weights is None else weights.digest

    @property
    def versions(self) -> list[int]:
        return sorted(self._versions)

    @property
    def size(self) -> int:
        """Bytes held, over all versions."""
        return sum(len(weights.data) for weights, _ in self._versions.values())

    def upload(self, version: int, size: int, digest: bytes) -> Upload:
        """Begins an upload; MalformedMessage for an impossible size or digest."""
        if not 0 < size <= MAX_WEIGHTS_BYTES or len(digest) != 16:
            raise MalformedMessage(
                f"weights version {version}: size {size} must be 1..{MAX_WEIGHTS_BYTES} bytes and "
                f"the digest 16 bytes, not {len(digest)}"
            )
        return Upload(self, version, size, digest)

    def commit(self, version: int, digest: bytes, memory: _Memory) -> StoredWeights:
        weights = StoredWeights(version, digest, memory.seal(), memory.path)
        self._versions[version] = (weights, memory)
        self._newest = version
        return weights

    def keep(self, versions: Collection[int]) -> None:
        """Forgets every version that is neither in `versions` nor the newest."""
        wanted = {*versions, self._newest}
        self._versions = {v: entry for v, entry in self._versions.items() if v in wanted}
