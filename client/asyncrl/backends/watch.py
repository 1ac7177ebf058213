"""Watches one object: list, then watch from there on; cuts are bridged, for a bounded time."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from asyncrl.backends.api_server import ApiServer, Deadline, Document
from asyncrl.backends.refusals import ExpiredError, Target, refusal
from asyncrl.errors import ClusterUnavailableError, JobDeletedError, JobNotFoundError

SLICE_SECONDS = 30
"""The server ends each watch after this; the next one begins where it ended."""
SLACK_SECONDS = 10.0
"""A watch that says nothing for this long beyond its end is cut."""
LIVED_SECONDS = 5.0
"""A watch that lived this long was a success, whatever ended it."""
GIVE_UP_SECONDS = 120.0
BACKOFF_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 10.0


class Patience:
    """How long failures in a row are borne. Pure: times (monotonic seconds) come in."""

    def __init__(self, give_up_seconds: float = GIVE_UP_SECONDS) -> None:
        self._give_up_seconds = give_up_seconds
        self._since: float | None = None
        self._failures = 0

    def failed(self, now: float) -> float | None:
        """Seconds to wait before the next attempt; None when it has been long enough."""
        if self._since is None:
            self._since = now
        if now - self._since >= self._give_up_seconds:
            return None
        self._failures += 1
        return min(BACKOFF_CAP_SECONDS, BACKOFF_SECONDS * 2.0 ** min(self._failures - 1, 16))

    def succeeded(self) -> None:
        """The count begins anew."""
        self._since, self._failures = None, 0


class ObjectWatch:
    """Yields one object now, at every change, and at least every SLICE_SECONDS.

    Raises JobNotFoundError where it is absent or goes, ClusterUnavailableError after
    GIVE_UP_SECONDS without an answer. `on_cut` hears of every cut that is bridged.
    """

    def __init__(
        self,
        server: ApiServer,
        target: Target,
        path: str,
        *,
        on_cut: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Any] | None = None,
        patience: Patience | None = None,
    ) -> None:
        assert target.name is not None
        self._server = server
        self._target = target
        self._path = path
        self._on_cut = on_cut or (lambda line: None)
        self._clock = clock
        self._pause = pause or threading.Event().wait
        self._patience = patience or Patience()
        self._version: str | None = None
        self._latest: Document | None = None
        self._opened_at: float | None = None

    def run(self, deadline: Deadline | None = None) -> Iterator[Document]:
        """The object, until the deadline passes."""
        deadline = deadline or Deadline(None)
        while not deadline.passed:
            try:
                if self._version is None:
                    yield self._list()
                yield from self._watch(deadline)
                if self._latest is not None:
                    yield self._latest
            except ExpiredError:
                self._version = None
            except ClusterUnavailableError as error:
                now = self._clock()
                if self._opened_at is not None and now - self._opened_at >= LIVED_SECONDS:
                    self._patience.succeeded()
                self._opened_at = None
                wait = self._patience.failed(now)
                if wait is None:
                    raise
                self._on_cut(str(error))
                left = deadline.left()
                self._pause(wait if left is None else min(wait, left))

    def _selector(self) -> dict[str, str | int]:
        return {"fieldSelector": f"metadata.name={self._target.name}"}

    def _list(self) -> Document:
        _, answer = self._server.request(self._target, "GET", self._path, query=self._selector())
        self._patience.succeeded()
        self._version = answer["metadata"]["resourceVersion"]
        items: list[Document] = answer["items"]
        if not items:
            raise JobNotFoundError(self._gone("no such job"))
        self._latest = items[0]
        return items[0]

    def _watch(self, deadline: Deadline) -> Iterator[Document]:
        left = deadline.left()
        seconds = SLICE_SECONDS if left is None else max(1, min(SLICE_SECONDS, math.ceil(left)))
        query = self._selector() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": seconds,
        }
        with self._server.stream(
            self._target, self._path, query=query, read_seconds=seconds + SLACK_SECONDS
        ) as lines:
            self._opened_at = self._clock()
            for line in lines:
                self._patience.succeeded()
                event = json.loads(line)
                kind, value = event["type"], event["object"]
                if kind == "ERROR":
                    raise refusal(
                        self._target, int(value.get("code", 500)), json.dumps(value).encode()
                    )
                self._version = value["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    raise JobDeletedError(self._gone("was deleted"))
                if kind in ("ADDED", "MODIFIED"):
                    self._latest = value
                    yield value
            self._patience.succeeded()

    def _gone(self, what: str) -> str:
        return f"{self._target.name}: {what} in namespace {self._target.namespace}"
