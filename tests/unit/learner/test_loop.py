"""The training loop in one process, with real steps, against a server that is a script."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.learner.streams import ENVIRONMENTS, make_spec, make_step

from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.actor.rollout import Rollout
from asyncrl_worker.admission import staleness_policy
from asyncrl_worker.environments.factory import describe, make_vector_environment
from asyncrl_worker.learner.checkpoint import CheckpointFolder
from asyncrl_worker.learner.exchange import LockstepExchange
from asyncrl_worker.learner.followers import Followers
from asyncrl_worker.learner.loop import TrainingLoop
from asyncrl_worker.learner.memory import RunMemory
from asyncrl_worker.learner.metrics import LearnerMetrics
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.protocol.learner_client import BatchMessage
from asyncrl_worker.protocol.messages import Evaluation
from asyncrl_worker.protocol.tensors import encode
from asyncrl_worker.role import Stop
from asyncrl_worker.staleness import Ledger
from asyncrl_worker.telemetry import Telemetry, read_rows

SKIP_ALL_BUT_THE_FIRST = {
    "alignment.calibration": "fixed",
    "alignment.low": 0.0,
    "alignment.high": 1e-6,
    "alignment.maxSkips": 1000,
}


class Script:
    """Stands where the client does: gives the same batch again and again, `batches` times."""

    def __init__(self, fragments: list[bytes], *, batches: int) -> None:
        self.outcomes: list[str] = []
        self.evaluates = False
        self.ledger = Ledger()
        self._fragments = fragments
        self._batches = batches

    def next_batch(self, timeout: float) -> BatchMessage:
        number = len(self.outcomes) + 1
        assert number <= self._batches, "the run should be over"
        return BatchMessage(number, 0, self._fragments, [], self.ledger)

    def publish(self, version: int, blob: bytes, **options: Any) -> None:
        pass

    def consumed(self, batch_id: int, outcome: str) -> None:
        self.outcomes.append(outcome)

    def evaluations(self, timeout: float) -> list[Evaluation]:
        return [Evaluation(0, len(self.outcomes), (7.0, 9.0), (7, 9))] if self.evaluates else []

    def finish(self) -> Ledger:
        return self.ledger


def fragments_of(spec: AsyncRLJobSpec, step: LearnerStep) -> tuple[list[bytes], int]:
    """One batch by the first version, and its environment steps."""
    weights = {name: tensor.numpy().copy() for name, tensor in step.weights().items()}
    policy = InferencePolicy(step.layout, weights)
    environment = make_vector_environment(spec.workload, environments=ENVIRONMENTS)
    rollout = Rollout(environment, spec.algorithm.fragment_length, np.random.default_rng(0))
    collected = [
        rollout.collect(policy, policy.version) for _ in range(spec.algorithm.fragments_per_batch)
    ]
    steps = sum(fragment.environment_steps for fragment in collected)
    return [encode(fragment.to_tensors()) for fragment in collected], steps


def loop_of(
    spec: AsyncRLJobSpec,
    step: LearnerStep,
    client: Script,
    folder: Path,
    telemetry: Telemetry,
    *,
    metrics: LearnerMetrics | None = None,
    memory: RunMemory | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingLoop:
    return TrainingLoop(
        spec,
        describe(spec.workload),
        step=step,
        memory=memory or RunMemory.of(spec, step),
        client=client,  # type: ignore[arg-type]
        exchange=LockstepExchange(client),  # type: ignore[arg-type]
        followers=Followers(Ranks()),
        policy=staleness_policy(spec),
        checkpoints=CheckpointFolder(folder / "checkpoints", keep=1),
        telemetry=telemetry,
        metrics=metrics or LearnerMetrics(),
        stop=Stop(),
        attempt=0,
        clock=clock,
    )


def test_the_linear_schedule_ends_with_the_run_although_updates_are_skipped(
    tmp_path: Path,
) -> None:
    """The run ends by its environment steps, of which a skipped batch takes its share."""
    updates = 5
    fragments, steps = fragments_of(make_spec(), make_step(make_spec()))
    settings = {
        "optimizer.schedule": "linear",
        "evaluation.intervalVersions": None,
        "stopping.environmentSteps": updates * steps,
    }
    spec = make_spec(SKIP_ALL_BUT_THE_FIRST | settings)
    client, step = Script(fragments, batches=updates), make_step(spec)
    with Telemetry(tmp_path) as telemetry:
        ending = loop_of(spec, step, client, tmp_path, telemetry).run()
    assert ending is not None and ending.reason == "EnvironmentStepsReached"
    assert client.outcomes == ["trained"] + ["skipped"] * (updates - 1)
    rates = [row["learningRate"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([5e-3 * (1 - update / updates) for update in range(updates)])


def gauges(metrics: LearnerMetrics) -> dict[str, float]:
    """Every gauge of a learner, by its name."""
    return {
        sample.name: sample.value
        for family in metrics.registry.collect()
        if family.type == "gauge"
        for sample in family.samples
    }


def test_after_a_trained_run_no_gauge_is_nan_and_a_resumed_one_shows_what_it_knows(
    tmp_path: Path,
) -> None:
    updates = 12
    settings = {
        "alignment.calibrationUpdates": 8,
        "staleness.max": 64,
        "evaluation.intervalVersions": 4,
        "stopping.policyVersions": updates,
    }
    spec = make_spec(settings)
    fragments, _ = fragments_of(spec, make_step(spec))
    client, step, metrics = Script(fragments, batches=updates), make_step(spec), LearnerMetrics()
    client.evaluates = True
    step.split_half.smoothed = 0.9  # the halves of so small a batch do not agree
    with Telemetry(tmp_path) as telemetry:
        loop = loop_of(spec, step, client, tmp_path, telemetry, metrics=metrics)
        assert loop.run() is not None
        found = gauges(metrics)
        assert [name for name, value in found.items() if math.isnan(value)] == []
        training = loop.snapshot.training
        known = {
            "asyncrl_learner_policy_version": updates,
            "asyncrl_learner_episode_return": training.episode_return,
            "asyncrl_learner_evaluation_return": 8.0,
        }
        assert known.items() <= found.items()

        resumed, folder = (
            RunMemory.of(spec, make_step(spec)),
            CheckpointFolder(tmp_path / "checkpoints", keep=1),
        )
        checkpoint = folder.load_newest()
        assert checkpoint is not None
        resumed.restore(checkpoint, tmp_path)
        metrics = LearnerMetrics()
        loop_of(spec, resumed.step, client, tmp_path, telemetry, metrics=metrics, memory=resumed)
    assert known.items() <= gauges(metrics).items()


@pytest.mark.parametrize(("mode", "counted"), [("off", 0.0), ("control", 2.0)])
def test_a_regime_is_counted_only_where_there_is_a_cosine(
    mode: str, counted: float, tmp_path: Path
) -> None:
    """The first update has nothing to compare with, and with mode off none has."""
    settings = {"alignment.mode": mode, "staleness.max": 64, "evaluation.intervalVersions": None}
    spec = make_spec(settings | {"stopping.policyVersions": 3})
    fragments, _ = fragments_of(spec, make_step(spec))
    metrics = LearnerMetrics()
    with Telemetry(tmp_path) as telemetry:
        client, step = Script(fragments, batches=3), make_step(spec)
        loop_of(spec, step, client, tmp_path, telemetry, metrics=metrics).run()
    samples = [sample for family in metrics.regimes.collect() for sample in family.samples]
    assert sum(s.value for s in samples if s.name.endswith("_total")) == counted


def last_state(folder: Path) -> dict[str, Any]:
    checkpoint = CheckpointFolder(folder / "checkpoints", keep=1).load_newest()
    assert checkpoint is not None
    return checkpoint.state


@pytest.mark.parametrize(
    ("staleness", "updates"), [({"staleness.max": 4}, 5), ({"staleness.inject": 4}, 1)]
)
def test_the_last_checkpoint_holds_the_batches_that_made_no_version(
    staleness: dict[str, int], updates: int, tmp_path: Path
) -> None:
    """Except with an exact lag, where the one before is what a run repeats to the bit."""
    fragments, steps = fragments_of(make_spec(), make_step(make_spec()))
    settings = {
        "checkpoint.intervalVersions": 1,
        "evaluation.intervalVersions": None,
        "stopping.environmentSteps": 5 * steps,
    }
    spec = make_spec(SKIP_ALL_BUT_THE_FIRST | settings | staleness)
    client, step = Script(fragments, batches=5), make_step(spec)
    with Telemetry(tmp_path) as telemetry:
        loop_of(spec, step, client, tmp_path, telemetry).run()
    assert client.outcomes == ["trained"] + ["skipped"] * 4
    assert last_state(tmp_path)["updates"] == updates


@pytest.mark.parametrize("staleness", [{"staleness.max": 4}, {"staleness.inject": 4}])
def test_the_last_checkpoint_holds_the_evaluation_of_its_version(
    staleness: dict[str, int], tmp_path: Path
) -> None:
    fragments, _ = fragments_of(make_spec(), make_step(make_spec()))
    settings = {
        "checkpoint.intervalVersions": 1,
        "evaluation.intervalVersions": 1,
        "stopping.policyVersions": 2,
    }
    spec = make_spec(settings | staleness)
    client, step = Script(fragments, batches=2), make_step(spec)
    client.evaluates = True
    with Telemetry(tmp_path) as telemetry:
        loop_of(spec, step, client, tmp_path, telemetry).run()
    assert last_state(tmp_path)["progress"]["evaluation"] == [2, 8.0, 2]


@pytest.mark.parametrize(("stall", "waits"), [(20, 10), (300, 30)])
def test_the_end_waits_for_its_evaluation_less_than_a_supervisor_waits_for_progress(
    stall: int, waits: float, tmp_path: Path
) -> None:
    class Slow(Script):
        now = 0.0

        def evaluations(self, timeout: float) -> list[Evaluation]:
            self.now += timeout
            return []

    fragments, steps = fragments_of(make_spec(), make_step(make_spec()))
    settings = {
        "evaluation.intervalVersions": 1,
        "runPolicy.stallTimeoutSeconds": stall,
        "stopping.environmentSteps": steps,
    }
    spec = make_spec(settings)
    client, step = Slow(fragments, batches=1), make_step(spec)
    with Telemetry(tmp_path) as telemetry:
        loop = loop_of(spec, step, client, tmp_path, telemetry, clock=lambda: client.now)
        ending = loop.run()
    assert ending is not None and ending.outcome == "Complete"
    assert client.now == waits
