"""Weights over the wire: uploads of the learner in, chunks or a path to map out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from asyncrl_worker.parameter_server.effects import Effect
from asyncrl_worker.parameter_server.metrics import ParameterServerMetrics
from asyncrl_worker.parameter_server.refusals import Context, abort, learner_of, same_host
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.parameter_server.weights import StoredWeights, WeightsStore
from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.channel import CHUNK_BYTES

PUBLISH_IDLE_SECONDS = 30.0
"""Longest pause between two chunks of one upload."""


class WeightsTransfers:
    """Between the wire and the store."""

    def __init__(
        self, state: ParameterServerState, store: WeightsStore, metrics: ParameterServerMetrics
    ) -> None:
        self._state = state
        self._store = store
        self._metrics = metrics

    async def send(self, request: pb.WeightsRequest, context: Context) -> None:
        """Answer GetWeights: unchanged, a path on this host, or the bytes."""
        weights = await self._find(request, context)
        unchanged = bool(request.known_digest) and request.known_digest == weights.digest
        mapped = bool(weights.path) and not request.inline and same_host(context)
        info = pb.WeightsInfo(
            version=weights.version,
            size=len(weights.data),
            digest=weights.digest,
            unchanged=unchanged,
            path=weights.path if mapped and not unchanged else "",
        )
        outcome = "unchanged" if unchanged else "mapped" if mapped else "sent"
        self._metrics.weights_requests.labels(outcome).inc()
        await context.write(pb.WeightsChunk(info=info))
        if unchanged or mapped:
            return
        for start in range(request.offset, len(weights.data), CHUNK_BYTES):
            chunk = bytes(weights.data[start : start + CHUNK_BYTES])
            await context.write(pb.WeightsChunk(data=chunk))
            self._metrics.bytes_sent.inc(len(chunk))

    async def receive(self, chunks: AsyncIterator[pb.PublishChunk]) -> list[Effect]:
        """Take in an upload, verify it, publish it.

        Raises ProtocolError, TimeoutError or StopAsyncIteration for one that is wrong or stops.
        """
        chunk = await _next_chunk(chunks)
        header = chunk.header
        learner = learner_of(header)
        self._state.check(learner)
        newest = self._store.newest
        repeated = (
            self._state.published_version == header.version
            and newest is not None
            and newest.digest == header.digest
        )
        if repeated:
            return []
        upload = self._store.upload(header.version, header.size, header.digest)
        while True:
            upload.write(chunk.data)
            try:
                chunk = await _next_chunk(chunks)
            except StopAsyncIteration:
                break
        upload.verify()
        effects = self._state.published(
            learner,  # another one may have taken over during the upload
            header.version,
            evaluate_episodes=header.evaluate_episodes,
            reset_environments=header.reset_environments,
        )
        upload.commit()
        self._store.keep(self._state.needed_versions)
        return effects

    async def _find(self, request: pb.WeightsRequest, context: Context) -> StoredWeights:
        newest = self._store.newest
        weights = self._store.get(request.version) if request.HasField("version") else newest
        if weights is None:
            self._metrics.weights_requests.labels("not_found").inc()
            detail = (
                f"weights version {request.version} is not kept, the newest is {newest.version}"
                if newest is not None
                else "no weights are published yet"
            )
            await abort(context, grpc.StatusCode.NOT_FOUND, detail)
        if request.offset > len(weights.data):
            detail = f"offset {request.offset} is beyond the {len(weights.data)} bytes"
            await abort(context, grpc.StatusCode.OUT_OF_RANGE, detail)
        return weights


async def _next_chunk(chunks: AsyncIterator[pb.PublishChunk]) -> pb.PublishChunk:
    async with asyncio.timeout(PUBLISH_IDLE_SECONDS):
        return await anext(chunks)
