"""Why pods are refused, as the events of a namespace say it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from asyncrl_operator import refusals
from asyncrl_operator.kube.client import Api, Kind, Object
from asyncrl_operator.refusals import Refusals


def refused(uid: str, second: int, message: str) -> Object:
    time = f"2026-01-01T00:00:{second:02}Z"
    return {"involvedObject": {"uid": uid}, "lastTimestamp": time, "message": message}


class Events:
    """The events of a namespace, in pages of two."""

    def __init__(self, *events: Object) -> None:
        self.events = list(events)
        self.lists = 0

    async def list(self, _: Kind, namespace: str, query: Mapping[str, Any]) -> Object:
        assert namespace == "team"
        assert query["fieldSelector"] == "involvedObject.kind=Job,reason=FailedCreate"
        start = int(query.get("continue", 0))
        self.lists += start == 0
        await asyncio.sleep(0)  # others have their turn, as while a server answers
        more = {"continue": str(start + 2)} if start + 2 < len(self.events) else {}
        return {"items": self.events[start : start + 2], "metadata": more}


def ask(api: Events, *uids: str) -> list[tuple[datetime, str] | None]:
    async def story() -> list[tuple[datetime, str] | None]:
        found = Refusals(cast(Api, api))
        return list(await asyncio.gather(*(found.of("team", uid) for uid in uids)))

    return asyncio.run(story())


def test_the_newest_of_each_job_counts_in_whatever_order_they_come() -> None:
    api = Events(
        refused("a", 1, "quota: before"),
        refused("b", 2, "policy: now"),
        refused("b", 1, "policy: before"),
        refused("a", 3, "quota: now"),
    )
    a, b, c = ask(api, "a", "b", "c")
    assert a == (datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC), "quota: now")
    assert b == (datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC), "policy: now")
    assert c is None


def test_a_namespace_is_asked_once_for_all_its_jobs() -> None:
    api = Events(refused("a", 1, "quota"))
    ask(api, *(str(number) for number in range(50)))
    assert api.lists == 1


def test_old_answers_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "FRESH_SECONDS", -1.0)
    api = Events()
    ask(api, "a", "b")
    assert api.lists == 2
