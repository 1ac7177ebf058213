"""Exact staleness in one process: the learner's own step and the actors' own rollouts, no wires.

The run that `staleness.inject: s` gives in the real process layout, to the bit (a test compares
them), without the start-up of four processes: studies of many seeds run here. There are no
checkpoints here, and each of them restarts the episodes there: equal are runs without
(`checkpoint.intervalVersions: null`, or an interval that is not reached).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from asyncrl_api.spec import AsyncRLJob
from asyncrl_worker.actor.rollout import Rollout
from asyncrl_worker.environments.factory import describe, make_vector_environment
from asyncrl_worker.fragment import Fragment
from asyncrl_worker.learner.batch import collate
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep, UpdateResult
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import PolicyLayout


@dataclass(frozen=True)
class Update:
    """One update and where the run stood after it."""

    result: UpdateResult
    environment_steps: int
    episode_return: float | None
    seconds: float


class SingleProcess:
    """A run of `job` with exactly `staleness.inject` versions of lag (0 where it is null)."""

    def __init__(self, job: AsyncRLJob) -> None:
        spec = job.spec
        gymnasium = spec.workload.gymnasium
        assert gymnasium is not None
        self._spec = spec
        self._layout = PolicyLayout.from_spec(describe(spec.workload), spec.network)
        self.step = LearnerStep(spec, self._layout, Ranks())
        self._lag = spec.staleness.inject or 0
        self._policies: deque[InferencePolicy] = deque(maxlen=self._lag + 1)
        self._rollouts = [
            Rollout(
                make_vector_environment(spec.workload, environments=gymnasium.environments),
                spec.algorithm.fragment_length,
                np.random.default_rng(),
            )
            for _ in range(spec.actors.replicas)
        ]
        for index, rollout in enumerate(self._rollouts):
            rollout.reset([spec.seed, index])
        self._turn = 0
        self._pending: deque[list[Fragment]] = deque()

    def updates(self) -> Iterator[Update]:
        """Train until `stopping.environmentSteps` or `stopping.policyVersions`."""
        stopping = self._spec.stopping
        pending = self._pending
        returns: deque[float] = deque(maxlen=100)
        steps, started = 0, time.perf_counter()
        self._remember()
        for _ in range(self._lag + 1):
            pending.append(self._batch(self._policies[-1]))
        while True:
            fragments = pending.popleft()
            for fragment in fragments:
                returns.extend(fragment.episode_returns.tolist())
                steps += fragment.environment_steps
            limit = stopping.environment_steps or stopping.policy_versions
            done = steps if stopping.environment_steps else self.step.version
            result = self.step.update(collate(fragments), progress=min(1.0, done / (limit or 1)))
            mean = fmean(returns) if returns else None
            yield Update(result, steps, mean, time.perf_counter() - started)
            if stopping.environment_steps and steps >= stopping.environment_steps:
                return
            if stopping.policy_versions and self.step.version >= stopping.policy_versions:
                return
            if result.outcome == "trained":
                self._remember()
                pending.append(self._batch(self._policies[-1]))
            else:  # the same version again, with data as old as the consumed batch's
                pending.appendleft(self._batch(self._policies[0]))

    def fall_behind(self, lag: int) -> None:
        """From now on `lag` versions of lag; between two updates, and never less than before.

        It grows by one with every version, as where an actor that has come to a halt makes no
        newer data: the batches until then are all of the version before the newest.
        """
        if lag < self._lag:
            raise ValueError(f"a lag of {lag} is less than {self._lag}")
        newest = self._policies[-1]
        self._policies = deque(self._policies, maxlen=lag + 1)
        self._pending.extend(self._batch(newest) for _ in range(lag - self._lag))
        self._lag = lag

    def newest_policy(self) -> InferencePolicy:
        """A copy of the present policy, as actors get it."""
        weights = {name: tensor.numpy().copy() for name, tensor in self.step.weights().items()}
        return InferencePolicy(self._layout, weights, self.step.version)

    def _remember(self) -> None:
        self._policies.append(self.newest_policy())

    def _batch(self, policy: InferencePolicy) -> list[Fragment]:
        fragments = []
        for _ in range(self._spec.algorithm.fragments_per_batch):
            rollout = self._rollouts[self._turn % len(self._rollouts)]
            fragments.append(rollout.collect(policy, policy.version))
            self._turn += 1
        return fragments
