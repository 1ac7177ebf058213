"""The HTTP endpoints of a role: /metrics, /healthz, /readyz and, on the learner, /report.

Metrics and health are plain HTTP: the kubelet's probes and Prometheus have no certificate of the
job, and there is no secret in them; who may connect is a NetworkPolicy's to say. The report steers
what the operator does, so with TLS it has a listener of its own, and asks for a certificate.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)

from asyncrl_api.reasons import Reason
from asyncrl_worker.atomic import write_atomically
from asyncrl_worker.fault import WRONG_CONFIGURATION, RoleError
from asyncrl_worker.protocol.errors import ConfigurationError
from asyncrl_worker.protocol.tls import load_certificates
from asyncrl_worker.role import RoleArguments

log = logging.getLogger("asyncrl")

REQUEST_SECONDS = 5.0
"""Longest silence of a client, handshake included; it holds up its own thread only."""

POLL_SECONDS = 0.1
"""Longest that the end of a role waits for its listeners."""

Answer = tuple[HTTPStatus, str, bytes]
PLAIN = "text/plain; charset=utf-8"


class Endpoint:
    """Serves a role's metrics and health from threads of their own; a context manager.

    `health` returns None when healthy, else one line that says what is wrong (answered as 503).
    `report` returns JSON, or None while there is nothing to report (503). Without
    `arguments.tls`, as on one machine, /report is served beside the rest; with it only on
    `arguments.report`, to clients with a certificate of the job's authority. Without that address
    there is none.

    On entering, the bound addresses are written to `run_directory/roles/<role>-<index>.json`.
    Raises RoleError(PortTaken) if it cannot bind, ConfigurationError for certificates that cannot
    be read. A slow client, or one that does not finish its handshake, holds up nobody else.
    """

    def __init__(
        self,
        arguments: RoleArguments,
        *,
        registry: CollectorRegistry,
        health: Callable[[], str | None],
        ready: Callable[[], bool],
        report: Callable[[], str | None] | None = None,
    ) -> None:
        self._arguments = arguments
        self._registry = registry
        self._health = health
        self._ready = ready
        self._report = report
        self._stack = ExitStack()
        self.address = ""
        self.report_address = ""

    def __enter__(self) -> Self:
        arguments = self._arguments
        with ExitStack() as stack:
            stack.callback(self._registry.unregister, ProcessCollector(registry=self._registry))
            plain = self._bind(arguments.http, self.answer, None)
            stack.callback(plain.server_close)
            servers = [plain]
            self.address = plain.address
            document: dict[str, object] = {
                "http": self.address,
                "pid": os.getpid(),
                "attempt": arguments.attempt,
            }
            if self._report is not None and arguments.report is not None:
                tls = _MutualTls(_required(arguments))
                mutual = self._bind(arguments.report, self.answer_report, tls)
                stack.callback(mutual.server_close)
                servers.append(mutual)
                self.report_address = document["report"] = mutual.address
            folder = arguments.run_directory / "roles"
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{arguments.name}.json", json.dumps(document).encode())
            for server in servers:
                serve = partial(server.serve_forever, POLL_SECONDS)
                threading.Thread(target=serve, name="endpoint", daemon=True).start()
                stack.callback(server.shutdown)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def answer(self, path: str) -> Answer:
        """The plain listener's answer to a GET; 500 where health, report or metrics raise."""
        return _guarded(path, self._answer)

    def answer_report(self, path: str) -> Answer:
        """The answer of the listener that asks for certificates."""
        return _guarded(path, self._answer_report)

    def _answer(self, path: str) -> Answer:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        if path == "/healthz":
            problem = self._health()
            status = HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE
            return status, PLAIN, (problem or "ok").encode()
        if path == "/readyz":
            ready = self._ready()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            return status, PLAIN, b"ok" if ready else b"not ready"
        if path == "/report" and self._arguments.tls is None:
            return self._answer_report(path)
        return HTTPStatus.NOT_FOUND, PLAIN, b"try /metrics, /healthz, /readyz"

    def _answer_report(self, path: str) -> Answer:
        if path != "/report" or self._report is None:
            return HTTPStatus.NOT_FOUND, PLAIN, b"only the learner has one: /report"
        report = self._report()
        if report is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, b"nothing to report yet"
        return HTTPStatus.OK, "application/json", report.encode()

    def _bind(
        self, address: str, answer: Callable[[str], Answer], tls: _MutualTls | None
    ) -> _Server:
        host, _, port = address.rpartition(":")

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:
                status, content_type, body = answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not events."""

        try:
            return _Server((host or "127.0.0.1", int(port)), Handler, tls)
        except (OSError, OverflowError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            message = f"{self._arguments.name}: metrics address {address}: {cause}; "
            message += "choose another metricsPort for this role, or 0 for any free one"
            if tls is not None:
                message = f"{self._arguments.name}: --report {address}: {cause}; choose another"
            raise RoleError(Reason.PORT_TAKEN, message, WRONG_CONFIGURATION) from error


def _guarded(path: str, answer: Callable[[str], Answer]) -> Answer:
    try:
        return answer(path)
    except Exception as error:
        log.exception("event=endpoint_failed path=%s", path)
        problem = f"{path}: {type(error).__name__}; the trace is in this role's log"
        return HTTPStatus.INTERNAL_SERVER_ERROR, PLAIN, problem.encode()


def _required(arguments: RoleArguments) -> Path:
    if arguments.tls is None:
        raise ConfigurationError(
            f"--report {arguments.report}: refused without --tls DIR; without TLS the report is "
            "served on the address of --http"
        )
    return arguments.tls


class _Server(ThreadingHTTPServer):
    """One daemon thread per connection, in which the TLS handshake happens too."""

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        tls: _MutualTls | None,
    ) -> None:
        super().__init__(address, handler)
        self._tls = tls

    @property
    def address(self) -> str:
        """Where it really listens."""
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[Any, Any]:
        """The next connection, with the certificates that are valid now."""
        connection, peer = super().get_request()
        return (connection if self._tls is None else self._tls.wrap(connection)), peer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left, was silent or had no certificate is one line, not a trace."""
        error = sys.exception()
        if isinstance(error, OSError):
            log.info("event=endpoint_client peer=%s error=%s", client_address, error)
        else:
            log.error("event=endpoint_client peer=%s", client_address, exc_info=error)


class _MutualTls:
    """Asks for a certificate, by a folder whose files are renewed while the role runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = load_certificates(folder)  # for its one line about what is missing
        self._context = self._make()

    def wrap(self, connection: socket.socket) -> socket.socket:
        """A connection whose first read shakes hands: accepting must not wait for a client."""
        self._refresh()
        return self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )

    def _refresh(self) -> None:
        """Take over renewed files; those half-written are looked at again next time."""
        try:
            files = load_certificates(self._folder)
            if files != self._files:
                self._context, self._files = self._make(), files
        except (ConfigurationError, OSError) as error:
            log.warning("event=certificates_not_renewed error=%s", error)

    def _make(self) -> ssl.SSLContext:
        folder = self._folder
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
        context.load_cert_chain(str(folder / "tls.crt"), str(folder / "tls.key"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
