"""The committed protobuf modules are those that rollouts.proto generates."""

from __future__ import annotations

from asyncrl_worker.protocol.generate import drift


def test_generated_modules_do_not_drift() -> None:
    assert drift() == []
