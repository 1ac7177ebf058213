"""The store of AsyncRLJobs, and how it notices a watch that is stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import ApiError, Object

KEY = ("default", "job")


def job(version: int, uid: str = "1") -> Object:
    metadata = {
        "name": "job",
        "namespace": "default",
        "uid": uid,
        "resourceVersion": str(version),
    }
    return {"kind": "AsyncRLJob", "apiVersion": "asyncrl.io/v1alpha1", "metadata": metadata}


class Lists:
    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def list(self, *_: Any) -> Object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"metadata": {}, "items": list(answer)}


def resync(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
    """Resync until the answers are used up."""
    monkeypatch.setattr("asyncrl_operator.jobs.RESYNC_SECONDS", 0.0)
    monkeypatch.setattr("asyncrl_operator.jobs.MISSED_SECONDS", 0.0)
    api = Lists(*answers, ApiError(404, "NotFound", ""))
    with pytest.raises(ApiError, match="NotFound"):
        asyncio.run(jobs.resync(api, [None]))  # type: ignore[arg-type]


def test_older_states_and_the_ends_of_other_jobs_change_nothing() -> None:
    changed: list[Any] = []
    jobs = Jobs(changed.append)
    jobs.seen(job(5))
    jobs.written(job(8))
    jobs.seen(job(7))
    assert jobs.get(KEY) == job(8)
    jobs.seen(job(9, uid="0"), deleted=True)
    assert jobs.get(KEY) == job(8), "that was an earlier job of the name"
    jobs.seen(job(9), deleted=True)
    assert jobs.get(KEY) is None
    assert changed == [KEY, KEY]


def test_a_resync_finds_what_the_watch_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[Any] = []
    jobs = Jobs(changed.append)
    resync(jobs, monkeypatch, [job(5)])
    assert jobs.get(KEY) == job(5)
    assert changed
    assert jobs.health() is not None
    jobs.seen(job(5))
    resync(jobs, monkeypatch, [job(5)])
    assert jobs.health() is None, "the watch told of it, if late"
    resync(jobs, monkeypatch, [])
    assert jobs.get(KEY) is None
    assert jobs.health() is None


def test_an_api_server_that_is_away_is_no_stuck_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(lambda _: None)
    jobs.seen(job(5))
    resync(jobs, monkeypatch, ApiError(0, "Unreachable", ""), ApiError(503, "Unavailable", ""))
    assert jobs.health() is None
    assert jobs.get(KEY) == job(5)


def test_a_namespace_that_is_gone_hides_no_other() -> None:
    forbidden = ApiError(403, "Forbidden", "no role in robots")
    known = job(3)
    known["metadata"]["namespace"] = "robots"
    jobs = Jobs(lambda _: None)
    jobs.seen(known)
    api = Lists(forbidden, [job(5)])
    found = asyncio.run(jobs.list(api, ["robots", "default"]))  # type: ignore[arg-type]
    assert found == {KEY: job(5), ("robots", "job"): known}
    with pytest.raises(ApiError, match="no role"):
        asyncio.run(jobs.list(Lists(forbidden), [None]))  # type: ignore[arg-type]
