"""Names, labels and ports of a job's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asyncrl_api import labels

Role = Literal["actor", "learner", "parameter-server"]
ROLES: tuple[Role, ...] = ("parameter-server", "learner", "actor")

MANAGER = "asyncrl-operator"
"""Field manager of the objects, and their value of app.kubernetes.io/managed-by."""
STATUS_MANAGER = "asyncrl-status"

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR_SELECTOR = {"app.kubernetes.io/name": "asyncrl-operator"}
JOB_UID = "asyncrl.io/job-uid"
SELECTOR = f"{MANAGED_BY}={MANAGER},{labels.JOB}"
"""Label selector of everything that the operator makes."""

ATTEMPT = "asyncrl.io/attempt"
"""Annotation of a role's Job: the attempt that its pods are started with."""
TEMPLATE_HASH = "asyncrl.io/template-hash"
"""Annotation of a role's Job: what its pods are made from, except the attempt."""

DATA_PORT = 50051
HTTP_PORT = 8080
REPORT_PORT = 8443
RENDEZVOUS_PORT = 29500

MANIFEST_KEY = "manifest.yaml"


@dataclass(frozen=True)
class Owner:
    """The AsyncRLJob that objects belong to."""

    name: str
    namespace: str
    uid: str

    def labels(self, role: Role | None = None) -> dict[str, str]:
        """Labels of an object of this job."""
        found = {
            "app.kubernetes.io/name": "asyncrl",
            MANAGED_BY: MANAGER,
            labels.JOB: self.name,
            JOB_UID: self.uid,
        }
        return found if role is None else found | {labels.ROLE: role}

    def role_object(self, role: Role) -> str:
        """Name of the Job of a role; its pods are host NAME-ROLE-INDEX."""
        return f"{self.name}-{role}"

    @property
    def secret(self) -> str:
        """Name of the Secret with the job's authority and certificates."""
        return f"{self.name}-tls"

    @property
    def manifest(self) -> str:
        """Name of the ConfigMap with the manifest."""
        return f"{self.name}-manifest"

    @property
    def claim(self) -> str:
        """Name of the volume claim that is made for the job."""
        return f"{self.name}-checkpoints"

    @property
    def address(self) -> str:
        """Where the parameter server listens."""
        return f"{self.role_object('parameter-server')}-0.{self.name}:{DATA_PORT}"

    def pod_selector(self, role: Role) -> str:
        """Label selector of the pods of a role, for people and the scale subresource."""
        return f"{labels.JOB}={self.name},{labels.ROLE}={role}"

    def metadata(self, name: str, role: Role | None = None) -> dict[str, object]:
        """Metadata of an object of this job, with its owner."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(role),
            "ownerReferences": [
                {
                    "apiVersion": "asyncrl.io/v1alpha1",
                    "kind": "AsyncRLJob",
                    "name": self.name,
                    "uid": self.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        }
