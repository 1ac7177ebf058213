"""Collects fragments: the policy acts, the environments answer, episodes are counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asyncrl_api.reasons import Reason
from asyncrl_worker.environments import faults
from asyncrl_worker.environments.spaces import Discrete
from asyncrl_worker.environments.vector import VectorEnvironment
from asyncrl_worker.fragment import Bool, Float32, Fragment
from asyncrl_worker.policies.inference import InferencePolicy


class RolloutInterrupted(Exception):
    """`Rollout.interrupt` was called; the fragment that was being collected is given up."""


class Rollout:
    """A stream of fragments of one vector environment; episodes go on from fragment to fragment.

    With one seed, one sequence of policies gives one sequence of fragments, to the bit.
    """

    def __init__(
        self, environment: VectorEnvironment, fragment_length: int, rng: np.random.Generator
    ) -> None:
        """`rng` draws the actions and, unless `reset` comes first, a seed for the environments."""
        self._environment = environment
        self._length = fragment_length
        self._rng = rng
        environments = environment.environments
        size = environment.description.observation_size
        self._observations = np.zeros((environments, size), dtype=np.float32)
        self._ended = np.zeros(environments, dtype=np.bool_)
        self._returns = np.zeros(environments, dtype=np.float64)
        self._lengths = np.zeros(environments, dtype=np.int64)
        self._started = False
        self._interrupted = False

    def interrupt(self) -> None:
        """Give up the present fragment and every later one at the next vector step; thread-safe."""
        self._interrupted = True

    def reset(self, seed: int | list[int]) -> None:
        """Begin new episodes everywhere and draw actions from a new stream, both decided by `seed`.

        Raises:
            EnvironmentFault: an environment raised or returned impossible values.
        """
        environments, actions = np.random.SeedSequence(seed).spawn(2)
        self._rng = np.random.default_rng(actions)
        self._restart(environments)

    def collect(self, policy: InferencePolicy, version: int) -> Fragment:
        """`fragment_length` vector steps with this policy.

        Raises:
            EnvironmentFault: an environment raised or returned impossible values.
            RolloutInterrupted: `interrupt` was called.
        """
        if not self._started:
            self._restart(np.random.SeedSequence(int(self._rng.integers(2**63))))
        length, environment, rng = self._length, self._environment, self._rng
        shape = (length, environment.environments)
        action = environment.description.action
        actions: NDArray[np.int64] | Float32
        if isinstance(action, Discrete):
            actions = np.empty(shape, dtype=np.int64)
        else:
            actions = np.empty((*shape, action.size), dtype=np.float32)
        observations = np.empty((length + 1, *self._observations.shape), dtype=np.float32)
        observations[0] = self._observations
        rewards = np.empty(shape, dtype=np.float32)
        terminated = np.empty(shape, dtype=np.bool_)
        truncated = np.empty(shape, dtype=np.bool_)
        log_probabilities = np.empty(shape, dtype=np.float32)
        first_step = environment.progress.step
        t = 0
        try:
            for t in range(length):
                if self._interrupted:
                    raise RolloutInterrupted
                actions[t], log_probabilities[t] = chosen, _ = policy.act(observations[t], rng)
                environment.step(
                    chosen, observations[t + 1], rewards[t], terminated[t], truncated[t]
                )
        except faults.EnvironmentFault:
            # It may raise because of an action that came of its own NaN: then name the cause.
            self._check_finite("an observation", observations[: t + 1], first_step)
            raise
        self._check_finite("an observation", observations, first_step)
        self._check_finite("a reward", rewards, first_step + 1)
        done = terminated | truncated
        valid = np.empty(shape, dtype=np.bool_)
        np.logical_not(self._ended, out=valid[0])
        np.logical_not(done[:-1], out=valid[1:])
        self._check_autoreset(done, valid)
        rewards[~valid] = 0.0
        returns, lengths = self._count_episodes(rewards, done, valid)
        self._observations[:] = observations[-1]
        self._ended[:] = done[-1]
        return Fragment(
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            log_probabilities=log_probabilities,
            policy_versions=np.full(length, version, dtype=np.int64),
            episode_returns=returns,
            episode_lengths=lengths,
        )

    def _restart(self, seeds: np.random.SeedSequence) -> None:
        self._environment.reset(seeds, self._observations)
        self._check_finite(
            "an observation", self._observations[np.newaxis], self._environment.progress.step
        )
        self._ended[:] = False
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._started = True

    def _count_episodes(
        self, rewards: Float32, done: Bool, valid: Bool
    ) -> tuple[Float32, NDArray[np.int32]]:
        """Returns and lengths of the episodes that ended: by environment, then by time."""
        rewards_so_far = np.cumsum(rewards, axis=0, dtype=np.float64)
        rewards_so_far += self._returns
        steps_so_far = np.cumsum(valid, axis=0, dtype=np.int64)
        steps_so_far += self._lengths
        environments, times = np.nonzero(done.T)
        self._returns = rewards_so_far[-1].copy()
        self._lengths = steps_so_far[-1].copy()
        if environments.size == 0:
            return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32)
        rewards_at_end = rewards_so_far[times, environments]
        steps_at_end = steps_so_far[times, environments]
        # What the end before in the same environment had reached; the first one counts from 0.
        again = np.concatenate(([False], environments[1:] == environments[:-1]))
        returns = rewards_at_end - np.where(again, np.roll(rewards_at_end, 1), 0.0)
        lengths = steps_at_end - np.where(again, np.roll(steps_at_end, 1), 0)
        last = np.concatenate((~again[1:], [True]))
        self._returns[environments[last]] -= rewards_at_end[last]
        self._lengths[environments[last]] -= steps_at_end[last]
        return returns.astype(np.float32), lengths.astype(np.int32)

    def _check_finite(self, what: str, values: Float32, first_step: int) -> None:
        """`values` [steps, N, ...], the first of them at vector step `first_step`."""
        if np.isfinite(values).all():
            return
        step, environment = np.argwhere(~np.isfinite(values))[0][:2]
        where = f"at step {first_step + step} of environment {environment}"
        raise faults.not_finite(self._environment.name, where, what)

    def _check_autoreset(self, done: Bool, valid: Bool) -> None:
        if (done & ~valid).any():
            raise faults.EnvironmentFault(
                Reason.UNSUPPORTED_ENVIRONMENT,
                f"'{self._environment.name}' ended an episode in the step that should only have "
                "reset it, but its autoreset mode must be NEXT_STEP "
                "(gymnasium.vector.AutoresetMode); correct it, or use vectorization: sync",
            )
