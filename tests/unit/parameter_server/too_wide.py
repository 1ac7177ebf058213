"""A parameter server with a defect: pace opens the gate wider than the job allows."""

from __future__ import annotations

from asyncrl_worker.parameter_server.main import main
from asyncrl_worker.parameter_server.schedule import BoundedSchedule
from asyncrl_worker.role import leave, run_role


def widen(self: BoundedSchedule, eta: int) -> int:
    self._eta = eta
    return eta


if __name__ == "__main__":
    BoundedSchedule.pace = widen  # type: ignore[method-assign]
    leave(run_role("parameter-server", main))
