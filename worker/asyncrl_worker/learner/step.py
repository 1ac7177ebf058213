"""The learner's step: one batch in, at most one new version of the policy out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.alignment import AlignmentDecision, GradientAlignment
from asyncrl_worker.environments.spaces import Discrete
from asyncrl_worker.learner.batch import Batch
from asyncrl_worker.learner.compensation import (
    DisplacementProjection,
    KlFeedback,
    momentum,
    steer,
    step_size,
)
from asyncrl_worker.learner.measures import (
    ImportanceMeasures,
    SplitHalf,
    Staleness,
    measure_importance,
    measure_staleness,
)
from asyncrl_worker.learner.normalizer import Normalizer
from asyncrl_worker.learner.optimizer import alignment_config, build_optimizer
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.value_scale import ValueScale
from asyncrl_worker.losses.policy import (
    clipped_surrogate,
    decoupled_surrogate,
    kl_feedback,
    vtrace_policy_gradient,
)
from asyncrl_worker.losses.targets import Targets, gae, vtrace
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.policies.network import PolicyNetwork, ValueNetwork

Outcome = Literal["trained", "skipped", "non_finite"]

LOG_RATIO_LIMIT = 20.0
"""|log r| in the loss is limited to this, so that exp stays finite in float32."""

SPLIT_EVERY = 10
"""Updates between measurements of the split-half cosine; each is a backward pass of the policy."""

ADVANTAGE_EPSILON = 1e-8


@dataclass(frozen=True)
class UpdateResult:
    """Everything one update measured. Entropy in nats, losses as means over the valid steps.

    `gradient_norm` is of the parameters that alignment controls, before control and clipping; of
    the policy's where alignment is off. "skipped" leaves the policy, its optimizer and the
    normaliser alone (and the value network too with scope all); "non_finite" changes nothing.
    `relative_alignment` is absent with scope all: its halves are of the policy gradient alone.
    """

    outcome: Outcome
    version: int
    alignment: AlignmentDecision
    relative_alignment: float | None
    importance: ImportanceMeasures
    entropy_fraction: float | None
    staleness: Staleness
    policy_loss: float
    value_loss: float
    gradient_norm: float
    learning_rate: float
    momentum: float
    kl_coefficient: float


@dataclass(frozen=True)
class _Gradients:
    """What went with the gradients of one minibatch; losses over every rank."""

    policy_loss: float
    value_loss: float
    targets: Targets
    importance: ImportanceMeasures | None

    def finite(self, *norms: float) -> bool:
        """The losses too: clip and minimum turn the gradient of a NaN ratio into 0."""
        return all(math.isfinite(n) for n in (self.policy_loss, self.value_loss, *norms))


class LearnerStep:
    """Policy, value function, optimizers and every layer between a batch and the next version.

    `update` is the order of the layers on one screen; each can be switched alone in the manifest.
    """

    def __init__(self, spec: AsyncRLJobSpec, layout: PolicyLayout, ranks: Ranks) -> None:
        generator = torch.Generator().manual_seed(spec.seed)
        self.spec = spec
        self.layout = layout
        self.version = 0
        self.updates = 0
        self.policy = PolicyNetwork(layout, generator=generator)
        self.value = ValueNetwork(layout, generator=generator)
        self.normalizer = Normalizer(
            layout.observation_size, enabled=spec.algorithm.normalize_observations
        )
        self.value_scale = ValueScale(self.value, enabled=spec.algorithm.normalize_values)
        self.policy_parameters = list(self.policy.parameters())
        self.value_parameters = list(self.value.parameters())
        optimizer = spec.optimizer
        self.policy_optimizer = build_optimizer(optimizer, self.policy_parameters)
        self.value_optimizer = build_optimizer(optimizer, self.value_parameters)
        controlled = list(self.policy_parameters)
        if spec.alignment.scope == "all":
            controlled += self.value_parameters
        self.alignment = GradientAlignment(controlled, alignment_config(spec.alignment))
        compensation = spec.compensation
        self.kl_feedback = KlFeedback(
            compensation.kl_feedback.mode,
            coefficient=compensation.kl_feedback.coefficient,
            target=compensation.kl_feedback.target,
        )
        bound = spec.staleness.max if spec.staleness.inject is None else spec.staleness.inject
        self.displacement = DisplacementProjection(
            self.policy_parameters,
            fraction=compensation.displacement_projection,
            capacity=max(bound, 1),
        )
        self.split_half = SplitHalf()
        self._ranks = ranks

    def update(self, batch: Batch, *, progress: float = 0.0) -> UpdateResult:
        """Train on this rank's part of a batch; `progress` 0..1 drives the rates' schedule.

        What is measured is of the first minibatch of the first epoch, where alignment control
        decides about the whole batch: between minibatches of one batch the cosine says nothing of
        staleness, and it jumps where an epoch begins anew.
        """
        staleness = measure_staleness(batch, self.version, self._ranks)
        minibatches = self._minibatches(batch)

        # batch -> loss -> policy gradient and value gradient, apart
        first = self._differentiate(minibatches[0], measure=True)
        importance = first.importance
        assert importance is not None

        # policy gradient -> alignment -> norm clip -> optimizer -> displacement projection
        decision = self.alignment.step()
        policy_norm, value_norm = self._clip_norms()
        finite = decision.reason != "non-finite" and first.finite(policy_norm, value_norm)
        rate, beta1 = self._steer(decision, staleness.mean, importance, progress)
        if finite and (decision.apply or self.spec.alignment.scope == "policy"):
            self._step_value(first, minibatches[0])
        if finite and decision.apply:
            self.displacement.before()
            self.policy_optimizer.step()
            self._repeat(minibatches)
            self.displacement.after(staleness.mean)
            self.normalizer.update(batch.observations[:-1], batch.valid, self._ranks)
            self.version += 1
        if finite:
            self.kl_feedback.observe(importance.kl)
        self.updates += 1
        return UpdateResult(
            outcome=_outcome(finite, decision),
            version=self.version,
            alignment=decision,
            relative_alignment=self._relative(decision),
            importance=importance,
            entropy_fraction=self._entropy_fraction(importance.entropy),
            staleness=staleness,
            policy_loss=first.policy_loss,
            value_loss=first.value_loss,
            gradient_norm=_known(decision.gradient_norm, policy_norm),
            learning_rate=rate,
            momentum=beta1,
            kl_coefficient=self.kl_feedback.coefficient,
        )

    def weights(self) -> dict[str, Tensor]:
        """What actors need of the current version: policy and observation normaliser."""
        return self.policy.to_weights() | self.normalizer.to_weights()

    def _minibatches(self, batch: Batch) -> list[Batch]:
        """Whole environments each, so that traces stay whole; of every actor's alike."""
        count = self.spec.algorithm.minibatches
        return [batch] if count == 1 else [batch.every(count, index) for index in range(count)]

    def _differentiate(self, batch: Batch, *, measure: bool) -> _Gradients:
        """Leave the gradients of both losses in .grad, summed over ranks; observe if `measure`."""
        observations = self.normalizer(batch.observations)
        valid = batch.valid.to(torch.float32)
        count = self._ranks.sum(valid.sum()).clamp(min=1)

        # one sample-weight family, KL feedback to the behaviour policy
        distribution = self.policy.distribution(observations[:-1])
        log_ratios = distribution.log_prob(batch.actions) - batch.log_probabilities
        entropy = distribution.entropy()
        predictions = self.value(observations)
        values = self.value_scale.denormalize(predictions.detach())
        targets = self._targets(batch, log_ratios.detach(), values)
        policy_losses = self._policy_losses(batch, log_ratios, targets.advantages, entropy)
        policy_loss = (policy_losses * valid).sum() / count
        errors = predictions[:-1] - self.value_scale.normalize(targets.values)
        value_loss = 0.5 * (errors.square() * valid).sum() / count

        clip, importance, half = self.spec.algorithm.clip, None, None
        self.policy_optimizer.zero_grad()
        self.value_optimizer.zero_grad()
        if measure:
            importance = measure_importance(
                log_ratios, entropy, batch.valid, clip=clip, ranks=self._ranks
            )
            half = self._half_gradient(policy_losses * valid / count)
        torch.autograd.backward([policy_loss, value_loss])
        self._ranks.sum_gradients([*self.policy_parameters, *self.value_parameters])
        if half is not None:
            self.split_half.observe(half, [_gradient(p) for p in self.policy_parameters])
        losses = self._ranks.sum(torch.stack([policy_loss.detach(), value_loss.detach()])).tolist()
        return _Gradients(losses[0], losses[1], targets, importance)

    def _clip_norms(self) -> tuple[float, float]:
        """Limit the norms of both gradients; returns what they were, policy's first."""
        limit = self.spec.optimizer.max_gradient_norm or math.inf
        policy = float(clip_grad_norm_(self.policy_parameters, limit))
        return policy, float(clip_grad_norm_(self.value_parameters, limit))

    def _step_value(self, gradients: _Gradients, batch: Batch) -> None:
        self.value_optimizer.step()
        self.value_scale.update(gradients.targets.values, batch.valid, self._ranks)

    def _repeat(self, minibatches: list[Batch]) -> None:
        """The other minibatches, and the other epochs; gradients that are not finite end it."""
        for batch in (minibatches * self.spec.algorithm.epochs)[1:]:
            gradients = self._differentiate(batch, measure=False)
            if not gradients.finite(*self._clip_norms()):
                return
            self._step_value(gradients, batch)
            self.policy_optimizer.step()

    def _targets(self, batch: Batch, log_ratios: Tensor, values: Tensor) -> Targets:
        algorithm = self.spec.algorithm
        discounts = algorithm.discount * (~batch.terminated).to(torch.float32)
        continues = (~batch.ended).to(torch.float32)
        rewards = batch.rewards * algorithm.reward_scale
        if algorithm.name in ("appo", "impala"):
            return vtrace(
                log_ratios=log_ratios,
                rewards=rewards,
                discounts=discounts,
                continues=continues,
                values=values,
                rho_bar=algorithm.rho_bar,
                c_bar=algorithm.c_bar,
                trace_lambda=algorithm.trace_lambda,
            )
        return gae(
            rewards=rewards,
            discounts=discounts,
            continues=continues,
            values=values,
            gae_lambda=algorithm.gae_lambda,
        )

    def _policy_losses(
        self, batch: Batch, log_ratios: Tensor, advantages: Tensor, entropy: Tensor
    ) -> Tensor:
        algorithm = self.spec.algorithm
        if algorithm.normalize_advantages:
            advantages = self._normalize(advantages, batch.valid)
        limited = log_ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        match algorithm.name:
            case "impala":
                losses = vtrace_policy_gradient(limited, advantages, rho_bar=algorithm.rho_bar)
            case "decoupledPpo":
                losses = decoupled_surrogate(
                    limited,
                    advantages,
                    clip=algorithm.clip,
                    staleness=batch.staleness(self.version),
                )
            case _:
                losses = clipped_surrogate(limited, advantages, clip=algorithm.clip)
        losses = losses - algorithm.entropy_coefficient * entropy
        if self.kl_feedback.coefficient > 0:
            # Without the limit, at which its pull would end just where the policy is furthest away.
            losses = losses + kl_feedback(log_ratios, coefficient=self.kl_feedback.coefficient)
        return losses

    def _normalize(self, advantages: Tensor, valid: Tensor) -> Tensor:
        mask = valid.to(torch.float64)
        sums = torch.stack([mask.sum(), (advantages * mask).sum()])
        count, total = self._ranks.sum(sums).tolist()
        mean = total / max(count, 1.0)
        square = float(self._ranks.sum(((advantages - mean).square() * mask).sum()))
        deviation = math.sqrt(square / max(count, 1.0))
        normalized: Tensor = (advantages - mean) / (deviation + ADVANTAGE_EPSILON)
        return normalized

    def _relative(self, decision: AlignmentDecision) -> float | None:
        """Of the policy gradient's cosine; one of another gradient has no such prediction."""
        if self.spec.alignment.scope != "policy":
            return None
        return self.split_half.relative(decision.smoothed)

    def _half_gradient(self, losses: Tensor) -> list[Tensor] | None:
        """The policy gradient of every other environment, every SPLIT_EVERY updates.

        Every other one, so that both halves are of the same actors and policy versions; counted
        over all ranks, so that the halves do not depend on their number.
        """
        alignment = self.spec.alignment
        compared = alignment.mode != "off" and alignment.scope == "policy"
        if not compared or self.updates % SPLIT_EVERY != 0:
            return None
        width = losses.shape[1]
        half = losses[:, (self._ranks.rank * width) % 2 :: 2].sum()
        gradients = torch.autograd.grad(
            half, self.policy_parameters, retain_graph=True, allow_unused=True
        )
        return [
            self._ranks.sum(torch.zeros_like(p) if g is None else g.contiguous())
            for p, g in zip(self.policy_parameters, gradients, strict=True)
        ]

    def _steer(
        self,
        decision: AlignmentDecision,
        staleness: float,
        importance: ImportanceMeasures,
        progress: float,
    ) -> tuple[float, float]:
        """Set this step's learning rates and momentum; returns those of the policy."""
        spec = self.spec
        schedule = 1.0 if spec.optimizer.schedule == "constant" else max(0.0, 1.0 - progress)
        size = step_size(
            spec.compensation.step_size,
            staleness=staleness,
            effective_sample_size=importance.effective_sample_size,
        )
        rate = spec.optimizer.learning_rate * schedule * size * decision.learning_rate_factor
        beta1 = spec.optimizer.beta1
        if spec.compensation.momentum_law:
            beta1 = momentum(beta1, staleness)
        steer(self.policy_optimizer, learning_rate=rate, beta1=beta1)
        damping = decision.learning_rate_factor if spec.alignment.scope == "all" else 1.0
        steer(
            self.value_optimizer,
            learning_rate=spec.optimizer.value_learning_rate * schedule * damping,
            beta1=spec.optimizer.beta1,
        )
        return rate, beta1

    def _entropy_fraction(self, entropy: float) -> float | None:
        """Of the largest possible entropy; absent for continuous actions, which have none."""
        action = self.layout.action
        if not isinstance(action, Discrete) or action.n < 2:
            return None
        return entropy / math.log(action.n)


def _known(measured: float | None, otherwise: float) -> float:
    return otherwise if measured is None else measured


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _outcome(finite: bool, decision: AlignmentDecision) -> Outcome:
    if not finite:
        return "non_finite"
    return "trained" if decision.apply else "skipped"
