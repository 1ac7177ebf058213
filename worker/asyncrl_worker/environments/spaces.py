"""What a policy must know of an environment: size of its observations, kind of its actions."""

from __future__ import annotations

from dataclasses import dataclass

from asyncrl_worker.protocol.messages import Schema


@dataclass(frozen=True)
class Discrete:
    """One of `n` actions, numbered 0..n-1 in the whole worker.

    `start` is the number that the environment itself gives to action 0 (gymnasium.spaces.Discrete);
    it is added only where an action is handed to the environment.
    """

    n: int
    start: int = 0

    @property
    def outputs(self) -> int:
        """Outputs of a policy's last layer: one logit per action."""
        return self.n


@dataclass(frozen=True)
class Continuous:
    """A vector of `size` real numbers, each within its `low` and `high` (infinite: unbounded).

    Policies sample from an unbounded Gaussian. Fragments hold that unclipped sample, which is what
    the log-probability belongs to; only the environment receives it clipped to the bounds. So the
    clipping is part of the environment, as in CleanRL and Stable-Baselines3.
    """

    size: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def outputs(self) -> int:
        """Outputs of a policy's last layer: one mean per component."""
        return self.size


ActionSpace = Discrete | Continuous


@dataclass(frozen=True)
class EnvironmentDescription:
    """Observations of `observation_shape`, flattened to `observation_size` float32 numbers."""

    observation_size: int
    observation_shape: tuple[int, ...]
    action: ActionSpace

    @property
    def schema(self) -> Schema:
        """As the roles tell it each other."""
        discrete = isinstance(self.action, Discrete)
        return Schema(
            observation_size=self.observation_size,
            action_kind="discrete" if discrete else "continuous",
            action_size=self.action.outputs,
        )
