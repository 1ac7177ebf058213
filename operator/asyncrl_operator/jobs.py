"""The AsyncRLJobs as they were last seen: fed by kopf's watch, by writes, and by a resync.

The resync lists all jobs every few minutes. It finds what a watch has missed, and so whether the
watch still lives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from asyncrl_operator.kube.client import ASYNCRLJOB, Api, ApiError, Object
from asyncrl_operator.kube.informer import newer
from asyncrl_operator.workqueue import Key

RESYNC_SECONDS = 300.0
MISSED_SECONDS = 60.0
"""A change that the watch has not told of for so long is missed."""

log = logging.getLogger("asyncrl.operator")


class Jobs:
    """Every job by key; `changed` is called with the key of each job that is new or other."""

    def __init__(self, changed: Callable[[Key], None]) -> None:
        self._changed = changed
        self._jobs: dict[Key, Object] = {}
        self._missed_since: float | None = None

    def get(self, key: Key) -> Object | None:
        """A job as last seen."""
        return self._jobs.get(key)

    def all(self) -> list[Object]:
        """Every job as last seen."""
        return list(self._jobs.values())

    def seen(self, resource: Object, *, deleted: bool = False) -> None:
        """An event of the watch."""
        key = key_of(resource)
        known = self._jobs.get(key)
        if deleted:
            if known is None or known["metadata"]["uid"] == resource["metadata"]["uid"]:
                self._jobs.pop(key, None)
                self._changed(key)
            return
        if known is not None and newer(known, resource):
            return
        self._jobs[key] = resource
        if known is None or known != resource:
            self._changed(key)

    def written(self, resource: Object) -> None:
        """What a write answered."""
        key = key_of(resource)
        known = self._jobs.get(key)
        if known is not None and not newer(known, resource):
            self._jobs[key] = resource

    def health(self) -> str | None:
        """None, or one line if the watch has missed changes."""
        if self._missed_since is None:
            return None
        return "the watch of AsyncRLJobs missed changes; a restart takes it up again"

    async def resync(self, api: Api, namespaces: Sequence[str | None]) -> None:
        """List all jobs every few minutes until cancelled, and look at each of them again."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self.list(api, namespaces)
            except ApiError as error:
                if error.status == 404:
                    raise  # the definition is gone; kopf would not notice its return
                log.warning('event=resync_failed error="%s"', error)

    async def list(self, api: Api, namespaces: Sequence[str | None]) -> None:
        """List all jobs once."""
        began = time.monotonic()
        before = dict(self._jobs)
        found: dict[Key, Object] = {}
        for namespace in namespaces:
            query: dict[str, str | int] = {"limit": 500}
            while True:
                page = await api.list(ASYNCRLJOB, namespace, query)
                for item in page["items"]:
                    item["kind"], item["apiVersion"] = ASYNCRLJOB.name, ASYNCRLJOB.api_version
                    found[key_of(item)] = item
                more = page["metadata"].get("continue")
                if not more:
                    break
                query["continue"] = more
        missed = [key for key, item in found.items() if self._is_missed(key, item, before)]
        missed += [key for key in before if key not in found and key in self._jobs]
        for key in before.keys() - found.keys():
            if self._jobs.get(key) is before[key]:
                self.seen(before[key], deleted=True)
        for item in found.values():
            self.seen(item)
        for key in self._jobs:
            self._changed(key)
        if missed and self._missed_since is not None:
            log.error("event=watch_stuck missed=%d", len(missed))
        self._missed_since = (self._missed_since or began) if missed else None

    def _is_missed(self, key: Key, item: Object, before: dict[Key, Object]) -> bool:
        known = before.get(key)
        return (known is None or newer(item, known)) and self._jobs.get(key) is known


def key_of(resource: Object) -> Key:
    """Namespace and name."""
    metadata = resource["metadata"]
    return metadata["namespace"], metadata["name"]
