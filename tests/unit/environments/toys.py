"""Small environments with known behaviour; importing this module registers them."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from asyncrl_api.workload import Gymnasium, Workload

MODULE = "unit.environments.toys"
Ending = tuple[int, str]


class Scripted(gymnasium.Env[Any, Any]):
    """Episodes of the given lengths and kinds of ending ("end", "cut", "both"), in turn.

    The seed of the first reset chooses where in the script to begin. Observations are (number of
    the episode, step in it); rewards tell step and action.
    """

    def __init__(self, script: list[Ending]) -> None:
        self.observation_space = spaces.Box(-1, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.script = script
        self.episode = -1
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.episode = seed % len(self.script)
        else:
            self.episode += 1
        self.time = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        length, kind = self.script[self.episode % len(self.script)]
        assert self.time < length, "stepped beyond the end of an episode"
        reward = 1.0 + self.time / 8 + int(action) / 4
        self.time += 1
        done = self.time == length
        return (
            self._observe(),
            reward,
            done and kind in ("end", "both"),
            done and kind in ("cut", "both"),
            {},
        )

    def _observe(self) -> Any:
        return np.array([self.episode, self.time], dtype=np.float32)


class ScriptedVector(VectorEnv[Any, Any, Any]):
    """The same, vectorised by its author."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int, script: list[Ending]) -> None:
        self.num_envs = num_envs
        self.members = [Scripted(script) for _ in range(num_envs)]
        self.single_observation_space = self.members[0].observation_space
        self.single_action_space = self.members[0].action_space
        self.ended = [False] * num_envs
        # Handed out again and again, as environments may do with their state.
        self.observations = np.zeros((num_envs, 2), dtype=np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        for i, member in enumerate(self.members):
            self.observations[i] = member.reset(seed=None if seed is None else seed + i)[0]
        self.ended = [False] * self.num_envs
        return self.observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        rewards = np.zeros(self.num_envs)
        ends = np.zeros(self.num_envs, dtype=bool)
        cuts = np.zeros(self.num_envs, dtype=bool)
        for i, member in enumerate(self.members):
            if self.ended[i]:
                self.observations[i] = member.reset()[0]
            else:
                self.observations[i], rewards[i], ends[i], cuts[i], _ = member.step(actions[i])
            self.ended[i] = bool(ends[i] or cuts[i])
        return self.observations, rewards, ends, cuts, {}


class SameStepVector(ScriptedVector):
    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}


class DishonestVector(ScriptedVector):
    """Says NEXT_STEP, but ends episodes in the step that should only reset."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, ends, cuts, info = super().step(actions)
        return observations, rewards, np.ones_like(ends), cuts, info


class FlatRewardVector(ScriptedVector):
    """Returns one number instead of a batch of rewards."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, _, ends, cuts, info = super().step(actions)
        return observations, np.float64(1.0), ends, cuts, info


class Faulty(gymnasium.Env[Any, Any]):
    """Goes wrong in the way of `fault` at step `at` (0: at the reset)."""

    def __init__(self, fault: str, at: int = 3) -> None:
        if fault == "constructor":
            raise RuntimeError("no licence")
        if fault == "constructor that hangs":
            threading.Event().wait()
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.fault = fault
        self.at = at
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.time = 0
        return self._go_on()[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.fault == "choke" and not np.isfinite(action).all():
            raise ValueError("action is NaN")
        self.time += 1
        observation, reward = self._go_on()
        return observation, reward, False, False, {}

    def _go_on(self) -> tuple[Any, Any]:
        observation: Any = np.full(3, 0.5, dtype=np.float32)
        reward: Any = 1.0
        if self.time == self.at:
            match self.fault:
                case "raise":
                    raise ZeroDivisionError("division by zero")
                case "nan" | "choke":
                    observation[1] = np.nan
                case "reward":
                    reward = np.inf
                case "shape":
                    observation = np.zeros((2, 2), dtype=np.float32)
                case "scalar":
                    observation = np.float32(0.0)
                case "text":
                    observation = ["a", "b", "c"]
                case "hang":
                    threading.Event().wait()
                case "exit":
                    raise SystemExit(7)
        return observation, reward


class Spaces(gymnasium.Env[Any, Any]):
    """Any pair of spaces; observations are zeros, rewards are the mean of what the action was."""

    def __init__(self, observation: str, action: str) -> None:
        self.observation_space = OBSERVATIONS[observation]
        self.action_space = ACTIONS[action]
        self.received: list[Any] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return np.zeros(self.observation_space.shape or (), self.observation_space.dtype), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return self.reset()[0], float(np.mean(action)), False, False, {}


OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "image": spaces.Box(0, 255, (4, 5, 3), np.uint8),
    "double": spaces.Box(-1, 1, (2,), np.float64),
    "number": spaces.Discrete(5),
    "point": spaces.Box(-1, 1, (), np.float32),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "shifted": spaces.Discrete(3, start=5),
    "matrix": spaces.Box(-2, np.array([[1, 2], [3, 4]], np.float32), (2, 2), np.float64),
    "several": spaces.MultiDiscrete([2, 3]),
    "integers": spaces.Box(0, 4, (2,), np.int64),
}


def needs_package(**_: Any) -> gymnasium.Env[Any, Any]:
    """Entry point of an environment whose package is not installed."""
    raise ModuleNotFoundError("No module named 'warp_drive'", name="warp_drive")


def needs_simulator(**_: Any) -> gymnasium.Env[Any, Any]:
    """The same, in gymnasium's own words."""
    raise gymnasium.error.DependencyNotInstalled("The simulator is not installed, ask for it")


def workload(id: str, *, environments: int = 2, vectorization: str = "auto", **kw: Any) -> Workload:
    """A workload with one of the environments of this module."""
    return Workload(
        gymnasium=Gymnasium(
            id=id,
            kwargs=kw,
            environments=environments,
            vectorization=vectorization,
            modules=[MODULE],
        )
    )


def _register() -> None:
    here = f"{MODULE}:"
    gymnasium.register(
        "Scripted-v0",
        entry_point=f"{here}Scripted",
        vector_entry_point=f"{here}ScriptedVector",
    )
    for name in ("SameStepVector", "DishonestVector", "FlatRewardVector"):
        gymnasium.register(
            f"{name}-v0", entry_point=f"{here}Scripted", vector_entry_point=f"{here}{name}"
        )
    gymnasium.register("Faulty-v0", entry_point=f"{here}Faulty")
    gymnasium.register("Spaces-v0", entry_point=f"{here}Spaces")
    gymnasium.register("NeedsPackage-v0", entry_point=f"{here}needs_package")
    gymnasium.register("NeedsSimulator-v0", entry_point=f"{here}needs_simulator")


if "Scripted-v0" not in gymnasium.registry:
    _register()
