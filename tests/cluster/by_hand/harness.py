"""The operator in the loop of a test, against a real API server with a kubelet played by hand."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.by_hand.kubelet import HandKubelet
from cluster.job import condition

from asyncrl_api.status import JobStatus
from asyncrl_operator.kube.client import ASYNCRLJOB, EVENT, Api, Kind, Object
from asyncrl_operator.main import Options, serve
from asyncrl_operator.metrics import OperatorMetrics

WRITES = ("POST", "APPLY", "PATCH", "DELETE")
INTERVAL = 0.2
_addresses = itertools.count(2)


class Requests(Counter[tuple[str, str]]):
    """Requests to the API server by verb and resource."""

    @property
    def writes(self) -> int:
        """Requests that may change something."""
        return sum(count for (verb, _), count in self.items() if verb in WRITES)


class Operator:
    """An operator in a thread and an event loop of its own: kopf ends what is in its loop."""

    def __init__(self, options: Options, metrics: OperatorMetrics) -> None:
        self.error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(serve(options, asyncio.Event(), metrics))
        self._thread = threading.Thread(target=self._run, name="operator")
        self._thread.start()

    def check(self) -> None:
        """Raise what it died of."""
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        """End it wherever it is."""
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the operator does not end"

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._loop.close()


class World:
    """One namespace with an operator, a kubelet and jobs."""

    def __init__(self, api: Api, namespace: str, kubelet: HandKubelet, address: str) -> None:
        self.api = api
        self.namespace = namespace
        self.kubelet = kubelet
        self.address = address
        self.requests = Requests()
        self.may_die = False
        self._operator: Operator | None = None

    async def start(self, after_request: Callable[[str, str, int], None] | None = None) -> None:
        """Start the operator."""
        options = Options((self.namespace,), "worker:test", "info", "127.0.0.1", 0, INTERVAL)
        metrics = OperatorMetrics()
        count = metrics.count_request

        def counted(verb: str, resource: str, status: int) -> None:
            count(verb, resource, status)
            self.requests[verb, resource] += 1
            if after_request is not None:
                after_request(verb, resource, status)

        metrics.count_request = counted  # type: ignore[method-assign]
        before = self.requests["WATCH", "pods"]
        self._operator = Operator(options, metrics)
        async with asyncio.timeout(60):
            while self.requests["WATCH", "pods"] == before:
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End the operator at once, wherever it is."""
        if self._operator is not None:
            await asyncio.to_thread(self._operator.kill)

    async def submit(self, name: str, spec: Object | None = None) -> None:
        """Create a job."""
        if "volume" in (spec or {}).get("checkpoint", {}):
            await self._provide_volume(name)
        base: Object = {"workload": {"gymnasium": {"id": "CartPole-v1"}}}
        document = {
            "apiVersion": ASYNCRLJOB.api_version,
            "kind": ASYNCRLJOB.name,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": base | (spec or {}),
        }
        await self.api.create(ASYNCRLJOB, self.namespace, document, "test")

    async def _provide_volume(self, name: str) -> None:
        """What a storage class would do for the claim of a job."""
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{self.namespace}-{name}"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": self.namespace, "name": f"{name}-checkpoints"},
                "hostPath": {"path": "/tmp/unused"},
            },
        }
        kind = Kind("PersistentVolume", "v1", "persistentvolumes")
        await self.api.request("POST", kind, "/api/v1/persistentvolumes", body=volume)

    async def patch(self, name: str, spec: Object) -> None:
        """Change the spec of a job."""
        path = ASYNCRLJOB.path(self.namespace, name)
        await self.api.request(
            "PATCH",
            ASYNCRLJOB,
            path,
            body={"spec": spec},
            content="application/merge-patch+json",
        )

    async def job(self, name: str) -> Object:
        """A job as the API server has it."""
        found = await self.api.get(ASYNCRLJOB, self.namespace, name)
        assert found is not None, f"{name} is gone"
        return found

    async def status(self, name: str) -> JobStatus:
        """Its status."""
        return JobStatus.model_validate((await self.job(name)).get("status") or {})

    async def until(
        self, name: str, holds: Callable[[JobStatus], Any], what: str, seconds: float = 60.0
    ) -> JobStatus:
        """Wait until the status is as it should be; the kubelet then knows the pods of it."""
        status = JobStatus()
        try:
            async with asyncio.timeout(seconds):
                while True:
                    status = await self.status(name)
                    if holds(status):
                        await self.kubelet.caught_up()
                        return status
                    if self._operator is not None and not self.may_die:
                        self._operator.check()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = status.model_dump_json(by_alias=True, exclude_none=True, indent=1)
            pods = self.kubelet.describe()
            raise AssertionError(
                f"not within {seconds:g} s: {what}; pods: {pods}; status: {shown}"
            ) from None

    async def phase(self, name: str, phase: str, seconds: float = 60.0) -> JobStatus:
        """Wait for a phase."""
        return await self.until(name, lambda s: s.phase == phase, f"phase {phase}", seconds)

    async def told(self, name: str, *reasons: str) -> None:
        """Wait until the job has events of these reasons."""
        events: list[tuple[str, str]] = []
        try:
            async with asyncio.timeout(10):
                while not set(reasons) <= {reason for reason, _ in events}:
                    await asyncio.sleep(0.05)
                    events = await self.events(name)
        except TimeoutError:
            raise AssertionError(f"not told within 10 s: {reasons}; only {events}") from None

    async def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and message of the job's events."""
        query: dict[str, str | int] = {"fieldSelector": f"involvedObject.name={name}"}
        found = await self.api.list(EVENT, self.namespace, query)
        return [(event["reason"], event["message"]) for event in found["items"]]


@asynccontextmanager
async def world(kubeconfig: Path, namespace: str) -> AsyncIterator[World]:
    """A world with its operator running."""
    address = f"127.0.1.{next(_addresses)}"
    async with (
        await Api.connect(kubeconfig=str(kubeconfig)) as api,
        HandKubelet(api, namespace, address) as kubelet,
    ):
        found = World(api, namespace, kubelet, address)
        await found.start()
        try:
            yield found
        finally:
            await found.kill()


CLAIM: Object = {"checkpoint": {"volume": {"claim": {}}}}


def run(work: Coroutine[Any, Any, None], seconds: float = 120) -> None:
    """Run a story, which may take so long."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(bounded())


async def running(w: World, name: str = "job", spec: Any = None) -> None:
    """Submit a job and wait until all of it is ready."""
    await w.submit(name, CLAIM if spec is None else spec)
    await all_ready(w, name)


async def all_ready(w: World, name: str = "job", seconds: float = 60.0) -> JobStatus:
    """Wait until every role is ready."""
    ready = ("True", "AllRolesReady")
    return await w.until(name, lambda s: condition(s, "Running") == ready, "all ready", seconds)


async def settled(w: World) -> None:
    """Wait until the operator has written nothing for as long as it looks at young Jobs."""
    writes = -1
    while writes != w.requests.writes:
        writes = w.requests.writes
        await asyncio.sleep(4)


def name(pod: Any) -> str:
    """Name of a pod."""
    return str(pod["metadata"]["name"])


def role(pod: Any) -> str:
    """Role of a pod."""
    return str(pod["metadata"]["labels"]["asyncrl.io/role"])


def ready(pod: Any) -> bool:
    """Whether a pod is ready."""
    conditions = pod["status"].get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
