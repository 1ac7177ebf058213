"""Whether an object has to be applied at all: an unchanged world gets no write."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from asyncrl_operator.kube.client import Object

APPLIED = "asyncrl.io/applied"
"""Annotation with the digest of what was applied last."""


def stamped(document: Object) -> Object:
    """The object with the digest of itself."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    value = hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = dict(document["metadata"])
    metadata["annotations"] = {**(metadata.get("annotations") or {}), APPLIED: value}
    return {**document, "metadata": metadata}


def is_applied(wanted: Object, known: Object) -> bool:
    """Whether a stamped object is there as it is wanted.

    That everything asked for is there says that nobody changed it; the digest, which is among it,
    that nothing else is asked than before. What the API server added, defaults for instance, does
    not count.
    """
    return _contains(known, _comparable(wanted))


def _comparable(wanted: Object) -> Object:
    """Without what the API server keeps immutable, or writes in words of its own (quantities)."""
    if wanted["kind"] == "Job":
        return {**wanted, "spec": {k: v for k, v in wanted["spec"].items() if k != "template"}}
    if wanted["kind"] == "PersistentVolumeClaim":
        return {**wanted, "spec": {}}
    return wanted


def without_template(document: Object) -> Object:
    """A Job without its template, which cannot change: for the apply of an existing one."""
    spec = {key: value for key, value in document["spec"].items() if key != "template"}
    return {**document, "spec": spec}


def _contains(known: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(known, dict) and all(
            (key in known and _contains(known[key], value)) or _empty(value)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(known, list)
            and len(known) == len(wanted)
            and all(_contains(k, w) for k, w in zip(known, wanted, strict=True))
        )
    return bool(known == wanted)


def _empty(value: Any) -> bool:
    """The API server drops an empty map and a false from what it stores."""
    return value in ({}, [], False, None, 0)
