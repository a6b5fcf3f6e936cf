"""Words, derivation, addresses and key files; the vectors are those other tools of the Substrate family agree on."""

import json
import os

import pytest

from ledger.client import keys
from ledger.client.keys import DevKeys, decode_address, derive, encode_address, key_from_secret, phrase_seed
from ledger.errors import KeyFileError, KeyLocked, NotFound, UsageError

DEV_PHRASE = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
DEV_SEED = "fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e"
ALICE = "88dc3417d5058ec4b4503e0c12ea1a0a89be200fe98922423d4334014fa6b0ee"


@pytest.fixture
def cheap_kdf(monkeypatch):
    monkeypatch.setitem(keys.KDF_PROFILES, "moderate", (1, 8192))


def test_phrase_seed_is_the_family_s_mini_secret():
    assert phrase_seed(DEV_PHRASE).hex() == DEV_SEED
    assert phrase_seed(DEV_PHRASE.upper()).hex() == DEV_SEED
    assert phrase_seed(DEV_PHRASE, "x").hex() != DEV_SEED


def test_hard_junction_vector():
    assert key_from_secret(DEV_PHRASE + "//Alice").public.hex() == ALICE
    assert key_from_secret(f"0x{DEV_SEED}//Alice").public.hex() == ALICE


def test_password_after_three_slashes():
    seed = phrase_seed(DEV_PHRASE, "secret")
    assert key_from_secret(DEV_PHRASE + "///secret").seed == seed
    assert key_from_secret(DEV_PHRASE + "//a///secret").seed == derive(seed, "//a")


def test_number_and_text_junctions_differ_and_long_names_are_hashed():
    seed = bytes(32)
    assert derive(seed, "//1") != derive(seed, "//one")
    assert derive(seed, "//" + "n" * 80) != derive(seed, "//" + "n" * 81)
    assert derive(seed, "//a//b") == derive(derive(seed, "//a"), "//b")
    assert derive(seed, "") == seed


@pytest.mark.parametrize("path", ["/soft", "//a/b", "//", "//a//", "a", "//a///b"])
def test_bad_paths_are_refused(path):
    with pytest.raises(UsageError):
        derive(bytes(32), path)


@pytest.mark.parametrize(
    ("phrase", "part"),
    [
        ("bottom drive obey", "words"),
        (DEV_PHRASE.replace("walk", "walkk"), "walkk"),
        (DEV_PHRASE.replace("walk", "drive"), "checksum"),
        ("0x12", "hex"),
    ],
)
def test_bad_secrets_say_what_is_wrong(phrase, part):
    with pytest.raises(UsageError, match=part):
        key_from_secret(phrase)


def test_new_phrases_are_valid_and_differ():
    assert keys.phrase_entropy(keys.new_phrase(24)) != keys.phrase_entropy(keys.new_phrase(24))
    assert len(keys.new_phrase().split()) == 12
    with pytest.raises(UsageError):
        keys.new_phrase(13)


def test_addresses_of_other_networks_match_the_family_s():
    public = bytes.fromhex(ALICE)
    assert encode_address(public, 42) == "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu"


@pytest.mark.parametrize("fill", [0, 1, 127, 255])
def test_our_addresses_round_trip_and_begin_alike(fill):
    public = bytes([fill]) * 32
    address = encode_address(public)
    assert address.startswith(keys.ADDRESS_LEAD) and len(address) == 49
    assert decode_address(address) == public


def test_foreign_address_is_named_and_ours_is_suggested():
    public = bytes.fromhex(ALICE)
    with pytest.raises(UsageError, match="Polkadot") as caught:
        decode_address(encode_address(public, 0))
    assert encode_address(public) in caught.value.hint
    with pytest.raises(UsageError, match="prefix 9999"):
        decode_address(encode_address(public, 9999))


MISTYPED = "qxbEAsjcChQjjMEK61wgusEVAy3sq24Uu5BEj6EQDQev6edRx"


@pytest.mark.parametrize("text", ["", "0", "qx", "l" * 49, "q" * 1000, MISTYPED])
def test_malformed_addresses_are_refused(text):
    with pytest.raises(UsageError):
        decode_address(text)


def test_dev_keys_are_reproducible_and_distinct():
    first, again, other = DevKeys(1), DevKeys(1), DevKeys(2)
    assert first.coldkey("validator", "1") == again.coldkey("validator", "1")
    assert first.coldkey("validator", "1") != other.coldkey("validator", "1")
    assert first.hotkey("neuron", "code") == first.key("//neuron//code//hot")
    assert key_from_secret(first.phrase + "//authority//0//session") == first.session(0)
    with pytest.raises(UsageError):
        DevKeys(-1)


def test_encrypted_key_file_round_trip(tmp_path, cheap_kdf):
    key, path = DevKeys(1).coldkey("owner", "x"), tmp_path / "keys" / "owner.json"
    keys.write_key_file(path, key, "coldkey", password="pw", created="2026-01-01")
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert key.seed.hex() not in path.read_text()
    info = keys.key_file_info(path)
    assert (info.kind, info.public, info.encrypted, info.created) == ("coldkey", key.public, True, "2026-01-01")
    assert keys.read_key_file(path, "pw") == key
    for password in (None, "wrong"):
        with pytest.raises(KeyLocked):
            keys.read_key_file(path, password)
    assert os.listdir(path.parent) == ["owner.json"]


def test_key_files_are_never_overwritten(tmp_path):
    first, second, path = DevKeys(1).session(0), DevKeys(1).session(1), tmp_path / "session.key"
    keys.write_key_file(path, first, "session", password=None)
    with pytest.raises(KeyFileError, match="exists"):
        keys.write_key_file(path, second, "session", password=None)
    assert keys.read_key_file(path) == first
    assert os.listdir(tmp_path) == ["session.key"]


def test_unusable_key_files_have_separate_errors(tmp_path, cheap_kdf):
    key, path = DevKeys(1).session(0), tmp_path / "k.json"
    with pytest.raises(NotFound):
        keys.read_key_file(path)
    keys.write_key_file(path, key, "node", password="pw")
    good = json.loads(path.read_text())
    os.chmod(path, 0o640)
    with pytest.raises(KeyFileError, match="other users"):
        keys.read_key_file(path, "pw")
    os.chmod(path, 0o600)
    other = encode_address(DevKeys(1).session(1).public)
    for change in (
        {"v": 2}, {"kind": "thing"}, {"address": "x"}, {"address": other}, {"cipher": "rot13"}, {"ct": "00"},
        {"nonce": 5}, {"kdf": {**good["kdf"], "mem": 1 << 40}}, {"kdf": {**good["kdf"], "ops": 0}}, {"kdf": None},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(KeyFileError):
            keys.read_key_file(path, "pw")
    for text in ("", "[]", "{" * 20000):
        path.write_text(text)
        with pytest.raises(KeyFileError, match="malformed"):
            keys.key_file_info(path)


def test_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UsageError):
        keys.write_key_file(tmp_path / "k", DevKeys(1).session(0), "thing", password=None)
