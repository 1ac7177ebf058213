"""Batches in and versions out, beside the training step: the learner's side of the protocol."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from asyncrl_worker.protocol.learner_client import BatchMessage, LearnerClient

WAIT_SECONDS = 1.0
"""Longest wait for a batch in one call; a wish to stop is seen this soon."""

OUTBOX = 4
"""Settlements on their way: as many as batches may be held, so that a learner whose parameter
server is away runs out of batches, where it sees a wish to stop, before it runs out of room."""


@dataclass(frozen=True)
class NewVersion:
    """A version to publish; `evaluate_episodes` of 0 asks for no evaluation of it."""

    version: int
    blob: bytes
    evaluate_episodes: int
    reset_environments: bool


@dataclass(frozen=True)
class Settlement:
    """What became of a batch, and the new version if there is one."""

    batch_id: int
    outcome: str
    published: NewVersion | None


class Exchange(Protocol):
    """Where the training loop gets batches and leaves what became of them."""

    def next(self) -> BatchMessage | None:
        """The next batch, or None after about WAIT_SECONDS. Raises what a thread raised."""
        ...

    def settle(self, settlement: Settlement) -> None:
        """Publish the new version, if any, then say what became of the batch."""
        ...

    def flush(self, patience: float = math.inf) -> None:
        """Return when what was settled has reached the parameter server, or after `patience`."""
        ...

    def close(self) -> None:
        """End the threads; what is still queued is given up."""
        ...


class LockstepExchange:
    """One thing after the other: for exact staleness, where the next batch depends on this one."""

    def __init__(self, client: LearnerClient) -> None:
        self._client = client

    def next(self) -> BatchMessage | None:
        """As Exchange."""
        return self._client.next_batch(WAIT_SECONDS)

    def settle(self, settlement: Settlement) -> None:
        """As Exchange."""
        _send(self._client, settlement)

    def flush(self, patience: float = math.inf) -> None:
        """Nothing is ever on its way."""

    def close(self) -> None:
        """There are no threads."""


class OverlappedExchange:
    """Fetches the next batch and publishes the last version while the learner trains.

    One batch is fetched ahead, asked for when the learner takes the one before. It was admitted
    under the staleness bound with every unsettled batch counted, so looking ahead does not loosen
    the bound.
    """

    def __init__(self, client: LearnerClient) -> None:
        self._client = client
        self._inbox: queue.Queue[BatchMessage] = queue.Queue(maxsize=1)
        self._room = threading.Semaphore(1)  # in the inbox, batches on their way to it counted
        self._outbox: queue.Queue[Settlement | None] = queue.Queue(maxsize=OUTBOX)
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("fetch", self._fetch), ("publish", self._publish))
        ]
        for thread in self._threads:
            thread.start()

    def next(self) -> BatchMessage | None:
        """As Exchange."""
        self._raise()
        try:
            batch = self._inbox.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            self._raise()
            return None
        self._room.release()
        return batch

    def settle(self, settlement: Settlement) -> None:
        """As Exchange; waits only where OUTBOX settlements are already on their way."""
        while True:
            self._raise()
            try:
                self._outbox.put(settlement, timeout=WAIT_SECONDS)
                return
            except queue.Full:
                continue

    def flush(self, patience: float = math.inf) -> None:
        """As Exchange."""
        limit = time.monotonic() + patience
        with self._outbox.all_tasks_done:
            while self._outbox.unfinished_tasks and time.monotonic() < limit:
                self._raise()
                self._outbox.all_tasks_done.wait(WAIT_SECONDS)

    def close(self) -> None:
        """As Exchange; quick where the client was closed before, which ends the calls under way."""
        self._closed.set()
        with contextlib.suppress(queue.Full):  # full: the thread is not waiting for it
            self._outbox.put_nowait(None)
        self._room.release()  # for a fetch that waits for it, and finds that this is over
        for thread in self._threads:
            thread.join(2 * WAIT_SECONDS)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:  # raised again in the training loop, at its next call
            self._error = error

    def _fetch(self) -> None:
        while not self._closed.is_set():
            if not self._room.acquire(timeout=WAIT_SECONDS) or self._closed.is_set():
                continue
            batch = self._client.next_batch(WAIT_SECONDS)
            if batch is None:
                self._room.release()
            else:
                self._inbox.put_nowait(batch)

    def _publish(self) -> None:
        while not self._closed.is_set():
            settlement = self._outbox.get()
            if settlement is None:
                return
            _send(self._client, settlement)
            self._outbox.task_done()


def _send(client: LearnerClient, settlement: Settlement) -> None:
    new = settlement.published
    if new is not None:
        client.publish(
            new.version,
            new.blob,
            evaluate_episodes=new.evaluate_episodes,
            reset_environments=new.reset_environments,
        )
    client.consumed(settlement.batch_id, settlement.outcome)
