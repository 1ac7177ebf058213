"""What can go wrong between two roles, as one line each."""

from __future__ import annotations

from asyncrl_api.reasons import Reason
from asyncrl_worker.fault import PEER_UNAVAILABLE, TERMINATED, WRONG_CONFIGURATION, Fault


class ProtocolError(Fault):
    """Base of the protocol's errors; ``str()`` is one line with cause and remedy."""


class MalformedMessage(ProtocolError):
    """A message whose bytes are not what the protocol says; it is counted, never trained on."""


class ConfigurationError(ProtocolError):
    """An address, certificate or size that cannot work; retrying does not help."""

    reason = Reason.INVALID_SPEC
    exit_code = WRONG_CONFIGURATION


class Refused(ProtocolError):
    """The peer answered and said no (protocol version, schema, role); retrying does not help."""

    reason = Reason.PROTOCOL_MISMATCH
    exit_code = WRONG_CONFIGURATION


class HelloRequired(Refused):
    """The learner must introduce itself first: this parameter server does not know the attempt."""


class Fenced(ProtocolError):
    """A successor of this process has taken over; this one must end, and not come back."""

    reason = Reason.REPLACED
    exit_code = TERMINATED


class WeightsGone(ProtocolError):
    """The wanted policy version is not kept any more; give the ticket back with `ready()`."""


class PeerUnavailable(ProtocolError):
    """A peer did not answer within the deadline.

    Attributes: ``peer`` (role and address), ``phase`` (what was being done), ``elapsed`` (seconds
    since it stopped answering).
    """

    reason = Reason.PEER_UNAVAILABLE
    exit_code = PEER_UNAVAILABLE

    def __init__(self, peer: str, phase: str, elapsed: float, detail: str = "") -> None:
        self.peer = peer
        self.phase = phase
        self.elapsed = elapsed
        cause = f" ({detail})" if detail else ""
        super().__init__(
            f"{peer}: no answer for {elapsed:.1f} s while {phase}{cause}; "
            "is it running and reachable?"
        )
