"""Evaluations: asked for by the learner with a version, run by whichever actor is free next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from asyncrl_worker.protocol.messages import Evaluation

PENDING_LIMIT = 4
"""Evaluations that wait for a free actor; beyond it the oldest is given up. Each pins a version."""

RESULTS_LIMIT = 64
"""Results kept until the learner has seen them."""

TRIES = 3
"""How many actors may be lost over one evaluation before it is given up."""


@dataclass
class EvaluationTask:
    """`episodes` episodes with exactly `version`."""

    version: int
    episodes: int
    tries: int = 0


class Evaluations:
    """Waiting tasks and results, both bounded."""

    def __init__(self) -> None:
        self._pending: deque[EvaluationTask] = deque()
        self._results: deque[Evaluation] = deque(maxlen=RESULTS_LIMIT)
        self._number = 0
        self.given_up = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def pending_versions(self) -> list[int]:
        return [task.version for task in self._pending]

    def ask(self, version: int, episodes: int) -> None:
        """Queues an evaluation behind the others."""
        self._pending.append(EvaluationTask(version, episodes))
        if len(self._pending) > PENDING_LIMIT:
            self._pending.popleft()
            self.given_up += 1

    def assign(self) -> EvaluationTask | None:
        """The next task, for a free actor."""
        return self._pending.popleft() if self._pending else None

    def give_back(self, task: EvaluationTask) -> None:
        """The actor of `task` is lost: next in line, unless that happened too often."""
        task.tries += 1
        if task.tries < TRIES:
            self._pending.appendleft(task)
        else:
            self.given_up += 1

    def complete(
        self, task: EvaluationTask, returns: Sequence[float], lengths: Sequence[int]
    ) -> bool:
        """Keeps the result; False where it is not one (then the task is given up)."""
        valid = (
            1 <= len(returns) <= task.episodes
            and len(lengths) == len(returns)
            and all(math.isfinite(value) for value in returns)
        )
        if not valid:
            self.given_up += 1
            return False
        self._number += 1
        self._results.append(Evaluation(self._number, task.version, tuple(returns), tuple(lengths)))
        return True

    def results(self, seen: int) -> list[Evaluation]:
        """Results after number `seen`; those up to it are forgotten."""
        while self._results and self._results[0].number <= seen:
            self._results.popleft()
        return list(self._results)

    def clear(self) -> None:
        """A new learner attempt: what is waiting belongs to weights that are gone."""
        self._pending.clear()
        self._results.clear()
