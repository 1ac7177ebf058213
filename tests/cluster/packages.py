"""The Debian packages that a node and images need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cluster.build import run
from cluster.network import Unavailable
from cluster.parts import PACKAGES


def install_packages() -> None:
    """Install what is missing. Raises Unavailable where that cannot be done here."""
    missing = [package for package, program in PACKAGES.items() if not _present(program)]
    if not missing:
        return
    remedy = f"install {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        raise Unavailable(f"a node needs programs that are missing; {remedy}")
    print(remedy, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], environment=environment)
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
    run(command, environment=environment)


def _present(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None
