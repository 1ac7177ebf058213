"""An API server that answers as a test says, for the faults that a real one does not show."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from asyncrl_api.labels import INDEX, ROLE


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class Answer:
    """What goes out: a document, or lines of a stream, after which the connection is cut or not.

    A line that is no text is written as JSON.
    """

    code: int = 200
    document: Any = None
    lines: list[Any] = field(default_factory=list)
    cut: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    """Answer only when this is set."""


class ScriptedServer:
    """Gives the answers of `script`, one for each request, and keeps the requests."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.kubeconfig = write_kubeconfig(folder / "kubeconfig", url)
        self.requests: list[Request] = []
        self.script: Iterator[Answer] | Callable[[Request], Answer] = iter(())

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if callable(self.script):
            return self.script(request)
        return next(self.script)


@contextmanager
def scripted_server(folder: Path) -> Iterator[ScriptedServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def respond(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            split = urlsplit(self.path)
            body = json.loads(self.rfile.read(length)) if length else None
            request = Request(self.command, split.path, dict(parse_qsl(split.query)), body)
            answer = server.answer(request)
            if answer.hold is not None:
                answer.hold.wait(30)
            with suppress(BrokenPipeError):  # it has given up waiting
                self.send(answer)

        def send(self, answer: Answer) -> None:
            self.send_response(answer.code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.document is not None:
                data = json.dumps(answer.document).encode()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in answer.lines:
                data = (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            if answer.cut:
                self.close_connection = True
                self.connection.shutdown(2)
            else:
                self.wfile.write(b"0\r\n\r\n")

        do_GET = do_PATCH = do_DELETE = respond  # noqa: N815

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = ScriptedServer(f"http://127.0.0.1:{httpd.server_address[1]}", folder)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def write_kubeconfig(path: Path, url: str, *, namespace: str = "team") -> Path:
    """A kubeconfig with the contexts `here` (current) and `there`."""
    contexts = [
        {"name": name, "context": {"cluster": "c", "user": "u", "namespace": namespace}}
        for name in ("here", "there")
    ]
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": contexts,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def job(version: int, phase: str | None = None, **status: Any) -> dict[str, Any]:
    """An AsyncRLJob `cartpole` as an API server sends it."""
    document: dict[str, Any] = {
        "apiVersion": "asyncrl.io/v1alpha1",
        "kind": "AsyncRLJob",
        "metadata": {
            "name": "cartpole",
            "namespace": "team",
            "generation": 1,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-31T12:00:00Z",
        },
        "spec": {"workload": {"gymnasium": {"id": "CartPole-v1"}}},
    }
    if phase is not None:
        document["status"] = {"phase": phase, "observedGeneration": 1, **status}
    return document


def jobs(version: int, *items: dict[str, Any]) -> Answer:
    """The answer to a list."""
    return Answer(document={"metadata": {"resourceVersion": str(version)}, "items": list(items)})


def event(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    """One line of a watch."""
    return {"type": kind, "object": value}


def pod(name: str, *, role: str, index: int, life: int = 0, state: str = "running") -> Any:
    """A pod of `cartpole` as an API server lists it."""
    labels = {ROLE: role, INDEX: str(index)}
    status = {"name": role, "restartCount": life, "state": {state: {}}}
    return {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": "2026-01-31T12:00:00Z"},
        "spec": {"containers": [{"name": "sidecar"}, {"name": role}]},
        "status": {"containerStatuses": [{"name": "sidecar", "state": {}}, status]},
    }
