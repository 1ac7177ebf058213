"""The unit of experience: a fixed number of vector steps of one actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyncrl_worker.environments.spaces import Discrete, EnvironmentDescription

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

# Rounding of a float32 log-softmax; a discrete log-probability above it is not one.
LOG_PROBABILITY_TOLERANCE = 1e-4


class MalformedFragment(ValueError):
    """A fragment that must not be trained on: one line with the tensor and what is wrong."""


@dataclass(frozen=True)
class Fragment:
    """T vector steps of N environments, time-major.

    Environments reset themselves as gymnasium's AutoresetMode.NEXT_STEP says: when step t ends an
    episode, `observations[t + 1]` is the final observation of that episode (the one to bootstrap
    from where it was truncated) and step t + 1 only resets: its action is ignored, its reward is 0,
    and `valid[t + 1]` is False. `valid[0]` is False where the fragment before ended with the end of
    an episode. So the next observation of step t is always `observations[t + 1]`, and no valid step
    crosses an episode's boundary.
    """

    observations: Float32  # [T + 1, N, D]
    actions: Int64 | Float32  # [T, N] int64 (discrete) or [T, N, A] float32 (continuous, unclipped)
    rewards: Float32  # [T, N]
    terminated: Bool  # [T, N]
    truncated: Bool  # [T, N]
    valid: Bool  # [T, N]
    log_probabilities: Float32  # [T, N] of the actions under the policy that chose them
    policy_versions: Int64  # [T] version of that policy
    episode_returns: Float32  # [E] undiscounted returns of the episodes that ended here
    episode_lengths: NDArray[np.int32]  # [E] their lengths in steps, resets not counted

    @property
    def environment_steps(self) -> int:
        """Steps that moved an environment; resets are not counted."""
        return int(np.count_nonzero(self.valid))

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, not copied, as they travel on the wire."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, NDArray[Any]],
        *,
        fragment_length: int,
        environments: int,
        description: EnvironmentDescription,
    ) -> Fragment:
        """A fragment of these arrays: names, dtypes, shapes, values and episode ends are checked.

        Args:
            tensors: arrays by name; they are not copied.
            fragment_length: T, in vector steps.
            environments: N, of one actor.
            description: gives the observation size and the kind of the actions.

        Raises:
            MalformedFragment: names the first tensor that is wrong.
        """
        steps = (fragment_length, environments)
        expected = _expected(steps, description)
        if set(tensors) != set(expected):
            missing = sorted(set(expected) - set(tensors))
            unknown = sorted(set(tensors) - set(expected))
            raise MalformedFragment(
                f"fragment: missing tensors {missing}, unknown tensors {unknown}"
            )
        for name, (dtype, shape) in expected.items():
            _check_form(name, tensors[name], dtype, shape)
        fragment = cls(**tensors)
        fragment._check_values(description)
        return fragment

    def _check_values(self, description: EnvironmentDescription) -> None:
        for name in ("observations", "rewards", "log_probabilities", "episode_returns", "actions"):
            if not np.isfinite(getattr(self, name)).all():
                raise MalformedFragment(f"{name}: not finite")
        action = description.action
        if isinstance(action, Discrete):
            if self.actions.size and not 0 <= self.actions.min() <= self.actions.max() < action.n:
                raise MalformedFragment(f"actions: outside 0..{action.n - 1}")
            if (self.log_probabilities > LOG_PROBABILITY_TOLERANCE).any():
                raise MalformedFragment("log_probabilities: above 0 for discrete actions")
        if (self.policy_versions < 0).any():
            raise MalformedFragment("policy_versions: negative")
        done = self.terminated | self.truncated
        if not np.array_equal(self.valid[1:], ~done[:-1]) or (done & ~self.valid).any():
            raise MalformedFragment(
                "valid: does not match the ends of episodes (NEXT_STEP autoreset)"
            )
        if self.rewards[~self.valid].any():
            raise MalformedFragment("rewards: not 0 where an environment was reset")
        episodes = np.count_nonzero(done)
        if not self.episode_returns.size == self.episode_lengths.size == episodes:
            raise MalformedFragment(
                f"episode_returns: {self.episode_returns.size} episodes, "
                f"episode_lengths: {self.episode_lengths.size}, but {episodes} ended"
            )
        if (self.episode_lengths < 1).any():
            raise MalformedFragment("episode_lengths: below 1")


Shape = tuple[int | None, ...]


def _expected(
    steps: tuple[int, int], description: EnvironmentDescription
) -> dict[str, tuple[type[np.generic], Shape]]:
    length, environments = steps
    action = description.action
    discrete = isinstance(action, Discrete)
    return {
        "observations": (np.float32, (length + 1, environments, description.observation_size)),
        "actions": (np.int64, steps) if discrete else (np.float32, (*steps, action.outputs)),
        "rewards": (np.float32, steps),
        "terminated": (np.bool_, steps),
        "truncated": (np.bool_, steps),
        "valid": (np.bool_, steps),
        "log_probabilities": (np.float32, steps),
        "policy_versions": (np.int64, (length,)),
        "episode_returns": (np.float32, (None,)),
        "episode_lengths": (np.int32, (None,)),
    }


def _check_form(name: str, array: NDArray[Any], dtype: type[np.generic], shape: Shape) -> None:
    if array.dtype != dtype:
        raise MalformedFragment(f"{name}: dtype {array.dtype}, expected {np.dtype(dtype)}")
    fits = len(array.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ["E" if want is None else want for want in shape]
        raise MalformedFragment(
            f"{name}: shape {list(array.shape)}, expected [{', '.join(map(str, wanted))}]"
        )
