"""A run that is saved, loaded by a fresh process's objects and continued: equal to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from unit.learner.streams import changed, make_spec, make_step, record, snapshot

from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.admission import staleness_policy
from asyncrl_worker.learner import report
from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.checkpoint import Checkpoint, CheckpointFolder
from asyncrl_worker.learner.main import _tell_of_less_lag
from asyncrl_worker.learner.memory import RunMemory
from asyncrl_worker.learner.progress import EvaluationScore, Progress
from asyncrl_worker.learner.step import UpdateResult
from asyncrl_worker.stability import Judgement, Response, StabilityJudge, Verdict
from asyncrl_worker.staleness import Ledger

LAG = 3
BEFORE, AFTER = 13, 12

EVERYTHING: dict[str, Any] = {
    "compensation.klFeedback.mode": "target",
    "compensation.displacementProjection": 0.5,
    "alignment.calibrationUpdates": 8,
    "staleness.inject": LAG,
    "stability.onDegraded": "pace",
}

VARIANTS: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "fixed": {"alignment.calibration": "fixed", "alignment.memoryDtype": "float32"},
    "sgd": {"optimizer.name": "sgd", "optimizer.learningRate": 1e-2, "alignment.mode": "off"},
    "adamw": {"optimizer.name": "adamw", "alignment.mode": "observe"},
}


class Run:
    """What the learner's process keeps between batches, on a clock that counts updates."""

    def __init__(self, spec: AsyncRLJobSpec) -> None:
        self.time = 0.0
        self.step = make_step(spec)
        self.progress = Progress(spec.stopping, lambda: self.time)
        self.judge = StabilityJudge()
        self.response = Response("pace", staleness_max=8)
        self.memory = RunMemory(self.step, self.progress, self.judge, self.response)

    def resume(self, folder: CheckpointFolder) -> Ledger:
        checkpoint = folder.load_newest()
        assert checkpoint is not None
        return self.memory.restore(checkpoint, folder.path_of(checkpoint))

    def train(self, batches: list[Batch]) -> list[tuple[UpdateResult, Judgement]]:
        results = []
        for batch in batches:
            self.time += 1.0
            result = self.step.update(batch, progress=self.progress.scheduled_fraction)
            self.progress.trained(
                steps=batch.environment_steps,
                version=self.step.version,
                returns=[float(batch.rewards.sum())],
            )
            self.memory.alignment.observe(result)
            seen = report.observables(self.step.updates, result, self.progress.episode_return)
            judgement = self.judge.observe(seen)
            self.response.respond(judgement)
            results.append((result, judgement))
        return results


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one(variant: str, tmp_path: Path) -> None:
    spec = make_spec(VARIANTS[variant])
    batches = record(spec, BEFORE + AFTER, lag=LAG)
    ledger = Ledger(produced=60, trained=50, dropped={"skipped": 4}, queued=4, in_flight=2)

    through = Run(spec)
    through.train(batches[:BEFORE])
    through.progress.evaluated(EvaluationScore(through.step.version, 12.5, 20))
    folder = CheckpointFolder(tmp_path, keep=2)
    path = through.memory.save(folder, ledger=ledger)
    torch_state = torch.get_rng_state()
    expected = through.train(batches[BEFORE:])

    torch.manual_seed(987)
    resumed = Run(spec)
    assert resumed.resume(folder) == ledger
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert resumed.memory.checkpoint.version == resumed.step.version
    assert resumed.memory.checkpoint.path == str(path)
    assert resumed.progress.evaluation == EvaluationScore(resumed.step.version, 12.5, 20)
    found = resumed.train(batches[BEFORE:])

    assert changed(snapshot(through.step), snapshot(resumed.step)) == set()
    assert found == expected
    assert resumed.step.updates == through.step.updates == BEFORE + AFTER
    assert resumed.memory.alignment == through.memory.alignment
    assert resumed.judge.state_dict() == through.judge.state_dict()
    assert resumed.response.state_dict() == through.response.state_dict()
    ours, theirs = resumed.progress.state(), through.progress.state()
    assert ours == theirs


def test_the_save_does_not_disturb_the_run(tmp_path: Path) -> None:
    spec = make_spec(EVERYTHING)
    batches = record(spec, 12, lag=LAG)
    quiet, saving = Run(spec), Run(spec)
    quiet.train(batches)
    for batch in batches:
        saving.train([batch])
        saving.memory.save(CheckpointFolder(tmp_path, keep=2), ledger=Ledger())
    assert changed(snapshot(quiet.step), snapshot(saving.step)) == set()


@pytest.mark.parametrize(
    ("staleness", "bound"), [({"max": 16}, 8), ({"max": 4, "inject": 16}, 16), ({"max": 0}, 0)]
)
def test_the_lag_of_the_job_decides_whether_pace_has_anything_to_reduce(
    staleness: dict[str, int], bound: int
) -> None:
    settings = {f"staleness.{name}": value for name, value in staleness.items()}
    spec = make_spec(settings | {"stability.onDegraded": "pace"})
    response = RunMemory.of(spec, make_step(spec)).response
    action = response.respond(Judgement(Verdict.DEGRADED, ("HighKL",), 0, 2.0))
    assert (action.kind, action.staleness_bound) == ("Pace" if bound == 8 else None, bound)


LOST: dict[str, Any] = {
    "policy_optimizer": None,
    "value_optimizer": None,
    "displacement": None,
    "alignment": None,
    "value_scale": [0.0, 1.0, 0.0, 0.0],
    "split_half": None,
    "kl_coefficient": 9.0,
}


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return record(make_spec(EVERYTHING), BEFORE + AFTER, lag=LAG)


@pytest.mark.parametrize("part", LOST)
def test_every_part_of_the_memory_is_needed(
    part: str, batches: list[Batch], tmp_path: Path
) -> None:
    """Without it the resumed run is another one: the equality above is not empty."""
    spec = make_spec(EVERYTHING)
    through = Run(spec)
    through.train(batches[:BEFORE])
    folder = CheckpointFolder(tmp_path, keep=2)
    through.memory.save(folder, ledger=Ledger())
    expected = through.train(batches[BEFORE:])

    whole = folder.load_newest()
    assert whole is not None
    tensors = {n: t for n, t in whole.tensors.items() if not n.startswith(f"{part}.")}
    state = dict(whole.state)
    if part in state and part != "alignment":
        state[part] = LOST[part]
    else:
        assert len(tensors) < len(whole.tensors)
    folder.save(Checkpoint(whole.version, tensors, state))
    resumed = Run(spec)
    resumed.resume(folder)
    assert resumed.train(batches[BEFORE:]) != expected


def restored(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> Run:
    """A run by the spec `after`, resumed from the checkpoint of one by `before`."""
    spec = make_spec(EVERYTHING | before)
    run = Run(spec)
    run.train(record(spec, BEFORE, lag=LAG))
    folder = CheckpointFolder(tmp_path, keep=2)
    run.memory.save(folder, ledger=Ledger())
    resumed = Run(make_spec(EVERYTHING | after))
    resumed.resume(folder)
    return resumed


KL = "compensation.klFeedback"


@pytest.mark.parametrize(
    ("before", "after", "coefficient"),
    [
        ({f"{KL}.mode": "off"}, {f"{KL}.mode": "fixed"}, 0.1),
        ({f"{KL}.mode": "fixed"}, {f"{KL}.mode": "off"}, 0.0),
        ({f"{KL}.mode": "fixed"}, {f"{KL}.mode": "fixed", f"{KL}.coefficient": 0.03}, 0.03),
        ({f"{KL}.mode": "fixed"}, {f"{KL}.mode": "target", f"{KL}.coefficient": 0.03}, 0.03),
        ({f"{KL}.mode": "target"}, {f"{KL}.mode": "fixed"}, 0.1),
    ],
)
def test_kl_feedback_that_changed_at_a_resume_is_the_manifests(
    before: dict[str, Any], after: dict[str, Any], coefficient: float, tmp_path: Path
) -> None:
    assert restored(tmp_path, before, after).step.kl_feedback.coefficient == coefficient


def test_another_memory_type_at_a_resume_costs_one_comparison(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = restored(tmp_path, {}, {"alignment.memoryDtype": "float32"})
    assert [record.getMessage() for record in caplog.records] == [
        "event=alignment_rebased memoryDtype=float32 before=bfloat16: the first update has no "
        "cosine"
    ]
    decisions = [r.alignment for r, _ in resumed.train(record(resumed.step.spec, 2, lag=0))]
    assert (decisions[0].reason, decisions[0].cosine) == ("first", None)
    assert decisions[1].cosine is not None
    assert all(decision.calibrated for decision in decisions), "the level is the same gradient's"


@pytest.mark.parametrize(("before", "after"), [("policy", "all"), ("all", "policy")])
def test_another_scope_at_a_resume_learns_its_level_anew(
    before: str, after: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scope = "alignment.scope"
    resumed = restored(tmp_path, {scope: before}, {scope: after})
    assert [record.getMessage() for record in caplog.records] == [
        f"event=alignment_anew scope={after} before={before}: the healthy level is learned anew"
    ]
    trained = resumed.train(record(resumed.step.spec, BEFORE, lag=0))
    decisions = [result.alignment for result, _ in trained]
    assert decisions[0].cosine is None and decisions[0].smoothed is None
    assert decisions[1].smoothed == decisions[1].cosine is not None
    assert [d.calibrated for d in decisions] == [False] * 9 + [True] * (BEFORE - 9)


def test_a_checkpoint_before_the_first_update_can_be_resumed(tmp_path: Path) -> None:
    spec = make_spec(EVERYTHING)
    batches = record(spec, 4, lag=LAG)
    first, second = Run(spec), Run(spec)
    first.memory.save(CheckpointFolder(tmp_path, keep=1), ledger=Ledger())
    second.resume(CheckpointFolder(tmp_path, keep=1))
    first.train(batches)
    second.train(batches)
    assert changed(snapshot(first.step), snapshot(second.step)) == set()


@pytest.mark.parametrize(
    ("settings", "version", "lines"),
    [
        ({"staleness.inject": 3}, 7, 1),
        ({"staleness.inject": 3}, 0, 0),
        ({"staleness.max": 0}, 7, 0),
        ({"staleness.max": 4}, 7, 0),
    ],
)
def test_a_start_whose_first_batches_are_less_late_is_told(
    settings: dict[str, int], version: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _tell_of_less_lag(staleness_policy(make_spec(settings)), version)
    expected = (
        "event=lag_begins_anew version=7: the batches of versions 7 to 10 are all produced by "
        "version 7, 0 to 3 versions late"
    )
    assert [record.getMessage() for record in caplog.records] == [expected] * lines
