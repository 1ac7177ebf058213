"""NetworkPolicies on a node: its network plugin accepts them, and enforces none."""

from __future__ import annotations

import shlex
from functools import partial

from cluster import parts
from cluster.build import build
from cluster.control_plane import READY, ControlPlane
from cluster.node import Node
from cluster.processes import Process, answers


class Policies:
    """Enforces them from entering to leaving, with kube-router's firewall, as a cluster does.

    Policies and pods are watched. A pod is let in by what it may once it has an address; what is
    not allowed is refused, and what was connected before goes on. Raises BuildError, NotReady.
    """

    def __init__(self, node: Node, control_plane: ControlPlane) -> None:
        self._node = node
        self._control_plane = control_plane
        self._process: Process | None = None

    def __enter__(self) -> Policies:
        build(parts.KUBE_ROUTER)
        control_plane, node = self._control_plane, self._node
        user = "kube-router"
        # It writes nothing with the firewall alone; an administrator saves a list of its rights.
        pair = control_plane.authority.issue(user, groups=["system:masters"])
        kubeconfig = control_plane.user(user, pair)
        self._process = Process(
            user,
            node.command(
                parts.KUBE_ROUTER.program("kube-router"),
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={node.name}",
                f"--service-cluster-ip-range={node.network.services}",
                "--run-firewall=true",
                "--run-router=false",
                "--run-service-proxy=false",
                "--enable-cni=false",
                "--health-port=20244",
            ),
            node.folder / f"{user}.log",
        )
        healthy = f"http://{node.network.node}:20244/healthz"
        self._process.wait_until(partial(answers, healthy), READY)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            # What entered the node is a child of the process that we hold.
            self._node.run("pkill", "-x", "kube-router")
            self._process.stop()
        # Its own command for that ends with an error where it has run nothing but the firewall.
        for rule in self._node.run("iptables", "-w", "-S").splitlines():
            what, *words = shlex.split(rule)
            if what == "-A" and words[-1].startswith("KUBE-ROUTER-"):
                self._node.run("iptables", "-w", "-D", *words)
