"""Recording runs for the judge, and the table of what it says of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from asyncrl_worker.stability import Observables, StabilityJudge, Verdict
from benchmarks import verdicts
from benchmarks.recordings import observables, read, write

CALM = {"environmentSteps": 2048, "kl": 0.01, "maxLogRatio": 0.5, "effectiveSampleSize": 0.97}


def run(*phases: tuple[int, float, dict[str, Any]]) -> list[dict[str, Any]]:
    """Phases of some updates at a return, with what is out of order."""
    rows = [
        CALM | {"episodeReturn": value} | fields
        for count, value, fields in phases
        for _ in range(count)
    ]
    return [row | {"update": index} for index, row in enumerate(rows, start=1)]


def test_a_row_is_what_the_judge_saw() -> None:
    seen = observables({"update": 3, "kl": 0.5, "smoothed": 0.1, "episodeReturn": None})
    assert seen == Observables(update=3, kl=0.5, smoothed_cosine=0.1)


def test_a_loss_that_was_not_finite_is_not_taken_for_absent() -> None:
    judge = StabilityJudge()
    for row in run((40, 20.0, {}), (20, 20.0, {"policyLoss": None, "gradientNorm": None})):
        judgement = judge.observe(observables(row))
    assert judgement.verdict is Verdict.DIVERGED
    assert judgement.reasons[0] in ("NonFiniteLoss", "NonFiniteGradient")


def test_a_recording_repeats_itself_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(verdicts.STEPS, "cartpole", 12_000)
    arguments = ["--seeds", "3", "--arms", "plain", "--lags", "2"]
    for folder in ("first", "second"):
        assert verdicts.main([str(tmp_path / folder), *arguments]) == 0
    name = "cartpole.plain.2.3.jsonl.gz"
    first = tmp_path / "first" / name
    assert first.read_bytes() == (tmp_path / "second" / name).read_bytes()
    rows = read(first)
    assert [row["update"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["environmentSteps"] >= 12_000
    assert rows[-1]["stalenessMean"] == 2.0
    assert all(math.isfinite(row["kl"]) for row in rows)
    assert "| cartpole | plain | 2 | 1 | 0.0% | 0.0% | 0 | 0 | – |" in capsys.readouterr().out


def test_a_collapse_counts_when_the_return_stays_lost_and_the_alarm_before_it() -> None:
    high = {"kl": 2.0, "maxLogRatio": 6.0}
    lost = verdicts.judge(run((50, 20.0, {}), (60, 500.0, {}), (40, 500.0, high), (60, 9.0, high)))
    assert lost.updates == 210
    assert lost.first_alarm == 120
    assert lost.collapsed == 161  # two thirds of a moving average take 11 updates
    assert lost.alarmed == 91
    back = verdicts.judge(run((50, 20.0, {}), (60, 500.0, {}), (60, 9.0, {}), (60, 400.0, {})))
    assert (back.first_alarm, back.collapsed) == (None, None)
    assert back.watched > 0


def test_the_table_has_a_row_for_every_group(tmp_path: Path) -> None:
    high = {"kl": 2.0, "maxLogRatio": 6.0}
    well = run((50, 20.0, {}), (60, 500.0, {}))
    fallen = run((50, 20.0, {}), (60, 500.0, high), (60, 9.0, high))
    write(tmp_path / "cartpole.default.4.0.jsonl.gz", well)
    write(tmp_path / "cartpole.default.4.1.jsonl.gz", well)
    write(tmp_path / "cartpole.plain.16.0.jsonl.gz", fallen)
    write(tmp_path / "cartpole.plain.16.1.jsonl.gz", run((50, 20.0, {}), (60, 9.0, {})))
    assert list(verdicts.table(tmp_path))[2:] == [
        "| cartpole | default | 4 | 2 | 0.0% | 0.0% | 0 | 0 | – |",
        "| cartpole | plain | 16 | 2 | 16.4% | 39.6% | 1, at update 60 to 60, 65% of theirs | 2 |"
        " 1, 61 to 61 updates before |",
    ]
