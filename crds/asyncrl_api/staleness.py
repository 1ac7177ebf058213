"""How old the data of an update may be, counted in policy versions."""

from __future__ import annotations

from typing import Literal

from asyncrl_api.model import Model, option


class Staleness(Model):
    """The bound of staleness and what happens at it."""

    max: int = option(
        4,
        "Bound of staleness, kept by admission; 0 is synchronous training. Not used while inject "
        "is set.",
        unit="policy versions",
        ge=0,
        le=1024,
        remedy="use 0 for synchronous training",
    )
    on_stale: Literal["drop", "wait"] = option(
        "drop",
        "drop: batches form as fragments arrive, and older fragments than max are dropped and "
        "counted. wait: batches form in the order of admission, and the learner waits for "
        "stragglers.",
    )
    inject: int | None = option(
        None,
        "For experiments: train every batch exactly this late, deterministically. Takes the place "
        "of max; null for off.",
        unit="policy versions",
        ge=0,
        le=1024,
    )

    @property
    def exact(self) -> bool:
        """Whether every batch is exactly so late, and so every actor has its place in it."""
        return self.inject is not None or self.max == 0
