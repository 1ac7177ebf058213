"""Errors that end a role, and the exit codes that say what to do about them."""

from __future__ import annotations

COMPLETE = 0
FAILED = 1
WRONG_CONFIGURATION = 2
PEER_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h: retried
INTERNAL_ERROR = 70  # EX_SOFTWARE: retried
DISK_ERROR = 74  # EX_IOERR: not retried
TERMINATED = 130


class Fault(Exception):
    """Base of the errors that a role ends with: one line for a person, and what follows from it.

    `reason`: CamelCase, for the status. `exit_code`: one of this module's, for the supervisor.
    """

    reason: str = "InternalError"
    exit_code: int = INTERNAL_ERROR


class RoleError(Fault):
    """A fault without a class of its own."""

    def __init__(self, reason: str, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code
