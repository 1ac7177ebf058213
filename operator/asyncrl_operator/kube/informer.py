"""A copy of the objects that a label selects, kept by list and watch.

After a list the watch goes on from its resource version; bookmarks keep that fresh. What the API
server has forgotten (410), what is malformed, and what goes silent, is listed anew. A list that has
begun replaces the copy as a whole, so a deletion that was missed is seen.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from asyncrl_operator.kube.client import Api, ApiError, Kind, Object, key_of, pages

BACKOFF_SECONDS = (0.5, 30.0)

log = logging.getLogger("asyncrl.operator")

Changed = Callable[[Object], None]
"""Called with every object that was added, changed or deleted."""


class Informer:
    """The objects of one kind in one namespace, or in all of them (None)."""

    def __init__(
        self, api: Api, kind: Kind, selector: str, namespace: str | None, changed: Changed
    ) -> None:
        self.kind = kind
        self._api = api
        self._selector = selector
        self._namespace = namespace
        self._changed = changed
        self._objects: dict[tuple[str, str], Object] = {}
        self._version: str | None = None
        self._synced = asyncio.Event()
        self.heard = time.monotonic()
        """When the API server last said anything (monotonic seconds)."""

    def get(self, namespace: str, name: str) -> Object | None:
        """An object of the copy."""
        return self._objects.get((namespace, name))

    def all(self) -> list[Object]:
        """Every object of the copy."""
        return list(self._objects.values())

    def learn(self, document: Object) -> None:
        """What a write answered: as good as an event, and sooner."""
        self._keep(document)

    async def synced(self) -> None:
        """Wait for the first complete list."""
        await self._synced.wait()

    async def run(self) -> None:
        """List and watch until cancelled."""
        low, high = BACKOFF_SECONDS
        delay = low
        while True:
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
                delay = low
            except ApiError as error:
                if error.status:
                    self._heard()  # a refusal is an answer too
                if error.status == 410:
                    self._version = None
                    continue
                if error.status not in (0, 429) and error.status < 500:
                    self._version = None
                log.warning(
                    'event=watch_failed kind=%s retry=%.1f error="%s"', self.kind.name, delay, error
                )
                # A herd of operators must not come back at the same moment.
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(high, delay * 2)

    async def _list(self) -> None:
        found: dict[tuple[str, str], Object] = {}
        version = None
        query = {"labelSelector": self._selector}
        async for page in pages(self._api, self.kind, self._namespace, query):
            found |= {key_of(item): item for item in page["items"]}
            version = page["metadata"]["resourceVersion"]
            self._heard()
        before, self._objects = self._objects, found
        self._version = version
        for key, item in found.items():
            if before.get(key) != item:
                self._changed(item)
        for key, item in before.items():
            if key not in found:
                self._changed(item)
        self._synced.set()

    async def _watch(self) -> None:
        query: dict[str, str | int] = {
            "labelSelector": self._selector,
            "resourceVersion": self._version or "",
            "allowWatchBookmarks": "true",
        }
        async for event in self._api.watch(self.kind, self._namespace, query):
            self._heard()
            kind, item = event.get("type"), event.get("object") or {}
            if kind == "ERROR":
                code = int(item.get("code") or 500)
                raise ApiError(code, item.get("reason") or "Error", item.get("message") or "")
            self._version = item["metadata"]["resourceVersion"]
            if kind == "BOOKMARK":
                continue
            if kind == "DELETED":
                self._objects.pop(key_of(item), None)
                self._changed(item)
            else:
                self._keep(item)

    def _keep(self, item: Object) -> None:
        key = key_of(item)
        known = self._objects.get(key)
        if known is not None and newer(known, item):
            return
        self._objects[key] = item
        self._changed(item)

    def _heard(self) -> None:
        self.heard = time.monotonic()


def newer(one: Object, other: Object) -> bool:
    """Whether `one` is a later state of the same object, by resource version."""
    a, b = one["metadata"], other["metadata"]
    if a.get("uid") != b.get("uid"):
        return False
    first, second = a.get("resourceVersion", ""), b.get("resourceVersion", "")
    return first.isdigit() and second.isdigit() and int(first) > int(second)
