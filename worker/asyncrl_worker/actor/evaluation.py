"""Measures a policy: whole greedy episodes, in environments of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asyncrl_worker.environments import faults
from asyncrl_worker.environments.vector import VectorEnvironment
from asyncrl_worker.policies.inference import InferencePolicy


@dataclass(frozen=True)
class EvaluationOutcome:
    """Undiscounted returns and lengths in steps, one per episode."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]


def evaluate(
    environment: VectorEnvironment,
    policy: InferencePolicy,
    *,
    episodes: int,
    seed: list[int],
    proceed: Callable[[], bool],
) -> EvaluationOutcome | None:
    """Run `episodes` whole episodes with the most probable actions.

    Every environment runs a number of episodes that is fixed beforehand. Taking the first ones to
    finish instead would prefer short episodes.

    Args:
        seed: decides the initial states.
        proceed: asked at every vector step; False gives up, and None is returned.

    Raises:
        EnvironmentFault: the environment raised or returned impossible values.
    """
    count = environment.environments
    quota = np.full(count, episodes // count)
    quota[: episodes % count] += 1
    observations = np.empty((count, environment.description.observation_size), dtype=np.float32)
    rewards = np.empty(count, dtype=np.float32)
    terminated = np.empty(count, dtype=np.bool_)
    truncated = np.empty(count, dtype=np.bool_)
    returns = np.zeros(count, dtype=np.float64)
    lengths = np.zeros(count, dtype=np.int64)
    ended = np.zeros(count, dtype=np.bool_)
    finished: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    environment.reset(np.random.SeedSequence(seed), observations)
    remaining = episodes
    while remaining > 0:
        if not proceed():
            return None
        if not np.isfinite(observations).all():
            raise _not_finite(environment, "an observation")
        actions = policy.act_greedy(observations)
        environment.step(actions, observations, rewards, terminated, truncated)
        rewards[ended] = 0.0
        if not np.isfinite(rewards).all():
            raise _not_finite(environment, "a reward")
        returns += rewards
        lengths += ~ended
        ended = terminated | truncated
        if not ended.any():
            continue
        for i in np.flatnonzero(ended):
            if len(finished[i]) < quota[i]:
                finished[i].append((float(returns[i]), int(lengths[i])))
                remaining -= 1
        returns[ended] = 0.0
        lengths[ended] = 0
    flat = [episode for of_one in finished for episode in of_one]
    return EvaluationOutcome(
        returns=tuple(value for value, _ in flat), lengths=tuple(length for _, length in flat)
    )


def _not_finite(environment: VectorEnvironment, what: str) -> faults.EnvironmentFault:
    where = f"at step {environment.progress.step} of an evaluation"
    return faults.not_finite(environment.name, where, what)
