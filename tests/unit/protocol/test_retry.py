"""Waiting for a peer: paused, bounded, and told now and then."""

from __future__ import annotations

import logging
import threading

import pytest

from asyncrl_worker.protocol.errors import PeerUnavailable
from asyncrl_worker.protocol.retry import Retry


class Patient(threading.Event):
    """An event whose waits pass time on the clock only."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        self.time += timeout
        return self.is_set()


def test_it_waits_longer_each_time_tells_so_now_and_then_and_gives_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patient = Patient()
    retry = Retry("parameter server at ps:1", "connecting", 100.0, lambda: patient.time)
    with pytest.raises(PeerUnavailable, match=r"no answer for 99\..* while connecting \(refused\)"):
        while True:
            retry.wait(patient, "refused")
    assert patient.pauses == sorted(patient.pauses)
    assert (patient.pauses[0], patient.pauses[-1]) == (0.05, 1.0)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4, "after 5 seconds, then every 30"
    assert lines[0].startswith(
        'event=waiting peer="parameter server at ps:1" phase="connecting" seconds=6'
    )
    assert 'error="refused"' in lines[0]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_an_interruption_ends_the_pause() -> None:
    patient = Patient()
    patient.set()
    with pytest.raises(PeerUnavailable):
        Retry("peer", "asking", 100.0, lambda: patient.time).wait(patient, "")
    assert len(patient.pauses) == 1
