"""The parameter server over a real socket, with the real clients of both sides."""

from __future__ import annotations

import math
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from unit.parameter_server.live_server import (
    DEADLINE,
    ENVIRONMENTS,
    SCHEMA,
    STEPS,
    LiveServer,
    fragment,
    policy,
)

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.actor_client import ActorStream
from asyncrl_worker.protocol.channel import MAX_MESSAGE_BYTES, TRANSPORT_BYTES
from asyncrl_worker.protocol.errors import (
    Fenced,
    MalformedMessage,
    PeerUnavailable,
    Refused,
    WeightsGone,
)
from asyncrl_worker.protocol.learner_client import BatchMessage, LearnerClient
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Schema, Ticket

BLOB = bytes(range(256)) * 40


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path / 'ps.sock'}"


ATTEMPTS = pytest.mark.parametrize(
    ("successor", "words"),
    [(1, "replaced by attempt 1"), (0, "this process was replaced by a later one")],
    ids=["a later attempt", "the same attempt"],
)
"""A restarted container has its predecessor's command line; a restarted pod may have another."""


@pytest.fixture
def server(address: str) -> Iterator[LiveServer]:
    with LiveServer(address, policy()) as server:
        yield server


def learner(address: str, **options: object) -> LearnerClient:
    settings = {"attempt": 0, "schema": SCHEMA, "deadline": DEADLINE} | options
    return LearnerClient(address, **settings)  # type: ignore[arg-type]


def actor(address: str, index: int = 0, **options: object) -> ActorStream:
    settings = {"attempt": 0, "schema": SCHEMA, "deadline": DEADLINE} | options
    return ActorStream(address, actor_index=index, **settings)  # type: ignore[arg-type]


def ticket(stream: ActorStream) -> Ticket:
    message = stream.receive(DEADLINE)
    assert isinstance(message, Ticket), message
    return message


def ack(stream: ActorStream) -> Ack:
    message = stream.receive(DEADLINE)
    assert isinstance(message, Ack), message
    return message


def deliver(stream: ActorStream, granted: Ticket, **changes: object) -> Ack:
    stream.send_fragment(granted, fragment(granted.policy_version, **changes))
    return ack(stream)


def batch(client: LearnerClient) -> BatchMessage:
    message = client.next_batch(DEADLINE)
    assert message is not None
    return message


def test_a_fragment_goes_from_actor_to_learner_and_a_version_comes_back(
    server: LiveServer, address: str
) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB)
        sent: list[bytes] = []
        for _ in range(2):
            granted = ticket(stream)
            weights = stream.weights(None)
            assert weights is not None and bytes(weights.data) == BLOB
            assert weights.digest == granted.weights_digest
            sent.append(fragment(granted.policy_version, rewards=_rewards(len(sent))))
            stream.send_fragment(granted, sent[-1])
            assert ack(stream).accepted
        received = batch(client)
        assert received.fragments == sent
        assert received.tickets == [1, 2]
        assert received.version == 0
        assert received.ledger.queued == 2
        client.publish(1, BLOB[::-1])
        client.consumed(received.batch_id, "trained")
        assert client.ledger.trained == 2
        granted = ticket(stream)
        assert deliver(stream, granted).accepted
        assert ticket(stream).policy_version == 1
        assert client.finish().dropped == {"finished": 2}
        assert any(isinstance(message, Drain) for message in stream)


def _rewards(value: int) -> np.ndarray:
    return np.full((STEPS, ENVIRONMENTS), value, np.float32)


def test_the_socket_is_private(server: LiveServer, address: str) -> None:
    mode = Path(address.removeprefix("unix:")).stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rewards": np.full((STEPS, ENVIRONMENTS), np.nan, np.float32)}, "rewards"),
        ({"actions": np.full((STEPS, ENVIRONMENTS), 2, np.int64)}, "actions"),
        ({"actions": np.zeros((STEPS, ENVIRONMENTS), np.int32)}, "actions"),
        ({"observations": np.zeros((STEPS, ENVIRONMENTS, 4), np.float32)}, "observations"),
        ({"valid": None}, "valid"),
        ({"extra": np.zeros(1, np.float32)}, "extra"),
        ({"policy_versions": np.array([0, 0, 9])}, "does not exist"),
        ({"policy_versions": np.array([0, 1, 0])}, "decrease"),
    ],
)
def test_a_malformed_fragment_is_refused_counted_and_its_credit_returns(
    server: LiveServer, address: str, changes: dict[str, object], reason: str
) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB)
        refusal = deliver(stream, ticket(stream), **changes)
        assert not refusal.accepted
        assert refusal.reason.startswith("malformed") and reason in refusal.reason
        assert deliver(stream, ticket(stream)).accepted
        ledger = server.look(lambda state: state.ledger.copy())
        assert ledger.dropped == {"malformed": 1}
        assert (ledger.queued, ledger.in_flight) == (1, 1)


def test_a_damaged_truncated_or_foreign_message_is_refused(
    server: LiveServer, address: str
) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB)
        good = fragment(0)
        for tensors in (good[:-1], b"", b"\x80\x04K\x01.", good + bytes(5_000)):
            stream.send_fragment(ticket(stream), tensors)
            assert ack(stream).reason.startswith("malformed")
        granted = ticket(stream)
        message = pb.FragmentMessage(
            epoch=granted.epoch, ticket=granted.id, tensors=good, digest=12345
        )
        stream._send(pb.ActorMessage(fragment=message))
        assert "digest" in ack(stream).reason
        assert server.look(lambda state: dict(state.rejected)) == {"malformed": 5}


def test_an_actor_does_not_send_an_oversized_fragment(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB)
        granted = ticket(stream)
        with pytest.raises(MalformedMessage, match="fragmentLength"):
            stream.send_fragment(granted, bytes(MAX_MESSAGE_BYTES))
        assert deliver(stream, granted).accepted


@pytest.fixture
def careless(
    server: LiveServer, address: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ActorStream]:
    """An actor whose channel sends messages of any size."""
    monkeypatch.setattr("asyncrl_worker.protocol.channel.MAX_MESSAGE_BYTES", 1 << 30)
    with actor(address) as stream:
        yield stream


def send_bytes(stream: ActorStream, granted: Ticket, size: int) -> None:
    message = pb.FragmentMessage(epoch=granted.epoch, ticket=granted.id, tensors=bytes(size))
    stream._send(pb.ActorMessage(fragment=message))


def test_an_oversized_message_is_refused_with_a_reason_and_counted(
    server: LiveServer, address: str, careless: ActorStream
) -> None:
    with learner(address) as client:
        client.publish(0, BLOB)
        size = TRANSPORT_BYTES - 1024
        assert size > MAX_MESSAGE_BYTES
        send_bytes(careless, ticket(careless), size)
        assert f"{size} bytes exceed the limit" in ack(careless).reason
        assert server.look(lambda state: dict(state.rejected)) == {"malformed": 1}
        assert server.look(lambda state: state.ledger.dropped) == {"malformed": 1}
        assert deliver(careless, ticket(careless)).accepted


def test_a_grossly_oversized_message_ends_its_stream(
    server: LiveServer, address: str, careless: ActorStream
) -> None:
    """The transport does it, before it allocates; the server counts the ticket."""
    with learner(address) as client:
        client.publish(0, BLOB)
        send_bytes(careless, ticket(careless), TRANSPORT_BYTES)
        server.until(lambda state: state.ledger.dropped == {"actor_lost": 1})
        assert server.metrics(lambda service: service.metrics.bytes_received._value.get()) == 0
        # The stream opens again and goes on.
        assert deliver(careless, ticket(careless)).accepted


def test_duplicates_and_unknown_tickets_are_refused(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB)
        granted = ticket(stream)
        assert deliver(stream, granted).accepted
        following = ticket(stream)
        assert deliver(stream, granted).reason.startswith("duplicate")
        unknown = Ticket(400, 0, False, None, b"", stream.epoch)
        assert deliver(stream, unknown).reason.startswith("malformed")
        assert deliver(stream, following).accepted


def test_a_lost_actor_returns_its_credit_to_another(server: LiveServer, address: str) -> None:
    with learner(address) as client:
        client.publish(0, BLOB)
        client.pace(0)
        first, second, third = (actor(address, index) for index in range(3))
        with first, second:
            granted = [ticket(first), ticket(second)]
            assert [t.id for t in granted] == [1, 2], "the gate is open for one batch of two"
            with third:
                server.until(lambda state: state.idle == 1)
                first._connection._call.cancel()  # type: ignore[union-attr]
                assert ticket(third).id == 3
                assert server.look(lambda state: state.ledger.dropped) == {"actor_lost": 1}


def test_goodbye_returns_the_ticket_at_once(server: LiveServer, address: str) -> None:
    with learner(address) as client:
        client.publish(0, BLOB)
        with actor(address) as stream:
            ticket(stream)
        server.until(lambda state: state.connected == 0)
        assert server.look(lambda state: state.ledger.dropped) == {"actor_lost": 1}


def test_an_actor_that_waits_is_interrupted_from_another_thread(
    server: LiveServer, address: str
) -> None:
    with actor(address) as stream:
        server.until(lambda state: state.idle == 1)
        threading.Timer(0.05, stream.interrupt).start()
        assert list(stream) == []


@ATTEMPTS
def test_a_newer_process_of_the_same_actor_replaces_the_older(
    successor: int, words: str, server: LiveServer, address: str
) -> None:
    with learner(address) as client, actor(address, attempt=0) as old:
        client.publish(0, BLOB)
        ticket(old)
        with actor(address, attempt=successor) as new:
            granted = ticket(new)
            assert granted.reset_seed is not None, "other episodes than those of its predecessor"
            with pytest.raises(Fenced, match=words):
                old.receive(DEADLINE)
            assert deliver(new, granted).accepted
            assert ticket(new).reset_seed is None
        assert server.look(lambda state: state.ledger.dropped["actor_lost"]) >= 1


def test_a_protocol_version_mismatch_names_both_versions_and_the_remedy(
    server: LiveServer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncrl_worker.protocol.actor_client.PROTOCOL_VERSION", 7)
    monkeypatch.setattr("asyncrl_worker.protocol.learner_client.PROTOCOL_VERSION", 8)
    with pytest.raises(Refused, match=r"version 7 of this actor, 2 of.*same asyncrl release"):
        actor(address).__enter__()
    with pytest.raises(Refused, match=r"version 8 of this learner, 2 of.*same asyncrl release"):
        learner(address).hello()


def test_actors_with_another_environment_are_refused(server: LiveServer, address: str) -> None:
    other = Schema(observation_size=8, action_kind="continuous", action_size=2)
    with actor(address, 0, schema=other) as early:
        client = learner(address)
        client.hello()
        with pytest.raises(Refused, match=r"8 observations.*4 observations"):
            early.receive(DEADLINE)
        with pytest.raises(Refused, match=r"spec\.workload"):
            actor(address, 1, schema=other).__enter__()
        client.close()


def test_a_fragment_too_large_for_a_message_is_refused_at_the_start(
    server: LiveServer, address: str
) -> None:
    huge = Schema(observation_size=10_000_000, action_kind="discrete", action_size=2)
    with pytest.raises(Refused, match=r"fragmentLength 3 with 2 environments"):
        learner(address, schema=huge).hello()


def test_weights_unchanged_gone_and_exact(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address) as stream:
        with pytest.raises(WeightsGone, match="no weights"):
            stream.weights(None)
        client.publish(0, BLOB)
        client.publish(1, BLOB + b"1")
        newest = stream.weights(None)
        assert newest is not None and newest.version == 1
        assert stream.weights(None, newest.digest) is None
        older = stream.weights(0)
        assert older is not None and bytes(older.data) == BLOB
        client.publish(2, BLOB + b"2")
        with pytest.raises(WeightsGone, match="version 0 is not kept, the newest is 2"):
            stream.weights(0)


@ATTEMPTS
def test_an_older_learner_is_fenced_everywhere(
    successor: int, words: str, server: LiveServer, address: str
) -> None:
    old, new = learner(address, attempt=0), learner(address, attempt=successor)
    old.hello()
    old.publish(0, BLOB)
    new.hello()
    new.publish(0, BLOB + b"again")
    calls = [
        lambda: old.publish(1, BLOB),
        lambda: old.next_batch(0.0),
        lambda: old.consumed(1, "trained"),
        lambda: old.pace(0),
        lambda: old.finish(),
        lambda: old.evaluations(0.5),
    ]
    if successor > 0:
        calls.append(learner(address, attempt=0).hello)
    for call in calls:
        with pytest.raises(Fenced, match=words):
            call()
    new.publish(1, BLOB)
    assert not server.look(lambda state: state.finished)
    old.close()
    new.close()


def test_a_learner_that_waits_is_fenced_too(server: LiveServer, address: str) -> None:
    old, new = learner(address, attempt=0), learner(address, attempt=1)
    old.hello()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            old.next_batch(DEADLINE)
        except Fenced as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    new.hello()
    thread.join(DEADLINE)
    assert len(errors) == 1
    old.close()
    new.close()


def test_a_learner_restart_voids_what_was_outstanding(server: LiveServer, address: str) -> None:
    with actor(address) as stream:
        old = learner(address)
        old.hello()
        old.publish(5, BLOB)
        granted = ticket(stream)
        assert deliver(stream, granted).accepted
        granted = ticket(stream)
        old.close()
        with learner(address, attempt=1, version=3) as new:
            new.publish(3, BLOB + b"3")
            refusal = deliver(stream, granted)
            assert refusal.reason.startswith("learner_restart")
            granted = ticket(stream)
            assert granted.policy_version == 3
            weights = stream.weights(None, b"old digest")
            assert weights is not None and bytes(weights.data) == BLOB + b"3"
            assert new.ledger.dropped == {"learner_restart": 2}


def test_everybody_survives_a_restart_of_the_parameter_server(address: str) -> None:
    client, stream = learner(address), actor(address)
    with LiveServer(address, policy()) as first:
        client.hello()
        client.publish(0, BLOB)
        client.pace(3)
        stream.__enter__()
        for _ in range(3):
            assert deliver(stream, ticket(stream)).accepted
        held = batch(client)
        stale = ticket(stream)
        before = first.look(lambda state: state.ledger.copy())
    assert (before.produced, before.queued, before.in_flight) == (4, 3, 1)
    with LiveServer(address, policy()) as second:
        client.consumed(held.batch_id, "trained")
        restored = second.look(lambda state: state.ledger.copy())
        assert (restored.trained, restored.produced) == (2, before.produced)
        assert restored.dropped == {"parameter_server_restart": 2}
        assert second.look(lambda state: state.eta) == 3, "the pace is asked for again"
        # The weights came back without being asked for, and the actor works again.
        refetched = stream.receive(DEADLINE)
        assert isinstance(refetched, Ticket) and refetched.epoch != stale.epoch
        weights = stream.weights(None)
        assert weights is not None and bytes(weights.data) == BLOB
        refusal = deliver(stream, stale)
        assert refusal.reason.startswith("epoch")
        assert deliver(stream, refetched).accepted
        assert second.look(lambda state: state.ledger.dropped["epoch"]) == 1
        client.publish(1, BLOB + b"1")
        assert client.ledger.trained == 2
        stream.close()
        client.close()


def test_a_learner_waiting_for_a_batch_survives_a_restart(address: str) -> None:
    client, stream = learner(address), actor(address)
    received: list[BatchMessage | None] = []
    with LiveServer(address, policy()) as first:
        client.hello()
        client.publish(3, BLOB)
        waiting = threading.Thread(target=lambda: received.append(client.next_batch(DEADLINE)))
        waiting.start()
        first.look(lambda state: None)
    with LiveServer(address, policy()), stream:
        for _ in range(2):
            assert deliver(stream, ticket(stream)).accepted
        waiting.join(DEADLINE)
        assert received[0] is not None and len(received[0].fragments) == 2
        client.close()


def test_a_missing_server_is_an_error_that_names_peer_phase_and_time(address: str) -> None:
    with pytest.raises(PeerUnavailable, match="connecting") as caught:
        actor(address, deadline=0.3).__enter__()
    assert address in caught.value.peer and 0.1 < caught.value.elapsed < 5
    with pytest.raises(PeerUnavailable, match="publishing weights version 4"):
        learner(address, deadline=0.3).publish(4, BLOB)


def test_evaluations_reach_an_actor_and_come_back(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB, evaluate_episodes=2)
        assert stream.receive(DEADLINE) == Evaluate(0, 2)
        stream.send_evaluation(0, [3.0, 4.0], [30, 40])
        (result,) = client.evaluations(DEADLINE)
        assert (result.version, result.returns, result.lengths) == (0, (3.0, 4.0), (30, 40))
        assert client.evaluations(0.0) == []
        assert isinstance(stream.receive(DEADLINE), Ticket)


def test_an_evaluation_can_be_abandoned(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address, 0) as first:
        client.publish(0, BLOB, evaluate_episodes=2)
        assert isinstance(first.receive(DEADLINE), Evaluate)
        first.ready()
        assert isinstance(first.receive(DEADLINE), Ticket)
        assert client.evaluations(0.5) == []
        assert server.look(lambda state: state.evaluations.given_up) == 1


def test_once_training_is_over_no_evaluation_waits_for_it(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address, 0) as first:
        client.publish(0, BLOB, evaluate_episodes=2)
        assert isinstance(first.receive(DEADLINE), Evaluate)
        client.publish(1, BLOB, evaluate_episodes=2)
        first.ready()
        granted = ticket(first)
        assert client.evaluations(0.5) == []
        assert deliver(first, granted).accepted
        assert first.receive(DEADLINE) == Evaluate(1, 2)


def test_exact_lag_over_the_wire(address: str) -> None:
    with (
        LiveServer(address, policy(inject=1, replicas=1)),
        learner(address) as client,
        actor(address) as stream,
    ):
        client.publish(0, BLOB)
        seen = []
        for version in range(1, 4):
            for _ in range(2 if version > 1 else 4):
                granted = ticket(stream)
                assert granted.exact
                weights = stream.weights(granted.policy_version)
                assert weights is not None and weights.digest == granted.weights_digest
                assert deliver(stream, granted).accepted
            received = batch(client)
            seen.append(received.version)
            client.publish(version, BLOB + bytes([version]), reset_environments=version == 2)
            client.consumed(received.batch_id, "trained")
        assert seen == [0, 1, 2]
        granted = ticket(stream)
        assert (granted.policy_version, granted.reset_seed) == (3, None)


def test_an_actor_beyond_the_replicas_is_told_so(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It stays: it may evaluate, and be dealt to by the next parameter server."""
    exact, more = (policy(inject=1, replicas=replicas) for replicas in (2, 3))
    with LiveServer(address, exact):
        client, extra = learner(address), actor(address, 2).__enter__()
        client.publish(0, BLOB, evaluate_episodes=1)
        assert extra.receive(DEADLINE) == Evaluate(0, 1)
        (told,) = (r.getMessage() for r in caplog.records if r.name == "asyncrl")
        assert told.startswith("event=without_work actor 2 gets no fragments to produce: ")
        assert "the actors below 2, the spec.actors.replicas" in told
        caplog.clear()
        extra.send_evaluation(0, [1.0], [1])
        assert extra.receive(0.5) is None
    with LiveServer(address, more), client, extra:
        client.next_batch(0.1)  # introduces itself, and publishes again
        assert extra.receive(DEADLINE) == Evaluate(0, 1)
        extra.ready()
        assert isinstance(extra.receive(DEADLINE), Ticket)
    with LiveServer(address, policy(replicas=2)), actor(address, 2):
        assert "without_work" not in caplog.text, "a bounded lag deals to whoever is there"


def test_the_version_is_not_a_number_until_there_is_one(server: LiveServer) -> None:
    registry = server.metrics(lambda service: service.metrics.registry)
    value = registry.get_sample_value("asyncrl_parameter_server_weights_version")
    assert value is not None and math.isnan(value)


def test_metrics_balance_and_name_what_happened(server: LiveServer, address: str) -> None:
    with learner(address) as client, actor(address) as stream:
        client.publish(0, BLOB)
        deliver(stream, ticket(stream), valid=None)
        for _ in range(2):
            deliver(stream, ticket(stream))
        client.consumed(batch(client).batch_id, "skipped")
        registry = server.metrics(lambda service: service.metrics.registry)
        text = generate_latest(registry).decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        number = {name: float(value) for name, value in values.items()}
        prefix = "asyncrl_parameter_server_"
        produced = number[f"{prefix}fragments_produced_total"]
        dropped = [v for k, v in number.items() if k.startswith(f"{prefix}fragments_dropped_t")]
        assert produced == (
            number[f"{prefix}fragments_trained_total"]
            + sum(dropped)
            + number[f"{prefix}fragments_queued"]
            + number[f"{prefix}fragments_in_flight"]
        )
        assert number[f'{prefix}fragments_dropped_total{{reason="skipped"}}'] == 2
        assert number[f'{prefix}messages_rejected_total{{reason="malformed"}}'] == 1
        assert number[f"{prefix}actors_connected"] == 1
        assert number[f"{prefix}weights_version"] == 0
        assert number[f"{prefix}batch_staleness_versions_count"] == 2
