"""What changed between two statuses of a job, as lines for a person."""

from __future__ import annotations

from asyncrl_api.status import Condition, JobStatus


class Transitions:
    """Remembers the conditions last seen; the first status is no news."""

    def __init__(self) -> None:
        self._known: dict[str, Condition] | None = None

    def lines(self, status: JobStatus) -> list[str]:
        """One line for each condition that is new or changed its status or reason."""
        before, now = self._known, {str(c.type): c for c in status.conditions}
        self._known = now
        if before is None:
            return []
        return [
            condition_line(condition)
            for kind, condition in now.items()
            if kind not in before or _said(before[kind]) != _said(condition)
        ]


def condition_line(condition: Condition) -> str:
    """`Stable False, Degraded: KL 0.31 is above 0.2`."""
    line = f"{condition.type} {condition.status}, {condition.reason}"
    return f"{line}: {condition.message}" if condition.message else line


def _said(condition: Condition) -> tuple[str, str]:
    return condition.status, condition.reason
