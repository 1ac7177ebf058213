"""Real rollouts of CartPole or Pendulum for tests of the learner, without processes or wires."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.actor.rollout import Rollout
from asyncrl_worker.environments.factory import describe, make_vector_environment
from asyncrl_worker.learner.batch import Batch, collate
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep, UpdateResult
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import PolicyLayout

ENVIRONMENTS = 6
FRAGMENT_LENGTH = 12

PINNED: dict[str, Any] = {
    "algorithm.fragmentLength": FRAGMENT_LENGTH,
    "algorithm.fragmentsPerBatch": 2,
    "algorithm.discount": 0.99,
    "algorithm.gaeLambda": 0.95,
    "algorithm.traceLambda": 1.0,
    "algorithm.clip": 0.4,
    "algorithm.entropyCoefficient": 0.01,
    "algorithm.normalizeAdvantages": True,
    "algorithm.normalizeObservations": True,
    "algorithm.normalizeValues": True,
    "alignment.mode": "control",
    "alignment.calibration": "auto",
    "compensation.momentumLaw": True,
    "compensation.klFeedback.mode": "fixed",
    "compensation.klFeedback.coefficient": 0.1,
    "compensation.stepSize": "constant",
    "compensation.displacementProjection": 0.0,
    "network.hiddenSizes": [16, 16],
    "network.activation": "tanh",
    "optimizer.name": "adam",
    "optimizer.learningRate": 5e-3,
    "optimizer.valueLearningRate": 5e-3,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.99,
    "optimizer.maxGradientNorm": 0.5,
    "optimizer.schedule": "constant",
}
"""What the tests rest on, whatever the defaults become."""

BARE: dict[str, Any] = {
    "alignment.mode": "off",
    "compensation.momentumLaw": False,
    "compensation.klFeedback.mode": "off",
    "algorithm.normalizeObservations": False,
    "algorithm.normalizeValues": False,
}
"""Every layer switched off: what is left is an algorithm and two optimizers."""


def make_spec(
    settings: Mapping[str, Any] | None = None, *, environment: str = "CartPole-v1"
) -> AsyncRLJobSpec:
    """A small job; `settings` by dotted path, as `--set` takes them."""
    document: dict[str, Any] = {
        "workload": {"gymnasium": {"id": environment, "environments": ENVIRONMENTS}},
    }
    for path, value in (PINNED | dict(settings or {})).items():
        *parents, name = path.split(".")
        section = document
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return AsyncRLJobSpec.model_validate(document)


def make_step(spec: AsyncRLJobSpec, ranks: Ranks | None = None) -> LearnerStep:
    layout = PolicyLayout.from_spec(describe(spec.workload), spec.network)
    return LearnerStep(spec, layout, ranks or Ranks())


class Stream:
    """Batches of policies exactly `lag` versions old, as far as there are so many."""

    def __init__(self, spec: AsyncRLJobSpec, *, lag: int = 0) -> None:
        gymnasium = spec.workload.gymnasium
        assert gymnasium is not None
        self._layout = PolicyLayout.from_spec(describe(spec.workload), spec.network)
        self._policies: deque[InferencePolicy] = deque(maxlen=lag + 1)
        self._rollouts = [
            Rollout(
                make_vector_environment(spec.workload, environments=gymnasium.environments),
                spec.algorithm.fragment_length,
                np.random.default_rng([spec.seed, index]),
            )
            for index in range(spec.algorithm.fragments_per_batch)
        ]

    def next(self, weights: Mapping[str, Tensor], version: int) -> Batch:
        """The next batch for the learner at `version`."""
        if not self._policies or self._policies[-1].version != version:
            arrays = {name: tensor.numpy().copy() for name, tensor in weights.items()}
            self._policies.append(InferencePolicy(self._layout, arrays, version))
        policy = self._policies[0]
        return collate([rollout.collect(policy, policy.version) for rollout in self._rollouts])


def train(step: LearnerStep, stream: Stream, updates: int) -> list[UpdateResult]:
    return [step.update(stream.next(step.weights(), step.version)) for _ in range(updates)]


def record(spec: AsyncRLJobSpec, updates: int, *, lag: int) -> list[Batch]:
    """The batches of a run."""
    step, stream = make_step(spec), Stream(spec, lag=lag)
    batches = []
    for _ in range(updates):
        batches.append(stream.next(step.weights(), step.version))
        step.update(batches[-1])
    return batches


def snapshot(step: LearnerStep) -> dict[str, Tensor]:
    """Copies of everything that an update may change, by name."""
    state: dict[str, Tensor] = {}
    for name, module in (("policy", step.policy), ("value", step.value)):
        state |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimizer in (
        ("policy_optimizer", step.policy_optimizer),
        ("value_optimizer", step.value_optimizer),
    ):
        for index, values in optimizer.state_dict()["state"].items():
            state |= {f"{name}.{index}.{key}": torch.as_tensor(v) for key, v in values.items()}
    state |= {f"normalizer.{key}": tensor for key, tensor in step.normalizer.state().items()}
    state |= {f"displacement.{key}": tensor for key, tensor in step.displacement.state().items()}
    state["value_scale"] = torch.tensor(step.value_scale.state(), dtype=torch.float64)
    state["kl_coefficient"] = torch.tensor(step.kl_feedback.coefficient)
    state["split_half"] = torch.tensor(step.split_half.smoothed or math.nan)
    state["version"] = torch.tensor(step.version)
    return {name: tensor.clone() for name, tensor in state.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """First parts of the names of what differs, to the bit."""
    names = set(before) ^ set(after)
    names |= {n for n in set(before) & set(after) if not same(before[n], after[n])}
    return {name.partition(".")[0] for name in names}


def same(first: Tensor, second: Tensor) -> bool:
    return bool(torch.equal(first.nan_to_num(7e30), second.nan_to_num(7e30)))


def with_nan_reward(batch: Batch) -> Batch:
    rewards = batch.rewards.clone()
    rewards[3, 2] = math.nan
    return replace(batch, rewards=rewards)
