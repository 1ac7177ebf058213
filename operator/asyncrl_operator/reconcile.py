"""Brings the world of one job to what plan() says: observe, plan, write only what differs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from asyncrl_api.exits import Note
from asyncrl_api.status import JobStatus, LearnerReport
from asyncrl_operator.children import Children
from asyncrl_operator.jobs import Jobs
from asyncrl_operator.kube.certificates import (
    identity,
)
from asyncrl_operator.kube.client import (
    ASYNCRLJOB,
    Api,
    ApiError,
    Object,
)
from asyncrl_operator.logs import about
from asyncrl_operator.memory import REFUSED_FOR, Memory, short_of_pods
from asyncrl_operator.metrics import OperatorMetrics
from asyncrl_operator.nodes import Nodes
from asyncrl_operator.plan.names import (
    JOB_UID,
    MANIFEST_KEY,
    STATUS_MANAGER,
    Owner,
    Role,
)
from asyncrl_operator.plan.observed import (
    Observed,
    Pod,
    RoleJob,
    parse_job,
    parse_pod,
    parse_time,
)
from asyncrl_operator.plan.plan import Plan, plan
from asyncrl_operator.plan.settings import Settings
from asyncrl_operator.refusals import Refusals
from asyncrl_operator.reports import Reports, Target
from asyncrl_operator.workqueue import Key, WorkQueue
from asyncrl_operator.writer import Refused, Writer

WORKERS = 8

log = logging.getLogger("asyncrl.operator")


def utc_now() -> datetime:
    """The wall clock with its zone."""
    return datetime.now(UTC)


class Reconciler:
    """Works off the queue; each job by one worker at a time."""

    def __init__(
        self,
        api: Api,
        jobs: Jobs,
        children: Children,
        reports: Reports,
        metrics: OperatorMetrics,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._children = children
        self._reports = reports
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._nodes = Nodes(api)
        self._refusals = Refusals(api)
        self._writer = Writer(api, children)
        self._memories: dict[Key, Memory] = {}

    async def run(self, queue: WorkQueue) -> None:
        """Work until cancelled."""
        # Of the operator that works: the queue of one that stands by only grows.
        self._metrics.queue_depth.set_function(lambda: len(queue))
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(queue), name=f"worker-{number}")

    async def _work(self, queue: WorkQueue) -> None:
        while True:
            key = await queue.get()
            began = time.monotonic()
            result = "ok"
            try:
                look_at = await self.reconcile(key)
                queue.succeeded(key)
                if look_at is not None:
                    queue.add_later(key, (look_at - self._clock()).total_seconds())
            except ApiError as error:
                result = "retry" if error.transient else "error"
                delay = queue.retry(key)
                level = logging.INFO if error.transient else logging.ERROR
                log.log(
                    level,
                    'event=reconcile_failed job=%s/%s retry=%.1f error="%s"',
                    *(*key, delay, error),
                )
            except Exception:
                # One job's defect must not stop the others.
                result = "error"
                delay = queue.retry(key)
                log.exception("event=reconcile_crashed job=%s/%s retry=%.1f", *key, delay)
            finally:
                queue.done(key)
                self._metrics.reconcile_seconds.observe(time.monotonic() - began)
                self._metrics.reconciliations.labels(result).inc()

    async def reconcile(self, key: Key) -> datetime | None:
        """Do what is to do for one job now; when to look again. Raises ApiError."""
        resource = self._jobs.get(key)
        if resource is None or "deletionTimestamp" in resource["metadata"]:
            self._forget(key)
            return None
        metadata = resource["metadata"]
        owner = Owner(metadata["name"], metadata["namespace"], metadata["uid"])
        memory = self._memories.get(key)
        if memory is not None and memory.uid != owner.uid:
            # Deleted and made anew between two looks.
            self._forget(key)
            self._metrics.forget(key)
            memory = None
        if memory is None:
            # Nothing is forgotten of a job that this operator has not seen yet: its learner may
            # have said its last word between the start of the watches and now.
            memory = self._memories[key] = Memory(owner.uid)
        generation = metadata.get("generation")
        with about(key, generation):
            return await self._bring(key, resource, owner, memory, generation)

    async def _bring(
        self, key: Key, resource: Object, owner: Owner, memory: Memory, generation: int | None
    ) -> datetime | None:
        now = self._clock()
        observed = self._observe(key, owner, memory, now, generation)
        observed = await self._with_nodes(observed)
        short = short_of_pods(observed, now)
        observed = await self._with_refusals(observed, short, owner)
        made = plan(resource, observed, now, self._settings)
        if observed.refused is None and made.apply and _unchecked(resource, observed):
            # It is said to be accepted once it is, and no pod is made before all can be.
            try:
                await self._writer.check(owner, made.apply, made.successors)
            except Refused as refused:
                memory.refuse(refused.note, now, generation)
                return now
        try:
            await self._write_status(key, resource, made, now)
        except ApiError as error:
            if error.status == 404:
                return None  # deleted a moment ago: the watch is about to say so
            raise
        for event in made.events:
            await self._writer.post(owner, event, now)
        if made.delete_job:
            log.info("event=job_deleted reason=ttl")
            await self._api.delete(ASYNCRLJOB, owner.namespace, owner.name, owner.uid)
            return None
        refusal = await self._carry_out(owner, memory, made, now)
        self._follow(key, memory, observed)
        if refusal is not None:
            memory.refuse(refusal, now, generation)
            if observed.refused is None:
                return now  # to tell it
        looks = [made.look_at, now + REFUSED_FOR if observed.refused else None]
        looks.append(now + timedelta(seconds=3) if short or _young(observed, now) else None)
        return min((look for look in looks if look is not None), default=None)

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self._reports.forget(key)
        self._children.forget(key)
        if self._jobs.get(key) is None:
            self._metrics.forget(key)

    def _observe(
        self, key: Key, owner: Owner, memory: Memory, now: datetime, generation: int | None
    ) -> Observed:
        jobs: dict[Role, RoleJob] = {}
        pods: list[Pod] = []
        manifest = None
        for (kind, name), item in self._children.of_job(key).items():
            if (item["metadata"].get("labels") or {}).get(JOB_UID) != owner.uid:
                continue
            if kind == "Job":
                job = parse_job(item)
                if job is not None and name == owner.role_object(job.role):
                    jobs[job.role] = job
            elif kind == "Pod":
                pod = parse_pod(item)
                if pod is not None:
                    pods.append(pod)
            elif kind == "ConfigMap" and name == owner.manifest:
                manifest = (item.get("data") or {}).get(MANIFEST_KEY)
        found = tuple(sorted(pods, key=lambda pod: (pod.role, pod.index, pod.created, pod.uid)))
        memory.see(jobs, found)
        return Observed(
            jobs=jobs,
            pods=found,
            report=self._reports.get(key),
            last_word=self._last_word(key, owner),
            manifest=manifest,
            seen_ready=memory.seen_ready(),
            replaced=dict(memory.replaced),
            refused=memory.refused(now, generation),
        )

    def _last_word(self, key: Key, owner: Owner) -> LearnerReport | None:
        item = self._children.last_learner(key)
        if item is None or item["metadata"]["labels"].get(JOB_UID) != owner.uid:
            return None
        pod = parse_pod(item)
        return None if pod is None or pod.ended is None else pod.ended.report()

    async def _with_nodes(self, observed: Observed) -> Observed:
        """Pods that ended or are not ready, with what is wrong with their nodes."""
        ill = [p.node for p in observed.pods if p.node and not p.ready and p.phase != "Succeeded"]
        problems = await self._nodes.problems(ill) if ill else {}
        if not problems:
            return observed
        pods = tuple(
            replace(pod, node_problem=problems.get(pod.node or "", "")) for pod in observed.pods
        )
        return replace(observed, pods=pods)

    async def _with_refusals(
        self, observed: Observed, short: list[tuple[Role, RoleJob]], owner: Owner
    ) -> Observed:
        """Roles that are short of pods, with why."""
        refusals = {}
        for role, job in short:
            found = await self._refusals.of(owner.namespace, job.uid)
            pods = [pod.created for pod in observed.current(role)]
            if found is not None and found[0] >= max(pods, default=job.created):
                refusals[role] = found[1]
        return replace(observed, refusals=refusals)

    async def _write_status(self, key: Key, resource: Object, made: Plan, now: datetime) -> None:
        before = JobStatus.model_validate(resource.get("status") or {})
        wanted = made.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        created = parse_time(resource["metadata"].get("creationTimestamp")) or now
        if wanted != resource.get("status"):
            metadata = resource["metadata"]
            document = {
                "apiVersion": ASYNCRLJOB.api_version,
                "kind": ASYNCRLJOB.name,
                # The uid keeps it off a job of the same name that came later.
                "metadata": {name: metadata[name] for name in ("name", "namespace", "uid")},
                "status": wanted,
            }
            answer = await self._api.apply(ASYNCRLJOB, document, STATUS_MANAGER, "status")
            self._jobs.written(answer)
            if before.phase != made.status.phase:
                log.info("event=phase phase=%s reason=%s", made.status.phase, made.status.reason)
        self._metrics.observe(key, before, made.status, (now - created).total_seconds())

    async def _carry_out(
        self, owner: Owner, memory: Memory, made: Plan, now: datetime
    ) -> Note | None:
        """Do it. Why an object was refused, if one was: what runs goes on, the rest waits."""
        refusal = None
        try:
            if made.certificates:
                await self._writer.certify(owner, memory, now)
            for document in made.apply:
                await self._writer.apply(owner, document)
        except Refused as refused:
            refusal = refused.note
        for reference in made.delete:
            await self._writer.delete(owner, reference)
        for pod in made.create_pods:
            await self._writer.create_pod(pod)
        for place in made.replaced:
            memory.replaced[place] = now
        return refusal

    def _follow(self, key: Key, memory: Memory, observed: Observed) -> None:
        pods = [pod for pod in observed.current("learner") if pod.index == 0 and pod.live]
        pod = next((pod for pod in pods if pod.ready and pod.ip), None)
        if pod is None or memory.files is None:
            self._reports.follow(key, None)
            return
        assert pod.ip is not None
        self._reports.follow(key, Target(pod.ip, pod.uid, identity(memory.files)))


def _unchecked(resource: Object, observed: Observed) -> bool:
    """Whether nobody knows yet that the API server takes what this spec asks for."""
    status = JobStatus.model_validate(resource.get("status") or {})
    refused = any(c.type == "Accepted" and c.status == "False" for c in status.conditions)
    seen = status.observed_generation == resource["metadata"].get("generation")
    return refused or not seen or not observed.jobs


def _young(observed: Observed, now: datetime) -> bool:
    """Whether Jobs are so new that their pods may still be on their way."""
    return any(now - job.created < timedelta(seconds=3) for job in observed.jobs.values())
