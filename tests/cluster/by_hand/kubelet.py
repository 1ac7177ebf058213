"""A kubelet played by hand: pods run, end and report as a test says, at once.

Everything else is real: API server, Job controller, scheduler, garbage collection. Tests with real
containers are elsewhere; here ends of processes are scripted that take minutes there.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from asyncrl_api.status import LearnerReport
from asyncrl_operator.kube.certificates import files_of
from asyncrl_operator.kube.client import POD, SECRET, Api, ApiError, Kind, Object
from asyncrl_operator.kube.informer import Informer
from asyncrl_operator.plan.names import REPORT_PORT

NODE = Kind("Node", "v1", "nodes")
ROLE = "asyncrl.io/role"
INDEX = "batch.kubernetes.io/job-completion-index"
MANAGER = "hand-kubelet"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class HandKubelet:
    """The pods of one namespace that a selector chooses; a context manager in the test's loop."""

    def __init__(self, api: Api, namespace: str, address: str, selector: str = ROLE) -> None:
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._address = address
        self._node = f"hand-{namespace}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._informer = Informer(api, POD, selector, namespace, self._changed)
        self.pulls = True
        """Whether images can be pulled."""
        self.last_words: dict[str, str] = {}
        """Termination messages of pods that are asked to end, by role."""
        self.ends = asyncio.Event()
        """Whether pods that are asked to end do so."""
        self.ends.set()
        self._running: set[str] = set()

    async def __aenter__(self) -> HandKubelet:
        await self._request("POST", "/api/v1/nodes", _node(self._node))
        await self._heartbeat()
        self._tasks.add(asyncio.create_task(self._beat()))
        task = asyncio.create_task(self._informer.run())
        self._tasks.add(task)
        await self._informer.synced()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._request("DELETE", f"/api/v1/nodes/{self._node}")

    def pods(self, role: str | None = None, *, live: bool = True) -> list[Object]:
        """The pods that exist, by role and index."""
        found = [
            pod
            for pod in self._informer.all()
            if role in (None, pod["metadata"]["labels"][ROLE])
            and not (live and "deletionTimestamp" in pod["metadata"])
            and not (live and pod["status"].get("phase") in ("Failed", "Succeeded"))
        ]
        return sorted(found, key=lambda p: int(p["metadata"]["annotations"][INDEX]))

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Wait until a condition holds; its value."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):
                    await asyncio.sleep(0.02)
                return value
        except TimeoutError:
            line = f"not within {seconds:g} s: {what}; pods: {self.describe()}"
            raise AssertionError(line) from None

    async def caught_up(self, seconds: float = 60.0) -> None:
        """Wait until `pods` is what the API server has: a watch may be behind the operator's."""
        try:
            async with asyncio.timeout(seconds):
                query: dict[str, str | int] = {"labelSelector": self._selector}
                while True:
                    page = await self._api.list(POD, self._namespace, query)
                    if _versions(page["items"]) == _versions(self._informer.all()):
                        return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            line = f"the watch of pods is behind for {seconds:g} s: {self.describe()}"
            raise AssertionError(line) from None

    def describe(self) -> list[str]:
        """Every pod in a few words."""
        return [
            f"{p['metadata']['name']} {p['status'].get('phase')}"
            + (" terminating" if "deletionTimestamp" in p["metadata"] else "")
            for p in self.pods(live=False)
        ]

    async def end(self, pod: Object, code: int, message: str = "", reason: str = "Error") -> None:
        """The container of a pod ends for good."""
        ended = _ended(code, message, "Completed" if code == 0 else reason)
        await self._set(
            pod,
            phase="Succeeded" if code == 0 else "Failed",
            containerStatuses=[_container(pod, {"terminated": ended}, ready=False)],
            conditions=_conditions(False),
        )

    async def restart(
        self, pod: Object, code: int, message: str = "", reason: str = "Error", ready: bool = True
    ) -> None:
        """The container of a pod ends, and the kubelet restarts it in place."""
        known = self._informer.get(self._namespace, pod["metadata"]["name"])
        assert known is not None
        container = known["status"]["containerStatuses"][0]
        state = {"running": {"startedAt": now()}}
        fresh = _container(pod, state, ready=ready)
        fresh["restartCount"] = container["restartCount"] + 1
        fresh["lastState"] = {"terminated": _ended(code, message, reason)}
        await self._set(pod, containerStatuses=[fresh], conditions=_conditions(ready))

    async def set_ready(self, pod: Object, ready: bool) -> None:
        """Readiness of a running pod."""
        known = self._informer.get(self._namespace, pod["metadata"]["name"])
        assert known is not None
        container = dict(known["status"]["containerStatuses"][0], ready=ready)
        await self._set(pod, containerStatuses=[container], conditions=_conditions(ready))

    async def delete(self, pod: Object) -> None:
        """As kubectl delete pod."""
        await self._api.delete(POD, self._namespace, pod["metadata"]["name"])

    async def evict(self, pod: Object) -> None:
        """As kubectl drain."""
        name = pod["metadata"]["name"]
        metadata = {"name": name, "namespace": self._namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = POD.path(self._namespace, name, "eviction")
        await self._api.request("POST", POD, path, body=body)

    async def _beat(self) -> None:
        """Without it the node counts as lost after 50 s."""
        while True:
            await asyncio.sleep(5)
            await self._heartbeat()

    async def _heartbeat(self) -> None:
        amounts = {"cpu": "1000", "memory": "1000Gi", "pods": "1000"}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": now(),
        }
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        path = f"/api/v1/nodes/{self._node}/status"
        await self._request("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def _request(
        self, method: str, path: str, body: Object | None = None, content: str = "application/json"
    ) -> None:
        await self._api.request(method, NODE, path, body=body, content=content)

    def _changed(self, pod: Object) -> None:
        metadata, status = pod["metadata"], pod.get("status") or {}
        uid = metadata["uid"]
        if "deletionTimestamp" in metadata:
            self._start(self._terminate(pod), f"terminate-{uid}")
        elif not pod["spec"].get("nodeName"):
            return
        elif status.get("phase") == "Pending" and uid not in self._running:
            self._running.add(uid)
            self._start(self._run(pod), f"run-{uid}")

    def _start(self, work: Any, name: str) -> None:
        if any(task.get_name() == name for task in self._tasks):
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, pod: Object) -> None:
        role = pod["metadata"]["labels"].get(ROLE)
        if not self.pulls:
            waiting = {
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{pod["spec"]["containers"][0]["image"]}"',
            }
            container = _container(pod, {"waiting": waiting}, ready=False)
            await self._set(pod, phase="Pending", containerStatuses=[container])
            return
        state = {"running": {"startedAt": now()}}
        address = self._address if role == "learner" else "127.0.0.1"
        await self._set(
            pod,
            phase="Running",
            podIP=address,
            podIPs=[{"ip": address}],
            startTime=now(),
            containerStatuses=[_container(pod, state, ready=True)],
            conditions=_conditions(True),
        )

    async def _terminate(self, pod: Object) -> None:
        await self.ends.wait()
        name = pod["metadata"]["name"]
        role = pod["metadata"]["labels"].get(ROLE, "")
        status = pod.get("status") or {}
        if status.get("phase") == "Running":
            conditions = status.get("conditions") or []
            why = [each for each in conditions if each["type"] == "DisruptionTarget"]
            ended = _ended(130, self.last_words.get(role, ""), "Error")
            container = _container(pod, {"terminated": ended}, ready=False)
            await self._set(
                pod,
                phase="Failed",
                containerStatuses=[container],
                conditions=[*why, *_conditions(False)],
            )
        try:
            path = POD.path(self._namespace, name)
            body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
            await self._api.request("DELETE", POD, path, body=body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _set(self, pod: Object, **status: Any) -> None:
        path = POD.path(self._namespace, pod["metadata"]["name"], "status")
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        try:
            await self._api.request(
                "PATCH", POD, path, body=body, content="application/merge-patch+json"
            )
        except ApiError as error:
            if error.status not in (404, 409):
                raise


def _versions(pods: list[Object]) -> set[tuple[str, str]]:
    return {(pod["metadata"]["uid"], pod["metadata"]["resourceVersion"]) for pod in pods}


def _node(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
    }


def _ended(code: int, message: str, reason: str) -> Object:
    return {
        "exitCode": code,
        "reason": reason,
        "message": message,
        "startedAt": now(),
        "finishedAt": now(),
    }


def _container(pod: Object, state: Object, *, ready: bool) -> Object:
    spec = pod["spec"]["containers"][0]
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": "",
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": state,
    }


def _conditions(ready: bool) -> list[Object]:
    status = "True" if ready else "False"
    return [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()},
        {"type": "Ready", "status": status, "lastTransitionTime": now()},
    ]


class LearnerAnswers:
    """The report of a learner, over mutual TLS with the job's own certificates."""

    def __init__(self, report: LearnerReport) -> None:
        self.report = report
        self.asked = 0

    @asynccontextmanager
    async def serving(
        self, api: Api, namespace: str, name: str, address: str, folder: Path
    ) -> AsyncIterator[None]:
        """Serve while the context lasts; the Secret must be there."""
        secret = await api.get(SECRET, namespace, f"{name}-tls")
        assert secret is not None
        files = files_of(secret)
        for file in ("ca.crt", "learner.crt", "learner.key"):
            (folder / file).write_bytes(files[file])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "learner.crt", folder / "learner.key")
        context.verify_mode = ssl.CERT_REQUIRED
        application = web.Application()
        application.router.add_get("/report", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, REPORT_PORT, ssl_context=context).start()
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(
            text=self.report.model_dump_json(by_alias=True), content_type="application/json"
        )
