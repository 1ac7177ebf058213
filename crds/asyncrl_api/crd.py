"""The CustomResourceDefinition, from the models.

The schema is structural, as Kubernetes asks: every value has a type, nothing refers elsewhere, and
null is `nullable`, not a type of its own. Defaults of the spec are in the schema, so that
`kubectl get -o yaml` shows them; the status has none, because absent means not known.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyncrl_api.document import dump_document
from asyncrl_api.fields import Field, fields_of
from asyncrl_api.generated import write_or_check
from asyncrl_api.immutability import IMMUTABLE, MUTABLE, REMEDY
from asyncrl_api.quantity import QUANTITY_PATTERN
from asyncrl_api.spec import GROUP, KIND, VERSION, AsyncRLJob
from asyncrl_api.status import JobStatus

PLURAL = "asyncrljobs"
PATH = Path(__file__).parents[1] / f"{GROUP}_{PLURAL}.yaml"
CHART_PATH = Path(__file__).parents[2] / "charts/asyncrl/templates/crd.yaml"

Schema = dict[str, Any]

COLUMNS: tuple[tuple[str, str, str, int, str], ...] = (
    ("Phase", "string", ".status.phase", 0, "The run in one word."),
    ("Version", "integer", ".status.training.policyVersion", 0, "Newest policy version."),
    ("Return", "number", ".status.training.episodeReturn", 0, "Mean return of new episodes."),
    ("Alignment", "number", ".status.alignment.smoothed", 0, "Smoothed gradient cosine."),
    ("Stability", "string", ".status.stability.verdict", 0, "Verdict on the run."),
    ("Staleness", "number", ".status.staleness.mean", 0, "Mean staleness in versions."),
    ("Actors", "integer", ".status.actors.replicas", 0, "Actors that exist."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since creation."),
    ("Checkpoint", "integer", ".status.checkpoint.version", 1, "Version of the checkpoint."),
    ("Restarts", "integer", ".status.restarts", 1, "Restarts of all roles."),
    ("Reason", "string", ".status.reason", 1, "Why it is in this phase."),
)
"""Name, type, JSON path, priority (1 only with -o wide) and description."""


def custom_resource_definition() -> dict[str, Any]:
    """The CRD as a document."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": PLURAL.removesuffix("s"),
                "shortNames": ["arl"],
                "categories": ["asyncrl"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.actors.replicas",
                            "statusReplicasPath": ".status.actors.replicas",
                            "labelSelectorPath": ".status.actors.selector",
                        },
                    },
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "schema": {"openAPIV3Schema": root_schema()},
                }
            ],
        },
    }


def root_schema() -> Schema:
    """The schema of the whole resource."""
    job = fields_of(AsyncRLJob)
    spec, name = job.find(("spec",)), job.find(("metadata", "name"))
    assert spec is not None and name is not None
    spec_schema = value_schema(spec)
    spec_schema.setdefault("x-kubernetes-validations", []).extend(_transition_rules(spec))
    status_schema = value_schema(fields_of(JobStatus, "status"), defaults=False)
    return {
        "type": "object",
        "description": job.description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            # Of metadata, Kubernetes lets a CRD restrict the name only.
            "metadata": {
                "type": "object",
                "properties": {
                    "name": {
                        "type": "string",
                        "maxLength": name.max_length,
                        "pattern": name.pattern,
                    }
                },
            },
            "spec": spec_schema,
            "status": status_schema,
        },
    }


def value_schema(field: Field, *, defaults: bool = True) -> Schema:
    """The schema of one field and all below it, with or without defaults."""
    schema: Schema = _type_schema(field)
    description = field.description
    if description and field.unit:
        description = f"{description} Unit: {field.unit}."
    if description:
        schema["description"] = description
    # The API server compares null with an enum too, but drops null where it is not allowed.
    if field.nullable and not field.enum:
        schema["nullable"] = True
    schema |= _bounds_schema(field)
    if defaults and not field.required and field.default is not None:
        schema["default"] = _default(field)
    if field.kind == "array" and field.item is not None:
        schema["items"] = value_schema(field.item, defaults=defaults)
    if field.kind == "map" and field.item is not None:
        schema["additionalProperties"] = value_schema(field.item, defaults=defaults)
    if field.kind == "object":
        required = [child.name for child in field.children if child.required]
        if required:
            schema["required"] = required
        schema["properties"] = {
            child.name: value_schema(child, defaults=defaults) for child in field.children
        }
    validations = [
        _validation(rule.cel, rule.message, rule.path)
        for rule in field.rules
        if rule.cel is not None
    ]
    if validations:
        schema["x-kubernetes-validations"] = validations
    return schema


def _type_schema(field: Field) -> Schema:
    match field.kind:
        case "open":
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        case "map":
            return {"type": "object"}
        case "time":
            return {"type": "string", "format": "date-time"}
        case "integer":
            return {"type": "integer", "format": "int64"}
        case "quantity":
            return {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "pattern": QUANTITY_PATTERN,
                "x-kubernetes-int-or-string": True,
            }
        case "array" if field.list_key is not None:
            return {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": [field.list_key],
            }
        case "array":
            return {"type": "array", "x-kubernetes-list-type": "atomic"}
        case _:
            return {"type": field.kind}


def _bounds_schema(field: Field) -> Schema:
    lengths = {"array": "Items", "map": "Properties", "open": "Properties"}.get(
        field.kind, "Length"
    )
    candidates: Schema = {
        "enum": list(field.enum) or None,
        "minimum": field.minimum,
        "exclusiveMinimum": field.exclusive_minimum or None,
        "maximum": field.maximum,
        "exclusiveMaximum": field.exclusive_maximum or None,
        f"min{lengths}": field.min_length,
        f"max{lengths}": field.max_length,
        "pattern": field.pattern,
    }
    return {key: value for key, value in candidates.items() if value is not None}


def _default(field: Field) -> Any:
    """The default; of an object, only what its own fields do not say.

    The API server checks the rules of an object against its default before it fills in those of
    the fields: where there are rules, the default is complete.
    """
    if field.kind != "object":
        return field.default
    if any(rule.cel is not None for rule in field.rules):
        return _without_nulls(field.default)
    values = {child.name: child for child in field.children}
    return {name: value for name, value in field.default.items() if value != values[name].default}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _validation(cel: str, message: str, path: Sequence[str]) -> Schema:
    validation: Schema = {"rule": cel, "message": message}
    if path:
        validation["fieldPath"] = "".join(f".{part}" for part in path)
    return validation


def _transition_rules(spec: Field) -> list[Schema]:
    rules = []
    for path in IMMUTABLE:
        field = spec.find(path)
        assert field is not None
        dotted = ".".join(path)
        whole = f"self.{dotted} == oldSelf.{dotted}"
        rule = _validation(_unchanged(field, path) if field.nullable else whole, REMEDY, path)
        rules.append(rule | {"reason": "FieldValueForbidden"})
    return rules


def _unchanged(field: Field, path: tuple[str, ...]) -> str:
    """CEL for: a field that may be absent, and what is in it, is as it was.

    Optional values (`self.?a`) would say it shorter, but the API server cannot tell what they cost.
    """
    now, before = (".".join((name, *path)) for name in ("self", "oldSelf"))
    same = f"{now} == {before}"
    if field.kind == "object":
        below = [(child, (*path, child.name)) for child in field.children]
        same = " && ".join(_unchanged(*child) for child in below if child[1] not in MUTABLE)
    if not field.nullable:
        return same
    return f"has({now}) == has({before}) && (!has({now}) || ({same}))"


def _column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    return {
        "name": name,
        "type": kind,
        "jsonPath": path,
        "priority": priority,
        "description": description,
    }


def crd_yaml() -> str:
    """The CRD as YAML text."""
    return "# Generated by python -m asyncrl_api.crd; do not edit.\n" + dump_document(
        custom_resource_definition()
    )


def chart_template() -> str:
    """The CRD as a template of the chart, so that `helm upgrade` brings it up to date too."""
    head, name, rest = crd_yaml().partition(f"  name: {PLURAL}.{GROUP}\n")
    comment, _, head = head.partition("\n")
    return (
        f"{{{{- /* {comment.removeprefix('# ')} */ -}}}}\n"
        "{{- if .Values.crds.install }}\n"
        f"{head}{name}"
        '  labels: {{- include "asyncrl.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        f"{_literal(rest)}"
        "{{- end }}\n"
    )


def _literal(text: str) -> str:
    """Text that a template engine leaves as it is."""
    return text.replace("{{", '{{ "{{" }}')


def main(arguments: Sequence[str]) -> int:
    """Write the CRD and its template in the chart, or with --check compare them."""
    files = ((PATH, crd_yaml()), (CHART_PATH, chart_template()))
    return max(write_or_check("asyncrl_api.crd", path, text, arguments) for path, text in files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
