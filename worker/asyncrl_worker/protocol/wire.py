"""Between protobuf messages and the plain values of messages.py and staleness.py."""

from __future__ import annotations

import grpc

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.errors import MalformedMessage
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Evaluation, Schema, Ticket
from asyncrl_worker.staleness import Ledger

REASON_KEY = "asyncrl-reason"
"""Trailing metadata of a refused call: `fenced`, `hello-required` or `refused`."""

FENCED = "fenced"
HELLO_REQUIRED = "hello-required"
REFUSED = "refused"


def schema_to_wire(schema: Schema) -> pb.Schema:
    if schema.action_kind == "discrete":
        return pb.Schema(observation_size=schema.observation_size, discrete=schema.action_size)
    return pb.Schema(observation_size=schema.observation_size, continuous=schema.action_size)


def schema_from_wire(message: pb.Schema) -> Schema:
    """Raises MalformedMessage where a size is missing or zero."""
    kind = message.WhichOneof("action")
    if kind is None or message.observation_size == 0 or getattr(message, kind) == 0:
        raise MalformedMessage("schema: observation size and action size must be positive")
    return Schema(
        observation_size=message.observation_size,
        action_kind="discrete" if kind == "discrete" else "continuous",
        action_size=getattr(message, kind),
    )


def ledger_to_wire(ledger: Ledger) -> pb.LedgerMessage:
    return pb.LedgerMessage(
        produced=ledger.produced,
        trained=ledger.trained,
        dropped=ledger.dropped,
        queued=ledger.queued,
        in_flight=ledger.in_flight,
    )


def ledger_from_wire(message: pb.LedgerMessage) -> Ledger:
    return Ledger(
        produced=message.produced,
        trained=message.trained,
        dropped=dict(message.dropped),
        queued=message.queued,
        in_flight=message.in_flight,
    )


def ticket_from_wire(message: pb.Ticket, epoch: int) -> Ticket:
    return Ticket(
        id=message.id,
        policy_version=message.policy_version,
        exact=message.exact,
        reset_seed=message.reset_seed if message.HasField("reset_seed") else None,
        weights_digest=message.weights_digest,
        epoch=epoch,
    )


def server_message(message: pb.ServerMessage, epoch: int) -> Ticket | Ack | Evaluate | Drain | None:
    """The plain value of a message that carries work; None for the others."""
    kind = message.WhichOneof("message")
    if kind == "ticket":
        return ticket_from_wire(message.ticket, epoch)
    if kind == "ack":
        return Ack(message.ack.ticket, message.ack.accepted, message.ack.reason)
    if kind == "evaluate":
        return Evaluate(message.evaluate.version, message.evaluate.episodes)
    if kind == "drain":
        return Drain()
    return None


def evaluation_to_wire(evaluation: Evaluation) -> pb.Evaluation:
    result = pb.EvaluationResult(
        version=evaluation.version, returns=evaluation.returns, lengths=evaluation.lengths
    )
    return pb.Evaluation(number=evaluation.number, result=result)


def evaluation_from_wire(message: pb.Evaluation) -> Evaluation:
    return Evaluation(
        number=message.number,
        version=message.result.version,
        returns=tuple(message.result.returns),
        lengths=tuple(message.result.lengths),
    )


def refusal_kind(error: grpc.RpcError) -> str | None:
    """The REASON_KEY metadata of a failed call, where the peer sent it."""
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for entry in metadata or ():
        if entry.key == REASON_KEY:
            return str(entry.value)
    return None
