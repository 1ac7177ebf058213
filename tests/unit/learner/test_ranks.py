"""Two real processes train as one would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from unit.learner.streams import changed, make_step, record, snapshot
from unit.learner.two_ranks import VARIANTS, described, load_batches, save_batches, spec_of, train

from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.role import Stop

SCRIPT = Path(__file__).with_name("two_ranks.py")
UPDATES = 12
LAG = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of every variant's batches."""
    folder = tmp_path_factory.mktemp("ranks")
    for variant in VARIANTS:
        batches = record(spec_of(variant), UPDATES, lag=LAG)
        save_batches(folder / f"{variant}.safetensors", batches)
    port = str(free_port())
    children = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), "2", port, str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    return folder


@pytest.fixture(params=VARIANTS)
def both(request: pytest.FixtureRequest, folder: Path) -> Any:
    """Variant, then snapshot and results of one rank, and of each of two."""
    variant = request.param
    alone = make_step(spec_of(variant))
    batches = load_batches(folder / f"{variant}.safetensors")
    results = [described(result) for result in train(alone, Ranks(), batches)]
    snapshots = [load_file(folder / f"{rank}-{variant}.safetensors") for rank in range(2)]
    together = json.loads((folder / f"0-{variant}.json").read_text())
    return variant, snapshot(alone), results, snapshots, together


def test_two_ranks_end_with_the_state_of_one(both: Any) -> None:
    _, alone, _, (first, _), _ = both
    assert set(first) == set(alone)
    for name, tensor in alone.items():
        torch.testing.assert_close(
            first[name], tensor, atol=2e-5, rtol=2e-4, equal_nan=True, msg=name
        )


def test_both_ranks_have_the_same_state_to_the_bit(both: Any) -> None:
    _, _, _, (first, second), _ = both
    assert changed(first, second) == set()


def test_two_ranks_take_the_same_decisions(both: Any) -> None:
    variant, _, results, _, together = both
    assert len(results) == len(together) == UPDATES
    if variant != "default":
        assert {"Project", "Skip"} <= {r["alignment"]["regime"] for r in results}
    for one, two in zip(results, together, strict=True):
        for name in ("outcome", "version"):
            assert one[name] == two[name]
        for name in ("regime", "apply", "reason"):
            assert one["alignment"][name] == two["alignment"][name]
        # Quantiles of the staleness are of the rank; nothing is steered by them.
        for name in ("mean", "max"):
            assert one["staleness"][name] == two["staleness"][name]
        for section in ("importance", "alignment"):
            for name, value in one[section].items():
                if isinstance(value, float):
                    assert two[section][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
        for name, value in one.items():
            if isinstance(value, float):
                assert two[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


def test_one_rank_needs_no_group() -> None:
    ranks = Ranks()
    values = torch.tensor([1.0, 2.0])
    assert ranks.sum(values) is values
    assert ranks.maximum(values) is values
    assert ranks.meet(patience=0.0, stop=Stop())
    assert ranks.share(b"own") == b"own"
    ranks.close()
