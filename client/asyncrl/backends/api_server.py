"""Requests to an API server: JSON in and out, every one with a deadline, refusals as errors."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from asyncrl.backends.kubeconfig import Cluster
from asyncrl.backends.refusals import Target, refusal
from asyncrl.errors import ClusterUnavailableError

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
ATTEMPTS = 4
BACKOFF_SECONDS = 0.5

JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"

LINE_BYTES = 16 * 2**20
"""The longest line of a stream that is taken in: more than any object or log line may have."""

Document = dict[str, Any]


class ApiServer:
    """One API server. Safe for several threads.

    An answer takes at most `read_seconds`; `sleep` is for the pauses between attempts. Methods
    raise JobError, or ManifestError where the server names fields.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        read_seconds: float = READ_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cluster = cluster
        self._read_seconds = read_seconds
        self._sleep = sleep

    def request(
        self,
        target: Target,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Document | None = None,
        content_type: str = JSON,
    ) -> tuple[int, Document]:
        """One idempotent request, repeated where the server is busy: the code and the answer."""
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            with self._open(target, method, path, query, body, content_type) as response:
                data = self._read(target, response)
                if 200 <= response.status < 300:
                    return response.status, json.loads(data)
                error = refusal(target, response.status, data)
                if last or not isinstance(error, ClusterUnavailableError):
                    raise error
                retry_after = response.headers.get("Retry-After")
            self._sleep(_pause(retry_after, attempt))
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(
        self,
        target: Target,
        path: str,
        *,
        query: Mapping[str, str | int],
        read_seconds: float,
    ) -> Iterator[Iterator[bytes]]:
        """The lines of an answer that goes on; `read_seconds` without a byte are a failure."""
        with self._open(target, "GET", path, query, None, JSON, read_seconds) as response:
            if not 200 <= response.status < 300:
                raise refusal(target, response.status, self._read(target, response))
            yield self._lines(target, response)

    def unavailable(self, error: Exception) -> ClusterUnavailableError:
        """The error for a connection that failed: address, cause and remedy."""
        from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

        address, context = self.cluster.address, self.cluster.context
        if isinstance(error, NewConnectionError):  # a kind of ConnectTimeoutError
            cause = re.sub(r"^\[Errno -?\d+\] ", "", str(error).rpartition(": ")[2])
        elif isinstance(error, ConnectTimeoutError | ReadTimeoutError):
            cause = "no answer within the deadline"
        else:
            cause = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
        return ClusterUnavailableError(
            f"cluster {context}: {address}: {cause}; is it running, and reachable from here?"
        )

    @contextmanager
    def _open(
        self,
        target: Target,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Document | None,
        content_type: str,
        read_seconds: float | None = None,
    ) -> Iterator[Any]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        client = self.cluster.client
        try:
            method, url, headers, _, _ = client.param_serialize(
                method, path, header_params={"Accept": JSON}, auth_settings=["BearerToken"]
            )
            if query:
                url = f"{url}?{urlencode(query)}"
            if body is not None:
                headers["Content-Type"] = content_type
            response = client.rest_client.request(
                method,
                url,
                headers,
                body,
                _request_timeout=(CONNECT_SECONDS, read_seconds or self._read_seconds),
            ).response
        except (HTTPError, ApiException, OSError) as error:
            raise self.unavailable(error) from error
        try:
            yield response
        finally:
            # A connection that was read to its end goes back to the pool, another one is cut.
            if response.closed:
                response.release_conn()
            else:
                response.close()

    def _read(self, target: Target, response: Any) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            return bytes(response.read())
        except (HTTPError, OSError) as error:
            raise self.unavailable(error) from error

    def _lines(self, target: Target, response: Any) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        partial = b""
        try:
            while chunk := response.read1(65536):
                *lines, partial = (partial + chunk).split(b"\n")
                yield from lines
                if len(partial) > LINE_BYTES:
                    raise OSError(f"a line of more than {LINE_BYTES} bytes")
        except (HTTPError, OSError, ValueError) as error:
            raise self.unavailable(error) from error
        if partial:
            yield partial


def resource_path(prefix: str, namespace: str, resource: str, *parts: str) -> str:
    """`/apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE/...`, each part quoted."""
    below = "/".join(quote(part, safe="") for part in (namespace, resource, *parts))
    return f"{prefix}/namespaces/{below}"


def _pause(retry_after: str | None, attempt: int) -> float:
    """Seconds before the next attempt: as the server asks, up to READ_SECONDS, or doubling."""
    if retry_after is not None and retry_after.isdecimal():
        return min(float(retry_after), READ_SECONDS)
    return BACKOFF_SECONDS * 2.0**attempt * random.uniform(0.8, 1.2)


class Deadline:
    """A time that is not to be passed; None is no limit."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = None if seconds is None else clock() + seconds

    def left(self) -> float | None:
        """Seconds left, not below 0; None without limit."""
        return None if self._at is None else max(0.0, self._at - self._clock())

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self.left() == 0.0
