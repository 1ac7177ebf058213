"""The oldest Kubernetes that is supported, where containers know no restart by exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import parts
from cluster.by_hand.harness import name, ready, role, run, running, settled, world
from cluster.job import condition

LAST_WORD = (
    '{"role": "learner", "index": 0, "outcome": "Complete", "reason": "TargetReturnReached",'
    ' "message": "the return is 480"}'
)

pytestmark = pytest.mark.parametrize("plane", [parts.OLDEST_KUBERNETES], indirect=True)


def test_a_job_lives_and_completes_on_the_oldest_version(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            assert await w.api.version() == (1, 34)
            await running(w)
            (learner,) = w.kubelet.pods("learner")
            for pod in w.kubelet.pods():
                assert pod["spec"]["restartPolicy"] == "OnFailure"
                assert "restartPolicyRules" not in pod["spec"]["containers"][0]
            await w.kubelet.restart(learner, 137, reason="OOMKilled", ready=False)
            status = await w.phase("job", "Restarting")
            assert status.last_failure is not None
            assert status.last_failure.reason == "OutOfMemory"
            await w.kubelet.set_ready(learner, True)
            await w.phase("job", "Running")

            lost = w.kubelet.pods("actor")[0]
            await w.kubelet.delete(lost)
            await w.kubelet.until(
                lambda: (
                    len([pod for pod in w.kubelet.pods("actor") if ready(pod)]) == 2
                    and name(lost) not in [name(pod) for pod in w.kubelet.pods("actor")]
                ),
                "two actors again",
            )
            others = {name(pod) for pod in w.kubelet.pods() if role(pod) != "learner"}
            await w.kubelet.evict(learner)
            status = await w.until(
                "job", lambda s: s.attempt == 1 and s.phase == "Running", "attempt 1"
            )
            assert (status.roles[1].disruptions, status.roles[1].restarts) == (1, 1)
            assert {name(pod) for pod in w.kubelet.pods() if role(pod) != "learner"} == others

            await w.patch("job", {"runPolicy": {"suspend": True}})
            status = await w.phase("job", "Suspended")
            assert condition(status, "Suspended") == ("True", "SuspendedByUser")
            await w.patch("job", {"runPolicy": {"suspend": False}})
            await w.phase("job", "Running")
            await settled(w)
            writes = w.requests.writes
            await w.kill()
            await w.start()
            await settled(w)
            assert w.requests.writes == writes, dict(w.requests)

            (learner,) = w.kubelet.pods("learner")
            await w.kubelet.end(learner, 0, LAST_WORD)
            done = await w.phase("job", "Complete")
            assert (done.reason, done.message) == ("TargetReturnReached", "the return is 480")
            await w.kubelet.until(
                lambda: [role(pod) for pod in w.kubelet.pods(live=False)] == ["learner"],
                "running pods are removed, and the learner's log stays",
            )

    run(story(), 300)


def test_what_fails_for_good_fails_the_run_though_it_is_restarted(
    plane: Path, namespace: str
) -> None:
    words = '{"role": "actor", "index": 1, "reason": "EnvironmentFailed", "message": "no: reset"}'

    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            actor = w.kubelet.pods("actor")[1]
            await w.kubelet.restart(actor, 2, words)
            failed = await w.phase("job", "Failed")
            assert failed.reason == "EnvironmentFailed"
            assert failed.message is not None
            for word in ("actor-1", name(actor), "exit code 2", "no: reset"):
                assert word in failed.message
            await w.kubelet.until(lambda: not w.kubelet.pods(live=False), "its pod goes with it")

    run(story())
