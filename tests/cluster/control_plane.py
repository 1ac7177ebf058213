"""etcd, API server, controller manager and scheduler: a cluster without nodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml
from cluster import parts
from cluster.build import build
from cluster.certificates import Authority, Pair, write_key
from cluster.kubectl import Kubectl
from cluster.network import LOOPBACK, Network
from cluster.processes import Process, answers, free_port
from cryptography.hazmat.primitives.asymmetric import ec

READY = 300.0
"""Seconds within which a program must be ready; seconds are usual, minutes where others compute."""


class ControlPlane:
    """A running control plane. Its state is below `folder` and goes with it.

    Listens on the host's address of `network` only. `version` is that of every program but etcd:
    the scheduler of another version asks for what an older API server does not know, and binds no
    pod. Raises NotReady, BuildError.
    """

    def __init__(
        self, folder: Path, *, network: Network = LOOPBACK, version: str = parts.KUBERNETES
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.network = network
        self.version = version
        self._processes: list[Process] = []
        self._programs = parts.control_plane(version)
        self.authority = Authority(folder / "certificates")
        self.url = f"https://{network.host}:{free_port(network.host)}"
        admin = self.authority.issue("admin", groups=["system:masters"])
        self.kubeconfig = self.user("admin", admin)
        self.kubectl = Kubectl(self.kubeconfig, version)

    def start(self) -> None:
        """Build what is missing and start; return when every program is ready."""
        build(self._programs, parts.ETCD)
        try:
            self._start_api_server(self._start_etcd())
            self._start_controllers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every program, the newest first.

        The API server would wait for a minute for clients that watch; its state goes anyway.
        """
        while self._processes:
            self._processes.pop().stop(seconds=3)

    def user(self, name: str, pair: Pair) -> Path:
        """Write the kubeconfig of a user."""
        return write_kubeconfig(
            self.folder / f"{name.replace(':', '-')}.kubeconfig", self.url, self.authority, pair
        )

    def _run(self, name: str, *command: str | Path) -> Process:
        process = Process(name, command, self.folder / f"{name}.log")
        self._processes.append(process)
        return process

    def _start_etcd(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        process = self._run(
            "etcd",
            parts.ETCD.program("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        process.wait_until(lambda: answers(f"{client}/health"), READY)
        return client

    def _start_api_server(self, etcd: str) -> None:
        network = self.network
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        certificate = self.authority.issue(
            "kube-apiserver", addresses=[network.host, network.api_service, *names]
        )
        tokens = self.folder / "certificates" / "service-accounts.key"
        write_key(tokens, ec.generate_private_key(ec.SECP256R1()))
        kubelet = self.authority.issue("kube-apiserver-kubelet", groups=["system:masters"])
        loopback = network == LOOPBACK
        process = self._run(
            "kube-apiserver",
            self._programs.program("kube-apiserver"),
            f"--etcd-servers={etcd}",
            f"--bind-address={network.host}",
            f"--advertise-address={network.host}",
            f"--secure-port={self.url.rpartition(':')[2]}",
            # The service `kubernetes` must not point to a loopback address.
            f"--endpoint-reconciler-type={'none' if loopback else 'lease'}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--tls-cert-file={certificate.certificate}",
            f"--tls-private-key-file={certificate.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={tokens}",
            f"--service-account-signing-key-file={tokens}",
            f"--service-cluster-ip-range={network.services}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
        )
        ready = f"{self.url}/readyz"
        process.wait_until(lambda: answers(ready, self.authority.certificate), READY)

    def _start_controllers(self) -> None:
        tokens = self.folder / "certificates" / "service-accounts.key"
        name = "system:kube-controller-manager"
        controllers = self._start_controller(
            "kube-controller-manager",
            self.user(name, self.authority.issue(name)),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={tokens}",
            f"--root-ca-file={self.authority.certificate}",
        )
        name = "system:kube-scheduler"
        scheduler = self._start_controller(
            "kube-scheduler", self.user(name, self.authority.issue(name))
        )
        for process, ready in (controllers, scheduler):
            process.wait_until(partial(answers, ready, self.authority.certificate), READY)

    def _start_controller(self, name: str, kubeconfig: Path, *options: str) -> tuple[Process, str]:
        port = free_port()
        pair = self.authority.issue(f"{name}-server", addresses=["127.0.0.1"])
        process = self._run(
            name,
            self._programs.program(name),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={pair.certificate}",
            f"--tls-private-key-file={pair.key}",
            "--leader-elect=false",
            *options,
        )
        return process, f"https://127.0.0.1:{port}/healthz"

    def __enter__(self) -> ControlPlane:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def write_kubeconfig(path: Path, url: str, authority: Authority, pair: Pair) -> Path:
    """A kubeconfig whose only context is the user of `pair`."""
    name = "asyncrl-cluster"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [
            {
                "name": name,
                "cluster": {"server": url, "certificate-authority": str(authority.certificate)},
            }
        ],
        "users": [
            {
                "name": name,
                "user": {
                    "client-certificate": str(pair.certificate),
                    "client-key": str(pair.key),
                },
            }
        ],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path
