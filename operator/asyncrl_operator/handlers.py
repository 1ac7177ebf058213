"""kopf's part: every event of an AsyncRLJob goes into the store, whose change wakes the queue.

Nothing is decided here. There are no finalizers, no annotations and no events of kopf's own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import kopf

from asyncrl_api.spec import GROUP, VERSION
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import ASYNCRLJOB

REQUEST_SECONDS = 15.0
WATCH_SECONDS = 290
RECONNECT_SECONDS = 1.0


async def run_kopf(
    jobs: Jobs, namespaces: Sequence[str | None], ready: asyncio.Event, stop: asyncio.Event
) -> None:
    """Watch AsyncRLJobs until `stop`; `ready` is set when the watch begins."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            return kopf.login_with_kubeconfig(**kwargs)
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event(GROUP, VERSION, ASYNCRLJOB.plural, registry=registry)
    async def seen(event: Any, **_: Any) -> None:
        # In the loop: kopf runs what is no coroutine in a thread, and the queue is of the loop.
        resource = {**event["object"]}
        resource.setdefault("kind", ASYNCRLJOB.name)
        resource.setdefault("apiVersion", ASYNCRLJOB.api_version)
        jobs.seen(resource, deleted=event["type"] == "DELETED")

    only = [namespace for namespace in namespaces if namespace is not None]
    await kopf.operator(
        registry=registry,
        settings=_settings(),
        clusterwide=not only,
        namespaces=only,
        standalone=True,
        ready_flag=ready,
        stop_flag=stop,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + REQUEST_SECONDS
    settings.watching.reconnect_backoff = RECONNECT_SECONDS
    return settings
