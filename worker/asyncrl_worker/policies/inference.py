"""The policy as an actor runs it: numpy only, one forward per vector step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyncrl_worker.environments.spaces import Discrete
from asyncrl_worker.policies.layout import OBSERVATION_LIMIT, Activation, PolicyLayout

Float32 = NDArray[np.float32]
Actions = NDArray[np.int64] | NDArray[np.float32]

GELU_SCALE = math.sqrt(2.0 / math.pi)


class InferencePolicy:
    """One version of the policy, ready to act.

    Works on transposed batches [features, N]: weights are used as they are, and everything per
    environment runs over contiguous memory. Buffers are kept between calls; not thread-safe.
    """

    def __init__(
        self, layout: PolicyLayout, tensors: Mapping[str, NDArray[Any]], version: int = 0
    ) -> None:
        """The policy of these weights (names and shapes: PolicyLayout.weight_shapes).

        Raises:
            MalformedWeights: a tensor is missing, unknown, of a wrong form, or not finite.
        """
        layout.check_weights(tensors)
        self.layout = layout
        self.version = version
        layers = len(layout.layer_sizes) - 1
        self._weights = [tensors[f"policy.{i}.weight"] for i in range(layers)]
        self._biases = [tensors[f"policy.{i}.bias"][:, None] for i in range(layers)]
        self._mean = tensors["normalizer.mean"][:, None]
        self._scale = tensors["normalizer.scale"][:, None]
        self._normalize = layout.normalizes(tensors)
        self._activate = ACTIVATIONS[layout.activation]
        self._discrete = isinstance(layout.action, Discrete)
        if not self._discrete:
            log_std = tensors["policy.log_std"]
            self._std = np.exp(log_std)[:, None]
            self._inverse_std = np.exp(-log_std)[:, None]
            self._log_normalizer = np.float32(
                log_std.sum() + 0.5 * math.log(2.0 * math.pi) * log_std.size
            )
        self._buffers: list[Float32] = []
        self._columns: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def act(self, observations: Float32, rng: np.random.Generator) -> tuple[Actions, Float32]:
        """Sample an action for every environment.

        Args:
            observations: [N, D] float32, raw; they are normalised here.
            rng: the only source of randomness; the same number of draws at every call.

        Returns:
            actions [N] int64 from 0, or [N, A] float32 unclipped, and their log-probabilities [N]
            float32, in nats.
        """
        outputs = self._forward(observations)
        if self._discrete:
            return self._sample_discrete(outputs, rng)
        return self._sample_continuous(outputs, rng)

    def act_greedy(self, observations: Float32) -> Actions:
        """The most probable actions: [N] int64, or the means [N, A] float32."""
        outputs = self._forward(observations)
        if self._discrete:
            best: NDArray[np.int64] = np.argmax(outputs, axis=0)
            return best
        return np.ascontiguousarray(outputs.T)

    def _sample_discrete(
        self, logits: Float32, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], Float32]:
        # Inverse of the cumulative distribution, without normalising it: one uniform number each.
        logits -= np.maximum.reduce(logits, axis=0)
        cumulative = np.exp(logits)
        np.add.accumulate(cumulative, axis=0, out=cumulative)
        total = cumulative[-1]
        threshold = rng.random(total.size, dtype=np.float32)
        threshold *= total
        # The last row is not asked, so rounding can never lead past the last action.
        actions = np.add.reduce(cumulative[:-1] <= threshold, axis=0, dtype=np.int64)
        log_probabilities = logits[actions, self._columns]
        log_probabilities -= np.log(total)
        return actions, log_probabilities

    def _sample_continuous(
        self, means: Float32, rng: np.random.Generator
    ) -> tuple[Float32, Float32]:
        actions = rng.standard_normal(means.shape, dtype=np.float32)
        actions *= self._std
        actions += means
        # From the rounded action, not from the noise: the learner sees only the former.
        standard = actions - means
        standard *= self._inverse_std
        np.multiply(standard, standard, out=standard)
        log_probabilities = np.add.reduce(standard, axis=0)
        log_probabilities *= np.float32(-0.5)
        log_probabilities -= self._log_normalizer
        return np.ascontiguousarray(actions.T), log_probabilities

    def _forward(self, observations: Float32) -> Float32:
        """[N, D] -> [outputs, N], a buffer that the next call overwrites."""
        if self._columns.size != len(observations):
            self._allocate(len(observations))
        inputs = self._buffers[0]
        if self._normalize:
            np.subtract(observations.T, self._mean, out=inputs)
            np.multiply(inputs, self._scale, out=inputs)
            np.maximum(inputs, -OBSERVATION_LIMIT, out=inputs)
            np.minimum(inputs, OBSERVATION_LIMIT, out=inputs)
        else:
            np.copyto(inputs, observations.T)
        last = len(self._weights) - 1
        for i, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            outputs = self._buffers[i + 1]
            np.matmul(weight, inputs, out=outputs)
            np.add(outputs, bias, out=outputs)
            if i != last:
                self._activate(outputs)
            inputs = outputs
        return inputs

    def _allocate(self, environments: int) -> None:
        sizes = self.layout.layer_sizes
        self._buffers = [np.empty((size, environments), dtype=np.float32) for size in sizes]
        self._columns = np.arange(environments)


def _tanh(inputs: Float32) -> None:
    np.tanh(inputs, out=inputs)


def _relu(inputs: Float32) -> None:
    np.maximum(inputs, 0.0, out=inputs)


def _gelu(inputs: Float32) -> None:
    # The form without erf (torch: approximate="tanh"), as the learner's network.
    inner = inputs * inputs
    inner *= np.float32(0.044715)
    inner += np.float32(1.0)
    inner *= inputs
    inner *= np.float32(GELU_SCALE)
    np.tanh(inner, out=inner)
    inner += np.float32(1.0)
    inner *= np.float32(0.5)
    np.multiply(inputs, inner, out=inputs)


def _silu(inputs: Float32) -> None:
    # The logistic function by tanh, which cannot overflow.
    gate = inputs * np.float32(0.5)
    np.tanh(gate, out=gate)
    gate += np.float32(1.0)
    gate *= np.float32(0.5)
    np.multiply(inputs, gate, out=inputs)


ACTIVATIONS: dict[Activation, Callable[[Float32], None]] = {
    "tanh": _tanh,
    "relu": _relu,
    "gelu": _gelu,
    "silu": _silu,
}
