"""Manifests: text to job and back, and single values set by path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asyncrl_api.document import (
    Document,
    dump_document,
    parse_documents,
    parse_value,
    read_text,
    show,
)
from asyncrl_api.errors import ManifestError, Problem
from asyncrl_api.fields import Field, fields_of, suggest
from asyncrl_api.immutability import immutable_changes
from asyncrl_api.spec import API_VERSION, KIND, AsyncRLJob
from asyncrl_api.validation import problems_of

__all__ = [
    "dump_manifest",
    "immutable_changes",
    "load_manifest",
    "read_document",
    "set_path",
    "validate",
]


def load_manifest(source: str | Path, overrides: Sequence[str] = ()) -> AsyncRLJob:
    """The job of a manifest, with every default.

    `source` is a path, or YAML text (text with a line break or a leading brace). `overrides` are
    assignments as for `set_path`. Raises ManifestError, one line for each problem.
    """
    document = read_document(source)
    for assignment in overrides:
        set_path(document, assignment)
    return validate(document)


def read_document(source: str | Path) -> Document:
    """The one AsyncRLJob of a file or text as a plain document, before validation.

    Other documents beside it (a ConfigMap, a Namespace) are passed over.
    """
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        name, text = "manifest", source
    else:
        name, text = str(source), read_text(Path(source))
    documents = parse_documents(text, name)
    if not documents:
        raise _error(name, "is empty; write an AsyncRLJob, as in examples/cartpole.yaml")
    jobs = [d for d in documents if isinstance(d, dict) and d.get("kind") == KIND]
    if len(jobs) > 1:
        raise _error(name, f"has {len(jobs)} {KIND} documents; keep one in a file")
    if not jobs and len(documents) > 1:
        raise _error(name, f"has {len(documents)} documents and no {KIND}; add one")
    document = jobs[0] if jobs else documents[0]
    if not isinstance(document, dict):
        raise _error(name, f"is {show(document)}, not a mapping; begin with apiVersion and kind")
    return document


def validate(document: Document) -> AsyncRLJob:
    """The job of a document, with every default and without status. Raises ManifestError."""
    root = fields_of(AsyncRLJob)
    identity = _identity_problems(document)
    if identity:
        raise ManifestError(identity)
    document = {key: value for key, value in document.items() if key != "status"}
    document = _without_nulls(document, root)
    try:
        return AsyncRLJob.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise ManifestError(problems_of(error, root)) from None


def dump_manifest(job: AsyncRLJob, *, defaults: bool = True) -> str:
    """The job as YAML, with every default or with none; `load_manifest` gives the same job."""
    return dump_document(job.document(defaults=defaults))


def set_path(document: Document, assignment: str) -> None:
    """Set one value of a document in place, as in `spec.staleness.max=0`.

    The value is YAML; for a field of text it is taken as it is, so that `mode=off` needs no quotes.
    A dot inside a key is written `\\.`. Raises ManifestError for an unknown path and for a value
    in the way. The value itself is checked by `validate`.
    """
    path, equals, text = assignment.partition("=")
    keys = tuple(key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", path.strip()))
    if not equals or not all(keys):
        raise _error(assignment or "--set", "is no assignment; write path=value, as in spec.seed=1")
    field = _settable_field(keys)
    value = _typed_value(text, field, path)
    parent = document
    for depth, key in enumerate(keys[:-1]):
        below = parent.get(key)
        if below is None:
            below = parent[key] = {}
        if not isinstance(below, dict):
            here = ".".join(keys[: depth + 1])
            raise _error(here, f"is {show(below)}, not a mapping; set it as a whole")
        parent = below
    parent[keys[-1]] = value


def _settable_field(keys: tuple[str, ...]) -> Field | None:
    """The declared field at a path, None below content that is free. Raises ManifestError."""
    root = field = fields_of(AsyncRLJob)
    for depth, key in enumerate(keys):
        here, parents = ".".join(keys[: depth + 1]), keys[:depth]
        if field.kind == "open":
            return None
        if field.kind == "map" and field.item is not None:
            field = field.item
            continue
        if field.kind == "array":
            raise _error(here, f"is inside a list; set {'.'.join(parents)}=[...] as a whole")
        if field.kind != "object":
            raise _error(here, f"unknown field; {'.'.join(parents)} is a plain value")
        child = field.child(key)
        if child is None and field.extensible:
            return None
        if child is None:
            raise _error(here, suggest(root, parents, key))
        field = child
    return field


def _typed_value(text: str, field: Field | None, path: str) -> Any:
    if field is None or field.kind != "string":
        return parse_value(text, path)
    try:
        value = parse_value(text, path)
    except ManifestError:
        return text
    if isinstance(value, str) or (value is None and field.nullable):
        return value
    return text


def _identity_problems(document: Document) -> list[Problem]:
    problems = []
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if key not in document:
            problems.append(Problem(key, f"is missing; add {key}: {wanted}"))
        elif document[key] != wanted:
            problems.append(Problem(key, f"{show(document[key])} is not known; use {wanted}"))
    return problems


def _without_nulls(value: Any, field: Field) -> Any:
    """The value without nulls where none is allowed: the API server gives these their default."""
    if isinstance(value, dict) and field.kind == "object":
        kept = {}
        for key, below in value.items():
            child = field.child(key)
            if below is None and child is not None and not child.nullable:
                continue
            kept[key] = below if child is None else _without_nulls(below, child)
        return kept
    if isinstance(value, list) and field.item is not None:
        return [_without_nulls(below, field.item) for below in value]
    return value


def _error(path: str, message: str) -> ManifestError:
    return ManifestError([Problem(path, message)])
