"""What happens between two looks at a job, in an order that no cluster can be made to keep."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import Any, cast

import pytest

from asyncrl_operator.children import Children
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import POD, Api, ApiError, Object
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.plan.names import Owner
from asyncrl_operator.plan.settings import Settings
from asyncrl_operator.reconcile import WORKERS, Reconciler
from asyncrl_operator.reports import Reports
from asyncrl_operator.workqueue import WorkQueue

OWNER = Owner("job", "default", "uid")
KEY = ("default", "job")


class Taking:
    """An API server that has nothing and takes everything."""

    def __init__(self) -> None:
        self.statuses: list[Object] = []

    async def get(self, *_: Any) -> None:
        return None

    async def list(self, *_: Any) -> Object:
        return {"items": [], "metadata": {}}

    async def create(
        self, _kind: Any, _namespace: str, document: Object, *_: Any, **__: Any
    ) -> Object:
        return document

    async def apply(
        self, _kind: Any, document: Object, _manager: str, part: str | None = None, **_: Any
    ) -> Object:
        if part == "status":
            self.statuses.append(document["status"])
        return document


def ended_learner() -> Object:
    word = {
        "outcome": None,
        "report": {"time": "2026-01-01T00:00:00Z", "checkpoint": {"version": 7}},
    }
    terminated = {"exitCode": 130, "reason": "Error", "message": json.dumps(word)}
    labels = OWNER.labels("learner")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "job-learner-0-a",
            "namespace": "default",
            "uid": "pod",
            "labels": labels,
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [
                {"kind": "Job", "name": "job-learner", "uid": "gone", "controller": True}
            ],
        },
        "spec": {"nodeName": "node"},
        "status": {
            "phase": "Failed",
            "containerStatuses": [{"name": "learner", "state": {"terminated": terminated}}],
        },
    }


SUSPENDED = {
    "apiVersion": "asyncrl.io/v1alpha1",
    "kind": "AsyncRLJob",
    "metadata": {"name": "job", "namespace": "default", "uid": "uid", "generation": 2},
    "spec": {
        "workload": {"gymnasium": {"id": "CartPole-v1"}},
        "checkpoint": {"volume": {"claim": {}}},
        "runPolicy": {"suspend": True},
    },
}


def operator(
    api: Taking, metrics: OperatorMetrics | None = None, jobs: Jobs | None = None
) -> tuple[Reconciler, Children]:
    """One that has just started, with what its watches bring."""
    queue: list[Any] = []
    jobs = jobs or Jobs(queue.append)
    jobs.seen(SUSPENDED)
    children = Children(cast(Api, api), (None,), queue.append)
    reports = Reports(1.0, queue.append)
    metrics = metrics or OperatorMetrics()
    return Reconciler(cast(Api, api), jobs, children, reports, metrics, Settings()), children


def test_a_last_word_said_before_the_first_look_is_heard() -> None:
    async def story() -> Object:
        api = Taking()
        reconciler, children = operator(api)
        children.learn(POD, ended_learner())
        await reconciler.reconcile(KEY)
        return api.statuses[-1]

    assert asyncio.run(story())["checkpoint"] == {"version": 7}


@pytest.mark.parametrize(("status", "fails"), [(404, False), (409, True)])
def test_a_job_that_is_deleted_meanwhile_is_no_failure(status: int, fails: bool) -> None:
    class Gone(Taking):
        async def apply(self, *_: Any, **__: Any) -> Object:
            raise ApiError(status, "Gone", "meanwhile")

    async def story() -> None:
        reconciler, _ = operator(Gone())
        assert await reconciler.reconcile(KEY) is None

    expected = pytest.raises(ApiError) if fails else nullcontext()
    with expected:
        asyncio.run(story())


def test_the_depth_of_the_queue_is_shown_while_every_worker_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Reconciler, "reconcile", never)

    async def story() -> None:
        metrics = OperatorMetrics()
        reconciler, _ = operator(Taking(), metrics)
        queue = WorkQueue(asyncio.get_running_loop().time)
        work = asyncio.create_task(reconciler.run(queue))
        for number in range(WORKERS + 3):
            queue.add(("default", f"job-{number}"))
        async with asyncio.timeout(5):
            while len(queue) > 3:
                await asyncio.sleep(0)
        assert metrics.registry.get_sample_value("asyncrl_operator_queue_depth") == 3
        queue.add(("default", "another"))
        assert metrics.registry.get_sample_value("asyncrl_operator_queue_depth") == 4
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    asyncio.run(story())


def test_series_of_a_job_end_with_it_also_if_another_has_its_name_at_once() -> None:
    def condition(metrics: OperatorMetrics, kind: str) -> float | None:
        labels = {"namespace": "default", "name": "job", "condition": kind}
        return metrics.registry.get_sample_value("asyncrl_job_condition", labels)

    async def story() -> None:
        metrics, jobs = OperatorMetrics(), Jobs(lambda _: None)
        reconciler, _ = operator(Taking(), metrics, jobs)
        ended = {"type": "Failed", "status": "True", "reason": "Stalled", "message": ""}
        stamp = {"lastTransitionTime": "2026-01-01T00:00:00Z"}
        jobs.seen({**SUSPENDED, "status": {"phase": "Failed", "conditions": [{**ended, **stamp}]}})
        await reconciler.reconcile(KEY)
        assert condition(metrics, "Failed") == 1
        jobs.seen({**SUSPENDED, "metadata": {**SUSPENDED["metadata"], "uid": "another"}})
        await reconciler.reconcile(KEY)
        assert condition(metrics, "Failed") is None
        assert condition(metrics, "Accepted") == 1

    asyncio.run(story())
