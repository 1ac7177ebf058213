"""Watching a job over cuts, expired versions and servers that are busy, slow or gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.client.scripted_server import (
    Answer,
    Request,
    ScriptedServer,
    event,
    job,
    jobs,
    scripted_server,
)

from asyncrl.backends import api_server
from asyncrl.backends.api_server import ApiServer
from asyncrl.backends.kubeconfig import find_cluster
from asyncrl.backends.kubernetes import KubernetesClient
from asyncrl.backends.refusals import Target
from asyncrl.backends.watch import ObjectWatch, Patience
from asyncrl.errors import ClusterUnavailableError, JobDeletedError, JobError, JobNotFoundError

BOOKMARK = {
    "type": "BOOKMARK",
    "object": {"metadata": {"resourceVersion": "9"}},
}
EXPIRED = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


class Clock:
    """Time that passes in pauses only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def watch(clock: Clock, cuts: list[str] | None = None) -> ObjectWatch:
    return ObjectWatch(
        ApiServer(find_cluster()),
        Target("here", "team", name="cartpole"),
        "/apis/asyncrl.io/v1alpha1/namespaces/team/asyncrljobs",
        clock=clock,
        pause=clock.pause,
        on_cut=None if cuts is None else cuts.append,
    )


def phases(watch: ObjectWatch, count: int) -> list[str]:
    documents = watch.run()
    return [next(documents).get("status", {}).get("phase", "none") for _ in range(count)]


def test_a_watch_goes_on_where_it_was_cut(server: ScriptedServer) -> None:
    server.script = iter(
        [
            jobs(5, job(4)),
            Answer(lines=[event("MODIFIED", job(7, "Pending")), BOOKMARK], cut=True),
            Answer(lines=[event("MODIFIED", job(11, "Running"))]),
        ]
    )
    clock, cuts = Clock(), list[str]()
    assert phases(watch(clock, cuts), 3) == ["none", "Pending", "Running"]
    assert [r.query.get("resourceVersion") for r in server.requests] == [None, "5", "9"]
    assert len(cuts) == 1 and "is it running, and reachable" in cuts[0]
    assert clock.pauses == [0.5]


@pytest.mark.parametrize(
    "expired", [Answer(lines=[EXPIRED]), Answer(code=410, document=EXPIRED["object"])]
)
def test_an_expired_version_lists_again(server: ScriptedServer, expired: Answer) -> None:
    server.script = iter([jobs(5, job(4)), expired, jobs(20, job(19, "Running"))])
    assert phases(watch(Clock()), 2) == ["none", "Running"]
    assert [r.query.get("watch") for r in server.requests] == [None, "true", None]


def test_a_watch_that_ends_by_itself_shows_the_job_again(server: ScriptedServer) -> None:
    server.script = iter([jobs(5, job(4, "Running")), Answer(lines=[]), Answer(lines=[])])
    clock = Clock()
    assert phases(watch(clock), 3) == ["Running"] * 3
    assert clock.pauses == []
    assert server.requests[1].query["timeoutSeconds"] == "30"


def test_after_two_minutes_without_an_answer_it_gives_up(server: ScriptedServer) -> None:
    def script(request: Request) -> Answer:
        return jobs(5, job(4)) if "watch" not in request.query else Answer(lines=[], cut=True)

    server.script = script
    clock = Clock()
    documents = watch(clock).run()
    next(documents)
    with pytest.raises(ClusterUnavailableError, match="cluster here: http://127"):
        next(documents)
    assert 120 <= clock.now <= 130
    assert clock.pauses[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]


def test_patience_begins_anew_after_a_success() -> None:
    patience = Patience(10.0)
    assert patience.failed(0.0) == 0.5
    assert patience.failed(9.0) == 1.0
    patience.succeeded()
    assert patience.failed(11.0) == 0.5
    assert patience.failed(21.0) is None


def test_a_job_that_is_deleted_meanwhile_ends_the_watch(server: ScriptedServer) -> None:
    server.script = iter([jobs(5, job(4)), Answer(lines=[event("DELETED", job(8))])])
    client = KubernetesClient.connect()
    with pytest.raises(JobDeletedError, match=r"^cartpole: was deleted in namespace team$"):
        list(client.observe("cartpole"))


def test_a_job_that_is_not_there_is_told_from_one_that_was_deleted(server: ScriptedServer) -> None:
    server.script = iter([jobs(5), jobs(5, job(4))])
    with pytest.raises(JobNotFoundError, match="there is cartpole") as caught:
        list(KubernetesClient.connect().observe("zzz"))
    assert not isinstance(caught.value, JobDeletedError)


def test_a_suspension_counts_when_the_operator_has_seen_the_newest_spec(
    server: ScriptedServer,
) -> None:
    old = job(4, "Suspended")
    old["metadata"]["generation"] = 2
    server.script = iter([jobs(5, old), Answer(lines=[event("MODIFIED", job(8, "Suspended"))])])
    seen = [job.outcome for job in KubernetesClient.connect().observe("cartpole")]
    assert [outcome and outcome.phase for outcome in seen] == [None, "Suspended"]


def test_wait_raises_timeout_and_the_job_goes_on(server: ScriptedServer) -> None:
    server.script = lambda request: (
        Answer(lines=[]) if "watch" in request.query else jobs(5, job(4, "Running"))
    )
    with pytest.raises(TimeoutError, match=r"^cartpole: still Running after 0\.2 s$"):
        KubernetesClient.connect().wait("cartpole", timeout=0.2)
    assert {r.method for r in server.requests} == {"GET"}


def test_a_busy_server_is_asked_again_as_it_says(server: ScriptedServer) -> None:
    busy = Answer(code=429, document={"message": "too many"}, headers={"Retry-After": "3"})
    broken = Answer(code=503, document={"message": "starting"})
    server.script = iter([busy, broken, jobs(5)])
    pauses: list[float] = []
    target = Target("here", "team")
    ApiServer(find_cluster(), sleep=pauses.append).request(target, "GET", "/x")
    assert pauses[0] == 3.0
    assert 0.8 <= pauses[1] <= 1.2


def test_a_server_that_stays_busy_is_unavailable(server: ScriptedServer) -> None:
    server.script = lambda request: Answer(code=503, document={"message": "starting"})
    with pytest.raises(ClusterUnavailableError, match="cannot answer now \\(503 starting\\)"):
        ApiServer(find_cluster(), sleep=lambda s: None).request(Target("here", "team"), "GET", "/x")
    assert len(server.requests) == api_server.ATTEMPTS


def test_every_request_has_a_deadline(server: ScriptedServer) -> None:
    released = threading.Event()
    server.script = iter([Answer(document={}, hold=released)])
    began = time.monotonic()
    with pytest.raises(ClusterUnavailableError, match="no answer within the deadline"):
        ApiServer(find_cluster(), read_seconds=0.2).request(Target("here", "team"), "GET", "/x")
    released.set()
    assert time.monotonic() - began < 5


def test_a_line_beyond_every_bound_is_refused(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_server, "LINE_BYTES", 100)
    server.script = iter([Answer(lines=["x" * 100_000])])
    target = Target("here", "team")
    with (
        pytest.raises(JobError, match="a line of more than 100 bytes"),
        ApiServer(find_cluster()).stream(target, "/x", query={}, read_seconds=5) as lines,
    ):
        list(lines)
