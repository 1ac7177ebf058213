"""The pieces that turn what was measured into numbers, tables and pictures."""

from __future__ import annotations

import math
import os
import select
import sys
from pathlib import Path

import pytest

from benchmarks import results, throughput, time_to_return
from benchmarks.__main__ import parse
from benchmarks.bootstrap import mean_interval
from benchmarks.document import DOCUMENT, fill
from benchmarks.index import BENCHMARKS
from benchmarks.peers import SAMPLE_FACTORY, STABLE_BASELINES3
from benchmarks.peers.environment import build_commands, location
from benchmarks.processes import TimedOut, run_to_end
from benchmarks.time_to_return import median_seconds


def test_the_steady_rate_leaves_out_the_start() -> None:
    slow_start = [(100.0, 0), (102.0, 10), (104.0, 2_010), (110.0, 8_010)]
    assert throughput.steady_rate(slow_start) == pytest.approx(1_000.0)


def test_a_rate_needs_two_samples_after_the_warm_up() -> None:
    with pytest.raises(ValueError, match="too few"):
        throughput.steady_rate([(0.0, 0), (0.1, 5), (9.0, 500)])


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_more_values() -> None:
    few, many = mean_interval([1.0, 2.0, 4.0]), mean_interval([1.0, 2.0, 4.0] * 30)
    assert few.low <= few.mean <= few.high
    assert few.mean == pytest.approx(7 / 3)
    assert many.high - many.low < (few.high - few.low) / 3
    assert mean_interval([1.0, 2.0, 4.0]) == few


def test_a_run_that_did_not_reach_its_target_counts_as_endless() -> None:
    assert median_seconds([5.0, None, 7.0]) == 7.0
    assert median_seconds([5.0, None, None]) is None


def test_the_table_of_times_compares_with_and_without_the_peers_evaluations() -> None:
    peer = str(STABLE_BASELINES3)
    side = {"steps": [1, 1], "best": [1, 1], "versions": None, "seeds": [0, 1]}
    data = {
        "environment": "CartPole-v1",
        "target": 475,
        "target_ratio": 0.6,
        "limit": 10,
        "sides": {
            "asyncrl": side | {"seconds": [5.0, 5.0], "evaluation_seconds": [None, None]},
            peer: side | {"seconds": [20.0, 20.0], "evaluation_seconds": [10.0, 10.0]},
        },
    }
    table = time_to_return.table(data)
    assert "0.25x | 0.6x | 0.50x" in table


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(TimedOut, match="no end after 0 s"):
        run_to_end(
            [sys.executable, "-c", "import threading; threading.Event().wait()"], deadline=0.1
        )


def test_what_a_program_leaves_behind_is_ended_with_it() -> None:
    code = (
        "import subprocess, sys\n"
        "wait = 'import threading; threading.Event().wait()'\n"
        "quiet = subprocess.DEVNULL\n"
        "print(subprocess.Popen([sys.executable, '-c', wait], stdout=quiet, stderr=quiet).pid)"
    )
    finished = run_to_end([sys.executable, "-c", code], deadline=60.0)
    try:
        left_behind = os.pidfd_open(int(finished.output))
    except ProcessLookupError:
        return
    try:
        assert select.select([left_behind], [], [], 30.0)[0], "it is still running"
    finally:
        os.close(left_behind)


def test_a_program_runs_with_one_thread_and_is_timed() -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    finished = run_to_end([sys.executable, "-c", code], deadline=60.0)
    assert finished.output == "1\n"
    assert 0.0 < finished.ended - finished.started < 60.0


def test_an_environment_of_a_peer_depends_on_its_pins_and_lies_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = location(SAMPLE_FACTORY)
    assert folder.parent == tmp_path / "asyncrl" / "peers"
    assert folder.name.startswith("sample-factory-2.1.1-")
    with_uv = build_commands(STABLE_BASELINES3, folder, "/usr/bin/uv")
    with_pip = build_commands(STABLE_BASELINES3, folder, None)
    for commands in (with_uv, with_pip):
        assert str(STABLE_BASELINES3.requirements) in commands[1]


@pytest.mark.parametrize("peer", [SAMPLE_FACTORY, STABLE_BASELINES3])
def test_every_requirement_of_a_peer_is_pinned_and_names_no_index(peer: object) -> None:
    text = peer.requirements.read_text()  # type: ignore[attr-defined]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines and all("==" in line and not line.startswith("-") for line in lines)
    assert "://" not in text


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    results.save(tmp_path, "throughput", "python -m benchmarks", 12.34, {"sides": {}})
    result = results.load(tmp_path, "throughput")
    assert result is not None
    assert (result.seconds, result.data) == (12.3, {"sides": {}})
    assert result.machine["cores"] >= 1
    assert results.load(tmp_path, "guard") is None


def test_the_document_has_a_place_for_every_benchmark_and_filling_it_again_changes_nothing(
    tmp_path: Path,
) -> None:
    sides = {
        side: {
            "steady": [80_000.0],
            "with_start_up": [40_000.0],
            "median": rate,
            "median_with_start_up": rate / 2,
            "staleness": None,
        }
        for side, rate in (("asyncrl", 80_000.0), (str(STABLE_BASELINES3), 8_000.0))
    }
    results.save(tmp_path, "throughput", "the command", 1.0, {"seconds": 30, "sides": sides})
    once = fill(DOCUMENT.read_text(), tmp_path)
    assert "| 8,000 | 10.0x | 8x |" in once
    assert "`the command`" in once
    assert once.count("Not measured yet") == len(BENCHMARKS) - 1
    assert fill(once, tmp_path) == once


def test_every_benchmark_says_how_long_it_takes(tmp_path: Path) -> None:
    from benchmarks.options import Options

    for quick in (False, True):
        options = Options(quick=quick, partial=tmp_path)
        seconds = [benchmark.estimate(options) for benchmark in BENCHMARKS]
        assert all(math.isfinite(value) and value > 0 for value in seconds)


def test_the_numbers_of_a_smoke_test_stay_out_of_the_documentation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse(["--render", "--quick"])
    assert "--render --quick" in capsys.readouterr().err
