"""A cluster: a control plane, and a node with images once somebody needs it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import yaml
from cluster.control_plane import ControlPlane
from cluster.images import Image, Images
from cluster.kubectl import Kubectl
from cluster.network import LOOPBACK, Slot, Unavailable, require_node
from cluster.node import Node
from cluster.storage import provide

CHART = Path(__file__).parents[2] / "charts" / "asyncrl" / "Chart.yaml"
EXISTING = "ASYNCRL_TEST_KUBECONFIG"
"""Environment variable: the kubeconfig of a cluster to use instead of one of our own."""
APP_VERSION = yaml.safe_load(CHART.read_text())["appVersion"]


class Cluster:
    """A control plane from entering to leaving, and what was added to it meanwhile.

    Its state is below `folder`. Where this machine can run nodes it is on a network that a node can
    join. Raises BuildError and NotReady.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._slot: Slot | None = None

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            try:
                require_node()
            except Unavailable:
                network = LOOPBACK
            else:
                self._slot = Slot()
                stack.callback(self._slot.release)
                network = self._slot.network
            self.control_plane = stack.enter_context(ControlPlane(self._folder, network=network))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def kubectl(self) -> Kubectl:
        """kubectl as the administrator."""
        return self.control_plane.kubectl

    @cached_property
    def node(self) -> Node:
        """The node, started at first use. Raises Unavailable where this machine cannot run one."""
        require_node()
        assert self._slot is not None
        node = Node(self._folder / "node", self.control_plane, self._slot)
        self._stack.enter_context(node)
        self.images.load(node, self.images.pause())
        provide(self.kubectl, self._folder / "volumes")
        return node

    @cached_property
    def images(self) -> Images:
        """The store of images. Raises Unavailable where images cannot be built."""
        return Images()

    def load(self, *images: Image) -> None:
        """Bring images to the node."""
        self.images.load(self.node, *images)

    def publish(self, name: str) -> Image:
        """Build an image of ours and have it on the node, also by the name that the chart means."""
        image = self.images.build(name)
        self.load(image)
        self.node.tag(image.name, f"docker.io/library/asyncrl-{name}:{APP_VERSION}")
        return image
