"""The loop of the learner's first rank: batch, step, publish, judge, report, checkpoint."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from statistics import fmean

from safetensors.torch import save

from asyncrl_api.reasons import Reason
from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_api.status import CheckpointStatus
from asyncrl_worker.environments.spaces import EnvironmentDescription
from asyncrl_worker.fault import INTERNAL_ERROR, RoleError
from asyncrl_worker.fragment import Fragment, MalformedFragment
from asyncrl_worker.learner import report
from asyncrl_worker.learner.batch import collate
from asyncrl_worker.learner.checkpoint import CheckpointFolder
from asyncrl_worker.learner.exchange import Exchange, NewVersion, Settlement
from asyncrl_worker.learner.followers import Followers
from asyncrl_worker.learner.memory import RunMemory
from asyncrl_worker.learner.metrics import LearnerMetrics
from asyncrl_worker.learner.progress import EvaluationScore
from asyncrl_worker.learner.ranks import RankLost
from asyncrl_worker.learner.report import Ending, Snapshot
from asyncrl_worker.learner.step import LearnerStep, UpdateResult
from asyncrl_worker.protocol.errors import PeerUnavailable, ProtocolError
from asyncrl_worker.protocol.learner_client import BatchMessage, LearnerClient
from asyncrl_worker.protocol.tensors import decode
from asyncrl_worker.role import Stop
from asyncrl_worker.stability import Action, Judgement
from asyncrl_worker.staleness import StalenessPolicy
from asyncrl_worker.telemetry import Telemetry

log = logging.getLogger("asyncrl")

PEER_SHARE_OF_GRACE = 0.25
"""Part of the grace period in which a parameter server may still answer; the rest of it is for the
step under way and the checkpoint."""

FINAL_EVALUATION_SECONDS = 30.0
"""Longest wait for the evaluation of the last version, and never above half a stall timeout, after
which it comes to nothing; a run that is over does not hang on it."""


class TrainingLoop:
    """Drives one run from its first batch to its end; `snapshot` may be read from other threads."""

    def __init__(
        self,
        spec: AsyncRLJobSpec,
        description: EnvironmentDescription,
        *,
        step: LearnerStep,
        memory: RunMemory,
        client: LearnerClient,
        exchange: Exchange,
        followers: Followers,
        policy: StalenessPolicy,
        checkpoints: CheckpointFolder,
        telemetry: Telemetry,
        metrics: LearnerMetrics,
        stop: Stop,
        attempt: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._description = description
        self._step = step
        self._memory = memory
        self._client = client
        self._exchange = exchange
        self._followers = followers
        self._judge = memory.judge
        self._response = memory.response
        self._policy = policy
        self._checkpoints = checkpoints
        self._telemetry = telemetry
        self._metrics = metrics
        self._stop = stop
        self._clock = clock
        self._checkpoint_at = clock()
        self._checkpoint = memory.checkpoint
        self._saved = self._moment if memory.checkpoint.version == step.version else None
        self._counts = memory.alignment
        self._evaluation_requested = -1
        self._newest: tuple[UpdateResult, Judgement] | None = None
        self.progressed_at = clock()
        metrics.progressed(memory.progress)
        self.snapshot = Snapshot(
            attempt=attempt,
            update=step.updates,
            training=report.training_status(memory.progress),
            checkpoint=self._checkpoint,
        )

    @property
    def _evaluating(self) -> bool:
        return self._spec.evaluation.interval_versions is not None

    def run(self) -> Ending | None:
        """Train to the end; None if a signal asked to stop (the checkpoint is written then)."""
        ending = self._until_ended()
        try:
            self._followers.dismiss()
        except RankLost as error:  # what was trained so far is whole all the same
            log.warning("event=rank_lost error=%s", error)
        if ending is not None and self._conclude(ending):
            return ending
        self._save_checkpoint(patience=self._patience)
        return None

    def report(self) -> str:
        """The newest snapshot as the API's JSON; may be called from other threads."""
        return self.snapshot.report().model_dump_json(by_alias=True)

    def _until_ended(self) -> Ending | None:
        """Train until the run is over, or until a signal: then None."""
        while not self._stop.requested:
            self.progressed_at = waited_from = self._clock()
            try:
                message = self._exchange.next()
                self._take_evaluations()
                ending = self._finished()
                if ending is None and message is None:
                    self._followers.wait()
                elif ending is None and message is not None:
                    self._metrics.wait_seconds.observe(self._clock() - waited_from)
                    ending = self._train(message) or self._finished()
            except PeerUnavailable as error:
                self._give_up(error)
                continue
            if ending is not None:
                return ending
        return None

    def _conclude(self, ending: Ending) -> bool:
        """What a run that is over leaves behind; False where a signal came before all was told."""
        try:
            self._await_last_evaluation(ending)
            self.snapshot = self.snapshot.updated(
                training=report.training_status(self._memory.progress)
            )
            if self._newest is not None:
                self._record(*self._newest)  # again, for the evaluation that came after it
            self._save_checkpoint()
            self._client.finish()
        except PeerUnavailable as error:
            self._give_up(error)
            return False
        self.snapshot = self.snapshot.ended(ending, report.ledger_status(self._client.ledger))
        return True

    @property
    def _patience(self) -> float:
        """Seconds to wait for the peer after a signal: pods get it together, and it may be gone."""
        return self._spec.run_policy.termination_grace_period_seconds * PEER_SHARE_OF_GRACE

    def _give_up(self, error: PeerUnavailable) -> None:
        """A peer that is gone is an error, unless this role was asked to end too."""
        if not self._stop.requested:
            raise error
        log.warning("event=peer_gone error=%s", error)

    def _train(self, message: BatchMessage) -> Ending | None:
        started = self._clock()
        progress = self._memory.progress
        fragments = [self._decode(data) for data in message.fragments]
        batch = collate(fragments)
        for policy_version in (batch.policy_versions.min(), batch.policy_versions.max()):
            self._policy.check(self._step.version - int(policy_version))
        fraction = progress.scheduled_fraction
        self._followers.share(batch, fraction)
        result = self._step.update(self._followers.part(batch), progress=fraction)
        steps = sum(fragment.environment_steps for fragment in fragments)
        returns = [value for f in fragments for value in f.episode_returns.tolist()]
        progress.trained(steps=steps, version=self._step.version, returns=returns)
        judgement = self._judge.observe(
            report.observables(self._step.updates, result, progress.episode_return)
        )
        action = self._response.respond(judgement)
        due = result.outcome == "trained" and self._checkpoint_due()
        self._settle(message, result, reset=due and self._policy.exact_lag is not None)
        self._counts.observe(result)
        self._metrics.step_seconds.observe(self._clock() - started)
        self._metrics.observe(result, steps=steps)
        self._metrics.progressed(progress)
        self._metrics.judged(judgement.verdict.value)
        self.snapshot = Snapshot(
            attempt=self.snapshot.attempt,
            update=self._step.updates,
            training=report.training_status(progress),
            alignment=report.alignment_status(result, self._counts),
            stability=report.stability_status(result, judgement),
            staleness=report.staleness_status(result, self._response.staleness_bound),
            ledger=report.ledger_status(self._client.ledger),
            checkpoint=self._checkpoint,
        )
        self._newest = (result, judgement)
        self._record(result, judgement)
        if due:
            self._save_checkpoint()
        return self._act(action)

    def _record(self, result: UpdateResult, judgement: Judgement) -> None:
        progress = self._memory.progress
        row = report.telemetry_row(
            self.snapshot, result, judgement, elapsed=progress.elapsed, score=progress.evaluation
        )
        self._telemetry.write(row)

    def _decode(self, data: bytes) -> Fragment:
        algorithm, gymnasium = self._spec.algorithm, self._spec.workload.gymnasium
        assert gymnasium is not None
        try:
            return Fragment.from_tensors(
                decode(data, limit=len(data)),
                fragment_length=algorithm.fragment_length,
                environments=gymnasium.environments,
                description=self._description,
            )
        except MalformedFragment as error:
            # The parameter server refuses these; one that gets here is a defect.
            raise RoleError(
                "InternalError", f"learner: fragment: {error}", INTERNAL_ERROR
            ) from error

    def _settle(self, message: BatchMessage, result: UpdateResult, *, reset: bool) -> None:
        new = None
        if result.outcome == "trained":
            new = NewVersion(
                version=self._step.version,
                blob=save(self._step.weights()),
                evaluate_episodes=self._episodes_due(),
                reset_environments=reset,
            )
        try:
            self._exchange.settle(Settlement(message.batch_id, result.outcome, new))
        except PeerUnavailable as error:  # the step is made; its books and its checkpoint follow
            self._give_up(error)

    def _episodes_due(self) -> int:
        """Episodes to evaluate this version with: every interval, and the last version."""
        interval = self._spec.evaluation.interval_versions
        if interval is None:
            return 0
        if self._step.version % interval != 0 and self._finished() is None:
            return 0
        self._evaluation_requested = self._step.version
        return self._spec.evaluation.episodes

    def _take_evaluations(self, timeout: float = 0.0) -> None:
        for evaluation in self._client.evaluations(timeout):
            score = EvaluationScore(
                evaluation.version, fmean(evaluation.returns), len(evaluation.returns)
            )
            self._memory.progress.evaluated(score)
            self._metrics.progressed(self._memory.progress)
            log.info("event=evaluated version=%d return=%.2f", score.version, score.mean_return)

    def _finished(self) -> Ending | None:
        reason = self._memory.progress.finished(evaluating=self._evaluating)
        return None if reason is None else Ending("Complete", reason.value, reason.meaning)

    def _act(self, action: Action) -> Ending | None:
        """Carry out what stability.onDegraded asks for."""
        if action.kind is None:
            return None
        log.warning("event=stability action=%s message=%r", action.kind, action.message)
        self._metrics.actions.labels(action.kind).inc()
        match action.kind:
            case "Pace":
                self._client.pace(action.staleness_bound)
            case "Suspend":
                return Ending("Suspended", Reason.SUSPENDED_BY_STABILITY.value, action.message)
            case "Fail":
                return Ending("Failed", Reason.STABILITY_FAILED.value, action.message)
        return None

    def _await_last_evaluation(self, ending: Ending) -> None:
        """The return that a complete run reports is that of its last version.

        Where it reached its target, it is the one that did; a later one may be on its way.
        """
        self._exchange.flush()
        if ending.outcome != "Complete" or ending.reason == Reason.TARGET_RETURN_REACHED:
            return
        stall = self._spec.run_policy.stall_timeout_seconds
        deadline = self._clock() + min(FINAL_EVALUATION_SECONDS, stall / 2)
        while self._evaluation_requested > self._evaluated and not self._stop.requested:
            self.progressed_at = self._clock()
            if self._clock() >= deadline:
                log.warning("event=final_evaluation_missed version=%d", self._evaluation_requested)
                return
            self._take_evaluations(timeout=1.0)

    @property
    def _evaluated(self) -> int:
        score = self._memory.progress.evaluation
        return -1 if score is None else score.version

    def _checkpoint_due(self) -> bool:
        interval = self._spec.checkpoint
        versions, seconds = interval.interval_versions, interval.interval_seconds
        by_version = versions is not None and self._step.version % versions == 0
        by_time = seconds is not None and self._clock() - self._checkpoint_at >= seconds
        return by_version or by_time

    @property
    def _moment(self) -> tuple[int, int, int]:
        """What a checkpoint must be as new as: version, updates, version of the evaluation."""
        return self._step.version, self._step.updates, self._evaluated

    def _is_saved(self) -> bool:
        """Whether the newest checkpoint will do.

        With an exact lag it does in spite of batches that made no version: a run that is resumed
        from it repeats them to the bit, but from one after them only their like.
        """
        if self._saved is None or self._saved == self._moment:
            return self._saved is not None
        same_version = self._saved[0] == self._step.version
        moved_on = self._saved[1] != self._step.updates
        return self._policy.exact_lag is not None and same_version and moved_on

    def _save_checkpoint(self, patience: float = math.inf) -> None:
        """Write a checkpoint, unless there is one of now; wait `patience` for the peer."""
        if self._is_saved():
            return
        # What a resumed run goes on from, ledger and metrics included, is complete up to here.
        try:
            self._exchange.flush(patience)
        except ProtocolError as error:
            if not self._stop.requested:
                raise
            log.warning("event=settlement_lost error=%s", error)
        self._telemetry.flush()
        path = self._memory.save(self._checkpoints, ledger=self._client.ledger)
        self._checkpoint_at, self._saved = self._clock(), self._moment
        self._checkpoint = CheckpointStatus(
            version=self._step.version, path=str(path), time=report.now()
        )
        self._metrics.checkpoints.inc()
        self.snapshot = self.snapshot.updated(checkpoint=self._checkpoint)
        log.info("event=checkpoint version=%d path=%s", self._step.version, path)
