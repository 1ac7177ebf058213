"""The table of a program's Prometheus metrics, for the reference pages of roles and operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

HEADER = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|"


class Family(Protocol):
    """The part of prometheus_client's Metric that is shown; the API does not depend on it."""

    name: str
    type: str
    documentation: str
    samples: Any


def label_names(metrics: object) -> dict[str, Sequence[str]]:
    """Label names of an object's metrics; a labelled one without a sample does not collect them."""
    found = [value for value in vars(metrics).values() if hasattr(value, "_labelnames")]
    return {value._name: value._labelnames for value in found}


def metrics_table(families: Iterable[Family], labels: Mapping[str, Sequence[str]]) -> str:
    """One row for each metric, by name."""
    ordered = sorted(families, key=lambda family: family.name)
    return "\n".join([HEADER, *(_row(family, labels.get(family.name, ())) for family in ordered)])


def _row(family: Family, labels: Sequence[str]) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    sampled = {label for sample in family.samples for label in sample.labels} - {"le"}
    shown = ", ".join(f"`{label}`" for label in labels or sorted(sampled)) or "-"
    return f"| `{name}` | {family.type} | {shown} | {family.documentation} |"
