"""Targets: rows and files that a node reads back from its own databases. A damaged one is Corruption and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ledger import layout
from ledger.errors import Corruption, DecodeError, DoubleSignRisk, NewerSchema, UsageError, WrongGenesis
from ledger.layout import ReverseDiff, at
from ledger.store import MemoryStore

from . import samples as made
from .target import Target, one

_OTHER_HEIGHT: Final = 2
_OWN_HEIGHT: Final = 3


def row_targets() -> list[Target]:
    from ledger.level_files import check_log
    from ledger.lost import lost_blocks, lost_row, stored_block
    from ledger.store import check_stamp

    corrupt: dict[str, Any] = {"refuses": (Corruption,)}

    def holding(key: bytes, read: Callable[[MemoryStore], Any]) -> Callable[[bytes], Any]:
        def reader(data: bytes) -> Any:
            store = MemoryStore()
            store.write({**_block_rows(), key: data}, sync=False)
            return read(store)

        return reader

    def stamped(data: bytes) -> None:
        store = MemoryStore()
        store.write({b"m/schema": data[:4], b"m/genesis": data[4:]}, sync=False)
        check_stamp(store, layout.SCHEMA, made.DOMAIN)

    lost = lost_row([1, 2, 3, 9])
    assert lost is not None
    return [
        Target("result row", "cbor", _results, layout.decode_result, covers=("ledger.layout.decode_result",), **corrupt),
        Target("reverse diff", "cbor", _diffs, lambda data: ReverseDiff.decode(data).values(),
               covers=("ledger.layout.ReverseDiff.decode",), **corrupt),
        Target("lost blocks", "cbor", one(lost), holding(layout.LOST_KEY, lost_blocks), lambda found: lost_row(found) or b"",
               **corrupt),
        Target("state row", "bytes", _state_rows, lambda data: (layout.state_value(data), layout.state_place(data)), **corrupt),
        Target("account row", "bytes", _account_rows, _account_history, covers=("ledger.layout.decode_place",), **corrupt),
        *(Target(f"{name} of a damaged database", "cbor", one(_block_rows()[key]),
                 holding(key, lambda store: stored_block(store, _OWN_HEIGHT)), refuses=())
          for name, key in (("header", at(layout.HEADER, _OWN_HEIGHT)), ("results", at(layout.RESULT, _OWN_HEIGHT)),
                            ("body", at(layout.BODY, _OWN_HEIGHT)), ("certificate", at(layout.CERTIFICATE, _OWN_HEIGHT)))),
        Target("tree pages", "bytes", _pages, _rebuilt, **corrupt),
        Target("database stamp", "bytes", one(bytes(3) + b"\1" + made.DOMAIN), stamped,
               refuses=(Corruption, NewerSchema, WrongGenesis)),
        Target("LevelDB log", "bytes", _logs, lambda data: check_log(data, "log"), max_ms=30, **corrupt),
        Target("LevelDB manifest", "bytes", _logs, _manifest, max_ms=30, **corrupt),
        *_sign_rows(),
        Target("backup manifest", "json", one(_BACKUP), _backup_manifest, refuses=(DecodeError, UsageError)),
    ]


def _block_rows() -> dict[bytes, bytes]:
    """Rows of the head of the sample chain."""
    rows = made.chain().picture().rows
    return {
        key: rows.get(key) for kind in (layout.HEADER, layout.BODY, layout.CERTIFICATE, layout.RESULT)
        for key in (at(kind, _OWN_HEIGHT),)
    }


def _results() -> list[bytes]:
    from ledger.blocks import Outcome, result_leaves

    events: list[list[Any]] = [[1, 5], [64, made.PUBLIC[0], made.PUBLIC[1], 10**9], [7, 1, 2, b"x"], [65, 1, 9]]
    outcomes = [Outcome("", 1000, 1, 1), Outcome("NotEnough", 10, 2, 1)]
    return [layout.encode_result(result_leaves(events, outcomes)), layout.encode_result(result_leaves([], []))]


def _diffs() -> list[bytes]:
    state = {b"key": layout.state_row(b"value"), b"new": None, b"linked": layout.state_row(b"value", bytes(9) + b"\1")}
    return [ReverseDiff(state, {b"history": b"row", b"other": None}).encode(), ReverseDiff({}, {}).encode()]


def _state_rows() -> list[bytes]:
    return [layout.state_row(b"value", place) for place in (layout.NOTHING_OLDER, layout.UNLINKED, bytes(9) + b"\1")]


# --- lists of accounts -------------------------------------------------------------------------------------------


def _account_rows() -> list[bytes]:
    """The account row of a block with three extrinsics of two accounts, after one of the first in the block before."""
    first, second = (key[:8] for key in made.PUBLIC[:2])
    places = [layout.encode_place(_OWN_HEIGHT, index) for index in range(3)]
    below = layout.encode_place(_OTHER_HEIGHT, 0)
    entries = ((first, 0, below), (second, 0, layout.UNLINKED), (first, 2, places[0]))
    return [b"".join(account + index.to_bytes(2, "big") + before for account, index, before in entries)]


def _account_history(data: bytes) -> list[Any]:
    from ledger.indexes import account_extrinsics, same_links

    store = MemoryStore()
    below = made.PUBLIC[0][:8] + bytes(2) + layout.NOTHING_OLDER
    store.write({at(layout.ACCOUNTS, _OTHER_HEIGHT): below, at(layout.ACCOUNTS, _OWN_HEIGHT): data}, sync=False)
    found: list[Any] = [same_links(data, _account_rows()[0])]
    for account in made.PUBLIC[:2]:
        for newest in (layout.encode_place(_OWN_HEIGHT, 2), layout.encode_place(_OWN_HEIGHT, 0), layout.UNLINKED):
            try:
                places, on = account_extrinsics(store, account, newest, None, 50)
            except Corruption:
                continue
            assert places == sorted(places, reverse=True) and len(places) <= 2 + len(data) // 20, "a list that goes round"
            assert on is None or on <= _OWN_HEIGHT, "a list that goes up"
            found.append(places)
    if len(found) == 1:
        raise Corruption("no list can be followed")
    return found


# --- the tree, LevelDB's files -----------------------------------------------------------------------------------


def _pages() -> list[bytes]:
    """The pages of a tree as one string: length and bytes of each key, length and bytes of each page."""
    from ledger.state_tree import StateTree

    pages = StateTree().updated(made.STATE)[1]
    return [b"".join(
        bytes([len(key)]) + key + len(page or b"").to_bytes(2, "big") + (page or b"") for key, page in sorted(pages.items())
    )]


def _rebuilt(data: bytes) -> Any:
    from ledger.tree_pages import hash_of, rebuild

    rows, start = {}, 0
    while start + 3 < len(data):
        end = start + 1 + max(2, data[start])
        size = int.from_bytes(data[end : end + 2], "big")
        rows[data[start + 1 : end]] = data[end + 2 : end + 2 + size]
        start = end + 2 + size
    return hash_of(rebuild(sorted(rows.items())))


def _logs() -> list[bytes]:
    """A manifest: a record whose edit names the log and two tables, and one that takes a table away."""
    from ledger.level_files import HEADER_BYTES, checksum

    table = bytes((7, 0, 5, 0xE4, 0x0F, 1, ord("a"), 1, ord("b")))
    edits = (bytes((1, 3)) + b"cmp" + bytes((2, 9)) + table + bytes((7, 1, 6, 40, 1, ord("c"), 1, ord("d"))), bytes((6, 0, 5)))
    records = [checksum(1, edit).to_bytes(4, "little") + len(edit).to_bytes(2, "little") + b"\1" + edit for edit in edits]
    torn = records[1][: HEADER_BYTES + 1]
    return [b"".join(records), records[0] + torn, b"".join(records) + bytes(40)]


def _manifest(data: bytes) -> Any:
    from ledger.level_files import _named

    log, tables = _named(data)
    assert 0 <= log < 1 << 70 and all(0 <= number < 1 << 70 and 0 <= size < 1 << 70 for number, size in tables.items())
    return log, tables


# --- the sign database, backups ----------------------------------------------------------------------------------


def _sign_rows() -> list[Target]:
    from ledger.blocks import Block
    from ledger.signer import Signer, _block, _stored

    block = Block(made.header(body=made.bodies()[0]), made.bodies()[0])

    def note(data: bytes) -> None:
        signer = Signer.create(MemoryStore(), made.DOMAIN, made.PUBLIC[0])
        signer.check_note(data)

    from ledger.codec import encode

    return [
        Target("stored sign record", "cbor", made.sign_records, _stored, lead=1, refuses=(Corruption,)),
        Target("stored body of a vote", "cbor", one(b"\1" + block.encode()), lambda data: _block(block.hash, data), lead=1,
               refuses=(Corruption,), max_ms=10),
        Target("note of the guard", "cbor", one(encode([made.PUBLIC[0], made.DOMAIN, 7, 1, 2])), note,
               refuses=(Corruption, DoubleSignRisk)),
    ]


_BACKUP: Final = (
    b'{"format": 1, "chain": "c", "genesis_hash": "00", "height": 3, "hash": "00",'
    b' "files": {"000005.ldb": {"bytes": 5, "blake2b": "00"}}, "excluded": ["sign/"]}'
)


def _backup_manifest(data: bytes) -> Any:
    from tools.ops.db_backup import MANIFEST
    from tools.ops.db_backup import _manifest as read

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        return read(Path(folder))
