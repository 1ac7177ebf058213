"""The API server as JSON: paths, deadlines, errors. Every request is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

REQUEST_SECONDS = 15.0
"""Deadline of a request that is no watch."""
WATCH_SECONDS = 290
"""The API server ends a watch after this long; it is taken up again where it ended."""
SILENCE_SECONDS = 90.0
"""A watch that brings nothing for so long, no bookmark either, is taken for broken.

The API server sends a bookmark about once a minute."""
CONNECTIONS = 512
PAGE = 500
"""Objects in one answer of a list."""
EVERYTHING: Mapping[str, str | int] = {}
APPLY = "application/apply-patch+yaml"
DRY_RUN = {"dryRun": "All"}
JSON = "application/json"

Object = dict[str, Any]


class ApiError(Exception):
    """The API server refused, or could not be reached (status 0); one line."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in (0, 408, 409, 410, 429) or self.status >= 500


@dataclass(frozen=True)
class Kind:
    """A kind of object and where the API server has it."""

    name: str
    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, part: str | None = None) -> str:
        """The path of a collection, an object, or a subresource of it."""
        root = f"/api/{self.api_version}" if "/" not in self.api_version else ""
        parts = [root or f"/apis/{self.api_version}"]
        if namespace is not None:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        parts += [piece for piece in (name, part) if piece is not None]
        return "/".join(parts)


ASYNCRLJOB = Kind("AsyncRLJob", "asyncrl.io/v1alpha1", "asyncrljobs")
JOB = Kind("Job", "batch/v1", "jobs")
POD = Kind("Pod", "v1", "pods")
SERVICE = Kind("Service", "v1", "services")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SECRET = Kind("Secret", "v1", "secrets")
CLAIM = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
NODE = Kind("Node", "v1", "nodes")
EVENT = Kind("Event", "v1", "events")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")

CHILDREN = (JOB, POD, SERVICE, CONFIG_MAP, CLAIM, NETWORK_POLICY, DISRUPTION_BUDGET)
KINDS = {kind.name: kind for kind in (ASYNCRLJOB, SECRET, EVENT, *CHILDREN)}

Count = Callable[[str, str, int], None]
"""Called after every request with verb, plural and status; 0 for no answer."""


class Api:
    """A connection to one API server; an async context manager."""

    def __init__(self, configuration: client.Configuration, count: Count = lambda *_: None) -> None:
        # Every watch holds a connection for as long as it lasts.
        configuration.connection_pool_maxsize = CONNECTIONS
        configuration.retries = None  # what failed is tried again by the queue, with a back-off
        self._client = client.ApiClient(configuration)
        self._count = count

    @classmethod
    async def connect(
        cls,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        count: Count = lambda *_: None,
    ) -> Self:
        """From a kubeconfig, or from inside a pod. Raises config.ConfigException."""
        configuration = client.Configuration()
        if kubeconfig is None and context is None:
            with suppress(config.ConfigException):
                config.load_incluster_config(configuration)
                return cls(configuration, count)
        await config.load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration
        )
        return cls(configuration, count)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """An object; None if there is none."""
        try:
            return await self.request("GET", kind, kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, kind: Kind, namespace: str | None, query: Mapping[str, str | int]
    ) -> Object:
        """A page of a list."""
        return await self.request("GET", kind, kind.path(namespace), query=query, verb="LIST")

    async def create(
        self, kind: Kind, namespace: str, document: Object, manager: str, *, dry_run: bool = False
    ) -> Object:
        """Make an object, or see whether it could be. Raises ApiError 409 if the name is taken."""
        query = {"fieldManager": manager} | (DRY_RUN if dry_run else {})
        return await self.request("POST", kind, kind.path(namespace), query=query, body=document)

    async def apply(
        self,
        kind: Kind,
        document: Object,
        manager: str,
        part: str | None = None,
        *,
        dry_run: bool = False,
    ) -> Object:
        """Server-side apply, of an object or a subresource; what others set of our fields goes."""
        metadata = document["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], part)
        query = {"fieldManager": manager, "force": "true"} | (DRY_RUN if dry_run else {})
        return await self.request(
            "PATCH", kind, path, query=query, body=document, content=APPLY, verb="APPLY"
        )

    async def replace(self, kind: Kind, document: Object) -> Object:
        """Put an object in the place of the one read. Raises ApiError 409 if it has changed."""
        metadata = document["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self.request("PUT", kind, path, body=document)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete in the background exactly this object, if it is still there."""
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", kind, kind.path(namespace, name), body=body)
        except ApiError as error:
            # 409 is another uid: the one meant is gone.
            if error.status not in (404, 409):
                raise

    async def version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        answer = await self.request("GET", Kind("Version", "v1", "version"), "/version")
        return int(answer["major"]), int(answer["minor"].rstrip("+"))

    async def watch(
        self, kind: Kind, namespace: str | None, query: Mapping[str, str | int]
    ) -> AsyncIterator[Object]:
        """Events as the API server sends them, until it ends the watch. Raises ApiError."""
        timeout = aiohttp.ClientTimeout(
            total=WATCH_SECONDS + SILENCE_SECONDS,
            sock_connect=REQUEST_SECONDS,
            sock_read=SILENCE_SECONDS,
        )
        query = {**query, "watch": "true", "timeoutSeconds": WATCH_SECONDS}
        response = await self._open("GET", kind.path(namespace), query, None, JSON, timeout)
        self._count("WATCH", kind.plural, response.status)
        try:
            if response.status >= 400:
                raise _error(response.status, await response.text())
            async for line in response.content:
                yield _parse(line)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error
        finally:
            response.close()

    async def request(
        self,
        method: str,
        kind: Kind,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Object | None = None,
        content: str = JSON,
        verb: str | None = None,
    ) -> Object:
        """Any request, counted as `verb`; its answer within REQUEST_SECONDS. Raises ApiError."""
        status = 0
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
                response = await self._open(method, path, query or {}, body, content, timeout)
                status = response.status
                text = await response.text()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error
        finally:
            self._count(verb or method, kind.plural, status)
        if status >= 400:
            raise _error(status, text)
        return _parse(text)

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: Object | None,
        content: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        url = f"{path}?{urlencode(query)}" if query else path
        _, address, headers, _, _ = await self._client.param_serialize(
            method,
            url,
            header_params={"Accept": JSON, "Content-Type": content},
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._client.rest_client.request(
                method, address, headers=headers, body=body, _request_timeout=timeout
            )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(error) from error
        response: aiohttp.ClientResponse = answer.response
        return response


async def pages(
    api: Api, kind: Kind, namespace: str | None, query: Mapping[str, str | int] = EVERYTHING
) -> AsyncIterator[Object]:
    """A list page by page; its items say what they are, as those of a watch do. Raises ApiError."""
    query = {**query, "limit": PAGE}
    while True:
        page = await api.list(kind, namespace, query)
        for item in page["items"]:
            item["kind"], item["apiVersion"] = kind.name, kind.api_version
        yield page
        more = page["metadata"].get("continue")
        if not more:
            return
        query["continue"] = more


def key_of(document: Object) -> tuple[str, str]:
    """Namespace and name."""
    metadata = document["metadata"]
    return metadata["namespace"], metadata["name"]


def _parse(text: str | bytes) -> Object:
    """An object as JSON; what a lost connection or a proxy made of it is no answer."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ApiError(0, "Malformed", f"an answer is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ApiError(0, "Malformed", "an answer is not a JSON object")
    return document


def _error(status: int, text: str) -> ApiError:
    try:
        document = json.loads(text)
        reason, message = document.get("reason") or str(status), document.get("message") or ""
    except (ValueError, AttributeError):
        reason, message = str(status), text[:200]
    return ApiError(status, reason, " ".join(message.split()))


def _unreachable(error: BaseException) -> ApiError:
    return ApiError(0, "Unreachable", f"{type(error).__name__}: {error}".rstrip(": "))
