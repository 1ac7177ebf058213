"""The gRPC face of the parameter server: calls in, state machine events, effects out.

One event loop, one thread: between two awaits nothing else runs, so the state needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import NoReturn

import grpc
import grpc.aio

from asyncrl_worker.parameter_server.effects import Close, Effect, Send
from asyncrl_worker.parameter_server.metrics import ParameterServerMetrics, Snapshot
from asyncrl_worker.parameter_server.refusals import (
    Context,
    abort,
    learner_of,
    role_problem,
    status_of,
    version_problem,
)
from asyncrl_worker.parameter_server.schedule import Batch, HeldByLearner
from asyncrl_worker.parameter_server.sessions import Session, to_wire
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.parameter_server.transfers import WeightsTransfers
from asyncrl_worker.parameter_server.validation import FragmentValidator
from asyncrl_worker.parameter_server.weights import WeightsStore
from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.errors import (
    MalformedMessage,
    ProtocolError,
)
from asyncrl_worker.protocol.messages import (
    PROTOCOL_VERSION,
    Refusal,
    Schema,
)
from asyncrl_worker.protocol.rollouts_pb2_grpc import ParameterServerServicer
from asyncrl_worker.protocol.tls import ACTOR_NAME, LEARNER_NAME
from asyncrl_worker.protocol.wire import (
    REFUSED,
    evaluation_to_wire,
    ledger_from_wire,
    ledger_to_wire,
    schema_from_wire,
)
from asyncrl_worker.staleness import LedgerViolation, StalenessViolation

log = logging.getLogger(__name__)

LONGEST_WAIT = 30.0
"""Longest time in seconds that NextBatch waits, whatever is asked."""

HELLO_SECONDS = 10.0
"""Time for the first message of a stream."""


class ParameterServerService(ParameterServerServicer):
    """Serves one state machine and one weights store.

    `steps` and `environments` are the job's fragment size. `failed` is set, with `failure`,
    when an invariant breaks: the run must not go on. `finished` is set once the learner calls
    Finish.
    """

    def __init__(self, state: ParameterServerState, *, steps: int, environments: int) -> None:
        self._state = state
        self._steps = steps
        self._environments = environments
        self._store = WeightsStore()
        self._validator: FragmentValidator | None = None
        self._sessions: dict[int, Session] = {}
        self._next_session = 1
        self._changed = asyncio.Event()
        self._snapshot = Snapshot()
        self.metrics = ParameterServerMetrics(lambda: self._snapshot)
        self._transfers = WeightsTransfers(state, self._store, self.metrics)
        self.finished = asyncio.Event()
        self.failed = asyncio.Event()
        self.failure: Exception | None = None
        self._carry_out([])

    @property
    def connected(self) -> int:
        """Open actor streams."""
        return len(self._sessions)

    async def until_changed(self) -> None:
        """Returns after the next event."""
        await self._changed.wait()

    # Actors

    async def Rollouts(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ActorMessage], context: Context
    ) -> None:
        await self._require_role(context, ACTOR_NAME)
        messages = aiter(request_iterator)
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(messages)
        except (StopAsyncIteration, TimeoutError):
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "no Hello arrived")
        refusal, schema = self._check_hello(first)
        if refusal:
            self._state.rejected["refused"] += 1
            self._carry_out([])
            await context.write(pb.ServerMessage(refused=pb.Refused(reason=refusal)))
            return
        await self._serve_actor(first.hello, schema, messages, context)

    async def _serve_actor(
        self,
        hello: pb.Hello,
        schema: Schema | None,
        messages: AsyncIterator[pb.ActorMessage],
        context: Context,
    ) -> None:
        number, session = self._next_session, Session(schema)
        self._next_session += 1
        self._sessions[number] = session
        notice = self._state.policy.without_work(hello.actor_index)
        if notice:
            log.warning("event=actor_without_work %s", notice)
        welcome = pb.Welcome(
            epoch=self._state.epoch, protocol_version=PROTOCOL_VERSION, notice=notice
        )
        session.put(pb.ServerMessage(welcome=welcome))
        self._carry_out(
            self._state.actor_joined(
                number,
                hello.actor_index,
                hello.attempt,
                incarnation=hello.incarnation,
                begun=hello.begun,
            )
        )
        log.info("event=actor_joined actor=%d attempt=%d", hello.actor_index, hello.attempt)
        reader = asyncio.create_task(self._read(number, messages))
        writer = asyncio.create_task(self._write(session, context))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._sessions[number]
            self._carry_out(self._state.actor_lost(number))
            reader.cancel()
            writer.cancel()
            for result in await asyncio.gather(reader, writer, return_exceptions=True):
                self._explain_end(hello.actor_index, result)

    async def _read(self, number: int, messages: AsyncIterator[pb.ActorMessage]) -> None:
        state = self._state
        async for message in messages:
            kind = message.WhichOneof("message")
            if kind == "fragment":
                effects = self._fragment(number, message.fragment)
            elif kind == "ready":
                effects = state.actor_ready(number)
            elif kind == "evaluation":
                result = message.evaluation
                effects = state.evaluation_arrived(
                    number, result.version, list(result.returns), list(result.lengths)
                )
            elif kind == "goodbye":
                return
            else:
                state.rejected["unknown"] += 1
                effects = []
            self._carry_out(effects)

    def _fragment(self, number: int, message: pb.FragmentMessage) -> list[Effect]:
        self.metrics.bytes_received.inc(len(message.tensors))
        try:
            if self._validator is None:
                raise MalformedMessage("fragment: no learner has said what it must look like")
            arrival = self._validator.validate(message.tensors, message.digest)
        except MalformedMessage as error:
            return self._state.fragment_arrived(number, message.epoch, message.ticket, error)
        return self._state.fragment_arrived(number, message.epoch, message.ticket, arrival)

    async def _write(self, session: Session, context: Context) -> None:
        while (message := await session.get()) is not None:
            await context.write(message)

    def _explain_end(self, index: int, result: BaseException | None) -> None:
        if isinstance(result, LedgerViolation | StalenessViolation):
            self._fail(result)
        elif isinstance(result, grpc.aio.AioRpcError | grpc.aio.BaseError | grpc.RpcError):
            log.warning("event=actor_stream_broken actor=%d error=%r", index, result)
        elif isinstance(result, Exception):
            log.error("event=actor_stream_failed actor=%d", index, exc_info=result)

    def _check_hello(self, first: pb.ActorMessage) -> tuple[str, Schema | None]:
        if first.WhichOneof("message") != "hello":
            return "the first message must be Hello", None
        hello = first.hello
        if refusal := version_problem("actor", hello.protocol_version):
            return refusal, None
        if not hello.HasField("schema"):
            return "", None
        try:
            schema = schema_from_wire(hello.schema)
        except MalformedMessage as error:
            return str(error), None
        return self._mismatch(schema), schema

    def _mismatch(self, schema: Schema) -> str:
        if self._validator is None or schema == self._validator.schema:
            return ""
        return (
            f"spec.workload: this actor's environment has {schema}, the learner's has "
            f"{self._validator.schema}; use the same environment and versions in every role"
        )

    # Weights

    async def GetWeights(  # noqa: N802
        self, request: pb.WeightsRequest, context: Context
    ) -> None:
        await self._require_role(context, ACTOR_NAME, LEARNER_NAME)
        await self._transfers.send(request, context)

    async def Publish(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.PublishChunk], context: Context
    ) -> pb.PublishReply:
        await self._require_role(context, LEARNER_NAME)
        try:
            self._carry_out(await self._transfers.receive(aiter(request_iterator)))
        except (ProtocolError, TimeoutError, StopAsyncIteration) as error:
            await self._refuse(context, error)
        return pb.PublishReply(ledger=ledger_to_wire(self._state.ledger))

    # Learner

    async def LearnerHello(  # noqa: N802
        self, request: pb.LearnerHelloRequest, context: Context
    ) -> pb.LearnerHelloReply:
        await self._require_role(context, LEARNER_NAME)
        if refusal := version_problem("learner", request.protocol_version):
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, refusal, REFUSED)
        try:
            validator = FragmentValidator(
                schema_from_wire(request.schema), self._steps, self._environments
            )
            self._state.learner_hello(
                learner_of(request),
                request.version,
                ledger_from_wire(request.ledger) if request.HasField("ledger") else None,
                [HeldByLearner(h.batch_id, h.fragments, h.version) for h in request.held],
            )
        except ProtocolError as error:
            await self._refuse(context, error)
        self._validator = validator
        self._carry_out(self._refuse_mismatched())
        log.info("event=learner_joined attempt=%d version=%d", request.attempt, request.version)
        return pb.LearnerHelloReply(
            epoch=self._state.epoch,
            protocol_version=PROTOCOL_VERSION,
            weights_wanted=self._state.published_version is None,
            ledger=ledger_to_wire(self._state.ledger),
        )

    def _refuse_mismatched(self) -> list[Effect]:
        """Actors that joined before the learner said what its environment looks like."""
        effects: list[Effect] = []
        for number, session in self._sessions.items():
            refusal = self._mismatch(session.schema) if session.schema is not None else ""
            if refusal:
                effects += [Send(number, Refusal(refusal)), Close(number)]
        return effects

    async def NextBatch(  # noqa: N802
        self, request: pb.NextBatchRequest, context: Context
    ) -> pb.NextBatchReply:
        await self._require_role(context, LEARNER_NAME)
        loop = asyncio.get_running_loop()
        limit = loop.time() + max(0.0, min(request.wait_seconds, LONGEST_WAIT))
        while True:
            try:
                batch = self._next_batch(request)
            except (ProtocolError, LedgerViolation, StalenessViolation) as error:
                await self._refuse(context, error)
            evaluations = self._state.results(request.evaluations_seen)
            if batch is not None or evaluations or self.finished.is_set() or loop.time() >= limit:
                break
            try:
                async with asyncio.timeout_at(limit):
                    await self._changed.wait()
            except TimeoutError:
                continue
        reply = pb.NextBatchReply(ledger=ledger_to_wire(self._state.ledger))
        if batch is not None:
            reply.batch_id = batch.id
            reply.version = batch.version
            reply.fragments.extend(queued.arrival.data for queued in batch.fragments)
            reply.tickets.extend(queued.order.ticket for queued in batch.fragments)
        reply.evaluations.extend(map(evaluation_to_wire, evaluations))
        return reply

    def _next_batch(self, request: pb.NextBatchRequest) -> Batch | None:
        if request.evaluations_only:
            self._state.awaits_evaluations(learner_of(request))
            return None
        batch, stale, effects = self._state.next_batch(learner_of(request), list(request.held))
        if batch is not None:
            now = self._state.now()
            for queued in batch.fragments:
                self.metrics.observe(queued, batch.version, now)
        if batch is not None or stale:
            self._carry_out(effects)
        return batch

    async def Consumed(  # noqa: N802
        self, request: pb.ConsumedRequest, context: Context
    ) -> pb.ConsumedReply:
        await self._require_role(context, LEARNER_NAME)
        try:
            self._carry_out(
                self._state.consumed(
                    learner_of(request), request.batch_id, request.outcome, request.version
                )
            )
        except (ProtocolError, LedgerViolation) as error:
            await self._refuse(context, error)
        return pb.ConsumedReply(ledger=ledger_to_wire(self._state.ledger))

    async def Pace(self, request: pb.PaceRequest, context: Context) -> pb.PaceReply:  # noqa: N802
        await self._require_role(context, LEARNER_NAME)
        try:
            self._carry_out(self._state.pace(learner_of(request), request.eta))
        except ProtocolError as error:
            await self._refuse(context, error)
        return pb.PaceReply(eta=self._state.eta)

    async def Finish(  # noqa: N802
        self, request: pb.FinishRequest, context: Context
    ) -> pb.FinishReply:
        await self._require_role(context, LEARNER_NAME)
        try:
            effects = self._state.finish(learner_of(request))
        except (ProtocolError, LedgerViolation) as error:
            await self._refuse(context, error)
        self.finished.set()
        self._carry_out(effects)
        return pb.FinishReply(ledger=ledger_to_wire(self._state.ledger))

    # Effects and refusals

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Sends what is to be sent, publishes a snapshot and wakes whoever waits for a change."""
        for effect in effects:
            session = self._sessions.get(effect.session)
            if session is None:
                continue
            session.put(to_wire(effect.message, self._store) if isinstance(effect, Send) else None)
        state = self._state
        self._snapshot = Snapshot(
            ledger=state.ledger.copy(),
            rejected=dict(state.rejected),
            connected=state.connected,
            idle=state.idle,
            held=state.held_fragments,
            admissible=state.admissible,
            eta=state.eta,
            version=state.published_version,
            weights_bytes=self._store.size,
            weights_versions=len(self._store.versions),
            evaluations_pending=state.evaluations.pending,
            evaluations_given_up=state.evaluations.given_up,
        )
        self._changed.set()
        self._changed = asyncio.Event()

    async def _require_role(self, context: Context, *roles: str) -> None:
        if problem := role_problem(context, roles):
            self._state.rejected["role"] += 1
            self._carry_out([])
            await abort(context, grpc.StatusCode.PERMISSION_DENIED, problem)

    async def _refuse(self, context: Context, error: Exception) -> NoReturn:
        if isinstance(error, LedgerViolation | StalenessViolation):
            self._fail(error)
        code, kind, detail = status_of(error)
        self._state.rejected[kind] += 1
        self._carry_out([])
        await abort(context, code, detail, kind)

    def _fail(self, error: Exception) -> None:
        log.critical("event=invariant_broken error=%s", error)
        self.failure = self.failure or error
        self.failed.set()
