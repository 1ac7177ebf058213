"""The real roles as pods run them: no supervisor, no shared folder, mutual TLS over TCP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import yaml
from e2e.harness import PATIENCE, Document, Folder, until
from unit.role.certificates import Authority

from asyncrl_api.status import LearnerReport

MODULES = {
    "actor": "asyncrl_worker.actor.main",
    "learner": "asyncrl_worker.learner.main",
    "parameter-server": "asyncrl_worker.parameter_server.main",
}
ROLES = ("parameter-server-0", "learner-0", "actor-0", "actor-1")


LATE = "late.asyncrl.test"
"""A host name that does not resolve until `Pods.resolve`."""

OWN_HOSTS = (
    *("unshare", "--map-root-user", "--mount", "sh", "-ec"),
    'mount --bind "$0" /etc/hosts; exec "$@"',
)
"""Runs what follows with another file, the first argument, in place of /etc/hosts."""

RESTRICTED = (
    *("unshare", "--map-root-user", "--mount", "sh", "-ec"),
    'mount --bind "$0" "$0"; mount -o remount,bind,ro /; cd /; '
    "exec unshare --user --map-user=10001 --map-group=10001 "
    'env -u HOME -u USER -u LOGNAME -u TMPDIR "$@"',
)
"""Runs what follows as a user that nobody knows, without a home, on a read-only root; only the
first argument, a folder, can be written, not even /tmp."""

OWN_HOSTS_WORK = (
    shutil.which("unshare") is not None
    and subprocess.run([*OWN_HOSTS, "/etc/hosts", "true"], capture_output=True).returncode == 0
)


class Container:
    """One process of a role, with the run folder of its pod."""

    def __init__(
        self, name: str, command: list[str], folder: Folder, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.folder = folder
        folder.logs.mkdir(parents=True, exist_ok=True)
        with folder.log(name).open("ab") as log:
            self.process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(seconds)

    def terminate(self) -> None:
        """What the kubelet does to a pod that is deleted."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """What the kernel does when memory runs out; returns when the process is gone."""
        self.process.kill()
        self.process.wait()

    def words(self) -> str:
        """The log, of every life in this pod."""
        return self.folder.words(self.name)

    def message(self) -> Document:
        """The termination message."""
        document: Document = json.loads(self.folder.termination(self.name).read_text())
        return document

    def metric(self, name: str) -> float:
        """A metric of this role; -1 while there is none."""
        return self.folder.metrics_of(self.name).get(f"asyncrl_{name}", -1.0)

    def is_ready(self) -> bool:
        """What the readiness probe says."""
        return self.probe("/readyz")[0] == 200

    def probe(self, path: str) -> tuple[int, str]:
        """A plain GET, as the kubelet's; status 0 while nobody answers."""
        try:
            address = json.loads(self.folder.endpoint(self.name).read_text())["http"]
            connection = http.client.HTTPConnection(address, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
        except OSError:
            return 0, ""


class Pods:
    """A job's pods; leaving the block kills what is left of them."""

    def __init__(self, document: Document, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._manifest = path / "manifest.yaml"
        self._manifest.write_text(yaml.safe_dump(document))
        self._authority = Authority()
        self._client = self._context()
        self.address = f"127.0.0.1:{free_port()}"
        self._rendezvous = free_port()
        self._hosts = path / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._ranks = document["spec"].get("learner", {}).get("replicas", 1)
        self._started: list[Container] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        for container in self._started:
            if container.process.poll() is None:
                container.kill()
        if error is not None:
            error.add_note(self.story())

    def start(
        self,
        name: str,
        *more: str,
        attempt: int = 0,
        fresh: bool = False,
        late_names: bool = False,
        restricted: bool = False,
    ) -> Container:
        """Start a container: again in the same pod, or `fresh` in one that took its place.

        With `late_names`, every other role is looked for under the name LATE; `restricted` is
        what the restricted Pod Security Standard and a read-only root file system leave.
        """
        role, _, index = name.rpartition("-")
        folder = Folder(self.path / name)
        if fresh and folder.path.exists():
            folder.path.rename(folder.path.with_name(f"{name}-was-{len(self._started)}"))
        folder.path.mkdir(exist_ok=True)
        for stale in (folder.endpoint(name), folder.termination(name)):
            stale.unlink(missing_ok=True)
        arguments = [
            *(sys.executable, "-m", MODULES[role]),
            *("--manifest", str(self._manifest)),
            *("--address", self.address.replace("127.0.0.1", LATE if late_names else "127.0.0.1")),
            *("--run-directory", str(folder.path)),
            *("--index", index, "--attempt", str(attempt)),
            *("--tls", str(self.certificates(role)), "--http", "127.0.0.1:0"),
            *(("--report", "127.0.0.1:0") if role == "learner" else ()),
            *more,
        ]
        variables = os.environ | {
            "OMP_NUM_THREADS": "1",
            "ASYNCRL_TERMINATION_LOG": str(folder.path / "roles" / f"{name}.termination"),
        }
        folder.roles.mkdir(exist_ok=True)
        if role == "learner":
            variables |= {"RANK": index, "WORLD_SIZE": str(self._ranks)}
            host = LATE if late_names else "127.0.0.1"
            variables |= {"MASTER_ADDR": host, "MASTER_PORT": str(self._rendezvous)}
        if late_names:
            arguments = [*OWN_HOSTS, str(self._hosts), *arguments]
        if restricted:
            arguments = [*RESTRICTED, str(folder.path), *arguments]
        container = Container(name, arguments, folder, variables)
        self._started.append(container)
        return container

    def resolve(self) -> None:
        """From now on the name LATE resolves."""
        with self._hosts.open("a") as hosts:
            hosts.write(f"127.0.0.1 {LATE}\n")

    def container(self, name: str) -> Container:
        """The newest container of this name."""
        return next(one for one in reversed(self._started) if one.name == name)

    def start_all(self, *more: str) -> dict[str, Container]:
        """One container of every role, of all ranks and of two actors."""
        ranks = [f"learner-{rank}" for rank in range(1, self._ranks)]
        return {name: self.start(name, *more) for name in (*ROLES, *ranks)}

    def certificates(self, role: str) -> Path:
        """The folder of a role's certificates, made once."""
        folder = self.path / "tls" / role
        return folder if folder.exists() else self._authority.issue(folder, role)

    def report(self, learner: Container) -> LearnerReport | None:
        """The report over mutual TLS, as the operator asks for it; None while there is none."""
        try:
            document = json.loads(learner.folder.endpoint(learner.name).read_text())
            connection = http.client.HTTPSConnection(
                document["report"], timeout=5, context=self._client
            )
            with contextlib.closing(connection):
                connection.request("GET", "/report")
                response = connection.getresponse()
                body = response.read()
        except OSError:
            return None
        return LearnerReport.model_validate_json(body) if response.status == 200 else None

    def until_version(self, learner: Container, version: int) -> None:
        """Wait for a policy version."""

        def reached() -> bool:
            assert learner.process.poll() is None, "the learner ended"
            report = self.report(learner)
            return report is not None and (report.training.policy_version or 0) >= version

        until(reached, f"policy version {version}")

    def story(self) -> str:
        """What happened, for a failed test."""
        lines = []
        for path in sorted(self.path.glob("*/logs/*.log")):
            lines += [f"--- {path.parent.parent.name}", *path.read_text().splitlines()[-15:]]
        return "\n".join(lines)

    def _context(self) -> ssl.SSLContext:
        folder = self.certificates("operator")
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        return context


RESTRICTED_WORKS = (
    shutil.which("unshare") is not None
    and subprocess.run([*RESTRICTED, "/tmp", "true"], capture_output=True).returncode == 0
)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
