"""The learner's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from asyncrl_worker.learner.progress import Progress
from asyncrl_worker.learner.step import UpdateResult

STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
VERDICTS = ("Healthy", "Watch", "Degraded", "Diverged")


class LearnerMetrics:
    """One set per process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.updates = Counter(
            "asyncrl_learner_updates",
            "Batches consumed, by outcome: trained, skipped by alignment control, or non_finite.",
            ["outcome"],
            registry=registry,
        )
        self.regimes = Counter(
            "asyncrl_learner_alignment_regimes",
            "Updates that have a cosine, by the regime that it calls for: Pass, Project, Skip.",
            ["regime"],
            registry=registry,
        )
        self.environment_steps = Counter(
            "asyncrl_learner_environment_steps",
            "Environment steps trained.",
            registry=registry,
        )
        self.policy_version = _gauge(registry, "policy_version", "Newest policy version.")
        self.cosine = _gauge(registry, "alignment_cosine", "Cosine of consecutive gradients.")
        self.smoothed = _gauge(
            registry, "alignment_cosine_smoothed", "Exponential moving average of the cosine."
        )
        self.relative = _gauge(
            registry, "alignment_relative", "Cosine over the split-half prediction."
        )
        self.low = _gauge(registry, "alignment_low_threshold", "Cosine up to which updates pass.")
        self.high = _gauge(
            registry, "alignment_high_threshold", "Cosine above which updates are skipped."
        )
        self.kl = _gauge(registry, "kl_nats", "KL divergence of behaviour and current policy.")
        self.max_log_ratio = _gauge(
            registry, "max_log_ratio_nats", "Largest absolute log importance ratio of the batch."
        )
        self.effective_sample_size = _gauge(
            registry, "effective_sample_size_ratio", "Effective sample size over batch size."
        )
        self.clipped = _gauge(registry, "clipped_ratio", "Share of samples beyond the clip.")
        self.entropy = _gauge(registry, "entropy_nats", "Entropy of the policy.")
        self.gradient_norm = _gauge(
            registry, "gradient_norm", "Norm of the policy gradient before control and clipping."
        )
        self.value_loss = _gauge(registry, "value_loss", "Loss of the value network.")
        self.episode_return = _gauge(
            registry, "episode_return", "Mean return of the newest training episodes."
        )
        self.evaluation_return = _gauge(
            registry, "evaluation_return", "Mean return of the newest evaluation."
        )
        self.staleness = Histogram(
            "asyncrl_learner_staleness_versions",
            "Mean staleness of each batch at training.",
            buckets=STALENESS_BUCKETS,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "asyncrl_learner_step_seconds",
            "Duration of one update.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "asyncrl_learner_batch_wait_seconds",
            "Time the learner waited for a batch.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.verdict = Gauge(
            "asyncrl_learner_stability_verdict",
            "1 for the current stability verdict, 0 for the others.",
            ["verdict"],
            registry=registry,
        )
        self.actions = Counter(
            "asyncrl_learner_stability_actions",
            "What stability.onDegraded asked for: Warn, Pace, Suspend, Fail.",
            ["action"],
            registry=registry,
        )
        self.checkpoints = Counter(
            "asyncrl_learner_checkpoints", "Checkpoints written.", registry=registry
        )

    def observe(self, result: UpdateResult, *, steps: int) -> None:
        """Take in one update of `steps` environment steps."""
        decision, importance = result.alignment, result.importance
        self.updates.labels(result.outcome).inc()
        if decision.cosine is not None:  # without, Pass and Skip say nothing of alignment
            self.regimes.labels(decision.regime.value).inc()
        self.environment_steps.inc(steps)
        self.staleness.observe(result.staleness.mean)
        self.kl.set(importance.kl)
        self.max_log_ratio.set(importance.max_log_ratio)
        self.effective_sample_size.set(importance.effective_sample_size)
        self.clipped.set(importance.clipped_fraction)
        self.entropy.set(importance.entropy)
        self.value_loss.set(result.value_loss)
        self.gradient_norm.set(result.gradient_norm)
        _show(self.cosine, decision.cosine)
        _show(self.smoothed, decision.smoothed)
        _show(self.relative, result.relative_alignment)
        _show(self.low, decision.low)
        _show(self.high, decision.high)

    def progressed(self, progress: Progress) -> None:
        """Show how far the run is; a resumed one knows it before its first update."""
        score = progress.evaluation
        self.policy_version.set(progress.policy_version)
        _show(self.episode_return, progress.episode_return)
        _show(self.evaluation_return, None if score is None else score.mean_return)

    def judged(self, verdict: str) -> None:
        """Show the stability verdict."""
        for name in VERDICTS:
            self.verdict.labels(name).set(float(name == verdict))


def _show(gauge: Gauge, value: float | None) -> None:
    """An absent number leaves its gauge as it was; NaN until there is a first one."""
    if value is not None:
        gauge.set(value)


def _gauge(registry: CollectorRegistry, name: str, text: str) -> Gauge:
    gauge = Gauge(f"asyncrl_learner_{name}", text, registry=registry)
    gauge.set(float("nan"))
    return gauge
