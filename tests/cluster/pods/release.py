"""The operator's pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.helm import Helm
from cluster.kubectl import Kubectl

NAMESPACE = "asyncrl-system"
SELECTOR = "app.kubernetes.io/name=asyncrl-operator"


class Release:
    """The operator that Helm installed."""

    def __init__(self, kubectl: Kubectl, helm: Helm, chart: Path) -> None:
        self._kubectl = kubectl
        self._helm = helm
        self._chart = str(chart)

    def pod(self) -> Any:
        """Its pod."""
        (pod,) = self._kubectl.get("-n", NAMESPACE, "pods", "-l", SELECTOR)["items"]
        return pod

    def holder(self) -> str:
        """Who holds its Lease."""
        lease = self._kubectl.get("-n", NAMESPACE, "lease", "asyncrl")
        return str(lease["spec"]["holderIdentity"])

    def kill(self) -> None:
        """End its pod without a word, as a lost node does; the Deployment makes another."""
        self._kubectl(
            *("delete", "pod", "-n", NAMESPACE, "-l", SELECTOR, "--grace-period=0", "--force"),
            "--wait=false",
        )

    def upgrade(self, *values: str) -> None:
        """Change values; returns once the new pod is ready and the old one is gone."""
        sets = [word for value in values for word in ("--set", value)]
        self._helm("upgrade", "asyncrl", self._chart, "--reuse-values", *sets, "--wait")
        deployment = ("-n", NAMESPACE, "deployment/asyncrl")
        self._kubectl("rollout", "status", *deployment, "--timeout=60s", seconds=90)

    def scale(self, replicas: int) -> None:
        """Run it, or have no operator; returns once that is so."""
        deployment = ("-n", NAMESPACE, "deployment/asyncrl")
        self._kubectl("scale", *deployment, f"--replicas={replicas}")
        if replicas:
            self._kubectl("rollout", "status", *deployment, "--timeout=60s", seconds=90)
        else:
            pods = ("pod", "-n", NAMESPACE, "-l", SELECTOR)
            self._kubectl("wait", *pods, "--for=delete", "--timeout=60s", seconds=90)

    def log(self) -> str:
        """What it wrote since it started."""
        return self._kubectl("logs", "-n", NAMESPACE, "-l", SELECTOR, "--tail=-1")
