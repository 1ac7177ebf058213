"""Batches in and versions out beside the training step, against a server that is a script."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from asyncrl_worker.learner.exchange import (
    OUTBOX,
    WAIT_SECONDS,
    Exchange,
    LockstepExchange,
    NewVersion,
    OverlappedExchange,
    Settlement,
)
from asyncrl_worker.protocol.learner_client import BatchMessage
from asyncrl_worker.staleness import Ledger

DEADLINE = 10.0


class Script:
    """Stands where the client does: gives numbered batches and notes every call in its order."""

    def __init__(self, *, batches: int = 0) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.changed = threading.Condition()
        self.open = threading.Event()  # cleared: publishing waits
        self.open.set()
        self.fetching_fails: Exception | None = None
        self.publishing_fails: Exception | None = None
        self._left = batches
        self._given = 0

    def next_batch(self, timeout: float) -> BatchMessage | None:
        if self.fetching_fails is not None:
            raise self.fetching_fails
        with self.changed:
            if self._given >= self._left:
                self.changed.wait(timeout)
                return None
            self._given += 1
            self.note("fetch", self._given)
            return BatchMessage(self._given, 0, [], [], Ledger())

    def publish(
        self, version: int, blob: bytes, *, evaluate_episodes: int, reset_environments: bool
    ) -> None:
        if self.publishing_fails is not None:
            raise self.publishing_fails
        assert self.open.wait(DEADLINE)
        self.note("publish", version, blob, evaluate_episodes, reset_environments)

    def consumed(self, batch_id: int, outcome: str) -> None:
        self.note("consumed", batch_id, outcome)

    def note(self, *call: Any) -> None:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()

    def until(self, call: tuple[Any, ...]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: call in self.calls, DEADLINE)


def trained(batch: int) -> Settlement:
    return Settlement(batch, "trained", NewVersion(batch, b"w", batch % 2, batch == 2))


SKIPPED = Settlement(9, "skipped", None)


@pytest.mark.parametrize("kind", [LockstepExchange, OverlappedExchange])
def test_a_version_is_published_before_its_batch_is_consumed(kind: Any) -> None:
    script = Script(batches=2)
    exchange: Exchange = kind(script)
    for number in (1, 2):
        batch = exchange.next()
        assert batch is not None
        assert batch.batch_id == number
        exchange.settle(trained(number))
    exchange.settle(SKIPPED)
    exchange.flush()
    settled = [call for call in script.calls if call[0] != "fetch"]
    assert settled == [
        ("publish", 1, b"w", 1, False),
        ("consumed", 1, "trained"),
        ("publish", 2, b"w", 0, True),
        ("consumed", 2, "trained"),
        ("consumed", 9, "skipped"),
    ]
    exchange.close()


def test_one_batch_is_fetched_ahead_and_not_two() -> None:
    script = Script(batches=5)
    exchange = OverlappedExchange(script)  # type: ignore[arg-type]
    first = exchange.next()
    assert first is not None
    script.until(("fetch", 2))
    # Training takes its time; nothing may be asked for until the next batch is taken.
    exchange.settle(trained(1))
    exchange.flush()
    assert ("fetch", 3) not in script.calls
    assert exchange.next() is not None
    script.until(("fetch", 3))
    exchange.close()


def test_settling_does_not_wait_for_a_slow_publish_and_flush_does() -> None:
    script = Script()
    script.open.clear()
    exchange = OverlappedExchange(script)  # type: ignore[arg-type]
    exchange.settle(trained(1))
    exchange.settle(trained(2))
    assert script.calls == []
    flushed = threading.Event()

    def flush() -> None:
        exchange.flush()
        flushed.set()

    waiter = threading.Thread(target=flush)
    waiter.start()
    assert not flushed.is_set()
    script.open.set()
    waiter.join(DEADLINE)
    assert flushed.is_set()
    assert script.calls[-1] == ("consumed", 2, "trained")
    exchange.close()


def test_without_a_batch_next_returns_within_its_wait() -> None:
    exchange = OverlappedExchange(Script())  # type: ignore[arg-type]
    started = time.monotonic()
    assert exchange.next() is None
    assert time.monotonic() - started < 3 * WAIT_SECONDS
    exchange.close()


def raised_by(exchange: Exchange, method: str) -> Exception:
    with pytest.raises(RuntimeError) as caught:
        for _ in range(OUTBOX + 3):
            exchange.settle(trained(1)) if method == "settle" else getattr(exchange, method)()
    return caught.value


@pytest.mark.parametrize("method", ["next", "settle", "flush"])
def test_what_a_thread_raises_comes_out_of_the_next_call(method: str) -> None:
    failure = RuntimeError("the parameter server is gone")
    script = Script()
    if method == "next":
        script.fetching_fails = failure
    else:
        script.publishing_fails = failure
    exchange = OverlappedExchange(script)  # type: ignore[arg-type]
    if method == "flush":
        exchange.settle(trained(1))
    assert raised_by(exchange, method) is failure
    exchange.close()


def test_closing_is_quick_with_everything_full() -> None:
    script = Script(batches=9)
    exchange = OverlappedExchange(script)  # type: ignore[arg-type]
    script.until(("fetch", 1))
    script.open.clear()
    for number in (1, 2, 3):  # one is being published, two wait
        exchange.settle(trained(number))
    closing = threading.Timer(0.0, script.open.set)
    started = time.monotonic()
    closing.start()
    exchange.close()
    assert time.monotonic() - started < 3 * WAIT_SECONDS
    assert not any(thread.is_alive() for thread in exchange._threads)


@pytest.mark.timeout(60)
def test_closing_does_not_wait_for_a_fetch_that_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncrl_worker.learner.exchange.WAIT_SECONDS", 600.0)
    script = Script(batches=2)
    exchange = OverlappedExchange(script)  # type: ignore[arg-type]
    script.until(("fetch", 1))  # it lies in the inbox, and the next has no room
    exchange.close()
    assert not any(thread.is_alive() for thread in exchange._threads)
