"""The reasons that conditions, phases and termination messages carry."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A CamelCase reason, stable for programs to read, with its meaning in one sentence."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # Accepted
    VALID = "Valid", "The manifest keeps every rule."
    INVALID_SPEC = "InvalidSpec", "The manifest breaks a rule; the message names the field."
    NAME_TAKEN = "NameTaken", "An object that the job needs exists and is not the job's."
    OBJECT_REFUSED = (
        "ObjectRefused",
        "The cluster refuses an object of the job, by quota, policy or a missing right; the "
        "message says which.",
    )
    IMMUTABLE_FIELD = "ImmutableField", "A field was changed that cannot change in a job's life."

    # Running, Suspended, Restarting
    STARTING = "Starting", "Roles are being started."
    ALL_ROLES_READY = "AllRolesReady", "Every role runs and is ready."
    TOO_FEW_ACTORS = (
        "TooFewActors",
        "Fewer actors are ready than minReplicas; where it is null, than replicas.",
    )
    SUSPENDED_BY_USER = "SuspendedByUser", "runPolicy.suspend is true."
    SUSPENDED_BY_STABILITY = (
        "SuspendedByStability",
        "The run was degraded, and stability.onDegraded is suspend.",
    )
    SUSPENDING = "Suspending", "The learner checkpoints, and the pods end."
    CHECKPOINT_GONE = (
        "CheckpointGone",
        "The learner's pod is gone, and with it its checkpoint; training begins anew. A "
        "job that is made with checkpoint.volume keeps its checkpoints.",
    )
    SPEC_CHANGED = "SpecChanged", "A role restarts with its new spec."
    UNSCHEDULABLE = "Unschedulable", "No node has room for a pod; the message says what is short."
    IMAGE_UNAVAILABLE = "ImageUnavailable", "The image of a pod cannot be pulled."
    POD_BLOCKED = "PodBlocked", "A pod cannot start; the message says what it waits for."
    PODS_REFUSED = (
        "PodsRefused",
        "The cluster refuses to make a pod, by quota or policy; the message says which.",
    )
    RESUMED = "Resumed", "The run goes on from its checkpoint."
    ACTOR_LOST = "ActorLost", "An actor ended before the run did; it is replaced."
    LEARNER_LOST = "LearnerLost", "The learner ended early; it resumes from its checkpoint."
    PARAMETER_SERVER_LOST = (
        "ParameterServerLost",
        "The parameter server ended early; it comes back with the newest weights.",
    )
    REPLACED = "Replaced", "A process ended because its successor had taken over."
    STALLED = "Stalled", "A role made no progress for stallTimeoutSeconds."
    NOT_STARTED = "NotStarted", "The run has not started yet."
    FINISHED = "Finished", "The run is over."

    # AlignmentHealthy and Stable
    STALE_REPORTS = "StaleReports", "The learner has not reported for too long to know."

    # AlignmentHealthy
    ALIGNMENT_WITHIN_THRESHOLDS = (
        "AlignmentWithinThresholds",
        "Consecutive policy gradients are no more aligned than is healthy.",
    )
    ALIGNMENT_HIGH = (
        "AlignmentHigh",
        "Consecutive policy gradients are aligned beyond the threshold; updates are projected or "
        "skipped.",
    )
    CALIBRATING = "Calibrating", "The healthy level of alignment is being measured."
    ALIGNMENT_OFF = "AlignmentOff", "Alignment is not measured."

    # Stable
    HEALTHY = "Healthy", "Nothing lasting is out of order."
    WATCH = "Watch", "One kind of evidence is out of order for long."
    DEGRADED = (
        "Degraded",
        "Two kinds of evidence together are out of order for long, and the return has fallen or "
        "they are far beyond their thresholds.",
    )
    DIVERGED = (
        "Diverged",
        "Training diverged: far beyond the thresholds for long, or numbers are not finite.",
    )
    NO_DATA = "NoData", "Nothing has been measured yet."

    # Complete
    ENVIRONMENT_STEPS_REACHED = (
        "EnvironmentStepsReached",
        "stopping.environmentSteps steps are trained.",
    )
    POLICY_VERSIONS_REACHED = "PolicyVersionsReached", "stopping.policyVersions are made."
    TARGET_RETURN_REACHED = "TargetReturnReached", "stopping.targetReturn is reached."
    WALL_TIME_REACHED = "WallTimeReached", "stopping.wallTimeSeconds have passed."

    # Failed
    STABILITY_FAILED = (
        "StabilityFailed",
        "The run was degraded, and stability.onDegraded is fail.",
    )
    STALENESS_VIOLATED = "StalenessViolated", "A batch was older than the bound."
    ENVIRONMENT_FAILED = (
        "EnvironmentFailed",
        "The environment raised, or returned what it must not.",
    )
    UNKNOWN_ENVIRONMENT = "UnknownEnvironment", "No environment has this id."
    UNSUPPORTED_ENVIRONMENT = (
        "UnsupportedEnvironment",
        "The environment's spaces are not supported.",
    )
    PROTOCOL_MISMATCH = "ProtocolMismatch", "Roles speak different versions of the protocol."
    PEER_UNAVAILABLE = "PeerUnavailable", "A peer did not answer within its deadline."
    PORT_TAKEN = "PortTaken", "A port is in use by another process."
    DISK_FULL = "DiskFull", "No space is left on the disk."
    DISK_UNWRITABLE = "DiskUnwritable", "A folder cannot be written."
    CHECKPOINT_INVALID = "CheckpointInvalid", "No checkpoint could be loaded."
    BACKOFF_LIMIT_EXCEEDED = (
        "BackoffLimitExceeded",
        "A role was restarted runPolicy.backoffLimit times and ended again.",
    )
    DISRUPTION_LIMIT_EXCEEDED = (
        "DisruptionLimitExceeded",
        "The learner or the parameter server was lost runPolicy.disruptionLimit times, and again.",
    )
    DEADLINE_EXCEEDED = (
        "DeadlineExceeded",
        "runPolicy.activeDeadlineSeconds or preRunningDeadlineSeconds have passed.",
    )
    OUT_OF_MEMORY = "OutOfMemory", "A role was killed for its memory."
    INTERRUPTED = "Interrupted", "The run was stopped by a signal, after its checkpoint."
    INTERNAL_ERROR = "InternalError", "A defect of this software; the log has the traceback."


CONDITION_MEANINGS = {
    "Accepted": "The manifest keeps every rule.",
    "QuotaReserved": "The quota that the job needs is reserved.",
    "Running": "Every role that training needs is ready.",
    "Suspended": "The run is stopped after a checkpoint, and resumes on request.",
    "Restarting": "A role is lost and comes back.",
    "AlignmentHealthy": "Consecutive policy gradients are no more aligned than is healthy.",
    "Stable": "The verdict is Healthy or Watch.",
    "Complete": "A limit of spec.stopping is reached.",
    "Failed": "The run is over without reaching a limit.",
}
"""What each condition type says where its status is True."""
