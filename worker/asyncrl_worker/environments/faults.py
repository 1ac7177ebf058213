"""What the user's environment did wrong, in one line."""

from __future__ import annotations

from asyncrl_api.reasons import Reason
from asyncrl_worker.fault import WRONG_CONFIGURATION, Fault

FIELD = "spec.workload.gymnasium.id"


class EnvironmentFault(Fault):
    """The environment cannot be used: wrong name, missing package, exception, impossible values.

    One line: the field of the manifest, the cause, the remedy. Not retried.
    """

    exit_code = WRONG_CONFIGURATION

    def __init__(self, reason: Reason, cause: str, *, field: str = FIELD) -> None:
        super().__init__(" ".join(f"{field}: {cause}".split()))
        self.reason = reason


def raised(name: str, where: str, error: BaseException) -> EnvironmentFault:
    """The environment's own code raised `error`; `where` says at which step."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return EnvironmentFault(
        Reason.ENVIRONMENT_FAILED,
        f"'{name}' raised {where}: {what}; correct the environment's code",
    )


def wrong_shape(
    name: str, where: str, what: str, got: tuple[int, ...], expected: tuple[int, ...]
) -> EnvironmentFault:
    """`what` ("an observation", ...) does not have the shape that the spaces promise."""
    return EnvironmentFault(
        Reason.ENVIRONMENT_FAILED,
        f"'{name}' returned {where} {what} of shape {list(got)}, expected {list(expected)}; "
        "correct the environment's code or its spaces",
    )


def not_finite(name: str, where: str, what: str) -> EnvironmentFault:
    """`what` ("an observation" or "a reward") contains NaN or infinity."""
    return EnvironmentFault(
        Reason.ENVIRONMENT_FAILED,
        f"'{name}' returned {where} {what} that is NaN or infinite; correct the environment's code",
    )
