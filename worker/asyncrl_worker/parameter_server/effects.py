"""What the parameter server's state asks the service to do."""

from __future__ import annotations

from dataclasses import dataclass

from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Refusal, Ticket

ActorMessage = Ticket | Ack | Evaluate | Drain | Refusal


@dataclass(frozen=True)
class Send:
    """Deliver `message` on `session`."""

    session: int
    message: ActorMessage


@dataclass(frozen=True)
class Close:
    """End `session` after what was sent before."""

    session: int


Effect = Send | Close
