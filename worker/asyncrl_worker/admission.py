"""How stale a job's data may be, from its manifest; learner and parameter server must agree."""

from __future__ import annotations

from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_worker.staleness import StalenessPolicy


def staleness_policy(spec: AsyncRLJobSpec) -> StalenessPolicy:
    """The manifest's `staleness`, with the sizes that the bound is derived from."""
    return StalenessPolicy(
        maximum=spec.staleness.max,
        on_stale=spec.staleness.on_stale,
        inject=spec.staleness.inject,
        fragments_per_batch=spec.algorithm.fragments_per_batch,
        replicas=spec.actors.replicas,
    )
