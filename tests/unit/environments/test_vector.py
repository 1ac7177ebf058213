"""Stepping: actions are adapted, results checked, faults name environment and step."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
from unit.environments.toys import workload

from asyncrl_worker.environments.batched import BatchedVectorEnvironment
from asyncrl_worker.environments.factory import make_vector_environment
from asyncrl_worker.environments.faults import EnvironmentFault
from asyncrl_worker.environments.vector import VectorEnvironment, integer_seeds


class Stepper:
    """A vector environment with arrays for its results."""

    def __init__(self, environment: VectorEnvironment) -> None:
        count = environment.environments
        self.environment = environment
        size = environment.description.observation_size
        self.observations = np.full((count, size), 7.0, dtype=np.float32)
        self.rewards = np.full(count, 7.0, dtype=np.float32)
        self.terminated = np.ones(count, dtype=np.bool_)
        self.truncated = np.ones(count, dtype=np.bool_)

    def reset(self, seed: int = 0) -> None:
        self.environment.reset(np.random.SeedSequence(seed), self.observations)

    def step(self, actions: Any) -> None:
        self.environment.step(
            actions, self.observations, self.rewards, self.terminated, self.truncated
        )


def make(id: str, vectorization: str = "auto", **kw: Any) -> Stepper:
    task = workload(id, vectorization=vectorization, **kw)
    return Stepper(make_vector_environment(task, environments=2))


def test_discrete_actions_are_shifted_to_the_spaces_own_numbers() -> None:
    stepper = make("Spaces-v0", observation="image", action="shifted")
    stepper.reset()
    stepper.step(np.array([0, 2]))
    assert stepper.rewards.tolist() == [5.0, 7.0]


def test_continuous_actions_are_clipped_to_their_bounds_and_shaped() -> None:
    stepper = make("Spaces-v0", observation="double", action="matrix")
    stepper.reset()
    stepper.step(np.array([[9.0, 9.0, 9.0, 9.0], [-9.0, 0.5, 9.0, 0.5]], dtype=np.float32))
    assert stepper.rewards.tolist() == [2.5, 0.5]


def test_image_observations_are_flattened() -> None:
    stepper = make("Spaces-v0", observation="image", action="shifted")
    stepper.reset()
    stepper.step(np.array([0, 0]))
    assert stepper.observations.shape == (2, 60)
    assert not stepper.observations.any()


@pytest.mark.parametrize("vectorization", ["auto", "sync", "async"])
def test_environments_start_differently_and_repeat_with_the_seed(vectorization: str) -> None:
    task = workload("CartPole-v1", vectorization=vectorization)
    environment = make_vector_environment(task, environments=3)
    stepper = Stepper(environment)
    try:
        stepper.reset(1)
        first = stepper.observations.copy()
        stepper.reset(2)
        other = stepper.observations.copy()
        stepper.reset(1)
        assert len(np.unique(first, axis=0)) == 3
        assert not np.array_equal(first, other)
        np.testing.assert_array_equal(stepper.observations, first)
    finally:
        environment.close()


def test_seeds_fit_into_31_bits_and_differ() -> None:
    seeds = integer_seeds(np.random.SeedSequence(5), 1000)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 1000


@pytest.mark.parametrize(
    ("fault", "at", "message"),
    [
        (
            "raise",
            3,
            "'Faulty-v0' raised at step 3 of environment 0: ZeroDivisionError: division by zero; "
            "correct the environment's code",
        ),
        (
            "raise",
            0,
            "'Faulty-v0' raised at the reset of environment 0: ZeroDivisionError: division by "
            "zero; correct the environment's code",
        ),
        (
            "shape",
            2,
            "'Faulty-v0' returned at step 2 of environment 0 an observation of shape [2, 2], "
            "expected [3]; correct the environment's code or its spaces",
        ),
        (
            "scalar",
            0,
            "'Faulty-v0' returned at step 0 of environment 0 an observation of shape [], expected "
            "[3]; correct the environment's code or its spaces",
        ),
        (
            "exit",
            1,
            "'Faulty-v0' raised at step 1 of environment 0: SystemExit: 7; correct the "
            "environment's code",
        ),
        (
            "text",
            1,
            "'Faulty-v0' raised at step 1 of environment 0: ValueError: could not convert string "
            "to float: ",
        ),
    ],
)
def test_a_fault_names_step_and_environment(fault: str, at: int, message: str) -> None:
    stepper = make("Faulty-v0", fault=fault, at=at)
    with pytest.raises(EnvironmentFault) as raised:
        stepper.reset()
        for _ in range(at + 1):
            stepper.step(np.zeros((2, 1), dtype=np.float32))
    assert str(raised.value).startswith(f"spec.workload.gymnasium.id: {message}")


def test_a_batch_of_a_wrong_shape_is_refused_and_not_broadcast() -> None:
    stepper = make("FlatRewardVector-v0", script=[(4, "end")])
    stepper.reset()
    with pytest.raises(EnvironmentFault, match=r"batch with one reward each of shape \[\]"):
        stepper.step(np.zeros(2, dtype=np.int64))


def test_an_error_in_a_process_of_its_own_is_reported() -> None:
    stepper = make("Faulty-v0", vectorization="async", fault="raise", at=2)
    stepper.reset()
    stepper.step(np.zeros((2, 1), dtype=np.float32))
    with pytest.raises(EnvironmentFault, match=r"raised at vector step 2: ZeroDivisionError"):
        stepper.step(np.zeros((2, 1), dtype=np.float32))
    stepper.environment.close()


def test_closing_ends_processes_that_hang_and_do_not_heed_sigterm() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        stepper = make("Faulty-v0", vectorization="async", fault="hang", at=1)
        assert isinstance(stepper.environment, BatchedVectorEnvironment)
        stepper.reset()
        vector: Any = stepper.environment._vector
        vector.step_async(np.zeros((2, 1), dtype=np.float32))
        stepper.environment.close()
        assert not any(process.is_alive() for process in vector.processes)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_killed_process_is_reported_and_nothing_hangs() -> None:
    stepper = make("Faulty-v0", vectorization="async", fault="none")
    assert isinstance(stepper.environment, BatchedVectorEnvironment)
    stepper.reset()
    vector: Any = stepper.environment._vector
    victim = vector.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(EnvironmentFault, match="a process of 'Faulty-v0' ended at vector step"):
        for _ in range(3):
            stepper.step(np.zeros((2, 1), dtype=np.float32))
    stepper.environment.close()
