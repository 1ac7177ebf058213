"""What follows from a manifest: sizes and bounds that no field states."""

from __future__ import annotations

import math

from asyncrl_api.spec import AsyncRLJob


def derived_bounds(job: AsyncRLJob) -> list[tuple[str, str]]:
    """Label and value of each derived number, for a person."""
    spec = job.spec
    rows: list[tuple[str, str]] = []
    gymnasium = spec.workload.gymnasium
    eta = spec.staleness.max if spec.staleness.inject is None else spec.staleness.inject
    fragments = spec.algorithm.fragments_per_batch
    if gymnasium is not None:
        environments = gymnasium.environments
        fragment = spec.algorithm.fragment_length * environments
        batch = fragment * fragments
        actors = spec.actors.replicas
        rows.append(("environments", f"{actors} x {environments} = {actors * environments:,}"))
        rows.append(
            ("batch", f"{fragments} fragments of {fragment:,} = {batch:,} environment steps")
        )
        ceiling = (eta + 1) * batch
        rows.append(("ahead of the learner", f"at most {ceiling:,} environment steps"))
        steps = spec.stopping.environment_steps
        if steps is not None:
            rows.append(("updates", f"{math.ceil(steps / batch):,} in {steps:,} environment steps"))
    if spec.staleness.inject is not None:
        rows.append(("staleness", f"exactly {eta} versions (inject)"))
    elif eta == 0:
        rows.append(("staleness", "0: synchronous training"))
    else:
        how = {"drop": "older data is dropped", "wait": "the learner waits for stragglers"}
        rows.append(("staleness", f"at most {eta} versions; {how[spec.staleness.on_stale]}"))
    rows.append(("fragments admitted", f"at most {(eta + 1) * fragments:,} at a time"))
    processes = spec.actors.replicas + spec.learner.replicas + 1
    rows.append(
        (
            "processes",
            f"{processes}: {spec.actors.replicas} actors, {spec.learner.replicas} learner, "
            "1 parameter server",
        )
    )
    return rows
