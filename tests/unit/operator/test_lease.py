"""The Lease: one holder, given back or taken when it expires, and let go before that."""

from __future__ import annotations

import asyncio
from copy import deepcopy

import pytest

from asyncrl_operator import lease as module
from asyncrl_operator.kube.client import POD, ApiError, Kind, Object
from asyncrl_operator.lease import DURATION, GIVE_UP, GONE, RETRY, Lease, LeaseLost


class OneLease:
    """An API server that has one Lease, with a version that changes with it, and two pods."""

    def __init__(self) -> None:
        self.stored: Object | None = None
        self.pods = {name: {"status": {"phase": "Running"}} for name in ("first", "second")}
        self.forbids = False
        """Whether pods may not be asked for."""
        self.down = False
        self.hangs = False
        self._version = 0

    async def _reached(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise ApiError(0, "Unreachable", "")

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        await self._reached()
        if kind == POD and self.forbids:
            raise ApiError(403, "Forbidden", "")
        return self.pods.get(name) if kind == POD else deepcopy(self.stored)

    async def create(self, kind: Kind, namespace: str, document: Object, manager: str) -> Object:
        await self._reached()
        if self.stored is not None:
            raise ApiError(409, "AlreadyExists", "")
        return self._store(document)

    async def replace(self, kind: Kind, document: Object) -> Object:
        await self._reached()
        assert self.stored is not None
        if document["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "")
        return self._store(document)

    def _store(self, document: Object) -> Object:
        self._version += 1
        metadata = {**document["metadata"], "resourceVersion": str(self._version)}
        self.stored = deepcopy({**document, "metadata": metadata})
        return self.stored

    @property
    def holder(self) -> str:
        assert self.stored is not None
        return str(self.stored["spec"]["holderIdentity"])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Virtual: who sleeps lets the time pass."""
    clock, sleep = Clock(), asyncio.sleep

    async def asleep(seconds: float) -> None:
        clock.now += seconds
        await sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", asleep)
    return clock


def make(api: OneLease, holder: str, clock: Clock) -> Lease:
    return Lease(api, "ops", "asyncrl", holder, clock)  # type: ignore[arg-type]


def test_the_second_takes_it_when_the_first_gives_no_sign_of_life(clock: Clock) -> None:
    async def story() -> None:
        api = OneLease()
        await make(api, "first", clock).acquire()
        began = clock.now
        await make(api, "second", clock).acquire()
        assert DURATION <= clock.now - began < 20
        assert api.holder == "second"
        assert api.stored is not None
        assert api.stored["spec"]["leaseTransitions"] == 1

    asyncio.run(story())


async def takeover(api: OneLease, holder: str, clock: Clock) -> float:
    """How long the second waits for a holder that was there and has not renewed since."""
    await make(api, holder, clock).acquire()
    began = clock.now
    await make(api, "second", clock).acquire()
    return clock.now - began


@pytest.mark.parametrize("phase", [None, "Succeeded", "Failed"])
def test_a_holder_whose_pod_is_gone_is_not_waited_for_as_long(
    clock: Clock, phase: str | None
) -> None:
    api = OneLease()
    del api.pods["first"]
    if phase is not None:
        api.pods["first"] = {"status": {"phase": phase}}
    waited = asyncio.run(takeover(api, "first", clock))
    assert 2 * RETRY < GONE <= waited < GONE + RETRY, "one that lives has renewed by then"


def test_a_holder_outside_pods_has_no_pod_to_look_for(clock: Clock) -> None:
    assert asyncio.run(takeover(OneLease(), "laptop_1d2c", clock)) >= DURATION


def test_who_may_not_ask_for_pods_waits(clock: Clock) -> None:
    api = OneLease()
    del api.pods["first"]
    api.forbids = True
    assert asyncio.run(takeover(api, "first", clock)) >= DURATION


def test_what_is_given_back_is_taken_at_once(clock: Clock) -> None:
    async def story() -> None:
        api = OneLease()
        first = make(api, "first", clock)
        await first.acquire()
        await first.release()
        began = clock.now
        await make(api, "second", clock).acquire()
        assert clock.now == began
        await first.release()
        assert api.holder == "second", "only its own"

    asyncio.run(story())


def test_a_holder_that_renews_keeps_it(clock: Clock) -> None:
    async def story() -> None:
        api = OneLease()
        first = make(api, "first", clock)
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        waiting = asyncio.create_task(make(api, "second", clock).acquire())
        until = clock.now + 600
        while clock.now < until:
            await asyncio.sleep(0)
        assert not keeping.done()
        assert not waiting.done()
        for task in (keeping, waiting):
            task.cancel()
        await asyncio.gather(keeping, waiting, return_exceptions=True)

    asyncio.run(story())


def test_a_holder_without_an_api_server_ends_before_another_may_begin(clock: Clock) -> None:
    async def story() -> None:
        api = OneLease()
        first = make(api, "first", clock)
        await first.acquire()
        began = clock.now
        api.down = True
        with pytest.raises(LeaseLost, match="was not renewed for 10 s"):
            await first.keep()
        assert GIVE_UP <= clock.now - began < DURATION

    asyncio.run(story())


def test_a_short_fault_costs_nothing(clock: Clock) -> None:
    async def story() -> None:
        api = OneLease()
        first = make(api, "first", clock)
        await first.acquire()
        api.down = True
        keeping = asyncio.create_task(first.keep())
        until = clock.now + GIVE_UP - 3
        while clock.now < until:
            await asyncio.sleep(0)
        api.down = False
        until = clock.now + 100
        while clock.now < until:
            await asyncio.sleep(0)
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(story())


def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    monkeypatch.setattr(module, "GIVE_UP", 0.2)

    async def story() -> None:
        api = OneLease()
        first = Lease(api, "ops", "asyncrl", "first")  # type: ignore[arg-type]
        await first.acquire()
        api.hangs = True
        with pytest.raises(LeaseLost):
            await first.keep()

    asyncio.run(story())


def test_a_holder_that_was_asleep_finds_that_another_has_it(clock: Clock) -> None:
    async def story() -> None:
        api = OneLease()
        first = make(api, "first", clock)
        await first.acquire()
        await make(api, "second", clock).acquire()
        first._renewed = clock.now
        with pytest.raises(LeaseLost, match="was taken by second"):
            await first.keep()

    asyncio.run(story())
