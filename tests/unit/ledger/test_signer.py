"""The sign database: what the guard lets through, what it refuses, what survives, and what a rewind changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.blocks import Block, Body, Header
from ledger.crypto import KeyPair
from ledger.errors import (
    Corruption,
    DecodeError,
    DiskFailure,
    DoubleSignRisk,
    InvariantBroken,
    NewerSchema,
    NotFound,
    UsageError,
    WrongGenesis,
)
from ledger.signer import MAX_DOMAINS, Signer, SignRecord, domain_at, rewound
from ledger.store import SCHEMA_KEY, MemoryStore
from ledger.votes import NIL, NO_ROUND, PRECOMMIT, PREVOTE, Certificate, Proposal, Vote

GENESIS, KEY = b"g" * 32, KeyPair.from_seed(bytes(32)).public
D = [bytes([i]) * 32 for i in range(10)]


def block(salt: int = 0, height: int = 7) -> Block:
    header = Header(1, 1, height, 0, salt, NIL, NIL, 0, 0, NIL, NIL, NIL, NIL, NIL)
    return Block(header, Body(b"\x80", b"\x80", ()))


def signer() -> Signer:
    return Signer.create(MemoryStore(), GENESIS, KEY)


def signed(height: int, round_: int, step: int, digest: bytes = D[0]) -> SignRecord:
    return SignRecord(height, round_, step, (round_, step, digest))


def full_record() -> SignRecord:
    votes = {index: Vote(PREVOTE, 7, 1, block(1).hash, index, bytes(64)) for index in (0, 1, 2)}
    polc = Certificate.build(votes, 4)
    own = (
        Proposal(7, 2, 1, block(1).hash, 0, bytes(64), polc), Vote(PREVOTE, 7, 2, block(1).hash, 0, bytes(64)),
        Vote(PRECOMMIT, 7, 2, block(1).hash, 0, bytes(64)),
    )
    why = (Vote(PRECOMMIT, 7, 1, NIL, 3, bytes(64)), Proposal(7, 2, NO_ROUND, block(2).hash, 3, bytes(64)))
    return SignRecord(7, 2, 2, (2, 2, D[1]), 2, block(1).hash, 1, block(1).hash, polc, block(2).hash, own, why)


# --- the guard ---------------------------------------------------------------------------------------------------------


def test_every_later_place_is_let_through() -> None:
    guard = signer()
    for place in ((1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 1, 0), (1, 3, 2), (2, 0, 1), (9, 0, 0)):
        guard.persist(signed(*place), ())


@pytest.mark.parametrize("place", [(5, 3, 0), (5, 2, 2), (5, 0, 1), (4, 9, 2)])
def test_every_earlier_place_is_refused(place: tuple[int, int, int]) -> None:
    guard = signer()
    guard.persist(signed(5, 3, 1), ())
    with pytest.raises(DoubleSignRisk):
        guard.persist(signed(*place), ())
    assert guard.load(5)[0] == signed(5, 3, 1)  # nothing changed


def test_the_same_place_only_with_the_same_digest() -> None:
    guard = signer()
    guard.persist(signed(5, 3, 1, D[1]), ())
    guard.persist(replace(signed(5, 3, 1, D[1]), valid_round=2), ())  # other fields may change
    with pytest.raises(DoubleSignRisk):
        guard.persist(signed(5, 3, 1, D[2]), ())


def test_a_height_without_a_signature_still_closes_the_ones_before() -> None:
    guard = signer()
    guard.persist(signed(5, 3, 1), ())
    guard.persist(SignRecord(6), ())
    with pytest.raises(DoubleSignRisk):
        guard.persist(signed(5, 4, 2), ())
    guard.persist(signed(6, 0, 0), ())
    with pytest.raises(DoubleSignRisk):
        guard.persist(SignRecord(6), ())


def test_an_own_message_of_the_round_can_neither_change_nor_vanish() -> None:
    guard = signer()
    prevote = Vote(PREVOTE, 5, 0, NIL, 0, bytes(64))
    guard.persist(replace(signed(5, 0, 1), own=(None, prevote, None)), ())
    for own in ((None, None, None), (None, replace(prevote, block_hash=D[3]), None)):
        with pytest.raises(DoubleSignRisk):
            guard.persist(replace(signed(5, 0, 2), own=own), ())
    guard.persist(replace(signed(5, 1, 1), own=(None, None, None)), ())  # the next round begins empty


def test_the_guard_holds_over_a_restart() -> None:
    store = MemoryStore()
    Signer.create(store, GENESIS, KEY).persist(signed(5, 3, 1), ())
    with pytest.raises(DoubleSignRisk):
        Signer.open(store, GENESIS, KEY).persist(signed(5, 2, 2), ())


def test_a_failed_write_leaves_the_guard_where_it_was() -> None:
    class Failing(MemoryStore):
        broken = False

        def write(self, batch, *, sync):  # type: ignore[no-untyped-def]
            if self.broken:
                raise DiskFailure("no space left")
            super().write(batch, sync=sync)

    store = Failing()
    guard = Signer.create(store, GENESIS, KEY)
    store.broken = True
    with pytest.raises(DiskFailure):
        guard.persist(signed(5, 0, 1, D[1]), ())
    store.broken = False
    guard.persist(signed(5, 0, 1, D[2]), ())  # what was not durable was never sent


# --- records and bodies ------------------------------------------------------------------------------------------------


def test_a_record_survives_its_encoding() -> None:
    for record in (SignRecord(1), signed(3, 1, 2), full_record()):
        assert SignRecord.decode(record.encode()) == record
    assert full_record().guard_only() == SignRecord(7, 2, 2, (2, 2, D[1]))


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x01", b"\x01\x80", b"\x01" + full_record().encode()[1:-1]])
def test_a_damaged_record_is_no_record(data: bytes) -> None:
    with pytest.raises(DecodeError):
        SignRecord.decode(data)


def test_bodies_are_written_once_and_deleted_when_they_bind_no_longer() -> None:
    store = MemoryStore()
    guard = Signer.create(store, GENESIS, KEY)
    first = replace(signed(7, 0, 1), prevoted_hash=block(1).hash)
    guard.persist(first, (block(1),))
    second = replace(signed(7, 0, 2), prevoted_hash=block(1).hash, locked_hash=block(1).hash, locked_round=0)
    guard.persist(second, ())  # the body is there already
    record, bodies = Signer.open(store, GENESIS, KEY).load(7)
    assert (record, bodies) == (second, (block(1),))
    guard.persist(replace(signed(7, 1, 1), prevoted_hash=block(2).hash), (block(2),))
    assert guard.load(7)[1] == (block(2),)
    guard.persist(signed(8, 0, 1), ())
    assert guard.load(8)[1] == () and not list(store.items(b"b/"))


def test_a_vote_never_binds_without_its_body() -> None:
    guard = signer()
    for record in (
        replace(signed(7, 0, 1), prevoted_hash=block(1).hash), replace(signed(7, 0, 1), locked_hash=block(1).hash),
        replace(signed(7, 0, 1), valid_hash=block(1).hash),
        replace(signed(7, 0, 0), own=(Proposal(7, 0, NO_ROUND, block(1).hash, 0, bytes(64)), None, None)),
    ):
        with pytest.raises(InvariantBroken):
            guard.persist(record, (block(2),))
    assert guard.load(7)[0] is None


def test_a_body_that_binds_again_is_written_again() -> None:
    guard = signer()
    for round_, salt in enumerate((1, 2, 1)):
        guard.persist(replace(signed(7, round_, 1), prevoted_hash=block(salt).hash), (block(salt),))
    assert guard.load(7)[1] == (block(1),)


# --- what the database is ----------------------------------------------------------------------------------------------


def test_a_sign_database_is_never_made_anew_or_opened_for_another() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound):
        Signer.open(store, GENESIS, KEY)
    Signer.create(store, GENESIS, KEY)
    with pytest.raises(DoubleSignRisk):
        Signer.create(store, GENESIS, KEY)
    with pytest.raises(WrongGenesis):
        Signer.open(store, b"h" * 32, KEY)
    with pytest.raises(DoubleSignRisk):
        Signer.open(store, GENESIS, KeyPair.from_seed(b"1" * 32).public)
    store.write({SCHEMA_KEY: (9).to_bytes(4, "big")}, sync=True)
    with pytest.raises(NewerSchema):
        Signer.open(store, GENESIS, KEY)


def test_damage_is_corruption_and_never_an_empty_guard() -> None:
    for prefix, junk in ((b"r/", b"\x01\x00"), (b"m/domains", b"\x00"), (b"b/", b"\x01\x80")):
        store = MemoryStore()
        guard = Signer.create(store, GENESIS, KEY)
        guard.persist(replace(signed(7, 0, 1), prevoted_hash=block(1).hash), (block(1),))
        key = next(key for key, _ in store.items(prefix))
        store.write({key: junk}, sync=True)
        with pytest.raises(Corruption):
            Signer.open(store, GENESIS, KEY).load(7)


def test_a_stored_body_must_be_the_block_of_its_hash() -> None:
    store = MemoryStore()
    guard = Signer.create(store, GENESIS, KEY)
    guard.persist(replace(signed(7, 0, 1), prevoted_hash=block(1).hash), (block(1),))
    store.write({b"b/" + block(1).hash: b"\x01" + block(2).encode()}, sync=True)
    with pytest.raises(Corruption):
        Signer.open(store, GENESIS, KEY).load(7)


# --- domains and rewinds -----------------------------------------------------------------------------------------------


def test_the_domain_of_a_height_is_that_of_the_last_entry_at_or_below() -> None:
    domains = ((1, D[0]), (10, D[1]), (20, D[2]))
    assert [domain_at(domains, height) for height in (1, 9, 10, 19, 20, 999)] == [D[0], D[0], D[1], D[1], D[2], D[2]]


def test_a_rewind_opens_the_heights_above_it_and_none_below() -> None:
    """Reverted from 100 to 90: 91 may be signed again, and what was signed before the rewind does not verify."""
    store = MemoryStore()
    guard = Signer.create(store, GENESIS, KEY)
    guard.persist(signed(100, 0, 2), ())
    with pytest.raises(DoubleSignRisk):
        guard.persist(signed(91, 0, 1), ())
    guard.rewind(rewound(guard.domains, 90, b"h" * 32, b"n" * 32, bytes(16)))
    guard = Signer.open(store, GENESIS, KEY)
    assert guard.load(91) == (None, ())
    guard.persist(signed(91, 0, 1), ())
    with pytest.raises(DoubleSignRisk):
        guard.persist(signed(90, 5, 2), ())  # the old domain keeps its own guard
    assert domain_at(guard.domains, 90) == GENESIS != domain_at(guard.domains, 91)


def test_every_rewind_makes_a_domain_of_its_own() -> None:
    start = ((1, GENESIS),)
    once = rewound(start, 90, b"h" * 32, b"n" * 32, bytes(16))
    seen = {
        once[-1], rewound(start, 91, b"h" * 32, b"n" * 32, bytes(16))[-1],
        rewound(start, 90, b"i" * 32, b"n" * 32, bytes(16))[-1],
        rewound(start, 90, b"h" * 32, b"o" * 32, bytes(16))[-1], rewound(start, 90, b"h" * 32, b"n" * 32, b"1" * 16)[-1],
        rewound(once, 90, b"h" * 32, b"n" * 32, bytes(16))[-1],  # again to the same height: chained to the one before
    }
    assert len(seen) == 6
    again = rewound(once, 90, b"h" * 32, b"n" * 32, bytes(16))
    assert [from_height for from_height, _ in again] == [1, 91]
    assert [height for height, _ in rewound(again, 50, b"h" * 32, b"n" * 32, bytes(16))] == [1, 51]


def test_the_list_of_domains_has_an_end() -> None:
    with pytest.raises(UsageError):
        signer().rewind(tuple((height, D[0]) for height in range(MAX_DOMAINS + 1)))
