"""Scenarios of the parameter server's state, one promise each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from asyncrl_worker.parameter_server.effects import Close, Effect, Send
from asyncrl_worker.parameter_server.evaluations import PENDING_LIMIT, TRIES
from asyncrl_worker.parameter_server.fence import LearnerId
from asyncrl_worker.parameter_server.roster import ACTORS_LIMIT
from asyncrl_worker.parameter_server.schedule import HELD_LIMIT, Batch, HeldByLearner
from asyncrl_worker.parameter_server.state import MALFORMED_LIMIT, ParameterServerState
from asyncrl_worker.parameter_server.validation import Arrival
from asyncrl_worker.protocol.errors import Fenced, HelloRequired, MalformedMessage, Refused
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Refusal, Ticket
from asyncrl_worker.staleness import Ledger, StalenessPolicy, reset_seed

EPOCH = 99
SEED = 5


def process(attempt: int, incarnation: int = 0) -> LearnerId:
    """A process of the learner."""
    return LearnerId(attempt, incarnation)


def ledger_of(held: Sequence[HeldByLearner]) -> Ledger:
    """The books of a run that has produced nothing but what the learner holds."""
    fragments = sum(batch.fragments for batch in held)
    return Ledger(produced=fragments, queued=fragments)


class Server:
    """A state with `actors` ready actors and a learner that has published its first version."""

    def __init__(
        self,
        *,
        maximum: int = 2,
        inject: int | None = None,
        wait: bool = False,
        batch: int = 2,
        actors: int = 2,
        publish: bool = True,
        version: int = 0,
        held: Sequence[HeldByLearner] = (),
        join: bool = True,
    ) -> None:
        policy = StalenessPolicy(
            maximum=maximum,
            on_stale="wait" if wait else "drop",
            inject=inject,
            fragments_per_batch=batch,
            replicas=actors,
        )
        self.now = 0.0
        self.state = ParameterServerState(policy, epoch=EPOCH, seed=SEED, clock=lambda: self.now)
        self.sent: dict[int, list[object]] = {}
        self.closed: list[int] = []
        self.version = version
        for index in range(actors if join else 0):
            self.join(index + 1, index)
        self.state.learner_hello(process(0), version, ledger_of(held), held)
        if publish:
            self.publish(version)

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Close):
                self.closed.append(effect.session)
            else:
                assert isinstance(effect, Send)
                self.sent.setdefault(effect.session, []).append(effect.message)

    def join(self, session: int, index: int, attempt: int = 0) -> None:
        self.apply(self.state.actor_joined(session, index, attempt))
        self.apply(self.state.actor_ready(session))

    def last(self, session: int) -> object:
        return self.sent.get(session, [None])[-1]

    def tickets(self, session: int) -> list[Ticket]:
        return [m for m in self.sent.get(session, []) if isinstance(m, Ticket)]

    def acks(self, session: int) -> list[Ack]:
        return [m for m in self.sent.get(session, []) if isinstance(m, Ack)]

    def deliver(self, session: int, version: int | None = None) -> Ack:
        ticket = self.tickets(session)[-1]
        version = ticket.policy_version if version is None else version
        arrival = Arrival(b"x", version, version)
        self.apply(self.state.fragment_arrived(session, EPOCH, ticket.id, arrival))
        return self.acks(session)[-1]

    def publish(self, version: int, **options: int) -> None:
        self.version = version
        self.apply(
            self.state.published(
                process(self.state.attempt or 0),
                version,
                evaluate_episodes=options.get("evaluate", 0),
                reset_environments=bool(options.get("reset", 0)),
            )
        )

    def take(self, held: list[int] | None = None) -> Batch | None:
        batch, _, effects = self.state.next_batch(process(self.state.attempt or 0), held or [])
        self.apply(effects)
        return batch

    def consume(self, batch: Batch, outcome: str, version: int) -> None:
        learner = process(self.state.attempt or 0)
        self.apply(self.state.consumed(learner, batch.id, outcome, version))

    def advance(self, version: int) -> None:
        """One update, which makes `version`."""
        self.fill(sorted(self.sent))
        batch = self.take()
        assert batch is not None
        self.publish(version)
        self.consume(batch, "trained", version)

    def fill(self, sessions: list[int]) -> int:
        """Delivers until nobody gets another ticket; returns how many fragments that took."""
        count = 0
        while True:
            working = [s for s in sessions if isinstance(self.last(s), Ticket)]
            if not working:
                return count
            self.deliver(working[0])
            count += 1


@pytest.mark.parametrize("eta", [1, 2, 7])
def test_the_gate_opens_for_exactly_eta_plus_one_batches(eta: int) -> None:
    server = Server(maximum=eta, batch=3)
    assert server.fill([1, 2]) == (eta + 1) * 3
    assert server.state.ledger.queued == (eta + 1) * 3
    batch = server.take()
    assert batch is not None
    assert server.fill([1, 2]) == 0, "a batch in the learner's hands still counts"
    server.consume(batch, "trained", 1)
    assert server.fill([1, 2]) == 0, "its version cannot be fetched yet"
    server.publish(1)
    assert server.fill([1, 2]) == 3


@pytest.mark.parametrize("version", [0, 1, 40])
def test_after_a_learner_restart_the_gate_opens_for_exactly_eta_plus_one_batches(
    version: int,
) -> None:
    server = Server(maximum=2, batch=2)
    for step in range(1, 30):
        server.fill([1, 2])
        batch = server.take()
        assert batch is not None
        server.publish(step)
        server.consume(batch, "trained", step)
    server.fill([1, 2])
    held = server.take()
    assert held is not None
    before = server.state.ledger.copy()
    server.state.learner_hello(process(1), version, None, [])
    after = server.state.ledger
    assert after.dropped["learner_restart"] == before.queued + before.in_flight
    assert server.fill([1, 2]) == 0, "nothing starts before the new attempt has published"
    server.publish(version)
    assert server.fill([1, 2]) == 6
    assert all(t.policy_version == version for t in server.tickets(1)[-3:])


def test_a_skipped_batch_opens_the_gate_without_a_new_version() -> None:
    server = Server(maximum=1, batch=2)
    server.fill([1, 2])
    batch = server.take()
    assert batch is not None
    server.consume(batch, "skipped", 0)
    assert server.fill([1, 2]) == 2
    assert server.state.ledger.dropped == {"skipped": 2}


def test_pace_narrows_the_gate_and_never_widens_it() -> None:
    server = Server(maximum=3, batch=2, publish=False)
    server.apply(server.state.pace(process(0), 1))
    server.publish(0)
    assert server.fill([1, 2]) == 4
    server.apply(server.state.pace(process(0), 50))
    assert server.state.eta == 3
    assert server.fill([1, 2]) == 4


def test_a_new_learner_is_not_held_to_the_pace_of_the_one_before() -> None:
    """It may go on from a checkpoint that is older than the pace."""
    server = Server(maximum=8, batch=2, publish=False)
    server.apply(server.state.pace(process(0), 1))
    server.state.learner_hello(process(0), 0, None, [])
    assert server.state.eta == 1, "the same process again: nothing changes"
    server.state.learner_hello(process(1), 0, None, [])
    server.publish(0)
    assert server.state.eta == 8
    assert server.fill([1, 2]) == 9 * 2


def test_drop_forms_batches_in_arrival_order_and_drops_what_is_stale() -> None:
    server = Server(maximum=1, batch=1, actors=2)
    slow = server.tickets(1)[0]
    for step in range(1, 4):
        server.deliver(2)
        batch = server.take()
        assert batch is not None and batch.staleness == [0]
        server.publish(step)
        server.consume(batch, "trained", step)
    arrival = Arrival(b"x", slow.policy_version, slow.policy_version)
    server.apply(server.state.fragment_arrived(1, EPOCH, slow.id, arrival))
    assert server.acks(1)[-1].accepted, "staleness is judged when it would be trained"
    assert server.take() is None
    assert server.state.ledger.dropped == {"stale": 1}
    assert isinstance(server.last(1), Ticket), "its credit is back"


def test_wait_forms_batches_in_ticket_order_and_drops_nothing() -> None:
    server = Server(maximum=2, batch=1, actors=2, wait=True)
    server.deliver(2)
    assert server.take() is None, "the older ticket is still running"
    server.deliver(1)
    order = [server.take(), server.take(held=[1])]
    assert [b.fragments[0].order.ticket for b in order if b is not None] == [1, 2]
    assert server.state.ledger.dropped == {}


def test_wait_goes_on_without_the_ticket_of_a_dead_actor() -> None:
    server = Server(maximum=2, batch=1, actors=2, wait=True)
    server.deliver(2)
    server.apply(server.state.actor_lost(1))
    batch = server.take()
    assert batch is not None and batch.fragments[0].order.ticket == 2
    assert server.state.ledger.dropped == {"actor_lost": 1}


def test_a_lost_actors_credit_goes_to_another_at_once() -> None:
    server = Server(maximum=1, batch=1, actors=3)
    assert not server.tickets(3), "the gate is open for two"
    server.apply(server.state.actor_lost(1))
    assert len(server.tickets(3)) == 1


def test_an_actors_newer_stream_replaces_the_older_one() -> None:
    server = Server(actors=2)
    server.join(10, 0, attempt=1)
    assert server.closed == [1]
    assert server.state.ledger.dropped == {"actor_lost": 1}
    assert isinstance(server.last(10), Ticket)
    server.join(11, 0, attempt=0)
    refusal = server.sent[11][0]
    assert isinstance(refusal, Refusal) and "replaced by attempt 1" in refusal.reason
    assert 11 in server.closed and server.state.connected == 2


class TestSuccessors:
    """Processes with the command line of those that they replace."""

    def join(self, server: Server, session: int, process: int, *, begun: bool = False) -> Ticket:
        server.apply(server.state.actor_joined(session, 0, 0, incarnation=process, begun=begun))
        server.apply(server.state.actor_ready(session))
        return server.tickets(session)[-1]

    @pytest.fixture(params=[None, 1], ids=["bounded", "exact"])
    def server(self, request: pytest.FixtureRequest) -> Server:
        return Server(inject=request.param, actors=1, join=False, batch=1)

    def test_the_first_process_begins_with_its_own_seeds(self, server: Server) -> None:
        assert self.join(server, 1, 71).reset_seed is None
        server.deliver(1)
        assert self.join(server, 2, 71, begun=True).reset_seed is None, "it only reconnected"

    def test_a_successor_gets_another_seed_until_it_has_delivered(self, server: Server) -> None:
        self.join(server, 1, 71)
        seed = self.join(server, 2, 72).reset_seed
        assert seed is not None
        again = self.join(server, 3, 72).reset_seed
        assert again is not None, "the ticket with the seed may not have arrived"
        server.deliver(3)
        assert all(ticket.reset_seed is None for ticket in server.tickets(3)[1:])
        server.fill([3])
        third = self.join(server, 4, 73) if server.state.admissible else None
        assert third is None or third.reset_seed not in (None, seed, again)

    def test_a_predecessor_is_not_let_in_again(self, server: Server) -> None:
        self.join(server, 1, 71)
        self.join(server, 2, 72)
        server.apply(server.state.actor_joined(3, 0, 0, incarnation=71, begun=True))
        refusal = server.last(3)
        assert isinstance(refusal, Refusal)
        assert refusal.fenced
        assert 3 in server.closed
        assert server.state.rejected["fenced"] == 1
        assert server.state.connected == 1

    def test_a_resumed_exact_run_resets_as_its_checkpoint_says(self) -> None:
        """New processes too: the run is a function of its seed."""
        server = Server(inject=0, actors=1, join=False, batch=1, version=8, publish=False)
        server.publish(8, reset=1)
        assert self.join(server, 1, 71).reset_seed == reset_seed(SEED, 8)
        server.deliver(1)
        batch = server.take()
        assert batch is not None
        server.publish(9)
        server.consume(batch, "trained", 9)
        assert server.tickets(1)[-1].reset_seed is None

    def test_after_a_server_restart_survivors_go_on_and_new_processes_get_a_seed(self) -> None:
        for begun in (True, False):
            server = Server(actors=1, join=False, version=8)
            assert (self.join(server, 1, 71, begun=begun).reset_seed is None) == begun


def test_an_absurd_actor_index_is_refused() -> None:
    server = Server()
    server.join(10, ACTORS_LIMIT)
    assert isinstance(server.last(10), Refusal)
    assert server.state.connected == 2


def test_a_late_fragment_of_a_lost_stream_is_refused_and_counted_once() -> None:
    server = Server(actors=2)
    ticket = server.tickets(1)[0]
    server.apply(server.state.actor_lost(1))
    server.join(10, 0)
    produced = server.state.ledger.produced
    arrival = Arrival(b"x", 0, 0)
    server.apply(server.state.fragment_arrived(10, EPOCH, ticket.id, arrival))
    ack = server.acks(10)[-1]
    assert not ack.accepted and ack.reason.startswith("actor_lost")
    assert server.state.ledger.dropped == {"actor_lost": 1}
    assert server.state.ledger.produced == produced


def test_a_duplicate_is_refused_and_counted() -> None:
    server = Server(actors=2)
    ticket = server.tickets(1)[0]
    server.deliver(1)
    arrival = Arrival(b"x", 0, 0)
    server.apply(server.state.fragment_arrived(1, EPOCH, ticket.id, arrival))
    assert server.acks(1)[-1].reason.startswith("duplicate")
    assert server.state.ledger.dropped == {"duplicate": 1}
    assert server.state.ledger.queued == 1


@pytest.mark.parametrize("ticket", [2, 77, 0])
def test_a_ticket_of_somebody_else_or_of_nobody_is_refused(ticket: int) -> None:
    server = Server(actors=2)
    arrival = Arrival(b"x", 0, 0)
    server.apply(server.state.fragment_arrived(1, EPOCH, ticket, arrival))
    assert server.acks(1)[-1].reason.startswith("malformed")
    assert server.deliver(2).accepted, "the owner's ticket is untouched"


def test_a_fragment_of_another_epoch_is_refused_and_counted() -> None:
    server = Server(actors=2)
    arrival = Arrival(b"x", 0, 0)
    server.apply(server.state.fragment_arrived(1, EPOCH - 1, 1, arrival))
    assert server.acks(1)[-1].reason.startswith("epoch")
    assert server.state.ledger.dropped == {"epoch": 1}
    assert server.deliver(1).accepted


def test_a_version_that_does_not_fit_the_ticket_is_refused() -> None:
    server = Server(maximum=4, actors=2)
    server.publish(1)
    assert "does not exist" in server.deliver(1, version=2).reason
    server.publish(2)
    assert server.deliver(2, version=2).accepted, "newer than asked for is welcome"
    ticket = server.tickets(1)[-1]
    assert ticket.policy_version == 1
    assert "older than the ticket" in server.deliver(1, version=0).reason
    exact = Server(inject=1, actors=2)
    exact.advance(1)
    assert [t.policy_version for t in exact.tickets(1)] == [0, 0, 1]
    assert "exactly 1" in exact.deliver(1, version=0).reason


def test_an_actor_that_only_sends_garbage_is_refused() -> None:
    server = Server(maximum=8, actors=2)
    for _ in range(MALFORMED_LIMIT):
        ticket = server.tickets(1)[-1]
        server.apply(
            server.state.fragment_arrived(1, EPOCH, ticket.id, MalformedMessage("rewards: NaN"))
        )
    refusal = server.sent[1][-1]
    assert isinstance(refusal, Refusal) and "rewards: NaN" in refusal.reason
    assert server.closed == [1] and server.state.connected == 1
    assert server.state.ledger.dropped == {"malformed": MALFORMED_LIMIT}
    assert server.state.rejected == Counter(malformed=MALFORMED_LIMIT)


def test_a_batch_whose_reply_got_lost_comes_again() -> None:
    server = Server(batch=1, actors=2)
    server.fill([1, 2])
    first = server.take()
    assert first is not None
    assert server.take(held=[]) is first
    second = server.take(held=[first.id])
    assert second is not None and second is not first


def test_the_learner_may_hold_a_bounded_number_of_batches() -> None:
    server = Server(maximum=HELD_LIMIT + 3, batch=1, actors=2)
    server.fill([1, 2])
    held: list[int] = []
    while (batch := server.take(held)) is not None:
        held.append(batch.id)
    assert len(held) == HELD_LIMIT


def test_older_learners_are_fenced_and_newer_ones_must_introduce_themselves() -> None:
    server = Server()
    state = server.state
    state.learner_hello(process(3, 71), 0, None, [])
    state.learner_hello(process(3, 72), 0, None, [])
    for learner, error in (
        (process(2, 72), Fenced),
        (process(3, 71), Fenced),
        (process(3, 73), HelloRequired),
        (process(4, 72), HelloRequired),
    ):
        with pytest.raises(error):
            state.check(learner)
        with pytest.raises(error):
            state.published(learner, 5, evaluate_episodes=0, reset_environments=False)
        with pytest.raises(error):
            state.next_batch(learner, [])
        with pytest.raises(error):
            state.consumed(learner, 1, "trained", 1)
        with pytest.raises(error):
            state.pace(learner, 0)
        with pytest.raises(error):
            state.awaits_evaluations(learner)
        with pytest.raises(error):
            state.finish(learner)
    with pytest.raises(Fenced):
        state.learner_hello(process(2, 72), 0, None, [])


def test_a_later_process_of_the_same_attempt_begins_anew_and_fences_its_predecessor() -> None:
    server = Server(maximum=2)
    server.fill([1, 2])
    state = server.state
    state.learner_hello(process(0, 0), 0, None, [])
    assert state.ledger.queued == 6, "it only reconnected"
    state.learner_hello(process(0, 72), 4, None, [])
    assert state.ledger.dropped == {"learner_restart": 6}
    with pytest.raises(Fenced, match="attempt 0: this process was replaced"):
        state.learner_hello(process(0, 0), 0, None, [])
    with pytest.raises(Fenced, match="attempt 0: this process was replaced"):
        state.check(process(0, 0))
    with pytest.raises(HelloRequired):
        state.check(process(0, 73))
    state.check(process(0, 72))
    server.apply(state.published(process(0, 72), 4, evaluate_episodes=0, reset_environments=False))
    assert server.fill([1, 2]) == 6, "the gate is open again"
    state.learner_hello(process(1, 0), 0, None, [])
    state.check(process(1, 0))
    with pytest.raises(Fenced, match="attempt 0 was replaced by attempt 1"):
        state.check(process(0, 72))


def test_what_the_learner_says_is_checked() -> None:
    server = Server(batch=1)
    server.fill([1, 2])
    batch = server.take()
    assert batch is not None
    with pytest.raises(Refused, match="neither"):
        server.consume(batch, "eaten", 1)
    with pytest.raises(Refused, match="never handed out"):
        server.state.consumed(process(0), 50, "trained", 1)
    with pytest.raises(Refused, match="not newer"):
        server.publish(0)
    exact = Server(maximum=0)
    with pytest.raises(Refused, match="must be 1"):
        exact.publish(2)
    with pytest.raises(Refused, match="not handed out"):
        exact.publish(1)


def test_a_restarted_server_takes_over_the_ledger_and_the_held_batch() -> None:
    last = Ledger(produced=20, trained=10, dropped={"stale": 2}, queued=5, in_flight=3)
    server = Server(maximum=1, batch=2, publish=False, actors=2)
    fresh = ParameterServerState(server.state.policy, epoch=EPOCH, seed=SEED, clock=lambda: 0.0)
    server.state = fresh
    for session in (1, 2):
        server.join(session, session - 1)
    fresh.learner_hello(process(4), 7, last, [HeldByLearner(31, 2, 7)])
    assert fresh.ledger.dropped == {"stale": 2, "parameter_server_restart": 6}
    assert (fresh.ledger.trained, fresh.ledger.queued) == (10, 2)
    server.publish(7)
    assert server.fill([1, 2]) == 2, "the held batch counts against the gate"
    server.apply(fresh.consumed(process(4), 31, "trained", 8))
    assert fresh.ledger.trained == 12
    server.publish(8)
    assert server.fill([1, 2]) == 2
    batch = server.take()
    assert batch is not None and batch.id == 32


def test_late_work_for_an_older_learner_occupies_the_actor_until_it_answers() -> None:
    server = Server(actors=2)
    server.state.learner_hello(process(1), 0, None, [])
    server.publish(0)
    assert len(server.tickets(1)) == 1, "busy with what nobody wants any more"
    ack = server.deliver(1)
    assert not ack.accepted and ack.reason.startswith("learner_restart")
    assert len(server.tickets(1)) == 2
    assert server.state.ledger.dropped == {"learner_restart": 2}


def test_exact_deals_round_robin_and_trains_every_batch_exactly_late() -> None:
    server = Server(inject=2, batch=2, actors=3)
    trained = []
    for version in range(8):
        server.fill([1, 2, 3])
        batch = server.take()
        assert batch is not None and batch.version == version
        assert [q.order.actor for q in batch.fragments] == [
            (2 * version) % 3,
            (2 * version + 1) % 3,
        ]
        trained.append({q.arrival.oldest for q in batch.fragments})
        server.publish(version + 1)
        server.consume(batch, "trained", version + 1)
    assert trained == [{0}, {0}, {0}, {1}, {2}, {3}, {4}, {5}]


def test_exact_repeats_a_skipped_batch_with_the_same_version_before_the_next() -> None:
    server = Server(inject=1, batch=2, actors=2, version=3)
    server.fill([1, 2])
    first = server.take()
    assert first is not None
    server.consume(first, "skipped", 3)
    assert server.take() is None, "the repetition comes first"
    server.fill([1, 2])
    again = server.take()
    assert again is not None and (again.version, again.staleness) == (3, [0, 0])
    server.publish(4)
    server.consume(again, "trained", 4)
    server.fill([1, 2])
    batch = server.take()
    assert batch is not None and (batch.version, batch.staleness) == (4, [1, 1])


@pytest.mark.parametrize("lag", [0, 2])
def test_exact_does_not_deal_what_the_learner_holds_when_the_server_is_restarted(lag: int) -> None:
    server = Server(inject=lag, publish=False, actors=2, version=5, held=[HeldByLearner(9, 2, 5)])
    server.publish(5)
    assert server.fill([1, 2]) == 2 * lag, "the batches after the held one, and not that one"
    server.apply(server.state.consumed(process(0), 9, "trained", 6))
    server.publish(6)
    server.advance(7)
    server.advance(8)


def test_exact_deals_a_dead_actors_ticket_to_its_successor() -> None:
    server = Server(maximum=0, batch=2, actors=2)
    before = server.tickets(1)[-1]
    server.apply(server.state.actor_lost(1))
    server.deliver(2)
    assert server.take() is None
    server.join(10, 0, attempt=1)
    again = server.tickets(10)[0]
    assert again.policy_version == before.policy_version and again.id != before.id
    server.deliver(10)
    batch = server.take()
    assert batch is not None and [q.order.actor for q in batch.fragments] == [0, 1]


def test_exact_ignores_actors_beyond_the_replicas() -> None:
    server = Server(maximum=0, batch=2, actors=2)
    server.join(10, 2)
    assert not server.tickets(10)


def test_a_reset_goes_to_the_first_next_ticket_of_every_actor() -> None:
    server = Server(maximum=0, batch=3, actors=2)
    server.fill([1, 2])
    batch = server.take()
    assert batch is not None
    server.publish(1, reset=1)
    server.consume(batch, "trained", 1)
    server.fill([1, 2])
    seeds = {s: [t.reset_seed for t in server.tickets(s)] for s in (1, 2)}
    assert seeds[1] == [None, None, reset_seed(SEED, 1)]
    assert seeds[2] == [None, reset_seed(SEED, 1), None]


def test_a_redealt_ticket_keeps_its_reset() -> None:
    server = Server(maximum=0, batch=2, actors=2, publish=False)
    server.publish(0, reset=1)
    server.apply(server.state.actor_lost(1))
    server.join(10, 0, attempt=1)
    assert server.tickets(10)[0].reset_seed == reset_seed(SEED, 0)


def test_exact_needs_the_versions_of_its_lag_and_bounded_the_newest_two() -> None:
    exact = Server(inject=2, actors=2)
    for version in range(1, 6):
        exact.advance(version)
    assert {2, 3, 4, 5} <= exact.state.needed_versions
    bounded = Server(maximum=4, actors=2)
    bounded.publish(5)
    assert bounded.state.needed_versions == {4, 5}


class TestEvaluationsBesideTraining:
    """However long evaluations take, a learner that can be served is served."""

    SECONDS = 30.0
    """What an evaluation takes before its actor gives it up; a fragment takes one second."""

    @pytest.mark.parametrize("actors", [1, 2, 3, 8])
    @pytest.mark.parametrize(
        ("maximum", "inject", "wait"),
        [(0, None, False), (4, 0, False), (4, 5, False), (1, None, False), (8, None, True)],
    )
    def test_no_batch_waits_for_more_than_the_rest_of_one_evaluation(
        self, maximum: int, inject: int | None, wait: bool, actors: int
    ) -> None:
        """Every version is evaluated, every evaluation is endless."""
        server = Server(maximum=maximum, inject=inject, wait=wait, batch=4, actors=actors)
        given_up = self.work(server, until=1200.0, limit=self.SECONDS + 6 * 4)
        assert given_up >= 1200 / self.SECONDS / 2, "the evaluations are not starved either"

    def work(self, server: Server, *, until: float, limit: float) -> int:
        """Actors and a learner at work; how many evaluations were abandoned."""
        due: dict[int, float] = {}  # session -> when it is done with what it was sent last
        asked: dict[int, object] = {}
        abandoned, trained_at = 0, 0.0
        sessions = range(1, server.state.connected + 1)
        while server.now < until:
            for session in sessions:
                message = server.last(session)
                if isinstance(message, Ticket | Evaluate) and asked.get(session) is not message:
                    asked[session] = message
                    slow = isinstance(message, Evaluate)
                    due[session] = server.now + (self.SECONDS if slow else 1.0)
            evaluating = sum(isinstance(asked.get(session), Evaluate) for session in due)
            assert evaluating < max(2, len(sessions)), "one at least is left for training"
            session = min(due, key=lambda session: due[session])
            server.now = due.pop(session)
            if isinstance(asked[session], Ticket):
                server.deliver(session)
            else:
                abandoned += 1
                server.apply(server.state.actor_ready(session))
            while (batch := server.take()) is not None:
                assert server.now - trained_at <= limit, "training starves"
                trained_at = server.now
                server.publish(server.version + 1, evaluate=2)
                server.consume(batch, "trained", server.version)
        assert server.now - trained_at <= limit, "training starves"
        return abandoned

    def test_one_that_is_abandoned_is_given_up(self) -> None:
        server = Server(maximum=4, actors=1, publish=False)
        server.publish(0, evaluate=3)
        assert server.last(1) == Evaluate(0, 3)
        server.apply(server.state.actor_ready(1))
        server.fill([1])
        assert server.take() is not None
        assert [m for m in server.sent[1] if isinstance(m, Evaluate)] == [Evaluate(0, 3)]
        assert server.state.evaluations.given_up == 1

    def test_an_actor_without_other_work_does_not_wait_for_a_batch(self) -> None:
        server = Server(maximum=1, batch=2, actors=1, publish=False)
        server.publish(0, evaluate=3)
        server.publish(1, evaluate=3)
        server.apply(server.state.evaluation_arrived(1, 0, [1.0], [1]))
        assert isinstance(server.last(1), Ticket), "a batch comes first"
        server.fill([1])
        assert server.last(1) == Evaluate(1, 3), "the gate is closed"

    def test_what_nobody_wants_any_more_counts_while_it_occupies_its_actor(self) -> None:
        server = Server(maximum=1, batch=2, actors=2, publish=False)
        server.publish(0, evaluate=3)
        server.state.learner_hello(process(1), 0, None, [])
        server.publish(0, evaluate=2)
        assert not server.tickets(1) and isinstance(server.last(2), Ticket)
        server.apply(server.state.evaluation_arrived(1, 0, [1.0], [1]))
        assert isinstance(server.last(1), Ticket), "a batch comes first"
        assert server.state.results(0) == []


def test_an_evaluation_goes_to_the_next_free_actor_and_pins_its_version() -> None:
    server = Server(maximum=4, actors=2)
    server.publish(1, evaluate=3)
    server.publish(6)
    server.deliver(1, version=1)
    assert server.last(1) == Evaluate(1, 3)
    assert 1 in server.state.needed_versions
    server.apply(server.state.evaluation_arrived(1, 1, [9.0, 8.0, 7.0], [9, 8, 7]))
    assert isinstance(server.last(1), Ticket)
    (result,) = server.state.results(0)
    assert (result.number, result.version, result.returns) == (1, 1, (9.0, 8.0, 7.0))
    assert server.state.results(1) == []


@pytest.mark.parametrize(
    ("returns", "lengths"),
    [([], []), ([1.0], []), ([1.0] * 4, [1] * 4), ([float("nan")], [1])],
)
def test_an_evaluation_that_is_none_is_rejected(returns: list[float], lengths: list[int]) -> None:
    server = Server(maximum=4, actors=2, publish=False)
    server.publish(0, evaluate=3)
    session = next(s for s in (1, 2) if isinstance(server.last(s), Evaluate))
    server.apply(server.state.evaluation_arrived(session, 0, returns, lengths))
    assert server.state.results(0) == []
    assert server.state.evaluations.given_up == 1
    assert isinstance(server.last(session), Ticket)


def test_a_lost_evaluation_is_tried_again_but_not_for_ever() -> None:
    server = Server(maximum=4, actors=1, publish=False)
    server.publish(0, evaluate=3)
    session = 1
    for attempt in range(1, TRIES):
        assert server.last(session) == Evaluate(0, 3)
        server.apply(server.state.actor_lost(session))
        session += 1
        server.join(session, 0, attempt)
        server.fill([session])
    server.apply(server.state.actor_lost(session))
    server.join(session + 1, 0, TRIES)
    assert not isinstance(server.last(session + 1), Evaluate)
    assert (server.state.evaluations.pending, server.state.evaluations.given_up) == (0, 1)


def test_waiting_evaluations_are_bounded_and_the_newest_survive() -> None:
    server = Server(maximum=4, actors=1)
    for version in range(1, 10):
        server.publish(version, evaluate=1)
    waiting = server.state.evaluations.pending_versions
    assert waiting == list(range(10 - PENDING_LIMIT, 10))
    assert server.state.evaluations.given_up == 9 - PENDING_LIMIT


def test_finish_drains_everybody_and_closes_the_ledger() -> None:
    server = Server(maximum=2, batch=2, actors=2)
    server.deliver(1)
    server.apply(server.state.finish(process(0)))
    assert [server.last(s) for s in (1, 2)] == [Drain(), Drain()]
    ledger = server.state.ledger
    assert ledger.queued == ledger.in_flight == 0
    assert ledger.dropped == {"finished": ledger.produced}
    server.join(10, 5)
    assert server.last(10) == Drain()
    assert server.state.finish(process(0)) == []
