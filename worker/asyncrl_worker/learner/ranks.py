"""The learner's ranks: one process, or several that train as one (torch.distributed)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """Sums and broadcasts over the learner's ranks; with one rank every method is free.

    Gradients are of sums divided by the global count, so adding them over the ranks gives the
    gradient of the whole batch: k ranks do exactly what one would, but for the order of additions.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, deadline: float = 60.0) -> None:
        self.rank = rank
        self.size = size
        if size > 1:
            dist.init_process_group(
                "gloo", rank=rank, world_size=size, timeout=timedelta(seconds=deadline)
            )

    @classmethod
    def from_environment(cls, *, deadline: float) -> Ranks:
        """Read RANK and WORLD_SIZE, with MASTER_ADDR and MASTER_PORT as torchrun sets them."""
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        return cls(rank, size, deadline=deadline)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """The maximum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up .grad over ranks in one flat message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        """Every rank gets rank 0's contents, in place; shapes must agree already."""
        if self.size > 1:
            for name in sorted(tensors):
                tensor = tensors[name]
                # gloo has no bool; a byte view shares the storage.
                dist.broadcast(
                    tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0
                )

    def agrees(self, number: int) -> bool:
        """Whether this rank has the same number as rank 0."""
        leader = torch.tensor([number])
        self.broadcast({"number": leader})
        return int(leader) == number

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            dist.destroy_process_group()
