"""The oldest Kubernetes that is supported, where containers know no restart by exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import parts
from cluster.by_hand.harness import condition, name, run, running, world


@pytest.mark.parametrize("plane", [parts.OLDEST_KUBERNETES], indirect=True)
def test_a_job_lives_on_the_oldest_version(plane: Path, namespace: str) -> None:
    async def story() -> None:
        async with world(plane, namespace) as w:
            await running(w)
            (learner,) = w.kubelet.pods("learner")
            assert learner["spec"]["restartPolicy"] == "OnFailure"
            await w.kubelet.restart(learner, 137, reason="OOMKilled", ready=False)
            await w.phase("job", "Restarting")
            await w.kubelet.set_ready(learner, True)
            await w.phase("job", "Running")
            lost = w.kubelet.pods("actor")[0]
            await w.kubelet.delete(lost)
            await w.kubelet.until(
                lambda: (
                    len(w.kubelet.pods("actor")) == 2
                    and name(lost) not in [name(pod) for pod in w.kubelet.pods("actor")]
                ),
                "two actors again",
            )
            await w.kubelet.delete(learner)
            await w.until("job", lambda s: s.attempt == 1 and s.phase == "Running", "attempt 1")
            await w.patch("job", {"runPolicy": {"suspend": True}})
            status = await w.phase("job", "Suspended")
            assert condition(status, "Suspended") == ("True", "SuspendedByUser")
            await w.patch("job", {"runPolicy": {"suspend": False}})
            await w.phase("job", "Running")
            words = '{"reason": "EnvironmentFailed", "message": "reset raised"}'
            await w.kubelet.restart(w.kubelet.pods("actor")[1], 2, words)
            failed = await w.phase("job", "Failed")
            assert failed.reason == "EnvironmentFailed"

    run(story(), 240)
