"""Evaluations: the right number of whole episodes, none preferred for being short."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from unit.environments.toys import workload

from asyncrl_worker.actor.evaluation import EvaluationOutcome, evaluate
from asyncrl_worker.environments.factory import make_vector_environment
from asyncrl_worker.environments.faults import EnvironmentFault
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import PolicyLayout


def run(
    environments: int, episodes: int, *, budget: int = 10_000, **kw: object
) -> EvaluationOutcome | None:
    id = str(kw.pop("id", "Scripted-v0"))
    environment = make_vector_environment(workload(id, **kw), environments=environments)
    description = environment.description
    layout = PolicyLayout(description.observation_size, description.action, (), "tanh")
    rng = np.random.default_rng(0)
    tensors = {
        name: np.zeros(shape, np.float32)
        if name.endswith("weight")
        else rng.random(shape, np.float32)
        for name, shape in layout.weight_shapes().items()
    }
    steps = itertools.count()
    return evaluate(
        environment,
        InferencePolicy(layout, tensors),
        episodes=episodes,
        seed=[0],
        proceed=lambda: next(steps) < budget,
    )


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
@pytest.mark.parametrize(("environments", "episodes"), [(1, 5), (3, 3), (4, 10), (4, 2)])
def test_runs_exactly_so_many_episodes(
    vectorization: str, environments: int, episodes: int
) -> None:
    outcome = run(environments, episodes, vectorization=vectorization, script=[(3, "end")])
    assert outcome is not None
    assert outcome.lengths == (3,) * episodes
    # The same action throughout: 3 + (0 + 1 + 2) / 8 + 3 * action / 4.
    assert len(set(outcome.returns)) == 1
    assert outcome.returns[0] in {3.375 + 0.75 * action for action in range(3)}


def test_short_episodes_are_not_preferred() -> None:
    # Every environment alternates between 1 and 100 steps; whoever takes the first episodes to
    # finish sees more short ones than long ones.
    outcome = run(5, 10, script=[(1, "end"), (100, "cut")])
    assert outcome is not None
    assert sorted(outcome.lengths) == [1] * 5 + [100] * 5


def test_gives_up_when_told_to() -> None:
    assert run(2, 4, budget=7, script=[(5, "end")]) is None


def test_impossible_values_are_found() -> None:
    with pytest.raises(EnvironmentFault, match="at step 3 of an evaluation an observation that"):
        run(2, 2, id="Faulty-v0", fault="nan")
    with pytest.raises(EnvironmentFault, match="at step 3 of an evaluation a reward that"):
        run(2, 2, id="Faulty-v0", fault="reward")
