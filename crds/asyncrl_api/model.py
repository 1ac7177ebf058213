"""The base of every model of the API: names, strictness, options and cross-field rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

RULE_ERROR = "rule"


@dataclass(frozen=True)
class Rule:
    """A rule between fields, said once for Python and once for the API server.

    `path` names the field to blame, relative to the model that declares the rule, in YAML names.
    `cel` is the rule for `x-kubernetes-validations`, where `self` is the model and a null counts as
    absent; None where the schema itself says it. `holds` is the rule in Python. `message` continues
    a sentence that starts with the value at `path`, and ends in the remedy.
    """

    path: tuple[str, ...]
    cel: str | None
    holds: Callable[[Any], bool]
    message: str


class Model(BaseModel):
    """A part of the spec: camelCase in YAML, snake_case in Python, strict, immutable.

    Types are not converted ("4" is no integer, as the API server sees it), an integer is accepted
    where a decimal number is asked, infinities and NaN are refused, unknown keys are refused.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        broken = [rule for rule in type(self).rules if not rule.holds(self)]
        if broken:
            raise PydanticCustomError(
                RULE_ERROR,
                "{summary}",
                {
                    "summary": "; ".join(f"{'.'.join(r.path)} {r.message}" for r in broken),
                    "broken": [(rule.path, rule.message) for rule in broken],
                },
            )
        return self


def option(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    remedy: str | None = None,
    list_key: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
) -> Any:
    """A field of the API with all that its users read: default, meaning, unit and bounds.

    `remedy` is what an error says instead of the bounds when a value is refused. `list_key` is the
    field that identifies an element of a list, for server-side apply. A class or function as
    `default` is called for each new model; `...` makes the field required.
    """
    extra: dict[str, Any] = {}
    if unit is not None:
        extra["unit"] = unit
    if remedy is not None:
        extra["remedy"] = remedy
    if list_key is not None:
        extra["listKey"] = list_key
    constraints = {
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "min_length": min_length,
        "max_length": max_length,
        "pattern": pattern,
    }
    arguments: dict[str, Any] = {k: v for k, v in constraints.items() if v is not None}
    arguments["default_factory" if callable(default) else "default"] = default
    return Field(description=description, json_schema_extra=extra, **arguments)
