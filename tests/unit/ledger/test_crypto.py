"""Signatures, hashes and tags: the acceptance rule is frozen by vectors, and no message passes as another."""

import json
import time
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import crypto
from ledger.acceptance import CASES
from ledger.crypto import TAGS, KeyPair, digest, is_valid_key, self_test, signing_bytes, verify, verify_raw
from ledger.errors import Fault

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "ed25519.json").read_text())["cases"]
CONTEXT = bytes(range(32))


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_acceptance_rule(case):
    public, message, signature = (bytes.fromhex(case[name]) for name in ("public", "message", "signature"))
    assert verify_raw(public, message, signature) is case["accepted"]
    assert is_valid_key(public) is case["valid_key"]


def test_the_package_ships_the_same_vectors():
    names = ("name", "public", "message", "signature", "accepted", "valid_key")
    assert [tuple(case[name] for name in names) for case in VECTORS] == list(CASES)
    assert len(CASES) >= 20 and {accepted for *_, accepted, _ in CASES} == {True, False}


def test_the_self_test_takes_milliseconds():
    self_test()
    start = time.process_time()
    self_test()
    assert time.process_time() - start < 0.05  # 3 ms on an idle machine


def verifier(change):
    """The library's answer, but for what `change` makes of it."""
    plain = crypto.verify_raw
    return lambda public, message, signature: change(plain(public, message, signature), public, signature)


@pytest.mark.parametrize("name, stand_in, message", [
    ("verify_raw", lambda *_: True, "other message"),
    ("verify_raw", lambda *_: False, "RFC 8032 test 1"),
    ("verify_raw", verifier(lambda right, _, sign: right or sign[:32] == bytes([1]) + bytes(31)), "R is the identity"),
    ("verify_raw", verifier(lambda right, _, sign: right or sign[63] >> 4 == 1), "S with the top bits set|malleated|S = L"),
    ("is_valid_key", lambda _: True, "key validity"),
    ("is_valid_key", lambda _: False, "key validity"),
    ("signing_bytes", lambda kind, context, body: body, "signing and hashing"),
])
def test_the_self_test_notices_a_library_with_another_rule(monkeypatch, name, stand_in, message):
    monkeypatch.setattr(crypto, name, stand_in)
    with pytest.raises(Fault, match=message) as caught:
        self_test()
    assert "requirements.lock" in caught.value.hint


def test_a_node_does_not_start_with_such_a_library(monkeypatch):
    from tools.node.service import run_nodes

    monkeypatch.setattr(crypto, "is_valid_key", lambda _: True)
    with pytest.raises(Fault, match="self-test"):
        run_nodes([None], announce=None)


def test_signing_bytes_are_tag_and_hash():
    tag = b"qx/prevote/1".ljust(16, b"\0")
    expected = tag + blake2b(CONTEXT + b"body", digest_size=32, person=tag).digest()
    assert signing_bytes("prevote", CONTEXT, b"body") == expected
    assert digest("page", b"a", b"b") == blake2b(b"ab", digest_size=32, person=b"qx/page/1".ljust(16, b"\0")).digest()


def test_tags_are_distinct_and_short():
    assert len(set(TAGS.values())) == len(TAGS)
    assert all(len(tag) == 16 and tag.startswith(b"qx/") for tag in TAGS.values())


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.sampled_from(["prevote", "extrinsic", "open"]))
def test_what_is_signed_verifies_and_nothing_else(seed, body, kind):
    key = KeyPair.from_seed(seed)
    signature = key.sign(kind, CONTEXT, body)
    assert key.sign(kind, CONTEXT, body) == signature  # deterministic: signing again after a crash is harmless
    assert verify(key.public, kind, CONTEXT, body, signature)
    assert not verify(key.public, kind, CONTEXT, body + b"x", signature)
    assert not verify(key.public, kind, bytes(32), body, signature)
    assert not verify(key.public, "precommit", CONTEXT, body, signature)
    assert not verify(KeyPair.from_seed(bytes(32)).public, kind, CONTEXT, body, signature) or seed == bytes(32)


@pytest.mark.parametrize("public, signature", [(b"", b""), (bytes(31), bytes(64)), (bytes(33), bytes(64)),
                                               (bytes(32), bytes(63)), (bytes(32), bytes(65))])
def test_misshapen_keys_and_signatures_are_invalid_not_errors(public, signature):
    assert verify(public, "open", CONTEXT, b"", signature) is False
    assert is_valid_key(public) is False


def test_nothing_but_the_whole_signature_and_key_counts():
    """The library is given both joined and does not look at the length of a key: its caller must."""
    key, message = KeyPair.from_seed(b"\x07" * 32), b"message"
    signature = key.sign_raw(message)
    assert verify_raw(key.public, message, signature)
    for cut in (0, 1, 32, 63):
        assert verify_raw(key.public, signature[cut:] + message, signature[:cut]) is False
    assert verify_raw(key.public, message[1:], signature + message[:1]) is False
    for public in (key.public + b"\0", key.public[:31], key.public * 2, b""):
        assert verify_raw(public, message, signature) is False
    for size in (0, 1, 1 << 20):
        signature = key.sign_raw(bytes(size))
        assert verify_raw(key.public, bytes(size), signature)
        assert not verify_raw(key.public, bytes(size + 1), signature)


@pytest.mark.parametrize("change", [lambda _: None, lambda _: 7, bytes.hex, lambda data: data.decode("latin1")])
def test_what_is_no_bytes_is_an_error_never_a_verdict(change):
    key, message = KeyPair.from_seed(b"\x07" * 32), bytes(32)
    signature = key.sign_raw(message)
    for odd in ((change(key.public), message, signature), (key.public, change(message), signature),
                (key.public, message, change(signature))):
        try:
            assert verify_raw(*odd) is False
        except TypeError:
            pass


def test_a_key_pair_never_shows_its_seed():
    key = KeyPair.from_seed(b"\x07" * 32)
    assert "07" * 8 not in repr(key) and key.public.hex() in repr(key)
