"""The logs of a job's pods: those of now, or on and on, with new pods as they come."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asyncrl.backends.api_server import ApiServer, Document, resource_path
from asyncrl.backends.refusals import Target
from asyncrl.backends.run_logs import LogLine
from asyncrl.backends.watch import SLACK_SECONDS, Patience
from asyncrl.errors import ClusterUnavailableError, JobError
from asyncrl_api.labels import INDEX, JOB, ROLE

POLL_SECONDS = 2.0
"""How often a follower looks for new pods, and whether the run is over."""
QUIET_SECONDS = 300.0
"""A log stream that is silent for this long is opened anew."""
QUEUE_LINES = 10_000
MOST_FOLLOWED = 64
LEAVE_SECONDS = 10.0
"""When the run is over, what the streams still hold gets this long."""


@dataclass(frozen=True)
class Container:
    """One life of a role's container in one pod."""

    pod: str
    name: str
    role: str
    index: int
    life: int
    started: bool
    running: bool

    @property
    def process(self) -> str:
        """ROLE-INDEX."""
        return f"{self.role}-{self.index}"


class PodLogs:
    """Reads the logs of one job's pods. Raises JobError."""

    def __init__(self, server: ApiServer, cluster: str, namespace: str, job: str) -> None:
        self._server = server
        self._cluster = cluster
        self._namespace = namespace
        self._job = job

    def read(self, role: str | None, index: int | None, lines: int | None) -> Iterator[LogLine]:
        """What is there now: of each pod, the life before a restart too, each after a header."""
        containers = self._containers(role, index)
        if not containers:
            raise self._none(role, index)
        for container in containers:
            if container.life > 0:
                yield from self._read(container, lines, previous=True)
            if container.started:
                yield from self._read(container, lines, previous=False)

    def follow(
        self,
        role: str | None,
        index: int | None,
        lines: int | None,
        *,
        over: Callable[[], bool],
    ) -> Iterator[LogLine]:
        """Every line from now on, and the last `lines` of what is there, until the run is over."""
        fresh: queue.Queue[LogLine] = queue.Queue(QUEUE_LINES)
        stop = threading.Event()
        followers: dict[tuple[str, int], _Follower] = {}
        left_at: float | None = None
        known = lines
        try:
            while True:
                finished = over()
                for container in self._containers(role, index):
                    key = (container.pod, container.life)
                    if not container.started or key in followers:
                        continue
                    if sum(thread.is_alive() for thread in followers.values()) >= MOST_FOLLOWED:
                        raise JobError(
                            f"{self._job}: more than {MOST_FOLLOWED} pods write at a time; "
                            "narrow them with --role or --index"
                        )
                    followers[key] = _Follower(self, container, known, fresh, stop)
                    followers[key].start()
                known = None  # what comes later is new from its first line on
                yield from _drain(fresh, POLL_SECONDS)
                alive = any(thread.is_alive() for thread in followers.values())
                if finished:
                    left_at = left_at or time.monotonic() + LEAVE_SECONDS
                    if not alive or time.monotonic() >= left_at:
                        yield from _drain(fresh, 0.0)
                        return
        finally:
            stop.set()

    def _containers(self, role: str | None, index: int | None) -> list[Container]:
        target = Target(self._cluster, self._namespace, "pods")
        _, answer = self._server.request(
            target,
            "GET",
            resource_path("/api/v1", self._namespace, "pods"),
            query={"labelSelector": f"{JOB}={self._job}"},
        )
        pods = sorted(answer["items"], key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        found = [container_of(pod) for pod in pods]
        wanted = [c for c in found if role in (None, c.role) and index in (None, c.index)]
        return sorted(wanted, key=lambda container: (container.role, container.index))

    def running(self, container: Container) -> bool:
        """Whether this life of the container goes on."""
        return any(
            other.running and (other.pod, other.life) == (container.pod, container.life)
            for other in self._containers(container.role, container.index)
        )

    def stream(self, container: Container, query: dict[str, str | int]) -> Any:
        """The log of a container as a context manager of lines."""
        return self._server.stream(
            Target(self._cluster, self._namespace, "pods", container.pod),
            resource_path("/api/v1", self._namespace, "pods", container.pod, "log"),
            query={"container": container.name, **query},
            read_seconds=QUIET_SECONDS,
        )

    def _read(
        self, container: Container, lines: int | None, *, previous: bool
    ) -> Iterator[LogLine]:
        life = container.life - previous
        query: dict[str, str | int] = {"previous": "true"} if previous else {}
        if lines is not None:
            query["tailLines"] = lines
        try:
            with self.stream(container, query) as stream:
                yield LogLine(container.process, f"--- {container.pod}, start {life + 1}")
                for line in stream:
                    yield LogLine(container.process, line.decode(errors="replace"))
        except ClusterUnavailableError:
            raise
        except JobError as error:
            # Of a life before, and of a pod that goes, there may be no log any more.
            if not previous:
                yield LogLine(container.process, f"--- no log: {error}")

    def _none(self, role: str | None, index: int | None) -> JobError:
        wanted = "-".join(str(part) for part in (role, index) if part is not None)
        if wanted:
            return JobError(f"{self._job}: no pod of {wanted}; leave out --role and --index")
        return JobError(
            f"{self._job}: has no pods now; `asyncrl status {self._job} "
            f"--namespace {self._namespace}` says why"
        )


class _Follower(threading.Thread):
    """Puts the lines of one container into a queue, over cuts of the connection."""

    def __init__(
        self,
        logs: PodLogs,
        container: Container,
        lines: int | None,
        fresh: queue.Queue[LogLine],
        stop: threading.Event,
    ) -> None:
        super().__init__(name=f"log {container.pod}", daemon=True)
        self._logs = logs
        self._container = container
        self._lines = lines
        self._fresh = fresh
        self._stopped = stop
        self._newest = ""
        """The timestamp of the newest line, RFC 3339 with nine digits, as kubelets write it."""

    def run(self) -> None:
        patience = Patience()
        while not self._stopped.is_set():
            try:
                self._stream()
                patience.succeeded()
                if not self._logs.running(self._container):
                    return
                wait: float | None = POLL_SECONDS
            except ClusterUnavailableError as error:
                wait = patience.failed(time.monotonic())
                if wait is None:
                    self._put(f"--- no longer followed: {error}")
                    return
            except JobError:
                return  # the pod is gone
            self._stopped.wait(wait)

    def _stream(self) -> None:
        query: dict[str, str | int] = {"follow": "true", "timestamps": "true"}
        if self._newest:
            query["sinceTime"] = self._newest
        elif self._lines is not None:
            query["tailLines"] = self._lines
        with self._logs.stream(self._container, query) as stream:
            if not self._newest:
                self._put(f"--- {self._container.pod}, start {self._container.life + 1}")
            for line in stream:
                if self._stopped.is_set():
                    return
                time_of_line, _, text = line.decode(errors="replace").partition(" ")
                # sinceTime is cut to the second: what was seen comes again.
                if time_of_line > self._newest:
                    self._newest = time_of_line
                    self._put(text)

    def _put(self, text: str) -> None:
        line = LogLine(self._container.process, text)
        while not self._stopped.is_set():
            try:
                self._fresh.put(line, timeout=SLACK_SECONDS)
                return
            except queue.Full:
                continue


def container_of(pod: Document) -> Container:
    """The role's container of a pod: the one named after the role, or the first."""
    metadata, labels = pod["metadata"], pod["metadata"].get("labels") or {}
    role = labels.get(ROLE, "unknown")
    names = [container["name"] for container in pod["spec"]["containers"]]
    name = role if role in names else names[0]
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    status: Document = next((s for s in statuses if s["name"] == name), {})
    state = status.get("state") or {}
    return Container(
        pod=metadata["name"],
        name=name,
        role=role,
        index=int(labels.get(INDEX, 0)),
        life=int(status.get("restartCount", 0)),
        started="running" in state or "terminated" in state,
        running="running" in state,
    )


def _drain(fresh: queue.Queue[LogLine], seconds: float) -> Iterator[LogLine]:
    """What comes within the time."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        try:
            yield fresh.get(timeout=left) if left > 0 else fresh.get_nowait()
        except queue.Empty:
            return
