"""Open actor streams: what waits to be sent on each, and how it looks on the wire."""

from __future__ import annotations

import asyncio

from asyncrl_worker.parameter_server.weights import WeightsStore
from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Refusal, Schema, Ticket

OUTBOX_LIMIT = 64
"""Messages that wait for one actor to read them; one that reads none is disconnected."""


class Session:
    """One open Rollouts stream; `schema` is what the actor's Hello said, if anything."""

    def __init__(self, schema: Schema | None) -> None:
        self.schema = schema
        self._outbox: asyncio.Queue[pb.ServerMessage | None] = asyncio.Queue(OUTBOX_LIMIT)

    def put(self, message: pb.ServerMessage | None) -> None:
        """Queues a message, None to close; a full outbox closes too."""
        if self._outbox.full():
            while not self._outbox.empty():
                self._outbox.get_nowait()
            message = None
        self._outbox.put_nowait(message)

    async def get(self) -> pb.ServerMessage | None:
        """The next message to send; None where the stream is to end."""
        return await self._outbox.get()


def to_wire(
    message: Ticket | Ack | Evaluate | Drain | Refusal, store: WeightsStore
) -> pb.ServerMessage:
    """`message` for the stream; a ticket gets the digest of its weights from `store`."""
    match message:
        case Ticket():
            ticket = pb.Ticket(
                id=message.id,
                policy_version=message.policy_version,
                exact=message.exact,
                reset_seed=message.reset_seed,
                weights_digest=store.digest(message.policy_version),
            )
            return pb.ServerMessage(ticket=ticket)
        case Ack():
            ack = pb.Ack(ticket=message.ticket, accepted=message.accepted, reason=message.reason)
            return pb.ServerMessage(ack=ack)
        case Evaluate():
            evaluate = pb.Evaluate(version=message.version, episodes=message.episodes)
            return pb.ServerMessage(evaluate=evaluate)
        case Drain():
            return pb.ServerMessage(drain=pb.Drain())
        case Refusal():
            return pb.ServerMessage(
                refused=pb.Refused(reason=message.reason, fenced=message.fenced)
            )
