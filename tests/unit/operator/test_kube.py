"""What the operator does with the API server's answers, where the answers are faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncrl_operator.kube.apply import is_applied, stamped
from asyncrl_operator.kube.certificates import (
    HOLDERS,
    LIFE,
    RENEWED_BEFORE,
    first_end,
    issue,
)
from asyncrl_operator.kube.client import POD, ApiError, Kind, Object
from asyncrl_operator.kube.informer import Informer
from asyncrl_operator.nodes import describe

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class ScriptedApi:
    """Answers lists and watches from a script; a watch ends, fails, or goes on for ever."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def list(self, kind: Kind, namespace: str | None, query: Mapping[str, Any]) -> Object:
        self.asked.append(("list", dict(query)))
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return deepcopy(answer)

    async def watch(
        self, kind: Kind, namespace: str | None, query: Mapping[str, Any]
    ) -> AsyncIterator[Object]:
        self.asked.append(("watch", dict(query)))
        answer = self.script.pop(0) if self.script else None
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, list)
        for event in answer:
            yield event


def item(name: str, version: int, **more: Any) -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
        },
        **more,
    }


def page(version: int, *items: Object, more: str | None = None) -> Object:
    metadata = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
    return {"metadata": metadata, "items": list(items)}


def event(kind: str, thing: Object) -> Object:
    return {"type": kind, "object": thing}


def inform(
    monkeypatch: pytest.MonkeyPatch, *script: Any
) -> tuple[ScriptedApi, Informer, list[str]]:
    """Run an informer until its script is used up and its last watch waits."""
    monkeypatch.setattr("asyncrl_operator.kube.informer.BACKOFF_SECONDS", (0.0, 0.0))
    api = ScriptedApi(*script)
    changed: list[str] = []

    async def run() -> Informer:
        informer = Informer(
            api,  # type: ignore[arg-type]
            POD,
            "a=b",
            None,
            lambda thing: changed.append(thing["metadata"]["name"]),
        )
        task = asyncio.create_task(informer.run())
        async with asyncio.timeout(5):
            while api.script or api.asked[-1:] == [] or api.asked[-1][0] != "watch":
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return informer

    return api, asyncio.run(run()), changed


def names(informer: Informer) -> list[str]:
    return sorted(thing["metadata"]["name"] for thing in informer.all())


def test_a_list_comes_in_pages_and_the_watch_goes_on_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api, informer, changed = inform(
        monkeypatch,
        page(5, item("a", 1), more="next"),
        page(5, item("b", 2)),
        [event("ADDED", item("c", 6)), event("BOOKMARK", item("", 9))],
    )
    assert names(informer) == ["a", "b", "c"]
    assert changed == ["a", "b", "c"]
    assert {query["labelSelector"] for _, query in api.asked} == {"a=b"}, "no foreign pods"
    assert api.asked[1][1]["continue"] == "next"
    assert api.asked[2][1]["resourceVersion"] == "5"
    assert api.asked[3][1]["resourceVersion"] == "9", "where the bookmark was"


@pytest.mark.parametrize(
    "gone", [[{"type": "ERROR", "object": {"code": 410}}], ApiError(410, "", "")]
)
def test_what_is_forgotten_is_listed_anew_and_missed_deletions_are_seen(
    monkeypatch: pytest.MonkeyPatch, gone: Any
) -> None:
    _, informer, changed = inform(
        monkeypatch, page(5, item("a", 1), item("b", 2)), gone, page(20, item("b", 2))
    )
    assert names(informer) == ["b"]
    assert changed == ["a", "b", "a"], "b is as it was"


def test_a_broken_watch_is_taken_up_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    api, informer, _ = inform(
        monkeypatch,
        page(5, item("a", 1)),
        ApiError(0, "Unreachable", "reset"),
        ApiError(503, "Unavailable", ""),
        [event("DELETED", item("a", 7))],
    )
    assert names(informer) == []
    assert [verb for verb, _ in api.asked].count("list") == 1


def test_a_list_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, informer, _ = inform(monkeypatch, ApiError(429, "TooMany", ""), page(5, item("a", 1)))
    assert names(informer) == ["a"]


def test_an_older_event_than_what_a_write_answered_changes_nothing() -> None:
    changed: list[str] = []
    informer = Informer(
        ScriptedApi(),  # type: ignore[arg-type]
        POD,
        "a=b",
        None,
        lambda thing: changed.append(thing["metadata"]["resourceVersion"]),
    )
    informer.learn(item("a", 9))
    informer.learn(item("a", 8))
    assert changed == ["9"]


def service() -> Object:
    return {
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "default", "labels": {"a": "b"}},
        "spec": {"ports": [{"port": 1}], "publishNotReadyAddresses": True, "selector": {}},
    }


def test_what_is_there_is_not_written_again() -> None:
    wanted = stamped(service())
    known = deepcopy(wanted)
    known["spec"] |= {"clusterIP": "None", "type": "ClusterIP"}
    known["spec"]["ports"][0]["protocol"] = "TCP"
    del known["spec"]["selector"]
    assert is_applied(wanted, known), "defaults of the API server are no difference"


@pytest.mark.parametrize(
    "change",
    [
        lambda known: known["spec"].update(publishNotReadyAddresses=False),
        lambda known: known["spec"]["ports"].append({"port": 2}),
        lambda known: known["metadata"]["labels"].clear(),
        lambda known: known["metadata"].pop("annotations"),
    ],
)
def test_what_somebody_changed_is_written_again(change: Any) -> None:
    wanted = stamped(service())
    known = deepcopy(wanted)
    change(known)
    assert not is_applied(wanted, known)


def test_what_is_no_longer_asked_for_is_written_away() -> None:
    before = service()
    before["metadata"]["labels"]["old"] = "gone"
    assert not is_applied(stamped(service()), stamped(before))


def test_the_certificates_of_a_job() -> None:
    files = issue("job", NOW)
    assert set(files) == {f"{h}.{end}" for h in ("ca", *HOLDERS) for end in ("crt", "key")}
    assert first_end(files) == NOW + LIFE
    del files["learner.key"]
    assert first_end(files) is None, "what is damaged is made anew"


def test_renewed_certificates_are_of_the_same_authority_until_that_ends() -> None:
    files = issue("job", NOW)
    later = NOW + LIFE - RENEWED_BEFORE
    renewed = issue("job", later, files)
    assert renewed["ca.crt"] == files["ca.crt"]
    assert renewed["learner.crt"] != files["learner.crt"]
    assert first_end(renewed) == later + LIFE
    late = issue("job", NOW + timedelta(days=3640), files)
    assert late["ca.crt"] != files["ca.crt"]


def test_what_a_node_complains_of() -> None:
    conditions = [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "silent"},
        {"type": "MemoryPressure", "status": "False"},
        {"type": "GpuXid", "status": "True", "reason": "Xid79"},
        {"type": "EtcdIsVoter", "status": "True", "reason": "MemberNotLearner"},
        {"type": "KernelReady", "status": "True"},
    ]
    assert describe({"status": {"conditions": conditions}}) == "NotReady: silent; GpuXid: Xid79"
    good = ["AcceleratedHardwareReady", "GpuHealthy", "Ready"]
    well = [{"type": kind, "status": "True"} for kind in good]
    assert describe({"status": {"conditions": well}}) == "", "these are good when they hold"
    ill = [{"type": kind, "status": "False"} for kind in good]
    said = "NotAcceleratedHardwareReady; NotGpuHealthy; NotReady"
    assert describe({"status": {"conditions": ill}}) == said
    assert describe({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}) == ""
