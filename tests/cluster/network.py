"""The networks of a cluster with a node: one free slot of this machine.

A node lives in a network namespace of its own, joined to the machine by one pair of virtual
interfaces. So several clusters run beside each other, rules of iptables stay inside, and all of it
goes with the namespace. Pods and services can be reached from the machine by their addresses.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cluster.parts import cache_folder

SLOTS = 32


class Unavailable(RuntimeError):
    """This machine cannot run a node; the message says why and what helps."""


@dataclass(frozen=True)
class Network:
    """Addresses of one cluster: of the machine, the node, its pods, and services."""

    host: str
    services: str
    node: str = ""
    pods: str = ""

    @property
    def api_service(self) -> str:
        """Address of the service `kubernetes`, the first of the network."""
        return str(ipaddress.ip_network(self.services)[1])


LOOPBACK = Network(host="127.0.0.1", services="10.91.255.0/24")
"""For a control plane without nodes."""


class Slot:
    """One of the networks of this machine, held by a lock for the life of this process.

    `folder` belongs to the slot and stays: images once imported there are there for the next
    cluster. Raises Unavailable where the user may not make network interfaces.
    """

    def __init__(self) -> None:
        require_node()
        self.number, self._lock = _free_slot()
        self.folder = cache_folder() / "nodes" / str(self.number)
        self.interface = f"asyncrl{self.number}"
        self.peer = f"{self.interface}p"
        self.network = Network(
            host=f"10.89.{self.number}.1",
            node=f"10.89.{self.number}.2",
            pods=f"10.90.{self.number}.0/24",
            services=f"10.91.{self.number}.0/24",
        )
        # A pair left by a process that was killed.
        ip("link", "delete", self.interface, check=False)
        ip("link", "add", self.interface, "type", "veth", "peer", "name", self.peer)
        ip("address", "add", f"{self.network.host}/30", "dev", self.interface)
        ip("link", "set", self.interface, "up")

    def join(self, pid: int) -> None:
        """Move the other end into the network namespace of a process, and set up its network."""
        network, inside = self.network, ("nsenter", "--net", "--target", str(pid), "ip")
        ip("link", "set", self.peer, "netns", str(pid))
        ip("link", "set", "lo", "up", inside=inside)
        ip("address", "add", f"{network.node}/30", "dev", self.peer, inside=inside)
        ip("link", "set", self.peer, "up", inside=inside)
        ip("route", "add", "default", "via", network.host, inside=inside)
        for destination in (network.pods, network.services):
            ip("route", "add", destination, "via", network.node)

    def release(self) -> None:
        """Remove the interfaces and the routes over them, and let another process have the slot."""
        ip("link", "delete", self.interface, check=False)
        self._lock.close()


def require_node() -> None:
    """Raise Unavailable where a node cannot run: it needs Linux and root."""
    if sys.platform != "linux":
        raise Unavailable("a node needs Linux; set ASYNCRL_TEST_KUBECONFIG to use another cluster")
    if os.geteuid() != 0:
        raise Unavailable("a node needs root; set ASYNCRL_TEST_KUBECONFIG to use another cluster")


def ip(*arguments: str, check: bool = True, inside: tuple[str, ...] = ("ip",)) -> None:
    """Run `ip`, of the machine or inside a namespace. Raises Unavailable when it fails."""
    done = subprocess.run([*inside, *arguments], capture_output=True, text=True, timeout=10)
    if check and done.returncode:
        raise Unavailable(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _free_slot() -> tuple[int, TextIO]:
    folder = Path("/run/asyncrl-cluster")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS):
        lock = (folder / f"slot-{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return number, lock
    raise Unavailable(
        f"all {SLOTS} networks for clusters are taken; stop one with make cluster-down"
    )
