"""The parameter server's state under any interleaving: kills, restarts, skips, damage, delays.

A model of actors and of a learner drives the real state machine. The model trains, so it knows the
true staleness of every batch; after every step the ledger balances and the gate is not overdrawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from asyncrl_worker.parameter_server.effects import Close, Effect, Send
from asyncrl_worker.parameter_server.fence import LearnerId
from asyncrl_worker.parameter_server.schedule import Batch, HeldByLearner
from asyncrl_worker.parameter_server.state import ParameterServerState
from asyncrl_worker.parameter_server.validation import Arrival
from asyncrl_worker.protocol.errors import Fenced, MalformedMessage
from asyncrl_worker.protocol.messages import Ack, Evaluate, Ticket
from asyncrl_worker.staleness import Ledger, StalenessPolicy

ACTORS = 3
BATCH = 2


@dataclass
class ModelActor:
    index: int
    tickets: list[Ticket] = field(default_factory=list)
    evaluations: list[Evaluate] = field(default_factory=list)


@dataclass
class ModelLearner:
    attempt: int = 0
    version: int = 0
    start: int = 0
    published: int = -1
    held: dict[int, Batch] = field(default_factory=dict)
    settled: list[int] = field(default_factory=list)

    @property
    def id(self) -> LearnerId:
        return LearnerId(self.attempt, 0)


class World:
    """Actors and a learner around one parameter server, which may be replaced."""

    def __init__(self, policy: StalenessPolicy) -> None:
        self.policy = policy
        self.now = 0.0
        self.epoch = 0
        self.session = 0
        self.attempts = dict.fromkeys(range(ACTORS), 0)
        self.learner = ModelLearner()
        self.trained_staleness: list[int] = []
        self.actors: dict[int, ModelActor] = {}
        self.late: list[tuple[int, Ticket]] = []
        self.last_ledger: Ledger | None = None
        self.boot()
        self.hello()
        self.publish()

    def boot(self) -> None:
        self.epoch += 1
        self.state = ParameterServerState(
            self.policy, epoch=self.epoch, seed=7, clock=lambda: self.now
        )

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Close):
                self.actors.pop(effect.session, None)
            elif effect.session in self.actors:
                self.receive(self.actors[effect.session], effect)

    def receive(self, actor: ModelActor, effect: Send) -> None:
        if isinstance(effect.message, Ticket):
            assert not actor.tickets and not actor.evaluations, "one piece of work at a time"
            actor.tickets.append(effect.message)
        elif isinstance(effect.message, Evaluate):
            assert not actor.tickets and not actor.evaluations, "one piece of work at a time"
            actor.evaluations.append(effect.message)

    def join(self, index: int) -> None:
        self.session += 1
        effects = self.state.actor_joined(self.session, index, self.attempts[index])
        self.actors[self.session] = ModelActor(index)
        self.apply(effects)
        self.apply(self.state.actor_ready(self.session))

    def kill(self, session: int) -> None:
        actor = self.actors.pop(session)
        self.attempts[actor.index] += 1
        self.apply(self.state.actor_lost(session))

    def drop_connection(self, session: int) -> None:
        """The stream breaks, the actor lives on and delivers late."""
        actor = self.actors.pop(session)
        self.late += [(actor.index, ticket) for ticket in actor.tickets][-4:]
        self.apply(self.state.actor_lost(session))

    def deliver(self, session: int, ticket: Ticket, oldest: int, newest: int) -> Ack:
        arrival = Arrival(b"", oldest, newest)
        effects = self.state.fragment_arrived(session, ticket.epoch, ticket.id, arrival)
        assert isinstance(effects[0], Send)
        ack = effects[0].message
        assert isinstance(ack, Ack)
        self.apply(effects[1:])
        return ack

    def produce(self, session: int, newest: bool) -> None:
        actor = self.actors[session]
        ticket = actor.tickets.pop()
        version = ticket.policy_version
        if newest and not ticket.exact and self.state.published_version is not None:
            version = max(version, self.state.published_version)
        ack = self.deliver(session, ticket, ticket.policy_version, version)
        void = ack.reason.startswith("learner_restart")
        assert ack.accepted or void, ack

    def hello(self) -> None:
        learner = self.learner
        held = [HeldByLearner(b.id, b.size, b.version) for b in learner.held.values()]
        version = max(learner.version, learner.published)
        fresh = self.state.attempt != learner.attempt
        self.state.learner_hello(learner.id, version, self.last_ledger, held)
        if fresh:
            learner.start = version

    def saw_reply(self) -> None:
        """A reply carries the ledger: what the learner knows of a server that dies later."""
        self.last_ledger = self.state.ledger.copy()

    def publish(self, **options: bool) -> None:
        learner = self.learner
        learner.published = max(learner.version, learner.published)
        self.apply(
            self.state.published(
                learner.id,
                learner.published,
                evaluate_episodes=2 if options.get("evaluate") else 0,
                reset_environments=options.get("reset", False),
            )
        )
        self.saw_reply()

    def take(self) -> Batch | None:
        learner = self.learner
        batch, _, effects = self.state.next_batch(learner.id, list(learner.held))
        self.apply(effects)
        self.saw_reply()
        if batch is not None and batch.id not in learner.held:
            learner.held[batch.id] = batch
        return batch

    def settle(self, outcome: str, publish_first: bool) -> None:
        """Trains or drops the oldest held batch; publishes before or after saying so."""
        learner = self.learner
        batch_id, batch = next(iter(learner.held.items()))
        if outcome == "trained":
            self.train(batch)
            learner.version += 1
            if publish_first:
                self.publish()
        effects = self.state.consumed(learner.id, batch_id, outcome, learner.version)
        del learner.held[batch_id]
        learner.settled.append(batch_id)
        self.apply(effects)
        self.saw_reply()
        if outcome == "trained" and not publish_first:
            self.publish()

    def train(self, batch: Batch) -> None:
        """The oracle: staleness by the learner's own version, not by the server's belief."""
        lag = self.policy.exact_lag
        for queued in batch.fragments:
            staleness = self.learner.version - queued.arrival.oldest
            assert 0 <= staleness <= self.policy.bound
            if lag is not None:
                wanted = max(self.learner.start, self.learner.version - lag)
                assert queued.arrival.oldest == queued.arrival.newest == wanted
            self.trained_staleness.append(staleness)

    def restart_learner(self, back: int) -> None:
        old = self.learner
        version = max(0, old.version - back)
        self.learner = ModelLearner(attempt=old.attempt + 1, version=version)
        self.hello()
        assert self.state.ledger.queued == self.state.ledger.in_flight == 0
        self.publish()
        with pytest.raises(Fenced):
            self.state.consumed(old.id, 1, "trained", 1)

    def restart_server(self, survivors: list[int]) -> None:
        """kill -9: streams and memory are gone; some actors still hold an old ticket."""
        for actor in self.actors.values():
            self.late += [(actor.index, ticket) for ticket in actor.tickets][-4:]
        self.actors.clear()
        self.boot()
        for index in survivors:
            self.join(index)
        self.hello()
        self.publish()

    def check(self) -> None:
        state = self.state
        state.ledger.check()
        live = sum(len(actor.tickets) for actor in self.actors.values())
        assert state.ledger.in_flight <= live
        outstanding = state.ledger.queued + state.ledger.in_flight
        assert outstanding <= self.policy.outstanding_limit
        held = sum(batch.size for batch in self.learner.held.values())
        assert state.held_fragments == held

    def drain(self) -> None:
        """Honest work from here on must lead to a trained batch: no credit has leaked."""
        for index in range(ACTORS):
            if index not in {actor.index for actor in self.actors.values()}:
                self.join(index)
        before = len(self.trained_staleness)
        for _ in range(4 * self.policy.outstanding_limit + 20):
            for session, actor in list(self.actors.items()):
                if actor.tickets:
                    self.produce(session, newest=True)
                elif actor.evaluations:
                    request = actor.evaluations.pop()
                    self.apply(self.state.evaluation_arrived(session, request.version, [1.0], [1]))
            self.take()
            if self.learner.held:
                self.settle("trained", publish_first=True)
            self.check()
            if len(self.trained_staleness) > before + self.policy.outstanding_limit:
                return
        raise AssertionError("no batch is ever complete: credits leaked")


class ServerMachine(RuleBasedStateMachine):
    """Any order of events, on one of the policies."""

    @initialize(
        maximum=st.integers(0, 3),
        inject=st.sampled_from([None, None, 0, 1, 3]),
        on_stale=st.sampled_from(["drop", "wait"]),
    )
    def begin(self, maximum: int, inject: int | None, on_stale: str) -> None:
        self.world = World(
            StalenessPolicy(
                maximum=maximum,
                on_stale="drop" if on_stale == "drop" else "wait",
                inject=inject,
                fragments_per_batch=BATCH,
                replicas=ACTORS,
            )
        )

    def session(self, pick: int, *, working: bool) -> int | None:
        fitting = [s for s, a in self.world.actors.items() if a.tickets or not working]
        return fitting[pick % len(fitting)] if fitting else None

    @rule(index=st.integers(0, ACTORS - 1))
    def join(self, index: int) -> None:
        self.world.join(index)

    @rule(pick=st.integers(0, 9), newest=st.booleans())
    def produce(self, pick: int, newest: bool) -> None:
        session = self.session(pick, working=True)
        if session is not None:
            self.world.produce(session, newest)

    @rule(pick=st.integers(0, 9))
    def kill(self, pick: int) -> None:
        session = self.session(pick, working=False)
        if session is not None:
            self.world.kill(session)

    @rule(pick=st.integers(0, 9))
    def drop_connection(self, pick: int) -> None:
        session = self.session(pick, working=False)
        if session is not None:
            self.world.drop_connection(session)

    @rule(pick=st.integers(0, 9))
    def abandon(self, pick: int) -> None:
        session = self.session(pick, working=True)
        if session is not None:
            self.world.actors[session].tickets.clear()
            self.world.apply(self.world.state.actor_ready(session))

    @rule(pick=st.integers(0, 9))
    def damage(self, pick: int) -> None:
        session = self.session(pick, working=True)
        if session is not None:
            ticket = self.world.actors[session].tickets.pop()
            effects = self.world.state.fragment_arrived(
                session, ticket.epoch, ticket.id, MalformedMessage("damaged")
            )
            self.world.apply(effects)

    @rule(pick=st.integers(0, 9), forward=st.integers(1, 3), backward=st.booleans())
    def lie_about_the_version(self, pick: int, forward: int, backward: bool) -> None:
        session = self.session(pick, working=True)
        if session is None:
            return
        ticket = self.world.actors[session].tickets.pop()
        published = self.world.state.published_version
        lie = ticket.policy_version - 1 if backward else (published or 0) + forward
        assert not self.world.deliver(session, ticket, lie, lie).accepted

    @precondition(lambda self: self.world.late)
    @rule(pick=st.integers(0, 9))
    def deliver_late(self, pick: int) -> None:
        index, ticket = self.world.late.pop()
        for session, actor in self.world.actors.items():
            if actor.index == index:
                before = self.world.state.ledger.queued
                version = ticket.policy_version
                assert not self.world.deliver(session, ticket, version, version).accepted
                assert self.world.state.ledger.queued <= before
                return

    @rule(pick=st.integers(0, 9), ticket=st.integers(0, 200))
    def replay(self, pick: int, ticket: int) -> None:
        """A ticket number out of the blue, in the right epoch."""
        session = self.session(pick, working=False)
        world = self.world
        if session is None or ticket in {t.id for t in world.actors[session].tickets}:
            return
        invented = Ticket(ticket, 0, False, None, b"", world.epoch)
        assert not world.deliver(session, invented, 0, 0).accepted

    @rule()
    def take(self) -> None:
        self.world.take()

    @rule()
    def lose_the_reply_of_next_batch(self) -> None:
        """The server hands out a batch, the learner never sees it; it must come again."""
        world = self.world
        state = world.state
        batch, _, effects = state.next_batch(world.learner.id, list(world.learner.held))
        world.apply(effects)
        again = world.take()
        if batch is not None:
            assert again is batch

    @precondition(lambda self: self.world.learner.held)
    @rule(publish_first=st.booleans())
    def train(self, publish_first: bool) -> None:
        self.world.settle("trained", publish_first)

    @precondition(lambda self: self.world.learner.held)
    @rule(outcome=st.sampled_from(["skipped", "non_finite"]))
    def skip(self, outcome: str) -> None:
        self.world.settle(outcome, publish_first=False)

    @precondition(lambda self: self.world.learner.settled)
    @rule()
    def settle_twice(self) -> None:
        world = self.world
        before = world.state.ledger.copy()
        batch_id = world.learner.settled[-1]
        effects = world.state.consumed(world.learner.id, batch_id, "trained", world.learner.version)
        assert effects == [] and world.state.ledger == before

    @rule(eta=st.integers(0, 5))
    def pace(self, eta: int) -> None:
        self.world.apply(self.world.state.pace(self.world.learner.id, eta))
        assert self.world.state.eta <= self.world.policy.bound

    @rule(back=st.integers(0, 3))
    def restart_learner(self, back: int) -> None:
        self.world.restart_learner(back)

    @rule(survivors=st.lists(st.integers(0, ACTORS - 1), unique=True))
    def restart_server(self, survivors: list[int]) -> None:
        self.world.restart_server(survivors)
        self.world.learner.settled.clear()

    @rule()
    def hello_again(self) -> None:
        self.world.hello()

    @rule()
    def evaluate(self) -> None:
        self.world.state.evaluations.ask(max(self.world.learner.published, 0), 2)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.pace(self.world.policy.bound)
            self.world.drain()


TestServerMachine = ServerMachine.TestCase
TestServerMachine.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize(
    ("maximum", "inject", "on_stale"),
    [(4, None, "drop"), (4, None, "wait"), (0, None, "drop"), (4, 3, "drop")],
)
def test_a_thousand_random_kills_leak_no_credit(
    maximum: int, inject: int | None, on_stale: str
) -> None:
    world = World(
        StalenessPolicy(
            maximum=maximum,
            on_stale="drop" if on_stale == "drop" else "wait",
            inject=inject,
            fragments_per_batch=BATCH,
            replicas=ACTORS,
        )
    )
    dice = random.Random(11)
    for kill in range(1_000):
        for index in range(ACTORS):
            if index not in {actor.index for actor in world.actors.values()}:
                world.join(index)
        for session in list(world.actors):
            if world.actors[session].tickets and dice.random() < 0.4:
                world.produce(session, newest=dice.random() < 0.5)
        world.take()
        if world.learner.held and dice.random() < 0.7:
            world.settle("trained", publish_first=dice.random() < 0.5)
        if world.actors:
            world.kill(dice.choice(list(world.actors)))
        if kill % 100 == 99:
            world.restart_learner(back=dice.randrange(3))
        world.check()
    assert world.state.ledger.dropped["actor_lost"] > 100
    assert world.state.ledger.trained > 0
    world.drain()
