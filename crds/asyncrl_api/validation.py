"""What Pydantic found wrong, as problems that name field, value and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from asyncrl_api.document import show
from asyncrl_api.errors import Problem
from asyncrl_api.fields import Field, closest, suggest
from asyncrl_api.model import RULE_ERROR
from asyncrl_api.quantity import QUANTITY_ERROR

Path = tuple[str | int, ...]

_TYPE_WORDS = {
    "object": "a mapping",
    "map": "a mapping",
    "open": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "time": "a time such as 2026-01-31T12:00:00Z",
    "quantity": "a quantity such as 2 or 500m",
}


def problems_of(error: ValidationError, root: Field) -> list[Problem]:
    """One problem for each thing wrong, in the order of the fields."""
    return [problem for details in error.errors() for problem in _problems(details, root)]


def dotted(path: Path) -> str:
    """A path as users write it: `spec.actors.env[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _problems(details: ErrorDetails, root: Field) -> Iterator[Problem]:
    path, value, context = details["loc"], details["input"], details.get("ctx", {})
    kind = details["type"]
    if kind == RULE_ERROR:
        for below, message in context["broken"]:
            yield Problem(dotted((*path, *below)), f"{_shown(value, below)}{message}")
        return
    if kind == "extra_forbidden":
        yield Problem(dotted(path), suggest(root, path[:-1], str(path[-1])))
        return
    field = root.find(path) or Field("", "open")
    if kind == "missing":
        yield Problem(dotted(path), f"is missing; {_missing_remedy(field)}")
        return
    if kind == QUANTITY_ERROR:
        yield Problem(dotted(path), f"{show(value)} {details['msg']}")
        return
    yield Problem(dotted(path), f"{show(value)} {_complaint(kind, value, context, field)}")


def _shown(model: Any, path: Path) -> str:
    """The value at a path below a model, and a space; nothing for a mapping or an absent value."""
    value = model
    for part in path:
        if value is None:  # left to its default
            return ""
        if isinstance(value, dict):
            value = value.get(part)
            continue
        names = {info.alias: name for name, info in type(value).model_fields.items()}
        value = getattr(value, names[str(part)])
    return f"{show(value)} " if isinstance(value, str | int | float | bool) else ""


def _missing_remedy(field: Field) -> str:
    if field.remedy is not None:
        return field.remedy
    return f"add {field.name}: {_TYPE_WORDS[field.kind]} ({field.description.rstrip('.')})"


def _complaint(kind: str, value: Any, context: dict[str, Any], field: Field) -> str:
    complaint: Callable[[dict[str, Any], Field], str] | None = _COMPLAINTS.get(kind)
    if kind == "literal_error" and not isinstance(value, str):
        kind = "string_type"
    if kind == "literal_error":
        return _enum_complaint(value, field)
    if kind.endswith("_type"):
        return _type_complaint(value, field)
    if complaint is None:
        return f"is refused; {field.remedy or 'use ' + _TYPE_WORDS[field.kind]}"
    said = complaint(context, field)
    remedy = field.remedy or _bounds_remedy(field)
    return f"{said}; {remedy}" if remedy else said


_COMPLAINTS: dict[str, Callable[[dict[str, Any], Field], str]] = {
    "greater_than_equal": lambda c, f: f"is less than {_plain(c['ge'])}",
    "greater_than": lambda c, f: f"is not greater than {_plain(c['gt'])}",
    "less_than_equal": lambda c, f: f"is greater than {_plain(c['le'])}",
    "less_than": lambda c, f: f"is not less than {_plain(c['lt'])}",
    "finite_number": lambda c, f: "is not finite",
    "string_pattern_mismatch": lambda c, f: f"does not match {c['pattern']}",
    "string_too_short": lambda c, f: f"is shorter than {c['min_length']} characters",
    "string_too_long": lambda c, f: f"is longer than {c['max_length']} characters",
    "too_short": lambda c, f: f"has fewer than {c['min_length']} elements",
    "too_long": lambda c, f: f"has more than {c['max_length']} elements",
}


def _plain(number: float) -> str:
    return f"{number:.15g}"


def _bounds_remedy(field: Field) -> str:
    unit = f" ({field.unit})" if field.unit else ""
    return f"use {field.bounds()}{unit}" if field.bounds() else ""


def _enum_complaint(value: str, field: Field) -> str:
    match = closest(value, list(field.enum))
    guess = f"; did you mean '{match}'?" if match else ""
    return f"is not one of {', '.join(field.enum)}{guess}"


def _type_complaint(value: Any, field: Field) -> str:
    wanted = _TYPE_WORDS[field.kind]
    if field.kind == "string" and isinstance(value, bool):
        word = next((w for w in ("off", "on") if w in field.enum), None)
        meant = f'"{word}" in quotes' if word else "text in quotes"
        return f"is what YAML makes of off, no, on or yes without quotes; write {meant}"
    if field.kind == "string" and isinstance(value, int | float):
        return f'is a number, not text; write "{value}" in quotes'
    if isinstance(value, str) and field.kind in ("integer", "number", "boolean"):
        return f"is text, not {wanted}; write it without quotes"
    if isinstance(value, float) and field.kind == "integer":
        return "is no integer; write it without a decimal point"
    if value is None:
        return f"is not {wanted}; leave the field out for its default"
    return f"is not {wanted}; use {wanted}"
