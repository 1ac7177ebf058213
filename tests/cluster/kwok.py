"""Simulated nodes: real API objects, scheduled to by the real scheduler, that run nothing.

A pod on such a node is Running at once and stays so until it is deleted; a test that needs another
end patches its status, as a kubelet would. The nodes are tainted, so that only pods that tolerate
TAINT come to them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml
from cluster import parts
from cluster.build import build
from cluster.control_plane import READY, ControlPlane
from cluster.processes import Process, answers, free_port

TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
TOLERATION = {"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}

RUNNING = """\
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""

# What a kubelet reports of a pod that SIGTERM ended: the Job controller counts it by its phase.
ENDED = """\
phase: Failed
"""


class Kwok:
    """Plays the kubelets of simulated nodes of one control plane, from entering to leaving."""

    def __init__(self, folder: Path, control_plane: ControlPlane) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._control_plane = control_plane
        self._process: Process | None = None

    def __enter__(self) -> Kwok:
        build(parts.KWOK)
        stages = self._folder / "stages.yaml"
        stages.write_text(yaml.safe_dump_all(_stages()))
        address = f"127.0.0.1:{free_port()}"
        self._process = Process(
            "kwok",
            [
                parts.KWOK.program("kwok"),
                f"--kubeconfig={self._control_plane.kubeconfig}",
                f"--config={stages}",
                "--manage-all-nodes=false",
                f"--manage-nodes-with-annotation-selector={TAINT['key']}={TAINT['value']}",
                "--node-lease-duration-seconds=40",
                "--cidr=10.92.0.0/16",
                "--node-ip=10.92.255.254",
                f"--server-address={address}",
            ],
            self._folder / "kwok.log",
        )
        self._process.wait_until(partial(answers, f"http://{address}/healthz"), READY)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.stop(seconds=3)

    def add_nodes(
        self, prefix: str, count: int, *, gpus: int = 8, cpus: int = 64, memory: str = "512Gi"
    ) -> list[str]:
        """Make `count` nodes, wait until they are ready, and return their names."""
        names = [f"{prefix}-{number}" for number in range(count)]
        capacity = {"cpu": str(cpus), "memory": memory, "pods": "110", "nvidia.com/gpu": str(gpus)}
        nodes = yaml.safe_dump_all(_node(name, capacity) for name in names)
        kubectl = self._control_plane.kubectl
        kubectl("create", "-f", "-", stdin=nodes)
        ready = "--for=condition=Ready"
        kubectl("wait", ready, "--timeout=60s", *(f"node/{name}" for name in names), seconds=90)
        return names

    def remove_nodes(self, names: list[str]) -> None:
        """Delete nodes; the pods on them are lost, as those of machines that went away."""
        self._control_plane.kubectl("delete", "node", "--wait=false", *names)


def _node(name: str, capacity: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {TAINT["key"]: TAINT["value"]},
            "labels": {"kubernetes.io/hostname": name, "type": "kwok"},
        },
        "spec": {"taints": [TAINT]},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def _stages() -> list[dict[str, Any]]:
    deleted = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    alive = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    new = {"key": ".status.podIP", "operator": "DoesNotExist"}
    phase = ".status.phase"
    unfinished = {"key": phase, "operator": "In", "values": ["Pending", "Running"]}
    finished = {"key": phase, "operator": "In", "values": ["Succeeded", "Failed"]}
    return [
        _stage("pod-runs", [alive, new], {"statusTemplate": RUNNING}),
        _stage("pod-ends", [deleted, unfinished], {"statusTemplate": ENDED}),
        _stage("pod-goes", [deleted, finished], {"delete": True}),
    ]


def _stage(name: str, expressions: list[dict[str, Any]], then: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": expressions},
            "next": then,
        },
    }
