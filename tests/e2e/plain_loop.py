"""Synchronous training as a plain loop in one process: what the real layout must equal to the bit.

`train` is the loop: collect a batch with the present weights, update, repeat. The update is either
`PlainUpdate`, written out here from the loss functions and torch's own Adam without any of the
project's layers, or the learner's own step with all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asyncrl_api.spec import AsyncRLJob, AsyncRLJobSpec
from asyncrl_worker.actor.rollout import Rollout
from asyncrl_worker.environments.factory import describe, make_vector_environment
from asyncrl_worker.learner.batch import Batch, collate
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.step import LearnerStep
from asyncrl_worker.losses.policy import clipped_surrogate
from asyncrl_worker.losses.targets import vtrace
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.policies.network import PolicyNetwork, ValueNetwork
from asyncrl_worker.staleness import reset_seed

Losses = tuple[float, float]
"""Policy and value loss of an update."""

NO_LAYERS = {
    "algorithm": {
        "normalizeAdvantages": False,
        "normalizeObservations": False,
        "normalizeValues": False,
    },
    "alignment": {"mode": "off"},
    "compensation": {"momentumLaw": False, "klFeedback": {"mode": "off"}},
}
"""The parts of a spec that switch off everything that `PlainUpdate` does not have."""


class Update(Protocol):
    """One batch in, the losses out, and the weights for the next batch."""

    @property
    def version(self) -> int:
        """Updates that changed the policy."""

    def __call__(self, batch: Batch) -> Losses:
        """Train on one batch."""

    def weights(self) -> dict[str, Tensor]:
        """What actors need."""

    def parameters(self) -> dict[str, Tensor]:
        """Policy and value network, named as in a checkpoint."""


class PlainUpdate:
    """V-trace targets, a PPO clip, an entropy bonus, a norm clip and Adam."""

    def __init__(self, spec: AsyncRLJobSpec, layout: PolicyLayout) -> None:
        generator = torch.Generator().manual_seed(spec.seed)
        self.version = 0
        self._spec = spec
        self._size = layout.observation_size
        self.policy = PolicyNetwork(layout, generator=generator)
        self.value = ValueNetwork(layout, generator=generator)
        rates = spec.optimizer.learning_rate, spec.optimizer.value_learning_rate
        settings = {
            "betas": (spec.optimizer.beta1, spec.optimizer.beta2),
            "eps": spec.optimizer.epsilon,
            "fused": True,
        }
        self._policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=rates[0], **settings)
        self._value_optimizer = torch.optim.Adam(self.value.parameters(), lr=rates[1], **settings)

    def __call__(self, batch: Batch) -> Losses:
        algorithm, limit = self._spec.algorithm, self._spec.optimizer.max_gradient_norm
        assert limit is not None
        valid = batch.valid.float()
        distribution = self.policy.distribution(batch.observations[:-1])
        log_ratios = distribution.log_prob(batch.actions) - batch.log_probabilities
        values = self.value(batch.observations)
        targets = vtrace(
            log_ratios=log_ratios.detach(),
            rewards=batch.rewards,
            discounts=algorithm.discount * (~batch.terminated).float(),
            continues=(~batch.ended).float(),
            values=values.detach(),
            rho_bar=algorithm.rho_bar,
            c_bar=algorithm.c_bar,
        )
        surrogate = clipped_surrogate(log_ratios, targets.advantages, clip=algorithm.clip)
        policy_losses = surrogate - algorithm.entropy_coefficient * distribution.entropy()
        policy_loss = (policy_losses * valid).sum() / valid.sum()
        errors = values[:-1] - targets.values
        value_loss = 0.5 * (errors.square() * valid).sum() / valid.sum()
        for network, optimizer, loss in (
            (self.policy, self._policy_optimizer, policy_loss),
            (self.value, self._value_optimizer, value_loss),
        ):
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
            optimizer.step()
        self.version += 1
        return policy_loss.item(), value_loss.item()

    def weights(self) -> dict[str, Tensor]:
        unnormalised = {
            "normalizer.mean": torch.zeros(self._size),
            "normalizer.scale": torch.ones(self._size),
        }
        return self.policy.to_weights() | unnormalised

    def parameters(self) -> dict[str, Tensor]:
        return network_tensors(self.policy, self.value)


class LayeredUpdate:
    """The learner's own step, with every layer that the manifest switches on."""

    def __init__(self, spec: AsyncRLJobSpec, layout: PolicyLayout) -> None:
        self.step = LearnerStep(spec, layout, Ranks())

    @property
    def version(self) -> int:
        return self.step.version

    def __call__(self, batch: Batch) -> Losses:
        result = self.step.update(batch, progress=0.0)
        return result.policy_loss, result.value_loss

    def weights(self) -> dict[str, Tensor]:
        return self.step.weights()

    def parameters(self) -> dict[str, Tensor]:
        return network_tensors(self.step.policy, self.step.value)


def train(
    job: AsyncRLJob,
    update_type: type[PlainUpdate | LayeredUpdate],
    *,
    resets: Collection[int] = (),
) -> tuple[Update, list[Losses]]:
    """Train to `stopping.policyVersions`, every actor's rollouts in turn, in this process.

    `resets`: versions at which the environments begin anew, as at a checkpoint.
    """
    spec = job.spec
    gymnasium, algorithm, versions = (
        spec.workload.gymnasium,
        spec.algorithm,
        spec.stopping.policy_versions,
    )
    assert gymnasium is not None
    assert versions is not None
    layout = PolicyLayout.from_spec(describe(spec.workload), spec.network)
    rollouts = []
    for index in range(spec.actors.replicas):
        environment = make_vector_environment(spec.workload, environments=gymnasium.environments)
        rollout = Rollout(environment, algorithm.fragment_length, np.random.default_rng())
        rollout.reset([spec.seed, index])
        rollouts.append(rollout)
    update = update_type(spec, layout)
    losses = []
    size = algorithm.fragments_per_batch
    last_reset = 0
    while (version := update.version) < versions:
        if version in resets and version != last_reset:
            last_reset = version
            for index, rollout in enumerate(rollouts):
                rollout.reset([reset_seed(spec.seed, version), index])
        arrays = {name: tensor.numpy().copy() for name, tensor in update.weights().items()}
        policy = InferencePolicy(layout, arrays, version)
        turns = range(version * size, (version + 1) * size)
        batch = [rollouts[turn % len(rollouts)].collect(policy, version) for turn in turns]
        losses.append(update(collate(batch)))
    return update, losses


def network_tensors(policy: torch.nn.Module, value: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters of both networks, named as in a checkpoint."""
    return {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()} | {
        f"value.{name}": tensor for name, tensor in value.state_dict().items()
    }
