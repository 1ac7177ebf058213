"""An actor: turns tickets into fragments and requests for evaluation into results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asyncrl_worker.actor.evaluation import EvaluationOutcome, evaluate
from asyncrl_worker.actor.metrics import ActorMetrics
from asyncrl_worker.actor.rollout import Rollout
from asyncrl_worker.environments.vector import VectorEnvironment
from asyncrl_worker.policies.inference import InferencePolicy
from asyncrl_worker.policies.layout import PolicyLayout
from asyncrl_worker.protocol.errors import WeightsGone
from asyncrl_worker.protocol.messages import Ack, Drain, Evaluate, Ticket, Weights
from asyncrl_worker.protocol.tensors import decode, encode

log = logging.getLogger("asyncrl.actor")

# Keeps evaluations' initial states apart from those of training, and the same for every actor.
EVALUATION_STREAM = 0x6576616C


class Stream(Protocol):
    """What an actor needs of its connection: protocol.actor_client.ActorStream."""

    @property
    def epoch(self) -> int:
        """Which life of the parameter server this is."""
        ...

    def receive(self) -> Ticket | Ack | Evaluate | Drain | None:
        """The next message; None when interrupted."""
        ...

    def ready(self) -> None:
        """Give back the ticket or evaluation in hand."""
        ...

    def send_fragment(self, ticket: Ticket, tensors: bytes) -> None:
        """Deliver the fragment of a ticket."""
        ...

    def send_evaluation(self, version: int, returns: list[float], lengths: list[int]) -> None:
        """Deliver the result of an evaluation."""
        ...

    def weights(self, version: int | None, known_digest: bytes = b"") -> Weights | None:
        """Weights of a version (None: the newest); None where the digest is that one already."""
        ...


@dataclass
class Held:
    """The policy in use, and the digest of its weights."""

    policy: InferencePolicy
    digest: bytes


class Actor:
    """Answers the parameter server's messages one after another, in one thread.

    The weights and the environments outlive the connection: after a restart of the parameter
    server the actor goes on where it was.
    """

    def __init__(
        self,
        stream: Stream,
        rollout: Rollout,
        *,
        layout: PolicyLayout,
        index: int,
        seed: int,
        evaluation: VectorEnvironment | None,
        evaluation_seconds: float,
        metrics: ActorMetrics,
        clock: Callable[[], float],
    ) -> None:
        """`evaluation`: environments for evaluations only; None gives every evaluation up.

        `evaluation_seconds`: longest time of one on `clock`; one that takes longer is given up.
        """
        self._stream = stream
        self._rollout = rollout
        self._layout = layout
        self._index = index
        self._seed = seed
        self._evaluation = evaluation
        self._evaluation_seconds = evaluation_seconds
        self._metrics = metrics
        self._clock = clock
        self._held: Held | None = None
        self._epoch = 0
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Has weights to act with."""
        return self._held is not None

    def stop(self) -> None:
        """Give up what is being done; thread-safe. The stream must be interrupted as well."""
        self._stopping = True
        self._rollout.interrupt()

    def run(self) -> bool:
        """Work until the run is over (True), or until stopped (False).

        Raises:
            EnvironmentFault: the user's environment cannot go on.
            PeerUnavailable, Refused: of the stream.
        """
        self._note_connection()
        while not self._stopping:
            waiting = self._clock()
            message = self._stream.receive()
            self._note_connection()
            match message:
                case Ticket():
                    self._metrics.wait_seconds.observe(self._clock() - waiting)
                    self._produce(message)
                case Evaluate():
                    self._evaluate(message)
                case Ack():
                    self._metrics.fragments.labels(
                        "accepted" if message.accepted else "refused"
                    ).inc()
                    if not message.accepted:
                        log.info(
                            "event=refused ticket=%d reason=%s", message.ticket, message.reason
                        )
                case Drain():
                    log.info("event=drained")
                    return True
                case None:
                    return False
        return False

    def _note_connection(self) -> None:
        if self._stream.epoch != self._epoch:
            self._epoch = self._stream.epoch
            self._metrics.connections.inc()
            log.info("event=connected epoch=%d", self._epoch)

    def _produce(self, ticket: Ticket) -> None:
        try:
            policy = self._policy_for(ticket)
        except WeightsGone as gone:
            log.info("event=weights_gone ticket=%d message=%s", ticket.id, gone)
            self._stream.ready()
            return
        if ticket.reset_seed is not None:
            self._rollout.reset([ticket.reset_seed, self._index])
        started = self._clock()
        fragment = self._rollout.collect(policy, policy.version)
        self._metrics.rollout_seconds.observe(self._clock() - started)
        self._stream.send_fragment(ticket, encode(fragment.to_tensors()))
        self._metrics.environment_steps.inc(fragment.environment_steps)
        if fragment.episode_returns.size:
            self._metrics.episodes.inc(fragment.episode_returns.size)
            self._metrics.episode_return.set(float(np.mean(fragment.episode_returns)))

    def _policy_for(self, ticket: Ticket) -> InferencePolicy:
        """Exactly the ticket's version, or the newest there is."""
        held = self._held
        if held is None or held.digest != ticket.weights_digest:
            wanted = ticket.policy_version if ticket.exact else None
            weights = self._fetch(wanted, b"" if held is None else held.digest)
            if weights is not None:
                held = Held(self._load(weights), weights.digest)
            elif held is not None and not ticket.exact:
                # The newest weights are those in hand: of the ticket's version or a newer one.
                held.policy.version = max(held.policy.version, ticket.policy_version)
        if held is None:
            raise WeightsGone(f"version {ticket.policy_version} was not sent")
        if ticket.exact or held.digest == ticket.weights_digest:
            # Equal weights may have been published again under another number.
            held.policy.version = ticket.policy_version
        self._held = held
        self._metrics.policy_version.set(held.policy.version)
        return held.policy

    def _fetch(self, version: int | None, known: bytes) -> Weights | None:
        started = self._clock()
        weights = self._stream.weights(version, known)
        if weights is not None:
            self._metrics.weights_seconds.observe(self._clock() - started)
            self._metrics.weights_bytes.inc(len(weights.data))
        return weights

    def _load(self, weights: Weights) -> InferencePolicy:
        tensors = decode(weights.data, limit=len(weights.data))
        return InferencePolicy(self._layout, tensors, weights.version)

    def _evaluate(self, request: Evaluate) -> None:
        outcome = self._run_evaluation(request)
        if outcome is None:
            self._metrics.evaluations.labels("abandoned").inc()
            self._stream.ready()
            return
        self._metrics.evaluations.labels("finished").inc()
        self._stream.send_evaluation(request.version, list(outcome.returns), list(outcome.lengths))

    def _run_evaluation(self, request: Evaluate) -> EvaluationOutcome | None:
        if self._evaluation is None:
            return None
        held = self._held
        try:
            weights = self._fetch(request.version, b"" if held is None else held.digest)
        except WeightsGone as gone:
            log.info("event=weights_gone evaluation=%d message=%s", request.version, gone)
            return None
        if weights is not None:
            policy = self._load(weights)
        elif held is not None:
            policy = held.policy
        else:
            return None
        deadline = self._clock() + self._evaluation_seconds
        outcome = evaluate(
            self._evaluation,
            policy,
            episodes=request.episodes,
            seed=[self._seed, request.version, EVALUATION_STREAM],
            proceed=lambda: not self._stopping and self._clock() < deadline,
        )
        if outcome is None and not self._stopping:
            log.warning(
                "event=evaluation_abandoned version=%d seconds=%.0f "
                "remedy=\"limit the episodes' length (max_episode_steps) or their number "
                "(spec.evaluation.episodes), or raise spec.runPolicy.stallTimeoutSeconds: "
                'an evaluation may take half of it"',
                request.version,
                self._evaluation_seconds,
            )
        return outcome
