"""Logs of pods over the faults that a node of ours does not show: cuts, repeats, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.client.scripted_server import (
    Answer,
    Request,
    ScriptedServer,
    jobs,
    pod,
    scripted_server,
)

from asyncrl.backends import pod_logs
from asyncrl.backends.api_server import ApiServer
from asyncrl.backends.kubeconfig import find_cluster
from asyncrl.backends.pod_logs import PodLogs
from asyncrl.errors import JobError


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setattr(pod_logs, "POLL_SECONDS", 0.05)
    with scripted_server(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


def logs() -> PodLogs:
    return PodLogs(ApiServer(find_cluster()), "here", "team", "cartpole")


def follow(over: Callable[[], bool], lines: int | None = None) -> list[str]:
    return [line.text for line in logs().follow(None, None, lines, over=over)]


def scripted(pods: Callable[[], list[Any]], streams: Iterator[Answer]) -> Any:
    """Lists the pods of now; gives each request for a log the next stream."""

    def script(request: Request) -> Answer:
        return next(streams) if request.path.endswith("/log") else jobs(1, *pods())

    return script


def stamped(second: int, *numbers: int) -> list[str]:
    return [f"2026-01-31T12:00:{second:02}.{number:09}Z line {number}" for number in numbers]


def test_a_stream_that_is_cut_goes_on_without_a_line_twice(server: ScriptedServer) -> None:
    states = itertools.chain(["running"] * 3, itertools.repeat("terminated"))
    ended = itertools.count()
    server.script = scripted(
        lambda: [pod("a-x", role="actor", index=0, state=next(states))],
        iter(
            [
                Answer(lines=stamped(1, 1, 2), cut=True),
                # sinceTime is cut to the second, so line 1 and 2 come again.
                Answer(lines=stamped(1, 1, 2, 3)),
                Answer(lines=stamped(1, 3)),
                Answer(lines=[]),
            ]
        ),
    )
    lines = follow(lambda: next(ended) > 60)
    assert lines == ["--- a-x, start 1", "line 1", "line 2", "line 3"]
    asked = [r.query for r in server.requests if r.path.endswith("/log")]
    assert asked[0] == {"container": "actor", "follow": "true", "timestamps": "true"}
    assert asked[1]["sinceTime"] == "2026-01-31T12:00:01.000000002Z"


def test_the_last_lines_are_those_of_every_container_that_is_there(server: ScriptedServer) -> None:
    names = ["a-x", "a-y"]

    def pods() -> list[Any]:
        return [
            pod(name, role="actor", index=index, state="terminated")
            for index, name in enumerate(names)
        ]

    def script(request: Request) -> Answer:
        if not request.path.endswith("/log"):
            return jobs(1, *pods())
        if len(names) == 2:
            names.append("a-z")
        return Answer(lines=stamped(1, 1))

    server.script = script
    ended = itertools.count()
    follow(lambda: next(ended) > 10, lines=5)
    asked = {
        r.path.split("/")[-2]: r.query.get("tailLines")
        for r in server.requests
        if r.path.endswith("/log")
    }
    assert asked == {"a-x": "5", "a-y": "5", "a-z": None}


def test_a_log_that_cannot_be_had_is_said_and_the_others_are_shown(server: ScriptedServer) -> None:
    pods = [pod("l-x", role="learner", index=0), pod("a-x", role="actor", index=0)]
    refused = Answer(code=400, document={"message": "container is waiting to start"})
    server.script = scripted(lambda: pods, iter([Answer(lines=["hello"]), refused]))
    lines = [(line.process, line.text) for line in logs().read(None, None, None)]
    assert lines == [
        ("actor-0", "--- a-x, start 1"),
        ("actor-0", "hello"),
        ("learner-0", "--- no log: l-x: container is waiting to start"),
    ]


def test_a_life_whose_log_is_gone_is_passed_over(server: ScriptedServer) -> None:
    gone = Answer(code=400, document={"message": "previous terminated container not found"})
    server.script = scripted(
        lambda: [pod("a-x", role="actor", index=0, life=1)], iter([gone, Answer(lines=["now"])])
    )
    assert [line.text for line in logs().read(None, None, 5)] == ["--- a-x, start 2", "now"]
    previous, current = (r.query for r in server.requests[1:])
    assert (previous["previous"], previous["tailLines"]) == ("true", "5")
    assert "previous" not in current


def test_too_many_pods_to_follow_is_an_error_with_a_remedy(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_logs, "MOST_FOLLOWED", 1)
    pods = [pod(f"a-{index}", role="actor", index=index) for index in range(2)]
    held = Answer(lines=stamped(1, 1))
    server.script = scripted(lambda: pods, itertools.repeat(held))
    with pytest.raises(JobError, match="narrow them with --role or --index"):
        follow(lambda: False)
