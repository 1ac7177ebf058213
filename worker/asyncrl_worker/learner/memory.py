"""Everything a run must remember to go on as if nothing had happened: to and from a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from asyncrl_api.spec import AsyncRLJobSpec
from asyncrl_api.status import CheckpointStatus
from asyncrl_worker.admission import staleness_policy
from asyncrl_worker.learner.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    flatten,
    load_optimizer,
    optimizer_tensors,
    section,
)
from asyncrl_worker.learner.progress import Progress
from asyncrl_worker.learner.report import AlignmentCounts
from asyncrl_worker.learner.step import LearnerStep
from asyncrl_worker.learner.thresholds import stability_thresholds
from asyncrl_worker.stability import Response, StabilityJudge
from asyncrl_worker.staleness import Ledger

log = logging.getLogger("asyncrl")


class RunMemory:
    """The step, the counters and the verdict of a run, saved and restored together."""

    def __init__(
        self,
        step: LearnerStep,
        progress: Progress,
        judge: StabilityJudge,
        response: Response,
    ) -> None:
        self.step = step
        self.progress = progress
        self.alignment = AlignmentCounts()
        self.checkpoint = CheckpointStatus()
        self.judge = judge
        self.response = response

    @classmethod
    def of(
        cls, spec: AsyncRLJobSpec, step: LearnerStep, clock: Callable[[], float] = time.monotonic
    ) -> Self:
        """Of a run that begins; `clock` in seconds, for its throughput and its wall time."""
        policy = staleness_policy(spec)
        return cls(
            step,
            Progress(spec.stopping, clock),
            StabilityJudge(stability_thresholds(spec.stability)),
            Response(
                spec.stability.on_degraded,
                staleness_max=policy.bound,
                exact=policy.exact_lag is not None,
            ),
        )

    def save(self, folder: CheckpointFolder, *, ledger: Ledger) -> Path:
        """Write a checkpoint of the current version; returns its folder. Raises OSError."""
        return folder.save(Checkpoint(self.step.version, self._tensors(), self._state(ledger)))

    def restore(self, checkpoint: Checkpoint, path: Path) -> Ledger:
        """Go on from a checkpoint that lies, on rank 0, at `path`; returns its ledger."""
        step, tensors, state = self.step, checkpoint.tensors, checkpoint.state
        step.policy.load_state_dict(section("policy", tensors))
        step.value.load_state_dict(section("value", tensors))
        load_optimizer(step.policy_optimizer, section("policy_optimizer", tensors))
        load_optimizer(step.value_optimizer, section("value_optimizer", tensors))
        step.normalizer.load(section("normalizer", tensors))
        step.displacement.load(section("displacement", tensors))
        self._restore_alignment(section("alignment", tensors), state)
        step.value_scale.load(state["value_scale"])
        step.split_half.smoothed = state["split_half"]
        # Checkpoints from before the mode was in them: as of "target".
        step.kl_feedback.load(state.get("kl_mode", "target"), state["kl_coefficient"])
        step.version, step.updates = checkpoint.version, state["updates"]
        torch.set_rng_state(tensors["random.torch"])
        self.progress.load(state["progress"])
        self.alignment = AlignmentCounts(**state["alignment_counts"])
        self.judge.load_state_dict(state["judge"])
        self.response.load_state_dict(state["response"])
        self.checkpoint = CheckpointStatus(version=checkpoint.version, path=str(path))
        return Ledger(**state["ledger"])

    def _restore_alignment(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Of what alignment control remembers, that which holds by the present manifest.

        Another scope is another gradient, whose healthy level is another: all is learned anew.
        After a change of memoryDtype only the previous gradient goes, and with it one comparison.
        """
        alignment = self.step.spec.alignment
        scope = state.get("alignment_scope", alignment.scope)
        if scope != alignment.scope:
            log.warning(
                "event=alignment_anew scope=%s before=%s: the healthy level is learned anew",
                alignment.scope,
                scope,
            )
            return
        previous = tensors.get("previous")
        needed = getattr(torch, alignment.memory_dtype)
        if previous is not None and previous.dtype != needed:
            log.warning(
                "event=alignment_rebased memoryDtype=%s before=%s: the first update has no cosine",
                alignment.memory_dtype,
                str(previous.dtype).removeprefix("torch."),
            )
            del tensors["previous"]
        self.step.alignment.load_state_dict({"tensors": tensors, "scalars": state["alignment"]})

    def _tensors(self) -> dict[str, Tensor]:
        step = self.step
        return (
            flatten("policy", step.policy.state_dict())
            | flatten("value", step.value.state_dict())
            | flatten("policy_optimizer", optimizer_tensors(step.policy_optimizer))
            | flatten("value_optimizer", optimizer_tensors(step.value_optimizer))
            | flatten("normalizer", step.normalizer.state())
            | flatten("displacement", step.displacement.state())
            | flatten("alignment", step.alignment.state_dict()["tensors"])
            | {"random.torch": torch.get_rng_state()}
        )

    def _state(self, ledger: Ledger) -> dict[str, Any]:
        step = self.step
        counts = self.alignment
        return {
            "updates": step.updates,
            "alignment": step.alignment.state_dict()["scalars"],
            "alignment_scope": step.spec.alignment.scope,
            "value_scale": step.value_scale.state(),
            "split_half": step.split_half.smoothed,
            "kl_mode": step.kl_feedback.mode,
            "kl_coefficient": step.kl_feedback.coefficient,
            "progress": self.progress.state(),
            "alignment_counts": {
                "updates": counts.updates,
                "projected": counts.projected,
                "skipped": counts.skipped,
            },
            "judge": self.judge.state_dict(),
            "response": self.response.state_dict(),
            "ledger": {
                "produced": ledger.produced,
                "trained": ledger.trained,
                "dropped": {str(reason): count for reason, count in ledger.dropped.items()},
                "queued": ledger.queued,
                "in_flight": ledger.in_flight,
            },
        }
