"""The libraries asyncrl is compared with, each in an environment of its own."""

from benchmarks.peers.environment import (
    SAMPLE_FACTORY,
    STABLE_BASELINES3,
    DriverResult,
    Peer,
    PeerFailed,
    prepare,
    run_driver,
)

__all__ = [
    "SAMPLE_FACTORY",
    "STABLE_BASELINES3",
    "DriverResult",
    "Peer",
    "PeerFailed",
    "prepare",
    "run_driver",
]
