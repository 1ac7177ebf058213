"""The job's authority and its certificates: a Secret that no two jobs share.

The authority signs the three roles and the operator, and its key never leaves the Secret. Pods
mount the files of their own role only.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from asyncrl_operator.kube.client import Object
from asyncrl_operator.plan.names import ROLES, Owner

OPERATOR = "operator"
HOLDERS = (*ROLES, OPERATOR)
AUTHORITY = "ca"
AUTHORITY_LIFE = timedelta(days=3650)
LIFE = timedelta(days=730)
"""Longer than most runs; roles take renewed ones over at their next connection."""
RENEWED_BEFORE = timedelta(days=243)
"""A third of their life: what starts by then has certificates for eight months at least."""
CLOCK_SKEW = timedelta(minutes=5)

Files = dict[str, bytes]
"""PEM files by name: ca.crt, ca.key, ROLE.crt, ROLE.key."""


@dataclass(frozen=True)
class Identity:
    """What the operator presents to the learner, and by whom it expects it to be signed."""

    authority: bytes
    certificate: bytes
    key: bytes


def issue(name: str, now: datetime, known: Mapping[str, bytes] | None = None) -> Files:
    """The files of a job; with `known` the same authority signs new certificates."""
    authority = _load(known)
    if authority is None or authority[1].not_valid_after_utc - now < LIFE:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(f"asyncrl {name}"[:64])
        authority = key, _sign(subject, key.public_key(), subject, key, now, AUTHORITY_LIFE, None)
    authority_key, authority_certificate = authority
    files = {
        f"{AUTHORITY}.crt": _pem(authority_certificate),
        f"{AUTHORITY}.key": _pem(authority_key),
    }
    for holder in HOLDERS:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = authority_certificate.subject
        certificate = _sign(
            _named(holder), key.public_key(), issuer, authority_key, now, LIFE, holder
        )
        files |= {f"{holder}.crt": _pem(certificate), f"{holder}.key": _pem(key)}
    return files


def first_end(files: Mapping[str, bytes]) -> datetime | None:
    """When the first certificate ends; None if any file is missing or is none."""
    ends = []
    for holder in (AUTHORITY, *HOLDERS):
        try:
            certificate = x509.load_pem_x509_certificate(files[f"{holder}.crt"])
            serialization.load_pem_private_key(files[f"{holder}.key"], password=None)
        except (KeyError, ValueError):
            return None
        ends.append(certificate.not_valid_after_utc)
    return min(ends)


def identity(files: Mapping[str, bytes]) -> Identity:
    """The operator's own."""
    return Identity(files["ca.crt"], files[f"{OPERATOR}.crt"], files[f"{OPERATOR}.key"])


def secret(owner: Owner, files: Files) -> Object:
    """The Secret of these files."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": owner.metadata(owner.secret),
        "type": "Opaque",
        "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
    }


def files_of(document: Object) -> Files:
    """The files of a Secret."""
    return {name: base64.b64decode(data) for name, data in (document.get("data") or {}).items()}


Authority = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def _load(files: Mapping[str, bytes] | None) -> Authority | None:
    if files is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(files[f"{AUTHORITY}.crt"])
        key = serialization.load_pem_private_key(files[f"{AUTHORITY}.key"], password=None)
    except (KeyError, ValueError):
        return None
    return (key, certificate) if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    life: timedelta,
    holder: str | None,
) -> x509.Certificate:
    """A certificate; without `holder` it is the authority's own."""
    authority = holder is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(
            x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(_usage(authority), critical=True)
    )
    if holder is not None:
        # Peers check the role's name: pods come and go, the role stays.
        names = x509.SubjectAlternativeName([x509.DNSName(holder)])
        uses = x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        builder = builder.add_extension(names, critical=False).add_extension(uses, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(value: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    pem = serialization.Encoding.PEM
    if isinstance(value, x509.Certificate):
        return value.public_bytes(pem)
    return value.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
