"""Asks the roles of a local run for their report and health, over HTTP on the loopback."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from asyncrl.backends.unit import ProcessName
from asyncrl.run_folder import RunFolder, read_json_object
from asyncrl_api.status import LearnerReport

REQUEST_SECONDS = 2.0
POLL_SECONDS = 0.5
LARGEST_ANSWER = 1 << 20


@dataclass(frozen=True)
class Observation:
    """One look at the roles: the learner's report if it answered, and who has an endpoint."""

    report: LearnerReport | None
    ready: frozenset[str]


def get(address: str, path: str, seconds: float = REQUEST_SECONDS) -> tuple[int, bytes]:
    """Status and body of a GET. Raises OSError or http.client.HTTPException. Uses no proxy."""
    connection = http.client.HTTPConnection(address, timeout=seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(LARGEST_ANSWER)
    finally:
        connection.close()


def endpoint_of(folder: RunFolder, process: str) -> str | None:
    """The address that a process wrote for its metrics and health, if it did."""
    document = read_json_object(folder.endpoint(process))
    address = document.get("http") if document else None
    return address if isinstance(address, str) else None


def fetch_report(folder: RunFolder) -> LearnerReport | None:
    """The learner's report, or None while it does not answer."""
    address = endpoint_of(folder, "learner-0")
    if address is None:
        return None
    try:
        status, body = get(address, "/report")
        return LearnerReport.model_validate_json(body) if status == 200 else None
    except (OSError, http.client.HTTPException, ValidationError):
        return None


def health_problem(folder: RunFolder, process: str) -> str | None:
    """None for a healthy role, else one line of what is wrong with it."""
    address = endpoint_of(folder, process)
    if address is None:
        return "has not started to serve its health"
    try:
        status, body = get(address, "/healthz")
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer ({error})"
    return None if status == 200 else " ".join(body.decode(errors="replace").split())[:200]


class Poller:
    """Looks at the roles every `seconds`, from a thread, and hands what it saw to `observe`."""

    def __init__(
        self,
        folder: RunFolder,
        processes: Iterable[ProcessName],
        observe: Callable[[Observation], None],
        seconds: float = POLL_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._folder = folder
        self._processes = tuple(str(process) for process in processes)
        self._observe = observe
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(REQUEST_SECONDS + self._seconds)

    def _run(self) -> None:
        previous: frozenset[str] = frozenset()
        while not self._stop.wait(self._seconds):
            ready = frozenset(
                process for process in self._processes if self._folder.endpoint(process).exists()
            )
            report = fetch_report(self._folder)
            if report is not None or ready != previous:
                self._observe(Observation(report, ready))
            previous = ready
