"""Two operators share a Lease: one works, and the other takes over."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

from cluster.by_hand.harness import World, all_ready, name, run, running, world
from cluster.operator_process import start_operator
from cluster.processes import Process


def leads(log: Path) -> bool:
    """Whether an operator says that it works."""
    return "event=leading" in log.read_text()


async def until_leads(log: Path, seconds: float) -> float:
    """Wait for it; how long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not leads(log):
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def lose_learner(w: World, attempt: int) -> None:
    """The learner's pod is deleted, and the next attempt comes to run."""
    (lost,) = w.kubelet.pods("learner")
    await w.kubelet.delete(lost)
    await w.until(
        "job", lambda s: s.attempt == attempt and s.phase == "Running", f"attempt {attempt}"
    )
    (learner,) = w.kubelet.pods("learner")
    assert name(learner) != name(lost)


def test_the_second_operator_takes_over_from_one_that_dies_and_from_one_that_ends(
    plane: Path, namespace: str, tmp_path: Path
) -> None:
    logs = [tmp_path / f"{number}.log" for number in range(3)]

    async def story() -> None:
        async with world(plane, namespace) as w:
            await w.kill()
            with ExitStack() as stack:

                def start(log: Path) -> Process:
                    options = ("--namespace", namespace, "--lease", "asyncrl")
                    process = start_operator(plane, log, *options, home=namespace)
                    stack.callback(process.stop)
                    return process

                first = start(logs[0])
                await until_leads(logs[0], 30)
                second = start(logs[1])
                await running(w)
                assert not leads(logs[1])
                assert "event=applied" not in logs[1].read_text(), "it stands by"

                first.kill()
                took = await until_leads(logs[1], 60)
                assert 5 < took < 30, "when the Lease expires, in 17 s where nothing else computes"
                await lose_learner(w, 1)

                start(logs[2])
                assert not leads(logs[2])
                second.stop()
                took = await until_leads(logs[2], 60)
                assert took < 10, "the Lease is given back"
                (lost, *_) = w.kubelet.pods("actor")
                await w.kubelet.delete(lost)
                await w.until("job", lambda s: s.roles[0].disruptions == 1, "the third works")
                await all_ready(w)
                assert name(lost) not in {name(pod) for pod in w.kubelet.pods("actor")}

    run(story(), 240)
