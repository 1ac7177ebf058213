"""A user's PodTemplateSpec merged over the operator's own, as kubectl patches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "hostAliases": "ip",
}
"""Lists that are merged by a key of their elements; every other list is replaced."""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` merged over `base`: maps by key, known lists by element, null removes."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
            continue
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(below, value)
        elif isinstance(below, list) and isinstance(value, list) and key in MERGE_KEYS:
            merged[key] = _merge_lists(below, value, MERGE_KEYS[key])
        else:
            merged[key] = without_nulls(value)
    return merged


def without_nulls(value: Any) -> Any:
    """The value without the keys whose value is null."""
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(element) for element in value]
    return value


def _merge_lists(base: Sequence[Any], over: Sequence[Any], key: str) -> list[Any]:
    merged = list(base)
    for element in over:
        name = element.get(key) if isinstance(element, Mapping) else None
        place = next((i for i, old in enumerate(merged) if old.get(key) == name), None)
        if name is None or place is None:
            merged.append(without_nulls(element))
        elif merged[place].keys() & {"value", "valueFrom"}:
            merged[place] = without_nulls(element)  # one source of a variable replaces another
        else:
            merged[place] = merge(merged[place], element)
    return merged
