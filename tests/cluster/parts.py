"""What a cluster is made of: modules, versions, commands.

Everything is built from the Go modules that the projects publish, so that nothing but a module
proxy is needed: no container engine, no image registry.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

KUBERNETES = "v1.37.2"
"""The version that the tests run on."""

OLDEST_KUBERNETES = "v1.34.4"
"""The oldest version that tests of the API and of the operator run on once more."""


@dataclass(frozen=True)
class Part:
    """One program, or several of one module, or files of it.

    `module` is the module's path, `commands` maps a program's name to its package, `files` a file's
    name to its path in the module. `staging` says that the module replaces others by folders of its
    own (as Kubernetes does), which a module that depends on it must replace by their published
    versions.
    """

    name: str
    module: str
    version: str
    commands: dict[str, str]
    staging: bool = False
    variables: tuple[tuple[str, str], ...] = ()
    """Values set by the linker: variable, value."""
    files: dict[str, str] = field(default_factory=dict)
    tags: str = ""
    """Build tags."""

    @property
    def folder(self) -> Path:
        """Where its programs lie in the cache."""
        return cache_folder() / f"{self.name}-{self.version}"

    def program(self, name: str) -> Path:
        """The path of one of its programs or files, built or not."""
        return self.folder / name


def cache_folder() -> Path:
    """The folder that keeps what was built, outside any checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "asyncrl-cluster"


def _kubernetes(name: str, version: str, commands: tuple[str, ...]) -> Part:
    return Part(
        name=name,
        module="k8s.io/kubernetes",
        version=version,
        commands={command: f"k8s.io/kubernetes/cmd/{command}" for command in commands},
        staging=True,
        variables=(("k8s.io/component-base/version.gitVersion", version),),
    )


def control_plane(version: str = KUBERNETES) -> Part:
    """API server, controllers, scheduler and kubectl of one version of Kubernetes."""
    commands = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    return _kubernetes("kubernetes", version, commands)


def node(version: str = KUBERNETES) -> Part:
    """What a node adds."""
    return _kubernetes("kubernetes-node", version, ("kubelet", "kube-proxy"))


ETCD = Part("etcd", "go.etcd.io/etcd/server/v3", "v3.6.8", {"etcd": "go.etcd.io/etcd/server/v3"})
HELM = Part("helm", "helm.sh/helm/v3", "v3.19.2", {"helm": "helm.sh/helm/v3/cmd/helm"})
KWOK = Part("kwok", "sigs.k8s.io/kwok", "v0.7.0", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"})
COREDNS = Part(
    "coredns", "github.com/coredns/coredns", "v1.14.5", {"coredns": "github.com/coredns/coredns"}
)
_ROUTER = "github.com/cloudnativelabs/kube-router/v2"
KUBE_ROUTER = Part("kube-router", _ROUTER, "v2.1.0", {"kube-router": f"{_ROUTER}/cmd/kube-router"})
"""Enforces network policies."""
_CRDS = "example/prometheus-operator-crd/monitoring.coreos.com_"
MONITORING = Part(
    "prometheus-operator",
    "github.com/prometheus-operator/prometheus-operator",
    "v0.85.0",
    {},
    files={f"{kind}.yaml": f"{_CRDS}{kind}.yaml" for kind in ("podmonitors", "prometheusrules")},
)
"""Definitions of the objects that the chart makes for the Prometheus operator."""
PROMTOOL = Part(
    "promtool",
    "github.com/prometheus/prometheus",
    "v0.316.0",
    {"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    # Without the clients of every cloud.
    tags="remove_all_sd",
)

PACKAGES = {
    "iproute2": "ip",
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iptables": "iptables",
    "ipset": "ipset",
    "procps": "pkill",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "debootstrap": "debootstrap",
    "busybox-static": "busybox",
}
"""Debian packages of a node, and one program of each that shows that it is there."""
