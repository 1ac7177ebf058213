"""The rules of admission and the ledger, by themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrl_worker.staleness import (
    DropReason,
    Ledger,
    LedgerViolation,
    StalenessPolicy,
    StalenessViolation,
    admissible,
    exact_version,
    reset_seed,
)


def policy(maximum: int = 4, inject: int | None = None, on_stale: str = "drop") -> StalenessPolicy:
    assert on_stale in ("drop", "wait")
    return StalenessPolicy(
        maximum=maximum,
        on_stale="drop" if on_stale == "drop" else "wait",
        inject=inject,
        fragments_per_batch=3,
        replicas=2,
    )


@given(
    eta=st.integers(0, 64),
    batch=st.integers(1, 16),
    consumed=st.integers(0, 1000),
    accepted=st.integers(0, 20_000),
    running=st.integers(0, 200),
)
def test_the_gate_is_the_published_inequality(
    eta: int, batch: int, consumed: int, accepted: int, running: int
) -> None:
    allowed = admissible(eta, batch, consumed, accepted, running)
    assert allowed >= 0
    if allowed:
        assert accepted + running + allowed == (eta + consumed + 1) * batch
    else:
        assert accepted + running >= (eta + consumed + 1) * batch


@pytest.mark.parametrize(
    ("maximum", "inject", "lag", "bound", "outstanding"),
    [(4, None, None, 4, 15), (0, None, 0, 0, 3), (4, 0, 0, 0, 3), (4, 16, 16, 16, 51)],
)
def test_bound_and_mode_follow_from_the_settings(
    maximum: int, inject: int | None, lag: int | None, bound: int, outstanding: int
) -> None:
    derived = policy(maximum, inject)
    assert (derived.exact_lag, derived.bound, derived.outstanding_limit) == (
        lag,
        bound,
        outstanding,
    )
    assert f"worst-case staleness {bound} versions" in derived.explain()
    assert f"={outstanding} fragments" in derived.explain()
    assert "\n" not in derived.explain()


def test_the_explanation_names_the_setting_that_decides() -> None:
    assert "dropped as stale" in policy(on_stale="drop").explain()
    assert "ticket order" in policy(on_stale="wait").explain()
    assert "staleness.inject=2" in policy(inject=2).explain()
    assert "staleness.max=0" in policy(maximum=0).explain()


def test_a_violation_raises() -> None:
    policy(4).check(4)
    with pytest.raises(StalenessViolation, match="5"):
        policy(4).check(5)
    with pytest.raises(StalenessViolation):
        policy(4).check(-1)


def test_exact_versions_start_at_the_attempts_own_version() -> None:
    assert [exact_version(v, 2, 0) for v in range(5)] == [0, 0, 0, 1, 2]
    assert [exact_version(v, 2, 7) for v in range(7, 12)] == [7, 7, 7, 8, 9]
    assert [exact_version(v, 0, 3) for v in range(3, 6)] == [3, 4, 5]


def test_reset_seeds_differ_by_seed_and_version_and_never_change() -> None:
    seeds = {reset_seed(seed, version) for seed in range(20) for version in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Pinned: a checkpoint written by one release resumes alike in the next.
    assert reset_seed(0, 500) == 5_395_161_283_353_418_702


def test_a_ledger_out_of_balance_raises() -> None:
    with pytest.raises(LedgerViolation, match="produced 1 !="):
        Ledger(produced=1).check()
    ledger = Ledger()
    with pytest.raises(LedgerViolation):
        ledger.train(1)


@given(
    granted=st.integers(0, 40),
    accepted=st.integers(0, 40),
    trained=st.integers(0, 40),
    held=st.integers(0, 40),
)
def test_restoring_counts_everything_not_held_as_lost(
    granted: int, accepted: int, trained: int, held: int
) -> None:
    accepted = min(accepted, granted)
    trained = min(trained, accepted)
    last = Ledger()
    for _ in range(granted):
        last.grant()
    for _ in range(accepted):
        last.accept()
    last.train(trained)
    restored = Ledger()
    restored.drop_unknown(DropReason.EPOCH)
    restored.restore(last, held)
    restored.check()
    assert (restored.trained, restored.queued, restored.in_flight) == (trained, held, 0)
    lost = max(0, granted - trained - held)
    assert restored.dropped.get("parameter_server_restart", 0) == lost
    assert restored.dropped["epoch"] == 1


def test_staleness_imports_nothing_heavy() -> None:
    program = (
        "import sys; import asyncrl_worker.staleness; "
        "print([m for m in ('numpy', 'grpc', 'torch', 'asyncrl_api') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
