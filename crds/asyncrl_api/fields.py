"""The fields of the models as one tree, the source of CRD, reference and did-you-mean."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import AwareDatetime, BaseModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from asyncrl_api.model import Rule

Kind = Literal[
    "object", "map", "open", "array", "string", "integer", "number", "boolean", "time", "quantity"
]
"""JSON types, and: map (one type of values), open (any content), time, quantity."""

REQUIRED = object()
"""Default of a field that has none."""


@dataclass(frozen=True)
class Field:
    """One field: its YAML name, type, meaning, default and bounds, and the fields below it."""

    name: str
    kind: Kind
    description: str = ""
    unit: str | None = None
    remedy: str | None = None
    default: Any = REQUIRED
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    enum: tuple[str, ...] = ()
    item: Field | None = None
    children: tuple[Field, ...] = ()
    extensible: bool = False
    rules: tuple[Rule, ...] = ()
    list_key: str | None = None

    @property
    def required(self) -> bool:
        """Whether the field has no default."""
        return self.default is REQUIRED

    def child(self, name: str) -> Field | None:
        """The field of this YAML name right below this one."""
        return next((child for child in self.children if child.name == name), None)

    def find(self, path: tuple[str | int, ...]) -> Field | None:
        """The field at a path below this one; an element of an array or map is its item."""
        field: Field | None = self
        for part in path:
            if field is None or field.kind == "open":
                return field
            field = field.item if field.item is not None else field.child(str(part))
        return field

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Field]]:
        """Every field below this one with its path, in the order of the models."""
        for child in self.children:
            here = (*path, child.name)
            yield here, child
            yield from child.walk(here)
            if child.item is not None:
                yield from child.item.walk((*path, f"{child.name}[]"))

    def bounds(self) -> str:
        """The bounds of value or length in words, empty where there are none."""
        parts = []
        if self.minimum is not None:
            word = "greater than" if self.exclusive_minimum else "at least"
            parts.append(f"{word} {self.minimum:.15g}")
        if self.maximum is not None:
            word = "less than" if self.exclusive_maximum else "at most"
            parts.append(f"{word} {self.maximum:.15g}")
        return " and ".join(parts)


@cache
def fields_of(model: type[BaseModel], name: str = "") -> Field:
    """The tree of a model's fields. `name` is the name of its root."""
    return _object(model, name)


def closest(word: str, candidates: Iterator[str] | list[str]) -> str | None:
    """The candidate that was probably meant, in any spelling of capitals and underscores."""
    plain = {candidate.lower().replace("_", ""): candidate for candidate in candidates}
    matches = difflib.get_close_matches(word.lower().replace("_", ""), plain, n=1, cutoff=0.6)
    return plain[matches[0]] if matches else None


def suggest(root: Field, parent: tuple[str | int, ...], key: str) -> str:
    """The end of an unknown-field message: what was probably meant, or what there is."""
    field = root.find(parent)
    names = [child.name for child in field.children] if field is not None else []
    elsewhere = [path for path, other in root.walk() if other.name == key and path[0] != "status"]
    if len(elsewhere) == 1:
        return f"unknown field; did you mean {'.'.join(elsewhere[0])}?"
    match = closest(key, names)
    if match is not None:
        return f"unknown field; did you mean '{match}'?"
    return f"unknown field; fields here are {', '.join(names)}" if names else "unknown field"


def _object(model: type[BaseModel], name: str) -> Field:
    children = tuple(
        _field(info.alias or to_camel(attribute), info)
        for attribute, info in model.model_fields.items()
    )
    return Field(
        name=name,
        kind="object",
        description=_first_paragraph(model),
        children=children,
        extensible=model.model_config.get("extra") == "allow",
        rules=getattr(model, "rules", ()),
    )


def _field(name: str, info: FieldInfo) -> Field:
    field = _typed(name, info.annotation)
    for constraint in info.metadata:
        field = _constrained(field, constraint)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    texts = {key: value for key, value in extra.items() if isinstance(value, str)}
    default = REQUIRED if info.is_required() else info.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json", by_alias=True)
    return replace(
        field,
        description=info.description or field.description,
        unit=texts.get("unit"),
        remedy=texts.get("remedy"),
        list_key=texts.get("listKey"),
        default=default,
    )


def _typed(name: str, annotation: Any) -> Field:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if _is_quantity(annotation):
            return Field(name, "quantity")
        return _field(name, FieldInfo.from_annotation(annotation))
    if annotation == int | str:
        return Field(name, "quantity")
    if origin in (Union, types.UnionType):
        (inner,) = (a for a in arguments if a is not type(None))
        return replace(_typed(name, inner), nullable=True)
    if origin is Literal:
        return Field(name, "string", enum=arguments)
    if origin is list:
        return Field(name, "array", item=_typed("", arguments[0]))
    if origin is dict:
        if arguments[1] is Any:
            return Field(name, "open")
        return Field(name, "map", item=_typed("", arguments[1]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _object(annotation, name)
    kinds: dict[Any, Kind] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kinds[AwareDatetime] = "time"
    return Field(name, kinds[annotation])


def _is_quantity(annotation: Any) -> bool:
    return bool(get_args(annotation)[0] == int | str)


def _constrained(field: Field, constraint: Any) -> Field:
    if isinstance(constraint, annotated_types.Ge):
        return replace(field, minimum=_number(constraint.ge))
    if isinstance(constraint, annotated_types.Gt):
        return replace(field, minimum=_number(constraint.gt), exclusive_minimum=True)
    if isinstance(constraint, annotated_types.Le):
        return replace(field, maximum=_number(constraint.le))
    if isinstance(constraint, annotated_types.Lt):
        return replace(field, maximum=_number(constraint.lt), exclusive_maximum=True)
    if isinstance(constraint, annotated_types.MinLen):
        return replace(field, min_length=constraint.min_length)
    if isinstance(constraint, annotated_types.MaxLen):
        return replace(field, max_length=constraint.max_length)
    pattern = getattr(constraint, "pattern", None)
    return field if pattern is None else replace(field, pattern=pattern)


def _number(value: Any) -> float:
    assert isinstance(value, int | float)
    return value


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())
