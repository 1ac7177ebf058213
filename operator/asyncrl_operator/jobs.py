"""The AsyncRLJobs as they were last seen: fed by kopf's watch, by writes, and by a resync.

The resync lists all jobs every few minutes. It finds what a watch has missed, and so whether the
watch still lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from asyncrl_operator.kube.client import ASYNCRLJOB, Api, ApiError, Object, key_of, pages
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
        self._told: dict[Key, Object] = {}
        """What the watch said last, apart from what lists and writes said."""
        self._stuck = False

    def get(self, key: Key) -> Object | None:
        """A job as last seen."""
        return self._jobs.get(key)

    def all(self) -> list[Object]:
        """Every job as last seen."""
        return list(self._jobs.values())

    def seen(self, resource: Object, *, deleted: bool = False) -> None:
        """An event of the watch."""
        key = key_of(resource)
        if deleted:
            self._told.pop(key, None)
            known = self._jobs.get(key)
            if known is None or known["metadata"]["uid"] == resource["metadata"]["uid"]:
                self._forget(key)
            return
        self._told[key] = resource
        self._learn(key, resource)

    def written(self, resource: Object) -> None:
        """What a write answered."""
        key = key_of(resource)
        known = self._jobs.get(key)
        if known is not None and not newer(known, resource):
            self._jobs[key] = resource

    def health(self) -> str | None:
        """None, or one line if the watch has missed changes."""
        if not self._stuck:
            return None
        return "the watch of AsyncRLJobs misses changes; a restart takes it up again"

    async def resync(self, api: Api, namespaces: Sequence[str | None]) -> None:
        """List all jobs every few minutes until cancelled, and look at each of them again.

        Raises ApiError 404 when the definition is gone: the watch would not notice its return.
        """
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                listed = await self.list(api, namespaces)
            except ApiError as error:
                if error.status == 404:
                    raise
                log.warning('event=resync_failed error="%s"', error)
                continue
            await asyncio.sleep(MISSED_SECONDS)
            missed = [key for key, item in listed.items() if self._is_missed(key, item)]
            if missed:
                log.error("event=watch_stuck missed=%d first=%s/%s", len(missed), *missed[0])
            self._stuck = bool(missed)

    async def list(self, api: Api, namespaces: Sequence[str | None]) -> dict[Key, Object]:
        """List all jobs once, and look at each of them again.

        One of several namespaces may be deleted, and with it the right to list what was in it.
        """
        before = dict(self._jobs)
        found: dict[Key, Object] = {}
        for namespace in namespaces:
            try:
                found |= await _list(api, namespace)
            except ApiError as error:
                if error.status != 403 or namespace is None:
                    raise
                log.warning('event=namespace_unseen namespace=%s error="%s"', namespace, error)
                found |= {key: item for key, item in before.items() if key[0] == namespace}
        for key in before.keys() - found.keys():
            if self._jobs.get(key) is before[key]:
                self._forget(key)
        for key, item in found.items():
            self._learn(key, item)
            self._changed(key)
        return found

    def _learn(self, key: Key, resource: Object) -> None:
        known = self._jobs.get(key)
        if known is not None and newer(known, resource):
            return
        self._jobs[key] = resource
        if known is None or known != resource:
            self._changed(key)

    def _forget(self, key: Key) -> None:
        self._jobs.pop(key, None)
        self._changed(key)

    def _is_missed(self, key: Key, item: Object) -> bool:
        """Whether the watch has not told of a listed state a minute later, nor of its end."""
        if key not in self._jobs:
            return False
        told = self._told.get(key)
        return told is None or newer(item, told)


async def _list(api: Api, namespace: str | None) -> dict[Key, Object]:
    listed = pages(api, ASYNCRLJOB, namespace)
    return {key_of(item): item async for page in listed for item in page["items"]}
