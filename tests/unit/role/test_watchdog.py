"""A stall is found after the timeout, and only then."""

from __future__ import annotations

import threading
import time

from asyncrl_worker.environments.vector import Progress
from asyncrl_worker.watchdog import StallDetector, Watchdog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def detector(clock: Clock, *progress: Progress) -> StallDetector:
    return StallDetector("Slow-v0", progress, timeout=60.0, clock=clock)


def test_names_environment_step_and_seconds() -> None:
    clock = Clock()
    progress = Progress(phase="step", step=17, environment=3)
    judge = detector(clock, Progress(), progress)
    clock.now += 59.9
    assert judge.check() is None
    clock.now += 0.2
    assert judge.check() == (
        "spec.workload.gymnasium.id: 'Slow-v0' has not returned from step 17 of environment 3 for "
        "60 s; correct its code, or raise spec.runPolicy.stallTimeoutSeconds if it is slow"
    )


def test_every_step_and_every_environment_starts_anew() -> None:
    clock = Clock()
    progress = Progress(phase="step")
    judge = detector(clock, progress)
    for step in range(5):
        for environment in range(3):
            progress.step, progress.environment = step, environment
            assert judge.check() is None
            clock.now += 59
    progress.phase = "reset"
    assert judge.check() is None
    clock.now += 60
    assert "has not returned from a reset of environment 2" in (judge.check() or "")


def test_time_outside_the_environment_does_not_count() -> None:
    clock = Clock()
    progress = Progress(phase="step", step=4)
    judge = detector(clock, progress)
    progress.phase = None
    clock.now += 1000
    assert judge.check() is None
    progress.phase = "step"
    assert judge.check() is None
    clock.now += 59
    assert judge.check() is None
    clock.now += 2
    assert judge.check() is not None


def test_an_environment_that_is_never_made_is_found() -> None:
    clock = Clock()
    judge = detector(clock, Progress(phase="making"))
    clock.now += 60
    assert "'Slow-v0' has not returned from the constructor for 60 s" in (judge.check() or "")


def test_the_thread_reports_once() -> None:
    reported: list[str] = []
    done = threading.Event()

    def on_stall(line: str) -> None:
        reported.append(line)
        done.set()

    judge = StallDetector("Slow-v0", [Progress(phase="reset")], timeout=0.02, clock=time.monotonic)
    watchdog = Watchdog(judge, timeout=0.02, on_stall=on_stall)
    assert done.wait(10)
    watchdog.close()
    assert len(reported) == 1
    assert "a reset" in reported[0]
