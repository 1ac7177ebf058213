"""The learner's report: what is absent stays null, and what is there is of one update."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from unit.learner.streams import Stream, make_spec, make_step, train, with_nan_reward

from asyncrl_api.spec import Stopping
from asyncrl_api.status import LearnerReport
from asyncrl_worker.learner import report
from asyncrl_worker.learner.metrics import LearnerMetrics
from asyncrl_worker.learner.progress import EvaluationScore, Progress
from asyncrl_worker.learner.report import AlignmentCounts, Ending, Snapshot
from asyncrl_worker.learner.step import UpdateResult
from asyncrl_worker.stability import StabilityJudge
from asyncrl_worker.staleness import Ledger

CONTROLLED = {
    "alignment.calibration": "fixed",
    "alignment.low": 0.05,
    "alignment.high": 0.3,
}


@pytest.fixture(scope="module")
def results() -> list[UpdateResult]:
    spec = make_spec(CONTROLLED)
    return train(make_step(spec), Stream(spec, lag=4), 12)


def snapshot_of(result: UpdateResult, counts: AlignmentCounts | None = None) -> Snapshot:
    progress = Progress(Stopping(environmentSteps=100), lambda: 0.0)
    judgement = StabilityJudge().observe(report.observables(1, result, progress.episode_return))
    return Snapshot(
        update=1,
        training=report.training_status(progress),
        alignment=report.alignment_status(result, counts or AlignmentCounts(updates=1)),
        stability=report.stability_status(result, judgement),
        staleness=report.staleness_status(result, bound=4),
        ledger=report.ledger_status(Ledger(produced=3, trained=2, queued=1)),
    )


def document_of(snapshot: Snapshot) -> dict[str, dict[str, object]]:
    text = snapshot.report().model_dump_json(by_alias=True)
    assert LearnerReport.model_validate_json(text).update == snapshot.update
    return json.loads(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("calibration", "low", "calibrated"),
    [("fixed", [0.05] * 12, [False] * 12), ("auto", [None] * 9, [False] * 9 + [True] * 3)],
)
def test_thresholds_as_given_are_not_reported_as_calibrated(
    calibration: str, low: list[float | None], calibrated: list[bool]
) -> None:
    settings = {"alignment.calibration": calibration, "alignment.calibrationUpdates": 8}
    spec = make_spec(CONTROLLED | settings)
    results = train(make_step(spec), Stream(spec, lag=4), 12)
    statuses = [report.alignment_status(result, AlignmentCounts(updates=1)) for result in results]
    assert [status.low for status in statuses][: len(low)] == low
    assert [status.calibrated for status in statuses] == calibrated


def test_before_the_first_update_every_number_is_null() -> None:
    document = document_of(Snapshot())
    for section in ("training", "alignment", "stability", "staleness", "checkpoint"):
        for name, value in document[section].items():
            assert value is None or (section, name) == ("stability", "reasons"), (section, name)
    assert document["outcome"] is None


def test_the_first_update_has_no_cosine(results: list[UpdateResult]) -> None:
    alignment = document_of(snapshot_of(results[0]))["alignment"]
    assert (alignment["cosine"], alignment["regime"]) == (None, None)
    assert (alignment["low"], alignment["high"]) == (0.05, 0.3)


def four_digits(value: float | None) -> float:
    assert value is not None
    return float(f"{value:.4g}")


def test_later_updates_have_their_numbers(results: list[UpdateResult]) -> None:
    result = results[-1]
    document = document_of(snapshot_of(result))
    assert document["alignment"]["cosine"] == four_digits(result.alignment.cosine)
    assert document["alignment"]["regime"] == result.alignment.regime.value
    assert document["stability"]["kl"] == four_digits(result.importance.kl)
    assert document["staleness"]["max"] == result.staleness.max
    assert document["staleness"]["bound"] == 4
    assert document["ledger"]["inFlight"] == 0


def test_with_alignment_off_its_section_is_absent() -> None:
    spec = make_spec({"alignment.mode": "off"})
    (result,) = train(make_step(spec), Stream(spec), 1)
    assert set(document_of(snapshot_of(result))["alignment"].values()) == {None}


def test_numbers_that_are_not_finite_are_null_and_json_stays_valid() -> None:
    spec = make_spec()
    step, stream = make_step(spec), Stream(spec)
    result = step.update(with_nan_reward(stream.next(step.weights(), 0)))
    assert math.isnan(result.value_loss)
    document = document_of(snapshot_of(result))
    assert document["stability"]["valueLoss"] is None
    assert document["stability"]["gradientNorm"] is None


def test_counts_are_of_what_was_done(results: list[UpdateResult]) -> None:
    counts = AlignmentCounts()
    for result in results:
        counts.observe(result)
    skipped = sum(result.outcome == "skipped" for result in results)
    projected = sum(result.alignment.scale != 1.0 for result in results)
    assert skipped + projected > 0
    assert (counts.updates, counts.skipped, counts.projected) == (12, skipped, projected)
    before = counts.projected
    changed = replace(results[-1].alignment, scale=0.5)
    counts.observe(replace(results[-1], outcome="non_finite", alignment=changed))
    assert counts.projected == before
    observed = make_spec(CONTROLLED | {"alignment.mode": "observe"})
    only = AlignmentCounts()
    for result in train(make_step(observed), Stream(observed, lag=4), 12):
        only.observe(result)
    assert (only.skipped, only.projected) == (0, 0)


def test_an_ending_carries_its_outcome_and_the_final_ledger(results: list[UpdateResult]) -> None:
    ending = Ending("Complete", "TargetReturnReached", "stopping.targetReturn is reached.")
    final = report.ledger_status(Ledger(produced=3, trained=3))
    snapshot = snapshot_of(results[-1]).ended(ending, final)
    document = document_of(snapshot)
    assert (document["outcome"], document["reason"]) == ("Complete", "TargetReturnReached")
    assert document["ledger"]["trained"] == 3
    assert document["alignment"]["cosine"] is not None


def test_training_status_takes_the_evaluation() -> None:
    progress = Progress(Stopping(policyVersions=10), lambda: 0.0)
    progress.evaluated(EvaluationScore(5, 321.0, 20))
    progress.trained(steps=64, version=5, returns=[100.0])
    status = report.training_status(progress)
    assert (status.evaluation_return, status.episode_return) == (321.0, 100.0)
    assert status.progress == 0.5


def test_metrics_count_outcomes_and_keep_absent_gauges(results: list[UpdateResult]) -> None:
    metrics = LearnerMetrics()
    metrics.observe(results[0], steps=64)
    value = metrics.registry.get_sample_value
    assert math.isnan(value("asyncrl_learner_alignment_cosine") or 0.0)
    for result in results[1:]:
        metrics.observe(result, steps=64)
    assert value("asyncrl_learner_environment_steps_total") == 64 * len(results)
    outcomes = {result.outcome for result in results}
    counted = {o: value("asyncrl_learner_updates_total", {"outcome": o}) for o in outcomes}
    assert sum(count or 0 for count in counted.values()) == len(results)
    assert value("asyncrl_learner_alignment_cosine") == results[-1].alignment.cosine
    metrics.judged("Watch")
    shown = {
        v: value("asyncrl_learner_stability_verdict", {"verdict": v}) for v in ("Healthy", "Watch")
    }
    assert shown == {"Healthy": 0.0, "Watch": 1.0}
