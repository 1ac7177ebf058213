"""A run as plain lines, for logs, pipes and terminals without a live view."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from asyncrl.numbers import count, duration, number, signed, whole
from asyncrl_api.status import JobStatus

LINE_SECONDS = 2.0


class PlainView:
    """Prints one line every two seconds while the numbers move, and one for each event."""

    def __init__(
        self, echo: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._echo = echo
        self._clock = clock
        self._printed_at = float("-inf")
        self._printed = ""
        self._phase = ""
        self._status: JobStatus | None = None

    def status(self, status: JobStatus) -> None:
        """Print this status if it is time, or at once if the phase changed."""
        self._status = status
        now = self._clock()
        turned = status.phase != self._phase
        if not turned and now - self._printed_at < LINE_SECONDS:
            return
        line = status_line(status)
        if turned or line != self._printed:
            words = (_elapsed(status), status.phase if turned else "", line)
            self._echo(" ".join(word for word in words if word))
            self._printed = line
        self._phase, self._printed_at = status.phase, now

    def event(self, line: str) -> None:
        """Print this line."""
        elapsed = _elapsed(self._status) if self._status else "0.0s"
        self._echo(f"{elapsed} {line}")


def status_line(status: JobStatus) -> str:
    """The numbers of a run in one line, without the absent ones."""
    words: list[str] = []

    def add(word: str, value: object) -> None:
        if value is not None:
            words.append(word)

    if (training := status.training) is not None:
        add(f"v={training.policy_version}", training.policy_version)
        add(f"steps={count(training.environment_steps)}", training.environment_steps)
        add(f"return={number(training.episode_return)}", training.episode_return)
        add(f"eval={number(training.evaluation_return)}", training.evaluation_return)
    if (alignment := status.alignment) is not None:
        add(f"c={signed(alignment.cosine)}", alignment.cosine)
        add(str(alignment.regime), alignment.regime)
    if (stability := status.stability) is not None:
        add(str(stability.verdict), stability.verdict)
    if (staleness := status.staleness) is not None:
        add(f"stale={whole(staleness.p50)}/{whole(staleness.bound)}", staleness.p50)
    if training is not None:
        add(f"{count(training.throughput)}/s", training.throughput)
    return " ".join(words)


def _elapsed(status: JobStatus) -> str:
    if status.start_time is None:
        return "0.0s"
    end = status.completion_time or datetime.now(UTC)
    return duration(max(0.0, (end - status.start_time).total_seconds()))
