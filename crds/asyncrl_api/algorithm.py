"""How the policy learns: algorithm, network and optimizer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from asyncrl_api.model import Model, Rule, option

LayerSize = Annotated[int, Field(ge=1, le=16384)]


class Algorithm(Model):
    """The loss and the shape of its batches."""

    name: Literal["appo", "impala", "ppo", "decoupledPpo"] = option(
        "appo",
        "appo: V-trace targets and advantages under a PPO clip. impala: plain V-trace "
        "(Espeholt et al. 2018). ppo: GAE and PPO clip to the behaviour policy (Schulman et al. "
        "2017). decoupledPpo: PPO clip to a proximal policy, weighted by proximal over behaviour "
        "(Fu et al. 2025, AReaL).",
    )
    discount: float = option(0.99, "Discount of future rewards, gamma.", gt=0, le=1)
    gae_lambda: float = option(
        0.95, "Lambda of the generalised advantage estimate; ppo and decoupledPpo.", ge=0, le=1
    )
    clip: float = option(
        0.4,
        "PPO clip: the ratio to the behaviour policy counts within 1 - clip and 1 + clip; "
        "not used by impala.",
        unit="probability ratio",
        gt=0,
        le=10,
        remedy="use algorithm.name impala for no clip",
    )
    rho_bar: float = option(
        1.0,
        "V-trace cap of the importance weight in the temporal difference; appo and impala.",
        unit="probability ratio",
        gt=0,
        le=100,
    )
    c_bar: float = option(
        1.0,
        "V-trace cap of the importance weight in the trace; appo and impala.",
        unit="probability ratio",
        gt=0,
        le=100,
    )
    trace_lambda: float = option(
        1.0,
        "Lambda of V-trace's traces (Espeholt et al. 2018, remark 2); appo and impala.",
        ge=0,
        le=1,
    )
    entropy_coefficient: float = option(
        0.01, "Weight of the entropy bonus.", unit="loss per nat", ge=0, le=10
    )
    normalize_advantages: bool = option(
        True, "Shift and scale the advantages of a batch to mean 0 and standard deviation 1."
    )
    normalize_observations: bool = option(
        True,
        "Shift and scale observations by running statistics, which travel with each version of "
        "the weights.",
    )
    normalize_values: bool = option(
        True,
        "Let the value network work in units of the returns' own mean and deviation (PopArt, van "
        "Hasselt et al. 2016).",
    )
    reward_scale: float = option(
        1.0, "Factor on rewards before the loss; reported returns are unscaled.", gt=0, le=1e6
    )
    fragment_length: int = option(
        32, "Length of a fragment, the unit an actor sends.", unit="vector steps", ge=1, le=4096
    )
    fragments_per_batch: int = option(
        2, "Fragments in a batch, the unit of one update.", unit="fragments", ge=1, le=1024
    )
    epochs: int = option(
        1,
        "Passes over a batch. More make more of each sample where environments are slow; the "
        "policy moves further from the one that made it.",
        unit="passes",
        ge=1,
        le=100,
    )
    minibatches: int = option(
        1,
        "Equal parts of a batch, by environments, with one optimizer step each. Alignment is "
        "measured and controlled at the first, for the whole batch.",
        unit="optimizer steps per pass",
        ge=1,
        le=1024,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("cBar",),
            cel="self.cBar <= self.rhoBar",
            holds=lambda algorithm: algorithm.c_bar <= algorithm.rho_bar,
            message="must not be greater than rhoBar, as V-trace assumes; lower cBar or raise "
            "rhoBar",
        ),
    )


class Network(Model):
    """Separate policy and value networks of the same shape: multilayer perceptrons."""

    hidden_sizes: list[LayerSize] = option(
        lambda: [64, 64], "Width of each hidden layer.", unit="units", min_length=1, max_length=16
    )
    activation: Literal["tanh", "relu", "gelu", "silu"] = option(
        "tanh", "Non-linearity after each hidden layer."
    )
    initial_log_std: float = option(
        0.0,
        "Initial logarithm of the standard deviation of continuous actions.",
        unit="nats",
        ge=-10,
        le=2,
    )


class Optimizer(Model):
    """The optimizer of policy and value network."""

    name: Literal["adam", "adamw", "sgd"] = option(
        "adam", "adam: Kingma and Ba 2015. adamw: decoupled weight decay. sgd: with momentum beta1."
    )
    learning_rate: float = option(5e-3, "Learning rate of the policy.", gt=0, le=10)
    value_learning_rate: float = option(
        5e-3,
        "Learning rate of the value network. It need not fall with learningRate: on CartPole a "
        "value network that lags behind a careful policy lost the run.",
        gt=0,
        le=10,
    )
    beta1: float = option(
        0.5,
        "Decay of the first moment, or the momentum of sgd; compensation.momentumLaw lowers it "
        "with staleness. On CartPole 0.9 did worse than 0.5, even when synchronous.",
        ge=0,
        lt=1,
    )
    beta2: float = option(0.99, "Decay of the second moment; adam and adamw.", ge=0, lt=1)
    epsilon: float = option(
        1e-8, "Added to the root of the second moment; adam and adamw.", gt=0, le=1
    )
    weight_decay: float = option(
        0.0, "Weight decay: decoupled for adamw, in the gradient for adam and sgd.", ge=0, le=1
    )
    max_gradient_norm: float | None = option(
        0.5,
        "Largest global norm of the gradient, of policy and value network each; null for no limit.",
        gt=0,
        le=1e6,
        remedy="use null for no limit",
    )
    schedule: Literal["constant", "linear"] = option(
        "constant",
        "Learning rates over the run: constant, or linear to 0 at its end in environment steps or "
        "policy versions. The steps of a skipped update count.",
    )
