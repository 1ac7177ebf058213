"""Which process of a role is the present one; those that it replaced stay out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from asyncrl_worker.protocol.errors import Fenced, HelloRequired

REMEMBERED = 16
"""Predecessors of one process that are remembered."""


@dataclass(frozen=True)
class LearnerId:
    """Which process of the learner speaks; see `Fence` for the incarnation."""

    attempt: int
    incarnation: int


class Admission(Enum):
    """What a process that says hello is."""

    SAME = "same"  # the present one, connecting again
    NEW = "new"  # the first, or the successor of the present one
    REPLACED = "replaced"  # a predecessor of the present one


class Fence:
    """The processes of one role and index, in the order in which each was first heard of.

    A restarted container and a replaced pod have their predecessor's command line, so that it is
    a random number of the process, its incarnation, by which one is told from the other.
    """

    def __init__(self) -> None:
        self.present: int | None = None
        self._replaced: deque[int] = deque(maxlen=REMEMBERED)

    @property
    def has_predecessor(self) -> bool:
        """Whether the present process took the place of another."""
        return bool(self._replaced)

    def replaced(self, incarnation: int) -> bool:
        """Whether this process has a successor."""
        return incarnation in self._replaced

    def admit(self, incarnation: int) -> Admission:
        """A process says hello; a new one becomes the present one."""
        if incarnation == self.present:
            return Admission.SAME
        if self.replaced(incarnation):
            return Admission.REPLACED
        if self.present is not None:
            self._replaced.append(self.present)
        self.present = incarnation
        return Admission.NEW


class LearnerFence:
    """The present learner: its attempt, and its process among those of that attempt."""

    def __init__(self) -> None:
        self.attempt: int | None = None
        self._processes = Fence()

    def admit(self, learner: LearnerId) -> bool:
        """A learner says hello: True for a new one, False for the present one.

        Raises Fenced for a predecessor of the present one.
        """
        self._refuse_older(learner.attempt)
        if learner.attempt != self.attempt:
            self._processes = Fence()
        admission = self._processes.admit(learner.incarnation)
        if admission is Admission.REPLACED:
            raise Fenced(_replaced(learner.attempt))
        self.attempt = learner.attempt
        return admission is Admission.NEW

    def check(self, learner: LearnerId) -> None:
        """Raises Fenced for a predecessor of the present learner, HelloRequired for a successor."""
        attempt = learner.attempt
        self._refuse_older(attempt)
        if attempt != self.attempt:
            raise HelloRequired(f"learner attempt {attempt} has not introduced itself")
        if self._processes.replaced(learner.incarnation):
            raise Fenced(_replaced(attempt))
        if learner.incarnation != self._processes.present:
            raise HelloRequired(f"this process of learner attempt {attempt} is not introduced")

    def _refuse_older(self, attempt: int) -> None:
        if self.attempt is not None and attempt < self.attempt:
            raise Fenced(f"learner attempt {attempt} was replaced by attempt {self.attempt}")


def _replaced(attempt: int) -> str:
    return f"learner attempt {attempt}: this process was replaced by a later one"
