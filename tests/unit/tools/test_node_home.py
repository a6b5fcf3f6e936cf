"""A node's home: what is made, what is refused, and that a kill in between leaves nothing half made."""

import time

import pytest

from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger.client.keys import write_key_file
from ledger.errors import Corruption, Locked, NotFound, UsageError, WrongGenesis
from ledger.history import archive_from
from ledger.store import LevelStore
from tools.node.config import load_config
from tools.node.home import Specification, make_home, open_databases, read_pool, write_file


def specification(tmp_path, authorities=1, devnet=True, **changes):
    path = tmp_path / f"spec{authorities}{devnet}{len(changes)}.toml"
    spec = devnet_spec(1, authorities=authorities, genesis_time_ms=time.time_ns() // 1_000_000, **changes)
    text = format_spec(spec)
    if not devnet:
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("devnet =", "seed =")))
    path.write_text(text)
    return Specification.load(path)


def session_key(authorities=1):
    return next(member.session for member in cast(1, authorities) if member.session is not None)


def opened(home, spec, **flags):
    return open_databases(load_config(home, flags, {}), spec)


def test_a_devnet_home_is_made_at_the_first_start_and_opened_after_that(tmp_path):
    spec = specification(tmp_path)
    home = tmp_path / "0"
    home.mkdir()
    write_key_file(home / "session.key", session_key(), "session", password=None)
    first = opened(home, spec)
    assert first.signer is not None and not first.watch_first
    assert (home / "node.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Locked):
        opened(home, spec)
    first.close()
    again = opened(home, spec)
    assert again.node_key == first.node_key and again.chain.head == first.chain.head
    again.close()


def test_elsewhere_a_node_must_be_made_first(tmp_path):
    spec = specification(tmp_path, devnet=False)
    with pytest.raises(NotFound) as caught:
        opened(tmp_path / "x", spec)
    assert "node" in caught.value.cause or "node init" in caught.value.hint
    make_home(tmp_path / "x", spec, session_key=session_key())
    with pytest.raises(UsageError):
        make_home(tmp_path / "x", spec)
    opened(tmp_path / "x", spec).close()


def test_a_key_without_its_sign_database_is_refused_unless_the_operator_says_so(tmp_path):
    spec = specification(tmp_path)
    make_home(tmp_path / "n", spec)
    write_key_file(tmp_path / "n" / "session.key", session_key(), "session", password=None)
    with pytest.raises(NotFound) as caught:
        opened(tmp_path / "n", spec)
    assert "--new-sign-db" in caught.value.hint
    found = opened(tmp_path / "n", spec, new_sign_db=True)
    assert found.watch_first and found.signer is not None
    found.close()


def test_a_lost_chain_database_is_made_anew_and_the_guard_stays(tmp_path):
    spec = specification(tmp_path)
    make_home(tmp_path / "n", spec, session_key=session_key())
    (tmp_path / "n" / "chain").rename(tmp_path / "moved")
    found = opened(tmp_path / "n", spec)
    assert found.chain.head.height == 0 and found.signer is not None
    found.close()


def test_a_kill_while_databases_are_made_leaves_nothing_half_made(tmp_path, monkeypatch):
    spec = specification(tmp_path)
    home = tmp_path / "n"
    home.mkdir()
    write_key_file(home / "session.key", session_key(), "session", password=None)
    writes = []

    def killed(self, batch, *, sync, real=LevelStore.write):
        writes.append(len(batch))
        if len(writes) == 2:  # the sign database is complete, the chain's is not
            raise KeyboardInterrupt
        return real(self, batch, sync=sync)

    monkeypatch.setattr(LevelStore, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(home, spec)
    assert (home / "sign").exists() and not (home / "chain").exists()
    monkeypatch.undo()
    found = opened(home, spec)
    assert found.chain.head.height == 0
    found.close()


def test_another_chain_s_database_is_refused(tmp_path):
    make_home(tmp_path / "n", specification(tmp_path))
    with pytest.raises(WrongGenesis):
        opened(tmp_path / "n", specification(tmp_path, instance=b"i" * 16))


def test_sealing_may_differ_from_the_specification_with_one_authority_only(tmp_path):
    assert specification(tmp_path).params("manual").seal == "manual"
    assert specification(tmp_path).params("").seal == "interval"
    with pytest.raises(UsageError):
        specification(tmp_path, authorities=4).params("manual")


def test_files_are_replaced_whole_and_of_a_huge_pool_the_beginning_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a" / "pool.cbor"
    assert read_pool(path) == b""
    write_file(path, b"one")
    write_file(path, b"two")
    assert read_pool(path) == b"two" and path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["pool.cbor"]
    monkeypatch.setattr("tools.node.home.MAX_POOL_BYTES", 2)
    assert read_pool(path) == b"tw"
    with pytest.raises(OSError):
        read_pool(path.parent)


def test_damage_comes_with_the_command_that_repairs_it(tmp_path):
    spec, home = specification(tmp_path), tmp_path / "n"
    make_home(home, spec, session_key=session_key())
    (home / "chain" / "CURRENT").unlink()
    with pytest.raises(Corruption, match="lost its CURRENT") as caught:
        opened(home, spec)
    assert caught.value.exit_code == 23 and caught.value.hint == f"quorix db repair --home {home}"
    (home / "sign" / "CURRENT").unlink()
    with pytest.raises(Corruption) as caught:
        opened(home, spec)
    assert "--new-sign-db" in caught.value.hint and "repair" not in caught.value.hint


def test_the_way_of_keeping_states_can_be_changed(tmp_path):
    spec, home = specification(tmp_path), tmp_path / "n"
    make_home(home, spec, history="archive")
    for history, archive in (("archive", True), ("full", False), ("archive", True)):
        found = opened(home, spec, history=history)
        assert (archive_from(found.chain_store) is not None) == archive
        assert found.chain.first_readable_height() == 0
        found.close()
