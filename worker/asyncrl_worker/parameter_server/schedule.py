"""Which fragments are produced next and which form the next batch: the two ways of admission.

A schedule knows tickets and batches, not actors' connections, time or sockets. It is told what
happens and asked what may happen; the rules themselves are those of asyncrl_worker.staleness.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from asyncrl_worker.parameter_server.validation import Arrival
from asyncrl_worker.staleness import (
    StalenessPolicy,
    admissible,
    exact_version,
    reset_seed,
)

HELD_LIMIT = 4
"""Batches a learner may hold at once in bounded mode: one in training, one fetched ahead, two
whose settlement is on its way. The staleness bound does not depend on it; memory does."""


@dataclass(eq=False)
class Order:
    """One ticket: what is to be produced, for whom, and for which batch (exact mode)."""

    ticket: int
    actor: int
    version: int
    exact: bool
    granted: float
    reset_seed: int | None = None
    batch_version: int = -1
    position: int = -1

    def objection(self, fragment: Arrival, newest: int | None) -> str:
        """What is wrong with the policy versions of a fragment; empty where nothing is.

        `newest`: the version that is published.
        """
        oldest = fragment.oldest
        if self.exact and not oldest == fragment.newest == self.version:
            return (
                f"policy_versions: {oldest}..{fragment.newest}, the ticket is for "
                f"exactly {self.version}"
            )
        if oldest < self.version:
            return f"policy_versions: {oldest} is older than the ticket's {self.version}"
        if newest is None or fragment.newest > newest:
            return f"policy_versions: {fragment.newest} does not exist, the newest is {newest}"
        return ""


@dataclass(eq=False)
class Queued:
    """An accepted fragment with its ticket; times in seconds on the server's clock."""

    order: Order
    arrival: Arrival
    arrived: float


@dataclass(eq=False)
class Batch:
    """A batch handed to the learner. `version`: the learner's version when it trains it.

    `fragments` is empty for a batch that the learner received from an earlier parameter server.
    """

    id: int
    version: int
    size: int
    fragments: list[Queued] = field(default_factory=list)

    @property
    def staleness(self) -> list[int]:
        """Per fragment, in versions, by its oldest step."""
        return [self.version - queued.arrival.oldest for queued in self.fragments]


@dataclass(frozen=True)
class HeldByLearner:
    """A batch that the learner received and has not settled."""

    batch_id: int
    fragments: int
    version: int


class Schedule(Protocol):
    """What the server's state machine needs of either way of admission."""

    held: dict[int, Batch]

    @property
    def admissible(self) -> int:
        """Fragments that may be started now."""

    def start(self, version: int, held: Iterable[Batch]) -> None:
        """A learner attempt begins at `version`, holding `held`; everything else is forgotten, an
        earlier attempt's pace too."""

    def published(self, version: int, reset: bool) -> None:
        """`version` can be fetched. Raises ValueError where it cannot follow the last one."""

    def grant(self, ticket: int, actor: int, now: float) -> Order | None:
        """Admits one fragment by `actor`, or not yet."""

    def accept(self, queued: Queued) -> None:
        """The fragment of an order arrived."""

    def give_back(self, order: Order) -> None:
        """An order ends without a fragment."""

    def take(self, batch_id: int) -> tuple[Batch | None, list[Queued]]:
        """The next complete batch, now held, and the fragments dropped as stale on the way."""

    def consumed(self, batch_id: int, version: int) -> None:
        """A held batch is settled and the learner is at `version`."""

    def pace(self, eta: int) -> int:
        """Asks for another effective bound; returns the one in effect."""


class BoundedSchedule:
    """accepted + running <= (eta + consumed + 1) * B; batches in arrival order (drop) or in
    ticket order (wait)."""

    def __init__(self, policy: StalenessPolicy) -> None:
        self._policy = policy
        self.held: dict[int, Batch] = {}
        self.start(0, ())

    def start(self, version: int, held: Iterable[Batch]) -> None:
        self.held = {batch.id: batch for batch in held}
        self._eta = self._policy.maximum
        self._version = version
        self._published: int | None = None
        # Insertion order is ticket order in both.
        self._running: dict[int, Order] = {}
        self._waiting: dict[int, Queued] = {}
        # Batches since the attempt began: settled with their version published, and not yet.
        self._consumed = 0
        self._unpublished: list[int] = []

    @property
    def admissible(self) -> int:
        if self._published is None:
            return 0
        batch = self._policy.fragments_per_batch
        batches = self._consumed + len(self._unpublished) + len(self.held)
        accepted = batches * batch + len(self._waiting)
        return admissible(self._eta, batch, self._consumed, accepted, len(self._running))

    def published(self, version: int, reset: bool) -> None:
        if self._published is not None and version <= self._published:
            raise ValueError(f"version {version} is not newer than {self._published}")
        self._published = version
        self._version = max(self._version, version)
        self._release()

    def grant(self, ticket: int, actor: int, now: float) -> Order | None:
        if self._published is None or self.admissible == 0:
            return None
        order = Order(ticket, actor, self._published, False, now)
        self._running[ticket] = order
        return order

    def accept(self, queued: Queued) -> None:
        del self._running[queued.order.ticket]
        self._waiting[queued.order.ticket] = queued

    def give_back(self, order: Order) -> None:
        del self._running[order.ticket]

    def take(self, batch_id: int) -> tuple[Batch | None, list[Queued]]:
        if len(self.held) >= HELD_LIMIT:
            return None, []
        # Should every held batch be trained, this one comes after them.
        version = max([self._version, *(batch.version + 1 for batch in self.held.values())])
        waiting = list(self._waiting.values())
        stale: list[Queued] = []
        if self._policy.on_stale == "drop":
            oldest = version - self._eta
            stale = [queued for queued in waiting if queued.arrival.oldest < oldest]
            waiting = [queued for queued in waiting if queued.arrival.oldest >= oldest]
        else:
            waiting = self._next_in_ticket_order(waiting)
        size = self._policy.fragments_per_batch
        chosen = waiting[:size] if len(waiting) >= size else []
        for queued in (*stale, *chosen):
            del self._waiting[queued.order.ticket]
        if not chosen:
            return None, stale
        batch = Batch(batch_id, version, size, chosen)
        self.held[batch_id] = batch
        return batch, stale

    def consumed(self, batch_id: int, version: int) -> None:
        del self.held[batch_id]
        self._version = max(self._version, version)
        self._unpublished.append(version)
        self._release()

    def pace(self, eta: int) -> int:
        self._eta = max(0, min(eta, self._policy.maximum))
        return self._eta

    def _next_in_ticket_order(self, waiting: list[Queued]) -> list[Queued]:
        """Those with no older ticket still running, oldest first."""
        first_running = min(self._running, default=None)
        ordered = sorted(waiting, key=lambda queued: queued.order.ticket)
        if first_running is None:
            return ordered
        return [queued for queued in ordered if queued.order.ticket < first_running]

    def _release(self) -> None:
        """Opens the gate for batches whose resulting version can be fetched: a ticket granted
        earlier would be produced one version older than the bound allows."""
        if self._published is None:
            return
        open_ = [version for version in self._unpublished if version <= self._published]
        self._consumed += len(open_)
        self._unpublished = [v for v in self._unpublished if v > self._published]


@dataclass(eq=False)
class _Exact:
    """The batch to be trained at one version; B places, each dealt to one actor."""

    version: int
    places: list[Queued | None]

    @property
    def complete(self) -> bool:
        return all(place is not None for place in self.places)


class ExactSchedule:
    """Every batch exactly `lag` versions late, each place of it dealt to a fixed actor.

    The target is level-triggered: while version v is the newest, one batch exists for each
    training version v .. v + lag, unless it is trained already. A skipped batch is thereby
    produced again, by the same version, and served first. Which actor produces which place
    depends on the training version alone, so a run and its resumption deal alike.
    """

    def __init__(self, policy: StalenessPolicy, seed: int) -> None:
        assert policy.exact_lag is not None
        self._policy = policy
        self._lag = policy.exact_lag
        self._seed = seed
        self.held: dict[int, Batch] = {}
        self.start(0, ())

    @property
    def admissible(self) -> int:
        return sum(len(deals) for deals in self._deals)

    def start(self, version: int, held: Iterable[Batch]) -> None:
        self.held = {batch.id: batch for batch in held}
        self._start = version
        self._version = version
        self._published: int | None = None
        self._batches: dict[int, _Exact] = {}
        self._deals: list[deque[Order]] = [deque() for _ in range(self._policy.replicas)]
        self._resets: dict[int, int] = {}

    def published(self, version: int, reset: bool) -> None:
        expected = self._start if self._published is None else self._published + 1
        if version != expected:
            raise ValueError(f"version {version} must be {expected}: exact lag skips none")
        if min(self._batches, default=version) < version:
            raise ValueError(f"the batch that makes version {version} was not handed out yet")
        self._published = version
        self._version = max(self._version, version)
        if reset:
            seed = reset_seed(self._seed, version)
            self._resets = dict.fromkeys(range(self._policy.replicas), seed)
        self._open()

    def grant(self, ticket: int, actor: int, now: float) -> Order | None:
        if actor >= len(self._deals) or not self._deals[actor]:
            return None
        order = self._deals[actor].popleft()
        order.ticket, order.granted = ticket, now
        return order

    def accept(self, queued: Queued) -> None:
        order = queued.order
        self._batches[order.batch_version].places[order.position] = queued

    def give_back(self, order: Order) -> None:
        again = Order(
            ticket=0,
            actor=order.actor,
            version=order.version,
            exact=True,
            granted=0.0,
            reset_seed=order.reset_seed,
            batch_version=order.batch_version,
            position=order.position,
        )
        self._deals[order.actor].appendleft(again)

    def take(self, batch_id: int) -> tuple[Batch | None, list[Queued]]:
        # One at a time: a skip of the held batch puts its repetition before the next.
        if self.held:
            return None, []
        exact = self._batches.get(self._version)
        if exact is None or not exact.complete:
            return None, []
        del self._batches[self._version]
        fragments = [place for place in exact.places if place is not None]
        batch = Batch(batch_id, exact.version, len(fragments), fragments)
        self.held[batch_id] = batch
        return batch, []

    def consumed(self, batch_id: int, version: int) -> None:
        del self.held[batch_id]
        self._version = max(self._version, version)
        self._open()

    def pace(self, eta: int) -> int:
        return self._lag

    def _open(self) -> None:
        if self._published is None:
            return
        taken = {batch.version for batch in self.held.values()}
        # The learner may be one version ahead of what it has published.
        for version in range(self._version, self._published + self._lag + 1):
            if version not in self._batches and version not in taken:
                self._deal(version)

    def _deal(self, version: int) -> None:
        size = self._policy.fragments_per_batch
        self._batches[version] = _Exact(version, [None] * size)
        for position in range(size):
            actor = (version * size + position) % self._policy.replicas
            self._deals[actor].append(
                Order(
                    ticket=0,
                    actor=actor,
                    version=exact_version(version, self._lag, self._start),
                    exact=True,
                    granted=0.0,
                    # Only the first of an actor: the second continues where it ended.
                    reset_seed=self._resets.pop(actor, None),
                    batch_version=version,
                    position=position,
                )
            )


def schedule_of(policy: StalenessPolicy, seed: int) -> Schedule:
    """The schedule that `policy` asks for."""
    if policy.exact_lag is None:
        return BoundedSchedule(policy)
    return ExactSchedule(policy, seed)
