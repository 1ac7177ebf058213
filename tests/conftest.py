"""What holds for all tests."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/cluster/by_hand/", "tests/cluster/", "tests/docs/")
"""Folders whose tests share a cluster, and so a process; the first that fits counts."""

# A shell ignores SIGINT for what it starts in the background, and so would the programs that tests
# interrupt: an ignored signal is inherited, a handled one is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about us.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """With several processes (`-n 2`): a cluster in one of them, other tests file by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """In the order of the files, so that those with clusters, the longest, come first."""
    config.option.loadscopereorder = False
    return Together(config, log)
