"""One training loop run whole or by several ranks, for test_sharding.

    python sharded_loop.py RANKS FOLDER

trains under DDP and then under FSDP2 on gloo; rank i writes what it saw to FOLDER/i.json. The ranks
are forked, because importing torch is most of the time this takes.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment

CONFIG = AlignmentConfig(calibration="fixed", low=0.2, high=0.6, memory_dtype="float32")
STEPS = 30
BATCH = 24


def build_network() -> nn.Sequential:
    """Sizes that two ranks cannot share evenly; the last bias leaves rank 1 without an element."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1))


def full(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().reshape(-1)


def train(network: nn.Module, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """Decisions of every step and the final parameters, from this rank's part of each batch."""
    guard = GradientAlignment(network.parameters(), CONFIG)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    decisions = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(BATCH, 5, generator=generator)
        targets = inputs.sum(1, keepdim=True) + 2 * torch.randn(BATCH, 1, generator=generator)
        optimizer.zero_grad()
        mine = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        (network(inputs[mine]) - targets[mine]).square().mean().backward()
        decision = guard.step()
        decisions.append([decision.cosine, decision.regime.value, decision.scale])
        if decision.apply:
            optimizer.step()
    parameters = torch.cat([full(parameter) for parameter in network.parameters()])
    state = guard.state_dict()["tensors"]["previous"]
    return {
        "decisions": decisions,
        "parameters": parameters.tolist(),
        "remembered": state.numel(),
    }


def run_rank(rank: int, ranks: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=60),
    )
    results = {"ddp": train(DistributedDataParallel(build_network()), rank, ranks)}
    mesh = init_device_mesh("cpu", (ranks,))
    network = build_network()
    for layer in network:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    results["fsdp"] = train(network, rank, ranks)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    # Slow imports that the ranks need, once before the fork.
    import torch._dynamo.aot_compile
    import torch.distributed.fsdp

    count, place = int(sys.argv[1]), sys.argv[2]
    start_processes(run_rank, (count, place), nprocs=count, start_method="fork")
