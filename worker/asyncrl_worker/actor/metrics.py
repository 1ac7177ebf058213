"""What an actor shows to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)


class ActorMetrics:
    """One set per process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.environment_steps = Counter(
            "asyncrl_actor_environment_steps",
            "Environment steps taken, automatic resets not counted.",
            registry=registry,
        )
        self.episodes = Counter(
            "asyncrl_actor_episodes", "Training episodes finished.", registry=registry
        )
        self.fragments = Counter(
            "asyncrl_actor_fragments",
            "Fragments by the parameter server's answer: accepted, or refused.",
            ["outcome"],
            registry=registry,
        )
        self.evaluations = Counter(
            "asyncrl_actor_evaluations",
            "Evaluations by outcome: finished, or abandoned (out of time).",
            ["outcome"],
            registry=registry,
        )
        self.episode_return = Gauge(
            "asyncrl_actor_episode_return",
            "Mean undiscounted return of the episodes that the newest fragment finished.",
            registry=registry,
        )
        self.policy_version = Gauge(
            "asyncrl_actor_policy_version", "Version of the policy in use.", registry=registry
        )
        for gauge in (self.episode_return, self.policy_version):
            gauge.set(float("nan"))  # until there is a first one
        self.rollout_seconds = Histogram(
            "asyncrl_actor_rollout_seconds",
            "Time to collect one fragment.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "asyncrl_actor_wait_seconds",
            "Time without work, waiting for a ticket.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.weights_seconds = Histogram(
            "asyncrl_actor_weights_seconds",
            "Time to fetch one version of the weights.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.weights_bytes = Counter(
            "asyncrl_actor_weights_bytes", "Bytes of weights received.", registry=registry
        )
        self.connections = Counter(
            "asyncrl_actor_connections",
            "Lives of the parameter server seen; more than 1 means that it was restarted.",
            registry=registry,
        )
