"""Errors of the command and the Python client: one line with cause and remedy."""

from __future__ import annotations


class JobError(Exception):
    """One line, or one for each problem: what it is about, what is wrong, and the remedy."""


class JobNotFoundError(JobError):
    """There is no such job, or there is none any more."""


class JobDeletedError(JobNotFoundError):
    """The job was there, and was deleted while it was watched."""


class ClusterUnavailableError(JobError):
    """The cluster gave no answer within the deadline: trying again later may help."""


def install(extra: str) -> str:
    """The remedy where packages of an optional part are missing: asyncrl is not published yet."""
    return f"`pip install '.[{extra}]'` in a checkout of asyncrl"
