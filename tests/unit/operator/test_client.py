"""The operator's connection, against a server that answers what no API server should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

from asyncrl_operator.kube.client import POD, Api, ApiError

EVENT = '{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}\n'


@asynccontextmanager
async def answering(text: str) -> AsyncIterator[Api]:
    """A connection to a server that answers this to everything."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server:
        configuration = client.Configuration(host=str(server.make_url("")).rstrip("/"))
        async with Api(configuration) as api:
            yield api


@pytest.mark.parametrize("text", ["", "<html>a proxy</html>", '{"items": [', "[]"])
def test_an_answer_that_is_no_object_is_no_answer(text: str) -> None:
    async def story() -> None:
        async with answering(text) as api:
            with pytest.raises(ApiError) as caught:
                await api.get(POD, "default", "a")
            assert (caught.value.reason, caught.value.transient) == ("Malformed", True)

    asyncio.run(story())


@pytest.mark.parametrize("cut", ['{"type": "ADDED", "obj', "null\n"])
def test_a_watch_that_is_cut_off_gives_what_came_before(cut: str) -> None:
    async def story() -> None:
        seen = []
        async with answering(EVENT + cut) as api:
            with pytest.raises(ApiError, match="not"):
                async for event in api.watch(POD, "default", {}):
                    seen.append(event["type"])
        assert seen == ["BOOKMARK"]

    asyncio.run(story())
