"""The chart: what it renders, what a real API server makes of it, and its life on a cluster."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import parts
from cluster.control_plane import ControlPlane
from cluster.helm import Helm
from cluster.kubectl import Kubectl, Refused

from asyncrl.client import JobError, cluster
from asyncrl_api.crd import custom_resource_definition

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "asyncrl"
CRD = "asyncrljobs.asyncrl.io"
DIGEST = f"sha256:{'0' * 64}"

Values = dict[str, Any]
Document = dict[str, Any]

EVERYTHING: Values = {
    "image": {"repository": "registry.example/operator", "digest": DIGEST, "pullPolicy": "Always"},
    "workerImage": {"repository": "registry.example/worker", "tag": "1.2", "digest": DIGEST},
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccount": {"annotations": {"a": "b"}},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "asyncrl-operator"}},
        }
    ],
    "priorityClassName": "system-cluster-critical",
    "replicas": 2,
    "podLabels": {"team": "rl", "app.kubernetes.io/name": "not-this"},
    "podAnnotations": {"a": "b"},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
    },
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
}


@pytest.fixture(scope="session")
def render(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Document]]:
    """The documents of `helm template` with these values."""
    folder = tmp_path_factory.mktemp("values")
    numbers = itertools.count()

    def run(values: Values | None = None, *, release: str = "asyncrl") -> list[Document]:
        path = folder / f"{next(numbers)}.yaml"
        path.write_text(yaml.safe_dump(values or {}))
        version = parts.KUBERNETES.removeprefix("v")
        command = ("template", release, str(CHART), "-n", "ops", "--kube-version", version)
        done = subprocess.run(
            [str(helm), *command, "-f", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Refused(done.stderr)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return run


def kinds(documents: list[Document]) -> list[str]:
    return sorted(document["kind"] for document in documents)


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def container(documents: list[Document]) -> Document:
    (deployment,) = of_kind(documents, "Deployment")
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def combinations() -> Iterator[Values]:
    """Every combination of the switches that meet in a template."""
    namespaces = [[], ["team-a", "team-b"]]
    rbac = [(True, True), (True, False), (False, False)]
    crds = [(True, True), (True, False), (False, False)]
    for watched, (create, aggregate) in itertools.product(namespaces, rbac):
        for account, policy in itertools.product([True, False], repeat=2):
            yield {
                "watchNamespaces": watched,
                "rbac": {"create": create, "aggregate": aggregate},
                "serviceAccount": {"create": account},
                "networkPolicy": {"enabled": policy},
                "replicas": 1 + account,
            }
    for watched, (install, keep) in itertools.product(namespaces, crds):
        for monitor, jobs in [(True, True), (True, False), (False, True)]:
            yield {
                "watchNamespaces": watched,
                "crds": {"install": install, "keep": keep},
                "podMonitor": {"enabled": monitor, "jobs": jobs},
                "prometheusRule": {"enabled": not jobs},
            }


def expected_kinds(values: Values) -> list[str]:
    """What a chart with these values has to consist of, said once more."""
    watched = values["watchNamespaces"]
    rbac = values.get("rbac", {"create": True, "aggregate": True})
    found = ["Deployment"]
    if values.get("serviceAccount", {"create": True})["create"]:
        found.append("ServiceAccount")
    if values.get("crds", {"install": True})["install"]:
        found.append("CustomResourceDefinition")
    found += ["Role", "RoleBinding"] if rbac["create"] else []
    found += ["PodDisruptionBudget"] if values.get("replicas", 1) > 1 else []
    if rbac["create"] and watched:
        found += ["Role", "RoleBinding"] * len(watched)
    if rbac["create"] and not watched:
        found += ["ClusterRole", "ClusterRoleBinding"]
        found += ["ClusterRole"] * 2 if rbac["aggregate"] else []
    if values.get("networkPolicy", {"enabled": False})["enabled"]:
        found.append("NetworkPolicy")
    monitor = values.get("podMonitor", {"enabled": False, "jobs": True})
    found += ["PodMonitor"] * (monitor["enabled"] + (monitor["enabled"] and monitor["jobs"]))
    if values.get("prometheusRule", {"enabled": False})["enabled"]:
        found.append("PrometheusRule")
    return sorted(found)


def test_every_combination_of_switches_renders_what_it_says(
    render: Callable[..., list[Document]],
) -> None:
    for values in combinations():
        documents = render(values)
        assert kinds(documents) == expected_kinds(values), values
        if values["watchNamespaces"]:
            assert not [kind for kind in kinds(documents) if kind.startswith("ClusterRole")]
        for crd in of_kind(documents, "CustomResourceDefinition"):
            keep = values.get("crds", {"keep": True})["keep"]
            policy = crd["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            assert policy == ("keep" if keep else None)


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"watchNamespaces": ["a"]}])
def test_lint_has_nothing_to_say(helm: Path, values: Values, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    command = ("lint", "--strict", "--quiet", str(CHART), "-f", str(path), "--kube-version", "1.37")
    done = subprocess.run([str(helm), *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout


def test_the_crd_of_the_chart_is_that_of_the_models(render: Callable[..., list[Document]]) -> None:
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    assert crd["spec"] == custom_resource_definition()["spec"]


def test_images_go_by_digest_where_there_is_one(render: Callable[..., list[Document]]) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    plain = container(render())
    assert plain["image"] == f"asyncrl-operator:{version}"
    assert f"--worker-image=asyncrl-worker:{version}" in plain["args"]
    full = container(render(EVERYTHING))
    assert full["image"] == f"registry.example/operator@{DIGEST}"
    assert f"--worker-image=registry.example/worker:1.2@{DIGEST}" in full["args"]


def test_the_operator_is_told_what_to_watch(render: Callable[..., list[Document]]) -> None:
    assert not [a for a in container(render())["args"] if a.startswith("--namespace")]
    arguments = container(render({"watchNamespaces": ["a", "b"]}))["args"]
    assert arguments[:2] == ["--namespace=a", "--namespace=b"]


def test_labels_of_users_do_not_replace_those_that_selectors_rest_on(
    render: Callable[..., list[Document]],
) -> None:
    (deployment,) = of_kind(render(EVERYTHING), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "rl"
    assert labels.items() >= deployment["spec"]["selector"]["matchLabels"].items()
    assert labels["app.kubernetes.io/name"] == "asyncrl-operator"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"watchNamespace": ["a"]}, "watchNamespace"),
        ({"watchNamespaces": "a"}, "/watchNamespaces"),
        ({"watchNamespaces": ["A b"]}, "/watchNamespaces/0"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"logLevel": "chatty"}, "/logLevel"),
        ({"replicas": 0}, "/replicas"),
        ({"reportIntervalSeconds": 0}, "/reportIntervalSeconds"),
        ({"crds": {"install": "yes"}}, "/crds/install"),
        ({"networkPolicy": {"apiServerPorts": [70_000]}}, "/networkPolicy/apiServerPorts/0"),
        ({"podMonitor": {"interval": "30"}}, "/podMonitor/interval"),
    ],
)
def test_the_schema_refuses_wrong_values(
    values: Values, words: str, render: Callable[..., list[Document]]
) -> None:
    with pytest.raises(Refused, match=words):
        render(values)


def test_every_value_is_in_the_schema_and_described(render: Callable[..., list[Document]]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def paths(node: Any, schema: Any, path: str = "") -> Iterator[str]:
        properties = schema.get("properties")
        if properties is None or not isinstance(node, dict):
            return
        for key in set(node) ^ (set(properties) - {"global"}):
            yield f"{path}.{key}"
        for key in set(node) & set(properties):
            yield from paths(node[key], properties[key], f"{path}.{key}")

    assert list(paths(values, schema)) == []


def without_monitors(documents: list[Document]) -> str:
    """As YAML, less what needs the CRDs of the Prometheus operator."""
    monitors = ("PodMonitor", "PrometheusRule")
    return yaml.safe_dump_all([d for d in documents if d["kind"] not in monitors])


@pytest.mark.parametrize(
    "values",
    [{}, EVERYTHING, {"watchNamespaces": ["default"], "networkPolicy": {"enabled": True}}],
)
def test_a_real_api_server_takes_every_object(
    values: Values, kubectl: Kubectl, namespace: str, render: Callable[..., list[Document]]
) -> None:
    documents = render(values)
    for document in documents:
        if document["metadata"].get("namespace") == "ops":
            document["metadata"]["namespace"] = namespace
    said = kubectl(
        *("apply", "--server-side", "--dry-run=server", "--force-conflicts"),
        *("--validate=strict", "-f", "-"),
        stdin=without_monitors(documents),
    )
    assert len(said.splitlines()) == len(list(yaml.safe_load_all(without_monitors(documents))))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that has no CRD of ours, with the namespace `ops` under restricted rules."""
    with ControlPlane(tmp_path_factory.mktemp("empty")) as running:
        running.kubectl("create", "namespace", "ops")
        running.kubectl("label", "ns", "ops", "pod-security.kubernetes.io/enforce=restricted")
        running.kubectl("create", "namespace", "team")
        yield running


def older_chart(folder: Path) -> Path:
    """The chart as a version before this one could have been: without one field of the CRD."""
    files = [path for path in CHART.rglob("*") if path.is_file()]
    for path in files:
        copy = folder / path.relative_to(CHART)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    (folder / "Chart.yaml").write_text(yaml.safe_dump(chart | {"version": "0.0.9"}))
    crd = folder / "templates" / "crd.yaml"
    head, column, tail = crd.read_text().partition("    - name: Stability\n")
    assert column
    crd.write_text(head + "    - name: Steadiness\n" + tail)
    return folder


def test_install_upgrade_and_uninstall(
    helm: Path, empty: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl, release = empty.kubectl, Helm(helm, empty.kubeconfig, "ops")
    monkeypatch.setenv("KUBECONFIG", str(empty.kubeconfig))
    client = cluster(namespace="team")
    with pytest.raises(JobError, match=r"does not know AsyncRLJob .*`helm install asyncrl"):
        client.submit(ROOT / "examples" / "cartpole.yaml")

    release("install", "asyncrl", str(older_chart(tmp_path / "older")))
    kubectl("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=30s")
    client.submit(ROOT / "examples" / "cartpole.yaml")
    assert "STEADINESS" in kubectl("get", "asyncrljobs", "-n", "team")
    # The pod is let in by the restricted standard; without a node it stays pending.
    selector = "app.kubernetes.io/name=asyncrl-operator"
    kubectl("wait", "-n", "ops", "pod", "-l", selector, "--for=create", "--timeout=30s")

    notes = release("upgrade", "asyncrl", str(CHART))
    assert "STABILITY" in kubectl("get", "asyncrljobs", "-n", "team")
    assert client.status("cartpole").phase == "Pending", "the job is still there"

    commands = [line.strip() for line in notes.splitlines() if line.startswith("  kubectl")]
    assert commands[0] == "kubectl rollout status deployment/asyncrl --namespace ops"
    assert commands[1] == "kubectl apply -f examples/cartpole.yaml"
    kubectl("apply", "--dry-run=server", "-f", str(ROOT / "examples" / "cartpole.yaml"))

    release("uninstall", "asyncrl", "--wait")
    assert client.status("cartpole").phase == "Pending", "the CRD is kept, and the job with it"
    assert not kubectl.get("-n", "ops", "deployments")["items"]
    left = kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert "asyncrl" not in left

    release("install", "asyncrl", str(CHART), "--set", "crds.keep=false")
    assert client.status("cartpole").phase == "Pending"
    release("uninstall", "asyncrl", "--wait")
    kubectl("wait", "--for=delete", f"crd/{CRD}", "--timeout=30s")
    with pytest.raises(JobError, match="does not know AsyncRLJob"):
        client.status("cartpole")


Question = tuple[str, str, str, str | None]
"""Who, which verb, which resource (resource.group/subresource), in which namespace (None: all)."""


def allowed(kubectl: Kubectl, questions: list[Question]) -> list[bool]:
    """What the API server's authorizer answers."""

    def review(question: Question) -> Document:
        user, verb, path, namespace = question
        name, _, subresource = path.partition("/")
        resource, _, group = name.partition(".")
        attributes = {"verb": verb, "resource": resource, "group": group}
        attributes |= {"subresource": subresource, "namespace": namespace or ""}
        groups = ["system:authenticated"]
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
        }

    reviews = {"apiVersion": "v1", "kind": "List", "items": [review(q) for q in questions]}
    shown = 'jsonpath={.status.allowed}{"\\n"}'
    answers = kubectl("create", "-o", shown, "-f", "-", stdin=json.dumps(reviews))
    return [answer == "true" for answer in answers.split()]


def check(kubectl: Kubectl, rules: dict[Question, bool]) -> None:
    """Every question is answered as expected."""
    answers = dict(zip(rules, allowed(kubectl, list(rules)), strict=True))
    assert answers == rules


@pytest.fixture
def installed(helm: Path, empty: ControlPlane) -> Iterator[Callable[..., Kubectl]]:
    """Installs the chart for one test; gives kubectl."""
    release = Helm(helm, empty.kubeconfig, "ops")

    def install(*options: str) -> Kubectl:
        release("install", "asyncrl", str(CHART), *options)
        return empty.kubectl

    yield install
    release("uninstall", "asyncrl", "--wait")


OPERATOR = "system:serviceaccount:ops:asyncrl"
JOB = "asyncrljobs.asyncrl.io"


def test_the_operator_may_do_its_work_and_nothing_else(
    installed: Callable[..., Kubectl],
) -> None:
    may = [
        ("list", JOB),
        ("patch", f"{JOB}/status"),
        ("create", "jobs.batch"),
        ("get", "secrets"),
        ("create", "secrets"),
        ("create", "networkpolicies.networking.k8s.io"),
        ("create", "events"),
        ("get", "nodes"),
    ]
    may_not = [
        ("list", "secrets"),
        ("watch", "secrets"),
        ("create", JOB),
        ("patch", JOB),
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("create", "deployments.apps"),
        ("list", "nodes"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("escalate", "clusterroles.rbac.authorization.k8s.io"),
        ("get", "namespaces"),
        ("create", "serviceaccounts/token"),
        ("impersonate", "users"),
        ("get", "leases.coordination.k8s.io"),
    ]
    rules: dict[Question, bool] = {(OPERATOR, *rule, None): True for rule in may}
    for namespace, granted in (("ops", True), ("team", False)):
        rules[OPERATOR, "create", "leases.coordination.k8s.io", namespace] = granted
    check(installed(), rules | {(OPERATOR, *rule, None): False for rule in may_not})


def test_a_namespaced_operator_reaches_its_namespaces_only(
    installed: Callable[..., Kubectl],
) -> None:
    kubectl = installed("--set", "watchNamespaces={team}")
    rules: dict[Question, bool] = {
        (OPERATOR, "create", "jobs.batch", "team"): True,
        (OPERATOR, "list", JOB, "team"): True,
        (OPERATOR, "get", "nodes", None): False,
    }
    for namespace in ("ops", "default", None):
        rules[OPERATOR, "list", JOB, namespace] = False
        rules[OPERATOR, "get", "secrets", namespace] = False
    check(kubectl, rules)
    assert "asyncrl" not in kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")


def aggregated(kubectl: Kubectl) -> bool:
    """Whether the controller manager has taken our rules into the cluster's roles."""
    roles = [kubectl.get("clusterrole", name)["rules"] for name in ("view", "edit")]
    return all(any("asyncrl.io" in rule["apiGroups"] for rule in rules) for rules in roles)


def test_viewers_and_editors_of_a_namespace_reach_its_jobs(
    installed: Callable[..., Kubectl],
) -> None:
    kubectl = installed()
    deadline, pause = time.monotonic() + 60, threading.Event()
    while not aggregated(kubectl):
        assert time.monotonic() < deadline, "the rules are not aggregated"
        pause.wait(0.2)
    for role in ("view", "edit"):
        binding = ("create", "rolebinding", role, "-n", "team")
        kubectl(*binding, f"--clusterrole={role}", f"--user={role}er")
    rules: dict[Question, bool] = {
        ("viewer", "get", JOB, "team"): True,
        ("viewer", "watch", JOB, "team"): True,
        ("viewer", "get", f"{JOB}/status", "team"): True,
        ("viewer", "create", JOB, "team"): False,
        ("viewer", "patch", f"{JOB}/scale", "team"): False,
        ("editer", "list", JOB, "team"): True,
        ("editer", "create", JOB, "team"): True,
        ("editer", "delete", JOB, "team"): True,
        ("editer", "patch", f"{JOB}/scale", "team"): True,
        ("editer", "patch", f"{JOB}/status", "team"): False,
    }
    rules |= {(user, verb, path, "default"): False for user, verb, path, _ in rules}
    check(kubectl, rules)
    kubectl("delete", "rolebinding", "view", "edit", "-n", "team")
