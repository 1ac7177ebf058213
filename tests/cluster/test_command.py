"""The command and the Python client against a real API server; the tests write the status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl

from asyncrl.backends.api_server import APPLY
from asyncrl.cli.main import main
from asyncrl.client import JobError, JobNotFoundError, ManifestError, cluster

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cartpole.yaml"
TRAINING = {"policyVersion": 7, "environmentSteps": 7168, "episodeReturn": 41.5, "throughput": 9.0}


class Command:
    """Runs `asyncrl` as a user of one kubeconfig, in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self._folder = folder
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "COLUMNS": "100"}

    def __call__(self, *words: str) -> Result:
        """In this process, which spares it a second of imports."""
        return CliRunner(env=self._environment).invoke(main, self._words(*words))

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "asyncrl.cli.main", *self._words(*words)],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def says(self, *words: str) -> str:
        """Its output, where it has to succeed."""
        done = self(*words)
        assert (done.exit_code, done.stderr) == (0, "")
        return done.stdout

    def refuses(self, *words: str, code: int = 2) -> str:
        """Its one line on stderr, where it has to fail."""
        done = self(*words)
        assert (done.exit_code, done.stdout) == (code, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        return done.stderr.removeprefix("error: ").rstrip("\n")

    def _words(self, *words: str) -> list[str]:
        named = "--namespace" in words
        return [*words] if named else [*words, "--namespace", self.namespace]


@pytest.fixture
def asyncrl(kubectl: Kubectl, kubeconfig: Path, namespace: str, tmp_path: Path) -> Command:
    return Command(kubeconfig, namespace, tmp_path)


@pytest.fixture
def context(kubectl: Kubectl) -> str:
    return kubectl("config", "current-context").strip()


@pytest.fixture
def submitted(asyncrl: Command) -> str:
    asyncrl.says("submit", str(EXAMPLE))
    return "cartpole"


def read(process: subprocess.Popen[str], word: str) -> str:
    """The output of a process until a word comes."""
    assert process.stdout is not None
    guard = threading.Timer(30, process.kill)
    guard.start()
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            break
    guard.cancel()
    assert word in "".join(lines)
    return "".join(lines)


@pytest.fixture
def watching(asyncrl: Command) -> Iterator[Any]:
    """Starts `asyncrl watch cartpole` and returns when it shows the job."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = asyncrl.start("watch", "cartpole", *words)
        started.append(process)
        read(process, "Pending")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    }


def write_status(kubectl: Kubectl, namespace: str, phase: str, **status: Any) -> None:
    """What an operator would write."""
    document = {"status": {"phase": phase, "observedGeneration": 99, **status}}
    kubectl(
        *("patch", "asyncrljob", "cartpole", "-n", namespace, "--subresource=status"),
        *("--type=merge", "-p", json.dumps(document)),
    )


def test_submit_creates_changes_and_leaves_alone(
    asyncrl: Command, kubectl: Kubectl, context: str
) -> None:
    where, n = f"{context}/{asyncrl.namespace}", asyncrl.namespace
    said = asyncrl.says("submit", str(EXAMPLE))
    assert said == f"cartpole: created in {where}\n  next: asyncrl watch cartpole --namespace {n}\n"
    job = kubectl.get("-n", n, "asyncrljob", "cartpole")
    assert job["spec"]["staleness"]["max"] == 4, "the API server writes the defaults"
    job = kubectl.get("-n", n, "asyncrljob", "cartpole", "--show-managed-fields")
    (manager,) = job["metadata"]["managedFields"]
    assert (manager["manager"], manager["operation"]) == ("asyncrl", "Apply")
    assert set(manager["fieldsV1"]["f:spec"]) == {"f:workload", "f:stopping"}

    assert "cartpole: unchanged in" in asyncrl.says("submit", str(EXAMPLE))
    kubectl("scale", "asyncrljob", "cartpole", "-n", n, "--replicas=5")
    change = ("--set", "spec.staleness.max=2")
    assert "cartpole: changed in" in asyncrl.says("submit", str(EXAMPLE), *change)
    job = kubectl.get("-n", n, "asyncrljob", "cartpole")
    assert job["spec"]["staleness"]["max"] == 2
    assert job["spec"]["actors"]["replicas"] == 5, "what the manifest does not say stays"

    write_status(kubectl, n, "Complete")
    said = asyncrl.says("submit", str(EXAMPLE), *change)
    assert f"it is Complete already; to train anew: asyncrl delete cartpole --namespace {n}" in said


def test_a_changed_manifest_is_refused_where_the_job_is_over(
    asyncrl: Command, kubectl: Kubectl, submitted: str
) -> None:
    n = asyncrl.namespace
    asyncrl.says("scale", submitted, "5")
    write_status(kubectl, n, "Complete", reason="TargetReturnReached")
    before = kubectl.get("-n", n, "asyncrljob", submitted)
    change = ("submit", str(EXAMPLE), "--set", "spec.stopping.targetReturn=400")
    for words in (change, (*change, "--watch")):
        assert asyncrl.refuses(*words) == (
            "cartpole: is Complete already, and the manifest is another one; `asyncrl delete "
            f"cartpole --namespace {n}`, or rename it in metadata.name, to train again"
        )
    assert kubectl.get("-n", n, "asyncrljob", submitted) == before
    assert "cartpole: unchanged in" in asyncrl.says("submit", str(EXAMPLE))
    kept = ("--set", "spec.runPolicy.ttlSecondsAfterFinished=3600")
    assert "cartpole: changed in" in asyncrl.says("submit", str(EXAMPLE), *kept)


def test_what_kubectl_saved_can_be_submitted_again(
    asyncrl: Command, kubectl: Kubectl, submitted: str, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.yaml"
    query = ("get", "-n", asyncrl.namespace, "asyncrljob", submitted, "-o", "yaml")
    saved.write_text(kubectl(*query, "--show-managed-fields"))
    assert "cartpole: unchanged in" in asyncrl.says("submit", str(saved))


def test_the_namespace_of_the_manifest_counts_and_may_not_be_contradicted(
    asyncrl: Command, namespace: str, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = yaml.safe_load(EXAMPLE.read_text())
    stated["metadata"]["namespace"] = namespace
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    client = cluster()
    assert client.namespace == "default"
    client.submit(yaml.safe_dump(stated))
    assert client.status("cartpole").phase == "Pending"
    assert client.namespace == "default", "where other jobs are looked for"
    with pytest.raises(JobNotFoundError, match="other: no such job in namespace default"):
        client.status("other")
    with pytest.raises(ManifestError, match="is not the --namespace other; leave one of them out"):
        cluster(namespace="other").submit(yaml.safe_dump(stated))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("status", "cartpol"),
            "cartpol: no such job in namespace {n}; did you mean 'cartpole'?",
        ),
        (("watch", "zzz"), "zzz: no such job in namespace {n}; there is cartpole"),
        (("scale", "zzz", "3"), "zzz: no such job in namespace {n}; there is cartpole"),
        (("suspend", "zzz"), "zzz: no such job in namespace {n}; there is cartpole"),
        (("resume", "zzz"), "zzz: no such job in namespace {n}; there is cartpole"),
        (("delete", "zzz"), "zzz: no such job in namespace {n}; there is cartpole"),
        (("logs", "zzz"), "zzz: no such job in namespace {n}; there is cartpole"),
        (
            ("logs", "cartpole"),
            "cartpole: has no pods now; `asyncrl status cartpole --namespace {n}` says why",
        ),
        (
            ("submit", str(EXAMPLE), "--set", "spec.seed=1"),
            "spec.seed: cannot change while the job exists; create a job of another name",
        ),
        (
            ("submit", str(EXAMPLE), "--set", "spec.stalenes.max=1"),
            "spec.stalenes: unknown field; did you mean 'staleness'?",
        ),
        (
            ("submit", str(EXAMPLE), "--namespace", "nowhere"),
            "namespace nowhere: does not exist; create it with `kubectl create namespace "
            "nowhere`, or choose one with --namespace",
        ),
        (
            ("scale", "cartpole", "5000"),
            "spec.actors.replicas: 5000 should be less than or equal to 4096",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: tuple[str, ...], line: str, asyncrl: Command, submitted: str
) -> None:
    assert asyncrl.refuses(*words) == line.format(n=asyncrl.namespace)


def test_a_namespace_without_jobs_says_so(asyncrl: Command) -> None:
    n = asyncrl.namespace
    line = f"zzz: no such job in namespace {n}, which has none; choose with --namespace"
    assert asyncrl.refuses("status", "zzz") == line
    assert asyncrl.says("status") == (
        f"no jobs in namespace {n}; asyncrl submit FILE --namespace {n}\n"
    )


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ({"staleness": {"max": -1}}, ["spec.staleness.max: -1 should be greater than or equal to"]),
        ({"staleness": {"max": "x"}}, ["spec.staleness.max: expected numeric"]),
        (
            {"staleness": {"onStale": "drp"}},
            ["""spec.staleness.onStale: 'drp' is not one of "drop", "wait\""""],
        ),
        ({"stalenes": {}}, ["spec.stalenes: unknown field; did you mean 'staleness'?"]),
        (
            {"optimizer": {"name": "sgd"}, "alignment": {"adamDamping": True}},
            ["spec.alignment.adamDamping: needs optimizer.name adam or adamw; set it to false"],
        ),
        ({"actors": {"env": [{"name": "a b"}]}}, ["spec.actors.env[0].name: 'a b' should match"]),
        ({"actors": {"env": [{"name": "a"}] * 2}}, ["spec.actors.env: duplicate entries for key"]),
        ({"workload": {"gymnasium": {"id": ""}}}, ["spec.workload.gymnasium.id: '' should be at"]),
    ],
)
def test_what_the_api_server_refuses_names_field_and_remedy(
    spec: dict[str, Any],
    lines: list[str],
    kubectl: Kubectl,
    kubeconfig: Path,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    client = cluster(namespace=namespace)
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"] |= spec
    # Past the checks of the command, as one of another version would send it.
    with pytest.raises(ManifestError) as caught:
        client._server.request(
            client._target("cartpole"),
            "PATCH",
            client._path("cartpole"),
            query={"fieldManager": "test", "force": "true"},
            body=document,
            content_type=APPLY,
        )
    said = sorted(str(caught.value).splitlines())
    assert len(said) == len(lines), said
    for line, expected in zip(said, lines, strict=True):
        assert line.startswith(expected)


def test_what_is_forbidden_names_the_user_and_the_role_to_ask_for(
    control_plane: ControlPlane,
    kubectl: Kubectl,
    asyncrl: Command,
    submitted: str,
    tmp_path: Path,
) -> None:
    nobody = control_plane.user("nobody", control_plane.authority.issue("nobody"))
    n = asyncrl.namespace
    guest = Command(nobody, n, tmp_path)
    assert guest.refuses("status") == (
        f"namespace {n}: user nobody may not list asyncrljobs; an administrator can bind the "
        "cluster role asyncrl-view to this user"
    )
    assert "may not patch asyncrljobs/scale" in guest.refuses("scale", "cartpole", "3")
    assert "cluster role asyncrl-edit" in guest.refuses("delete", "cartpole")
    kubectl("create", "role", "jobs", "-n", n, "--verb=get", "--resource=asyncrljobs.asyncrl.io")
    kubectl("create", "rolebinding", "jobs", "-n", n, "--role=jobs", "--user=nobody")
    assert guest.refuses("logs", "cartpole") == (
        f"namespace {n}: user nobody may not list pods; an administrator can bind the "
        "cluster role view to this user"
    )


def test_a_certificate_that_is_not_known_is_told_to_log_in(
    kubectl: Kubectl, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"token": "wrong"}
    other = tmp_path / "kubeconfig"
    other.write_text(yaml.safe_dump(document))
    line = Command(other, namespace, tmp_path).refuses("status")
    assert "your credentials are not accepted; log in again, or choose another --context" in line


def test_scale_suspend_and_resume_say_what_the_spec_says_then(
    asyncrl: Command, kubectl: Kubectl, submitted: str
) -> None:
    n = asyncrl.namespace

    def spec() -> Any:
        return kubectl.get("-n", n, "asyncrljob", submitted)["spec"]

    assert asyncrl.says("scale", submitted, "7") == "cartpole: 7 actors asked for\n"
    assert spec()["actors"]["replicas"] == 7
    assert f"next: asyncrl resume cartpole --namespace {n}" in asyncrl.says("suspend", submitted)
    assert spec()["runPolicy"]["suspend"] is True
    assert f"next: asyncrl watch cartpole --namespace {n}" in asyncrl.says("resume", submitted)
    assert spec()["runPolicy"]["suspend"] is False
    write_status(kubectl, n, "Failed")
    for verb in ("suspend", "resume"):
        assert f"is Failed, there is nothing to {verb}" in asyncrl.refuses(verb, submitted)


def test_resume_of_what_stability_suspended_waits_for_the_operator(
    asyncrl: Command, kubectl: Kubectl, submitted: str
) -> None:
    n = asyncrl.namespace
    held = condition("Suspended", "True", "SuspendedByStability")
    write_status(kubectl, n, "Suspended", reason="SuspendedByStability", conditions=[held])
    process = asyncrl.start("resume", submitted)
    kubectl(
        *("wait", "asyncrljob", submitted, "-n", n, "--timeout=30s"),
        "--for=jsonpath={.spec.runPolicy.suspend}=true",
    )
    assert process.poll() is None, "it waits until the operator has seen this"
    by_user = condition("Suspended", "True", "SuspendedByUser")
    write_status(kubectl, n, "Suspended", reason="SuspendedByUser", conditions=[by_user])
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert said.startswith("cartpole: asked to go on\n")
    spec = kubectl.get("-n", n, "asyncrljob", submitted)["spec"]
    assert spec["runPolicy"]["suspend"] is False


def test_delete_takes_what_belongs_to_the_job_along(
    asyncrl: Command, kubectl: Kubectl, submitted: str
) -> None:
    n = asyncrl.namespace
    owner = kubectl.get("-n", n, "asyncrljob", submitted)
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": submitted,
        "uid": owner["metadata"]["uid"],
    }
    child = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "child", "ownerReferences": [reference]},
    }
    kubectl("create", "-n", n, "-f", "-", stdin=yaml.safe_dump(child))
    assert asyncrl.says("delete", submitted) == "cartpole: deleted\n"
    kubectl("wait", "-n", n, "configmap/child", "--for=delete", "--timeout=30s")
    assert "no such job" in asyncrl.refuses("delete", submitted)


def test_status_shows_one_job_or_all_of_a_namespace(
    asyncrl: Command, kubectl: Kubectl, submitted: str, context: str
) -> None:
    n = asyncrl.namespace
    assert "no operator has looked at this job yet" in asyncrl.says("status", submitted)
    write_status(kubectl, n, "Running", training=TRAINING, actors={"replicas": 2})
    shown = asyncrl.says("status", submitted)
    assert "Running" in shown
    assert "41.5" in shown
    assert f"{context}/{n}" in shown
    document = json.loads(asyncrl.says("status", submitted, "-o", "json"))
    assert document["training"]["policyVersion"] == 7
    assert yaml.safe_load(asyncrl.says("status", submitted, "-o", "yaml")) == document
    heading, row = asyncrl.says("status").splitlines()
    columns = kubectl("get", "asyncrljobs", "-n", n).splitlines()[0]
    assert heading.split() == columns.split(), "the columns of kubectl get"
    assert row.split()[:4] == ["cartpole", "Running", "7", "41.5"]
    assert set(json.loads(asyncrl.says("status", "-o", "json"))) == {"cartpole"}


def test_status_without_the_options_means_a_run_on_this_machine(
    asyncrl: Command, submitted: str, kubeconfig: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asyncrl.cli.main", "status", submitted],
        cwd=tmp_path,
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "cartpole: no such run" in done.stderr
    assert "--namespace" in done.stderr, "the remedy for who meant the cluster"


def test_watch_shows_the_run_to_its_end(
    asyncrl: Command, kubectl: Kubectl, submitted: str, watching: Any, context: str
) -> None:
    n = asyncrl.namespace
    process = watching()
    healthy = condition("Stable", "True", "Healthy")
    write_status(kubectl, n, "Running", training=TRAINING, conditions=[healthy])
    assert "Stable True, Healthy" in read(process, "return=41.5")
    degraded = condition("Stable", "False", "Degraded")
    write_status(kubectl, n, "Running", conditions=[degraded])
    read(process, "Stable False, Degraded")
    write_status(kubectl, n, "Complete", reason="TargetReturnReached")
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert "Complete  cartpole  TargetReturnReached" in rest
    assert f"job         {context}/{n}/cartpole" in rest
    assert f"next        asyncrl status cartpole --namespace {n}" in rest


@pytest.mark.parametrize(
    ("phase", "following", "errors"),
    [("Failed", "logs", "error: actor-0: broken\n"), ("Suspended", "resume", "")],
)
def test_watch_of_a_run_that_did_not_complete_is_code_1(
    phase: str,
    following: str,
    errors: str,
    asyncrl: Command,
    kubectl: Kubectl,
    submitted: str,
) -> None:
    reason = {"reason": "EnvironmentFailed", "message": "actor-0: broken"}
    write_status(kubectl, asyncrl.namespace, phase, **reason)
    done = asyncrl("watch", submitted)
    assert (done.exit_code, done.stderr) == (1, errors)
    assert f"next        asyncrl {following} cartpole" in done.stdout


def test_ctrl_c_ends_the_watching_and_not_the_job(
    asyncrl: Command, kubectl: Kubectl, submitted: str, watching: Any
) -> None:
    process = watching()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == f"cartpole goes on; asyncrl watch cartpole --namespace {asyncrl.namespace}\n"
    assert kubectl.get("-n", asyncrl.namespace, "asyncrljob", submitted)


def test_watch_ends_when_the_job_is_deleted(
    asyncrl: Command, submitted: str, watching: Any
) -> None:
    process = watching()
    asyncrl.says("delete", submitted)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors == f"error: cartpole: was deleted in namespace {asyncrl.namespace}\n"


def test_submit_can_watch(asyncrl: Command, kubectl: Kubectl) -> None:
    process = asyncrl.start("submit", str(EXAMPLE), "--watch")
    read(process, "Pending")
    write_status(kubectl, asyncrl.namespace, "Complete", reason="TargetReturnReached")
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Complete  cartpole" in rest


def test_a_pipeline_step_submits_and_waits(
    kubectl: Kubectl, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"]["namespace"] = namespace
    manifest = tmp_path / "job.yaml"
    manifest.write_text(yaml.safe_dump(document))

    def step() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "pipeline_step.py"), str(manifest)],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stdout=subprocess.PIPE,
            text=True,
        )

    first = step()
    kubectl(
        *("wait", "asyncrljob", "cartpole", "-n", namespace, "--for=create", "--timeout=30s"),
    )
    first.kill()  # the pipeline tries the step again
    first.communicate()
    second = step()
    write_status(kubectl, namespace, "Failed", reason="Stalled", message="learner-0: no progress")
    printed, _ = second.communicate(timeout=30)
    assert (second.returncode, printed) == (1, "cartpole: Failed, Stalled learner-0: no progress\n")


def test_the_python_client_has_the_verbs(
    kubectl: Kubectl, kubeconfig: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    client = cluster(namespace=namespace)
    name = client.submit(EXAMPLE, ["metadata.name=mine"])
    assert name == "mine"
    client.scale(name, 3)
    client.suspend(name)
    spec = kubectl.get("-n", namespace, "asyncrljob", name)["spec"]
    assert (spec["actors"]["replicas"], spec["runPolicy"]["suspend"]) == (3, True)
    client.resume(name)
    statuses = client.watch(name, timeout=5)
    assert next(statuses).phase == "Pending"
    with pytest.raises(TimeoutError, match=r"mine: still Pending after 0\.3 s"):
        client.wait(name, timeout=0.3)
    with pytest.raises(JobError, match="has no pods now"):
        list(client.logs(name))
    with pytest.raises(ManifestError, match=r"spec\.actors\.replicas: -1 should be"):
        client.scale(name, -1)
    client.delete(name)
    with pytest.raises(JobNotFoundError, match="mine: no such job"):
        client.status(name)
