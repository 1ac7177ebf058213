"""The parts of a running operator, put together: it watches at once, and acts once it leads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from asyncrl_operator.children import Children
from asyncrl_operator.handlers import run_kopf
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import ASYNCRLJOB, Api, ApiError
from asyncrl_operator.lease import Lease
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.plan.settings import Settings
from asyncrl_operator.reconcile import Reconciler
from asyncrl_operator.reports import Reports
from asyncrl_operator.workqueue import WorkQueue

SERVED_SECONDS = 1.0
TOLD_SECONDS = 30.0
RIGHTS_SECONDS = 60.0
"""How often each of several namespaces is asked for."""

log = logging.getLogger("asyncrl.operator")


class Unusable(Exception):
    """The operator cannot work on this cluster as it is; one line with the remedy."""


class OperatorProcess:
    """One operator on one cluster, from `run` to `stop`."""

    def __init__(
        self,
        api: Api,
        settings: Settings,
        metrics: OperatorMetrics,
        stop: asyncio.Event,
        lease: Lease | None,
    ) -> None:
        self._api = api
        self._settings = settings
        self._metrics = metrics
        self._stop = stop
        self._lease = lease
        self._queue = WorkQueue(asyncio.get_running_loop().time)
        self._jobs = Jobs(self._queue.add)
        self._children: Children | None = None
        self._watching, self._synced, self._leading = (asyncio.Event() for _ in range(3))

    def ready(self) -> bool:
        """Whether it has the whole picture; one that stands by has it too."""
        return self._synced.is_set()

    def health(self) -> str | None:
        """None, or one line that names the watch that is stuck."""
        if self._children is None or not self.ready():
            return None
        return self._children.health() or self._jobs.health()

    async def run(self, namespaces: Sequence[str | None]) -> None:
        """Work until `stop`. Raises ApiError, LeaseLost, and Unusable."""
        served = await _served(self._api, namespaces, self._stop)
        left_out = [namespace for namespace in namespaces if namespace not in served]
        children = self._children = Children(self._api, served, self._queue.add)
        interval = self._settings.report_interval
        reports = Reports(interval, self._queue.add)
        reconciler = Reconciler(
            self._api, self._jobs, children, reports, self._metrics, self._settings
        )
        work = {
            "children": children.run(),
            "kopf": run_kopf(self._jobs, served, self._watching, self._stop),
            "resync": self._jobs.resync(self._api, served),
            "lease": self._lead(),
            "reconciler": self._work(children, served, reconciler),
            "stop": self._stop.wait(),
        }
        if None not in namespaces:
            work["rights"] = _until_rights_change(self._api, served, left_out)
        parts = [asyncio.create_task(part, name=name) for name, part in work.items()]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            self._stop.set()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await reports.close()
            if self._lease is not None:
                await self._lease.release()

    async def _lead(self) -> None:
        await self._synced.wait()
        if self._lease is not None:
            await self._lease.acquire()
            log.info("event=leading lease=%s", self._lease.name)
        self._metrics.leading.set(1)
        self._leading.set()
        await (self._stop.wait() if self._lease is None else self._lease.keep())

    async def _work(
        self, children: Children, namespaces: Sequence[str | None], reconciler: Reconciler
    ) -> None:
        # A decision from half a picture could make pods twice.
        await children.synced()
        await self._watching.wait()
        self._synced.set()
        log.info("event=ready")
        await self._leading.wait()
        if self._lease is not None:
            # What the holder before wrote last may not have come by the watch yet.
            await self._jobs.list(self._api, namespaces)
        await reconciler.run(self._queue)


async def _served(
    api: Api, namespaces: Sequence[str | None], stop: asyncio.Event
) -> tuple[str | None, ...]:
    """Those whose AsyncRLJobs the API server lists for us, once it knows them at all.

    Helm makes the definition and us at once. A namespace that was deleted has taken our rights in
    it along: the others are served without it. Raises Unusable where none is left.
    """
    served: list[str | None] = []
    told = 0.0
    for namespace in namespaces:
        while not stop.is_set():
            try:
                await api.list(ASYNCRLJOB, namespace, {"limit": 1})
                served.append(namespace)
                break
            except ApiError as error:
                if error.status == 403:
                    log.error('event=left_out namespace=%s error="%s"', namespace or "all", error)
                    break
                if error.status != 404:
                    raise
            if time.monotonic() - told > TOLD_SECONDS:
                told = time.monotonic()
                log.warning(
                    'event=waiting for="the CustomResourceDefinition of AsyncRLJob; install it"'
                )
            await asyncio.sleep(SERVED_SECONDS)
    if not served and not stop.is_set():
        where = "in " + ", ".join(name or "all namespaces" for name in namespaces)
        raise Unusable(f"may not list AsyncRLJobs {where}; grant it, or choose --namespace")
    return tuple(served)


async def _until_rights_change(
    api: Api, served: Sequence[str | None], left_out: Sequence[str | None]
) -> None:
    """Wait until one of several namespaces is gone, or there again: a new start serves the others,
    or it too."""
    while True:
        await asyncio.sleep(RIGHTS_SECONDS)
        for namespace in (*served, *left_out):
            try:
                await api.list(ASYNCRLJOB, namespace, {"limit": 1})
                allowed = True
            except ApiError as error:
                if error.status != 403:
                    continue  # the informers say so
                allowed = False
            if allowed != (namespace in served):
                event = "namespace_returned" if allowed else "namespace_lost"
                log.warning("event=%s namespace=%s", event, namespace)
                return
