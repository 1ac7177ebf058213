"""Jobs from Python: the same verbs on a cluster and on this machine.

client = cluster(namespace="team")
name = client.submit("examples/cartpole.yaml")
outcome = client.wait(name, timeout=3600)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asyncrl.backends.run_logs import LogLine
from asyncrl.backends.supervisor import Outcome
from asyncrl.errors import ClusterUnavailableError, JobError, JobNotFoundError
from asyncrl_api.errors import ManifestError
from asyncrl_api.spec import AsyncRLJob
from asyncrl_api.status import JobStatus

if TYPE_CHECKING:
    from asyncrl.backends.kubernetes import KubernetesClient
    from asyncrl.backends.local_client import LocalClient

__all__ = [
    "Client",
    "ClusterUnavailableError",
    "JobError",
    "JobNotFoundError",
    "LogLine",
    "ManifestError",
    "Outcome",
    "cluster",
    "local",
]


class Client(Protocol):
    """What can be done with jobs, wherever they run.

    Methods raise JobError (one line with the remedy), of which ClusterUnavailableError says that
    trying again may help; a refused manifest is ManifestError, one line for each field.
    """

    def submit(self, manifest: str | Path | AsyncRLJob, overrides: Sequence[str] = ()) -> str:
        """Start the job of a manifest (path, YAML text or model), `overrides` as for --set.

        Returns its name.
        """

    def status(self, name: str) -> JobStatus:
        """The status as it is now."""

    def watch(self, name: str, timeout: float | None = None) -> Iterator[JobStatus]:
        """The status now and at every change, until the run has ended or `timeout` seconds."""

    def wait(self, name: str, timeout: float | None = None) -> Outcome:
        """How the run ended: phase Complete, Failed or Suspended, reason, message, exit_code.

        Raises TimeoutError after `timeout` seconds; the job goes on.
        """

    def logs(
        self,
        name: str,
        *,
        role: str | None = None,
        index: int | None = None,
        lines: int | None = None,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """What its processes wrote; with `follow`, on until the run ends."""

    def scale(self, name: str, actors: int) -> None:
        """Another number of actors."""

    def suspend(self, name: str) -> None:
        """Checkpoint and stop all processes."""

    def resume(self, name: str) -> None:
        """Go on from the checkpoint."""

    def delete(self, name: str) -> None:
        """End the run and remove all that belongs to it."""


def cluster(context: str | None = None, namespace: str | None = None) -> KubernetesClient:
    """A client of the cluster of a context of the kubeconfig, by default the current one.

    In a pod without a kubeconfig, the cluster around it. Without `namespace`, a job is
    submitted to the manifest's, and found there again; every other one is looked for in the
    context's.
    """
    from asyncrl.backends.kubernetes import KubernetesClient

    return KubernetesClient.connect(context, namespace)


def local(runs: str | Path = "runs") -> LocalClient:
    """A client of this machine; each run is a folder below `runs`."""
    from asyncrl.backends.local_client import LocalClient

    return LocalClient(Path(runs))
