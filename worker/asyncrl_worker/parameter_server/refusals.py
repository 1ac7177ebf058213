"""Who may call what, and how a refusal looks to the caller."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio

from asyncrl_worker.parameter_server.fence import LearnerId
from asyncrl_worker.protocol.errors import (
    ConfigurationError,
    Fenced,
    HelloRequired,
    MalformedMessage,
)
from asyncrl_worker.protocol.messages import PROTOCOL_VERSION
from asyncrl_worker.protocol.wire import FENCED, HELLO_REQUIRED, REASON_KEY, REFUSED
from asyncrl_worker.staleness import LedgerViolation, StalenessViolation

Context = grpc.aio.ServicerContext[Any, Any]


async def abort(
    context: Context, code: grpc.StatusCode, detail: str, kind: str = REFUSED
) -> NoReturn:
    """Ends the call; `kind` tells the client what to do about it."""
    await context.abort(code, detail, ((REASON_KEY, kind),))
    raise AssertionError("abort returned")


def same_host(context: Context) -> bool:
    """Whether the caller came through the Unix socket."""
    return str(context.peer()).startswith("unix:")


def role_problem(context: Context, roles: tuple[str, ...]) -> str:
    """Why the caller is none of `roles`; empty where it is one.

    Unix sockets are protected by their file mode; elsewhere the certificate's name decides.
    """
    if same_host(context):
        return ""
    names = [
        name.decode("ascii", "replace")
        for name in context.auth_context().get("x509_common_name", [])
    ]
    if any(name in roles for name in names):
        return ""
    return f"the certificate of {' or '.join(names) or 'nobody'} may not do this, {roles[0]}'s may"


class _FromLearner(Protocol):
    attempt: int
    incarnation: int


def learner_of(message: _FromLearner) -> LearnerId:
    """Which process of the learner a message is from."""
    return LearnerId(message.attempt, message.incarnation)


def version_problem(role: str, version: int) -> str:
    """Why a peer of this protocol version cannot be served; empty where it can."""
    if version == PROTOCOL_VERSION:
        return ""
    return (
        f"protocol version {version} of this {role}, {PROTOCOL_VERSION} of the parameter server; "
        "use the same asyncrl release (image) in every role"
    )


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, str]:
    """Status code, kind and one line for a learner's call that failed with `error`."""
    match error:
        case LedgerViolation() | StalenessViolation():
            return grpc.StatusCode.INTERNAL, REFUSED, str(error)
        case Fenced():
            return grpc.StatusCode.FAILED_PRECONDITION, FENCED, str(error)
        case HelloRequired():
            return grpc.StatusCode.FAILED_PRECONDITION, HELLO_REQUIRED, str(error)
        case MalformedMessage():
            return grpc.StatusCode.DATA_LOSS, REFUSED, str(error)
        case ConfigurationError():
            return grpc.StatusCode.INVALID_ARGUMENT, REFUSED, str(error)
        case TimeoutError() | StopAsyncIteration():
            return grpc.StatusCode.CANCELLED, REFUSED, "the upload stopped half-way"
        case _:
            return grpc.StatusCode.FAILED_PRECONDITION, REFUSED, str(error)
