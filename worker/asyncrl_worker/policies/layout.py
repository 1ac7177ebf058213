"""The form of a policy: enough to know its weights by name and shape, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from asyncrl_worker.environments.spaces import ActionSpace, Continuous, EnvironmentDescription

if TYPE_CHECKING:
    from asyncrl_api.algorithm import Network

Activation = Literal["tanh", "relu", "gelu", "silu"]

# Normalised observations are clipped to this, in standard deviations (VecNormalize of OpenAI
# baselines).
OBSERVATION_LIMIT = 10.0


class MalformedWeights(ValueError):
    """Weights that do not fit the policy: one line naming the tensor and what is wrong with it."""


@dataclass(frozen=True)
class PolicyLayout:
    """A perceptron: observation -> hidden layers -> logits (discrete) or means (continuous)."""

    observation_size: int
    action: ActionSpace
    hidden_sizes: tuple[int, ...]
    activation: Activation
    initial_log_std: float = 0.0

    @classmethod
    def from_spec(cls, description: EnvironmentDescription, network: Network) -> PolicyLayout:
        """The policy that `spec.network` asks for in this environment."""
        return cls(
            observation_size=description.observation_size,
            action=description.action,
            hidden_sizes=tuple(network.hidden_sizes),
            activation=network.activation,
            initial_log_std=network.initial_log_std,
        )

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Widths from the observation to the outputs; consecutive pairs are the linear layers."""
        return (self.observation_size, *self.hidden_sizes, self.action.outputs)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of everything an actor needs; all are float32.

        `policy.<i>.weight` [out, in] and `policy.<i>.bias` [out] per linear layer, `policy.log_std`
        [A] for continuous actions, `normalizer.mean` [D] and `normalizer.scale` [D].
        """
        shapes: dict[str, tuple[int, ...]] = {}
        sizes = self.layer_sizes
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            shapes[f"policy.{i}.weight"] = (outputs, inputs)
            shapes[f"policy.{i}.bias"] = (outputs,)
        if isinstance(self.action, Continuous):
            shapes["policy.log_std"] = (self.action.size,)
        shapes["normalizer.mean"] = (self.observation_size,)
        shapes["normalizer.scale"] = (self.observation_size,)
        return shapes

    @staticmethod
    def normalizes(tensors: Mapping[str, NDArray[Any]]) -> bool:
        """Whether a policy of these weights sees clip((observation - mean) * scale, -10, 10).

        With mean 0 and scale 1 it sees the observation as it is: no normaliser, so no clipping.
        """
        mean, scale = tensors["normalizer.mean"], tensors["normalizer.scale"]
        return bool(mean.any() or (scale != 1.0).any())

    def check_weights(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Refuse tensors that are missing, unknown, of another shape or dtype, or not finite.

        Raises:
            MalformedWeights: names the first tensor that is wrong.
        """
        shapes = self.weight_shapes()
        if set(tensors) != set(shapes):
            missing = sorted(set(shapes) - set(tensors))
            unknown = sorted(set(tensors) - set(shapes))
            raise MalformedWeights(f"weights: missing tensors {missing}, unknown tensors {unknown}")
        for name, shape in shapes.items():
            tensor = tensors[name]
            if tensor.dtype != np.float32 or tensor.shape != shape:
                raise MalformedWeights(
                    f"{name}: {tensor.dtype} {list(tensor.shape)}, expected float32 {list(shape)}"
                )
            if not np.isfinite(tensor).all():
                raise MalformedWeights(f"{name}: not finite")
