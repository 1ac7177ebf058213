"""What an API server says no with, as one line that names field or object, and the remedy. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from asyncrl.errors import ClusterUnavailableError, JobError, JobNotFoundError
from asyncrl_api.document import show
from asyncrl_api.errors import ManifestError, Problem
from asyncrl_api.fields import fields_of, suggest
from asyncrl_api.spec import GROUP, AsyncRLJob

PLURAL = "asyncrljobs"
INSTALL = "an administrator installs it with `helm install asyncrl charts/asyncrl`"

TRANSIENT = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""

_FORBIDDEN = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<what>[^"]+)"')
_UNTYPED = "failed to create typed patch object"
"""How a server-side apply that does not fit the schema is answered, with code 500."""
_UNTYPED_FIELD = re.compile(
    r"(?:^|\s)\.(?P<path>(?:metadata|spec)\S*): (?P<what>.+)$", re.MULTILINE
)
_KIND = re.compile(
    r"^(?:Invalid value|Unsupported value|Forbidden|Required value|Duplicate value): "
)
_VALUE = re.compile(r'^(?P<value>"(?:[^"\\]|\\.)*"|[-+\w.]+): (?P<what>.+)$', re.DOTALL)
_IN_BODY = re.compile(r"^\S+ in body ")


class ExpiredError(JobError):
    """The resource version to go on from is too old: list again."""


@dataclass(frozen=True)
class Target:
    """What a request was about, for messages."""

    cluster: str
    namespace: str
    resource: str = PLURAL
    name: str | None = None

    def __str__(self) -> str:
        return self.name if self.name is not None else f"namespace {self.namespace}"


def refusal(target: Target, code: int, body: bytes) -> JobError | ManifestError:
    """The error for an answer that is not 2xx."""
    status = _status(body)
    message = " ".join(str(status.get("message") or body.decode(errors="replace")).split())
    if code == 401:
        return JobError(
            f"cluster {target.cluster}: your credentials are not accepted; log in again, "
            "or choose another --context"
        )
    if code == 403:
        return JobError(_forbidden(target, message))
    if code == 404:
        return _not_found(target, status, message)
    if code == 410:
        return ExpiredError(f"{target}: {message}")
    if code in (400, 422):
        problems = problems_of(status)
        return ManifestError(problems) if problems else JobError(f"{target}: {message}")
    if code == 500 and _UNTYPED in message:
        return ManifestError(_untyped_problems(str(status["message"])))
    if code in TRANSIENT:
        return ClusterUnavailableError(
            f"cluster {target.cluster}: cannot answer now ({code} {message[:200]}); try again later"
        )
    return JobError(f"{target}: {message[:400]} ({code})")


def problems_of(status: dict[str, Any]) -> list[Problem]:
    """The causes of an Invalid or BadRequest status, one problem for each field."""
    details = status.get("details") or {}
    problems = [
        Problem(_path(cause.get("field")), _complaint(str(cause.get("message", ""))))
        for cause in details.get("causes") or []
        # A rule that could not be looked at, because of another problem that is listed too.
        if "some validation rules were not checked" not in str(cause.get("message"))
    ]
    return list(dict.fromkeys(problems))


def _status(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _forbidden(target: Target, message: str) -> str:
    found = _FORBIDDEN.search(message)
    if found is None:  # an admission controller or a quota
        return f"{target}: {message}"
    role = "asyncrl-view" if found["verb"] in ("get", "list", "watch") else "asyncrl-edit"
    if not found["what"].startswith(PLURAL):
        role = "view"  # pods and their logs, which ours do not grant
    return (
        f"namespace {target.namespace}: user {found['user']} may not {found['verb']} "
        f"{found['what']}; an administrator can bind the cluster role {role} to this user"
    )


def _not_found(target: Target, status: dict[str, Any], message: str) -> JobError:
    details = status.get("details") or {}
    if details.get("kind") == "namespaces":
        return JobError(
            f"namespace {target.namespace}: does not exist; create it with "
            f"`kubectl create namespace {target.namespace}`, or choose one with --namespace"
        )
    if details.get("name") and target.name is not None:
        return JobNotFoundError(
            f"{target.name}: no such job in namespace {target.namespace}; see them with "
            f"`asyncrl status --namespace {target.namespace}`"
        )
    if target.resource == PLURAL and not details.get("name"):
        return JobError(
            f"cluster {target.cluster}: does not know AsyncRLJob ({PLURAL}.{GROUP}); {INSTALL}"
        )
    return JobError(f"{target}: {message}")


def _path(field: object) -> str:
    return str(field).lstrip(".") if field and field != "<nil>" else "spec"


def _complaint(message: str) -> str:
    """`Invalid value: -1: spec.x in body should be ...` as `-1 should be ...`."""
    what = _KIND.sub("", message)
    found = _VALUE.match(what)
    if found is None:  # the message of a rule of ours, which ends in the remedy
        return what
    value = found["value"]
    shown = show(json.loads(value)) if value.startswith('"') else value
    what = _IN_BODY.sub("", found["what"])
    if what.startswith("supported values: "):
        return f"{shown} is not one of {what.removeprefix('supported values: ')}"
    return f"{shown} {what}"


def _untyped_problems(message: str) -> list[Problem]:
    problems = []
    for found in _UNTYPED_FIELD.finditer(message):
        path, what = found["path"], found["what"]
        if what == "field not declared in schema":
            keys = path.split(".")
            what = suggest(fields_of(AsyncRLJob), tuple(keys[:-1]), keys[-1])
        problems.append(Problem(path, what))
    return problems or [Problem("manifest", message)]
