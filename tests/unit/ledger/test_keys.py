"""Words, derivation, addresses and key files; the vectors are those other tools of the Substrate family agree on."""

import json
import os
from pathlib import Path

import pytest

from ledger.client import keys
from ledger.client.keys import (
    DevKeys,
    decode_address,
    derive,
    encode_address,
    key_from_secret,
    keys_named,
    phrase_seed,
    short_address,
)
from ledger.errors import KeyFileError, KeyLocked, NotFound, UsageError

GOLDEN_FILE = Path(__file__).parents[2] / "golden" / "coldkey.json"
DEV_PHRASE = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
DEV_SEED = "fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e"
ALICE = "88dc3417d5058ec4b4503e0c12ea1a0a89be200fe98922423d4334014fa6b0ee"


# Public development accounts of the Substrate family, ed25519: seed, public key, address with prefix 42.
ACCOUNTS = {
    "Alice": ("abf8e5bdbe30c65656c0a3cbd181ff8a56294a69dfedd27982aace4a76909115", ALICE,
              "5FA9nQDVg267DEd8m1ZypXLBnvN7SFxYwV7ndqSYGiN9TTpu"),
    "Bob": ("3b7b60af2abcd57ba401ab398f84f4ca54bd6b2140d2503fbcf3286535fe3ff1",
            "d17c2d7823ebf260fd138f2d7e27d114c0145d968b5ff5006125f2414fadae69",
            "5GoNkf6WdbxCFnPdAnYYQyCjAKPJgLNxXwPjwTh6DGg6gN3E"),
    "Charlie": ("072c02fa1409dc37e03a4ed01703d4a9e6bba9c228a49a00366e9630a97cba7c",
                "439660b36c6c03afafca027b910b4fecf99801834c62a5e6006f27d978de234f",
                "5DbKjhNLpqX3zqZdNBc9BGb4fHU1cRBaDhJUskrvkwfraDi6"),
    "Dave": ("771f47d3caf8a2ee40b0719e1c1ecbc01d73ada220cf08df12a00453ab703738",
             "5e639b43e0052c47447dac87d6fd2b6ec50bdd4d0f614e4299c665249bbd09d9",
             "5ECTwv6cZ5nJQPk6tWfaTrEk8YH2L7X1VT4EL5Tx2ikfFwb7"),
    "Eve": ("bef5a3cd63dd36ab9792364536140e5a0cce6925969940c431934de056398556",
            "1dfe3e22cc0d45c70779c1095f7489a8ef3cf52d62fbd8c2fa38c9f1723502b5",
            "5Ck2miBfCe1JQ4cY3NDsXyBaD6EcsgiVmEFTWwqNSs25XDEq"),
    "Ferdie": ("1441e38eb309b66e9286867a5cd05902b05413eb9723a685d4d77753d73d0a1d",
               "568cb4a574c6d178feb39c27dfc8b3f789e5f5423e19c71633c748b9acf086b5",
               "5E2BmpVFzYGd386XRCZ76cDePMB3sfbZp5ZKGUsrG1m6gomN"),
}
# Phrases with the password "Substrate" and their mini secrets.
PHRASES = {
    "abandon " * 11 + "about": "44e9d125f037ac1d51f0a7d3649689d422c2af8b1ec8e00d71db4d7bf6d127e3",
    "abandon " * 23 + "art": "44e9d125f037ac1d51f0a7d3649689d422c2af8b1ec8e00d71db4d7bf6d127e3",  # zeros, however many
    "legal winner thank year wave sausage worth useful legal winner thank yellow":
        "4313249608fe8ac10fd5886c92c4579007272cb77c21551ee5b8d60b78041685",
    "letter advice cage absurd amount doctor acoustic avoid letter advice cage above":
        "27f3eb595928c60d5bc91a4d747da40ed236328183046892ed6cd5aa9ae38122",
    "zoo " * 11 + "wrong": "227d6256fd4f9ccaf06c45eaa4b2345969640462bbb00c5f51f43cb43418c7a7",
}


@pytest.mark.parametrize("name", ACCOUNTS)
def test_development_accounts_of_the_family(name):
    seed, public, address = ACCOUNTS[name]
    key = key_from_secret(f"{DEV_PHRASE}//{name}")
    assert (key.seed.hex(), key.public.hex(), encode_address(key.public, 42)) == (seed, public, address)
    with pytest.raises(UsageError, match="generic Substrate"):
        decode_address(address)


@pytest.mark.parametrize("phrase", PHRASES)
def test_mini_secrets_of_the_family(phrase):
    assert phrase_seed(phrase, "Substrate").hex() == PHRASES[phrase]


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


def test_keys_are_found_by_what_people_write():
    one, other = b"\xab" * 32, b"\xab" * 31 + b"c"
    address = encode_address(one)
    for text in (address, address + "\u2026", address[:30], one.hex(), "0x" + one.hex().upper(), one.hex() + "\u2026"):
        assert keys_named(text, [other, one]) in ([one], [other, one]) and keys_named(text, [one]) == [one]
    assert keys_named(address, [other, one]) == [one] and keys_named(one.hex(), [other, one]) == [one]
    assert keys_named(one.hex()[:8], [other, one]) == [other, one] and short_address(one) == address[:9]
    for text in ("", "qx", address[:5], one.hex()[:7], "0x", address + "1", one.hex() + "00", "qx" + "1" * 10_000, "\u2026"):
        assert keys_named(text, [one, other]) == [], text


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
    for text in ("", "[]", "{" * 20000, "[" * 16000, '{"v": 1}', "\0"):
        path.write_text(text)
        with pytest.raises(KeyFileError, match="malformed"):
            keys.key_file_info(path)


def test_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UsageError):
        keys.write_key_file(tmp_path / "k", DevKeys(1).session(0), "thing", password=None)


def test_a_key_file_of_version_1_is_opened_for_good(tmp_path):
    """Golden bytes: whatever later versions write, this file must open with its password."""
    path = tmp_path / "golden.json"
    path.write_bytes(GOLDEN_FILE.read_bytes())
    with pytest.raises(KeyFileError, match="other users"):
        os.chmod(path, 0o604)
        keys.read_key_file(path, "correct horse")
    os.chmod(path, 0o600)
    assert keys.read_key_file(path, "correct horse") == key_from_secret(DEV_PHRASE + "//Alice")
    info = keys.key_file_info(path)
    assert (info.kind, info.created, info.public.hex()) == ("coldkey", "2026-01-01", ALICE)
    assert info.address == encode_address(bytes.fromhex(ALICE))


def test_every_changed_byte_of_what_is_encrypted_is_noticed(tmp_path):
    good, path = json.loads(GOLDEN_FILE.read_text()), tmp_path / "k.json"
    for field in ("ct", "nonce", "salt"):
        record = json.loads(GOLDEN_FILE.read_text())
        place = record["kdf"] if field == "salt" else record
        for at in range(0, len(place[field]), 7):
            kept = place[field]
            place[field] = kept[:at] + ("0" if kept[at] != "0" else "1") + kept[at + 1 :]
            write(path, record)
            with pytest.raises(KeyLocked, match="wrong"):
                keys.read_key_file(path, "correct horse")
            place[field] = kept
    write(path, good)
    assert keys.read_key_file(path, "correct horse").public.hex() == ALICE


def write(path, record):
    path.write_text(json.dumps(record))
    os.chmod(path, 0o600)


def test_nothing_is_left_behind_and_everything_is_synced(tmp_path, monkeypatch):
    """Draft with mode 0600 from its creation on, synced before it gets its name, the folder synced after it."""
    key, path, done = DevKeys(1).session(0), tmp_path / "k.json", []
    sync, link = os.fsync, os.link

    def noted_sync(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else oct(os.fstat(handle).st_mode & 0o777))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "link", lambda *names: done.append("link") or link(*names))
    before = os.umask(0)
    try:
        keys.write_key_file(path, key, "session", password=None)
    finally:
        os.umask(before)
    assert done == ["0o600", "link", "folder"]
    assert os.listdir(tmp_path) == ["k.json"] and os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("step", ["fsync", "link", "open"])
def test_a_failing_disk_leaves_no_file(tmp_path, monkeypatch, step):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(KeyFileError, match="No space left"):
        keys.write_key_file(tmp_path / "k.json", DevKeys(1).session(0), "session", password=None)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_a_link_or_a_pipe_is_no_way_to_overwrite_or_to_hang(tmp_path):
    key, path = DevKeys(1).session(0), tmp_path / "k.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="exists"):
        keys.write_key_file(path, key, "session", password=None)
    assert not (tmp_path / "elsewhere").exists()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for wrong in (pipe, tmp_path):
        with pytest.raises(KeyFileError):
            keys.read_key_file(wrong)


def test_secrets_are_in_no_message(tmp_path, cheap_kdf):
    key, path = DevKeys(1).session(0), tmp_path / "k.json"
    keys.write_key_file(path, key, "session", password="hunter two")
    record = json.loads(path.read_text())
    assert "seed" not in record and "hunter two" not in path.read_text()
    with pytest.raises(KeyLocked) as caught:
        keys.read_key_file(path, "hunter three")
    assert "hunter" not in str(caught.value) and key.seed.hex() not in repr(key)
