"""The protocol's messages as plain values, independent of protobuf and of the transport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PROTOCOL_VERSION = 2
"""Raised by every change after which an old peer would misunderstand a new one."""


@dataclass(frozen=True)
class Schema:
    """The shape of an environment as the policy sees it.

    `observation_size` counts float32 values of one flattened observation; `action_size` is the
    number of actions (discrete) or of action dimensions (continuous).
    """

    observation_size: int
    action_kind: Literal["discrete", "continuous"]
    action_size: int

    def __str__(self) -> str:
        return f"{self.observation_size} observations, {self.action_kind} {self.action_size}"


@dataclass(frozen=True)
class Ticket:
    """The right to produce one fragment.

    `policy_version`: every step of the fragment is taken with exactly this version (`exact`) or
    with this one or a newer one. `reset_seed`: where set, reset the environments and the action
    sampling from SeedSequence([reset_seed, actor_index]) before the fragment. `weights_digest`
    identifies the weights of `policy_version`: equal to the digest in hand = nothing to fetch.
    `epoch` is the parameter server's life that granted it and goes back with the fragment.
    """

    id: int
    policy_version: int
    exact: bool
    reset_seed: int | None
    weights_digest: bytes
    epoch: int


@dataclass(frozen=True)
class Ack:
    """The fate of a fragment: accepted into the queue, or refused and why."""

    ticket: int
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Evaluate:
    """Run `episodes` whole episodes with exactly `version`, in environments of their own."""

    version: int
    episodes: int


@dataclass(frozen=True)
class Drain:
    """The run is over: no further work will come; close the stream and exit 0."""


@dataclass(frozen=True)
class Refusal:
    """The parameter server will not have this actor; `reason` is one line with the remedy.

    `fenced`: because a successor of this actor has taken over; nothing is wrong with it.
    """

    reason: str
    fenced: bool = False


@dataclass(frozen=True)
class Weights:
    """One policy version as safetensors bytes, its digest already verified.

    `data` may be a read-only mapping shared with other actors of this host; arrays decoded from it
    are views, so keep `data` alive (or copy) as long as they are used.
    """

    version: int
    digest: bytes
    data: memoryview


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of `version` found: undiscounted returns and lengths in steps."""

    number: int
    version: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
