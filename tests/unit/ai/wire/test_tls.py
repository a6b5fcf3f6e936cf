"""TLS pinned to the key on chain."""

import asyncio
import hashlib
import ssl
from dataclasses import replace

import pytest

from ai.serve import tls
from ai.serve.client import NeuronClient
from ai.serve.refusals import Refused
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, Unreachable, UsageError

GENESIS = b"g" * 32
ONE = KeyPair.from_seed(b"1" * 32)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    return tls.ensure_certificate(tmp_path_factory.mktemp("tls") / "tls.pem")


def test_the_hash_is_of_the_public_key(pem):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_pem_x509_certificate(pem.read_bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert tls.pem_spki_hash(pem) == hashlib.blake2b(spki, digest_size=32).digest()


def test_a_certificate_is_made_once_and_privately(pem):
    before = pem.read_bytes()
    assert tls.ensure_certificate(pem).read_bytes() == before
    assert pem.stat().st_mode & 0o777 == 0o600


def test_damaged_certificates_are_refused(pem, tmp_path):
    text = pem.read_text()
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])
    expected = tls.spki_hash(der)
    for cut in range(0, len(der), 7):
        with pytest.raises(DecodeError):
            tls.spki_hash(der[:cut])
    for at in range(60):
        try:
            assert tls.spki_hash(der[:at] + bytes([der[at] ^ 0x55]) + der[at + 1 :]) is not None
        except DecodeError:
            pass
    with pytest.raises(DecodeError):
        tls.spki_hash(der + bytes(tls.CERTIFICATE_MAX_BYTES))
    assert tls.spki_hash(der) == expected
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(UsageError):
        tls.pem_spki_hash(tmp_path / "empty.pem")


async def test_a_session_over_tls_needs_no_devnet(markets, pem):
    async with markets(tls=tls.server_context(pem)) as market:
        client = NeuronClient(ONE, GENESIS, allow_private=True)
        neuron = replace(market.neuron, tls_spki_hash=tls.pem_spki_hash(pem))
        _, settled = await client.distribution(neuron, [b"abc"], netuid=1)
        assert settled.status == 0
        await client.close()


async def test_another_key_is_not_talked_to(markets, pem, tmp_path):
    other = tls.ensure_certificate(tmp_path / "other.pem")
    async with markets(tls=tls.server_context(other)) as market:
        client = NeuronClient(ONE, GENESIS, allow_private=True)
        with pytest.raises(Refused, match="wrong_callee"):
            await client.distribution(replace(market.neuron, tls_spki_hash=tls.pem_spki_hash(pem)), [b"x"], netuid=1)
        assert market.server.counters.sessions == 0


async def test_clear_and_tls_do_not_meet(markets, pem, monkeypatch):
    monkeypatch.setattr("ai.serve.dialling.GREET_SECONDS", 0.2)
    async with markets() as market:  # a neuron that serves in clear although the chain names a key
        client = NeuronClient(ONE, GENESIS, allow_private=True)
        with pytest.raises(Unreachable):
            await client.distribution(replace(market.neuron, tls_spki_hash=tls.pem_spki_hash(pem)), [b"x"], netuid=1)
    async with markets(tls=tls.server_context(pem)) as market:
        client = NeuronClient(ONE, GENESIS, allow_private=True, allow_clear=True)
        with pytest.raises(Unreachable):
            await client.distribution(market.neuron, [b"x"], netuid=1)


async def test_a_handshake_that_does_not_come_ends(markets, pem, monkeypatch):
    monkeypatch.setattr("ai.serve.server.HANDSHAKE_SECONDS", 0.1)
    async with markets(tls=tls.server_context(pem)) as market:
        reader, writer = await asyncio.open_connection(market.neuron.ip, market.neuron.port)
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        writer.close()


def test_old_versions_are_not_spoken(pem):
    for context in (tls.server_context(pem), tls.client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
