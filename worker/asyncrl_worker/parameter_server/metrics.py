"""Prometheus metrics of the parameter server.

Counts that must agree with each other (the ledger, queue and gate) come from one immutable
snapshot per scrape, so that produced = trained + dropped + queued + in flight holds in every one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from asyncrl_worker.parameter_server.schedule import Queued
from asyncrl_worker.staleness import Ledger

PREFIX = "asyncrl_parameter_server"

STALENESS_BUCKETS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True)
class Snapshot:
    """The state after one event."""

    ledger: Ledger = field(default_factory=Ledger)
    rejected: Mapping[str, int] = field(default_factory=dict)
    connected: int = 0
    idle: int = 0
    held: int = 0
    admissible: int = 0
    eta: int = 0
    version: int | None = None
    weights_bytes: int = 0
    weights_versions: int = 0
    evaluations_pending: int = 0
    evaluations_given_up: int = 0


class ParameterServerMetrics:
    """All metrics on a registry of their own; `snapshot` is called once per scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self.registry = CollectorRegistry()
        self._snapshot = snapshot
        self.bytes_sent = Counter(
            f"{PREFIX}_weights_sent_bytes",
            "Bytes of weights sent by stream; mapped weights are not sent.",
            registry=self.registry,
        )
        self.weights_requests = Counter(
            f"{PREFIX}_weights_requests",
            "Requests for weights by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.bytes_received = Counter(
            f"{PREFIX}_fragment_received_bytes",
            "Bytes of fragments received, accepted or not.",
            registry=self.registry,
        )
        self.staleness = Histogram(
            f"{PREFIX}_batch_staleness_versions",
            "Staleness of each fragment handed to the learner, by its oldest step.",
            buckets=STALENESS_BUCKETS,
            registry=self.registry,
        )
        self.span = Histogram(
            f"{PREFIX}_fragment_span_versions",
            "Newest minus oldest policy version within one fragment.",
            buckets=STALENESS_BUCKETS,
            registry=self.registry,
        )
        self.in_flight_seconds = Histogram(
            f"{PREFIX}_fragment_in_flight_seconds",
            "From the grant of a ticket to the arrival of its fragment.",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.in_queue_seconds = Histogram(
            f"{PREFIX}_fragment_in_queue_seconds",
            "From the arrival of a fragment to its hand-over to the learner.",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(self)

    def observe(self, queued: Queued, version: int, now: float) -> None:
        """Records one fragment on its way to the learner, to be trained at `version`."""
        self.staleness.observe(version - queued.arrival.oldest)
        self.span.observe(queued.arrival.newest - queued.arrival.oldest)
        self.in_flight_seconds.observe(queued.arrived - queued.order.granted)
        self.in_queue_seconds.observe(now - queued.arrived)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry on every scrape."""
        now = self._snapshot()
        ledger = now.ledger
        produced = CounterMetricFamily(
            f"{PREFIX}_fragments_produced", "Tickets granted, one per fragment."
        )
        produced.add_metric([], ledger.produced)
        yield produced
        trained = CounterMetricFamily(f"{PREFIX}_fragments_trained", "Fragments trained on.")
        trained.add_metric([], ledger.trained)
        yield trained
        dropped = CounterMetricFamily(
            f"{PREFIX}_fragments_dropped", "Fragments not trained on.", labels=["reason"]
        )
        for reason, count in ledger.dropped.items():
            dropped.add_metric([reason], count)
        yield dropped
        rejected = CounterMetricFamily(
            f"{PREFIX}_messages_rejected", "Messages refused.", labels=["reason"]
        )
        for reason, count in now.rejected.items():
            rejected.add_metric([reason], count)
        yield rejected
        yield CounterMetricFamily(
            f"{PREFIX}_evaluations_given_up",
            "Evaluations out of time, replaced by newer ones, or that lost too many actors.",
            value=now.evaluations_given_up,
        )
        version = math.nan if now.version is None else now.version
        gauges = {
            "fragments_queued": ("Fragments queued or held by the learner.", ledger.queued),
            "fragments_held": ("Fragments in batches that the learner holds.", now.held),
            "fragments_in_flight": ("Tickets in work.", ledger.in_flight),
            "fragments_admissible": ("Fragments that may be started now.", now.admissible),
            "staleness_bound_versions": ("Staleness bound in effect.", now.eta),
            "actors_connected": ("Actors with an open stream.", now.connected),
            "actors_idle": ("Actors that wait for a ticket.", now.idle),
            "weights_bytes": ("Bytes of weights kept.", now.weights_bytes),
            "weights_version": ("Newest policy version.", version),
            "weights_versions": ("Versions of weights kept.", now.weights_versions),
            "evaluations_pending": ("Evaluations that wait for an actor.", now.evaluations_pending),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
