"""What goes wrong around a job: each leaves the status that a person needs."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from cluster.by_hand.harness import (
    CLAIM,
    all_ready,
    name,
    ready,
    role,
    run,
    running,
    world,
)
from cluster.job import condition

from asyncrl_operator import memory, reconcile
from asyncrl_operator.kube.client import (
    ASYNCRLJOB,
    CHILDREN,
    JOB,
    SECRET,
    SERVICE,
    ApiError,
    Kind,
)

QUOTA = Kind("ResourceQuota", "v1", "resourcequotas")


def test_an_image_that_cannot_be_pulled(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            w.kubelet.pulls = False
            await w.submit("job", {"learner": {"image": "nowhere/learner:1"}})
            status = await w.until("job", lambda s: s.reason == "ImageUnavailable", "told")
            assert status.phase == "Pending"
            assert condition(status, "Running") == ("False", "ImageUnavailable")
            assert status.message is not None
            assert "Back-off pulling image" in status.message
            await w.told("job", "ImageUnavailable")

    run(story())


def test_a_request_that_no_node_can_meet(plane: Path, namespace: str) -> None:
    limits = {"limits": {"nvidia.com/gpu": 8}}

    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.submit("job", {"learner": {"resources": limits}})
            # A node is tainted for a moment while it is new; that is said first.
            status = await w.until("job", lambda s: "nvidia.com/gpu" in (s.message or ""), "told")
            assert status.reason == "Unschedulable"
            assert status.message is not None
            assert status.message.startswith("learner-0: ")

    run(story())


def test_a_quota_that_is_exceeded(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            quota = {
                "apiVersion": "v1",
                "kind": "ResourceQuota",
                "metadata": {"name": "small", "namespace": namespace},
                "spec": {"hard": {"pods": "2"}},
            }
            await w.api.create(QUOTA, namespace, quota, "test")
            async with asyncio.timeout(30):  # it holds once the quota controller has seen it
                while not (await w.api.get(QUOTA, namespace, "small") or {}).get("status"):
                    await asyncio.sleep(0.05)
            await w.submit("job")
            status = await w.until("job", lambda s: s.reason == "PodsRefused", "told", 40)
            assert status.message is not None
            assert "exceeded quota: small" in status.message
            await w.api.delete(QUOTA, namespace, "small")
            await w.until("job", lambda s: s.phase == "Running", "it recovers", 60)

    run(story())


def test_a_name_that_somebody_else_has(
    plane: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory, reconcile):
        monkeypatch.setattr(module, "REFUSED_FOR", timedelta(seconds=1))

    async def story() -> None:
        async with world(plane, namespace) as w:
            service = {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "job", "namespace": namespace},
                "spec": {"ports": [{"port": 80}]},
            }
            await w.api.create(SERVICE, namespace, service, "somebody")
            await w.submit("job")
            status = await w.until("job", lambda s: s.reason == "NameTaken", "told")
            assert condition(status, "Accepted") == ("False", "NameTaken")
            assert status.message is not None
            assert "Service job" in status.message
            known = await w.api.get(SERVICE, namespace, "job")
            assert known is not None
            assert "labels" not in known["metadata"], "it is left alone"
            assert not w.kubelet.pods()

            # It is tried again, silently while that is of no use.
            tries = w.requests["GET", "services"] + 2
            await w.until("job", lambda s: w.requests["GET", "services"] >= tries, "tried again")
            again = await w.status("job")
            assert again.conditions == status.conditions
            assert [reason for reason, _ in await w.events("job")].count("NameTaken") == 1
            await w.api.delete(SERVICE, namespace, "job")
            await w.until("job", lambda s: s.phase == "Running", "it runs with the name free", 60)

    run(story())


def test_a_template_that_the_api_server_refuses(plane: Path, namespace: str) -> None:
    template = {"spec": {"containers": [{"name": "actor", "imagePullPolicy": "Sometimes"}]}}

    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.submit("job", {"actors": {"template": template}})
            status = await w.until("job", lambda s: s.reason == "InvalidSpec", "told")
            assert condition(status, "Accepted") == ("False", "InvalidSpec")
            assert status.message is not None
            assert "imagePullPolicy" in status.message
            assert (await w.api.list(JOB, w.namespace, {}))["items"] == []

            await w.patch("job", {"actors": {"template": None}})
            await all_ready(w)
            pods = {name(pod) for pod in w.kubelet.pods()}
            await w.patch("job", {"actors": {"template": template}})
            status = await w.until("job", lambda s: s.reason == "InvalidSpec", "told again")
            assert status.phase == "Running", "what runs goes on"
            (lost,) = w.kubelet.pods("actor")[:1]
            await w.kubelet.delete(lost)
            await w.until("job", lambda s: s.roles[0].disruptions == 1, "looked after")
            assert len({name(pod) for pod in w.kubelet.pods()} & pods) == len(pods) - 1
            await w.patch("job", {"runPolicy": {"suspend": True}})
            await w.until("job", lambda s: s.phase == "Suspended", "suspended")

    run(story())


def test_a_pod_that_breaks_the_restricted_standard(plane: Path, namespace: str) -> None:
    container = {"name": "actor", "securityContext": {"privileged": True}}
    container["securityContext"] = {"privileged": True, "allowPrivilegeEscalation": True}

    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.submit("job", {"actors": {"template": {"spec": {"containers": [container]}}}})
            status = await w.until("job", lambda s: s.reason == "PodsRefused", "told", 40)
            assert status.message is not None
            assert "actors" in status.message
            assert "PodSecurity" in status.message

    run(story())


def test_a_job_is_deleted_with_the_operator_down_and_nothing_stays(
    plane: Path, namespace: str
) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            await w.kill()
            await w.api.delete(ASYNCRLJOB, namespace, "job")
            async with asyncio.timeout(90):
                while await left(w.api, namespace):
                    await asyncio.sleep(0.2)
            assert await w.api.get(ASYNCRLJOB, namespace, "job") is None

    async def left(api: object, namespace: str) -> list[str]:
        assert hasattr(api, "list")
        selector = {"labelSelector": "asyncrl.io/job=job"}
        found = []
        for kind in (*CHILDREN, SECRET):
            answer = await api.list(kind, namespace, selector)
            found += [item["metadata"]["name"] for item in answer["items"]]
        return found

    run(story())


def test_a_job_of_the_same_name_comes_after_the_old_ones_things_are_gone(
    plane: Path, namespace: str
) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.submit("job")
            await all_ready(w)
            old = {pod["metadata"]["uid"] for pod in w.kubelet.pods()}
            await w.api.delete(ASYNCRLJOB, namespace, "job")
            await w.submit("job")
            await w.until("job", lambda s: s.phase == "Running", "the new one runs", 90)
            assert not old & {pod["metadata"]["uid"] for pod in w.kubelet.pods()}

    run(story())


def test_suspended_by_stability_is_shown_and_resumed_by_hand(plane: Path, namespace: str) -> None:
    word = (
        '{"outcome": "Suspended", "reason": "SuspendedByStability", "message": "Degraded: kl 0.2"}'
    )

    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w, spec=CLAIM | {"stability": {"onDegraded": "suspend"}})
            (learner,) = w.kubelet.pods("learner")
            await w.kubelet.end(learner, 0, word)
            status = await w.phase("job", "Suspended")
            assert condition(status, "Suspended") == ("True", "SuspendedByStability")
            assert status.message == "Degraded: kl 0.2"
            await w.told("job", "SuspendedByStability")
            await w.patch("job", {"runPolicy": {"suspend": True}})
            await w.until(
                "job", lambda s: condition(s, "Suspended")[1] == "SuspendedByUser", "taken over"
            )
            await w.patch("job", {"runPolicy": {"suspend": False}})
            resumed = await w.phase("job", "Running")
            assert resumed.attempt == 1

    run(story())


def test_what_somebody_deletes_or_changes_comes_back(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            await w.api.delete(SERVICE, namespace, "job")
            async with asyncio.timeout(20):
                while await w.api.get(SERVICE, namespace, "job") is None:
                    await asyncio.sleep(0.1)
            await w.api.delete(JOB, namespace, "job-actor")
            await w.kubelet.until(lambda: not w.kubelet.pods("actor"), "they go")
            await w.until("job", lambda s: s.roles[0].ready == 2, "actors again", 30)

    run(story())


class Killed(BaseException):
    """The operator died here."""


@pytest.mark.parametrize("write", range(1, 36, 2))
def test_the_operator_may_die_after_any_write(plane: Path, namespace: str, write: int) -> None:
    """From nothing to running, through a lost learner and a suspension, to the same end."""

    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.kill()
            w.may_die = True
            died = asyncio.Event()
            loop = asyncio.get_running_loop()
            left = write

            def die(verb: str, resource: str, status: int) -> None:
                nonlocal left
                if verb in ("POST", "APPLY", "DELETE"):
                    left -= 1
                    if left <= 0:
                        loop.call_soon_threadsafe(died.set)
                        raise Killed

            async def again() -> None:
                await died.wait()
                await w.kill()
                await w.start()

            await w.start(die)
            nurse = asyncio.create_task(again())
            await w.submit("job", CLAIM)
            await all_ready(w, seconds=60)
            (learner,) = w.kubelet.pods("learner")
            lost = name(learner)
            await w.kubelet.delete(learner)
            await w.kubelet.until(
                lambda: [p for p in w.kubelet.pods("learner") if name(p) != lost and ready(p)],
                "another learner",
            )
            await w.phase("job", "Running", 60)
            await w.patch("job", {"runPolicy": {"suspend": True}})
            await w.phase("job", "Suspended", 60)
            await w.patch("job", {"runPolicy": {"suspend": False}})
            status = await all_ready(w, seconds=60)
            # Where the operator was dead, the Job controller replaced the learner in its attempt.
            assert status.attempt in (1, 2)
            roles = [role(pod) for pod in w.kubelet.pods(live=False)]
            assert sorted(roles) == ["actor", "actor", "learner", "parameter-server"]
            assert died.is_set()
            await nurse
            assert name(w.kubelet.pods("learner")[0]).startswith("job-learner-0-")

    run(story(), 240)


def test_the_api_server_may_refuse_any_write_once(plane: Path, namespace: str) -> None:
    """A conflict, a refusal for load and a lost answer are tried again until it stands."""

    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.kill()
            faults = iter([ApiError(code, "Fault", "") for code in (409, 429, 500, 0, 503)])

            def fail(verb: str, resource: str, status: int) -> None:
                if verb in ("POST", "APPLY") and resource != "events":
                    fault = next(faults, None)
                    if fault is not None:
                        raise fault

            await w.start(fail)
            await w.submit("job", CLAIM)
            await all_ready(w, seconds=90)
            assert next(faults, None) is None, "all of them were met"
            roles = [role(pod) for pod in w.kubelet.pods(live=False)]
            assert sorted(roles) == ["actor", "actor", "learner", "parameter-server"]

    run(story(), 200)
