"""What the probes of a learner see."""

from __future__ import annotations

from unit.learner.streams import make_spec, make_step

from asyncrl_worker.environments.factory import describe
from asyncrl_worker.learner.followers import Follower
from asyncrl_worker.learner.health import LearnerHealth
from asyncrl_worker.learner.ranks import Ranks


def test_who_waits_to_train_is_well_and_who_stands_still_is_not() -> None:
    time = 1_000.0
    health = LearnerHealth(60.0, clock=lambda: time)
    assert (health.problem(), health.ready(), health.report()) == (None, False, None)
    time = 9_000.0
    assert health.problem() is None

    spec = make_spec()
    health.trained = Follower(
        make_step(spec),
        Ranks(),
        length=8,
        description=describe(spec.workload),
        clock=lambda: time,
    )
    assert (health.problem(), health.ready(), health.report()) == (None, True, None)
    time += 60.0
    assert health.problem() == "the training loop stands still for 60 s, more than 60 s"
    health.trained.progressed_at = time
    assert health.problem() is None
