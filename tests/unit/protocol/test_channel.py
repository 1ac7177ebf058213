"""Addresses that cannot or must not be used are refused with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncrl_worker.protocol.channel import UNIX_PATH_LIMIT, check_address
from asyncrl_worker.protocol.errors import ConfigurationError
from asyncrl_worker.protocol.tls import load_certificates


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("unix:relative.sock", "absolute"),
        ("unix:/" + "x" * UNIX_PATH_LIMIT, "use a shorter folder"),
        ("unix:/" + "é" * 60, "121 bytes"),
        ("localhost:5000", "TCP without TLS is refused; pass --tls DIR"),
        ("localhost", "expected unix:/path or host:port"),
        (":5000", "expected unix:/path or host:port"),
        ("localhost:70000", "expected unix:/path or host:port"),
        ("localhost:http", "expected unix:/path or host:port"),
    ],
)
def test_a_bad_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_address(address, None)
    assert address in str(caught.value)


def test_good_addresses_pass(tmp_path: Path) -> None:
    check_address("unix:/" + "x" * (UNIX_PATH_LIMIT - 1), None)
    check_address("parameter-server.job:5000", tmp_path)
    check_address("[::1]:5000", tmp_path)


def test_a_missing_or_broken_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read ca\.crt"):
        load_certificates(tmp_path)
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (tmp_path / name).write_text("-----BEGIN NOTHING-----\n")
    load_certificates(tmp_path)
    (tmp_path / "tls.key").write_text("hello")
    with pytest.raises(ConfigurationError, match=r"tls\.key is not a PEM file"):
        load_certificates(tmp_path)
