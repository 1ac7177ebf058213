"""The HTTP endpoint of a role: /metrics, /healthz, /readyz and, on the learner, /report."""

from __future__ import annotations

import json
import logging
import os
import ssl
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from asyncrl_api.reasons import Reason
from asyncrl_worker.fault import WRONG_CONFIGURATION, RoleError
from asyncrl_worker.protocol.tls import load_certificates
from asyncrl_worker.role import RoleArguments, write_atomically

log = logging.getLogger("asyncrl")

REQUEST_SECONDS = 5.0
"""Longest silence of a client, handshake included; it holds up its own thread only."""

Answer = tuple[HTTPStatus, str, bytes]
PLAIN = "text/plain; charset=utf-8"


class Endpoint:
    """Serves a role's metrics and health from a thread of its own; a context manager.

    `health` returns None when healthy, else one line that says what is wrong (answered as 503).
    `report` returns JSON. With `arguments.tls` the endpoint asks for a client certificate of the
    job's authority. On entering, the bound address is written to
    `run_directory/roles/<role>-<index>.json`. Raises RoleError(PortTaken) if it cannot bind.
    A slow client, or one that does not finish its handshake, holds up nobody else.
    """

    def __init__(
        self,
        arguments: RoleArguments,
        *,
        registry: CollectorRegistry,
        health: Callable[[], str | None],
        ready: Callable[[], bool],
        report: Callable[[], str] | None = None,
    ) -> None:
        self._arguments = arguments
        self._registry = registry
        self._health = health
        self._ready = ready
        self._report = report
        self._server: ThreadingHTTPServer | None = None
        self.address = ""

    def __enter__(self) -> Self:
        server = self._bind()
        host, port = server.server_address[:2]
        self.address = f"{host!s}:{port}"
        try:
            folder = self._arguments.run_directory / "roles"
            folder.mkdir(parents=True, exist_ok=True)
            document = {
                "http": self.address,
                "pid": os.getpid(),
                "attempt": self._arguments.attempt,
            }
            write_atomically(folder / f"{self._arguments.name}.json", json.dumps(document).encode())
        except BaseException:
            server.server_close()
            raise
        self._server = server
        threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, path: str) -> Answer:
        """The answer to a GET of this path; 500 where health, report or metrics raise."""
        try:
            return self._answer(path)
        except Exception as error:
            log.exception("event=endpoint_failed path=%s", path)
            problem = f"{path}: {type(error).__name__}; the trace is in this role's log"
            return HTTPStatus.INTERNAL_SERVER_ERROR, PLAIN, problem.encode()

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
        if path == "/report" and self._report is not None:
            return HTTPStatus.OK, "application/json", self._report().encode()
        return HTTPStatus.NOT_FOUND, PLAIN, b"try /metrics, /healthz, /readyz"

    def _bind(self) -> _Server:
        tls = self._arguments.tls
        context = None if tls is None else _mutual_tls(tls)
        host, _, port = self._arguments.http.rpartition(":")
        answer = self.answer

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
            return _Server((host or "127.0.0.1", int(port)), Handler, context)
        except (OSError, OverflowError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            message = (
                f"{self._arguments.name}: metrics address {self._arguments.http}: {cause}; "
                "choose another metricsPort for this role, or 0 for any free one"
            )
            raise RoleError(Reason.PORT_TAKEN, message, WRONG_CONFIGURATION) from error


class _Server(ThreadingHTTPServer):
    """One daemon thread per connection, in which the TLS handshake happens too."""

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(address, handler)
        if context is not None:
            # Accepting must not wait for a client: its first read shakes hands.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left, was silent or had no certificate is one line, not a trace."""
        error = sys.exception()
        if isinstance(error, OSError):
            log.info("event=endpoint_client peer=%s error=%s", client_address, error)
        else:
            log.error("event=endpoint_client peer=%s", client_address, exc_info=error)


def _mutual_tls(folder: Path) -> ssl.SSLContext:
    load_certificates(folder)  # for its one line about what is missing
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    context.load_cert_chain(str(folder / "tls.crt"), str(folder / "tls.key"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
