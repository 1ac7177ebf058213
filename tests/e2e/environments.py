"""Environments that a test steers from outside; importing this module registers them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

MODULE = "e2e.environments"


class Gated(gymnasium.Env[Any, Any]):
    """Episodes of ten steps, with rewards of 0 until the file `gate` exists and of 1 from then on.

    A run with `stopping.targetReturn` of 10 goes on until the test opens the gate. The process
    that is first to create the file `slow`, if one is named, takes `seconds` longer for each step.
    """

    LENGTH = 10

    def __init__(self, gate: str = "", slow: str = "", seconds: float = 0.0) -> None:
        self.observation_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self._gate = gate
        self._slow = slow
        self._seconds = seconds
        self._pause = 0.0
        self._reward = 0.0
        self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self._slow and seed is not None:
            self._pause = self._seconds if _claims(Path(self._slow)) else 0.0
        self._reward = float(not self._gate or Path(self._gate).exists())
        self._time = 0
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._pause:
            time.sleep(self._pause)
        self._time += 1
        return self._observation(), self._reward, self._time == self.LENGTH, False, {}

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Wavering(Gated):
    """As Gated, but until the gate is open an episode ends where two actions in a row differ.

    A policy that explores ends it soon. A greedy one, which sees the same state again and again,
    never does.
    """

    def __init__(self, gate: str) -> None:
        super().__init__(gate)
        self._last: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._last = None
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, ended, truncated, info = super().step(action)
        if not self._reward:
            ended = self._last is not None and action != self._last
            self._last = int(action)
        return observation, reward, ended, truncated, info

    def _observation(self) -> Any:
        return np.zeros(3, np.float32)


def _claims(path: Path) -> bool:
    """Whether this process was the first to ask for `path`."""
    try:
        with path.open("x") as stream:
            stream.write(str(os.getpid()))
        return True
    except FileExistsError:
        return path.read_text() == str(os.getpid())


if "Gated-v0" not in gymnasium.registry:
    gymnasium.register("Gated-v0", entry_point=f"{MODULE}:Gated")
    gymnasium.register("Wavering-v0", entry_point=f"{MODULE}:Wavering")
