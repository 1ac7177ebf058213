"""What the client of a cluster asks of the API server, and what it refuses to ask."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from unit.client.scripted_server import (
    Answer,
    Request,
    ScriptedServer,
    event,
    job,
    jobs,
    scripted_server,
)

from asyncrl.backends import kubernetes
from asyncrl.cli.main import main
from asyncrl.client import JobError, JobNotFoundError, ManifestError, cluster

NOT_FOUND = {"kind": "Status", "details": {"name": "x"}, "message": "not found"}


class Store:
    """An API server's jobs, by namespace and name; an apply sets the fields that it has."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}

    def put(self, namespace: str, name: str, phase: str | None = None, **status: Any) -> Any:
        document = job(1, phase, **status)
        document["metadata"] |= {"namespace": namespace, "name": name}
        self.jobs[namespace, name] = document
        return document

    def __call__(self, request: Request) -> Answer:
        _, _, _, _, _, namespace, _, *rest = request.path.split("/")
        if not rest:
            return jobs(1, *(value for key, value in self.jobs.items() if key[0] == namespace))
        key = (namespace, rest[0])
        if request.method == "PATCH":
            return self._patch(key, request)
        if key not in self.jobs:
            return Answer(code=404, document=NOT_FOUND)
        return Answer(document=self.jobs[key])

    def _patch(self, key: tuple[str, str], request: Request) -> Answer:
        known = self.jobs.get(key)
        if known is None and request.query.get("force") is None:
            return Answer(code=404, document=NOT_FOUND)
        after = copy.deepcopy(known) if known is not None else job(1)
        before = copy.deepcopy(after["spec"])
        merge(after["spec"], request.body["spec"])
        after["metadata"] |= {"namespace": key[0], "name": key[1]}
        after["metadata"]["generation"] += after["spec"] != before
        if request.query.get("dryRun") != "All":
            self.jobs[key] = after
        return Answer(code=201 if known is None else 200, document=after)


def merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


@pytest.fixture
def store(server: ScriptedServer) -> Store:
    store = Store()
    server.script = store
    return store


def manifest(name: str = "cartpole", namespace: str | None = None, **spec: Any) -> str:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    spec = {"workload": {"gymnasium": {"id": "CartPole-v1"}}, **spec}
    document = {"apiVersion": "asyncrl.io/v1alpha1", "kind": "AsyncRLJob"}
    return yaml.safe_dump(document | {"metadata": metadata, "spec": spec})


def test_a_manifest_of_another_namespace_moves_no_other_job(store: Store) -> None:
    store.put("team", "other", "Running")
    client = cluster()
    client.submit(manifest(namespace="else"))
    assert set(store.jobs) == {("team", "other"), ("else", "cartpole")}
    assert client.status("cartpole").phase == "Pending"
    assert client.status("other").phase == "Running"
    assert [job.name for job in client.jobs()] == ["other"]
    client.submit(manifest("mine"))
    assert ("team", "mine") in store.jobs


def test_a_job_that_is_gone_is_missed_where_it_was(store: Store) -> None:
    client = cluster()
    client.submit(manifest(namespace="else"))
    store.jobs.clear()
    store.put("else", "cartpol")
    with pytest.raises(JobNotFoundError, match=r"in namespace else; did you mean 'cartpol'\?"):
        client.suspend("cartpole")


def test_what_is_refused_moves_nothing(store: Store, server: ScriptedServer) -> None:
    store.put("team", "cartpole", "Running")
    client = cluster()
    refused = Answer(code=404, document={"details": {"kind": "namespaces", "name": "else"}})
    server.script = lambda request: refused
    with pytest.raises(Exception, match="namespace else: does not exist"):
        client.submit(manifest(namespace="else"))
    server.script = store
    assert client.status("cartpole").phase == "Running"


def test_a_namespace_that_was_given_may_not_be_contradicted(store: Store) -> None:
    with pytest.raises(ManifestError, match="else is not the --namespace team; leave one of them"):
        cluster(namespace="team").submit(manifest(namespace="else"))
    assert store.jobs == {}


def held(store: Store, reason: str = "SuspendedByStability") -> dict[str, Any]:
    """A run that the operator keeps suspended although `suspend` is false."""
    document: dict[str, Any] = store.put("team", "cartpole", "Suspended")
    suspended = {"type": "Suspended", "status": "True", "reason": reason, "message": "kl"}
    time = {"lastTransitionTime": "2026-01-31T12:00:00Z"}
    document["status"]["conditions"] = [suspended | time]
    return document


def asked(server: ScriptedServer) -> list[bool]:
    """What `suspend` was set to, in order."""
    patches = [r.body["spec"]["runPolicy"] for r in server.requests if r.method == "PATCH"]
    return [policy["suspend"] for policy in patches]


def test_a_run_that_stability_suspended_goes_on_when_the_operator_has_let_go(
    store: Store, server: ScriptedServer
) -> None:
    held(store)
    seen: list[list[bool]] = []

    def operator(request: Request) -> Answer:
        if "watch" not in request.query:
            return store(request)
        seen.append(asked(server))  # and only now it looks
        return Answer(lines=[event("MODIFIED", held(Store(), reason="SuspendedByUser"))])

    server.script = operator
    cluster().resume("cartpole")
    assert seen == [[True]]
    assert asked(server) == [True, False]


def test_a_run_that_nobody_lets_go_of_is_said_to_be_so(
    store: Store, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "RELEASE_SECONDS", 0.3)
    held(store)
    server.script = lambda request: Answer(lines=[]) if "watch" in request.query else store(request)
    with pytest.raises(JobError, match="see that one runs for namespace team, then resume again"):
        cluster().resume("cartpole")
    assert asked(server) == [True]
    # Once the operator has seen it, the second time goes through at once.
    held(store, reason="SuspendedByUser")
    cluster().resume("cartpole")
    assert asked(server) == [True, False]


@pytest.mark.parametrize("reason", ["SuspendedByUser", "Resumed"])
def test_another_suspension_is_resumed_by_false_alone(
    store: Store, server: ScriptedServer, reason: str
) -> None:
    held(store, reason=reason)
    cluster().resume("cartpole")
    assert asked(server) == [False]


@pytest.mark.parametrize("phase", ["Complete", "Failed"])
def test_a_job_that_is_over_is_not_changed_into_one_that_seems_to_have_trained(
    store: Store, server: ScriptedServer, phase: str
) -> None:
    before = copy.deepcopy(store.put("team", "cartpole", phase))
    with pytest.raises(JobError) as caught:
        cluster().submit(manifest(stopping={"targetReturn": 500}))
    assert str(caught.value) == (
        f"cartpole: is {phase} already, and the manifest is another one; `asyncrl delete cartpole "
        "--namespace team`, or rename it in metadata.name, to train again"
    )
    assert store.jobs == {("team", "cartpole"): before}
    assert {r.query["dryRun"] for r in server.requests if r.method == "PATCH"} == {"All"}


def test_a_job_that_is_over_can_be_submitted_unchanged_or_kept_for_longer(store: Store) -> None:
    store.put("team", "cartpole", "Complete")
    client = cluster()
    assert client.apply(manifest())[1] == "unchanged"
    assert client.apply(manifest(runPolicy={"ttlSecondsAfterFinished": 60}))[1] == "changed"
    policy = store.jobs["team", "cartpole"]["spec"]["runPolicy"]
    assert policy == {"ttlSecondsAfterFinished": 60}
    with pytest.raises(JobError, match="is Complete already"):
        client.apply(manifest(runPolicy={"backoffLimit": 9}))


def test_a_job_that_was_scaled_and_resumed_can_be_submitted_again_when_it_is_over(
    store: Store,
) -> None:
    mine = manifest(actors={"replicas": 2}, runPolicy={"suspend": True})
    client = cluster()
    client.submit(mine)
    document = store.jobs["team", "cartpole"]
    document["spec"]["actors"]["replicas"] = 8
    document["spec"]["runPolicy"]["suspend"] = False
    document["status"] = {"phase": "Complete"}
    assert client.wait(client.submit(mine)).exit_code == 0


def test_a_job_that_goes_on_is_changed(store: Store, server: ScriptedServer) -> None:
    store.put("team", "cartpole", "Running")
    assert cluster().apply(manifest(stopping={"targetReturn": 500}))[1] == "changed"
    assert [r.query.get("dryRun") for r in server.requests if r.method == "PATCH"] == [None]


def test_the_command_refuses_what_is_over_and_does_not_watch_it(
    store: Store, tmp_path: Path
) -> None:
    store.put("team", "cartpole", "Complete")
    file = tmp_path / "job.yaml"
    file.write_text(manifest(stopping={"targetReturn": 500}))
    done = CliRunner().invoke(main, ["submit", str(file), "--watch"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cartpole: is Complete already")
    assert done.stderr.count("\n") == 1
