"""Ends that come from outside."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def kill_in(pod_uid: str, module: str) -> None:
    """SIGKILL to a role's process of a pod of this machine, as the kernel would."""
    mine = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            groups = (entry / "cgroup").read_text()
        except OSError:
            continue
        inside = pod_uid in groups or pod_uid.replace("-", "_") in groups
        if inside and module.encode() in command:
            mine.append(int(entry.name))
    assert mine, f"no process of {module} in pod {pod_uid}"
    os.kill(min(mine), signal.SIGKILL)
