"""Whether a manifest can be run, and what is run where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncrl_api.errors import ManifestError
from asyncrl_api.exits import Note
from asyncrl_api.immutability import immutable_changes
from asyncrl_api.manifest import load_manifest, validate
from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJob
from asyncrl_operator.plan.observed import Observed


@dataclass(frozen=True)
class Acceptance:
    """The job to run, None for none, and why it is not the one of the manifest."""

    job: AsyncRLJob | None
    refusal: Note | None = None


def accept(resource: Mapping[str, Any], observed: Observed, *, over: bool) -> Acceptance:
    """What runs of an earlier spec goes on by it, and by the present runPolicy.

    So a mistake in a job that trains neither ends it nor leaves it without supervision. `over` says
    that it has ended: what is left of it is cleaned up the same way.
    """
    try:
        job = validate(dict(resource))
    except ManifestError as error:
        refusal = Note(Reason.INVALID_SPEC, "; ".join(str(error).splitlines()))
    else:
        found = observed.refused or _immutable(job, observed)
        if found is None:
            return Acceptance(job)
        refusal = found
    runs = bool(observed.jobs) or over
    return Acceptance(_accepted_before(resource, observed) if runs else None, refusal)


def _immutable(job: AsyncRLJob, observed: Observed) -> Note | None:
    """The API server compares all but what has no schema, such as the keyword arguments."""
    known = _known(observed)
    if known is None:
        return None
    changes = immutable_changes(known.spec, job.spec)
    return Note(Reason.IMMUTABLE_FIELD, "; ".join(map(str, changes))) if changes else None


def _known(observed: Observed) -> AsyncRLJob | None:
    """The job that the roles read; None where somebody has made it unreadable."""
    if observed.manifest is None:
        return None
    try:
        return load_manifest(observed.manifest)
    except ManifestError:
        return None


def _accepted_before(resource: Mapping[str, Any], observed: Observed) -> AsyncRLJob | None:
    """The job that the roles read, as they were told to end, wait and be counted now."""
    job = _known(observed)
    if job is None:
        return None
    document = job.document()
    document["spec"]["runPolicy"] = resource["spec"].get("runPolicy") or {}
    try:
        return validate(document)
    except ManifestError:
        return job
