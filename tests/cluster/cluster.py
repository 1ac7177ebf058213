"""A cluster: control plane, and a node with images where there shall be one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cluster.control_plane import ControlPlane
from cluster.images import Image, Images
from cluster.network import LOOPBACK, Slot
from cluster.node import Node


class Cluster:
    """Started on entering, gone on leaving. Its state is below `folder`.

    A node needs root on Linux: Unavailable says so. Raises also BuildError and NotReady.
    """

    def __init__(self, folder: Path, *, node: bool) -> None:
        self._folder = folder
        self._with_node = node
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            slot = None
            if self._with_node:
                slot = Slot()
                stack.callback(slot.release)
            network = LOOPBACK if slot is None else slot.network
            self.control_plane = stack.enter_context(ControlPlane(self._folder, network=network))
            self._node = None
            if slot is not None:
                self._node = stack.enter_context(
                    Node(self._folder / "node", self.control_plane, slot)
                )
                self._images = Images()
                self.load(self._images.pause())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def node(self) -> Node:
        """The node; the cluster must have been made with one."""
        assert self._node is not None
        return self._node

    @property
    def images(self) -> Images:
        """The store of images."""
        return self._images

    def load(self, *images: Image) -> None:
        """Bring images to the node."""
        self._images.load(self.node, *images)
