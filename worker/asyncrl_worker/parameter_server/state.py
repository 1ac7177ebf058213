"""The parameter server as a state machine: events in, messages to actors out.

No sockets, threads or clock of its own. One event at a time; after each the ledger balances. The
service (service.py) turns gRPC calls into these events and carries out the returned effects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from asyncrl_worker.parameter_server.effects import ActorMessage, Close, Effect, Send
from asyncrl_worker.parameter_server.evaluations import Evaluations
from asyncrl_worker.parameter_server.fence import LearnerFence, LearnerId
from asyncrl_worker.parameter_server.roster import Actor, Roster
from asyncrl_worker.parameter_server.schedule import (
    Batch,
    HeldByLearner,
    Queued,
    schedule_of,
)
from asyncrl_worker.parameter_server.validation import Arrival
from asyncrl_worker.parameter_server.void_tickets import VoidTickets
from asyncrl_worker.protocol.errors import MalformedMessage, Refused
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Evaluation, Refusal, Ticket
from asyncrl_worker.staleness import DropReason, Ledger, StalenessPolicy, successor_seed

MALFORMED_LIMIT = 16
"""Malformed fragments in a row after which an actor is refused: it will not get better."""

TRAINED = "trained"


class ParameterServerState:
    """Actors, tickets, batches and the ledger of one life (`epoch`) of the parameter server.

    `clock` gives seconds. Learner events raise Fenced for a process that was replaced, Refused for
    what can never be right, and HelloRequired where the learner must introduce itself first.
    """

    def __init__(
        self,
        policy: StalenessPolicy,
        *,
        epoch: int,
        seed: int,
        clock: Callable[[], float],
    ) -> None:
        self.epoch = epoch
        self.policy = policy
        self.ledger = Ledger()
        self.evaluations = Evaluations()
        self.rejected: Counter[str] = Counter()
        self._fence = LearnerFence()
        self.published_version: int | None = None
        self.eta = policy.bound
        self.finished = False
        self._clock = clock
        self._seed = seed
        self._schedule = schedule_of(policy, seed)
        self._roster = Roster()
        self._resumed = False  # what was produced before this epoch may come from the same seeds
        self._void = VoidTickets()
        self._next_ticket = 1
        self._next_batch = 1

    @property
    def attempt(self) -> int | None:
        """The present learner's; None before the first."""
        return self._fence.attempt

    # Actors

    @property
    def connected(self) -> int:
        return len(self._roster)

    @property
    def idle(self) -> int:
        """Actors that wait for work."""
        return len(self._roster.idle)

    def now(self) -> float:
        """The time on the clock of every time kept here, in seconds."""
        return self._clock()

    @property
    def held_fragments(self) -> int:
        """Fragments in batches that the learner holds."""
        return sum(batch.size for batch in self._schedule.held.values())

    @property
    def admissible(self) -> int:
        """Fragments that may be started now and wait for a free actor."""
        return self._schedule.admissible

    @property
    def needed_versions(self) -> set[int]:
        """Versions that outstanding work may still fetch, apart from the newest."""
        needed = set(self.evaluations.pending_versions)
        for actor in self._roster:
            if actor.evaluation is not None:
                needed.add(actor.evaluation.version)
        if self.published_version is not None:
            lag = self.policy.exact_lag
            oldest = self.published_version - (1 if lag is None else lag + 1)
            needed.update(range(oldest, self.published_version + 1))
        return needed

    def actor_joined(
        self,
        session: int,
        index: int,
        attempt: int,
        *,
        incarnation: int = 0,
        begun: bool = True,
    ) -> list[Effect]:
        """A stream opened. It replaces an older one of the same actor.

        `incarnation` tells processes of one attempt apart: the one heard of last is the present
        one. Where its predecessor began with the same seeds, its first ticket brings another.
        """
        refusal = self._roster.admit(index, attempt, incarnation)
        if refusal is not None:
            self.rejected["fenced" if refusal.fenced else "refused"] += 1
            return [Send(session, refusal), Close(session)]
        effects: list[Effect] = []
        replaced = self._roster.session_of(index)
        if replaced is not None:
            effects += self.actor_lost(replaced)
            effects.append(Close(replaced))
        self._roster.join(session, index, begun=begun)
        if self.finished:
            effects.append(Send(session, Drain()))
        return effects

    def actor_ready(self, session: int) -> list[Effect]:
        """The actor holds nothing; what it held is given back."""
        actor = self._roster.get(session)
        if actor is None:
            return []
        self._release(actor, DropReason.ABANDONED)
        actor.ready = True
        self._roster.note(actor)
        return self._dispatch()

    def actor_lost(self, session: int) -> list[Effect]:
        """The stream ended, by a goodbye or without."""
        actor = self._roster.leave(session)
        if actor is None:
            return []
        self._release(actor, DropReason.ACTOR_LOST)
        return self._dispatch()

    def fragment_arrived(
        self, session: int, epoch: int, ticket: int, fragment: Arrival | MalformedMessage
    ) -> list[Effect]:
        """A fragment, already validated by itself; whether it was asked for is decided here."""
        actor = self._roster.get(session)
        if actor is None:
            return []
        refusal = self._settle(actor, epoch, ticket, fragment)
        reason = refusal.partition(":")[0]
        if refusal:
            self.rejected[reason] += 1
        actor.malformed = actor.malformed + 1 if reason == DropReason.MALFORMED else 0
        effects: list[Effect] = [Send(session, Ack(ticket, not refusal, refusal))]
        if actor.malformed >= MALFORMED_LIMIT:
            text = f"actor {actor.index}: {actor.malformed} malformed fragments in a row; {refusal}"
            return [
                *effects,
                Send(session, Refusal(text)),
                Close(session),
                *self.actor_lost(session),
            ]
        self._roster.note(actor)
        return effects + self._dispatch()

    def evaluation_arrived(
        self, session: int, version: int, returns: Sequence[float], lengths: Sequence[int]
    ) -> list[Effect]:
        """The result of an evaluation; anything else than the one asked for is rejected."""
        actor = self._roster.get(session)
        if actor is None:
            return []
        task = actor.evaluation
        if task is None or task.version != version:
            if actor.void_evaluation:
                self.evaluations.ended()
            else:
                self.rejected["evaluation"] += 1
        elif not self.evaluations.complete(task, returns, lengths):
            self.rejected["evaluation"] += 1
        if task is not None and task.version != version:
            return []
        actor.evaluation = None
        actor.void_evaluation = False
        self._roster.note(actor)
        return self._dispatch()

    # Learner

    def learner_hello(
        self,
        learner: LearnerId,
        version: int,
        last: Ledger | None,
        held: Sequence[HeldByLearner],
    ) -> None:
        """A learner introduces itself, at `version`.

        The same process again: nothing changes. A higher attempt, or a later process of the same
        one (a container that was restarted): everything outstanding is dropped and the gate opens
        afresh, by the job's own bound unless it paces, once it publishes. The first one of this
        epoch: the ledger of the parameter server before this one is taken over.
        """
        first = self.attempt is None
        if not self._fence.admit(learner):
            return
        batches: list[Batch] = []
        if first:
            batches = [Batch(item.batch_id, item.version, item.fragments) for item in held]
            if last is not None:
                self.ledger.restore(last, sum(batch.size for batch in batches))
            self._resumed = version > 0 or self.ledger.produced > 0
            self._next_batch = max([0, *(batch.id for batch in batches)]) + 1
        else:
            self._void_everything(DropReason.LEARNER_RESTART)
        self.published_version = None
        self.eta = self.policy.bound
        self.finished = False
        self._schedule.start(version, batches)
        self.ledger.check()

    def check(self, learner: LearnerId) -> None:
        """Raises what any event of this learner would; for calls that begin with other work."""
        self._fence.check(learner)

    def published(
        self, learner: LearnerId, version: int, *, evaluate_episodes: int, reset_environments: bool
    ) -> list[Effect]:
        """`version` can be fetched from now on."""
        self._fence.check(learner)
        try:
            self._schedule.published(version, reset_environments)
        except ValueError as error:
            raise Refused(f"publish: {error}") from None
        self.published_version = version
        if evaluate_episodes:
            self.evaluations.ask(version, evaluate_episodes)
        return self._dispatch()

    def next_batch(
        self, learner: LearnerId, held: Sequence[int]
    ) -> tuple[Batch | None, list[Queued], list[Effect]]:
        """A batch, if one is complete, and the fragments dropped as stale on the way.

        A batch that was handed out but is not in `held` got lost with its reply and comes again.
        Raises StalenessViolation rather than hand out a batch beyond the bound.
        """
        self._fence.check(learner)
        for batch in self._schedule.held.values():
            if batch.id not in held and batch.fragments:
                return batch, [], []
        if self.finished:
            return None, [], []
        batch_or_none, stale = self._schedule.take(self._next_batch)
        if stale:
            self.ledger.drop_queued(DropReason.STALE, len(stale))
        if batch_or_none is not None:
            self._next_batch += 1
            self.evaluations.batch_taken()
            for staleness in batch_or_none.staleness:
                self.policy.check(staleness)
        return batch_or_none, stale, self._dispatch() if stale else []

    def consumed(
        self, learner: LearnerId, batch_id: int, outcome: str, version: int
    ) -> list[Effect]:
        """The learner settled a batch: `outcome` is "trained" or a drop reason."""
        self._fence.check(learner)
        if outcome != TRAINED and outcome not in list(DropReason):
            raise Refused(f"outcome {outcome!a:.40} is neither 'trained' nor a drop reason")
        batch = self._schedule.held.get(batch_id)
        if batch is None:
            if 0 < batch_id < self._next_batch:
                return []  # settled already: the reply got lost
            raise Refused(f"batch {batch_id} was never handed out")
        self._schedule.consumed(batch_id, version)
        if outcome == TRAINED:
            self.ledger.train(batch.size)
        else:
            self.ledger.drop_queued(outcome, batch.size)
        return self._dispatch()

    def pace(self, learner: LearnerId, eta: int) -> list[Effect]:
        """Another effective bound, at most the job's own; see `eta` for the one in effect."""
        self._fence.check(learner)
        self.eta = self._schedule.pace(eta)
        return self._dispatch()

    def finish(self, learner: LearnerId) -> list[Effect]:
        """The run is over: everything outstanding is dropped, every actor drains."""
        self._fence.check(learner)
        if self.finished:
            return []
        self.finished = True
        self._void_everything(DropReason.FINISHED)
        self._schedule.start(0, ())
        return [Send(actor.session, Drain()) for actor in self._roster]

    def awaits_evaluations(self, learner: LearnerId) -> None:
        """The learner takes no more batches: no evaluation has to wait for one."""
        self._fence.check(learner)
        self.evaluations.batch_taken()

    def results(self, seen: int) -> list[Evaluation]:
        """Evaluation results after number `seen`."""
        return self.evaluations.results(seen)

    # Rules

    def _settle(
        self, actor: Actor, epoch: int, ticket: int, fragment: Arrival | MalformedMessage
    ) -> str:
        """Books the fragment; returns why it is refused, or nothing."""
        if epoch != self.epoch:
            self.ledger.drop_unknown(DropReason.EPOCH)
            return f"{DropReason.EPOCH}: granted by an earlier parameter server"
        order = actor.orders.get(ticket)
        if order is None:
            return self._settle_unexpected(actor, ticket)
        problem = (
            str(fragment)
            if isinstance(fragment, MalformedMessage)
            else order.objection(fragment, self.published_version)
        )
        del actor.orders[ticket]
        if problem or isinstance(fragment, MalformedMessage):
            self._schedule.give_back(order)
            self.ledger.drop_in_flight(DropReason.MALFORMED)
            return f"{DropReason.MALFORMED}: {problem}"
        self._schedule.accept(Queued(order, fragment, self._clock()))
        actor.begun = True
        self.ledger.accept()
        return ""

    def _settle_unexpected(self, actor: Actor, ticket: int) -> str:
        actor.void_tickets.discard(ticket)
        known = self._void.forget(actor.index, ticket)
        if known is not None:
            return f"{known}: the ticket was void, and is counted already"
        others = (other for other in self._roster if other is not actor)
        elsewhere = any(ticket in other.orders or ticket in other.void_tickets for other in others)
        if elsewhere or not 0 < ticket < self._next_ticket:
            self.ledger.drop_unknown(DropReason.MALFORMED)
            return f"{DropReason.MALFORMED}: ticket {ticket} was not granted to this actor"
        self.ledger.drop_unknown(DropReason.DUPLICATE)
        return f"{DropReason.DUPLICATE}: the fragment of ticket {ticket} is here already"

    def _release(self, actor: Actor, reason: DropReason) -> None:
        """Takes back everything that `actor` has in work."""
        # Newest first: what is given back goes to the front of the actor's line.
        for ticket, order in reversed(actor.orders.items()):
            self._schedule.give_back(order)
            self._void.remember(actor.index, ticket, reason)
        self.ledger.drop_in_flight(reason, len(actor.orders))
        actor.orders.clear()
        actor.void_tickets.clear()
        if actor.void_evaluation:
            self.evaluations.ended()
            actor.void_evaluation = False
        if actor.evaluation is not None:
            lost = reason is DropReason.ACTOR_LOST
            (self.evaluations.give_back if lost else self.evaluations.give_up)(actor.evaluation)
            actor.evaluation = None

    def _void_everything(self, reason: DropReason) -> None:
        """Drops all that is outstanding. Actors at work stay occupied until they answer."""
        for actor in self._roster:
            for ticket in actor.orders:
                self._void.remember(actor.index, ticket, reason)
            actor.void_tickets.update(actor.orders)
            actor.orders.clear()
            actor.void_evaluation |= actor.evaluation is not None
            actor.evaluation = None
        self.ledger.drop_in_flight(reason, self.ledger.in_flight)
        self.ledger.drop_queued(reason, self.ledger.queued)
        self.evaluations.clear()

    def _dispatch(self) -> list[Effect]:
        """Hands out what may be started now."""
        effects: list[Effect] = []
        if self.finished or self.published_version is None:
            return effects
        for actor in self._roster.idle:
            while actor.wants_work and (message := self._work_for(actor)) is not None:
                effects.append(Send(actor.session, message))
            self._roster.note(actor)
        return effects

    def _work_for(self, actor: Actor) -> ActorMessage | None:
        request = self._evaluation_for(actor) if self.evaluations.due else None
        return request or self._ticket_for(actor) or self._evaluation_for(actor)

    def _evaluation_for(self, actor: Actor) -> Evaluate | None:
        if actor.busy or not self.evaluations.pending:
            return None
        evaluating = sum(other.evaluating for other in self._roster)
        actor.evaluation = task = self.evaluations.begin(evaluating, self.connected)
        return None if task is None else Evaluate(task.version, task.episodes)

    def _ticket_for(self, actor: Actor) -> Ticket | None:
        order = self._schedule.grant(self._next_ticket, actor.index, self._clock())
        if order is None:
            return None
        seed = order.reset_seed
        if seed is None and self._repeats(actor):
            seed = successor_seed(self._seed, self.ledger.produced)
        self._next_ticket += 1
        actor.orders[order.ticket] = order
        self.ledger.grant()
        return Ticket(
            id=order.ticket,
            policy_version=order.version,
            exact=order.exact,
            reset_seed=seed,
            weights_digest=b"",
            epoch=self.epoch,
        )

    def _repeats(self, actor: Actor) -> bool:
        """Whether what its process begins with was produced already, by the process before it."""
        return self._roster.succeeds(actor) or (self._resumed and not actor.begun)
