"""The learner's side of the protocol: blocking calls that survive a parameter server's restart.

The whole of a learner, as far as the protocol is concerned::

    client = LearnerClient(address, attempt=0, schema=schema, version=0, ledger=None)
    client.hello()
    client.publish(0, blob)
    while (batch := client.next_batch(timeout=60)) is not None:
        ...                                    # one update: version + 1
        client.publish(version, blob)
        client.consumed(batch.batch_id, "trained")
    client.finish()

`consumed` may come before its `publish` has ended (publish from another thread): the parameter
server opens the gate for a batch when the version that came of it can be fetched, not before.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import grpc

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.channel import (
    CALL_SECONDS,
    CHUNK_BYTES,
    CONNECT_SECONDS,
    MAX_BATCH_BYTES,
    TRANSFER_SECONDS,
    Link,
)
from asyncrl_worker.protocol.errors import Fenced, Refused
from asyncrl_worker.protocol.messages import PROTOCOL_VERSION, Evaluation, Schema
from asyncrl_worker.protocol.retry import Retry
from asyncrl_worker.protocol.weights_transfer import digest
from asyncrl_worker.protocol.wire import (
    FENCED,
    HELLO_REQUIRED,
    evaluation_from_wire,
    ledger_from_wire,
    ledger_to_wire,
    refusal_kind,
    schema_to_wire,
)
from asyncrl_worker.staleness import Ledger

Reply = TypeVar("Reply")

LONGEST_POLL = 10.0
"""Seconds one NextBatch call waits at the server; bounds how late a fence is noticed."""

EVALUATIONS_LIMIT = 64

_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
)


@dataclass(frozen=True)
class BatchMessage:
    """B fragments (safetensors bytes) in the server's order, to be trained at `version`.

    `tickets` names each fragment's ticket; `ledger` is the server's as of this batch.
    """

    batch_id: int
    version: int
    fragments: list[bytes]
    tickets: list[int]
    ledger: Ledger


@dataclass(frozen=True)
class _Published:
    version: int
    blob: bytes
    digest: bytes
    evaluate_episodes: int
    reset_environments: bool

    def chunks(self, attempt: int, incarnation: int) -> Iterator[pb.PublishChunk]:
        header = pb.PublishHeader(
            attempt=attempt,
            incarnation=incarnation,
            version=self.version,
            digest=self.digest,
            size=len(self.blob),
            evaluate_episodes=self.evaluate_episodes,
            reset_environments=self.reset_environments,
        )
        yield pb.PublishChunk(header=header)
        view = memoryview(self.blob)
        for start in range(0, len(view), CHUNK_BYTES):
            yield pb.PublishChunk(data=bytes(view[start : start + CHUNK_BYTES]))


class LearnerClient:
    """One learner process's connection to the parameter server.

    `version` is the policy version that the process starts at and `ledger` the last one known
    (from the checkpoint). Thread-safe: training, prefetching and publishing may use it at once.
    Every method raises PeerUnavailable after `deadline` seconds without an answer or when `close`
    was called, Fenced when a newer attempt, or a later process of the same attempt, has taken
    over, Refused for what no retry can mend.
    """

    def __init__(
        self,
        address: str,
        *,
        attempt: int,
        schema: Schema,
        version: int = 0,
        ledger: Ledger | None = None,
        tls: Path | None = None,
        deadline: float = CONNECT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = f"parameter server at {address}"
        self._attempt = attempt
        self._schema = schema
        self._deadline = deadline
        self._clock = clock
        self._incarnation = secrets.randbits(63)
        self._link = Link(address, tls, receive_limit=MAX_BATCH_BYTES, clock=clock)
        self._closed = threading.Event()
        # Guards what the threads share; never held during a call.
        self._lock = threading.Lock()
        self._hello_lock = threading.Lock()
        self._version = version
        self._newest: _Published | None = None
        self._ledger = ledger
        self._held: dict[int, pb.HeldBatch] = {}
        self._evaluations: list[Evaluation] = []
        self._evaluations_seen = 0
        self._eta: int | None = None
        self._epoch = 0

    def __enter__(self) -> Self:
        self.hello()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def ledger(self) -> Ledger:
        """The newest ledger received; put it into the checkpoint."""
        with self._lock:
            return Ledger() if self._ledger is None else self._ledger.copy()

    @property
    def epoch(self) -> int:
        """Which life of the parameter server answered last; changes when it was restarted."""
        return self._epoch

    def hello(self, patience: float | None = None) -> None:
        """Introduces this process; its predecessors are refused from here on.

        `patience`: as `deadline`, for a parameter server that may only be starting.
        """
        self._call("introducing the learner", lambda: None, patience)

    def next_batch(self, timeout: float) -> BatchMessage | None:
        """The next batch; None after `timeout` seconds. Settle it with `consumed`.

        A second batch may be fetched before the first is settled (bounded mode only; in exact mode
        the call waits for the settlement).
        """
        limit = self._clock() + timeout
        while True:
            remaining = max(0.0, limit - self._clock())
            batch = self._poll(min(remaining, LONGEST_POLL), evaluations_only=False)
            if batch is not None:
                return batch
            if self._clock() >= limit or self._closed.is_set():
                return None

    def evaluations(self, timeout: float = 0.0) -> list[Evaluation]:
        """Results that arrived since the last call; waits up to `timeout` seconds for a first."""
        limit = self._clock() + timeout
        while True:
            with self._lock:
                if self._evaluations:
                    results, self._evaluations = self._evaluations, []
                    return results
            remaining = limit - self._clock()
            if remaining <= 0:
                return []
            self._poll(min(remaining, LONGEST_POLL), evaluations_only=True)

    def publish(
        self,
        version: int,
        blob: bytes,
        *,
        evaluate_episodes: int = 0,
        reset_environments: bool = False,
    ) -> None:
        """Makes `blob` the newest weights, as `version`; higher than the one before.

        `evaluate_episodes` > 0 asks for an evaluation of this version. With `reset_environments`
        (exact mode) the next ticket of every actor resets its environments.
        """
        published = _Published(version, blob, digest(blob), evaluate_episodes, reset_environments)
        with self._lock:
            self._newest = published
        self._call(f"publishing weights version {version}", lambda: self._publish(published))

    def consumed(self, batch_id: int, outcome: str) -> None:
        """Settles a batch: "trained" (the version is one higher now) or a DropReason."""
        with self._lock:
            trained = outcome == "trained" and batch_id in self._held
            version = self._version + 1 if trained else self._version
            request = pb.ConsumedRequest(
                attempt=self._attempt,
                incarnation=self._incarnation,
                batch_id=batch_id,
                outcome=outcome,
                version=version,
            )
        reply = self._call(
            f"settling batch {batch_id}",
            lambda: self._link.stub.Consumed(request, timeout=CALL_SECONDS),
        )
        with self._lock:
            self._held.pop(batch_id, None)
            self._version = version
            self._note(reply.ledger)

    def pace(self, eta: int) -> int:
        """Asks for an effective staleness bound of `eta`; returns the one in effect.

        A restarted parameter server is asked again.
        """
        with self._lock:
            self._eta = eta
        return int(self._call("pacing", lambda: self._pace(eta)).eta)

    def finish(self) -> Ledger:
        """Ends the run: actors drain, the parameter server exits. Returns the final ledger."""
        request = pb.FinishRequest(attempt=self._attempt, incarnation=self._incarnation)
        reply = self._call(
            "finishing", lambda: self._link.stub.Finish(request, timeout=CALL_SECONDS)
        )
        with self._lock:
            self._note(reply.ledger)
        return self.ledger

    def close(self) -> None:
        """Disconnects; calls under way in other threads end with PeerUnavailable."""
        self._closed.set()
        self._link.close()

    def _poll(self, wait: float, *, evaluations_only: bool) -> BatchMessage | None:
        asked = 0  # the epoch that the successful call was made under

        def call() -> pb.NextBatchReply:
            nonlocal asked
            with self._lock:
                asked = self._epoch
                request = pb.NextBatchRequest(
                    attempt=self._attempt,
                    incarnation=self._incarnation,
                    wait_seconds=wait,
                    held=list(self._held),
                    evaluations_only=evaluations_only,
                    evaluations_seen=self._evaluations_seen,
                )
            reply: pb.NextBatchReply = self._link.stub.NextBatch(
                request, timeout=wait + CALL_SECONDS
            )
            return reply

        reply = self._call("waiting for a batch", call)
        with self._lock:
            # Meanwhile another thread may have met a restarted server, and told it what is held
            # here: this reply is of the one before, and what it brings is counted as lost.
            if asked != self._epoch:
                return None
            self._take_evaluations(reply)
            self._note(reply.ledger)
            if not reply.HasField("batch_id") or reply.batch_id in self._held:
                return None
            self._held[reply.batch_id] = pb.HeldBatch(
                batch_id=reply.batch_id, fragments=len(reply.fragments), version=reply.version
            )
        return BatchMessage(
            batch_id=reply.batch_id,
            version=reply.version,
            fragments=list(reply.fragments),
            tickets=list(reply.tickets),
            ledger=ledger_from_wire(reply.ledger),
        )

    def _take_evaluations(self, reply: pb.NextBatchReply) -> None:
        for message in reply.evaluations:
            if message.number > self._evaluations_seen:
                self._evaluations_seen = message.number
                self._evaluations.append(evaluation_from_wire(message))
        del self._evaluations[:-EVALUATIONS_LIMIT]

    def _note(self, message: pb.LedgerMessage) -> None:
        """Keeps the newer ledger: replies to several threads may overtake each other."""
        ledger = ledger_from_wire(message)
        if self._ledger is None or _age(ledger) >= _age(self._ledger):
            self._ledger = ledger

    def _publish(self, published: _Published) -> None:
        chunks = published.chunks(self._attempt, self._incarnation)
        reply = self._link.stub.Publish(chunks, timeout=TRANSFER_SECONDS)
        with self._lock:
            self._note(reply.ledger)

    def _pace(self, eta: int) -> pb.PaceReply:
        request = pb.PaceRequest(attempt=self._attempt, incarnation=self._incarnation, eta=eta)
        reply: pb.PaceReply = self._link.stub.Pace(request, timeout=CALL_SECONDS)
        return reply

    def _call(self, phase: str, call: Callable[[], Reply], patience: float | None = None) -> Reply:
        """Runs `call`, introducing the learner first where that is needed, until it succeeds."""
        retry: Retry | None = None
        while True:
            epoch, stub = self._epoch, self._link.stub
            try:
                if epoch == 0:
                    self._introduce(epoch)
                return call()
            except grpc.RpcError as error:
                kind, detail = refusal_kind(error), error.details() or ""
                if kind == FENCED:
                    raise Fenced(detail) from None
                if kind == HELLO_REQUIRED:
                    self._forget(epoch)
                    detail = ""
                elif error.code() not in _RETRIED:
                    raise Refused(f"{self._peer}: {phase}: {detail}") from None
                elif error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._link.renew(stub)
            except ValueError as error:
                # What gRPC raises on a channel that is closed, by `close` or by another thread's
                # renewal.
                detail = str(error)
            if retry is None:
                deadline = self._deadline if patience is None else patience
                retry = Retry(self._peer, phase, deadline, self._clock)
            retry.wait(self._closed, detail)

    def _forget(self, epoch: int) -> None:
        with self._hello_lock, self._lock:
            if self._epoch == epoch:
                self._epoch = 0

    def _introduce(self, epoch: int) -> None:
        """LearnerHello and, where the server has none, the newest weights. One thread does it."""
        with self._hello_lock:
            if self._epoch != epoch:
                return
            with self._lock:
                newest = self._newest
                version = self._version if newest is None else max(self._version, newest.version)
                request = pb.LearnerHelloRequest(
                    protocol_version=PROTOCOL_VERSION,
                    attempt=self._attempt,
                    incarnation=self._incarnation,
                    version=version,
                    schema=schema_to_wire(self._schema),
                    ledger=None if self._ledger is None else ledger_to_wire(self._ledger),
                    held=list(self._held.values()),
                )
            reply = self._link.stub.LearnerHello(request, timeout=CALL_SECONDS)
            if reply.protocol_version != PROTOCOL_VERSION:
                raise Refused(
                    f"{self._peer}: protocol version {reply.protocol_version}, this learner's is "
                    f"{PROTOCOL_VERSION}; use the same asyncrl release (image) in every role"
                )
            with self._lock:
                self._ledger = ledger_from_wire(reply.ledger)
                self._evaluations_seen = 0
                eta = self._eta
            if eta is not None:
                self._pace(eta)
            # Published before any other thread may ask for a batch of it.
            if reply.weights_wanted and newest is not None and newest.version == version:
                self._publish(newest)
            with self._lock:
                self._epoch = reply.epoch


def _age(ledger: Ledger) -> int:
    """Grows with every event of one ledger."""
    return ledger.produced + ledger.trained + ledger.dropped_total
