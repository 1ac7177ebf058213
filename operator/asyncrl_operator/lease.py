"""One operator at a time works: the holder of a Lease. The others watch, and take over.

Most of what two would write is the same, since plan() is pure. But both would make an authority for
a new job, and pods that mounted the first would not trust the second's; and one that is behind
could set a status back.

The package's own election ends on an unreachable API server, has no deadline for a request, and
does not give the Lease back, so that every update of the operator would wait for it to expire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from asyncrl_operator.kube.client import LEASE, POD, Api, ApiError, Object
from asyncrl_operator.plan.names import MANAGER

DURATION = 15
"""Seconds without a sign of life after which another takes the Lease."""
GONE = 5.0
"""The same where the holder's pod is gone: a process that lives has renewed twice in that time."""
GIVE_UP = 10.0
"""Seconds without a renewal after which the holder ends: before anyone may take its place."""
RETRY = 2.0


class LeaseLost(Exception):
    """This operator may not write any more."""


class Lease:
    """The Lease of this name; others' clocks are not asked, only whether it changes.

    `holder` is the name of a pod of this namespace, or, with a `_` in it, of a process elsewhere.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        holder: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._api = api
        self.namespace = namespace
        self._holder = holder
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        """The version of the Lease as another holds it, and when it was first seen."""
        self._renewed = 0.0

    async def acquire(self) -> None:
        """Wait until it is ours. Raises ApiError where that cannot be."""
        while not await self._take():
            await asyncio.sleep(RETRY)

    async def keep(self) -> None:
        """Renew it until it is lost. Raises LeaseLost: whatever writes must end at once."""
        while True:
            await asyncio.sleep(RETRY)
            mine = False
            with suppress(TimeoutError):
                async with asyncio.timeout(self._renewed + GIVE_UP - self._clock()):
                    mine = await self._take()
            if not mine and self._clock() >= self._renewed + GIVE_UP:
                raise LeaseLost(f"the Lease {self.name} was not renewed for {GIVE_UP:.0f} s")

    async def release(self) -> None:
        """Give it back, so that another need not wait for it to expire."""
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RETRY):
                known = await self._api.get(LEASE, self.namespace, self.name)
                if known is not None and known["spec"].get("holderIdentity") == self._holder:
                    known["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.replace(LEASE, known)

    async def _take(self) -> bool:
        """Take or renew it if that is allowed; False to try again."""
        began = self._clock()
        try:
            known = await self._api.get(LEASE, self.namespace, self.name)
            holder = "" if known is None else known["spec"].get("holderIdentity") or ""
            if known is not None and holder not in ("", self._holder):
                if self._renewed:
                    raise LeaseLost(f"the Lease {self.name} was taken by {holder}")
                version = str(known["metadata"]["resourceVersion"])
                if self._seen[0] != version:
                    self._seen = (version, began)
                silent = began - self._seen[1]
                if silent < DURATION and not (silent >= GONE and await self._gone(holder)):
                    return False
            await self._write(known, new=holder != self._holder)
        except ApiError as error:
            if not error.transient:
                raise
            return False
        self._renewed = began
        return True

    async def _gone(self, holder: str) -> bool:
        """Whether its pod was deleted, or ended and stayed, as an evicted one does."""
        if "_" in holder:
            return False
        try:
            pod = await self._api.get(POD, self.namespace, holder)
        except ApiError:
            return False  # nobody knows, or we may not ask: it is waited for
        return pod is None or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")

    async def _write(self, known: Object | None, *, new: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {} if known is None else dict(known["spec"])
        if new:
            changes = int(spec.get("leaseTransitions") or 0) + (known is not None)
            spec |= {"acquireTime": now, "leaseTransitions": changes}
        spec |= {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": DURATION,
            "renewTime": now,
        }
        if known is not None:
            await self._api.replace(LEASE, known | {"spec": spec})
            return
        document = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
        await self._api.create(LEASE, self.namespace, document, MANAGER)
