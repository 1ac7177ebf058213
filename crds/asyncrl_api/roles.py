"""The processes of a job: actors, learner and parameter server."""

from __future__ import annotations

from typing import Any, ClassVar

from asyncrl_api.model import Model, Rule, option
from asyncrl_api.quantity import Quantity


class EnvironmentVariable(Model):
    """An environment variable of a role's processes."""

    name: str = option(
        ...,
        "Name of the variable.",
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        remedy="use letters, digits and '_', not beginning with a digit",
    )
    value: str = option("", "Value, as text.", max_length=32_768)


class Resources(Model):
    """Resources of a role's container, as in a pod."""

    requests: dict[str, Quantity] = option(
        dict, "Least resources, by resource name.", max_length=16
    )
    limits: dict[str, Quantity] = option(dict, "Most resources, by resource name.", max_length=16)


def _names_are_unique(role: Any) -> bool:
    names = [variable.name for variable in role.env]
    return len(names) == len(set(names))


def _mapping(value: Any, *maps: str) -> bool:
    """Whether it is a mapping, or nothing, and what it has under these keys is one too."""
    if value is None:
        return True
    return isinstance(value, dict) and all(_mapping(value.get(key)) for key in maps)


def _mappings(value: Any, *keys: str) -> bool:
    """Whether each of these keys of a mapping has a list of mappings, or nothing."""
    lists = [value.get(key) for key in keys] if value else []
    known = [found for found in lists if found is not None]
    return all(isinstance(found, list) and all(map(_is_dict, found)) for found in known)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_pod_template(role: Any) -> bool:
    template = role.template
    metadata, spec = template.get("metadata"), template.get("spec")
    if not _mapping(metadata, "labels", "annotations") or not _mapping(spec, "nodeSelector"):
        return False
    containers = ("containers", "initContainers")
    if not _mappings(spec, *containers, "volumes", "tolerations", "imagePullSecrets"):
        return False
    found = [one for key in containers for one in (spec or {}).get(key) or []]
    return all(
        _mappings(one, "env", "ports", "volumeMounts") and _mapping(one.get("resources"), "limits")
        for one in found
    )


class Role(Model):
    """What every role has."""

    replicas: int = option(1, "Processes of the role.", unit="processes", ge=1, le=4096)
    env: list[EnvironmentVariable] = option(
        list, "Environment variables, by unique name.", max_length=64, list_key="name"
    )
    image: str | None = option(
        None,
        "Container image; null for the operator's own. Not used on one machine.",
        min_length=1,
        max_length=1024,
    )
    resources: Resources = option(
        Resources, "Resources of the role's container. Not used on one machine."
    )
    template: dict[str, Any] = option(
        dict,
        "A PodTemplateSpec, merged over the operator's own: maps by key, containers, volumes, "
        "mounts, ports and variables by name; null removes. Not used on one machine.",
    )
    priority_class_name: str | None = option(
        None,
        "Priority class of the role's pods. Where actors have a lower one than the learner, "
        "pressure removes actors first. Not used on one machine.",
        min_length=1,
        max_length=253,
    )
    metrics_port: int = option(
        0,
        "Port of metrics and health; 0 for any free port.",
        unit="TCP port",
        ge=0,
        le=65_535,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("env",),
            cel=None,  # The list is a map by name in the schema.
            holds=_names_are_unique,
            message="must name every variable once; remove the duplicate",
        ),
        Rule(
            path=("template",),
            cel=None,  # A schema of pods would be larger than that of everything else.
            holds=_is_pod_template,
            message="is no PodTemplateSpec; write metadata and spec as mappings, and containers, "
            "volumes and the like as lists of mappings",
        ),
    )


class Actors(Role):
    """The actors: they step environments and send fragments. They may come and go."""

    replicas: int = option(2, "Actors to run.", unit="processes", ge=1, le=4096)
    min_replicas: int | None = option(
        None,
        "Least actors that scaling may ask for; null for no limit. Disruptions may leave fewer: "
        "the run goes on, and says TooFewActors below this, or below replicas where it is null.",
        unit="processes",
        ge=1,
        le=4096,
    )
    max_replicas: int | None = option(
        None,
        "Most actors that scaling may ask for; null for no limit.",
        unit="processes",
        ge=1,
        le=4096,
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        *Role.rules,
        Rule(
            path=("replicas",),
            cel="!has(self.minReplicas) || self.minReplicas <= self.replicas",
            holds=lambda a: a.min_replicas is None or a.min_replicas <= a.replicas,
            message="must not be less than minReplicas; raise replicas or lower minReplicas",
        ),
        Rule(
            path=("replicas",),
            cel="!has(self.maxReplicas) || self.replicas <= self.maxReplicas",
            holds=lambda a: a.max_replicas is None or a.replicas <= a.max_replicas,
            message="must not be greater than maxReplicas; lower replicas or raise maxReplicas",
        ),
    )


class Learner(Role):
    """The learner: one or several ranks, each with an equal share of every batch."""

    replicas: int = option(1, "Ranks of the learner.", unit="processes", ge=1, le=1024)


class ParameterServer(Role):
    """The parameter server: weights, queue and ledger. Always one."""

    replicas: int = option(
        1,
        "Parameter servers; always 1.",
        unit="processes",
        ge=1,
        le=1,
        remedy="one parameter server serves all actors",
    )
