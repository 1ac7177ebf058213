"""Fields that cannot change while a job exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncrl_api.document import show
from asyncrl_api.errors import Problem
from asyncrl_api.spec import AsyncRLJobSpec

Paths = tuple[tuple[str, ...], ...]
"""Of fields below spec."""

STATE: Paths = (
    ("seed",),
    ("workload",),
    ("algorithm", "name"),
    ("algorithm", "normalizeObservations"),
    ("algorithm", "normalizeValues"),
    ("network",),
    ("optimizer", "name"),
)
"""The state in a checkpoint depends on each of them."""

IMMUTABLE: Paths = (*STATE, ("checkpoint", "volume"))
"""Of the whole spec: on another volume there are no checkpoints, and the run would begin anew."""

MUTABLE: Paths = (("checkpoint", "volume", "claim", "size"),)
"""Exceptions. A claim may grow; the API server refuses what its storage class cannot do."""

REMEDY = "cannot change while the job exists; create a job of another name"


def immutable_changes(
    old: AsyncRLJobSpec, new: AsyncRLJobSpec, paths: Paths = IMMUTABLE
) -> list[Problem]:
    """One problem for each immutable value that differs; on one machine only STATE counts.

    The same as the transition rules of the CRD, and beyond them: the API server does not compare
    `workload.gymnasium.kwargs`, whose content has no schema.
    """
    before, after = (spec.model_dump(mode="json", by_alias=True) for spec in (old, new))
    problems = []
    for path in paths:
        pair: tuple[Any, Any] = (before, after)
        for key in path:
            pair = (pair[0][key], pair[1][key])
        problems += list(_changes(path, *pair))
    return problems


def _changes(path: tuple[str, ...], old: Any, new: Any) -> Iterator[Problem]:
    if path in MUTABLE:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes((*path, key), old.get(key), new.get(key))
    elif old != new:
        message = f"{show(new)} (was {show(old)}) {REMEDY}"
        yield Problem(".".join(("spec", *path)), message)
