"""Volumes of a cluster of one node: folders, made beforehand, behind a default storage class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.kubectl import Kubectl

from asyncrl_api.document import dump_document

CLASS = "folders"
VOLUMES = 32
"""A released volume is not given out again, so that nobody reads what another wrote."""


def provide(kubectl: Kubectl, folder: Path) -> None:
    """Let claims be bound to folders below `folder`, which the node sees as this machine does."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volumes = [_volume(folder, number) for number in range(VOLUMES)]
    documents = {"apiVersion": "v1", "kind": "List", "items": [storage_class, *volumes]}
    kubectl("create", "-f", "-", stdin=dump_document(documents))


def _volume(folder: Path, number: int) -> dict[str, Any]:
    path = folder / str(number)
    path.mkdir(parents=True)
    # The kubelet changes no owner of a folder of the host, and roles are not root.
    path.chmod(0o777)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{CLASS}-{number}"},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "hostPath": {"path": str(path), "type": "Directory"},
        },
    }
