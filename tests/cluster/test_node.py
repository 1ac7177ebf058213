"""The node of our own does what roles need: names, services, tokens, logs, limits, GPUs."""

from __future__ import annotations

import pytest
import yaml
from cluster.kubectl import Kubectl
from cluster.node import Node
from cluster.pod import pod, run_to_end

SERVE = "python3 -m http.server 8000 --bind 0.0.0.0 --directory /etc"
ASK_SERVICES = """
import urllib.request, time, sys
deadline = time.monotonic() + 60
for name in ("web-0.web", "web-address"):
    while True:
        try:
            print(name, urllib.request.urlopen(f"http://{name}:8000/hostname", timeout=5).read())
            break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{name}: {error}")
            time.sleep(0.2)
"""
ASK_THE_API = """
import pathlib, ssl, urllib.request
folder = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
request = urllib.request.Request(
    "https://kubernetes.default.svc/api/v1/namespaces/" + (folder / "namespace").read_text(),
    headers={"Authorization": "Bearer " + (folder / "token").read_text()},
)
context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
try:
    urllib.request.urlopen(request, timeout=10, context=context)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
TOO_MUCH = "held = bytearray(256 * 2**20); print(len(held))"


@pytest.fixture
def restricted(kubectl: Kubectl, namespace: str) -> str:
    """A namespace that enforces the restricted standard."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubectl("label", "namespace", namespace, label)
    return namespace


def test_pods_of_an_indexed_job_have_names_and_services(
    kubectl: Kubectl, base_image: str, restricted: str
) -> None:
    server = pod("unused", base_image, ["sh", "-c", SERVE])
    server["spec"]["subdomain"] = "web"
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "web"},
        "spec": {
            "completionMode": "Indexed",
            "completions": 1,
            "parallelism": 1,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": server["spec"]},
        },
    }
    services = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 8000}], **more},
        }
        for name, more in (("web", {"clusterIP": "None"}), ("web-address", {}))
    ]
    documents = yaml.safe_dump_all([job, *services])
    kubectl("create", "-n", restricted, "-f", "-", stdin=documents)
    client = pod("client", base_image, ["python3", "-c", ASK_SERVICES])
    assert run_to_end(kubectl, restricted, client, "Succeeded").splitlines() == [
        "web-0.web b'web-0\\n'",
        "web-address b'web-0\\n'",
    ]


def test_a_pod_reaches_the_api_server_with_its_token(
    kubectl: Kubectl, base_image: str, restricted: str
) -> None:
    client = pod("client", base_image, ["python3", "-c", ASK_THE_API])
    log = run_to_end(kubectl, restricted, client, "Succeeded")
    assert log.startswith("403 ")
    assert f"system:serviceaccount:{restricted}:default" in log


def test_memory_beyond_the_limit_ends_the_container(
    kubectl: Kubectl, base_image: str, restricted: str
) -> None:
    limits = {"limits": {"memory": "64Mi"}}
    hungry = pod("hungry", base_image, ["python3", "-c", TOO_MUCH], resources=limits)
    assert run_to_end(kubectl, restricted, hungry, "Failed") == ""
    (status,) = kubectl.get("-n", restricted, "pod", "hungry")["status"]["containerStatuses"]
    ended = status["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_the_restricted_standard_is_enforced(
    kubectl: Kubectl, base_image: str, restricted: str
) -> None:
    document = pod("root", base_image, ["true"], securityContext={"privileged": True})
    said = kubectl.refused("create", "-n", restricted, "-f", "-", stdin=yaml.safe_dump(document))
    assert "violates PodSecurity" in said


def test_commands_run_in_a_pod(kubectl: Kubectl, base_image: str, restricted: str) -> None:
    document = pod("sleeper", base_image, ["sleep", "600"])
    kubectl("create", "-n", restricted, "-f", "-", stdin=yaml.safe_dump(document))
    kubectl("wait", "-n", restricted, "pod/sleeper", "--for=condition=Ready", "--timeout=60s")
    assert kubectl("exec", "-n", restricted, "sleeper", "--", "id", "-u") == "10001\n"
    refused = kubectl.refused("exec", "-n", restricted, "sleeper", "--", "touch", "/etc/new")
    assert "Read-only file system" in refused
    kubectl("delete", "-n", restricted, "pod", "sleeper", "--grace-period=1", seconds=60)


def test_pods_that_ask_for_gpus_run_where_the_node_offers_them(
    kubectl: Kubectl, node: Node, base_image: str, restricted: str
) -> None:
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    document = pod("gpu", base_image, ["true"], resources=limits)
    kubectl("create", "-n", restricted, "-f", "-", stdin=yaml.safe_dump(document))
    unschedulable = "--for=condition=PodScheduled=False"
    kubectl("wait", "-n", restricted, "pod/gpu", unschedulable, "--timeout=30s")
    node.offer_gpus(1)
    reached = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl("wait", "-n", restricted, "pod/gpu", reached, "--timeout=60s", seconds=90)
    node.offer_gpus(0)
