"""One real node: kubelet, containerd, kube-proxy and DNS, in namespaces of their own.

All processes of the node, pods included, live in one process namespace and see one mount and one
network namespace. Its first process dies with this one, and everything goes with it: processes,
mounts, interfaces, rules of iptables. What stays is the slot's image store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml
from cluster import parts
from cluster.build import build, run
from cluster.control_plane import READY, ControlPlane
from cluster.network import Network, Slot
from cluster.packages import install_packages
from cluster.processes import NotReady, Process, answers

NAME = "node"
CONTAINERD = "/run/containerd/containerd.sock"
CGROUPS = Path("/sys/fs/cgroup")
CTR = ("ctr", "--address", CONTAINERD, "-n", "k8s.io")
PAUSE = "localhost/asyncrl-pause:1"

NAMESPACES = (
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)

FIRST_PROCESS = """\
set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
for pair in {mounts}; do
    mkdir -p "${{pair%%:*}}" "${{pair##*:}}"
    mount --bind "${{pair%%:*}}" "${{pair##*:}}"
done
echo 1 > /proc/sys/net/ipv4/ip_forward
trap 'exit 0' TERM
touch {ready}
while :; do sleep 3600 & wait; done
"""
"""The shell that is process 1 of the node: it prepares its mounts, then collects orphans."""

COREFILE = """\
.:53 {{
    bind {node}
    errors
    ready {node}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
"""

DNS_RULES = [
    {
        "apiGroups": [""],
        "resources": ["endpoints", "services", "pods", "namespaces"],
        "verbs": ["list", "watch"],
    },
    {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    },
]


class Node:
    """The node of a running control plane that was started on the slot's network.

    Needs root on Linux; installs the Debian packages it needs. Raises Unavailable, BuildError,
    NotReady. `name` is the name of the Node object.
    """

    def __init__(self, folder: Path, control_plane: ControlPlane, slot: Slot) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = NAME
        self.folder = folder
        self.slot = slot
        self.network: Network = slot.network
        self._control_plane = control_plane
        self._cgroup = f"asyncrl-cluster-{slot.number}"
        self._store = slot.folder / "containerd"
        self._part = parts.node()
        self._processes: list[Process] = []
        self._pid: int | None = None

    def start(self) -> None:
        """Start the node and return when it is ready for pods and names resolve."""
        install_packages()
        build(self._part, parts.COREDNS)
        try:
            self._start_first_process()
            self._start_containerd()
            self._start_kubelet()
            self._start_proxy()
            self._start_dns()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the node and every pod on it, at once, as when a machine loses power."""
        for process in self._processes:
            process.kill()
        self._processes.clear()
        # The kernel lets the first process go after all others of its namespace.
        _wait_until(lambda: self._pid is None or not Path(f"/proc/{self._pid}").exists())
        self._remove_cgroups()

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def command(self, *command: str | Path) -> list[str | Path]:
        """The command line that runs a command on the node."""
        target = str(self._pid)
        return ["nsenter", "--target", target, "--net", "--mount", "--pid", "--", *command]

    def run(self, *command: str | Path, seconds: float = 600.0) -> str:
        """Run a command on the node, to its end, and return what it prints."""
        return run([str(part) for part in self.command(*command)], deadline=seconds)

    def ctr(self, *arguments: str | Path, seconds: float = 600.0) -> str:
        """Run containerd's client in the namespace of Kubernetes."""
        return self.run(*CTR, *arguments, seconds=seconds)

    @property
    def content(self) -> Path:
        """The folder of containerd's blobs."""
        return self._store / "io.containerd.content.v1.content" / "blobs" / "sha256"

    def tag(self, image: str, name: str) -> None:
        """Give an image that is here one more name, in place of what had it."""
        self.ctr("images", "tag", "--force", image, name)

    def offer_gpus(self, count: int) -> None:
        """Let the node advertise GPUs that it does not have, so that pods that ask for some run."""
        patch = {"status": {"capacity": {"nvidia.com/gpu": str(count)}}}
        self._control_plane.kubectl(
            "patch", "node", self.name, "--subresource=status", "-p", json.dumps(patch)
        )

    def _run(self, name: str, *command: str | Path) -> Process:
        process = Process(name, self.command(*command), self.folder / f"{name}.log")
        self._processes.append(process)
        return process

    def _start_first_process(self) -> None:
        ready = self.folder / "first-process.ready"
        mounts = {"lib": "/var/lib/kubelet", "log": "/var/log", "cni": "/var/lib/cni"}
        pairs = " ".join(f"{self.folder / name}:{path}" for name, path in mounts.items())
        script = FIRST_PROCESS.format(mounts=pairs, ready=ready)
        process = Process(
            "first-process",
            [*NAMESPACES, "bash", "-c", script],
            self.folder / "first-process.log",
        )
        self._processes.append(process)
        process.wait_until(ready.exists, READY)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (self._pid,) = (int(child) for child in children)
        self.slot.join(self._pid)

    def _start_containerd(self) -> None:
        networks = self.folder / "networks"
        networks.mkdir()
        plugin = {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": self.network.pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        (networks / "10-pods.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]})
        )
        configuration = self.folder / "containerd.toml"
        configuration.write_text(f"""\
version = 2
root = "{self._store}"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Without CAP_SYS_RESOURCE no process may lower its score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
""")
        process = self._run("containerd", "containerd", "--config", configuration)
        process.wait_until(self._containerd_answers, READY)

    def _containerd_answers(self) -> bool:
        try:
            self.ctr("version", seconds=10)
        except RuntimeError:
            return False
        return True

    def _start_kubelet(self) -> None:
        self._make_cgroups()
        authority = self._control_plane.authority
        user = f"system:node:{self.name}"
        kubeconfig = self._control_plane.user(user, authority.issue(user, groups=["system:nodes"]))
        server = authority.issue("kubelet", addresses=[self.network.node, self.name])
        names = self.folder / "resolv.conf"
        names.write_text("")
        document = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.network.node,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(server.certificate),
            "tlsPrivateKeyFile": str(server.key),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "clusterDNS": [self.network.node],
            "clusterDomain": "cluster.local",
            "resolvConf": str(names),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            # The disk belongs to the machine: its fill says nothing about this node.
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "nodeStatusUpdateFrequency": "5s",
        }
        configuration = self.folder / "kubelet.yaml"
        configuration.write_text(yaml.safe_dump(document))
        process = self._run(
            "kubelet",
            self._part.program("kubelet"),
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.network.node}",
        )
        process.wait_until(self._registered, READY)

    def _registered(self) -> bool:
        return self.name in self._control_plane.kubectl("get", "nodes", "-o", "name")

    def _start_proxy(self) -> None:
        user = "system:kube-proxy"
        kubeconfig = self._control_plane.user(user, self._control_plane.authority.issue(user))
        process = self._run(
            "kube-proxy",
            self._part.program("kube-proxy"),
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self.name}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={self.network.pods}",
            "--conntrack-max-per-core=0",
            f"--healthz-bind-address={self.network.node}:10256",
            "--oom-score-adj=0",
        )
        healthy = f"http://{self.network.node}:10256/healthz"
        process.wait_until(partial(answers, healthy), READY)

    def _start_dns(self) -> None:
        user = "system:coredns"
        control_plane = self._control_plane
        kubeconfig = control_plane.user(user, control_plane.authority.issue(user))
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
        control_plane.kubectl(
            "apply",
            "-f",
            "-",
            stdin=yaml.safe_dump(role | {"metadata": {"name": user}, "rules": DNS_RULES}),
        )
        control_plane.kubectl(
            "create", "clusterrolebinding", user, f"--clusterrole={user}", f"--user={user}"
        )
        corefile = self.folder / "Corefile"
        corefile.write_text(COREFILE.format(node=self.network.node, kubeconfig=kubeconfig))
        process = self._run("coredns", parts.COREDNS.program("coredns"), "-conf", corefile)
        process.wait_until(partial(answers, f"http://{self.network.node}:8181/ready"), READY)

    def _wait_until_ready(self) -> None:
        try:
            self._control_plane.kubectl(
                "wait", f"node/{self.name}", "--for=condition=Ready", "--timeout=60s", seconds=90
            )
        except RuntimeError as error:
            kubelet = next(p for p in self._processes if p.name == "kubelet")
            raise NotReady(f"{error}\n{kubelet.tail()}") from error

    def _make_cgroups(self) -> None:
        for controller in _controllers():
            group = controller / self._cgroup
            group.mkdir(exist_ok=True)
            if controller.name == "cpuset":
                # A new group of version 1 has no CPUs and no memory.
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (group / name).write_text((controller / name).read_text())

    def _remove_cgroups(self) -> None:
        for controller in _controllers():
            group = controller / self._cgroup
            if group.exists():
                # Those of processes that ended just now are busy for a moment.
                _wait_until(partial(_remove_cgroup, group))


def _remove_cgroup(group: Path) -> bool:
    try:
        for inner in sorted(group.rglob("*/"), reverse=True):
            inner.rmdir()
        group.rmdir()
    except OSError:
        return False
    return True


def _wait_until(done: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise NotReady(f"the node did not end within {seconds:.0f} s")
        time.sleep(0.05)


def _controllers() -> list[Path]:
    """The hierarchies of control groups: several in version 1, one in version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in sorted(CGROUPS.iterdir()) if (path / "cgroup.procs").exists()]
