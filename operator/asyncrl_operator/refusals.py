"""Why the Job controller could not make pods: it says so in its events only."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from datetime import UTC, datetime

from asyncrl_operator.kube.client import EVENT, Api, Object, pages
from asyncrl_operator.plan.observed import parse_time

FRESH_SECONDS = 5.0
PAGES = 4
"""Events expire after an hour, and equal ones are one: more than these are a namespace in ruins."""


class Refusals:
    """The newest refusal of each Job; a namespace is asked once in a while for all its jobs."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[float, dict[str, Object]]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, namespace: str, uid: str) -> tuple[datetime, str] | None:
        """When pods of the Job of this uid were refused last, and why. Raises ApiError."""
        async with self._locks[namespace]:
            known = self._known.get(namespace)
            if known is None or time.monotonic() - known[0] > FRESH_SECONDS:
                known = self._known[namespace] = (time.monotonic(), await self._list(namespace))
        event = known[1].get(uid)
        return None if event is None else (_time(event), str(event.get("message") or ""))

    async def _list(self, namespace: str) -> dict[str, Object]:
        newest: dict[str, Object] = {}
        query = {"fieldSelector": "involvedObject.kind=Job,reason=FailedCreate"}
        read = 0
        async for page in pages(self._api, EVENT, namespace, query):
            for event in page["items"]:
                uid = event["involvedObject"].get("uid", "")
                if uid not in newest or _time(event) > _time(newest[uid]):
                    newest[uid] = event
            read += 1
            if read == PAGES:
                break
        return newest


def _time(event: Object) -> datetime:
    text = event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp")
    return parse_time(text) or datetime.fromtimestamp(0, UTC)
