"""The actor's side of the protocol: a blocking object around one stream.

The whole of an actor, as far as the protocol is concerned::

    with ActorStream(address, actor_index=0, attempt=0, schema=schema, tls=None) as stream:
        for message in stream:
            match message:
                case Ticket():
                    wanted = message.policy_version if message.exact else None
                    weights = stream.weights(wanted, known)  # None: the ones in hand are current
                    ...
                    stream.send_fragment(message, encode(fragment))
                case Evaluate():
                    weights = stream.weights(message.version, known)
                    ...
                    stream.send_evaluation(message.version, returns, lengths)
                case Ack() if not message.accepted:
                    ...  # count message.reason
                case Drain():
                    break

Reconnecting is the stream's own business: a broken stream is opened again at the next receive,
with backoff, and asks for new work; a ticket of the old stream is then void (a fragment sent for
it comes back as a refused Ack). Forked children must not exist while gRPC runs: create
environments that use processes before entering the stream.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import grpc
import xxhash

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.channel import (
    CALL_SECONDS,
    CONNECT_SECONDS,
    MAX_MESSAGE_BYTES,
    TRANSFER_SECONDS,
    Link,
)
from asyncrl_worker.protocol.errors import Fenced, MalformedMessage, PeerUnavailable, Refused
from asyncrl_worker.protocol.messages import (
    PROTOCOL_VERSION,
    Ack,
    Drain,
    Evaluate,
    Schema,
    Ticket,
    Weights,
)
from asyncrl_worker.protocol.retry import Retry
from asyncrl_worker.protocol.rollouts_pb2_grpc import ParameterServerStub
from asyncrl_worker.protocol.weights_transfer import WeightsFetch
from asyncrl_worker.protocol.wire import schema_to_wire, server_message

log = logging.getLogger("asyncrl")

ServerMessage = Ticket | Ack | Evaluate | Drain

_REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


class ActorStream:
    """One actor's connection to the parameter server.

    Methods may be called from one thread; `interrupt` from any. `deadline` is the total time in
    seconds without an answer after which PeerUnavailable is raised, `patience` that for the first
    connection, to a parameter server that may only be starting; waiting for a ticket on a living
    stream is not limited.
    """

    def __init__(
        self,
        address: str,
        *,
        actor_index: int,
        attempt: int,
        schema: Schema,
        tls: Path | None = None,
        deadline: float = CONNECT_SECONDS,
        patience: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer = f"parameter server at {address}"
        self._hello = pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            actor_index=actor_index,
            attempt=attempt,
            schema=schema_to_wire(schema),
            incarnation=secrets.randbits(63),
        )
        self._deadline = deadline
        self._patience = deadline if patience is None else patience
        self._clock = clock
        self._link = Link(address, tls, receive_limit=MAX_MESSAGE_BYTES, clock=clock)
        self._connection: _Connection | None = None
        self._interrupted = threading.Event()

    def __enter__(self) -> Self:
        """Connects and asks for work. Raises PeerUnavailable, Refused, Fenced."""
        try:
            self._connect(self._patience)
        except BaseException:
            self._link.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """Which life of the parameter server the stream is connected to."""
        return self._connection.epoch if self._connection is not None else 0

    def interrupt(self) -> None:
        """Ends a blocked or later `receive` (it returns None) and the iteration; thread-safe."""
        self._interrupted.set()
        connection = self._connection
        if connection is not None:
            connection.wake()

    def __iter__(self) -> Iterator[ServerMessage]:
        """Messages until the first Drain (included) or `interrupt`."""
        while (message := self.receive()) is not None:
            yield message
            if isinstance(message, Drain):
                return

    def receive(self, timeout: float | None = None) -> ServerMessage | None:
        """The next message; None after `timeout` seconds or `interrupt`.

        Raises PeerUnavailable when the parameter server stays away for longer than the deadline
        and Refused when it will not have this actor, Fenced when a successor has taken over.
        """
        limit = None if timeout is None else self._clock() + timeout
        while not self._interrupted.is_set():
            if self._connection is None or self._connection.broken:
                self._connect(self._deadline)
                continue
            remaining = None if limit is None else max(0.0, limit - self._clock())
            try:
                message = self._connection.receive(remaining)
            except queue.Empty:
                return None
            if message is None:
                continue
            if message.WhichOneof("message") == "refused":
                raise self._refusal(message.refused)
            value = server_message(message, self._connection.epoch)
            if value is not None:
                return value
        return None

    def ready(self) -> None:
        """Gives back whatever is outstanding and asks for new work.

        Only needed to abandon a ticket or an evaluation: connecting, a fragment and an evaluation
        result each imply it.
        """
        self._send(pb.ActorMessage(ready=pb.Ready()))

    def send_fragment(self, ticket: Ticket, tensors: bytes) -> None:
        """Delivers the fragment of `ticket`; an Ack follows, unless the stream breaks."""
        if len(tensors) > MAX_MESSAGE_BYTES - 1024:
            raise MalformedMessage(
                f"fragment: {len(tensors)} bytes exceed the limit of {MAX_MESSAGE_BYTES - 1024}; "
                "lower spec.algorithm.fragmentLength or the environments per actor"
            )
        fragment = pb.FragmentMessage(
            epoch=ticket.epoch,
            ticket=ticket.id,
            tensors=tensors,
            digest=xxhash.xxh3_64_intdigest(tensors),
        )
        self._send(pb.ActorMessage(fragment=fragment))
        self._hello.begun = True

    def send_evaluation(
        self, version: int, returns: Sequence[float], lengths: Sequence[int]
    ) -> None:
        """Delivers the result of an evaluation: one return and one length (steps) per episode."""
        result = pb.EvaluationResult(version=version, returns=returns, lengths=lengths)
        self._send(pb.ActorMessage(evaluation=result))

    def weights(self, version: int | None, known_digest: bytes = b"") -> Weights | None:
        """The weights of `version` (None: the newest); None where they have `known_digest`.

        Verified before they are returned. Raises WeightsGone where the version is not kept any
        more (then call `ready`), PeerUnavailable after the deadline.
        """
        fetch = WeightsFetch(version, known_digest)
        retry = Retry(self._peer, "fetching weights", self._deadline, self._clock)
        while True:
            stub = self._link.stub
            try:
                return fetch.advance(partial(stub.GetWeights, timeout=TRANSFER_SECONDS))
            except MalformedMessage as error:
                retry.wait(self._interrupted, str(error))
            except grpc.RpcError as error:
                if error.code() in _REFUSALS:
                    raise Refused(f"{self._peer}: {error.details()}") from None
                self._renew(stub, error)
                retry.wait(self._interrupted, error.details() or str(error.code()))

    def close(self) -> None:
        """Says goodbye, so that outstanding tickets return at once, and disconnects."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.goodbye()
        self._link.close()

    def _send(self, message: pb.ActorMessage) -> None:
        """Sends on the present stream. On a broken one it does nothing: `receive` reconnects."""
        connection = self._connection
        if connection is None or connection.broken:
            return
        if not connection.send(message, self._deadline):
            raise PeerUnavailable(self._peer, "sending a fragment", self._deadline)

    def _connect(self, deadline: float) -> None:
        retry = Retry(self._peer, "connecting", deadline, self._clock)
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        while not self._interrupted.is_set():
            stub = self._link.stub
            connection = _Connection(stub)
            try:
                welcome = connection.open(self._hello, min(CALL_SECONDS, self._deadline))
            except (grpc.RpcError, queue.Empty) as error:
                connection.cancel()
                if isinstance(error, grpc.RpcError) and error.code() in _REFUSALS:
                    raise Refused(f"{self._peer}: {error.details()}") from None
                self._renew(stub, error)
                detail = error.details() if isinstance(error, grpc.RpcError) else "no welcome"
                retry.wait(self._interrupted, detail or "")
                continue
            if welcome.WhichOneof("message") == "refused":
                connection.cancel()
                raise self._refusal(welcome.refused)
            if welcome.welcome.notice:
                log.warning("event=without_work %s", welcome.welcome.notice)
            self._connection = connection
            return

    def _renew(self, stub: ParameterServerStub, error: Exception) -> None:
        if isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE:
            self._link.renew(stub)

    def _refusal(self, refused: pb.Refused) -> Refused | Fenced:
        kind = Fenced if refused.fenced else Refused
        return kind(f"{self._peer}: {refused.reason}")


class _Connection:
    """One life of the stream: a reader thread fills the inbox, gRPC's own thread sends."""

    OUTBOX = 4
    INBOX = 64

    def __init__(self, stub: ParameterServerStub) -> None:
        self._stub = stub
        self._outbox: queue.Queue[pb.ActorMessage | None] = queue.Queue(self.OUTBOX)
        # A wake-up must always fit, hence the plain queue; the reader keeps it to INBOX messages.
        self._inbox: queue.SimpleQueue[pb.ServerMessage | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(self.INBOX)
        self._ended = threading.Event()
        self._error: grpc.RpcError | None = None
        self.epoch = 0

    @property
    def broken(self) -> bool:
        """Ended, and everything that arrived before the end is read."""
        return self._ended.is_set() and self._inbox.empty()

    def open(self, hello: pb.Hello, timeout: float) -> pb.ServerMessage:
        """Sends `hello` and Ready; returns the first answer. Raises RpcError, queue.Empty."""
        self._outbox.put(pb.ActorMessage(hello=hello))
        self._call = self._stub.Rollouts(iter(self._outbox.get, None), wait_for_ready=False)
        threading.Thread(target=self._read, name="rollouts-reader", daemon=True).start()
        message = self.receive(timeout)
        if message is None:
            if self._error is not None:
                raise self._error
            raise queue.Empty
        if message.WhichOneof("message") == "welcome":
            self.epoch = message.welcome.epoch
            self._outbox.put(pb.ActorMessage(ready=pb.Ready()))
        return message

    def receive(self, timeout: float | None) -> pb.ServerMessage | None:
        """The next message; None on a wake-up or the stream's end. Raises queue.Empty."""
        message = self._inbox.get(timeout=timeout)
        if message is not None:
            self._room.release()
        return message

    def send(self, message: pb.ActorMessage, timeout: float) -> bool:
        """False where the peer took nothing for `timeout` seconds."""
        try:
            self._outbox.put(message, timeout=timeout)
        except queue.Full:
            return self._ended.is_set()
        return True

    def wake(self) -> None:
        self._inbox.put(None)

    def goodbye(self, timeout: float = 2.0) -> None:
        if not self._ended.is_set():
            self.send(pb.ActorMessage(goodbye=pb.Goodbye()), timeout)
            self.send_end(timeout)
            self._ended.wait(timeout)
        self.cancel()

    def send_end(self, timeout: float) -> None:
        try:
            self._outbox.put(None, timeout=timeout)
        except queue.Full:
            self.cancel()

    def cancel(self) -> None:
        self._call.cancel()
        self._release_sender()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._room.acquire()
                self._inbox.put(message)
        except grpc.RpcError as error:
            self._error = error
        finally:
            self._ended.set()
            self._release_sender()
            self._inbox.put(None)

    def _release_sender(self) -> None:
        """Frees the thread of gRPC that waits for the next message of a stream that is over."""
        while True:
            try:
                self._outbox.put_nowait(None)
                return
            except queue.Full:
                try:
                    self._outbox.get_nowait()
                except queue.Empty:
                    continue
