"""Health of the operator: a watch that is stuck is seen at the endpoint, as the kubelet asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from asyncrl_operator.children import DEAF_SECONDS, Children
from asyncrl_operator.endpoint import endpoint
from asyncrl_operator.handlers import run_kopf
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import (
    ASYNCRLJOB,
    CHILDREN,
    POD,
    Api,
    ApiError,
    Kind,
    Object,
)
from asyncrl_operator.main import parse, serve

Ask = Callable[[str], Any]


class Speaking:
    """An API server that has nothing, and says of a kind what a test wants, when it wants."""

    def __init__(self) -> None:
        self.events: dict[str, asyncio.Queue[Object]] = {k.name: asyncio.Queue() for k in CHILDREN}

    async def list(self, *_: Any) -> Object:
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    async def watch(
        self, kind: Kind, _namespace: str | None, _query: Mapping[str, Any]
    ) -> AsyncIterator[Object]:
        while True:
            yield await self.events[kind.name].get()

    async def bookmark(self, *kinds: Kind) -> None:
        """Say that nothing happened, and wait until that is heard."""
        for kind in kinds:
            event = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}
            self.events[kind.name].put_nowait(event)
        while any(not queue.empty() for queue in self.events.values()):
            await asyncio.sleep(0)
        await asyncio.sleep(0)


class Clock:
    """In the place of the module `time`; it goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the watches."""
    clock = Clock()
    for module in ("children", "kube.informer"):
        monkeypatch.setattr(f"asyncrl_operator.{module}.time", clock)
    return clock


@asynccontextmanager
async def watching(api: Speaking) -> AsyncIterator[Children]:
    """Children whose watches go on."""
    children = Children(cast(Api, api), (None,), lambda _: None)
    task = asyncio.create_task(children.run())
    try:
        await children.synced()
        yield children
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def asking(
    registry: CollectorRegistry,
    health: Callable[[], str | None],
    ready: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Ask]:
    """Gives what asks the real endpoint for a path: status and text."""
    async with (
        endpoint("127.0.0.1", 0, registry, health=health, ready=ready) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(path) as answer:
                return answer.status, await answer.text()

        yield ask


def run(story: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await story()

    asyncio.run(bounded())


def test_a_watch_that_is_silent_for_too_long_is_ill_and_well_once_it_is_heard(
    clock: Clock,
) -> None:
    async def story() -> None:
        api = Speaking()
        async with watching(api) as children, asking(CollectorRegistry(), children.health) as ask:
            clock.now += DEAF_SECONDS - 1
            assert await ask("/healthz") == (200, "ok"), "a watch may be silent as long as it lasts"
            await api.bookmark(*(kind for kind in CHILDREN if kind != POD))
            clock.now += 2
            seconds = DEAF_SECONDS + 1
            line = f"the watch of pods is silent for {seconds:.0f} s"
            assert await ask("/healthz") == (503, line), "one of them is enough"
            await api.bookmark(POD)
            assert await ask("/healthz") == (200, "ok")

    run(story)


def test_a_refusal_is_an_answer_and_no_silence(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace of a watch may be deleted, and a restart would not bring its rights back."""
    monkeypatch.setattr("asyncrl_operator.kube.informer.BACKOFF_SECONDS", (0.0, 0.0))

    class Refusing(Speaking):
        refused = 0
        refuses = False

        async def list(self, *_: Any) -> Object:
            if not self.refuses:
                return await super().list()
            self.refused += 1
            raise ApiError(403, "Forbidden", "no role any more")

        async def watch(self, *arguments: Any) -> AsyncIterator[Object]:
            while not self.refuses:
                await asyncio.sleep(0)
            raise ApiError(403, "Forbidden", "no role any more")
            yield {}

    async def story() -> None:
        api = Refusing()
        async with watching(api) as children:
            clock.now += DEAF_SECONDS + 1
            assert children.health() is not None
            api.refuses = True
            while api.refused < 3 * len(CHILDREN):
                await asyncio.sleep(0)
            assert children.health() is None

    run(story)


def test_ready_is_another_question_than_healthy() -> None:
    async def story() -> None:
        ready = asyncio.Event()
        registry = CollectorRegistry()
        async with asking(registry, lambda: "ill", ready.is_set) as ask:
            assert await ask("/readyz") == (503, "not ready")
            ready.set()
            assert await ask("/readyz") == (200, "ok")
            assert await ask("/healthz") == (503, "ill")

    run(story)


def test_the_metrics_are_those_of_the_registry_and_of_the_process() -> None:
    async def story() -> None:
        registry = CollectorRegistry()
        Gauge("depth", "Of the queue.", registry=registry).set(3)
        for _ in range(2):  # A second one has the registry to itself again.
            async with asking(registry, lambda: None) as ask:
                status, text = await ask("/metrics")
                assert status == 200
                assert "depth 3.0" in text
                assert text.count("\nprocess_resident_memory_bytes ") == 1
                assert (await ask("/elsewhere"))[0] == 404

    run(story)


class Connected(Speaking):
    """What Api.connect() gives."""

    async def __aenter__(self) -> Connected:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def version(self) -> tuple[int, int]:
        return (1, 37)


def test_the_operator_is_asked_for_every_watch_once_it_has_its_picture(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, stop = Connected(), asyncio.Event()
    known: list[Jobs] = []
    answers: list[tuple[int, str]] = []

    async def connect(**_: Any) -> Connected:
        return api

    async def watch_jobs(jobs: Jobs, _: Any, watching: asyncio.Event, stop: asyncio.Event) -> None:
        known.append(jobs)
        watching.set()
        await stop.wait()

    @asynccontextmanager
    async def local(
        _host: str, _port: int, registry: CollectorRegistry, **questions: Any
    ) -> AsyncIterator[int]:
        async with asking(registry, **questions) as ask:
            answers.append(await ask("/healthz"))
            answers.append(await ask("/readyz"))
            task = asyncio.create_task(story(ask))
            yield 0
            await task

    async def story(ask: Ask) -> None:
        while await ask("/readyz") != (200, "ok"):
            await asyncio.sleep(0)
        answers.append(await ask("/healthz"))
        monkeypatch.setattr(known[0], "_stuck", True)
        answers.append(await ask("/healthz"))
        monkeypatch.setattr(known[0], "_stuck", False)
        clock.now += DEAF_SECONDS + 1
        answers.append(await ask("/healthz"))
        stop.set()

    monkeypatch.setattr(Api, "connect", connect)
    monkeypatch.setattr("asyncrl_operator.process.run_kopf", watch_jobs)
    monkeypatch.setattr("asyncrl_operator.main.endpoint", local)
    run(lambda: serve(parse([]), stop))
    first, not_ready, good, stuck, deaf = answers
    assert (first, not_ready, good) == ((200, "ok"), (503, "not ready"), (200, "ok"))
    assert (stuck[0], deaf[0]) == (503, 503)
    assert "the watch of AsyncRLJobs misses changes" in stuck[1]
    assert "is silent for" in deaf[1]


def test_an_operator_whose_namespace_goes_ends_by_itself(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Losing(Connected):
        asked = 0

        async def list(self, kind: Any, namespace: Any, query: Any) -> Object:
            if kind is ASYNCRLJOB and namespace == "robots":
                self.asked += 1
                if self.asked > 3:
                    raise ApiError(403, "Forbidden", "no role any more")
            return await super().list()

    async def connect(**_: Any) -> Losing:
        return Losing()

    async def watch_jobs(_: Jobs, __: Any, watching: asyncio.Event, stop: asyncio.Event) -> None:
        watching.set()
        await stop.wait()

    monkeypatch.setattr(Api, "connect", connect)
    monkeypatch.setattr("asyncrl_operator.process.run_kopf", watch_jobs)
    monkeypatch.setattr("asyncrl_operator.process.RIGHTS_SECONDS", 0.0)
    options = parse(
        ["--namespace=vision", "--namespace=robots", "--metrics-host=127.0.0.1", "--metrics-port=0"]
    )
    run(lambda: serve(options, asyncio.Event()))


def test_what_kopf_tells_is_taken_in_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf runs what is no coroutine in a thread, and the queue is of the loop."""
    handlers: list[Any] = []

    def on_event(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return handlers.append

    async def operator(**_: Any) -> None:
        pass

    monkeypatch.setattr("kopf.on.event", on_event)
    monkeypatch.setattr("kopf.operator", operator)
    jobs = Jobs(lambda _: None)
    metadata = {"name": "job", "namespace": "default", "uid": "1", "resourceVersion": "1"}

    async def story() -> None:
        await run_kopf(jobs, (None,), asyncio.Event(), asyncio.Event())
        (seen,) = handlers
        await seen(event={"type": "ADDED", "object": {"metadata": metadata}})

    run(story)
    assert jobs.get(("default", "job")) is not None
