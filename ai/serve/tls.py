"""TLS 1.3 between callers and neurons outside devnets, pinned to the key that the chain's record names.

No authority signs anything: the caller accepts exactly the certificate whose public key hashes (blake2b-256 of its
SubjectPublicKeyInfo) to `tls_spki_hash`. The neuron makes its own certificate once and keeps it in its home.
"""

from __future__ import annotations

import os
import ssl
from hashlib import blake2b
from pathlib import Path
from typing import Final

from ledger.errors import DecodeError, UsageError

CERTIFICATE_MAX_BYTES: Final = 16 << 10
CERTIFICATE_YEARS: Final = 20


def server_context(pem: Path) -> ssl.SSLContext:
    """Context of a neuron from a file with its private key and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pem)
    return context


def client_context() -> ssl.SSLContext:
    """Context of a caller. It accepts any certificate; `spki_hash` of it is then compared with the chain's record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def pem_spki_hash(pem: Path) -> bytes:
    """The hash to register for the certificate in a PEM file."""
    text = pem.read_text()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text:
        raise UsageError(f"{pem} holds no certificate")
    start = text.index(begin)
    return spki_hash(ssl.PEM_cert_to_DER_cert(text[start : text.index(end, start) + len(end)]))


def spki_hash(der: bytes) -> bytes:
    """blake2b-256 of the public key part of a DER certificate. Raises DecodeError.

    Certificate = SEQUENCE { TBS = SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject, SPKI ... } ... }
    """
    if len(der) > CERTIFICATE_MAX_BYTES:
        raise DecodeError("certificate too large", where="tls")
    start, _ = _content(der, 0, 0x30)
    at, end = _content(der, start, 0x30)
    if at < end and der[at] == 0xA0:
        at = _content(der, at, 0xA0)[1]
    for tag in (0x02, 0x30, 0x30, 0x30, 0x30):
        at = _content(der, at, tag)[1]
    return blake2b(der[at : _content(der, at, 0x30)[1]], digest_size=32).digest()


def _content(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """(start, end) of the content of the element of that tag at `at`."""
    if at + 2 > len(der) or der[at] != tag:
        raise DecodeError("not a certificate", where="tls")
    length, start = der[at + 1], at + 2
    if length >= 0x80:
        width = length & 0x7F
        if not 1 <= width <= 4 or start + width > len(der):
            raise DecodeError("not a certificate", where="tls")
        length, start = int.from_bytes(der[start : start + width], "big"), start + width
    if start + length > len(der):
        raise DecodeError("not a certificate", where="tls")
    return start, start + length


def ensure_certificate(pem: Path) -> Path:
    """Make a self-signed P-256 certificate at `pem` (0600) unless there is one. Raises UsageError without a library."""
    if pem.exists():
        return pem
    try:
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        hint = f"make {pem} (private key and certificate) with openssl"
        raise UsageError("no library to make a certificate with", hint=hint) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "quorix neuron")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365 * CERTIFICATE_YEARS))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(pem, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private + certificate.public_bytes(serialization.Encoding.PEM))
    return pem
