"""Every role of every run here finds the tests' own environments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.harness import TESTS


@pytest.fixture(autouse=True)
def _environments_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
