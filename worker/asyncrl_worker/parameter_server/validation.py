"""The fence before the queue: whether a message is a valid fragment of this job."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from asyncrl_worker.environments.spaces import Continuous, Discrete, EnvironmentDescription
from asyncrl_worker.fragment import Fragment, MalformedFragment
from asyncrl_worker.protocol.channel import MAX_MESSAGE_BYTES
from asyncrl_worker.protocol.errors import ConfigurationError, MalformedMessage
from asyncrl_worker.protocol.messages import Schema
from asyncrl_worker.protocol.tensors import decode

HEADER_BYTES = 4096
"""Room for the safetensors header; that of a fragment needs under 1,500 bytes."""

ENVELOPE_BYTES = 1024
"""Room for what surrounds the tensors in a message."""


@dataclass(frozen=True)
class Arrival:
    """A fragment that passed: its bytes and the oldest and newest policy version of its steps."""

    data: bytes
    oldest: int
    newest: int


class FragmentValidator:
    """Validates fragments of `steps` vector steps of `environments` of one schema.

    Raises ConfigurationError where a fragment of that size does not fit into one message.
    """

    def __init__(self, schema: Schema, steps: int, environments: int) -> None:
        self.schema = schema
        self._steps = steps
        self._environments = environments
        self._description = _description(schema)
        self.limit = _largest(schema, steps, environments)
        room = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
        if self.limit > room:
            raise ConfigurationError(
                f"spec.algorithm.fragmentLength {steps} with {environments} environments of "
                f"{schema}: a fragment has up to {self.limit} bytes and a message holds {room}; "
                "lower one of the two"
            )

    def validate(self, data: bytes, digest: int) -> Arrival:
        """`digest` is xxh3_64. Raises MalformedMessage for anything but a valid fragment."""
        if len(data) > self.limit:
            raise MalformedMessage(f"fragment: {len(data)} bytes exceed the limit of {self.limit}")
        if xxhash.xxh3_64_intdigest(data) != digest:
            raise MalformedMessage("fragment: the digest differs; it was damaged on its way")
        try:
            fragment = Fragment.from_tensors(
                decode(data, self.limit),
                fragment_length=self._steps,
                environments=self._environments,
                description=self._description,
            )
        except MalformedFragment as error:
            raise MalformedMessage(str(error)) from None
        versions = fragment.policy_versions
        if (np.diff(versions) < 0).any():
            raise MalformedMessage("policy_versions: decrease within the fragment")
        return Arrival(data, int(versions[0]), int(versions[-1]))


def _description(schema: Schema) -> EnvironmentDescription:
    size = schema.action_size
    # Fragments hold unclipped samples, so the bounds of the actions do not matter here.
    action = Discrete(size) if schema.action_kind == "discrete" else Continuous(size, (), ())
    return EnvironmentDescription(schema.observation_size, (schema.observation_size,), action)


def _largest(schema: Schema, steps: int, environments: int) -> int:
    """Size in bytes of the largest valid fragment: one where every step ends an episode."""
    lanes = steps * environments
    observations = 4 * (steps + 1) * environments * schema.observation_size
    action = 8 if schema.action_kind == "discrete" else 4 * schema.action_size
    per_step = action + 4 + 3 + 4 + 4 + 4  # reward, three flags, log-probability, return, length
    return 8 + HEADER_BYTES + observations + lanes * per_step + 8 * steps
