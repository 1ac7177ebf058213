"""Fetching weights: verified by digest, resumed by offset, never half applied.

Where server and client share a host the parameter server offers its (sealed, memory-only) file by
path, and the client maps it: one copy of the bytes serves every actor of the host. Elsewhere the
bytes come as a stream of chunks.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import xxhash

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.errors import MalformedMessage, WeightsGone
from asyncrl_worker.protocol.messages import Weights

MAX_WEIGHTS_BYTES = 8 << 30
"""Largest accepted blob; checked before memory is reserved."""


def digest(data: bytes | memoryview) -> bytes:
    """xxh3_128 of `data`, 16 bytes: detects corruption; the transport authenticates."""
    return xxhash.xxh3_128_digest(data)


class WeightsFetch:
    """One fetch that may take several calls: what arrived before a break is kept.

    After grpc.RpcError or MalformedMessage `advance` may be called again; it continues at the
    byte where the stream broke, or from the start where the bytes turned out to be wrong.
    """

    def __init__(self, version: int | None, known_digest: bytes, *, shared: bool = True) -> None:
        self._version = version
        self._known = known_digest
        self._shared = shared
        self._info: pb.WeightsInfo | None = None
        self._buffer = bytearray()
        self._received = 0

    def advance(self, call: Callable[[pb.WeightsRequest], Iterator[Any]]) -> Weights | None:
        """Runs one call, `call(request)` being GetWeights, to its end. None: unchanged.

        Raises WeightsGone, MalformedMessage, grpc.RpcError.
        """
        try:
            chunks = call(self._request())
            info = next(chunks).info
            if info.unchanged:
                return None
            if info.path and self._shared:
                mapped = map_weights(info)
                if mapped is None:
                    # Another user or mount: the path is no use here, the bytes come by stream.
                    self._shared = False
                    return self.advance(call)
                return mapped
            self._prepare(info)
            for chunk in chunks:
                self._append(chunk.data)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return self._gone(error.details() or "not found")
            raise
        return self._finish(info)

    def _request(self) -> pb.WeightsRequest:
        version = self._version if self._info is None else self._info.version
        return pb.WeightsRequest(
            version=version,
            offset=self._received,
            known_digest=self._known,
            inline=not self._shared,
        )

    def _gone(self, detail: str) -> Weights | None:
        if self._version is None and self._received:
            self._restart()
            raise MalformedMessage(f"{detail}; it was replaced while being fetched")
        raise WeightsGone(detail)

    def _prepare(self, info: pb.WeightsInfo) -> None:
        if info.size > MAX_WEIGHTS_BYTES:
            raise MalformedMessage(
                f"weights version {info.version}: {info.size} bytes exceed {MAX_WEIGHTS_BYTES}"
            )
        # A version number may name other weights after a learner restart; the digest does not.
        if self._info is not None and self._info.digest != info.digest:
            self._restart()
            raise MalformedMessage(f"weights version {info.version} changed while being fetched")
        if self._info is None:
            self._info = info
            self._buffer = bytearray(info.size)

    def _append(self, data: bytes) -> None:
        end = self._received + len(data)
        if end > len(self._buffer):
            self._restart()
            raise MalformedMessage("weights: more bytes than announced")
        self._buffer[self._received : end] = data
        self._received = end

    def _finish(self, info: pb.WeightsInfo) -> Weights:
        data = memoryview(self._buffer).toreadonly()
        received = self._received
        if received == info.size and digest(data) == info.digest:
            return Weights(info.version, info.digest, data)
        self._restart()
        raise MalformedMessage(
            f"weights version {info.version}: {received} of {info.size} bytes or a wrong digest; "
            "not applied"
        )

    def _restart(self) -> None:
        self._info = None
        self._buffer = bytearray()
        self._received = 0


def map_weights(info: pb.WeightsInfo) -> Weights | None:
    """The shared file of `info`, mapped and verified; None where it cannot be used here."""
    try:
        # Non-blocking: in another process namespace the path may name anything, even a pipe.
        descriptor = os.open(info.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != info.size or info.size == 0:
            return None
        # Mapping the pages in one go is faster than one fault per page.
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        mapped = mmap.mmap(descriptor, info.size, flags=flags, prot=mmap.PROT_READ)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    data = memoryview(mapped)
    if digest(data) != info.digest:
        return None
    return Weights(info.version, info.digest, data)
