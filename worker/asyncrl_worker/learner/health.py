"""What the endpoint of a learner shows, from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from asyncrl_worker.learner.followers import Follower
from asyncrl_worker.learner.loop import TrainingLoop


class LearnerHealth:
    """Looks at what trains, once `trained` is set; read by the endpoint's threads.

    A learner that waits for its parameter server, its ranks or a batch is healthy: to start it
    again would help nobody. Not healthy is one whose loop does not turn.
    """

    def __init__(
        self, stall_timeout: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`stall_timeout`: seconds without a turn of the loop."""
        self.trained: TrainingLoop | Follower | None = None
        self._timeout = stall_timeout
        self._clock = clock

    def problem(self) -> str | None:
        """None, or one line about what is wrong."""
        if self.trained is None:
            return None
        idle = self._clock() - self.trained.progressed_at
        if idle < self._timeout:
            return None
        return f"the training loop stands still for {idle:.0f} s, more than {self._timeout:g} s"

    def ready(self) -> bool:
        """Whether everything that training needs is there."""
        return self.trained is not None

    def report(self) -> str | None:
        """The report as JSON; None before training and on ranks other than 0."""
        return self.trained.report() if isinstance(self.trained, TrainingLoop) else None
