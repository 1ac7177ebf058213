"""Fetching weights over an unreliable stream: resumed, verified, never half applied."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.errors import MalformedMessage, WeightsGone
from asyncrl_worker.protocol.weights_transfer import MAX_WEIGHTS_BYTES, WeightsFetch, digest

BLOB = bytes(range(256)) * 8
CHUNK = 300


class BrokenStreamError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        super().__init__("broken")
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "weights version 3 is not kept, the newest is 9"


class Source:
    """Answers GetWeights as the server does; what it sends can be damaged or cut."""

    def __init__(self, blob: bytes = BLOB, version: int = 3) -> None:
        self.blob = blob
        self.info = pb.WeightsInfo(version=version, size=len(blob), digest=digest(blob))
        self.requests: list[pb.WeightsRequest] = []
        self.sent = 0
        self.break_after: int | None = None
        self.missing = False

    def __call__(self, request: pb.WeightsRequest) -> Iterator[pb.WeightsChunk]:
        self.requests.append(request)
        if self.missing:
            raise BrokenStreamError(grpc.StatusCode.NOT_FOUND)
        info = pb.WeightsInfo()
        info.CopyFrom(self.info)
        info.unchanged = request.known_digest == self.info.digest
        if request.inline:
            info.path = ""
        yield pb.WeightsChunk(info=info)
        if info.unchanged:
            return
        for number, start in enumerate(range(request.offset, len(self.blob), CHUNK)):
            if number == self.break_after:
                raise BrokenStreamError
            self.sent += len(self.blob[start : start + CHUNK])
            yield pb.WeightsChunk(data=self.blob[start : start + CHUNK])


def test_a_broken_fetch_continues_where_it_broke() -> None:
    source = Source()
    source.break_after = 3
    fetch = WeightsFetch(None, b"")
    with pytest.raises(BrokenStreamError):
        fetch.advance(source)
    source.break_after = None
    weights = fetch.advance(source)
    assert weights is not None and bytes(weights.data) == BLOB
    assert [request.offset for request in source.requests] == [0, 3 * CHUNK]
    assert source.requests[1].version == 3, "the rest must be of the same version"
    assert source.sent == len(BLOB), "no byte travels twice"


def test_unchanged_weights_are_not_sent() -> None:
    source = Source()
    assert WeightsFetch(None, digest(BLOB)).advance(source) is None
    assert source.sent == 0


def test_tampered_or_short_weights_are_not_applied_and_fetched_anew() -> None:
    source = Source()
    for blob in (BLOB[:-1], BLOB[:9] + b"!" + BLOB[10:]):
        fetch = WeightsFetch(3, b"")
        source.blob = blob
        with pytest.raises(MalformedMessage, match="not applied"):
            fetch.advance(source)
        source.blob = BLOB
        weights = fetch.advance(source)
        assert weights is not None and bytes(weights.data) == BLOB
        assert source.requests[-1].offset == 0


def test_more_bytes_than_announced_are_refused() -> None:
    source = Source()
    source.blob = BLOB + b"!"
    with pytest.raises(MalformedMessage, match="more bytes than announced"):
        WeightsFetch(3, b"").advance(source)


def test_an_announced_size_beyond_the_limit_is_refused_before_memory_is_reserved() -> None:
    source = Source()
    source.info.size = MAX_WEIGHTS_BYTES + 1
    with pytest.raises(MalformedMessage, match="exceed"):
        WeightsFetch(3, b"").advance(source)


def test_a_version_that_changed_between_two_tries_is_not_mixed() -> None:
    source = Source()
    source.break_after = 2
    fetch = WeightsFetch(3, b"")
    with pytest.raises(BrokenStreamError):
        fetch.advance(source)
    other = Source(BLOB[::-1])
    with pytest.raises(MalformedMessage, match="changed while being fetched"):
        fetch.advance(other)
    weights = fetch.advance(other)
    assert weights is not None and bytes(weights.data) == BLOB[::-1]


def test_a_version_that_is_gone_is_said_so() -> None:
    source = Source()
    source.missing = True
    with pytest.raises(WeightsGone, match="the newest is 9"):
        WeightsFetch(3, b"").advance(source)


def test_the_newest_that_was_replaced_during_a_break_is_asked_for_again() -> None:
    source = Source()
    source.break_after = 2
    fetch = WeightsFetch(None, b"")
    with pytest.raises(BrokenStreamError):
        fetch.advance(source)
    source.missing = True
    with pytest.raises(MalformedMessage, match="replaced"):
        fetch.advance(source)
    newer = Source(BLOB[::-1], version=9)
    weights = fetch.advance(newer)
    assert weights is not None and weights.version == 9
    assert not newer.requests[0].HasField("version")


def test_a_path_that_cannot_be_used_falls_back_to_the_stream() -> None:
    source = Source()
    source.info.path = "/proc/1/fd/9999"
    weights = WeightsFetch(3, b"").advance(source)
    assert weights is not None and bytes(weights.data) == BLOB
    assert [request.inline for request in source.requests] == [False, True]
