"""Fragments from the network: everything that is not exactly right is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from asyncrl_worker.environments.spaces import Continuous, Discrete, EnvironmentDescription
from asyncrl_worker.fragment import Fragment, MalformedFragment
from asyncrl_worker.protocol.tensors import decode, encode

Tensors = dict[str, Any]
DISCRETE = EnvironmentDescription(3, (3,), Discrete(2))
CONTINUOUS = EnvironmentDescription(3, (3,), Continuous(2, (-1.0, -1.0), (1.0, 1.0)))


def tensors(description: EnvironmentDescription = DISCRETE) -> Tensors:
    """T = 4, N = 2; environment 1 ends at step 1, so step 2 is its reset."""
    rng = np.random.default_rng(0)
    rewards = np.ones((4, 2), dtype=np.float32)
    rewards[2, 1] = 0.0
    terminated = np.zeros((4, 2), dtype=np.bool_)
    terminated[1, 1] = True
    valid = np.ones((4, 2), dtype=np.bool_)
    valid[2, 1] = False
    discrete = isinstance(description.action, Discrete)
    return {
        "observations": rng.normal(size=(5, 2, 3)).astype(np.float32),
        "actions": rng.integers(0, 2, (4, 2))
        if discrete
        else rng.normal(size=(4, 2, 2)).astype(np.float32),
        "rewards": rewards,
        "terminated": terminated,
        "truncated": np.zeros((4, 2), dtype=np.bool_),
        "valid": valid,
        "log_probabilities": np.full((4, 2), -0.7, dtype=np.float32),
        "policy_versions": np.full(4, 6, dtype=np.int64),
        "episode_returns": np.array([9.0], dtype=np.float32),
        "episode_lengths": np.array([9], dtype=np.int32),
    }


def accept(candidate: Tensors, description: EnvironmentDescription = DISCRETE) -> Fragment:
    return Fragment.from_tensors(
        candidate, fragment_length=4, environments=2, description=description
    )


@pytest.mark.parametrize("description", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_survives_the_wire(description: EnvironmentDescription) -> None:
    sent = accept(tensors(description), description)
    received = accept(decode(encode(sent.to_tensors()), limit=1 << 16), description)
    for name, array in sent.to_tensors().items():
        np.testing.assert_array_equal(getattr(received, name), array)
        assert getattr(received, name).dtype == array.dtype
    assert received.environment_steps == 7


def replaced(name: str, value: Any) -> Callable[[Tensors], None]:
    return lambda candidate: candidate.update({name: value})


def at(name: str, index: Any, value: Any) -> Callable[[Tensors], None]:
    def change(candidate: Tensors) -> None:
        candidate[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("valid"), "fragment: missing tensors ['valid'], unknown tensors []"),
        (replaced("more", np.zeros(1)), "fragment: missing tensors [], unknown tensors ['more']"),
        (
            replaced("rewards", np.zeros((4, 3), np.float32)),
            "rewards: shape [4, 3], expected [4, 2]",
        ),
        (
            replaced("observations", np.zeros((4, 2, 3), np.float32)),
            "observations: shape [4, 2, 3], expected [5, 2, 3]",
        ),
        (
            replaced("episode_returns", np.zeros((1, 1), np.float32)),
            "episode_returns: shape [1, 1], expected [E]",
        ),
        (replaced("rewards", np.ones((4, 2))), "rewards: dtype float64, expected float32"),
        (
            replaced("actions", np.zeros((4, 2), np.float32)),
            "actions: dtype float32, expected int64",
        ),
        (at("observations", (4, 1, 2), np.nan), "observations: not finite"),
        (at("rewards", (0, 0), np.inf), "rewards: not finite"),
        (at("log_probabilities", (0, 0), -np.inf), "log_probabilities: not finite"),
        (at("log_probabilities", (0, 0), 0.5), "log_probabilities: above 0 for discrete actions"),
        (at("actions", (3, 1), 2), "actions: outside 0..1"),
        (at("actions", (3, 1), -1), "actions: outside 0..1"),
        (at("policy_versions", 0, -1), "policy_versions: negative"),
        (
            at("valid", (2, 1), True),
            "valid: does not match the ends of episodes (NEXT_STEP autoreset)",
        ),
        (
            at("terminated", (2, 1), True),
            "valid: does not match the ends of episodes (NEXT_STEP autoreset)",
        ),
        (at("rewards", (2, 1), 1.0), "rewards: not 0 where an environment was reset"),
        (
            replaced("episode_returns", np.zeros(2, np.float32)),
            "episode_returns: 2 episodes, episode_lengths: 1, but 1 ended",
        ),
        (at("episode_lengths", 0, 0), "episode_lengths: below 1"),
    ],
)
def test_refuses(change: Callable[[Tensors], None], message: str) -> None:
    candidate = tensors()
    change(candidate)
    with pytest.raises(MalformedFragment) as raised:
        accept(candidate)
    assert str(raised.value) == message


def test_refuses_continuous_actions_of_another_size() -> None:
    candidate = tensors(CONTINUOUS)
    candidate["actions"] = candidate["actions"][..., :1]
    with pytest.raises(MalformedFragment, match="actions: shape"):
        accept(candidate, CONTINUOUS)


def test_continuous_densities_may_exceed_one() -> None:
    candidate = tensors(CONTINUOUS)
    candidate["log_probabilities"][:] = 2.0
    assert accept(candidate, CONTINUOUS).log_probabilities[0, 0] == 2.0
