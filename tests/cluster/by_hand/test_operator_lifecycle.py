"""The life of a job on a real API server, with real controllers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cluster.by_hand.harness import (
    CLAIM,
    name,
    ready,
    role,
    run,
    running,
    settled,
    world,
)
from cluster.by_hand.kubelet import LearnerAnswers
from cluster.job import condition

from asyncrl_api.status import (
    AlignmentStatus,
    CheckpointStatus,
    LearnerReport,
    StabilityStatus,
    TrainingStatus,
)

LAST_WORD = (
    '{"role": "learner", "index": 0, "outcome": "Complete", "reason": "TargetReturnReached",'
    ' "message": "the return is 480", "report": {"time": "2999-01-01T00:00:00Z",'
    ' "training": {"policyVersion": 321, "progress": 1.0}}}'
)


def report(version: int, smoothed: float = 0.0, **more: Any) -> LearnerReport:
    return LearnerReport(
        time=datetime.now(UTC),
        update=version,
        training=TrainingStatus(policy_version=version, environment_steps=version * 1024),
        alignment=AlignmentStatus(smoothed=smoothed, low=0.1, high=0.3),
        stability=StabilityStatus(verdict="Healthy"),
        checkpoint=CheckpointStatus(version=version),
        **more,
    )


def test_a_job_runs_completes_and_keeps_its_logs(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            status = await w.status("job")
            assert condition(status, "Accepted") == ("True", "Valid")
            assert [(r.name, r.ready, r.desired) for r in status.roles] == [
                ("actors", 2, 2),
                ("learner", 1, 1),
                ("parameterServer", 1, 1),
            ]
            assert status.actors is not None
            assert status.actors.replicas == 2
            (learner,) = w.kubelet.pods("learner")
            await w.kubelet.end(learner, 0, LAST_WORD)
            done = await w.phase("job", "Complete")
            assert (done.reason, done.message) == ("TargetReturnReached", "the return is 480")
            assert done.training is not None
            assert done.training.policy_version == 321
            assert condition(done, "Running") == ("False", "Finished")
            await w.told("job", "Valid", "AllRolesReady", "TargetReturnReached", "Finished")
            await w.kubelet.until(
                lambda: [role(pod) for pod in w.kubelet.pods(live=False)] == ["learner"],
                "running pods are removed, and the learner's log stays",
                60,
            )

    run(story())


def test_an_unchanged_world_gets_no_write(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            await settled(w)
            before = w.requests.writes
            await w.kill()
            await w.start()  # reconciles everything that it finds
            async with asyncio.timeout(20):
                while w.requests["LIST", "jobs"] < 2 or w.requests["GET", "secrets"] < 2:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(4)  # longer than a look at young Jobs
            assert w.requests.writes == before, dict(w.requests)

    run(story())


def test_numbers_come_from_the_report_and_old_ones_turn_unknown(
    plane: Path, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncrl_operator.plan.status.STALE_SECONDS", 2.0)

    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            answers = LearnerAnswers(report(7))
            async with answers.serving(w.api, namespace, "job", w.address, tmp_path):
                seen = await w.until(
                    "job", lambda s: s.training and s.training.policy_version == 7, "version 7"
                )
                assert condition(seen, "AlignmentHealthy") == ("True", "AlignmentWithinThresholds")
                assert condition(seen, "Stable") == ("True", "Healthy")
                answers.report = report(8, smoothed=0.5)
                high = await w.until(
                    "job",
                    lambda s: condition(s, "AlignmentHealthy") == ("False", "AlignmentHigh"),
                    "alignment is high",
                )
                assert high.training is not None
                writes, asked = w.requests["APPLY", "asyncrljobs"], answers.asked
                while answers.asked < asked + 10:
                    answers.report = report(answers.report.update + 1, smoothed=0.5)
                    await asyncio.sleep(0.02)
                written = w.requests["APPLY", "asyncrljobs"] - writes
                assert 5 <= written <= 12, "one write for a report"
            stale = await w.until(
                "job", lambda s: condition(s, "Stable")[1] == "StaleReports", "stale", 10
            )
            assert condition(stale, "AlignmentHealthy") == ("Unknown", "StaleReports")
            assert stale.training is not None, "the last numbers stay"

    run(story())


def test_a_lost_actor_is_replaced_at_once_and_nothing_else_notices(
    plane: Path, namespace: str
) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            before = {p["metadata"]["name"] for p in w.kubelet.pods() if role(p) != "actor"}
            lost = w.kubelet.pods("actor")[1]
            began = asyncio.get_running_loop().time()
            await w.kubelet.delete(lost)
            await w.kubelet.until(
                lambda: (
                    [name(p) for p in w.kubelet.pods("actor") if ready(p)].__len__() == 2
                    and name(lost) not in [name(p) for p in w.kubelet.pods("actor")]
                ),
                "two actors again",
            )
            # Below 2 s where the machine has nothing else to do; the Job controller takes 10 s.
            assert asyncio.get_running_loop().time() - began < 6.0
            status = await w.until(
                "job", lambda s: s.roles[0].disruptions == 1 and s.roles[0].ready == 2, "counted"
            )
            assert status.roles[0].restarts == 0
            assert condition(status, "Running") == ("True", "AllRolesReady")
            after = {name(p) for p in w.kubelet.pods() if role(p) != "actor"}
            assert after == before
            await w.told("job", "ActorLost")
            await asyncio.sleep(12)  # the Job controller's own back-off makes no third one
            assert len(w.kubelet.pods("actor")) == 2

    run(story())


def test_a_lost_learner_comes_back_as_the_next_attempt(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            others = {name(p) for p in w.kubelet.pods() if role(p) != "learner"}
            (lost,) = w.kubelet.pods("learner")
            await w.kubelet.delete(lost)
            restarting = await w.until("job", lambda s: s.attempt == 1, "attempt 1")
            assert restarting.phase == "Restarting"
            assert condition(restarting, "Restarting") == ("True", "LearnerLost")
            status = await w.phase("job", "Running")
            (learner,) = w.kubelet.pods("learner")
            command = learner["spec"]["containers"][0]["command"]
            assert command[command.index("--attempt") + 1] == "1"
            assert condition(status, "Restarting") == ("False", "Resumed")
            assert (status.roles[1].disruptions, status.attempt) == (1, 1)
            assert {name(p) for p in w.kubelet.pods() if role(p) != "learner"} == others

    run(story())


def test_a_learner_lost_again_waits_also_over_a_restart_of_the_operator_and_has_a_limit(
    plane: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncrl_operator.plan.losses.FIRST", timedelta(seconds=8))

    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w, spec=CLAIM | {"runPolicy": {"disruptionLimit": 2}})
            (first,) = w.kubelet.pods("learner")
            await w.kubelet.delete(first)
            await w.until("job", lambda s: s.attempt == 1 and s.phase == "Running", "at once")
            (second,) = w.kubelet.pods("learner")
            await w.kubelet.evict(second)
            waiting = await w.until("job", lambda s: s.attempt == 2, "attempt 2")
            lost_at = waiting.roles[1].lost_at
            assert lost_at is not None
            again = lost_at + timedelta(seconds=8)
            line = f"the learner starts again at {again:%Y-%m-%dT%H:%M:%SZ}"
            assert waiting.message is not None
            for words in ("Eviction API", name(second), line):
                assert words in waiting.message
            await w.kill()
            await w.start()
            back = await w.phase("job", "Running")
            (third,) = w.kubelet.pods("learner")
            created = datetime.fromisoformat(third["metadata"]["creationTimestamp"])
            assert again <= created < again + timedelta(seconds=6)
            assert (back.roles[1].disruptions, back.roles[1].losses) == (2, 2)
            await w.kubelet.evict(third)
            failed = await w.phase("job", "Failed")
            assert failed.reason == "DisruptionLimitExceeded"
            assert failed.message is not None
            for words in ("Eviction API", name(third), "lost 3 times"):
                assert words in failed.message
            await w.told("job", "DisruptionLimitExceeded")

    run(story())


def test_a_container_that_failed_is_restarted_in_place_and_counted(
    plane: Path, namespace: str
) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            (learner,) = w.kubelet.pods("learner")
            await w.kubelet.restart(learner, 137, reason="OOMKilled", ready=False)
            status = await w.phase("job", "Restarting")
            assert status.last_failure is not None
            assert status.last_failure.reason == "OutOfMemory"
            assert status.message is not None
            for word in ("learner-0", name(learner), "exit code 137", "memory"):
                assert word in status.message
            await w.kubelet.set_ready(learner, True)
            back = await w.phase("job", "Running")
            assert (back.roles[1].restarts, back.roles[1].failures, back.attempt) == (1, 1, 0)
            await w.kill()
            await w.start()
            await w.kubelet.restart(learner, 70)
            again = await w.until("job", lambda s: s.roles[1].restarts == 2, "two restarts")
            assert again.roles[1].failures == 2

    run(story())


def test_what_cannot_be_helped_by_trying_fails_the_run(plane: Path, namespace: str) -> None:
    words = '{"role": "actor", "index": 1, "reason": "EnvironmentFailed", "message": "no: reset"}'

    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            actor = w.kubelet.pods("actor")[1]
            await w.kubelet.end(actor, 2, words)
            status = await w.phase("job", "Failed")
            assert status.reason == "EnvironmentFailed"
            assert status.message is not None
            for word in ("actor-1", name(actor), "exit code 2", "no: reset"):
                assert word in status.message
            await w.kubelet.until(
                lambda: [name(p) for p in w.kubelet.pods(live=False)] == [name(actor)],
                "nothing runs on, and the log stays",
            )

    run(story())


def test_suspend_waits_for_the_learner_and_resume_goes_on(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            w.kubelet.ends.clear()
            w.kubelet.last_words["learner"] = LAST_WORD.replace('"Complete"', "null")
            await w.patch("job", {"runPolicy": {"suspend": True}})
            status = await w.phase("job", "Suspending")
            assert condition(status, "Suspended") == ("False", "Suspending")
            await w.kubelet.until(lambda: not w.kubelet.pods("learner"), "the learner ends")
            assert len(w.kubelet.pods("actor")) == 2, "they stay while the learner checkpoints"
            await w.kill()
            await w.start()
            w.kubelet.ends.set()
            suspended = await w.phase("job", "Suspended")
            left = [pod["status"]["phase"] for pod in w.kubelet.pods(live=False)]
            assert set(left) <= {"Failed"}, "no process is left"
            assert condition(suspended, "Suspended") == ("True", "SuspendedByUser")
            assert suspended.training is not None
            assert suspended.training.policy_version == 321, "its last word"
            assert suspended.attempt == 1
            await w.patch("job", {"runPolicy": {"suspend": False}})
            resumed = await w.phase("job", "Running")
            assert condition(resumed, "Suspended") == ("False", "Resumed")
            (learner,) = w.kubelet.pods("learner")
            command = learner["spec"]["containers"][0]["command"]
            assert command[command.index("--attempt") + 1] == "1"
            assert "--resume" in command

    run(story())


def test_a_flip_of_suspend_midway_is_safe(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            w.kubelet.ends.clear()
            await w.patch("job", {"runPolicy": {"suspend": True}})
            await w.phase("job", "Suspending")
            await w.patch("job", {"runPolicy": {"suspend": False}})
            await w.until("job", lambda s: condition(s, "Suspended")[1] == "Resumed", "resumed")
            assert len(w.kubelet.pods("learner", live=False)) == 1, "the old one still ends"
            w.kubelet.ends.set()
            await w.kubelet.until(lambda: w.kubelet.pods("learner"), "a new learner")
            status = await w.phase("job", "Running")
            assert status.attempt == 1
            assert len(w.kubelet.pods("learner", live=False)) == 1

    run(story())


def test_actors_scale_and_the_learner_keeps_its_pod(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            (learner,) = w.kubelet.pods("learner")
            await w.patch("job", {"actors": {"replicas": 5}})
            await w.until("job", lambda s: s.roles[0].ready == 5, "five actors")
            await w.patch("job", {"actors": {"replicas": 1}})
            status = await w.until(
                "job", lambda s: s.actors and s.actors.replicas == 1, "one actor"
            )
            assert status.roles[0].disruptions == 0, "scaling is no loss"
            assert [name(p) for p in w.kubelet.pods("learner")] == [name(learner)]
            assert condition(status, "Running")[0] == "True"

    run(story())
