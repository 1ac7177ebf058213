"""Mutual TLS: the right role gets in, nobody else does."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from unit.parameter_server.live_server import SCHEMA, LiveServer, fragment, policy

from asyncrl_worker.protocol import rollouts_pb2 as pb
from asyncrl_worker.protocol.actor_client import ActorStream
from asyncrl_worker.protocol.channel import RENEW_SECONDS, Link
from asyncrl_worker.protocol.errors import ConfigurationError, PeerUnavailable, Refused
from asyncrl_worker.protocol.learner_client import LearnerClient
from asyncrl_worker.protocol.messages import Ack, Ticket
from asyncrl_worker.protocol.rollouts_pb2_grpc import ParameterServerStub

BLOB = b"weights" * 100
SECONDS = 20.0


class Authority:
    """A job's certificate authority and the folders of the roles it signs."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key, None)

    def role(self, role: str, *, server_name: str | None = None) -> Path:
        """A folder of ca.crt, tls.crt and tls.key for `role`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)])
        certificate = self._sign(name, key, server_name)
        folder = self._folder / role
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(pem(self._certificate))
        (folder / "tls.crt").write_bytes(pem(certificate))
        (folder / "tls.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return folder

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, server_name: str | None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(subject == self._name, None), critical=True)
        )
        if server_name is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(server_name)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "job")


@pytest.fixture
def server(authority: Authority) -> Iterator[LiveServer]:
    folder = authority.role("parameter-server", server_name="parameter-server")
    with LiveServer("127.0.0.1:0", policy(), tls=folder) as server:
        yield server


def learner(server: LiveServer, tls: Path, deadline: float = SECONDS) -> LearnerClient:
    return LearnerClient(server.address, attempt=0, schema=SCHEMA, tls=tls, deadline=deadline)


def actor(server: LiveServer, tls: Path, deadline: float = SECONDS) -> ActorStream:
    return ActorStream(
        server.address, actor_index=0, attempt=0, schema=SCHEMA, tls=tls, deadline=deadline
    )


def test_the_right_roles_work_together(server: LiveServer, authority: Authority) -> None:
    with (
        learner(server, authority.role("learner")) as client,
        actor(server, authority.role("actor")) as stream,
    ):
        client.publish(0, BLOB)
        ticket = stream.receive(SECONDS)
        assert isinstance(ticket, Ticket)
        weights = stream.weights(None)
        assert weights is not None and bytes(weights.data) == BLOB
        stream.send_fragment(ticket, fragment(0))
        ack = stream.receive(SECONDS)
        assert isinstance(ack, Ack) and ack.accepted


def test_an_actor_may_not_do_what_the_learner_does(
    server: LiveServer, authority: Authority
) -> None:
    client = learner(server, authority.role("actor"))
    calls: list[Callable[[], object]] = [
        client.hello,
        lambda: client.publish(0, BLOB),
        lambda: client.next_batch(0.0),
        lambda: client.consumed(1, "trained"),
        lambda: client.pace(0),
        client.finish,
    ]
    for call in calls:
        with pytest.raises(Refused, match="actor"):
            call()
    client.close()
    assert server.look(lambda state: state.attempt) is None
    assert server.look(lambda state: state.rejected["role"]) == len(calls)


def test_every_learner_call_is_authorised_by_itself(
    server: LiveServer, authority: Authority
) -> None:
    """Without LearnerHello in front, as somebody with a stolen actor certificate would."""
    folder = authority.role("actor")
    credentials = grpc.ssl_channel_credentials(
        *((folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
    )
    options = [("grpc.ssl_target_name_override", "parameter-server")]
    with grpc.secure_channel(server.address, credentials, options) as channel:
        stub = ParameterServerStub(channel)  # type: ignore[no-untyped-call]
        calls: list[Callable[[], object]] = [
            lambda: stub.LearnerHello(pb.LearnerHelloRequest(), timeout=SECONDS),
            lambda: stub.Publish(iter([pb.PublishChunk()]), timeout=SECONDS),
            lambda: stub.NextBatch(pb.NextBatchRequest(), timeout=SECONDS),
            lambda: stub.Consumed(pb.ConsumedRequest(), timeout=SECONDS),
            lambda: stub.Pace(pb.PaceRequest(), timeout=SECONDS),
            lambda: stub.Finish(pb.FinishRequest(), timeout=SECONDS),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_learner_may_not_pose_as_an_actor(server: LiveServer, authority: Authority) -> None:
    with pytest.raises(Refused, match="learner"):
        actor(server, authority.role("learner")).__enter__()


def test_an_unknown_role_gets_nothing(server: LiveServer, authority: Authority) -> None:
    folder = authority.role("passer-by")
    with pytest.raises(Refused):
        actor(server, folder).__enter__()
    with pytest.raises(Refused):
        learner(server, folder).hello()


def test_a_certificate_of_another_job_is_refused(
    server: LiveServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "other").role("learner")
    with pytest.raises(PeerUnavailable):
        learner(server, stranger, deadline=0.5).hello()
    # Even one that trusts this job's server.
    (stranger / "ca.crt").write_bytes((authority.role("actor") / "ca.crt").read_bytes())
    with pytest.raises(PeerUnavailable):
        learner(server, stranger, deadline=0.5).hello()
    assert server.look(lambda state: state.attempt) is None


def test_a_client_without_a_certificate_is_refused(
    server: LiveServer, authority: Authority
) -> None:
    root = (authority.role("actor") / "ca.crt").read_bytes()
    options = [("grpc.ssl_target_name_override", "parameter-server")]
    bare = grpc.ssl_channel_credentials(root)
    with grpc.secure_channel(server.address, bare, options) as channel:
        stub = ParameterServerStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Pace(pb.PaceRequest(), timeout=2.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(server.address) as channel:
        stub = ParameterServerStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Pace(pb.PaceRequest(), timeout=2.0)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_is_not_the_parameter_server_is_refused(authority: Authority) -> None:
    impostor = authority.role("impostor", server_name="actor")
    with (
        LiveServer("127.0.0.1:0", policy(), tls=impostor) as server,
        pytest.raises(PeerUnavailable),
    ):
        learner(server, authority.role("learner"), deadline=0.5).hello()


def test_a_taken_port_is_named(server: LiveServer, authority: Authority) -> None:
    folder = authority.role("second", server_name="parameter-server")
    with (
        pytest.raises(ConfigurationError, match=r"cannot listen there.*taken"),
        LiveServer(server.address, policy(), tls=folder),
    ):
        pass


class TestRenewal:
    """All certificates are replaced, those of the authority too, while everybody runs."""

    @pytest.fixture
    def renewed(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path, "renewed")

    @pytest.fixture
    def server_folder(self, authority: Authority) -> Path:
        return authority.role("parameter-server", server_name="parameter-server")

    @pytest.fixture
    def server(self, server_folder: Path) -> Iterator[LiveServer]:
        with LiveServer("127.0.0.1:0", policy(), tls=server_folder) as server:
            yield server

    def test_the_server_takes_new_certificates_and_keeps_its_connections(
        self, server: LiveServer, server_folder: Path, authority: Authority, renewed: Authority
    ) -> None:
        with learner(server, authority.role("learner")) as client:
            (server_folder / "tls.crt").write_text("half-written")
            with actor(server, authority.role("actor")):
                pass
            replace(server_folder, renewed.role("p", server_name="parameter-server"))
            with actor(server, renewed.role("actor")) as stream:
                client.publish(0, BLOB)
                assert isinstance(stream.receive(SECONDS), Ticket)
        with pytest.raises(PeerUnavailable):
            actor(server, authority.role("late"), deadline=0.5).__enter__()

    def test_a_client_takes_new_certificates_when_it_connects_again(
        self, server: LiveServer, server_folder: Path, authority: Authority, renewed: Authority
    ) -> None:
        time = 0.0
        folder = authority.role("learner")
        link = Link(server.address, folder, receive_limit=1 << 20, clock=lambda: time)
        replace(server_folder, renewed.role("p", server_name="parameter-server"))

        def code() -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as caught:
                link.stub.Pace(pb.PaceRequest(), timeout=SECONDS)
            return caught.value.code()

        failed = link.stub
        assert code() is grpc.StatusCode.UNAVAILABLE
        replace(folder, renewed.role("learner"))
        link.renew(failed)
        assert link.stub is failed, "it was opened a moment ago"
        time = RENEW_SECONDS
        (folder / "tls.key").rename(folder / "gone")
        link.renew(failed)
        assert link.stub is failed, "the files are being replaced"
        (folder / "gone").rename(folder / "tls.key")
        link.renew(failed)
        assert code() is grpc.StatusCode.FAILED_PRECONDITION, "it is heard, and not introduced"
        present = link.stub
        time = 2 * RENEW_SECONDS
        link.renew(failed)
        assert link.stub is present, "another thread has renewed it"
        link.close()


def replace(folder: Path, by: Path) -> None:
    for path in by.iterdir():
        path.replace(folder / path.name)
