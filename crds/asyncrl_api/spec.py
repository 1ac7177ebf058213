"""The AsyncRLJob resource: metadata and spec. Each part is a module of its own."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from asyncrl_api.algorithm import Algorithm, Network, Optimizer
from asyncrl_api.alignment import Alignment, Deviations
from asyncrl_api.compensation import Compensation, KlFeedback
from asyncrl_api.lifecycle import Checkpoint, Evaluation, RunPolicy, Stopping
from asyncrl_api.model import Model, Rule, option
from asyncrl_api.roles import Actors, EnvironmentVariable, Learner, ParameterServer, Resources, Role
from asyncrl_api.stability import Stability, StabilityThresholds
from asyncrl_api.staleness import Staleness
from asyncrl_api.status import JobStatus
from asyncrl_api.workload import Gymnasium, Workload

__all__ = [
    "API_VERSION",
    "KIND",
    "Actors",
    "Algorithm",
    "Alignment",
    "AsyncRLJob",
    "AsyncRLJobSpec",
    "Checkpoint",
    "Compensation",
    "Deviations",
    "EnvironmentVariable",
    "Evaluation",
    "Gymnasium",
    "KlFeedback",
    "Learner",
    "Network",
    "ObjectMeta",
    "Optimizer",
    "ParameterServer",
    "Resources",
    "Role",
    "RunPolicy",
    "Stability",
    "StabilityThresholds",
    "Staleness",
    "Stopping",
    "Workload",
]

GROUP = "asyncrl.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "AsyncRLJob"
NAME_LENGTH = 40
"""63, the longest host name of a pod, less the longest suffix, `-parameter-server-0`, and some."""


def _ranks_share_a_batch(spec: AsyncRLJobSpec) -> bool:
    gymnasium = spec.workload.gymnasium
    if gymnasium is None:
        return True
    columns = gymnasium.environments * spec.algorithm.fragments_per_batch
    return columns % (spec.learner.replicas * spec.algorithm.minibatches) == 0


def _linear_schedule_has_an_end(spec: AsyncRLJobSpec) -> bool:
    stopping = spec.stopping
    return (
        spec.optimizer.schedule != "linear"
        or stopping.environment_steps is not None
        or stopping.policy_versions is not None
    )


class AsyncRLJobSpec(Model):
    """What to train, how, and with which processes."""

    seed: int = option(
        0, "Seed of all random streams: networks, actors, environments.", ge=0, le=2**32 - 1
    )
    workload: Workload = option(..., "The task to learn; exactly one kind.")
    algorithm: Algorithm = option(Algorithm, "The loss and the shape of its batches.")
    network: Network = option(Network, "Policy and value network.")
    optimizer: Optimizer = option(Optimizer, "The optimizer.")
    alignment: Alignment = option(Alignment, "Gradient Alignment Control.")
    compensation: Compensation = option(Compensation, "Compensation of staleness.")
    staleness: Staleness = option(Staleness, "How old the data of an update may be.")
    stability: Stability = option(Stability, "When a run counts as unstable, and what follows.")
    stopping: Stopping = option(
        Stopping, "When the run is complete: at the first of the limits given."
    )
    checkpoint: Checkpoint = option(Checkpoint, "When the learner saves its state.")
    evaluation: Evaluation = option(Evaluation, "How the policy is measured.")
    actors: Actors = option(Actors, "The actors, which step environments.")
    learner: Learner = option(Learner, "The learner, which updates the policy.")
    parameter_server: ParameterServer = option(
        ParameterServer, "The parameter server, which holds weights, queue and ledger."
    )
    run_policy: RunPolicy = option(RunPolicy, "How the run is kept going and cleaned up.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            path=("learner", "replicas"),
            cel="!has(self.workload.gymnasium) || "
            "(self.workload.gymnasium.environments * self.algorithm.fragmentsPerBatch) "
            "% (self.learner.replicas * self.algorithm.minibatches) == 0",
            holds=_ranks_share_a_batch,
            message="times algorithm.minibatches must divide workload.gymnasium.environments x "
            "algorithm.fragmentsPerBatch, so that every rank trains an equal share of every "
            "minibatch; change one of the four",
        ),
        Rule(
            path=("alignment", "adamDamping"),
            cel="!self.alignment.adamDamping || self.optimizer.name != 'sgd'",
            holds=lambda s: not s.alignment.adam_damping or s.optimizer.name != "sgd",
            message="needs optimizer.name adam or adamw; set it to false for sgd",
        ),
        Rule(
            path=("optimizer", "schedule"),
            cel="self.optimizer.schedule != 'linear' || has(self.stopping.environmentSteps) || "
            "has(self.stopping.policyVersions) || "
            "!(has(self.stopping.targetReturn) || has(self.stopping.wallTimeSeconds))",
            holds=_linear_schedule_has_an_end,
            message="needs the run's length; set stopping.environmentSteps or "
            "stopping.policyVersions, or use constant",
        ),
    )


class ObjectMeta(BaseModel):
    """Kubernetes object metadata. Fields that only Kubernetes uses are kept as they are."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="allow", strict=True, frozen=True
    )

    name: str = option(
        ...,
        "Name of the job. Roles, pods and services are named after it, as in "
        "NAME-parameter-server-0, and must fit into 63 characters.",
        min_length=1,
        max_length=NAME_LENGTH,
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        remedy="use at most 40 lower-case letters, digits and '-', starting with a letter and "
        "ending with a letter or digit; pods and services append their own suffix and must fit "
        "into 63",
    )
    namespace: str | None = option(None, "Namespace. Not used on one machine.", max_length=63)
    labels: dict[str, str] = option(dict, "Labels.")
    annotations: dict[str, str] = option(dict, "Annotations.")


class AsyncRLJob(Model):
    """An asynchronous reinforcement learning job."""

    api_version: Literal["asyncrl.io/v1alpha1"] = option(..., "Version of the API.")
    kind: Literal["AsyncRLJob"] = option(..., "Kind of the resource.")
    metadata: ObjectMeta = option(..., "Object metadata.")
    spec: AsyncRLJobSpec = option(..., "What to train, how, and with which processes.")
    status: JobStatus | None = option(None, "What is known of the run; written by its backend.")

    @property
    def name(self) -> str:
        """metadata.name."""
        return self.metadata.name

    def document(self, *, defaults: bool = True) -> dict[str, Any]:
        """The manifest as a mapping with every default, or with none; no status; YAML names.

        Without defaults it is what every version of the API with these fields reads as this job.
        """
        return self.model_dump(
            mode="json", by_alias=True, exclude={"status"}, exclude_defaults=not defaults
        )
