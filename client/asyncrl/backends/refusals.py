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
_UNDECLARED = re.compile(r"\.(?P<path>[\w.\[\]-]+): field not declared in schema")
_UNKNOWN = re.compile(r'unknown field "(?P<path>[^"]+)"')
_VALUE = re.compile(
    r"^(?:Invalid value|Unsupported value|Forbidden|Required value)"
    r'(?:: (?:"(?P<text>(?:[^"\\]|\\.)*)"|(?P<word>[^:\s]+)))?(?:: )?(?P<rest>.*)$',
    re.DOTALL,
)


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
    if problems:
        return list(dict.fromkeys(problems))
    message = str(status.get("message", ""))
    paths = [m["path"] for regex in (_UNDECLARED, _UNKNOWN) for m in regex.finditer(message)]
    return [_unknown_field(path) for path in dict.fromkeys(paths)]


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
    """`Invalid value: -1: must be ...` as `-1 must be ...`; objects are not repeated."""
    found = _VALUE.match(message)
    if found is None:
        return message
    text, word = found["text"], found["word"]
    value = show(text) if text is not None else word
    if value in (None, "object", "array", "null") or value.startswith(("{", "[")):
        return found["rest"] or message
    return f"{value} {found['rest']}" if found["rest"] else f"{value} is refused"


def _unknown_field(path: str) -> Problem:
    keys = path.split(".")
    return Problem(path, suggest(fields_of(AsyncRLJob), tuple(keys[:-1]), keys[-1]))
