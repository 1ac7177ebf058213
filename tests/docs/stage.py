"""A cluster for readers: a control plane, an operator as a process, and pods played by hand."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from cluster.by_hand.kubelet import HandKubelet
from cluster.control_plane import ControlPlane
from cluster.helm import Helm
from cluster.kubectl import Kubectl
from cluster.processes import Process
from cluster.storage import provide

from asyncrl_api.labels import JOB
from asyncrl_operator.kube.client import Api, Object
from asyncrl_operator.plan.names import OPERATOR_SELECTOR

SECONDS = 60.0
MONITORS = Path(__file__).parent / "monitors.yaml"
CRD = "asyncrljobs.asyncrl.io"
NAMESPACES = ("default", "team")
"""Where the pages have jobs; there pods run at once."""
OPERATORS = "asyncrl"
"""Where the pages install the chart; the pod of the operator is ready there, and does nothing."""
KEPT = {*NAMESPACES, OPERATORS, "kube-system", "kube-public", "kube-node-lease"}
LAST_WORD = {"outcome": "Complete", "reason": "TargetReturnReached", "message": "it is reached"}


class Stage:
    """The cluster from entering to leaving, with nothing of ours installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plane = ControlPlane(folder)
        self._loop = asyncio.new_event_loop()
        self._kubelets: dict[str, HandKubelet] = {}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._plane.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the administrator."""
        return self._plane.kubectl

    def __enter__(self) -> Stage:
        self._plane.start()
        try:
            self.kubectl("create", "namespace", "team")
            self.kubectl("create", "-f", str(MONITORS))
            provide(self.kubectl, self._folder / "volumes")
            self._leave = asyncio.Event()
            self._played = threading.Event()
            self._thread = threading.Thread(target=self._run, name="kubelets")
            self._thread.start()
            assert self._played.wait(SECONDS), "the kubelets do not start"
        except BaseException:
            self._plane.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(SECONDS)
        self._plane.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._play())

    async def _play(self) -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(
                await Api.connect(kubeconfig=str(self.kubeconfig))
            )
            chosen = ",".join(f"{key}={value}" for key, value in OPERATOR_SELECTOR.items())
            for number, namespace in enumerate(NAMESPACES, 100):
                kubelet = HandKubelet(api, namespace, f"127.0.1.{number}")
                self._kubelets[namespace] = await stack.enter_async_context(kubelet)
            await stack.enter_async_context(HandKubelet(api, OPERATORS, "127.0.0.1", chosen))
            self._played.set()
            await self._leave.wait()

    def complete(self, namespace: str, job: str) -> None:
        """Let the run of a job reach its target, once it is running."""
        running = ("--for=condition=Running", f"--timeout={SECONDS:.0f}s")
        self.kubectl("wait", "-n", namespace, f"arl/{job}", "--for=create", running[1])
        self.kubectl("wait", "-n", namespace, f"arl/{job}", *running, seconds=SECONDS + 10)
        kubelet = self._kubelets[namespace]

        async def end() -> None:
            (learner,) = (
                pod for pod in kubelet.pods("learner") if pod["metadata"]["labels"][JOB] == job
            )
            await kubelet.end(learner, 0, json.dumps(LAST_WORD))

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(SECONDS)

    @contextmanager
    def operator(self, log: Path) -> Iterator[Process]:
        """An operator of all namespaces, which waits for the definition of AsyncRLJob."""
        options = ("--metrics-host", "127.0.0.1", "--metrics-port", "0", "--report-interval", "1")
        command = [sys.executable, "-m", "asyncrl_operator", *options]
        process = Process("operator", command, log, {"KUBECONFIG": str(self.kubeconfig)})
        try:
            yield process
        finally:
            process.stop()

    def settled(self) -> None:
        """Return once the cluster has taken in what Helm installed; a reader is slower."""
        if self.kubectl("get", "crd", CRD, "--ignore-not-found", "-o", "name"):
            self.kubectl("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=60s")
        roles = {
            role["metadata"]["name"]: role for role in self.kubectl.get("clusterroles")["items"]
        }
        deadline, pause = time.monotonic() + SECONDS, threading.Event()
        while "asyncrl-view" in roles and not _reaches_jobs(
            self.kubectl.get("clusterrole", "edit")
        ):
            assert time.monotonic() < deadline, "the roles of users are not aggregated"
            pause.wait(0.1)

    def clear(self, helm: Path) -> None:
        """Remove what a page left behind: releases, jobs with their definition, namespaces."""
        releases = Helm(helm, self.kubeconfig, "default")
        for release in json.loads(releases("list", "--all-namespaces", "--output=json")):
            Helm(helm, self.kubeconfig, release["namespace"])(
                "uninstall", release["name"], "--wait"
            )
        self.kubectl("delete", "crd", CRD, "--ignore-not-found", "--timeout=60s", seconds=90)
        names = self.kubectl("get", "namespaces", "-o", "name").split()
        extra = {name.removeprefix("namespace/") for name in names} - KEPT
        if extra:
            self.kubectl("delete", "namespace", *extra, "--wait=false")


def _reaches_jobs(role: Object) -> bool:
    return any("asyncrl.io" in rule["apiGroups"] for rule in role["rules"] or ())
