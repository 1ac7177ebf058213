"""The HTTP endpoint of a role: answers, mutual TLS, and clients that misbehave."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from unit.role.certificates import Authority
from unit.role.jobs import make_arguments

from asyncrl_worker.endpoint import Endpoint
from asyncrl_worker.fault import WRONG_CONFIGURATION, Fault, RoleError


def raising() -> str:
    raise ZeroDivisionError("secret detail")


@contextmanager
def serving(
    folder: Path,
    *,
    health: Callable[[], str | None] = lambda: None,
    ready: Callable[[], bool] = lambda: True,
    report: Callable[[], str | None] | None = lambda: '{"update": 3}',
    report_at: str | None = None,
    **arguments: Any,
) -> Iterator[Endpoint]:
    registry = CollectorRegistry()
    Counter("asyncrl_test_things", "Things.", registry=registry).inc(2)
    with Endpoint(
        make_arguments(folder, report=report_at, **arguments),
        registry=registry,
        health=health,
        ready=ready,
        report=report,
    ) as endpoint:
        yield endpoint


def get(
    endpoint: Endpoint, path: str, context: ssl.SSLContext | None = None, *, address: str = ""
) -> tuple[int, str]:
    """Status and text; with a context, of the listener that asks for a certificate."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(address or endpoint.address, timeout=10)
    else:
        connection = http.client.HTTPSConnection(
            endpoint.report_address, timeout=10, context=context
        )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_every_path_has_its_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as endpoint:
        status, metrics = get(endpoint, "/metrics")
        assert status == 200
        assert "asyncrl_test_things_total 2.0" in metrics
        assert "process_resident_memory_bytes" in metrics
        assert get(endpoint, "/healthz") == (200, "ok")
        assert get(endpoint, "/readyz") == (200, "ok")
        assert get(endpoint, "/report") == (200, '{"update": 3}')
        assert get(endpoint, "/report?pretty=1")[0] == 200
        assert get(endpoint, "/elsewhere")[0] == 404


def test_an_unhealthy_role_says_why(tmp_path: Path) -> None:
    problem = "no update for 61 s, more than 60 s"
    with serving(tmp_path, health=lambda: problem, ready=lambda: False) as endpoint:
        assert get(endpoint, "/healthz") == (503, problem)
        assert get(endpoint, "/readyz")[0] == 503


def test_a_role_without_a_report_has_none(tmp_path: Path) -> None:
    with serving(tmp_path, report=None) as endpoint:
        assert get(endpoint, "/report")[0] == 404


def test_a_report_that_raises_is_an_answer_and_a_trace_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path, report=raising) as endpoint:
        status, text = get(endpoint, "/report")
        assert status == 500
        assert "ZeroDivisionError" in text
        assert "secret detail" not in text
        assert get(endpoint, "/healthz")[0] == 200
    assert "secret detail" in caplog.text


def test_the_bound_address_is_written_for_others_to_find(tmp_path: Path) -> None:
    with serving(tmp_path, index=2, attempt=5) as endpoint:
        document = json.loads((tmp_path / "run/roles/learner-2.json").read_text())
        assert document == {"http": endpoint.address, "pid": os.getpid(), "attempt": 5}
        assert not endpoint.address.endswith(":0")
    with pytest.raises(OSError):
        get(endpoint, "/healthz")


def test_a_taken_port_is_the_users_to_change(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RoleError) as error, serving(tmp_path, http=address):
            pass
    assert (error.value.reason, error.value.exit_code) == ("PortTaken", WRONG_CONFIGURATION)
    assert address in str(error.value)
    assert "metricsPort" in str(error.value)
    assert not (tmp_path / "run/roles/learner-0.json").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:http", "no.such.host.invalid:0"])
def test_an_address_that_makes_no_sense_is_one_line(address: str, tmp_path: Path) -> None:
    with (
        pytest.raises(RoleError, match="metrics address") as error,
        serving(tmp_path, http=address),
    ):
        pass
    assert error.value.exit_code == WRONG_CONFIGURATION
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_frees_the_port(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(NotADirectoryError), serving(tmp_path, http=address):
        pass
    (tmp_path / "run").unlink()
    with serving(tmp_path, http=address) as endpoint:
        assert get(endpoint, "/healthz")[0] == 200


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_slow_clients_do_not_hold_up_others(tmp_path: Path) -> None:
    with serving(tmp_path) as endpoint:
        silent = [connect(endpoint.address) for _ in range(8)]
        silent[0].sendall(b"GET /met")
        assert get(endpoint, "/healthz") == (200, "ok")
        silent[0].sendall(b"rics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent[0].recv(12) in (b"HTTP/1.0 200", b"HTTP/1.1 200")
        for client in silent:
            client.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"POST /report HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["empty", "tls", "no path", "post", "long"],
)
def test_what_is_no_request_ends_its_own_connection_only(
    request_bytes: bytes, tmp_path: Path
) -> None:
    with serving(tmp_path) as endpoint:
        with connect(endpoint.address) as client:
            client.sendall(request_bytes)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(64)
        assert b"200" not in answer
        assert get(endpoint, "/healthz") == (200, "ok")


def test_a_client_that_leaves_is_one_line_not_a_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with serving(tmp_path, report=lambda: "x" * 50_000_000) as endpoint:
        client = connect(endpoint.address)
        client.sendall(b"GET /report HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(16)
        client.close()  # with most of the answer unread: a reset
        while "event=endpoint_client" not in caplog.text:
            assert get(endpoint, "/healthz")[0] == 200
    assert "Traceback" not in caplog.text + capfd.readouterr().err


def test_a_report_that_does_not_exist_yet_is_unavailable(tmp_path: Path) -> None:
    with serving(tmp_path, report=lambda: None) as endpoint:
        assert get(endpoint, "/report")[0] == 503
        assert get(endpoint, "/healthz")[0] == 200


class TestMutualTls:
    """With certificates the report has a listener of its own; probes and metrics need none."""

    @pytest.fixture
    def authority(self) -> Authority:
        return Authority()

    @pytest.fixture
    def own(self, authority: Authority, tmp_path: Path) -> ssl.SSLContext:
        return client(authority.issue(tmp_path / "client", "operator"))

    def test_health_and_metrics_ask_for_nothing(self, authority: Authority, tmp_path: Path) -> None:
        tls = authority.issue(tmp_path / "server", "learner")
        with serving(tmp_path, tls=tls, report_at="127.0.0.1:0") as endpoint:
            assert get(endpoint, "/healthz") == (200, "ok")
            assert get(endpoint, "/readyz") == (200, "ok")
            assert get(endpoint, "/metrics")[0] == 200
            assert get(endpoint, "/report")[0] == 404
            document = json.loads((tmp_path / "run/roles/learner-0.json").read_text())
        assert document["http"] == endpoint.address
        assert document["report"] == endpoint.report_address

    def test_a_client_of_the_job_gets_the_report_and_nothing_else(
        self, authority: Authority, own: ssl.SSLContext, tmp_path: Path
    ) -> None:
        tls = authority.issue(tmp_path / "server", "learner")
        with serving(tmp_path, tls=tls, report_at="127.0.0.1:0") as endpoint:
            assert get(endpoint, "/report", own) == (200, '{"update": 3}')
            assert get(endpoint, "/metrics", own)[0] == 404

    def test_others_are_refused_without_a_trace(
        self,
        authority: Authority,
        own: ssl.SSLContext,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        tls = authority.issue(tmp_path / "server", "learner")
        stranger = Authority("another").issue(tmp_path / "stranger", "learner")
        impostor = ssl.create_default_context(cafile=str(tls / "ca.crt"))
        impostor.load_cert_chain(stranger / "tls.crt", stranger / "tls.key")
        with serving(tmp_path, tls=tls, report_at="127.0.0.1:0") as endpoint:
            for context in (client(tls, certificate=False), impostor):
                with pytest.raises((ssl.SSLError, OSError)):
                    get(endpoint, "/report", context)
            with pytest.raises((http.client.HTTPException, OSError)):
                get(endpoint, "/report", address=endpoint.report_address)  # plain text
            assert get(endpoint, "/report", own)[0] == 200
        assert "Traceback" not in caplog.text + capfd.readouterr().err

    def test_a_handshake_that_never_comes_holds_up_nobody(
        self, authority: Authority, own: ssl.SSLContext, tmp_path: Path
    ) -> None:
        """Accepting does not shake hands: that is each connection's own thread's work."""
        tls = authority.issue(tmp_path / "server", "learner")
        with serving(tmp_path, tls=tls, report_at="127.0.0.1:0") as endpoint:
            silent = [connect(endpoint.report_address) for _ in range(4)]
            silent[1].sendall(b"\x16\x03\x01")  # the beginning of a ClientHello
            for _ in range(2):
                assert get(endpoint, "/report", own)[0] == 200
            for one in silent:
                one.close()

    def test_renewed_certificates_are_used_without_a_restart(self, tmp_path: Path) -> None:
        """Another authority, as when the job's own comes to its end."""
        old, renewed = Authority("old"), Authority("renewed")
        tls = old.issue(tmp_path / "server", "learner")
        before = client(old.issue(tmp_path / "before", "operator"))
        after = client(renewed.issue(tmp_path / "after", "operator"))
        with serving(tmp_path, tls=tls, report_at="127.0.0.1:0") as endpoint:
            with pytest.raises((ssl.SSLError, OSError)):
                get(endpoint, "/report", after)
            (tls / "tls.crt").write_text("half-written")
            assert get(endpoint, "/report", before)[0] == 200
            for path in renewed.issue(tmp_path / "renewed", "learner").iterdir():
                path.replace(tls / path.name)
            assert get(endpoint, "/report", after)[0] == 200
            with pytest.raises((ssl.SSLError, OSError)):
                get(endpoint, "/report", before)

    def test_a_missing_file_is_named(self, authority: Authority, tmp_path: Path) -> None:
        tls = authority.issue(tmp_path / "server", "learner")
        (tls / "tls.key").unlink()
        with (
            pytest.raises(Fault, match=r"tls\.key") as error,
            serving(tmp_path, tls=tls, report_at="127.0.0.1:0"),
        ):
            pass
        assert error.value.exit_code == WRONG_CONFIGURATION

    def test_a_report_address_needs_certificates(self, tmp_path: Path) -> None:
        with (
            pytest.raises(Fault, match="refused without --tls DIR") as error,
            serving(tmp_path, report_at="127.0.0.1:0"),
        ):
            pass
        assert error.value.exit_code == WRONG_CONFIGURATION

    def test_a_taken_report_address_is_named(self, authority: Authority, tmp_path: Path) -> None:
        tls = authority.issue(tmp_path / "server", "learner")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with (
                pytest.raises(RoleError, match=f"--report {address}: Address already in use"),
                serving(tmp_path, tls=tls, report_at=address),
            ):
                pass


def client(folder: Path, *, certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if certificate:
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context
