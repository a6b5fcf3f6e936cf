"""Keys for people: words, `//names`, addresses, key files, and the public keys of devnets.

    words -> seed   Substrate's rule: PBKDF2-HMAC-SHA512 over the *entropy* of a BIP-39 phrase (not over its words),
                    salt "mnemonic" || password, 2048 rounds, first 32 bytes
    seed//name      hard junction of ed25519: blake2b-256(SCALE("Ed25519HDKD", seed, chain code)); no soft ones exist
    address         ss58 form of a public key with our own prefix: every address begins with "qx"
    key file        versioned JSON, mode 0600, argon2id and xsalsa20-poly1305; written atomically, never overwritten

So a phrase gives the same keys here as in other tools of the Substrate family, while their addresses differ by network.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import base58
from mnemonic import Mnemonic
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from ..crypto import KeyPair, digest
from ..errors import KeyFileError, KeyLocked, NotFound, UsageError

SEED_BYTES: Final = 32
MAX_PATH_CHARS: Final = 1024

# --- words -------------------------------------------------------------------------------------------------------

WORD_COUNTS: Final = (12, 15, 18, 21, 24)


def new_phrase(words: int = 12) -> str:
    """A fresh BIP-39 phrase of 12 or 24 English words from the system's random source."""
    if words not in (12, 24):
        raise UsageError(f"a phrase has 12 or 24 words, not {words}")
    return str(Mnemonic("english").to_mnemonic(secrets.token_bytes(words * 4 // 3)))


def phrase_entropy(phrase: str) -> bytes:
    """Entropy of a phrase, with its checksum checked. Raises UsageError naming the wrong word, if one is unknown."""
    language, words = Mnemonic("english"), phrase.lower().split()
    unknown = [word for word in words if word not in language.wordlist]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not a word of the list", hint="check the spelling of the phrase")
    if len(words) not in WORD_COUNTS:
        raise UsageError(f"a phrase has {', '.join(map(str, WORD_COUNTS))} words; this has {len(words)}")
    if not language.check(" ".join(words)):
        raise UsageError("the phrase's checksum is wrong", hint="check the order and the spelling of the words")
    return bytes(language.to_entropy(words))


def phrase_seed(phrase: str, password: str = "") -> bytes:
    """32-byte seed of a phrase."""
    return _entropy_seed(phrase_entropy(phrase), password)


def _entropy_seed(entropy: bytes, password: str = "") -> bytes:
    return hashlib.pbkdf2_hmac("sha512", entropy, b"mnemonic" + password.encode(), 2048)[:SEED_BYTES]


# --- names -------------------------------------------------------------------------------------------------------

_U64: Final = 1 << 64


def derive(seed: bytes, path: str) -> bytes:
    """Seed at `path` ("//validator//1", or "" for the seed itself) below `seed`. Raises UsageError for a bad path."""
    for name in split_path(path):
        seed = hashlib.blake2b(_scale_text("Ed25519HDKD") + seed + _chain_code(name), digest_size=32).digest()
    return seed


def split_path(path: str) -> list[str]:
    """Names of a path of hard junctions."""
    if len(path) > MAX_PATH_CHARS:
        raise UsageError(f"a key path has at most {MAX_PATH_CHARS} characters")
    if not path:
        return []
    names = path.split("//")
    if names[0] or not all(names[1:]) or any("/" in name for name in names):
        raise UsageError(f"{path!r} is not a key path", hint="ed25519 has only hard junctions: //role//name")
    return names[1:]


def _chain_code(name: str) -> bytes:
    """32-byte id of a junction: a decimal number as u64, anything else as text; longer ones are hashed."""
    if re.fullmatch("[0-9]+", name) and int(name) < _U64:
        code = int(name).to_bytes(8, "little")
    else:
        code = _scale_text(name)
    return hashlib.blake2b(code, digest_size=32).digest() if len(code) > 32 else code.ljust(32, b"\0")


def _scale_text(text: str) -> bytes:
    raw = text.encode()
    length = len(raw)
    if length < 1 << 6:
        return bytes([length << 2]) + raw
    assert length < 1 << 14
    return (length << 2 | 1).to_bytes(2, "little") + raw


def key_from_secret(secret: str) -> KeyPair:
    """Key pair of a secret as people write it: `words//name`, `words//name///password` or `0x<64 hex digits>//name`."""
    base, _, password = secret.strip().partition("///")
    at = base.find("//")
    root, path = (base, "") if at < 0 else (base[:at], base[at:])
    if root.startswith("0x"):
        if not re.fullmatch("0x[0-9a-fA-F]{64}", root) or password:
            raise UsageError("a seed is 0x and 64 hex digits, without a password")
        seed = bytes.fromhex(root[2:])
    else:
        seed = phrase_seed(root, password)
    return KeyPair.from_seed(derive(seed, path))


# --- addresses ---------------------------------------------------------------------------------------------------

ADDRESS_PREFIX: Final = 10940  # two bytes 0x6f 0x2a: every address begins with "qx"
ADDRESS_LEAD: Final = "qx"
MAX_ADDRESS_CHARS: Final = 64
SHORT_ADDRESS_CHARS: Final = 9  # of an address, where people are shown whom something is about
SHORTEST_PREFIX_CHARS: Final = 6  # that is taken for the beginning of an address
SHORTEST_HEX_PREFIX_CHARS: Final = 8
ELLIPSIS: Final = "\u2026"
ADDRESSES_KEPT: Final = 4096  # encoded before; one takes as long as a hundred look-ups
_FOREIGN: Final[Mapping[int, str]] = {
    0: "Polkadot", 2: "Kusama", 5: "Astar", 10: "Acala", 42: "a generic Substrate network, Bittensor among them",
    63: "Hydration", 1284: "Moonbeam", 13116: "Bittensor",
}


@functools.lru_cache(ADDRESSES_KEPT)
def encode_address(public: bytes, prefix: int = ADDRESS_PREFIX) -> str:
    """Address of a 32-byte public key."""
    assert len(public) == 32
    body = _prefix_bytes(prefix) + public
    return str(base58.b58encode(body + _checksum(body)), "ascii")


def short_address(public: bytes) -> str:
    """The beginning of a key's address, for people; `keys_named` takes it. Who must be sure needs the whole one."""
    return encode_address(public)[:SHORT_ADDRESS_CHARS]


def keys_named(text: str, keys: Iterable[bytes]) -> list[bytes]:
    """Those of the keys that `text` may mean, as people write one: the address, the hex digits, or the beginning of either.

    An ellipsis at the end and 0x before the digits are allowed. More than one found: the beginning is too short.
    """
    text = text.removesuffix(ELLIPSIS)
    if len(text) > MAX_ADDRESS_CHARS + 2:
        return []
    if text.startswith(ADDRESS_LEAD):
        return [key for key in keys if len(text) >= SHORTEST_PREFIX_CHARS and encode_address(key).startswith(text)]
    digits = text.removeprefix("0x").lower()
    return [key for key in keys if len(digits) >= SHORTEST_HEX_PREFIX_CHARS and key.hex().startswith(digits)]


def decode_address(text: str) -> bytes:
    """Public key of one of our addresses. Raises UsageError; an address of another network is named as such."""
    if len(text) > MAX_ADDRESS_CHARS:
        raise UsageError("that is too long for an address", hint=f"an address has 49 characters: {ADDRESS_LEAD}...")
    try:
        data = bytes(base58.b58decode(text))
    except ValueError:
        raise UsageError(f"{text!r} is not an address: it holds characters that base58 has not") from None
    width = 1 if data[:1] < b"\x40" else 2
    if len(data) != width + 34:
        raise UsageError(f"{text!r} is not an address: it has the wrong length")
    if _checksum(data[:-2]) != data[-2:]:
        raise UsageError(f"{text!r} is not an address: its checksum is wrong", hint="copy it again")
    prefix = _prefix_number(data)
    if prefix != ADDRESS_PREFIX:
        network = _FOREIGN.get(prefix, f"the network with ss58 prefix {prefix}")
        raise UsageError(
            f"{text} is an address of {network}, not of Quorix",
            hint=f"the same key has the address {encode_address(data[width:-2])} here", prefix=prefix,
        )
    return data[width:-2]


def _prefix_bytes(prefix: int) -> bytes:
    assert 0 <= prefix < 1 << 14
    if prefix < 64:
        return bytes([prefix])
    return bytes([(prefix & 0xFC) >> 2 | 0x40, prefix >> 8 | (prefix & 3) << 6])


def _prefix_number(data: bytes) -> int:
    first = data[0]
    if first < 64:
        return first
    return (first & 0x3F) << 2 | data[1] >> 6 | (data[1] & 0x3F) << 8


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(b"SS58PRE" + body, digest_size=64).digest()[:2]


# --- key files ---------------------------------------------------------------------------------------------------

KEY_FILE_VERSION: Final = 1
MAX_KEY_FILE_BYTES: Final = 16 * 1024
CIPHER: Final = "xsalsa20poly1305"
KINDS: Final = ("coldkey", "hotkey", "session", "node")
# profile -> (operations, memory in bytes) of argon2id; "interactive" 0.2 s, "moderate" 1 s, "sensitive" 4 s
KDF_PROFILES: Final[Mapping[str, tuple[int, int]]] = {
    "interactive": (pwhash.argon2id.OPSLIMIT_INTERACTIVE, pwhash.argon2id.MEMLIMIT_INTERACTIVE),
    "moderate": (pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE),
    "sensitive": (pwhash.argon2id.OPSLIMIT_SENSITIVE, pwhash.argon2id.MEMLIMIT_SENSITIVE),
}
_MAX_OPS, _MAX_MEMORY = KDF_PROFILES["sensitive"]


@dataclass(frozen=True)
class KeyFileInfo:
    """What a key file says without its password."""

    kind: str
    address: str
    public: bytes
    encrypted: bool
    created: str


def write_key_file(
    path: Path, key: KeyPair, kind: str, *, password: str | None, profile: str = "moderate", created: str = ""
) -> None:
    """Write a new key file with mode 0600; an existing file is never replaced (KeyFileError).

    Without a password the seed is stored in clear, for keys that a server must open unattended.
    `created` is a date to show.
    """
    if kind not in KINDS:
        raise UsageError(f"a key is one of {', '.join(KINDS)}, not {kind!r}")
    address = encode_address(key.public)
    record: dict[str, Any] = {"v": KEY_FILE_VERSION, "kind": kind, "address": address, "created": created}
    if password is None:
        record["seed"] = key.seed.hex()
    else:
        ops, memory = KDF_PROFILES[profile]
        salt, nonce = secrets.token_bytes(pwhash.argon2id.SALTBYTES), secrets.token_bytes(SecretBox.NONCE_SIZE)
        box = _box(password, salt, ops, memory)
        record["kdf"] = {"name": "argon2id", "ops": ops, "mem": memory, "salt": salt.hex()}
        record |= {"cipher": CIPHER, "nonce": nonce.hex(), "ct": box.encrypt(key.seed, nonce).ciphertext.hex()}
    _write_new(path, (json.dumps(record, indent=1) + "\n").encode())


def read_key_file(path: Path, password: str | None = None) -> KeyPair:
    """Open a key file. Raises NotFound, KeyFileError (malformed, open to others) or KeyLocked (password)."""
    info, record = _load(path)
    if not info.encrypted:
        key = KeyPair.from_seed(_hex(path, record, "seed", SEED_BYTES))
    else:
        if password is None:
            raise KeyLocked(f"{path} is encrypted and no password was given", hint="give the password of this key")
        key = KeyPair.from_seed(_decrypt(path, record, password))
    if key.public != info.public:
        raise KeyFileError(f"{path} is malformed: its secret and its address differ", hint="restore it from a backup")
    return key


def key_file_info(path: Path) -> KeyFileInfo:
    """Kind and address of a key file; needs no password."""
    return _load(path)[0]


def _decrypt(path: Path, record: dict[str, Any], password: str) -> bytes:
    kdf = record.get("kdf")
    if not isinstance(kdf, dict) or kdf.get("name") != "argon2id" or record.get("cipher") != CIPHER:
        raise KeyFileError(f"{path} is malformed: unknown cipher", hint="a newer version may have written it")
    ops, memory = kdf.get("ops"), kdf.get("mem")
    low = pwhash.argon2id.OPSLIMIT_MIN, pwhash.argon2id.MEMLIMIT_MIN
    if not (type(ops) is int and low[0] <= ops <= _MAX_OPS and type(memory) is int and low[1] <= memory <= _MAX_MEMORY):
        raise KeyFileError(f"{path} is malformed: key derivation limits are out of range")
    box = _box(password, _hex(path, kdf, "salt", pwhash.argon2id.SALTBYTES), ops, memory)
    nonce = _hex(path, record, "nonce", SecretBox.NONCE_SIZE)
    ciphertext = _hex(path, record, "ct", SEED_BYTES + SecretBox.MACBYTES)
    try:
        return bytes(box.decrypt(ciphertext, nonce))
    except CryptoError:
        raise KeyLocked(f"the password of {path} is wrong") from None


def _box(password: str, salt: bytes, ops: int, memory: int) -> SecretBox:
    return SecretBox(pwhash.argon2id.kdf(SecretBox.KEY_SIZE, password.encode(), salt, opslimit=ops, memlimit=memory))


def _load(path: Path) -> tuple[KeyFileInfo, dict[str, Any]]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place must not block
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1) if stat.S_ISREG(mode) else b""
    except FileNotFoundError:
        raise NotFound(f"there is no key file {path}", hint="see `quorix key list`") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise KeyFileError(f"{path} is malformed: not a file")
    if mode & 0o077:
        raise KeyFileError(f"{path} may be read by other users", hint=f"chmod 600 {path}")
    try:
        record = json.loads(data) if len(data) <= MAX_KEY_FILE_BYTES else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise KeyFileError(f"{path} is malformed: not a key file")
    if record.get("v") != KEY_FILE_VERSION:
        raise KeyFileError(f"{path} has version {record.get('v')!r}, this program knows {KEY_FILE_VERSION}")
    kind, address, created = record.get("kind"), record.get("address"), record.get("created", "")
    if kind not in KINDS or not isinstance(address, str) or not isinstance(created, str):
        raise KeyFileError(f"{path} is malformed: kind or address is missing")
    try:
        public = decode_address(address)
    except UsageError as error:
        raise KeyFileError(f"{path} is malformed: {error.cause}") from None
    return KeyFileInfo(str(kind), address, public, "seed" not in record, created), record


def _hex(path: Path, record: dict[str, Any], field: str, size: int) -> bytes:
    text = record.get(field)
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{2 * size}}}", text):
        raise KeyFileError(f"{path} is malformed: {field} is not {size} bytes in hex")
    return bytes.fromhex(text)


def _write_new(path: Path, data: bytes) -> None:
    """Atomic and durable: the whole file appears under its name, or nothing does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails if the name is taken
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise KeyFileError(f"{path} exists already and is not overwritten", hint="choose another name") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(draft)


# --- devnets -----------------------------------------------------------------------------------------------------


class DevKeys:
    """The keys of a devnet, all derived from one small number. They are public: never use them for anything of value.

    Coldkey of an account: //role//name, its hotkey: //role//name//hot; session key of an authority:
    //authority//0//session.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < _U64:
            raise UsageError(f"a devnet's seed is a number from 0 to 2^64 - 1, not {seed}")
        entropy = digest("seed", seed.to_bytes(8, "little"))[:16]
        self.phrase: str = Mnemonic("english").to_mnemonic(entropy)
        self._root = _entropy_seed(entropy)

    def key(self, path: str) -> KeyPair:
        """Key pair at a path, for example "//validator//1//hot"."""
        return KeyPair.from_seed(derive(self._root, path))

    def coldkey(self, role: str, name: str) -> KeyPair:
        return self.key(f"//{role}//{name}")

    def hotkey(self, role: str, name: str) -> KeyPair:
        return self.key(f"//{role}//{name}//hot")

    def session(self, index: int) -> KeyPair:
        """Session key of authority `index`."""
        return self.key(f"//authority//{index}//session")
