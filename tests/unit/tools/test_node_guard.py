"""An older copy of the sign database: the chain database knows how far the key had signed, and says so at the start."""

from pathlib import Path

import pytest

from ledger.codec import encode
from ledger.crypto import KeyPair
from ledger.errors import Corruption, DoubleSignRisk, NotFound
from ledger.signer import NOTE_ROW, STEP_PRECOMMIT, STEP_PREVOTE, Signer, SignRecord
from ledger.store import MemoryStore
from tests.harness import Market, run
from tools.lab import crash
from tools.node.config import load_config
from tools.node.home import Specification, open_databases

KEY = KeyPair.from_seed(b"\1" * 32)
GENESIS = b"\2" * 32


def signer() -> Signer:
    return Signer.create(MemoryStore(), GENESIS, KEY.public)


def record(height: int, step: int = STEP_PRECOMMIT) -> SignRecord:
    return SignRecord(height, 0, step, (0, step, bytes(32)))


def test_what_was_durably_signed_is_noted_and_nothing_else() -> None:
    guard = signer()
    assert guard.note() is None
    guard.persist(record(3), (), sync=False)
    assert guard.note() is None
    guard.persist(SignRecord(4), ())
    assert guard.note() is None, "a height without a signed message says nothing"
    guard.persist(record(5), ())
    assert guard.note() == encode([KEY.public, GENESIS, 5, 0, STEP_PRECOMMIT])


def test_a_sign_database_that_knows_less_is_refused() -> None:
    newest, older = signer(), signer()
    newest.persist(record(5), ())
    note = newest.note()
    for height, step in ((4, STEP_PRECOMMIT), (5, STEP_PREVOTE)):
        older.persist(record(height, step), ())
        with pytest.raises(DoubleSignRisk, match="ends at"):
            older.check_note(note)
    for height in (5, 6):
        older.persist(record(height), ())
        older.check_note(note)


def test_notes_of_others_and_new_databases_are_no_reason() -> None:
    guard = signer()
    guard.check_note(None)
    newest = signer()
    newest.persist(record(5), ())
    guard.check_note(newest.note())  # made anew by the operator: it listens before it signs
    guard.persist(record(1), ())
    guard.check_note(encode([KeyPair.from_seed(b"\3" * 32).public, GENESIS, 9, 0, 1]))  # a chain database of another node
    guard.check_note(encode([KEY.public, b"\4" * 32, 9, 0, 1]))  # another signing domain
    with pytest.raises(Corruption):
        guard.check_note(b"\xff")


def test_authorities_note_it_with_each_block() -> None:
    async def scenario() -> None:
        async with Market(authorities=4) as market:
            await market.reach(1)
            place = market.places[0]
            old = dict(place.sign_store.items(b""))
            await market.reach(4)
            chain = market.nodes[0].chain
            note = chain.extra_row(NOTE_ROW)
            copy = MemoryStore()
            copy.write(old, sync=True)
            key = place.session_key
            assert key is not None
            with pytest.raises(DoubleSignRisk):
                Signer.open(copy, chain.params.genesis_hash, key.public).check_note(note)
            Signer.open(place.sign_store, chain.params.genesis_hash, key.public).check_note(note)

    run(scenario())


def test_a_node_does_not_start_with_an_older_sign_database(tmp_path: Path) -> None:
    crash.prepare(tmp_path / "node")
    config = load_config(tmp_path / "node", environment={})
    specification = Specification.load(config.spec)
    databases = open_databases(config, specification)
    guard = databases.signer
    assert guard is not None
    domain = databases.chain.params.genesis_hash
    guard.persist(record(1), ())
    row = encode([guard.public_key, domain, 2, 0, STEP_PRECOMMIT])
    databases.chain_store.write({b"z" + NOTE_ROW: row}, sync=True)
    databases.close()
    with pytest.raises(DoubleSignRisk) as refused:
        open_databases(config, specification)
    assert refused.value.exit_code == 20


def test_a_node_does_not_become_a_follower_because_its_key_is_lost(tmp_path: Path) -> None:
    crash.prepare(tmp_path / "node")
    (tmp_path / "node" / "session.key").unlink()
    config = load_config(tmp_path / "node", environment={})
    with pytest.raises(NotFound, match="no session key"):
        open_databases(config, Specification.load(config.spec))
