"""The networks that the learner trains: separate policy and value perceptrons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from asyncrl_worker.environments.spaces import Continuous
from asyncrl_worker.policies.layout import Activation, PolicyLayout

# Andrychowicz et al. 2021, "What Matters for On-Policy Deep Actor-Critic Methods?", 3.2: a policy
# head 100 times smaller than the other layers starts nearly uniform, and learns faster.
HIDDEN_GAIN = math.sqrt(2.0)
POLICY_GAIN = 0.01
VALUE_GAIN = 1.0

LOG_2_PI = math.log(2.0 * math.pi)


class Distribution(Protocol):
    """Of actions, for a batch of observations of any leading shape [...]."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """[...] float32, in nats; differentiable."""
        ...

    def entropy(self) -> Tensor:
        """[...] float32, in nats; differentiable."""
        ...


@dataclass(frozen=True)
class Categorical:
    """`log_probabilities` [..., n], normalised.

    Written out, as torch.distributions costs more than a small network.
    """

    log_probabilities: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """`actions` [...] int64 -> [...]."""
        return self.log_probabilities.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """[...], between 0 and log n."""
        return -(self.log_probabilities.exp() * self.log_probabilities).sum(-1)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent components: `mean` [..., A], `log_std` [A]."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """`actions` [..., A], unclipped -> [...]."""
        standard = (actions - self.mean) * torch.exp(-self.log_std)
        constant = self.log_std.sum() + 0.5 * LOG_2_PI * self.log_std.numel()
        return -0.5 * standard.square().sum(-1) - constant

    def entropy(self) -> Tensor:
        """[...]; the same everywhere, as the spread does not depend on the observation."""
        entropy = self.log_std.sum() + 0.5 * (1.0 + LOG_2_PI) * self.log_std.numel()
        return entropy.expand(self.mean.shape[:-1])


class Linear(nn.Linear):
    """A linear layer that leaves its weights to its owner.

    The default initialisation would draw from torch's global generator, and
    torch.nn.utils.skip_init imports a second of symbolic algebra to avoid that.
    """

    def reset_parameters(self) -> None:
        """Nothing yet."""


class Perceptron(nn.Module):
    """Linear layers with an activation between them; orthogonal weights, zero biases."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: Activation,
        *,
        head_gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.activation = activation
        pairs = list(pairwise(sizes))
        self.layers = nn.ModuleList(Linear(inputs, outputs) for inputs, outputs in pairs)
        for i, layer in enumerate(self.linear_layers()):
            gain = head_gain if i == len(pairs) - 1 else HIDDEN_GAIN
            nn.init.orthogonal_(layer.weight, gain, generator=generator)
            nn.init.zeros_(layer.bias)

    def linear_layers(self) -> Iterator[nn.Linear]:
        """From the observation to the outputs."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            yield layer

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            inputs = layer(inputs)
            if i != last:
                inputs = _activate(inputs, self.activation)
        return inputs


def _activate(inputs: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "tanh":
            return torch.tanh(inputs)
        case "relu":
            return functional.relu(inputs)
        case "gelu":
            # The form without erf, which numpy on the actors does not have.
            return functional.gelu(inputs, approximate="tanh")
        case "silu":
            return functional.silu(inputs)


class PolicyNetwork(nn.Module):
    """Normalised observation -> distribution of actions.

    `generator` (CPU) decides the initial weights; torch's global generator is not touched.
    """

    def __init__(self, layout: PolicyLayout, *, generator: torch.Generator) -> None:
        super().__init__()
        self.layout = layout
        self.body = Perceptron(
            layout.layer_sizes, layout.activation, head_gain=POLICY_GAIN, generator=generator
        )
        self.log_std: nn.Parameter | None = None
        if isinstance(layout.action, Continuous):
            self.log_std = nn.Parameter(torch.full((layout.action.size,), layout.initial_log_std))

    def forward(self, observations: Tensor) -> Tensor:
        """[..., D] normalised -> [..., n] logits (discrete) or [..., A] means (continuous)."""
        outputs: Tensor = self.body(observations)
        return outputs

    def distribution(self, observations: Tensor) -> Categorical | DiagonalGaussian:
        """Of actions, for normalised observations [..., D]."""
        outputs: Tensor = self(observations)
        if self.log_std is None:
            return Categorical(functional.log_softmax(outputs, dim=-1))
        return DiagonalGaussian(outputs, self.log_std)

    @torch.no_grad()
    def to_weights(self) -> dict[str, Tensor]:
        """Copies on the CPU of all that an actor needs, named as in PolicyLayout.weight_shapes;
        with a normaliser that changes nothing."""
        weights: dict[str, Tensor] = {}
        for i, layer in enumerate(self.body.linear_layers()):
            weights[f"policy.{i}.weight"] = layer.weight
            weights[f"policy.{i}.bias"] = layer.bias
        if self.log_std is not None:
            weights["policy.log_std"] = self.log_std
        size = self.layout.observation_size
        weights["normalizer.mean"] = torch.zeros(size)
        weights["normalizer.scale"] = torch.ones(size)
        return {
            name: tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)
            for name, tensor in weights.items()
        }


class ValueNetwork(nn.Module):
    """Normalised observation -> discounted return; layers as the policy's, none shared."""

    def __init__(self, layout: PolicyLayout, *, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (layout.observation_size, *layout.hidden_sizes, 1)
        self.body = Perceptron(sizes, layout.activation, head_gain=VALUE_GAIN, generator=generator)

    def forward(self, observations: Tensor) -> Tensor:
        """[..., D] normalised -> [...]."""
        values: Tensor = self.body(observations)
        return values.squeeze(-1)
