"""The operator's own metrics, and a few numbers of every job. A series goes with its object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from asyncrl_api.status import JobStatus, Phase
from asyncrl_operator.workqueue import Key

RUNNING_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
JOB_LABELS = ("namespace", "name")
CONDITION_VALUES = {"True": 1.0, "False": 0.0}

JOB_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("asyncrl_job_policy_version", "Newest policy version.", "training.policy_version"),
    ("asyncrl_job_environment_steps", "Steps trained.", "training.environment_steps"),
    (
        "asyncrl_job_episode_return",
        "Mean return of the newest training episodes.",
        "training.episode_return",
    ),
    (
        "asyncrl_job_evaluation_return",
        "Mean return of the newest evaluation.",
        "training.evaluation_return",
    ),
    (
        "asyncrl_job_throughput",
        "Environment steps trained per second; only of a job that is neither suspended nor over.",
        "training.throughput",
    ),
    (
        "asyncrl_job_alignment_cosine",
        "Smoothed cosine of consecutive policy gradients.",
        "alignment.smoothed",
    ),
    (
        "asyncrl_job_staleness_mean",
        "Mean staleness of the newest batch in policy versions.",
        "staleness.mean",
    ),
    (
        "asyncrl_job_staleness_max",
        "Largest staleness of the newest batch in policy versions.",
        "staleness.max",
    ),
    ("asyncrl_job_attempt", "Attempt of the learner.", "attempt"),
)
"""Name, meaning and field of the status; a series is there while the number is."""
RATES = {"training.throughput"}
AT_REST: set[Phase] = {"Suspended", "Complete", "Failed"}
"""Phases in which a rate is over, though the status keeps the last one."""


def _number(status: JobStatus, path: str) -> float | None:
    value: object = status
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value if isinstance(value, int | float) else None


class OperatorMetrics:
    """Everything the operator counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.reconcile_seconds = Histogram(
            "asyncrl_operator_reconcile_seconds",
            "Duration of a reconciliation.",
            registry=registry,
        )
        self.reconciliations = Counter(
            "asyncrl_operator_reconciliations",
            "Reconciliations by result: ok, retry (the API server was not ready for it), error.",
            ["result"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "asyncrl_operator_queue_depth", "Jobs that wait for a worker.", registry=registry
        )
        self.leading = Gauge(
            "asyncrl_operator_leading",
            "1 where this operator works, 0 where it stands by for another that does.",
            registry=registry,
        )
        self.api_requests = Counter(
            "asyncrl_operator_api_requests",
            "Requests to the API server; code 0 is no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self.time_to_running = Histogram(
            "asyncrl_operator_time_to_running_seconds",
            "From the creation of a job until it first runs.",
            buckets=RUNNING_BUCKETS,
            registry=registry,
        )
        self.restarts = Counter(
            "asyncrl_operator_role_restarts",
            "Restarts of processes by role and cause: failure, or disruption from outside.",
            ["role", "cause"],
            registry=registry,
        )
        self.job_numbers = {
            name: Gauge(name, meaning, JOB_LABELS, registry=registry)
            for name, meaning, _ in JOB_GAUGES
        }
        self.conditions = Gauge(
            "asyncrl_job_condition",
            "A condition of a job: 1 True, 0 False, NaN Unknown.",
            [*JOB_LABELS, "condition"],
            registry=registry,
        )
        self.stability = Gauge(
            "asyncrl_job_stability",
            "1 for the verdict on a job's stability, 0 for the others.",
            [*JOB_LABELS, "verdict"],
            registry=registry,
        )
        self._phases: dict[Key, Phase] = {}
        registry.register(_JobsByPhase(self._phases))

    def count_request(self, verb: str, resource: str, status: int) -> None:
        """A request to the API server was answered, or was not (0)."""
        self.api_requests.labels(verb, resource, str(status)).inc()

    def observe(self, key: Key, before: JobStatus, after: JobStatus, age: float) -> None:
        """A job has a new status; `age` is the seconds since its creation."""
        self._phases[key] = after.phase
        for name, _, path in JOB_GAUGES:
            over = path in RATES and after.phase in AT_REST
            number = None if over else _number(after, path)
            if number is None:
                _remove(self.job_numbers[name], key)
            else:
                self.job_numbers[name].labels(*key).set(number)
        for condition in after.conditions:
            value = CONDITION_VALUES.get(condition.status, float("nan"))
            self.conditions.labels(*key, condition.type).set(value)
        verdict = after.stability.verdict if after.stability is not None else None
        if verdict is not None:
            for name in ("Healthy", "Watch", "Degraded", "Diverged"):
                self.stability.labels(*key, name).set(float(name == verdict))
        known = {role.name: role for role in before.roles}
        for role in after.roles:
            old = known.get(role.name)
            failures = role.restarts - (old.restarts if old else 0)
            losses = role.disruptions - (old.disruptions if old else 0)
            self.restarts.labels(role.name, "failure").inc(max(0, failures))
            self.restarts.labels(role.name, "disruption").inc(max(0, losses))
        if _first_run(before, after):
            self.time_to_running.observe(age)

    def forget(self, key: Key) -> None:
        """A job is gone, and its series with it."""
        self._phases.pop(key, None)
        for gauge in self.job_numbers.values():
            _remove(gauge, key)
        for gauge in (self.conditions, self.stability):
            gauge.remove_by_labels(dict(zip(JOB_LABELS, key, strict=True)))


def _first_run(before: JobStatus, after: JobStatus) -> bool:
    """Whether the job runs now and never did: Running has been False since the start.

    A report says nothing of that: a learner may report before an actor is ready. Nor does a job
    count that was suspended first, as it did not try to run.
    """
    if after.phase != "Running" or before.phase == "Running":
        return False
    conditions = {condition.type: condition for condition in before.conditions}
    running, start = conditions.get("Running"), before.start_time
    if running is None or start is None:
        return True
    waited = running.status == "False" and running.last_transition_time <= start
    return waited and "Suspended" not in conditions


def _remove(gauge: Gauge, key: Key) -> None:
    gauge.remove_by_labels(dict(zip(JOB_LABELS, key, strict=True)))


class _JobsByPhase(Collector):
    def __init__(self, phases: dict[Key, Phase]) -> None:
        self._phases = phases

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("asyncrl_jobs", "Jobs by phase.", labels=["phase"])
        phases = list(self._phases.values())
        for phase in get_args(Phase):
            family.add_metric([phase], phases.count(phase))
        yield family
