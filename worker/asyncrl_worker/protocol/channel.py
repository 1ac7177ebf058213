"""Addresses, channels and servers: the one place for transport options.

An address is ``unix:/path/to.sock`` (same host, protected by the socket's file mode 0600) or
``host:port`` (mutual TLS, always).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio

from asyncrl_worker.protocol.errors import ConfigurationError
from asyncrl_worker.protocol.rollouts_pb2_grpc import ParameterServerStub
from asyncrl_worker.protocol.tls import (
    PARAMETER_SERVER_NAME,
    load_certificates,
    renewing_server_credentials,
)

log = logging.getLogger("asyncrl")

MAX_MESSAGE_BYTES = 64 << 20
"""Largest single message that a client sends and a server accepts."""

TRANSPORT_BYTES = MAX_MESSAGE_BYTES + (16 << 20)
"""Largest message that a server's transport takes in. What is larger than MAX_MESSAGE_BYTES but not
than this is refused with a reason, and counted; what is larger still ends its call before it is
allocated, of which the server sees the end alone."""

MAX_BATCH_BYTES = 1 << 30
"""Largest batch a learner accepts from its parameter server."""

CHUNK_BYTES = 2 << 20
"""Size of one chunk of weights. From 64 KiB to 4 MiB the speed is the same: copies limit it."""

CONNECT_SECONDS = 60.0
"""Total time a client keeps trying to reach its peer before it gives up."""

STALL_TIMEOUTS_TO_START = 10.0
"""A first connection is tried for this many of the job's stall timeouts, ten minutes by default:
the pods of a job start in any order, and a large image takes minutes to arrive."""

CALL_SECONDS = 10.0
"""Deadline of a call that only moves bookkeeping."""

TRANSFER_SECONDS = 120.0
"""Deadline of one transfer of weights."""

RENEW_SECONDS = 2.0
"""Least age of a channel that is opened anew because its peer does not answer."""

UNIX_PATH_LIMIT = 107
"""Longest path of a Unix socket in bytes (sockaddr_un holds 108 with its zero)."""

# A vanished peer is noticed after keepalive time + timeout, under 10 s.
_KEEPALIVE_TIME_MS = 5_000
_KEEPALIVE_TIMEOUT_MS = 4_000

Options = list[tuple[str, int | str]]


def is_unix(address: str) -> bool:
    return address.startswith("unix:")


def check_address(address: str, tls: Path | None) -> None:
    """Raises ConfigurationError for an address that cannot or must not be used."""
    if is_unix(address):
        path = address.removeprefix("unix:")
        length = len(os.fsencode(path))
        if not path.startswith("/"):
            raise ConfigurationError(f"--address {address}: the socket's path must be absolute")
        if length > UNIX_PATH_LIMIT:
            raise ConfigurationError(
                f"--address {address}: the socket's path has {length} bytes, the system allows "
                f"{UNIX_PATH_LIMIT}; use a shorter folder"
            )
        return
    host, colon, port = address.rpartition(":")
    if not host or not colon or not port.isdigit() or int(port) > 65_535:
        raise ConfigurationError(f"--address {address}: expected unix:/path or host:port")
    if tls is None:
        raise ConfigurationError(
            f"--address {address}: TCP without TLS is refused; pass --tls DIR or use unix:/path"
        )


def open_channel(address: str, tls: Path | None, *, receive_limit: int) -> grpc.Channel:
    """A client channel to the parameter server; `receive_limit` in bytes per message."""
    check_address(address, tls)
    options: Options = [
        ("grpc.max_receive_message_length", receive_limit),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Each client has its own connection, so that one client's end is one connection's end.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        # Retries are the clients' own: they know what a repetition means.
        ("grpc.enable_retries", 0),
    ]
    if is_unix(address):
        return grpc.insecure_channel(address, options=options)
    assert tls is not None
    options.append(("grpc.ssl_target_name_override", PARAMETER_SERVER_NAME))
    credentials = load_certificates(tls).channel_credentials()
    return grpc.secure_channel(address, credentials, options=options)


class Link:
    """A client's channel to the parameter server, opened anew while that is away.

    A channel that failed looks its host's name up again after pauses that grow to two minutes, and
    keeps the certificates that it was opened with. A new one looks at once, and reads them again:
    pods come back under other addresses, and certificates are renewed.
    """

    def __init__(
        self,
        address: str,
        tls: Path | None,
        *,
        receive_limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._tls = tls
        self._receive_limit = receive_limit
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._channel, self.stub = self._open()
        self._opened_at = clock()

    def renew(self, failed: ParameterServerStub) -> None:
        """Open another channel in place of that of `failed`; its calls under way are cancelled.

        Does nothing where that happened already, or a moment ago.
        """
        with self._lock:
            young = self._clock() - self._opened_at < RENEW_SECONDS
            if self._closed or young or failed is not self.stub:
                return
            try:
                channel, stub = self._open()
            except ConfigurationError as error:  # certificates that are being replaced right now
                log.warning("event=channel_not_renewed error=%s", error)
                return
            old, self._channel, self.stub = self._channel, channel, stub
            self._opened_at = self._clock()
        old.close()

    def close(self) -> None:
        """Disconnect; calls under way end, later ones raise ValueError."""
        with self._lock:
            self._closed = True
        self._channel.close()

    def _open(self) -> tuple[grpc.Channel, ParameterServerStub]:
        channel = open_channel(self._address, self._tls, receive_limit=self._receive_limit)
        return channel, ParameterServerStub(channel)  # type: ignore[no-untyped-call]


def open_server(address: str, tls: Path | None) -> tuple[grpc.aio.Server, str]:
    """A bound, not yet started server and its address (with the real port where 0 was asked).

    Raises ConfigurationError where the address is wrong or taken.
    """
    check_address(address, tls)
    options: Options = [
        ("grpc.max_receive_message_length", TRANSPORT_BYTES),
        ("grpc.max_send_message_length", MAX_BATCH_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        # Without it a second server binds the same port silently and takes half the calls.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    try:
        if is_unix(address):
            _bind_private(server, address)
            return server, address
        assert tls is not None
        credentials = renewing_server_credentials(tls)
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigurationError(
            f"--address {address}: cannot listen there ({error}); is it taken or not allowed?"
        ) from None
    return server, f"{address.rpartition(':')[0]}:{port}"


def _bind_private(server: grpc.aio.Server, address: str) -> None:
    path = Path(address.removeprefix("unix:"))
    if not path.parent.is_dir():
        raise ConfigurationError(f"--address {address}: the folder {path.parent} does not exist")
    # The mask, not a later chmod: the socket must never exist with a wider mode.
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(address)
    finally:
        os.umask(mask)
