"""What the probes of a learner see."""

from __future__ import annotations

from unit.learner.streams import make_spec, make_step

from asyncrl_worker.environments.factory import describe
from asyncrl_worker.learner.fellows import Follower
from asyncrl_worker.learner.ranks import Ranks
from asyncrl_worker.learner.window import Window


def test_who_waits_to_train_is_well_and_who_stands_still_is_not() -> None:
    time = 1_000.0
    window = Window(60.0, clock=lambda: time)
    assert (window.health(), window.ready(), window.report()) == (None, False, None)
    time = 9_000.0
    assert window.health() is None

    spec = make_spec()
    window.trained = Follower(
        make_step(spec),
        Ranks(),
        length=8,
        description=describe(spec.workload),
        clock=lambda: time,
    )
    assert (window.health(), window.ready(), window.report()) == (None, True, None)
    time += 60.0
    assert window.health() == "the training loop stands still for 60 s, more than 60 s"
    window.trained.progressed_at = time
    assert window.health() is None
