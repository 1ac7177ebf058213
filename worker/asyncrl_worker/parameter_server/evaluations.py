"""Evaluations: asked for by the learner with a version, run by an actor that training can spare.

An actor that evaluates produces nothing. Training goes on all the same, whatever an evaluation
takes: at most half of the actors evaluate at once, and once an evaluation has begun or ended, the
next one begins only after another batch, unless its actor has nothing else to do. So where every
batch needs the one actor that evaluates, it waits for the rest of one evaluation, never for two.
"""

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
        self._turn = True  # no evaluation has begun or ended since the last batch
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

    @property
    def due(self) -> bool:
        """Whether one is to begin before more fragments are produced."""
        return self._turn and bool(self._pending)

    def batch_taken(self) -> None:
        """Training has got what it waited for: it is an evaluation's turn."""
        self._turn = True

    def begin(self, evaluating: int, actors: int) -> EvaluationTask | None:
        """The next task, for a free one of `actors`, of which so many are `evaluating`."""
        if not self._pending or (evaluating and 2 * (evaluating + 1) > actors):
            return None
        self._turn = False
        return self._pending.popleft()

    def ended(self) -> None:
        """An actor is done with an evaluation, whatever came of it."""
        self._turn = False

    def give_up(self, task: EvaluationTask) -> None:
        """The actor abandoned `task`, most likely for time: another one would do no better."""
        self.ended()
        self.given_up += 1

    def give_back(self, task: EvaluationTask) -> None:
        """The actor of `task` is lost: next in line, unless that happened too often."""
        self.ended()
        task.tries += 1
        if task.tries < TRIES:
            self._pending.appendleft(task)
        else:
            self.given_up += 1

    def complete(
        self, task: EvaluationTask, returns: Sequence[float], lengths: Sequence[int]
    ) -> bool:
        """Keeps the result; False where it is not one (then the task is given up)."""
        self.ended()
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
        self._turn = True
