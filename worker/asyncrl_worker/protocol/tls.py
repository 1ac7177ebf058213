"""Mutual TLS from a folder of three files, and who may call what.

The folder holds ``ca.crt`` (the job's certificate authority), ``tls.crt`` and ``tls.key``. The
certificate's common name is the role: `learner`, `actor` or `parameter-server`. The parameter
server's certificate also carries the DNS name `parameter-server`, which clients check instead of
the host name: pods come and go, the role stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from asyncrl_worker.protocol.errors import ConfigurationError

log = logging.getLogger("asyncrl")

PARAMETER_SERVER_NAME = "parameter-server"
LEARNER_NAME = "learner"
ACTOR_NAME = "actor"


@dataclass(frozen=True)
class Certificates:
    """PEM bytes of one role's identity and of the authority that signs its peers."""

    authority: bytes
    certificate: bytes
    key: bytes

    def server_configuration(self) -> grpc.ServerCertificateConfiguration:
        """What a server shows of itself, and whom it trusts."""
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)], root_certificates=self.authority
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client that presents its certificate."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority,
            private_key=self.key,
            certificate_chain=self.certificate,
        )


def renewing_server_credentials(directory: Path) -> grpc.ServerCredentials:
    """Credentials of a server that demands a certificate from every client.

    The files are read again for each connection, so that renewed ones need no restart. Raises
    ConfigurationError where they cannot be read now.
    """
    seen = load_certificates(directory)

    def renewed() -> Any:
        """The new configuration, or None for the old one, which the type stubs do not know."""
        nonlocal seen
        try:
            found = load_certificates(directory)
        except ConfigurationError as error:  # being replaced right now
            log.warning("event=certificates_not_renewed error=%s", error)
            return None
        if found == seen:
            return None
        seen = found
        return found.server_configuration()

    return grpc.dynamic_ssl_server_credentials(
        seen.server_configuration(), renewed, require_client_authentication=True
    )


def load_certificates(directory: Path) -> Certificates:
    """Reads ca.crt, tls.crt and tls.key; ConfigurationError names the file that is missing."""

    def read(name: str) -> bytes:
        path = directory / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"--tls {directory}: cannot read {name} ({error.strerror}); "
                "the folder must hold ca.crt, tls.crt and tls.key"
            ) from None
        if b"-----BEGIN " not in content:
            raise ConfigurationError(f"--tls {directory}: {name} is not a PEM file")
        return content

    return Certificates(read("ca.crt"), read("tls.crt"), read("tls.key"))
