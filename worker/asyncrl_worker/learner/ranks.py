"""The learner's ranks: one process, or several that train as one (torch.distributed)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from asyncrl_api.reasons import Reason
from asyncrl_worker.fault import PEER_UNAVAILABLE, Fault
from asyncrl_worker.role import Stop

log = logging.getLogger("asyncrl")

LOOK_SECONDS = 0.1
"""How soon a wish to end is seen while the other ranks are awaited."""

WORD_SECONDS = 30.0
"""Time between two log lines about ranks that are awaited."""


class RankLost(Fault):
    """Another rank is gone, or never came; all of them must start again."""

    reason = Reason.PEER_UNAVAILABLE
    exit_code = PEER_UNAVAILABLE


class Ranks:
    """Sums and broadcasts over the learner's ranks; with one rank every method is free.

    Gradients are of sums divided by the global count, so adding them over the ranks gives the
    gradient of the whole batch: k ranks do exactly what one would, but for the order of additions.
    `meet` comes first. Every method raises RankLost when another rank is gone, or says nothing for
    `deadline` seconds.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, deadline: float = 60.0) -> None:
        self.rank = rank
        self.size = size
        self._deadline = timedelta(seconds=deadline)

    @classmethod
    def from_environment(cls, *, deadline: float) -> Ranks:
        """Read RANK and WORLD_SIZE, with MASTER_ADDR and MASTER_PORT as torchrun sets them."""
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        return cls(rank, size, deadline=deadline)

    def meet(self, *, patience: float, stop: Stop) -> bool:
        """Find the other ranks; they may start, and rank 0's name may appear, minutes later.

        False if `stop` was requested first. Raises RankLost after `patience` seconds.
        """
        if self.size == 1:
            return True
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        stores: list[Any] = []
        errors: list[Exception] = []

        def find() -> None:
            try:
                stores.append(
                    dist.TCPStore(  # type: ignore[attr-defined]
                        host, port, self.size, self.rank == 0, timedelta(seconds=patience)
                    )
                )
            except Exception as error:  # raised again below
                errors.append(error)

        # In a thread, since torch waits without looking at signals.
        finder = threading.Thread(target=find, name="rendezvous", daemon=True)
        finder.start()
        began = word_at = time.monotonic()
        while finder.is_alive():
            if stop.wait(LOOK_SECONDS):
                return False
            if time.monotonic() - word_at >= WORD_SECONDS:
                word_at = time.monotonic()
                seconds = word_at - began
                log.warning(
                    "event=waiting peer=ranks at=%s:%d size=%d seconds=%.0f deadline_seconds=%.0f",
                    *(host, port, self.size, seconds, patience),
                )
        with self._together("finding the other ranks"):
            if errors:
                raise errors[0]
            dist.init_process_group(
                "gloo",
                store=stores[0],
                rank=self.rank,
                world_size=self.size,
                timeout=self._deadline,
            )
        return True

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            with self._together("adding up"):
                dist.all_reduce(values)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """The maximum over ranks, in place."""
        if self.size > 1:
            with self._together("comparing"):
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
        if self.size == 1:
            return
        with self._together("listening to rank 0"):
            for name in sorted(tensors):
                tensor = tensors[name]
                # gloo has no bool; a byte view shares the storage.
                dist.broadcast(
                    tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0
                )

    def share(self, data: bytes) -> bytes:
        """Rank 0's `data`, on every rank; what the others give does not matter."""
        if self.size == 1:
            return data
        length = torch.tensor([len(data)])
        self.broadcast({"length": length})
        if int(length) == 0:
            return b""
        own = self.rank == 0
        content = torch.frombuffer(
            bytearray(data) if own else bytearray(int(length)), dtype=torch.uint8
        )
        self.broadcast({"content": content})
        return data if own else content.numpy().tobytes()

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def _together(self, phase: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # all of torch.distributed's are
            cause = " ".join(str(error).split("\n")[0].split())
            raise RankLost(
                f"learner-{self.rank}: another rank is gone or silent, while {phase} ({cause}); "
                "see the logs of the other learner ranks"
            ) from error
