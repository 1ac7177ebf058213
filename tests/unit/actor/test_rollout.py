"""Fragments against a plain loop over one environment that never crosses an episode's end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.environments.toys import Scripted, workload

from asyncrl_worker.actor.rollout import Rollout, RolloutInterrupted
from asyncrl_worker.environments.factory import make_vector_environment
from asyncrl_worker.environments.faults import EnvironmentFault
from asyncrl_worker.environments.spaces import EnvironmentDescription
from asyncrl_worker.environments.vector import integer_seeds
from asyncrl_worker.fragment import Float32, Fragment
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.protocol.tensors import decode, encode

SEED = [3, 1]


def random_policy(description: EnvironmentDescription, seed: int = 0) -> InferencePolicy:
    layout = PolicyLayout(
        description.observation_size, description.action, hidden_sizes=(8,), activation="tanh"
    )
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32) / 4
        for name, shape in layout.weight_shapes().items()
    }
    return InferencePolicy(layout, tensors, version=5)


def collect(
    task: Any, *, environments: int, length: int, fragments: int, seed: list[int] = SEED
) -> list[Fragment]:
    environment = make_vector_environment(task, environments=environments)
    try:
        rollout = Rollout(environment, length, np.random.default_rng(0))
        rollout.reset(seed)
        policy = random_policy(environment.description)
        return [rollout.collect(policy, 5) for _ in range(fragments)]
    finally:
        environment.close()


def reference(
    script: list[tuple[int, str]], seed: int, actions: list[int]
) -> tuple[list[Any], list[tuple[float, int]]]:
    """Transitions and finished episodes (return, length) of one environment under these actions."""
    environment = Scripted(script)
    observation, _ = environment.reset(seed=seed)
    transitions: list[Any] = []
    episodes = []
    total, length = 0.0, 0
    for action in actions:
        following, reward, end, cut, _ = environment.step(action)
        transitions.append((observation.tolist(), reward, following.tolist(), end, cut))
        total, length = total + reward, length + 1
        observation = following
        if end or cut:
            episodes.append((total, length))
            total, length = 0.0, 0
            observation, _ = environment.reset()
    return transitions, episodes


def transitions_of(fragments: list[Fragment], column: int) -> tuple[list[Any], list[int]]:
    """The valid steps of one environment, and their actions."""
    transitions = []
    actions = []
    for fragment in fragments:
        for t in np.flatnonzero(fragment.valid[:, column]):
            transitions.append(
                (
                    fragment.observations[t, column].tolist(),
                    float(fragment.rewards[t, column]),
                    fragment.observations[t + 1, column].tolist(),
                    bool(fragment.terminated[t, column]),
                    bool(fragment.truncated[t, column]),
                )
            )
            actions.append(int(fragment.actions[t, column]))
    return transitions, actions


def check_against_reference(
    fragments: list[Fragment], script: list[tuple[int, str]], seeds: list[int]
) -> None:
    episodes = []
    for column, seed in enumerate(seeds):
        got, actions = transitions_of(fragments, column)
        wanted, finished = reference(script, seed, actions)
        assert got == wanted
        episodes += finished
    counted = [
        (float(value), int(length))
        for fragment in fragments
        for value, length in zip(fragment.episode_returns, fragment.episode_lengths, strict=True)
    ]
    assert sorted(counted) == sorted(episodes)  # sums of eighths: exact


scripts = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["end", "cut", "both"])), min_size=1, max_size=4
)


@settings(max_examples=60)
@given(
    script=scripts,
    environments=st.integers(1, 4),
    length=st.integers(1, 9),
    fragments=st.integers(1, 4),
    native=st.booleans(),
)
def test_no_transition_crosses_the_end_of_an_episode(
    script: list[tuple[int, str]], environments: int, length: int, fragments: int, native: bool
) -> None:
    task = workload("Scripted-v0", vectorization="auto" if native else "sync", script=script)
    collected = collect(task, environments=environments, length=length, fragments=fragments)
    seeds = integer_seeds(np.random.SeedSequence(SEED).spawn(2)[0], environments)
    if native:
        seeds = [seeds[0] + i for i in range(environments)]
    check_against_reference(collected, script, seeds)
    for fragment in collected:
        decoded = decode(encode(fragment.to_tensors()), limit=1 << 20)
        Fragment.from_tensors(
            decoded,
            fragment_length=length,
            environments=environments,
            description=EnvironmentDescription(2, (2,), task_action()),
        )


def task_action() -> Any:
    environment = make_vector_environment(
        workload("Scripted-v0", script=[(1, "end")]), environments=1
    )
    return environment.description.action


def test_the_same_with_a_process_for_each_environment() -> None:
    script = [(3, "end"), (1, "cut"), (4, "cut"), (2, "both")]
    task = workload("Scripted-v0", vectorization="async", script=script)
    collected = collect(task, environments=2, length=7, fragments=3)
    seeds = integer_seeds(np.random.SeedSequence(SEED).spawn(2)[0], 2)
    check_against_reference(collected, script, seeds)


def test_the_final_observation_follows_a_truncated_step_and_the_reset_step_is_not_valid() -> None:
    task = workload("Scripted-v0", environments=1, script=[(2, "cut")])
    fragment = collect(task, environments=1, length=6, fragments=1, seed=[0])[0]
    assert fragment.truncated[:, 0].tolist() == [False, True, False, False, True, False]
    assert fragment.valid[:, 0].tolist() == [True, True, False, True, True, False]
    assert fragment.rewards[[2, 5], 0].tolist() == [0.0, 0.0]
    assert fragment.observations[:, 0, 1].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fragment.environment_steps == 4


def test_the_step_after_a_fragments_end_is_remembered() -> None:
    task = workload("Scripted-v0", script=[(3, "end")])
    first, second = collect(task, environments=1, length=3, fragments=2)
    assert first.terminated[2, 0]
    assert second.valid[:, 0].tolist() == [False, True, True]
    np.testing.assert_array_equal(second.observations[0], first.observations[-1])


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_one_seed_gives_the_same_bytes_and_another_does_not(id: str) -> None:
    def bytes_of(seed: list[int]) -> list[bytes]:
        fragments = collect(workload(id), environments=4, length=32, fragments=3, seed=seed)
        return [encode(fragment.to_tensors()) for fragment in fragments]

    assert bytes_of([7, 0]) == bytes_of([7, 0])
    assert bytes_of([7, 0]) != bytes_of([7, 1])


def test_a_reset_in_the_middle_forgets_everything_before() -> None:
    environment = make_vector_environment(workload("CartPole-v1"), environments=4)
    policy = random_policy(environment.description)
    rollout = Rollout(environment, 16, np.random.default_rng(0))
    rollout.reset(SEED)
    fresh = [encode(rollout.collect(policy, 1).to_tensors()) for _ in range(3)]
    rollout.reset(SEED)
    assert [encode(rollout.collect(policy, 1).to_tensors()) for _ in range(3)] == fresh


def test_without_a_reset_the_given_generator_decides() -> None:
    def first() -> bytes:
        environment = make_vector_environment(workload("CartPole-v1"), environments=2)
        rollout = Rollout(environment, 8, np.random.default_rng(11))
        return encode(rollout.collect(random_policy(environment.description), 1).to_tensors())

    assert first() == first()


def test_log_probabilities_and_versions_are_those_of_the_policy() -> None:
    environment = make_vector_environment(workload("Pendulum-v1"), environments=3)
    policy = random_policy(environment.description)
    rollout = Rollout(environment, 8, np.random.default_rng(0))
    rollout.reset(SEED)
    fragment = rollout.collect(policy, 42)
    assert fragment.policy_versions.tolist() == [42] * 8
    # Actions are unclipped: with a standard deviation near 1 some leave Pendulum's [-2, 2].
    _, actions = np.random.SeedSequence(SEED).spawn(2)
    rng = np.random.default_rng(actions)
    for t in range(8):
        wanted, log_probabilities = policy.act(fragment.observations[t], rng)
        np.testing.assert_array_equal(fragment.actions[t], wanted)
        np.testing.assert_array_equal(fragment.log_probabilities[t], log_probabilities)


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
def test_the_policy_runs_forward_once_per_vector_step(
    id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many environments there are, and at the ends of episodes and fragments too."""
    widths: list[int] = []
    forward = InferencePolicy._forward

    def counted(policy: InferencePolicy, observations: Float32) -> Float32:
        widths.append(len(observations))
        return forward(policy, observations)

    monkeypatch.setattr(InferencePolicy, "_forward", counted)
    fragments = collect(workload(id), environments=3, length=250, fragments=2)
    assert any(fragment.episode_returns.size for fragment in fragments)
    assert widths == [3] * 2 * 250


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "returned at step 3 of environment 0 an observation that is NaN or infinite"),
        ("choke", "returned at step 3 of environment 0 an observation that is NaN or infinite"),
        ("reward", "returned at step 3 of environment 0 a reward that is NaN or infinite"),
    ],
)
def test_values_that_are_not_finite_are_found_and_located(fault: str, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        collect(workload("Faulty-v0", fault=fault), environments=2, length=5, fragments=1)


def test_a_nan_of_the_first_reset_is_found() -> None:
    with pytest.raises(EnvironmentFault, match="at step 0 of environment 0 an observation"):
        collect(workload("Faulty-v0", fault="nan", at=0), environments=2, length=5, fragments=1)


def test_a_vectorised_environment_that_breaks_its_autoreset_promise_is_refused() -> None:
    task = workload("DishonestVector-v0", script=[(4, "end")])
    with pytest.raises(EnvironmentFault, match="must be NEXT_STEP"):
        collect(task, environments=2, length=5, fragments=1)


def test_an_interrupted_rollout_gives_up() -> None:
    environment = make_vector_environment(workload("CartPole-v1"), environments=2)
    rollout = Rollout(environment, 8, np.random.default_rng(0))
    policy = random_policy(environment.description)
    rollout.collect(policy, 1)
    rollout.interrupt()
    with pytest.raises(RolloutInterrupted):
        rollout.collect(policy, 1)
