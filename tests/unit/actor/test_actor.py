"""What an actor does with the parameter server's messages."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from unit.environments.toys import workload

from asyncrl_worker.actor.actor import Actor
from asyncrl_worker.actor.metrics import ActorMetrics
from asyncrl_worker.actor.rollout import Rollout
from asyncrl_worker.environments.factory import make_vector_environment
from asyncrl_worker.fragment import Fragment
from asyncrl_worker.policies.layout import MalformedWeights, PolicyLayout
from asyncrl_worker.protocol.errors import WeightsGone
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Ticket, Weights
from asyncrl_worker.protocol.tensors import decode, encode
from asyncrl_worker.protocol.weights_transfer import digest

LENGTH = 6
ENVIRONMENTS = 3


class Peer:
    """A parameter server's side of the stream, played from a list."""

    def __init__(self, layout: PolicyLayout, messages: Sequence[Any]) -> None:
        self.layout = layout
        self.messages = deque(messages)
        self.blobs: dict[int, bytes] = {}
        self.epoch = 1
        self.readies = 0
        self.fetched: list[tuple[int | None, bytes]] = []
        self.fragments: list[tuple[Ticket, bytes]] = []
        self.evaluations: list[tuple[int, list[float], list[int]]] = []

    def publish(self, version: int, *, seed: int | None = None) -> bytes:
        rng = np.random.default_rng(version if seed is None else seed)
        shapes = self.layout.weight_shapes().items()
        blob = encode({name: rng.random(shape, np.float32) for name, shape in shapes})
        self.blobs[version] = blob
        return digest(blob)

    def receive(self) -> Any:
        return self.messages.popleft() if self.messages else None

    def ready(self) -> None:
        self.readies += 1

    def send_fragment(self, ticket: Ticket, tensors: bytes) -> None:
        self.fragments.append((ticket, tensors))

    def send_evaluation(self, version: int, returns: list[float], lengths: list[int]) -> None:
        self.evaluations.append((version, returns, lengths))

    def weights(self, version: int | None, known_digest: bytes = b"") -> Weights | None:
        self.fetched.append((version, known_digest))
        found = max(self.blobs) if version is None else version
        if found not in self.blobs:
            raise WeightsGone(f"version {version} is not kept any more")
        blob = self.blobs[found]
        if digest(blob) == known_digest:
            return None
        return Weights(found, digest(blob), memoryview(blob))


class Setup:
    """An actor on toy environments, with its peer."""

    def __init__(self, *messages: Any, evaluation: bool = True, seconds: float = 1e9) -> None:
        task = workload("Scripted-v0", script=[(4, "end"), (2, "cut")])
        environment = make_vector_environment(task, environments=ENVIRONMENTS)
        self.description = environment.description
        layout = PolicyLayout(2, environment.description.action, (4,), "tanh")
        self.peer = Peer(layout, messages)
        self.metrics = ActorMetrics()
        rollout = Rollout(environment, LENGTH, np.random.default_rng(0))
        rollout.reset([0, 4])
        ticks = itertools.count()
        self.actor = Actor(
            self.peer,
            rollout,
            layout=layout,
            index=4,
            seed=0,
            evaluation=make_vector_environment(task, environments=2) if evaluation else None,
            evaluation_seconds=seconds,
            metrics=self.metrics,
            clock=lambda: float(next(ticks)),
        )

    def fragment(self, number: int) -> Fragment:
        return Fragment.from_tensors(
            decode(self.peer.fragments[number][1], limit=1 << 20),
            fragment_length=LENGTH,
            environments=ENVIRONMENTS,
            description=self.description,
        )

    def versions(self) -> list[int]:
        return [int(self.fragment(i).policy_versions[0]) for i in range(len(self.peer.fragments))]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"asyncrl_actor_{name}", labels)


def ticket(
    id: int, version: int, weights: bytes, *, exact: bool = False, reset: int | None = None
) -> Ticket:
    return Ticket(id, version, exact, reset, weights, epoch=1)


def test_a_ticket_becomes_a_fragment_of_the_newest_version() -> None:
    setup = Setup()
    old = setup.peer.publish(1)
    setup.peer.publish(3)
    setup.peer.messages.extend([ticket(7, 1, old), Drain()])
    assert setup.actor.run() is True
    assert [t.id for t, _ in setup.peer.fragments] == [7]
    assert setup.versions() == [3]
    assert setup.actor.ready
    assert setup.metric("environment_steps_total") == setup.fragment(0).environment_steps


def test_numbers_are_not_a_number_until_they_exist() -> None:
    setup = Setup()
    names = ("policy_version", "episode_return")
    assert all(math.isnan(setup.metric(name) or 0.0) for name in names)
    setup.peer.messages.extend([ticket(1, 3, setup.peer.publish(3)), Drain()])
    setup.actor.run()
    assert setup.metric("policy_version") == 3
    assert setup.metric("episode_return") == np.mean(setup.fragment(0).episode_returns)


def test_an_exact_ticket_gets_exactly_its_version() -> None:
    setup = Setup()
    wanted = setup.peer.publish(1)
    newest = setup.peer.publish(3)
    setup.peer.messages.extend(
        [
            ticket(1, 3, newest, exact=True),
            ticket(2, 1, wanted, exact=True),
            ticket(3, 1, wanted, exact=True),
        ]
    )
    assert setup.actor.run() is False
    assert setup.versions() == [3, 1, 1]
    assert [version for version, _ in setup.peer.fetched] == [3, 1]


def test_weights_in_hand_are_not_fetched_again() -> None:
    setup = Setup()
    weights = setup.peer.publish(5)
    setup.peer.messages.extend(ticket(i, 5, weights) for i in range(4))
    setup.actor.run()
    assert len(setup.peer.fetched) == 1
    assert setup.versions() == [5, 5, 5, 5]


def test_equal_weights_under_a_new_number_carry_the_new_number() -> None:
    setup = Setup()
    first = setup.peer.publish(5, seed=1)
    second = setup.peer.publish(6, seed=1)
    assert first == second
    setup.peer.messages.extend([ticket(1, 5, first), ticket(2, 6, second, exact=True)])
    setup.actor.run()
    assert setup.versions()[1] == 6


def test_a_learner_that_went_back_to_its_checkpoint_is_followed_back() -> None:
    setup = Setup()
    before = setup.peer.publish(9)
    setup.peer.messages.append(ticket(1, 9, before))
    setup.actor.run()
    del setup.peer.blobs[9]
    after = setup.peer.publish(7)
    setup.peer.messages.append(ticket(2, 7, after))
    setup.actor.run()
    assert setup.versions() == [9, 7]


def test_a_reset_seed_repeats_the_fragment_and_differs_between_actors() -> None:
    setup = Setup()
    weights = setup.peer.publish(2)
    setup.peer.messages.extend(
        [
            ticket(1, 2, weights, exact=True, reset=11),
            ticket(2, 2, weights, exact=True),
            ticket(3, 2, weights, exact=True, reset=11),
            ticket(4, 2, weights, exact=True, reset=12),
        ]
    )
    setup.actor.run()
    first, following, again, other = [tensors for _, tensors in setup.peer.fragments]
    assert first == again
    assert first != following
    assert first != other
    # The documented stream: SeedSequence([reset_seed, actor_index]).
    environment = make_vector_environment(
        workload("Scripted-v0", script=[(4, "end"), (2, "cut")]), environments=ENVIRONMENTS
    )
    rollout = Rollout(environment, LENGTH, np.random.default_rng(0))
    rollout.reset([11, 4])
    held = setup.actor._policy_for(ticket(5, 2, weights, exact=True))
    assert encode(rollout.collect(held, 2).to_tensors()) == first


def test_a_version_that_is_gone_gives_the_ticket_back() -> None:
    setup = Setup(ticket(1, 8, b"x" * 16, exact=True))
    setup.actor.run()
    assert setup.peer.readies == 1
    assert setup.peer.fragments == []
    assert not setup.actor.ready


def test_weights_of_another_form_are_never_used() -> None:
    setup = Setup()
    setup.peer.blobs[1] = encode({"policy.0.weight": np.zeros((4, 2), np.float32)})
    setup.peer.messages.append(ticket(1, 1, digest(setup.peer.blobs[1])))
    with pytest.raises(MalformedWeights, match="missing tensors"):
        setup.actor.run()


def test_an_evaluation_uses_its_version_and_leaves_the_training_stream_alone() -> None:
    def fragments(*between: Any) -> list[bytes]:
        setup = Setup()
        weights = setup.peer.publish(3)
        setup.peer.publish(2)
        first, second = ticket(1, 3, weights), ticket(2, 3, weights)
        setup.peer.messages.extend([first, *between, second])
        setup.actor.run()
        for version, returns, lengths in setup.peer.evaluations:
            assert version == 2
            assert len(returns) == 5
            assert set(lengths) <= {2, 4}
        assert len(setup.peer.evaluations) == len(between)
        return [tensors for _, tensors in setup.peer.fragments]

    assert fragments(Evaluate(version=2, episodes=5)) == fragments()


def test_an_evaluation_may_come_before_any_ticket() -> None:
    setup = Setup(Evaluate(version=2, episodes=3))
    setup.peer.publish(2)
    setup.actor.run()
    assert len(setup.peer.evaluations[0][1]) == 3
    assert setup.metric("evaluations_total", outcome="finished") == 1


@pytest.mark.parametrize(
    ("version", "options"),
    [(2, {"seconds": 2.0}), (2, {"evaluation": False}), (99, {})],
    ids=["out of time", "no environments", "version gone"],
)
def test_an_evaluation_that_cannot_finish_is_given_back(
    version: int, options: dict[str, Any]
) -> None:
    setup = Setup(Evaluate(version=version, episodes=3), **options)
    setup.peer.publish(2)
    setup.actor.run()
    assert setup.peer.evaluations == []
    assert setup.peer.readies == 1
    assert setup.metric("evaluations_total", outcome="abandoned") == 1


def test_answers_are_counted() -> None:
    setup = Setup(Ack(1, True, ""), Ack(2, False, "stale"), Ack(3, True, ""))
    setup.actor.run()
    assert setup.metric("fragments_total", outcome="accepted") == 2
    assert setup.metric("fragments_total", outcome="refused") == 1
    assert setup.metric("connections_total") == 1


def test_stop_ends_the_work() -> None:
    setup = Setup()
    weights = setup.peer.publish(1)
    setup.peer.messages.extend(ticket(i, 1, weights) for i in range(3))
    stopper = threading.Thread(target=setup.actor.stop)
    stopper.start()
    stopper.join()
    assert setup.actor.run() is False
    assert setup.peer.fragments == []
