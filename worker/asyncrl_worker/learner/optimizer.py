"""From the manifest to torch optimizers and the alignment controller's configuration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from asyncrl_api.spec import Alignment, Optimizer

from asyncrl_worker.alignment import AlignmentConfig


def build_optimizer(
    spec: Optimizer, parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD with momentum; learning rate and momentum are set again at every step."""
    match spec.name:
        case "sgd":
            return torch.optim.SGD(
                parameters,
                lr=spec.learning_rate,
                momentum=spec.beta1,
                weight_decay=spec.weight_decay,
            )
        case "adamw":
            kind: type[torch.optim.Adam] = torch.optim.AdamW
        case _:
            kind = torch.optim.Adam
    return kind(
        parameters,
        lr=spec.learning_rate,
        betas=(spec.beta1, spec.beta2),
        eps=spec.epsilon,
        weight_decay=spec.weight_decay,
        fused=True,  # one pass over memory: four times faster than foreach on a CPU thread
    )


def alignment_config(spec: Alignment) -> AlignmentConfig:
    """The manifest's `alignment` for the controller, which knows nothing of manifests."""
    return AlignmentConfig(
        mode=spec.mode,
        calibration=spec.calibration,
        low=spec.low,
        high=spec.high,
        projection=spec.projection,
        max_skips=spec.max_skips,
        adam_damping=spec.adam_damping,
        calibration_updates=spec.calibration_updates,
        low_deviations=spec.deviations.low,
        high_deviations=spec.deviations.high,
        smoothing=spec.smoothing,
        memory_dtype=spec.memory_dtype,
        memory=spec.memory,
    )
