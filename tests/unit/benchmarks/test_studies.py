"""The studies, on trials of a few thousand steps or on made-up records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asyncrl_api.manifest import load_manifest
from asyncrl_worker.alignment import AlignmentConfig, GradientAlignment
from benchmarks.figures import FIGURES, draw
from benchmarks.options import Options
from benchmarks.single_process import SingleProcess
from benchmarks.studies import guard, pool, rise, signature, stacks, unprotected
from benchmarks.studies.plain import CLASSIC, PLAIN, random_skips
from benchmarks.studies.random_skips import RandomSkips
from benchmarks.studies.runner import run_trial
from benchmarks.studies.summary import percent
from benchmarks.studies.trial import ACROBOT, CARTPOLE, POINTS, Trial, make_trial


def small(settings: tuple[str, ...], **changes: object) -> Trial:
    task = replace(CARTPOLE, quick_steps=12_000)
    arguments = {"lag": 2, "seed": 0, "quick": True} | changes
    return make_trial(task, "an arm", settings, **arguments)  # type: ignore[arg-type]


def test_a_trial_trains_evaluates_and_repeats_itself_exactly() -> None:
    first, second = run_trial(small(PLAIN)), run_trial(small(PLAIN))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert len(first["returns"]) == len(first["cosines"]) == POINTS
    assert first["final_return"] > 8.0
    assert first["skipped"] == first["projected"] == 0.0


def test_the_classic_thresholds_act_and_chance_skips_about_as_often_as_it_is_told() -> None:
    classic = run_trial(small(CLASSIC))
    assert classic["skipped"] + classic["projected"] > 0.2
    random = run_trial(small(PLAIN, skip_rate=0.5))
    assert 0.2 < random["skipped"] < 0.8


def test_random_skips_never_look_at_the_gradient() -> None:
    parameter = torch.nn.Parameter(torch.zeros(8))
    parameter.grad = torch.ones(8)
    observer = GradientAlignment([parameter], AlignmentConfig(mode="observe"))
    control = RandomSkips(observer, 0.25, np.random.default_rng(0))
    decisions = [control.step() for _ in range(2_000)]
    assert 0.22 < sum(not decision.apply for decision in decisions) / 2_000 < 0.28
    assert decisions[5].cosine == pytest.approx(1.0)
    assert torch.equal(parameter.grad, torch.ones(8))


def test_a_trials_name_depends_on_what_decides_its_record() -> None:
    trial = small(PLAIN)
    assert trial.digest == small(PLAIN).digest
    others = [
        small(CLASSIC),
        small(PLAIN, lag=3),
        small(PLAIN, seed=1),
        small(PLAIN, skip_rate=0.1),
    ]
    assert len({trial.digest, *(other.digest for other in others)}) == 5


def test_finished_trials_are_not_run_again(tmp_path: Path) -> None:
    trials = [small(PLAIN, seed=seed) for seed in range(2)]
    for trial in trials:
        record = {"seed": trial.seed, "final_return": 100.0 + trial.seed}
        (tmp_path / f"{trial.digest}.json").write_text(json.dumps(record))
    options = Options(quick=True, partial=tmp_path)
    assert pool.estimate(trials, options) == 0.0
    records = pool.run_trials("a study", trials, options)
    assert [record["final_return"] for record in records] == [100.0, 101.0]


def test_the_imitation_skips_as_often_as_its_model_on_the_same_seed() -> None:
    records = [{"lag": 16, "seed": seed, "skipped": 0.1 * seed} for seed in range(3)]
    made = random_skips("chance", records, Options(quick=True))
    assert [(trial.seed, trial.skip_rate) for trial in made] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert all(trial.lag == 16 for trial in made)


def test_percent_counts_from_the_tasks_worst_return() -> None:
    reference = [{"final_return": -100.0}]
    assert percent([{"final_return": -300.0}], reference, ACROBOT) == [50.0]


@pytest.mark.parametrize("study", [signature, guard, unprotected])
def test_a_study_with_all_its_records_becomes_a_table_and_a_figure(
    study: object, tmp_path: Path
) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    options = Options(quick=True, partial=partial)
    planned = study.trials(options)  # type: ignore[attr-defined]
    for trial in [*planned, *_imitations(study, planned, options)]:
        (partial / f"{trial.digest}.json").write_text(json.dumps(_record(trial)))
    data = json.loads(json.dumps(study.run(options)))  # type: ignore[attr-defined]
    table = study.table(data)  # type: ignore[attr-defined]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    blocks = [block for block in table.split("\n\n") if block.startswith("|")]
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert len(rows) >= 4
    name = study.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    assert name in FIGURES
    path = draw(name, data, tmp_path)
    assert path is not None and path.read_text().startswith("<?xml")


def _imitations(study: object, planned: list[Trial], options: Options) -> list[Trial]:
    if study is guard:
        return []
    models = [trial for trial in planned if trial.skip_rate is None and "control" in trial.manifest]
    return random_skips("any", [_record(trial) for trial in models], options)


def _record(trial: Trial) -> dict[str, object]:
    return {
        "environment": trial.task.environment,
        "arm": trial.arm,
        "lag": trial.lag,
        "seed": trial.seed,
        "final_return": 400.0 + trial.seed - trial.lag,
        "returns": [400.0] * POINTS,
        "cosines": [None] + [0.1 * trial.lag / 16] * (POINTS - 1),
        "updates": 100,
        "skipped": 0.1,
        "projected": 0.05,
        "seconds": 1.0,
    }


def test_a_run_falls_behind_in_its_middle_version_by_version() -> None:
    trial = small(PLAIN, lag=0)
    job = load_manifest(trial.manifest)
    run = SingleProcess(job)
    late = []
    for index, update in enumerate(run.updates()):
        late.append((update.result.staleness.mean, update.result.staleness.max))
        if index == 4:
            run.fall_behind(3)
    assert late[:5] == [(0.0, 0)] * 5
    assert late[5:8] == [(1.0, 1), (2.0, 2), (3.0, 3)]
    assert len(late) > 9 and set(late[8:]) == {(3.0, 3)}
    with pytest.raises(ValueError, match="less than 3"):
        run.fall_behind(2)


def test_what_control_does_after_a_rise_is_counted_from_the_rise_on() -> None:
    classic = run_trial(small(CLASSIC, lag=0, later_lag=4))
    late = classic["late"]
    assert 0 < late["updates"] < classic["updates"]
    assert 1 <= late["first"] <= late["updates"]
    everything = round((classic["skipped"] + classic["projected"]) * classic["updates"])
    assert late["touched_before"] + late["skipped"] + late["projected"] == everything
    assert run_trial(small(PLAIN, lag=0))["late"] is None


def test_chance_imitates_only_what_was_skipped_after_the_rise() -> None:
    chance = run_trial(small(PLAIN, lag=0, later_lag=4, skip_rate=1.0))
    late = chance["late"]
    assert late["touched_before"] == 0
    assert late["skipped"] == late["updates"]


def test_the_study_of_a_rise_becomes_a_table(tmp_path: Path) -> None:
    options = Options(quick=True, partial=tmp_path)
    planned = rise.trials(options)
    models = [{**_record(trial), "late": _LATE} for trial in planned]
    for trial in [*planned, *rise.imitations(models, options)]:  # type: ignore[arg-type]
        late = None if trial.later_lag is None else _LATE
        (tmp_path / f"{trial.digest}.json").write_text(json.dumps(_record(trial) | {"late": late}))
    data = json.loads(json.dumps(rise.run(options)))
    blocks = [block for block in rise.table(data).split("\n\n") if block.startswith("|")]
    assert len(blocks) == len(rise.STACKS)
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| the guard (auto) | 400 [400, 400]" in blocks[0]
    assert "| 7 (7 to 7), in 2 of 2 | 4 | 10.0%, 20.0% |" in blocks[0]


def test_the_study_of_stacks_compares_each_with_the_synchronous_default(tmp_path: Path) -> None:
    options = Options(quick=True, partial=tmp_path)
    for trial in stacks.trials(options):
        (tmp_path / f"{trial.digest}.json").write_text(json.dumps(_record(trial)))
    data = json.loads(json.dumps(stacks.run(options)))
    *blocks, _ = stacks.table(data).split("\n\n")
    assert len(blocks) == len(stacks.TASKS)
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    line = f"| {stacks.DEFAULT} | 99 [99, 99] | 100 [100, 100] | 0 of 2 |"
    assert line in blocks[0].splitlines()


_LATE = {"touched_before": 2, "updates": 50, "skipped": 5, "projected": 10, "first": 7}
