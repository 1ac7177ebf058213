"""How far behind the learner a trained sample may be, and how that is enforced.

Staleness counts policy versions: the learner's version when it trains a sample, minus the version
that acted. Two ways of admission bound it, both by tickets (the right to produce one fragment):

bounded (``staleness.max`` = eta > 0)
    accepted + running <= (eta + consumed + 1) * B, in fragments, B fragments per batch (AReaL,
    arXiv 2505.24298, section 5.1, with consumed batches in place of versions so that a skipped
    update does not close the gate). Then at most eta batches stand before a new ticket's. Read
    relatively: outstanding <= (eta + 1) * B. Counting only what is outstanding is what keeps a
    learner restart from opening the gate further (AReaL pull request 1345).
exact (``staleness.inject`` = s, or ``staleness.max`` = 0, which is s = 0)
    the batch trained at version v was produced by exactly max(start, v - s), where start is the
    version at which the run, or this attempt, began.

This module imports nothing of the worker and holds no clock, lock or socket.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class DropReason(StrEnum):
    """Why a produced fragment was not trained on."""

    STALE = "stale"
    MALFORMED = "malformed"
    DUPLICATE = "duplicate"
    EPOCH = "epoch"
    ABANDONED = "abandoned"
    ACTOR_LOST = "actor_lost"
    LEARNER_RESTART = "learner_restart"
    PARAMETER_SERVER_RESTART = "parameter_server_restart"
    SKIPPED = "skipped"
    NON_FINITE = "non_finite"
    FINISHED = "finished"


class StalenessViolation(Exception):
    """A sample older than the derived bound was about to be trained on."""


class LedgerViolation(Exception):
    """produced = trained + dropped + queued + in flight does not hold."""


@dataclass(frozen=True)
class StalenessPolicy:
    """The staleness part of a job, in versions and fragments.

    `maximum` is spec.staleness.max, `inject` spec.staleness.inject, `replicas` the number of
    actors that share the work in exact mode.
    """

    maximum: int
    on_stale: Literal["drop", "wait"]
    inject: int | None
    fragments_per_batch: int
    replicas: int

    @property
    def exact_lag(self) -> int | None:
        """s in exact mode, None in bounded mode."""
        if self.inject is not None:
            return self.inject
        return 0 if self.maximum == 0 else None

    @property
    def bound(self) -> int:
        """Largest possible staleness of a trained sample, in versions."""
        lag = self.exact_lag
        return self.maximum if lag is None else lag

    @property
    def outstanding_limit(self) -> int:
        """Largest number of fragments in flight, queued or held by the learner together."""
        return (self.bound + 1) * self.fragments_per_batch

    def without_work(self, actor: int) -> str:
        """Why this actor index gets no fragments to produce, in one line; empty where it does."""
        if self.exact_lag is None or actor < self.replicas:
            return ""
        return (
            f"actor {actor} gets no fragments to produce: with an exact lag (staleness.max=0, or "
            f"inject) they are dealt to the actors below {self.replicas}, the spec.actors.replicas "
            "with which the parameter server was started; restart it to deal to others"
        )

    def explain(self) -> str:
        """The derived bound and where it comes from, as one line for the log."""
        batch, limit = self.fragments_per_batch, self.outstanding_limit
        lag = self.exact_lag
        if lag is not None:
            cause = f"staleness.inject={lag}" if self.inject is not None else "staleness.max=0"
            return (
                f"worst-case staleness {lag} versions: {cause}, every batch of version v is "
                f"produced by version v-{lag}; at most ({lag}+1)*{batch}={limit} fragments "
                "outstanding"
            )
        means = (
            "batches form in arrival order and later fragments are dropped as stale"
            if self.on_stale == "drop"
            else "batches form in ticket order, so none is ever staler"
        )
        return (
            f"worst-case staleness {self.maximum} versions: at most ({self.maximum}+1)*{batch}="
            f"{limit} fragments outstanding, {means}"
        )

    def check(self, staleness: int) -> None:
        """Raises StalenessViolation where a batch about to be trained breaks the bound."""
        lag = self.exact_lag
        if staleness > self.bound or staleness < 0:
            raise StalenessViolation(
                f"staleness {staleness} of a batch is outside 0..{self.bound} "
                f"({'inject' if lag is not None else 'max'}); this is a defect, not a setting"
            )


def admissible(
    eta: int, fragments_per_batch: int, consumed: int, accepted: int, running: int
) -> int:
    """How many more fragments may be started: (eta + consumed + 1) * B - (accepted + running).

    `consumed` batches, `accepted` and `running` fragments since the learner's attempt began;
    dropped fragments count in none of them. Never negative.

    >>> admissible(eta=1, fragments_per_batch=2, consumed=0, accepted=1, running=1)
    2
    """
    return max(0, (eta + consumed + 1) * fragments_per_batch - (accepted + running))


def exact_version(training_version: int, lag: int, start: int) -> int:
    """The policy version that produces the batch trained at `training_version`.

    >>> [exact_version(v, lag=2, start=0) for v in range(5)]
    [0, 0, 0, 1, 2]
    """
    return max(start, training_version - lag)


def reset_seed(seed: int, version: int) -> int:
    """The seed that resets the environments at checkpoint `version` of a run with `seed`.

    63 bits, the same on every machine; each actor mixes in its own index.
    """
    text = f"asyncrl reset {seed} {version}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def successor_seed(seed: int, produced: int) -> int:
    """The seed of an actor's process that took another's place, when `produced` tickets were out.

    Its own would repeat the episodes of its predecessor. 63 bits, as `reset_seed`.
    """
    text = f"asyncrl successor {seed} {produced}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


@dataclass
class Ledger:
    """Where every fragment went. `produced` counts granted tickets; `queued` includes batches
    that the learner holds and has not settled.

    produced = trained + sum(dropped) + queued + in_flight holds after every method.
    """

    produced: int = 0
    trained: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    queued: int = 0
    in_flight: int = 0

    def grant(self) -> None:
        """A ticket goes out."""
        self.produced += 1
        self.in_flight += 1

    def accept(self) -> None:
        """A fragment arrives and is queued."""
        self.in_flight -= 1
        self.queued += 1
        self.check()

    def drop_in_flight(self, reason: str, count: int = 1) -> None:
        """Tickets end without a usable fragment."""
        self.in_flight -= count
        self._drop(reason, count)

    def drop_queued(self, reason: str, count: int = 1) -> None:
        """Queued or held fragments are given up."""
        self.queued -= count
        self._drop(reason, count)

    def drop_unknown(self, reason: str) -> None:
        """A fragment arrives for which no ticket is known: it was produced, and is lost."""
        self.produced += 1
        self._drop(reason, 1)

    def train(self, count: int) -> None:
        """The learner trained on `count` held fragments."""
        self.queued -= count
        self.trained += count
        self.check()

    def restore(self, last: Ledger, held: int) -> None:
        """Takes over the ledger `last` of a lost parameter server.

        The learner still holds `held` fragments of it; everything else that was queued or in
        flight is lost. What was counted here already (fragments of the lost epoch) stays.
        """
        lost = max(0, last.queued + last.in_flight - held)
        # The learner may hold a batch formed after the last ledger it saw.
        unseen = max(0, held - last.queued - last.in_flight)
        self.produced += last.produced + unseen
        self.trained += last.trained
        for reason, count in last.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.queued += held
        self._drop(DropReason.PARAMETER_SERVER_RESTART, lost)

    def copy(self) -> Ledger:
        return Ledger(self.produced, self.trained, dict(self.dropped), self.queued, self.in_flight)

    @property
    def dropped_total(self) -> int:
        return sum(self.dropped.values())

    def check(self) -> None:
        """Raises LedgerViolation where the ledger does not balance or a count is negative."""
        settled = self.trained + self.dropped_total
        balanced = self.produced == settled + self.queued + self.in_flight
        if not balanced or min(self.trained, self.queued, self.in_flight) < 0:
            raise LedgerViolation(
                f"produced {self.produced} != trained {self.trained} + dropped "
                f"{self.dropped_total} + queued {self.queued} + in flight {self.in_flight}"
            )

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[str(reason)] = self.dropped.get(str(reason), 0) + count
        self.check()
