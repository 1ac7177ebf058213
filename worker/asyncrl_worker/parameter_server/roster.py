"""The connected actors: who they are, what each has in work, and who waits for work."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from asyncrl_worker.parameter_server.evaluations import EvaluationTask
from asyncrl_worker.parameter_server.fence import Admission, Fence
from asyncrl_worker.parameter_server.schedule import Order
from asyncrl_worker.protocol.messages import Refusal

TICKETS_PER_ACTOR = 1
"""Fragments an actor may have in work. A second would hide the round trip, at the price of a
version of staleness for every fragment; a round trip is far shorter than a fragment."""

ACTORS_LIMIT = 4096
"""Largest number of actor indices; bounds what is remembered about absent actors."""


@dataclass(eq=False)
class Actor:
    """One open stream. `begun`: its process has delivered fragments before."""

    session: int
    index: int
    begun: bool
    ready: bool = False
    malformed: int = 0
    orders: dict[int, Order] = field(default_factory=dict)
    evaluation: EvaluationTask | None = None
    # Work that nobody wants any more but that still occupies the actor.
    void_tickets: set[int] = field(default_factory=set)
    void_evaluation: bool = False

    @property
    def busy(self) -> int:
        """Pieces of work that occupy the actor."""
        return len(self.orders) + len(self.void_tickets) + self.evaluating

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation occupies the actor, one that nobody wants any more too."""
        return self.evaluation is not None or self.void_evaluation

    @property
    def wants_work(self) -> bool:
        """Whether it may get a ticket now."""
        return self.ready and self.busy < TICKETS_PER_ACTOR


class Roster:
    """Actors by session, at most one session per actor index."""

    def __init__(self) -> None:
        self._actors: dict[int, Actor] = {}
        self._sessions: dict[int, int] = {}  # actor index -> session
        self._attempts: dict[int, int] = {}  # actor index -> newest attempt
        self._fences: dict[int, Fence] = {}  # by actor index
        # Sessions in the order in which they became idle: the gate serves them so.
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._actors)

    def __iter__(self) -> Iterator[Actor]:
        return iter(self._actors.values())

    def get(self, session: int) -> Actor | None:
        """The actor of an open session."""
        return self._actors.get(session)

    @property
    def idle(self) -> list[Actor]:
        """Those that wait for work, the one that has waited longest first."""
        return [self._actors[session] for session in self._idle]

    def session_of(self, index: int) -> int | None:
        """The open session of an actor index."""
        return self._sessions.get(index)

    def admit(self, index: int, attempt: int, incarnation: int) -> Refusal | None:
        """Whether this process may join; from then on its predecessors may not."""
        if index >= ACTORS_LIMIT:
            return Refusal(f"actor index {index} is not below {ACTORS_LIMIT}")
        newest = self._attempts.get(index, 0)
        if attempt < newest:
            reason = f"actor {index}: attempt {attempt} was replaced by attempt {newest}"
            return Refusal(reason, fenced=True)
        if self._fences.setdefault(index, Fence()).admit(incarnation) is Admission.REPLACED:
            reason = f"actor {index}: this process was replaced by a later one"
            return Refusal(reason, fenced=True)
        self._attempts[index] = attempt
        return None

    def join(self, session: int, index: int, *, begun: bool) -> None:
        """A stream is open; another one of this index must have left before."""
        self._sessions[index] = session
        self._actors[session] = Actor(session, index, begun)

    def leave(self, session: int) -> Actor | None:
        """The stream is closed; the actor that it was, for what it had in work."""
        actor = self._actors.pop(session, None)
        if actor is not None:
            self._idle.pop(session, None)
            del self._sessions[actor.index]
        return actor

    def succeeds(self, actor: Actor) -> bool:
        """Whether its process took another's place and has produced nothing yet."""
        return not actor.begun and self._fences[actor.index].has_predecessor

    def note(self, actor: Actor) -> None:
        """Put `actor` into the line of idle actors, or out of it."""
        if actor.wants_work:
            self._idle.setdefault(actor.session)
        else:
            self._idle.pop(actor.session, None)
