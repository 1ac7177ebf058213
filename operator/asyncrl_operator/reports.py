"""Reads the learners' reports over mutual TLS, one request per job and interval."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from pydantic import ValidationError

from asyncrl_api.status import LearnerReport
from asyncrl_operator.kube.certificates import Identity
from asyncrl_operator.plan.names import REPORT_PORT
from asyncrl_operator.plan.observed import Report
from asyncrl_operator.workqueue import Key

REQUEST_SECONDS = 3.0
CONCURRENT_REQUESTS = 32
LARGEST_REPORT = 64 * 1024
SERVER_NAME = "learner"

log = logging.getLogger("asyncrl.operator")


@dataclass(frozen=True)
class Target:
    """Where the learner of a job reports."""

    address: str
    pod_uid: str
    identity: Identity

    @property
    def url(self) -> str:
        """The address of the report."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{host}:{REPORT_PORT}/report"


class Reports:
    """The newest report of every job; `changed` is called with the key when there is a new one."""

    def __init__(self, interval: float, changed: Callable[[Key], None]) -> None:
        self._interval = interval
        self._changed = changed
        self._targets: dict[Key, Target] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._reports: dict[Key, Report] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_REQUESTS)
        self._session: aiohttp.ClientSession | None = None

    def get(self, key: Key) -> Report | None:
        """The newest report of a job."""
        return self._reports.get(key)

    def follow(self, key: Key, target: Target | None) -> None:
        """Read the reports of this learner from now on, or of none."""
        if self._targets.get(key) == target:
            return
        self._stop(key)
        if target is not None:
            self._targets[key] = target
            self._tasks[key] = asyncio.create_task(
                self._read(key, target), name=f"report-{key[0]}/{key[1]}"
            )

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._stop(key)
        self._reports.pop(key, None)

    async def close(self) -> None:
        """End every request."""
        for key in list(self._tasks):
            self._stop(key)
        if self._session is not None:
            await self._session.close()

    def _stop(self, key: Key) -> None:
        self._targets.pop(key, None)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def _read(self, key: Key, target: Target) -> None:
        context = client_context(target.identity)
        failing = False
        while True:
            try:
                async with self._slots:
                    report = await self._fetch(target, context)
                self._received(key, report)
                failing = False
            except (TimeoutError, aiohttp.ClientError, OSError, ValidationError) as error:
                if not failing:
                    line = " ".join(str(error).split())[:200]
                    log.info('event=report_failed error="%s: %s"', type(error).__name__, line)
                failing = True
            await asyncio.sleep(self._interval)

    async def _fetch(self, target: Target, context: ssl.SSLContext) -> LearnerReport:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=CONCURRENT_REQUESTS),
                trust_env=False,
            )
        async with self._session.get(
            target.url,
            ssl=context,
            server_hostname=SERVER_NAME,
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        ) as response:
            response.raise_for_status()
            return LearnerReport.model_validate_json(await _body(response))

    def _received(self, key: Key, report: LearnerReport) -> None:
        self._reports[key] = Report(report, datetime.now(UTC))
        self._changed(key)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = await response.content.read(LARGEST_REPORT + 1)
    while len(body) <= LARGEST_REPORT and not response.content.at_eof():
        body += await response.content.read(LARGEST_REPORT + 1 - len(body))
    if len(body) > LARGEST_REPORT:
        raise aiohttp.ClientPayloadError(f"more than {LARGEST_REPORT} bytes")
    return body


def client_context(identity: Identity) -> ssl.SSLContext:
    """A TLS context that presents the operator and trusts the job's authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.authority.decode())
    # The ssl module reads a certificate from a file only.
    descriptor, name = tempfile.mkstemp(prefix="asyncrl-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.certificate + identity.key)
        context.load_cert_chain(name)
    finally:
        with suppress(OSError):
            Path(name).unlink()
    return context
