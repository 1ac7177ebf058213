"""What happens to pods: they start in any order, are told to end all at once, and come back."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from e2e.harness import gated_document, job_document, until
from e2e.pods import OWN_HOSTS_WORK, RESTRICTED_WORKS, Container, Pods

GRACE = 12
EXACT = {"max": 0}
BOUNDED = {"max": 4}


@pytest.mark.parametrize("staleness", [EXACT, BOUNDED], ids=["exact", "bounded"])
def test_a_job_suspended_whole_keeps_its_last_step(
    staleness: dict[str, int], tmp_path: Path
) -> None:
    """All pods get SIGTERM at about the same time, and the parameter server is the first to go."""
    gate = tmp_path / "gate"
    document = gated_document(
        gate,
        staleness=staleness,
        checkpoint={"intervalVersions": None},
        runPolicy={"terminationGracePeriodSeconds": GRACE},
    )
    with Pods(document, tmp_path / "pods") as pods:
        containers = pods.start_all()
        learner = containers["learner-0"]
        pods.until_version(learner, 20)
        server = containers.pop("parameter-server-0")
        server.terminate()
        assert server.end() == 130
        told = time.monotonic()
        report = pods.report(learner)
        for container in containers.values():
            container.terminate()
        codes = {name: container.end() for name, container in containers.items()}
        assert codes == dict.fromkeys(containers, 130)
        assert time.monotonic() - told < GRACE
        version = learner.folder.newest_checkpoint()
        assert report is not None
        assert version >= (report.training.policy_version or 0) >= 20

        containers = pods.start_all("--resume")
        learner = containers["learner-0"]
        gate.touch()
        assert {name: container.end() for name, container in containers.items()} == dict.fromkeys(
            containers, 0
        )
        assert f"event=resumed version={version} found=True" in learner.words()


def test_roles_wait_for_names_and_peers_that_come_late(tmp_path: Path) -> None:
    """Longer than they would wait for a peer that they had met; none of them ends meanwhile.

    Where Linux namespaces are not allowed, only the peers come late.
    """
    gate = tmp_path / "gate"
    stall = 8
    document = gated_document(
        gate, learner={"replicas": 2}, runPolicy={"stallTimeoutSeconds": stall}
    )
    with Pods(document, tmp_path / "pods") as pods:
        names = ("actor-0", "actor-1", "learner-0", "learner-1")
        waiting = {name: pods.start(name, late_names=OWN_HOSTS_WORK) for name in names}
        until(lambda: all(map(is_waiting, waiting.values())), "everybody waits")
        met_deadline = time.monotonic() + 2.5 * stall
        until(lambda: time.monotonic() > met_deadline, "longer than for a peer that was met")
        pods.resolve()
        server = pods.start("parameter-server-0")
        for container in waiting.values():
            assert container.process.poll() is None
            assert container.probe("/healthz") == (200, "ok")
        pods.until_version(waiting["learner-0"], 5)
        until(
            lambda: all(container.is_ready() for container in (server, *waiting.values())),
            "everybody is ready",
        )
        assert "event=waiting" in waiting["learner-0"].words()
        words = waiting["actor-0"].words()
        assert len(re.findall("event=waiting", words)) <= 3, "now and then, not at every try"
        assert 'phase="connecting"' in words
        gate.touch()
        for container in (server, *waiting.values()):
            assert container.end() == 0


def is_waiting(container: Container) -> bool:
    """It lives, is well, is not ready, and has begun to look for its peers."""
    assert container.process.poll() is None, container.words()
    return container.probe("/readyz")[0] == 503 and container.probe("/healthz")[0] == 200


def test_only_rank_0_needs_the_run_folder(tmp_path: Path) -> None:
    """Both ranks come back, the second one in a pod with an empty folder; they train as before."""
    gate = tmp_path / "gate"
    document = gated_document(gate, learner={"replicas": 2}, checkpoint={"intervalVersions": 5})
    with Pods(document, tmp_path / "pods") as pods:
        containers = pods.start_all()
        learner, second = containers["learner-0"], containers["learner-1"]
        pods.until_version(learner, 12)
        learner.kill()
        assert second.end() == 69
        message = second.message()
        assert message["reason"] == "PeerUnavailable"
        assert "learner-1: another rank is gone or silent" in message["message"]

        learner = pods.start("learner-0", "--resume", attempt=1)
        second = pods.start("learner-1", "--resume", attempt=1, fresh=True)
        assert not second.folder.checkpoints.exists()
        resumed = learner.folder.newest_checkpoint()
        assert resumed >= 10
        pods.until_version(learner, resumed + 10)
        assert f"event=resumed version={resumed}" in second.words()
        assert not second.folder.checkpoints.exists()
        gate.touch()
        assert (learner.end(), second.end()) == (0, 0)


def test_containers_restarted_in_place_go_on(tmp_path: Path) -> None:
    """The kubelet gives them the command line of their predecessors, attempt 0 included."""
    gate = tmp_path / "gate"
    document = gated_document(gate, checkpoint={"intervalVersions": 5})
    with Pods(document, tmp_path / "pods") as pods:
        containers = pods.start_all("--resume")
        learner, actor = containers["learner-0"], containers["actor-0"]
        pods.until_version(learner, 12)

        actor.kill()
        actor = pods.start("actor-0", "--resume")
        until(lambda: actor.metric('actor_fragments_total{outcome="accepted"}') > 0, "it works")

        learner.kill()
        checkpoint = learner.folder.newest_checkpoint()
        assert checkpoint >= 10
        learner = pods.start("learner-0", "--resume")
        pods.until_version(learner, checkpoint + 5)
        report = pods.report(learner)
        assert report is not None
        assert report.ledger.dropped["learner_restart"] > 0
        assert f"event=resumed version={checkpoint} found=True" in learner.words()
        for name in ("actor-0", "actor-1", "parameter-server-0"):
            assert "event=failed" not in pods.container(name).words()

        learner.terminate()
        assert learner.end() == 130
        learner = pods.start("learner-0")
        assert learner.end() == 2
        message = learner.message()
        assert message["reason"] == "CheckpointInvalid"
        assert (
            "holds the checkpoints of an earlier start; go on from them with --resume"
            in (message["message"])
        )


def test_a_read_only_root_and_an_unknown_user_are_enough(tmp_path: Path) -> None:
    """Every role writes into its run folder alone; two ranks, checkpoints and telemetry included.

    Where Linux namespaces are not allowed, this is a run like any other.
    """
    document = job_document(
        learner={"replicas": 2},
        checkpoint={"intervalVersions": 10},
        evaluation={"intervalVersions": 20, "episodes": 4},
        stopping={"policyVersions": 30},
    )
    names = ("parameter-server-0", "learner-0", "learner-1", "actor-0", "actor-1")
    with Pods(document, tmp_path / "pods") as pods:
        started = [pods.start(name, restricted=RESTRICTED_WORKS) for name in names]
        assert {container.name: container.end() for container in started} == dict.fromkeys(names, 0)
        folder = pods.container("learner-0").folder
        assert folder.newest_checkpoint() == 30
        assert len(folder.rows()) >= 30
        assert list((folder.path / "tensorboard").glob("events.*"))
        for container in started:
            assert "Read-only file system" not in container.words()
