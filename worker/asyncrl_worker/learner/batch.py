"""A training batch: fragments side by side, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asyncrl_worker.fragment import Fragment


@dataclass(frozen=True)
class Batch:
    """Time-major rollouts of T steps in N environments with observations of size D.

    observations float32 [T + 1, N, D]; actions int64 [T, N] or float32 [T, N, A]; rewards,
    log_probabilities (behaviour policy) float32 [T, N]; terminated, ended, valid bool [T, N]
    (ended: terminated or truncated; valid: not an automatic reset); policy_versions int64 [T, N].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    ended: Tensor
    valid: Tensor
    log_probabilities: Tensor
    policy_versions: Tensor

    @property
    def environment_steps(self) -> int:
        """Transitions in the batch, automatic resets left out."""
        return int(self.valid.sum())

    def shard(self, rank: int, ranks: int) -> Batch:
        """The part of the environments that belongs to one of the learner's ranks."""
        width = self.rewards.shape[1] // ranks
        columns = slice(rank * width, (rank + 1) * width)
        return Batch(*(getattr(self, name)[:, columns] for name in self.__dataclass_fields__))

    def every(self, stride: int, offset: int) -> Batch:
        """Every `stride`-th environment from `offset` on."""
        columns = slice(offset, None, stride)
        return Batch(*(getattr(self, name)[:, columns] for name in self.__dataclass_fields__))

    def staleness(self, version: int) -> Tensor:
        """Versions between each step's policy and `version`, float32 [T, N]."""
        return (version - self.policy_versions).to(torch.float32)


def collate(fragments: Sequence[Fragment]) -> Batch:
    """Put fragments beside each other along the environment axis; copies once."""

    def side_by_side(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(f, name) for f in fragments], axis=1))

    terminated = side_by_side("terminated")
    versions = np.concatenate(
        [
            np.broadcast_to(fragment.policy_versions[:, None], fragment.rewards.shape)
            for fragment in fragments
        ],
        axis=1,
    )
    return Batch(
        observations=side_by_side("observations"),
        actions=side_by_side("actions"),
        rewards=side_by_side("rewards"),
        terminated=terminated,
        ended=terminated | side_by_side("truncated"),
        valid=side_by_side("valid"),
        log_probabilities=side_by_side("log_probabilities"),
        policy_versions=torch.from_numpy(versions),
    )
