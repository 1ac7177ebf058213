"""How many threads the numerical libraries of a role may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def pin_threads(environment: dict[str, str] | None = None) -> int:
    """Threads that numerical libraries may use: the CPU quota of the cgroup, or OMP_NUM_THREADS.

    More threads than the quota spin against each other and cost an order of magnitude on a shared
    machine. Sets OMP_NUM_THREADS and MKL_NUM_THREADS for libraries loaded later.
    """
    target = os.environ if environment is None else environment
    configured = target.get("OMP_NUM_THREADS", "")
    threads = int(configured) if configured.isdecimal() and int(configured) > 0 else cpu_quota()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        target[variable] = str(threads)
    return threads


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs this process may use, at least 1: affinity mask, cut to the cgroup's quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = float(available or 1)
    with_quota = _read_quota(root)
    if with_quota is not None:
        limit = min(limit, with_quota)
    return max(1, math.floor(limit))


def _read_quota(root: Path) -> float | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass  # no cgroup v2 here; v1 has two files
    try:
        quota_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
