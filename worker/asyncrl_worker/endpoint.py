"""The HTTP endpoint of a role: /metrics, /healthz, /readyz and, on the learner, /report."""

from __future__ import annotations

import errno
import json
import os
import ssl
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from asyncrl_worker.fault import WRONG_CONFIGURATION, RoleError
from asyncrl_worker.role import RoleArguments, write_atomically

REQUEST_SECONDS = 5.0

Answer = tuple[HTTPStatus, str, bytes]
PLAIN = "text/plain; charset=utf-8"


class Endpoint:
    """Serves a role's metrics and health from a thread of its own; a context manager.

    `health` returns None when healthy, else one line that says what is wrong (answered as 503).
    `report` returns JSON. With `arguments.tls` the endpoint asks for a client certificate of the
    job's authority. On entering, the bound address is written to
    `run_directory/roles/<role>-<index>.json`. Raises RoleError(PortTaken) if it cannot bind.
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

    def __enter__(self) -> Endpoint:
        server = self._bind()
        host, port = server.server_address[:2]
        self.address = f"{host!s}:{port}"
        self._server = server
        threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
        folder = self._arguments.run_directory / "roles"
        folder.mkdir(parents=True, exist_ok=True)
        document = {"http": self.address, "pid": os.getpid(), "attempt": self._arguments.attempt}
        write_atomically(folder / f"{self._arguments.name}.json", json.dumps(document).encode())
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
        """The answer to a GET of this path."""
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

    def _bind(self) -> ThreadingHTTPServer:
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
            server = ThreadingHTTPServer((host or "127.0.0.1", int(port)), Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                raise
            message = (
                f"{self._arguments.name}: metrics address {self._arguments.http}: {error.strerror}; "
                "choose another metricsPort for this role, or 0 for any free one"
            )
            raise RoleError("PortTaken", message, WRONG_CONFIGURATION) from error
        server.daemon_threads = True
        if self._arguments.tls is not None:
            server.socket = _mutual_tls(self._arguments).wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        return server


def _mutual_tls(arguments: RoleArguments) -> ssl.SSLContext:
    folder = arguments.tls
    assert folder is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    context.load_cert_chain(str(folder / "tls.crt"), str(folder / "tls.key"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
