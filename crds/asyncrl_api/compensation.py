"""What keeps asynchronous training stable: the layers around the loss and the optimizer."""

from __future__ import annotations

from typing import Literal

from asyncrl_api.model import Model, option


class KlFeedback(Model):
    """A penalty (k / 2) (log ratio)^2 on the distance to the behaviour policy."""

    mode: Literal["off", "fixed", "target"] = option(
        "off",
        "off: no penalty. fixed: k = coefficient. target: k starts at coefficient and is adapted "
        "to hold the mean KL divergence at target.",
    )
    coefficient: float = option(
        0.1,
        "k, the weight of the penalty.",
        unit="loss per squared nat",
        gt=0,
        le=100,
        remedy='use mode "off" for no penalty',
    )
    target: float = option(
        0.02,
        "KL divergence of behaviour and current policy to hold; with mode target.",
        unit="nats",
        gt=0,
        le=10,
    )


class Compensation(Model):
    """Compensation of staleness; each layer works alone."""

    momentum_law: bool = option(
        True, "beta1 / (1 + s) as momentum, s the mean staleness of the batch in policy versions."
    )
    kl_feedback: KlFeedback = option(KlFeedback, "KL feedback to the behaviour policy.")
    step_size: Literal[
        "constant", "halfWhenStale", "inverse", "inverseSqrt", "effectiveSampleSize"
    ] = option(
        "constant",
        "Factor on the policy's learning rate at mean staleness s: constant 1; halfWhenStale 1/2 "
        "where s >= 4; inverse 1 / (1 + s); inverseSqrt 1 / sqrt(1 + s); effectiveSampleSize the "
        "root of the effective share of the batch.",
    )
    displacement_projection: float = option(
        0.0,
        "Share of an update's part along the movement already made since the roll-outs that is "
        "taken out after the optimizer; 0 for off.",
        ge=0,
        le=1,
    )
