"""Recovery files: how a chain goes on after a third or more of its authorities are lost for good.

Such a chain stands still, safely: no quorum, no block. A recovery file names the last final block H and another authority
set. It is given to every node of the chain, which checks that H is its own block H, and from then on

    the set      of H + 1 is the file's, in place of the one that the header of H names; no header field is needed
    the domain   of H + 1 on is a new one, chained to the old one and to the hash of the file: no vote that the old set may
                 have cast for H + 1 counts any more
    the state    takes the set over at the beginning of block H + 1 (`runtime.modules.sessions.recover`)

The old set may have decided H + 1 without any survivor knowing. Whether it did is the operators' judgement: nobody else can
know. The file is JSON, so that it can be read before it is trusted; its hash covers the values, not the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .codec import HASH, KEY, U64, Bytes, ListOf, Record, Text, encode
from .crypto import digest, is_valid_key
from .errors import DecodeError, UsageError
from .machine import AuthoritySet
from .signer import Domains, rewound
from .votes import MAX_AUTHORITIES, authorities_hash

VERSION: Final = 1
MAX_FILE_BYTES: Final = 64 * 1024
MAX_REASON_CHARACTERS: Final = 500
MAX_RECOVERIES: Final = 16  # of one chain

_SHAPE = Record(
    "recovery", genesis_hash=HASH, height=U64, head_hash=HASH,
    members=ListOf(ListOf(Bytes(32, name="key"), 2, low=2), MAX_AUTHORITIES, low=1), reason=Text(4 * MAX_REASON_CHARACTERS),
)
_FIELDS: Final = ("version", "genesis_hash", "height", "head_hash", "authorities", "reason")


@dataclass(frozen=True)
class Recovery:
    """What a file says. `members`: (session key, account) of the set that certifies `height` + 1 and goes on."""

    genesis_hash: bytes
    height: int  # of the last final block
    head_hash: bytes  # its hash; the genesis hash at the genesis height
    members: tuple[tuple[bytes, bytes], ...]
    reason: str

    @property
    def keys(self) -> tuple[bytes, ...]:
        return tuple(key for key, _ in self.members)

    @property
    def authorities(self) -> AuthoritySet:
        """The new set; everybody may lead."""
        return AuthoritySet(self.keys, tuple(range(len(self.members))))

    @property
    def hash(self) -> bytes:
        """What operators compare, and what the new domain commits to."""
        members = [[key, account] for key, account in self.members]
        return digest("recovery", encode([self.genesis_hash, self.height, self.head_hash, members, self.reason]))

    def check(self) -> Recovery:
        """Raises DecodeError for a set that no chain can have."""
        _SHAPE.check([self.genesis_hash, self.height, self.head_hash, [list(each) for each in self.members], self.reason])
        for key in self.keys:
            KEY.check(key, "recovery.authorities")
            if not is_valid_key(key):
                raise DecodeError("not a valid ed25519 key", where="recovery.authorities")
        if len(dict.fromkeys(self.keys)) != len(self.keys):
            raise DecodeError("a session key is named twice", where="recovery.authorities")
        return self

    def text(self) -> str:
        """The file."""
        return json.dumps({
            "version": VERSION, "genesis_hash": self.genesis_hash.hex(), "height": self.height,
            "head_hash": self.head_hash.hex(),
            "authorities": [{"session_key": key.hex(), "account": account.hex()} for key, account in self.members],
            "reason": self.reason,
        }, indent=1) + "\n"

    @classmethod
    def parse(cls, data: bytes) -> Recovery:
        """Raises DecodeError for anything but a file of this version."""
        if len(data) > MAX_FILE_BYTES:
            raise DecodeError(f"more than {MAX_FILE_BYTES} bytes", where="recovery")
        try:
            tree = json.loads(data.decode(), object_pairs_hook=_once)
        except (UnicodeDecodeError, ValueError, RecursionError):
            raise DecodeError("not JSON", where="recovery") from None
        _fields(tree, _FIELDS, "recovery")
        if tree["version"] != VERSION:
            raise DecodeError(f"version {str(tree['version'])[:20]}, expected {VERSION}", where="recovery.version")
        rows = tree["authorities"]
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_AUTHORITIES:
            raise DecodeError(f"not a list of 1 to {MAX_AUTHORITIES}", where="recovery.authorities")
        for row in rows:
            _fields(row, ("session_key", "account"), "recovery.authorities")
        members = tuple((_hex(row["session_key"]), _hex(row["account"])) for row in rows)
        if type(tree["height"]) is not int or not isinstance(tree["reason"], str):
            raise DecodeError("height is a number and reason a text", where="recovery")
        return cls(_hex(tree["genesis_hash"]), tree["height"], _hex(tree["head_hash"]), members, tree["reason"]).check()


Recoveries = Mapping[int, Recovery]  # by height


def members_of(recoveries: Recoveries) -> dict[int, tuple[tuple[bytes, bytes], ...]]:
    """The new sets by height: what the rules have to know."""
    return {height: each.members for height, each in recoveries.items()}


def by_height(recoveries: Iterable[Recovery], genesis_hash: bytes) -> dict[int, Recovery]:
    """Files of one chain. Raises UsageError for one of another chain, or two for one height."""
    found: dict[int, Recovery] = {}
    for each in recoveries:
        if each.genesis_hash != genesis_hash:
            raise UsageError("the recovery file is of another chain", hint="compare genesis_hash with `quorix node status`")
        if found.setdefault(each.height, each).hash != each.hash:
            raise UsageError(f"there are two recovery files for height {each.height}", hint="all nodes need the same one")
    if len(found) > MAX_RECOVERIES:
        raise UsageError(f"more than {MAX_RECOVERIES} recovery files")
    return dict(sorted(found.items()))


def recovered_domains(domains: Domains, recoveries: Recoveries) -> Domains:
    """The signing domains with an entry for each recovery; those that are there already stay."""
    for height, each in sorted(recoveries.items()):
        before = tuple(entry for entry in domains if entry[0] <= height)
        wanted = rewound(before, height, each.head_hash, authorities_hash(each.keys), each.hash)
        if wanted[-1] not in domains:
            domains = wanted
    return domains


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _fields(value: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        raise DecodeError(f"expected exactly the fields {', '.join(names)}", where=where)


def _hex(value: Any) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) and len(value) == 64 else b""
    except ValueError:
        data = b""
    if len(data) != 32:
        raise DecodeError("expected 64 hex digits", where="recovery")
    return data
