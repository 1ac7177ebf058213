"""/metrics, /healthz and /readyz of the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)

REQUEST_SECONDS = 5.0


@asynccontextmanager
async def endpoint(
    host: str,
    port: int,
    registry: CollectorRegistry,
    *,
    health: Callable[[], str | None],
    ready: Callable[[], bool],
) -> AsyncIterator[int]:
    """Serve until the context ends; gives the port. `health` returns a line when ill (503)."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def healthz(_: web.Request) -> web.Response:
        problem = health()
        return web.Response(text=problem or "ok", status=200 if problem is None else 503)

    async def readyz(_: web.Request) -> web.Response:
        good = ready()
        return web.Response(text="ok" if good else "not ready", status=200 if good else 503)

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=REQUEST_SECONDS)
    await runner.setup()
    process = ProcessCollector(registry=registry)
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        registry.unregister(process)
        await runner.cleanup()
