"""What becomes of a job whose objects the API server does not take: nothing is made by halves."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from asyncrl_operator.children import Children
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.client import KINDS, POD, Api, ApiError, Kind, Object
from asyncrl_operator.memory import REFUSED_FOR
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.plan.names import Owner
from asyncrl_operator.plan.settings import Settings
from asyncrl_operator.reconcile import Reconciler
from asyncrl_operator.reports import Reports, Target
from asyncrl_operator.workqueue import Key

KEY = ("default", "job")
OWNER = Owner("job", "default", "uid")
CARTPOLE = {"workload": {"gymnasium": {"id": "CartPole-v1"}}}
WRONG = {"spec": {"tolerations": [{"operator": "Sometimes"}]}}


class Picky:
    """An API server that keeps what it takes, and takes no Job with the tolerations of WRONG."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str], Object] = {}
        self.statuses: list[Object] = []
        self.tried = 0
        self.broken = False
        """Whether a webhook refuses every Job, whatever is in it."""

    async def get(self, kind: Kind, _namespace: str, name: str) -> Object | None:
        return deepcopy(self.stored.get((kind.name, name)))

    async def list(self, *_: Any) -> Object:
        return {"items": [], "metadata": {}}

    async def create(
        self, kind: Kind, _namespace: str, document: Object, *_: Any, dry_run: bool = False
    ) -> Object:
        if kind.name == "Job":
            self.tried += 1
            pod = document["spec"]["template"]["spec"]
            if self.broken or pod.get("tolerations") == WRONG["spec"]["tolerations"]:
                raise ApiError(422, "Invalid", "tolerations[0].operator: Unsupported value")
        if (kind.name, document["metadata"].get("name", "")) in self.stored:
            raise ApiError(409, "AlreadyExists", "")
        return self._store(document, dry_run)

    async def apply(
        self,
        _kind: Kind,
        document: Object,
        _manager: str,
        part: str | None = None,
        *,
        dry_run: bool = False,
    ) -> Object:
        if part == "status":
            self.statuses.append(document["status"])
            return document
        return self._store(document, dry_run)

    async def delete(self, kind: Kind, _namespace: str, name: str, _uid: str) -> None:
        del self.stored[kind.name, name]

    def _store(self, document: Object, dry_run: bool) -> Object:
        kind, name = document["kind"], document["metadata"].get("name", "")
        made = {"uid": f"uid-of-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        answer = {**document, "metadata": {**document["metadata"], **made}}
        if not dry_run and kind != "Event":
            self.stored[kind, name] = deepcopy(answer)
        return answer

    def jobs(self) -> list[str]:
        return sorted(name for kind, name in self.stored if kind == "Job")


class Followed(Reports):
    """Reports that nobody reads; which learner they would be read from."""

    target: Target | None = None

    def follow(self, key: Key, target: Target | None) -> None:
        self.target = target


class World:
    """One job, its operator and its API server; the time is given."""

    def __init__(self, api: Picky | None = None) -> None:
        self.api = api or Picky()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.spec: dict[str, Any] = dict(CARTPOLE)
        self.generation = 0
        told: list[Any] = []
        self.children = Children(cast(Api, self.api), (None,), told.append)
        self.reports = Followed(1.0, told.append)
        self._jobs = Jobs(told.append)
        self._reconciler = Reconciler(
            *(cast(Api, self.api), self._jobs, self.children, self.reports),
            *(OperatorMetrics(), Settings(), lambda: self.now),
        )

    def write(self, **spec: Any) -> None:
        """The user writes the spec."""
        self.spec |= spec
        self.generation += 1

    async def look(self, seconds: float = 0) -> datetime | None:
        """One look at the job; when the next is to be."""
        self.now += timedelta(seconds=seconds)
        status = self.api.statuses[-1] if self.api.statuses else {}
        metadata = {"name": "job", "namespace": "default", "uid": "uid"}
        self._jobs.seen(
            {
                "apiVersion": "asyncrl.io/v1alpha1",
                "kind": "AsyncRLJob",
                "metadata": metadata | {"generation": self.generation},
                "spec": self.spec,
                "status": status,
            }
        )
        return await self._reconciler.reconcile(KEY)

    def accepted(self) -> list[str]:
        """The condition Accepted in every status that was written."""
        every = [status["conditions"] for status in self.api.statuses]
        return [c["status"] for conditions in every for c in conditions if c["type"] == "Accepted"]

    def learner(self, phase: str) -> None:
        """Its pod is there, and ready while it runs."""
        job = self.api.stored["Job", "job-learner"]
        owner = {"kind": "Job", "name": "job-learner", "controller": True}
        ready = {"type": "Ready", "status": "True" if phase == "Running" else "False"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "job-learner-0-a",
                "namespace": "default",
                "uid": "pod",
                "labels": OWNER.labels("learner"),
                "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [owner | {"uid": job["metadata"]["uid"]}],
            },
            "spec": {"nodeName": "node"},
            "status": {"phase": phase, "podIP": "10.0.0.1", "conditions": [ready]},
        }
        self.children.learn(POD, pod)


def test_no_job_of_a_role_is_made_before_all_can_be() -> None:
    async def story() -> None:
        world = World()
        world.write(actors={"template": WRONG})
        for _ in range(3):
            await world.look()
        assert world.api.stored == {}
        assert world.accepted() == ["False"], "never True"
        assert "job-actor: tolerations[0].operator" in world.api.statuses[-1]["message"]

        world.write(actors={})
        await world.look(1)
        assert world.accepted()[-1] == "True", "another spec is tried at once"
        assert world.api.jobs() == ["job-actor", "job-learner", "job-parameter-server"]

    asyncio.run(story())


def test_what_runs_is_not_taken_away_for_what_would_be_refused() -> None:
    async def story() -> None:
        world = World()
        world.write()
        await world.look()
        before = deepcopy(world.api.stored)
        world.write(actors={"template": WRONG})
        for _ in range(3):
            await world.look(1)
        assert world.api.stored == before
        # The same spec is tried again after a while, and no more accepted then.
        await world.look(REFUSED_FOR.total_seconds())
        await world.look()
        assert world.api.stored == before
        assert world.accepted()[0] == "True"
        assert set(world.accepted()[1:]) == {"False"}

        world.write(actors={"env": [{"name": "A", "value": "b"}]})
        await world.look(1)
        assert world.accepted()[-1] == "True", "its name is taken, and that is no refusal"
        assert world.api.jobs() == ["job-learner", "job-parameter-server"], "another comes"

    asyncio.run(story())


async def without_actors() -> World:
    """A later operator finds that a Job has gone, and a webhook that lets none be made."""
    world = World()
    world.write()
    await world.look()
    del world.api.stored["Job", "job-actor"]
    later = World(world.api)
    later.write()
    for (kind, _), document in world.api.stored.items():
        later.children.learn(KINDS[kind], document)
    later.api.broken = True
    return later


def test_a_refusal_that_stays_is_told_at_once_and_tried_again_later() -> None:
    async def story() -> None:
        later = await without_actors()
        later.learner("Running")
        assert await later.look(1) == later.now, "to tell it"
        tried = later.api.tried
        again = await later.look()
        assert later.accepted()[-1] == "False"
        assert again is not None
        assert again > later.now, "not again and again"
        assert later.api.tried == tried + 1
        assert later.reports.target is not None, "the learner is asked for its report all the same"

    asyncio.run(story())


def test_what_is_lost_ends_while_something_else_is_refused() -> None:
    async def story() -> None:
        later = await without_actors()
        later.learner("Failed")
        await later.look(1)
        assert later.api.statuses[-1]["attempt"] == 1
        assert "job-learner" not in later.api.jobs(), "it makes room for the next"

    asyncio.run(story())
