"""The objects of all jobs, by job: what the informers hold, indexed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from asyncrl_api import labels
from asyncrl_operator.kube.client import (
    CHILDREN,
    POD,
    SILENCE_SECONDS,
    WATCH_SECONDS,
    Api,
    Kind,
    Object,
)
from asyncrl_operator.kube.informer import Informer
from asyncrl_operator.plan.names import SELECTOR
from asyncrl_operator.workqueue import Key

DEAF_SECONDS = WATCH_SECONDS + 2 * SILENCE_SECONDS
"""An informer that has heard nothing for so long is stuck."""


class Children:
    """Informers of every kind of child; `changed` gets the key of the job that is concerned."""

    def __init__(
        self, api: Api, namespaces: Sequence[str | None], changed: Callable[[Key], None]
    ) -> None:
        self._job_changed = changed
        self._ended: dict[Key, Object] = {}
        self._by_job: dict[Key, dict[tuple[str, str], Object]] = {}
        self._informers = {
            (kind.name, namespace): Informer(api, kind, SELECTOR, namespace, self._changed_of(kind))
            for kind in CHILDREN
            for namespace in namespaces
        }

    async def run(self) -> None:
        """Keep the copies until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run(), name=f"informer-{informer.kind.plural}")

    async def synced(self) -> None:
        """Wait until every copy is complete."""
        for informer in self._informers.values():
            await informer.synced()

    def of_job(self, key: Key) -> dict[tuple[str, str], Object]:
        """The objects that carry a job's label, by kind and name."""
        return dict(self._by_job.get(key, {}))

    def last_learner(self, key: Key) -> Object | None:
        """The newest pod of rank 0 that ended, as it was then: pods go soon after they end."""
        return self._ended.get(key)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._ended.pop(key, None)

    def learn(self, kind: Kind, document: Object) -> None:
        """What a write answered."""
        informer = self._of(kind, document["metadata"]["namespace"])
        if informer is not None:
            informer.learn(document)

    def health(self) -> str | None:
        """None, or one line that names the watch that is stuck."""
        for informer in self._informers.values():
            silent = time.monotonic() - informer.heard
            if silent > DEAF_SECONDS:
                return f"the watch of {informer.kind.plural} is silent for {silent:.0f} s"
        return None

    def _of(self, kind: Kind, namespace: str) -> Informer | None:
        return self._informers.get((kind.name, namespace)) or self._informers.get((kind.name, None))

    def _changed_of(self, kind: Kind) -> Callable[[Object], None]:
        def changed(item: Object) -> None:
            metadata = item["metadata"]
            job = (metadata.get("labels") or {}).get(labels.JOB)
            if job is None:
                return
            key = (metadata["namespace"], job)
            if kind is POD and _is_ended_learner(item):
                self._ended[key] = item
            informer = self._of(kind, metadata["namespace"])
            known = informer.get(metadata["namespace"], metadata["name"]) if informer else None
            mine = self._by_job.setdefault(key, {})
            if known is None:
                mine.pop((kind.name, metadata["name"]), None)
                if not mine:
                    del self._by_job[key]
            else:
                mine[kind.name, metadata["name"]] = known
            self._job_changed(key)

        return changed


def _is_ended_learner(pod: Object) -> bool:
    metadata = pod["metadata"]
    if (metadata.get("labels") or {}).get(labels.ROLE) != "learner":
        return False
    if (metadata.get("annotations") or {}).get(labels.INDEX) != "0":
        return False
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    own = (status for status in statuses if status["name"] == "learner")
    return any("terminated" in (status.get("state") or {}) for status in own)
