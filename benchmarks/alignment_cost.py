"""What gradient alignment control costs per optimizer step, against the memory bandwidth.

    OMP_NUM_THREADS=1 python benchmarks/alignment_cost.py [--repetitions N] [--profile]

The limit is the time in which this machine moves the bytes that the measurement has to move: read
the gradient (float32), read the previous one, write the next one. The bandwidth is that of a plain
float32 `copy_` of arrays larger than the cache, measured between the repetitions it is compared
with. The step is forward, backward, norm clipping and the learner's own Adam (fused) for a
multilayer perceptron of 1.05 million parameters, on a batch of 1,024 as the defaults make it: 2
fragments of 32 steps of 16 environments. One thread throughout.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from asyncrl_api.spec import Algorithm, Gymnasium, Optimizer
from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment
from asyncrl_worker.alignment.config import MemoryDtype
from asyncrl_worker.learner.optimizer import build_optimizer

SIZES = {"1M": 1_048_576, "100M": 100_000_000}
COPY_ELEMENTS = 50_000_000
DEFAULTS = Algorithm()
BATCH = DEFAULTS.fragments_per_batch * DEFAULTS.fragment_length * Gymnasium(id="any").environments


def timed(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def evict(trash: torch.Tensor) -> None:
    """Leaves nothing of earlier arrays in the cache, as a training step would."""
    trash.add_(1.0)


def cost_of_guard(
    elements: int, memory: MemoryDtype, repetitions: int
) -> tuple[float, float, float, float]:
    """Median seconds of `step`, in control and passing: cold, limit, quotient of both, and hot."""
    parameters = [nn.Parameter(torch.zeros(elements // 4)) for _ in range(4)]
    for index, parameter in enumerate(parameters):
        parameter.grad = torch.randn(elements // 4, generator=torch.Generator().manual_seed(index))
    guard = GradientAlignment(parameters, AlignmentConfig(calibration="auto", memory_dtype=memory))
    guard.step()
    source, target = torch.ones(COPY_ELEMENTS), torch.ones(COPY_ELEMENTS)
    moved = elements * {"bfloat16": 4 + 2 + 2, "float32": 4 + 4 + 4}[memory]
    cold, limits, hot = [], [], []
    for _ in range(repetitions):
        bandwidth = 8 * COPY_ELEMENTS / timed(lambda: target.copy_(source))
        limits.append(moved / bandwidth)
        evict(target)
        guard.rebase()
        cold.append(timed(guard.step))
        guard.rebase()
        hot.append(timed(guard.step))
    quotient = statistics.median(c / limit for c, limit in zip(cold, limits, strict=True))
    return (
        statistics.median(cold),
        statistics.median(limits),
        quotient,
        statistics.median(hot),
    )


def cost_in_a_step(repetitions: int) -> tuple[float, float]:
    """Median seconds of a whole training step at 1M parameters, and of the guard inside it."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(64, 992), nn.Tanh(), nn.Linear(992, 992), nn.Tanh(), nn.Linear(992, 8)
    )
    optimizer = build_optimizer(Optimizer(), list(network.parameters()))
    guard = GradientAlignment(network.parameters(), AlignmentConfig())
    inputs, targets = torch.randn(BATCH, 64), torch.randn(BATCH, 8)
    steps, guards = [], []
    for _ in range(repetitions):
        start = time.perf_counter()
        optimizer.zero_grad()
        (network(inputs) - targets).square().mean().backward()
        guard.rebase()  # Keeps this repeated batch from looking aligned; the work is the same.
        guards.append(timed(guard.step))
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        steps.append(time.perf_counter() - start)
    return statistics.median(steps), statistics.median(guards)


def profile(elements: int = SIZES["1M"]) -> None:
    """Time of every operation on one chunk in the cache, in microseconds per 65,536 elements."""
    gradient, past = torch.randn(elements), torch.randn(elements)
    memory = torch.zeros(elements, dtype=torch.bfloat16)
    operations: dict[str, Callable[[], object]] = {
        "expand memory, bfloat16 to float32": lambda: past.copy_(memory),
        "<g, g>": lambda: gradient.dot(gradient),
        "<g, p>": lambda: gradient.dot(past),
        "store gradient, float32 to bfloat16": lambda: memory.copy_(gradient),
        "(float32 copy, for comparison)": lambda: past.copy_(gradient),
        "(float32 sum, for comparison)": gradient.sum,
    }
    print("\n| operation | us per 65,536 elements |\n| --- | --- |")
    for name, operation in operations.items():
        median = statistics.median(timed(operation) for _ in range(101))
        print(f"| {name} | {median * 1e6 * 65_536 / elements:.1f} |")


def processor() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="time each operation as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {processor()}, 1 thread")
    print(f"load {os.getloadavg()[0]:.1f}, medians of {arguments.repetitions} repetitions\n")
    print("| parameters | memory | guard, ms | limit, ms | guard / limit | guard in cache, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    memories: tuple[MemoryDtype, ...] = ("bfloat16", "float32")
    for name, elements in SIZES.items():
        for memory in memories:
            cold, limit, quotient, hot = cost_of_guard(elements, memory, arguments.repetitions)
            row = f"{cold * 1e3:.2f} | {limit * 1e3:.2f} | {quotient:.2f} | {hot * 1e3:.2f}"
            print(f"| {name} | {memory} | {row} |")
            sys.stdout.flush()
    step, guard = cost_in_a_step(10 * arguments.repetitions)
    print("\n| whole step at 1M, ms | guard in it, ms | share |\n| --- | --- | --- |")
    print(f"| {step * 1e3:.2f} | {guard * 1e3:.2f} | {guard / step:.1%} |")
    if arguments.profile:
        profile()


if __name__ == "__main__":
    main()
