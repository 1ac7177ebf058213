"""The learner's other ranks: they get their share of every batch and take the same steps.

Only rank 0 has a run folder that lasts: what a run goes on from, it sends to the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from asyncrl_worker.environments.spaces import Discrete, EnvironmentDescription
from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.checkpoint import (
    STATE,
    TENSORS,
    Checkpoint,
    from_bytes,
    to_bytes,
)
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep

TRAIN, WAIT, END = 2.0, 1.0, 0.0


def share_checkpoint(ranks: Ranks, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Rank 0's checkpoint, on every rank; None where the run begins anew."""
    if ranks.size == 1:
        return checkpoint
    own = {} if checkpoint is None else to_bytes(checkpoint)
    contents = {name: ranks.share(own.get(name, b"")) for name in (TENSORS, STATE)}
    return from_bytes(contents) if contents[STATE] else None


class Followers:
    """Rank 0's word to the others: a batch with the schedule's progress, or the end of the run."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def share(self, batch: Batch, progress: float) -> None:
        """Send the batch to every other rank."""
        if self._ranks.size > 1:
            columns = float(batch.rewards.shape[1])
            self._ranks.broadcast({"header": _header(TRAIN, columns, progress)})
            self._ranks.broadcast(_tensors(batch))

    def part(self, batch: Batch) -> Batch:
        """This rank's share of a batch."""
        return batch if self._ranks.size == 1 else batch.shard(self._ranks.rank, self._ranks.size)

    def wait(self) -> None:
        """Tell every other rank that there is no batch yet: silence would end them."""
        self._ranks.broadcast({"header": _header(WAIT, 0.0, 0.0)})

    def dismiss(self) -> None:
        """Tell every other rank that the run is over."""
        self._ranks.broadcast({"header": _header(END, 0.0, 0.0)})


class Follower:
    """A rank other than 0; `progressed_at` (seconds of `clock`) may be read from other threads."""

    def __init__(
        self,
        step: LearnerStep,
        ranks: Ranks,
        *,
        length: int,
        description: EnvironmentDescription,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._ranks = ranks
        self._length = length
        self._description = description
        self._clock = clock
        self.progressed_at = clock()

    def run(self) -> int:
        """Take every step that rank 0 takes, until it is dismissed; returns the updates."""
        while True:
            header = _header(END, 0.0, 0.0)
            self._ranks.broadcast({"header": header})
            command, columns, progress = header.tolist()
            self.progressed_at = self._clock()
            if command == END:
                return self._step.updates
            if command == WAIT:
                continue
            batch = empty_batch(self._length, int(columns), self._description)
            self._ranks.broadcast(_tensors(batch))
            self._step.update(batch.shard(self._ranks.rank, self._ranks.size), progress=progress)


def empty_batch(length: int, columns: int, description: EnvironmentDescription) -> Batch:
    """Room for a batch of `length` steps in `columns` environments."""
    shape = (length, columns)
    action = description.action
    if isinstance(action, Discrete):
        actions = torch.empty(shape, dtype=torch.int64)
    else:
        actions = torch.empty((*shape, action.size))
    return Batch(
        observations=torch.empty((length + 1, columns, description.observation_size)),
        actions=actions,
        rewards=torch.empty(shape),
        terminated=torch.empty(shape, dtype=torch.bool),
        ended=torch.empty(shape, dtype=torch.bool),
        valid=torch.empty(shape, dtype=torch.bool),
        log_probabilities=torch.empty(shape),
        policy_versions=torch.empty(shape, dtype=torch.int64),
    )


def _header(command: float, columns: float, progress: float) -> Tensor:
    return torch.tensor([command, columns, progress], dtype=torch.float64)


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
