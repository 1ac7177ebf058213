"""Files that are generated from the models and committed: written, or checked for drift."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def write_or_check(module: str, path: Path, text: str, arguments: Sequence[str]) -> int:
    """Write `text` to `path`, or with `--check` compare. Returns the exit code.

    0: written, or equal. 1: not equal. 2: wrong usage.
    """
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write(f"usage: python -m {module} [--check]\n")
        return 2
    if not arguments:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{path}: differs from the models; run python -m {module}\n")
    return 1
