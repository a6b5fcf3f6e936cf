"""An upgrade is rehearsed on a copy of a state; nothing of the chain changes."""

from dataclasses import replace

import pytest

from genesis.build import build_genesis
from genesis.cast import devnet_spec
from ledger.chain import Chain
from ledger.errors import UnknownRuntimeVersion, UsageError
from ledger.store import MemoryStore
from runtime.versions import NEWEST, VersionedRuntime
from tools.lab.rehearsal import rehearse


@pytest.fixture(scope="module")
def old():
    genesis = build_genesis(replace(devnet_spec(1), runtime_version=1))
    return Chain.create(MemoryStore(), genesis.params, VersionedRuntime(genesis.genesis_hash), genesis.state)


def test_the_migration_and_the_blocks_after_it_leave_all_invariants(old):
    root, keys = old.head.state_root, sum(1 for _ in old.view().items(b""))
    done = rehearse(old, NEWEST, 12)
    assert (done.version, done.before, done.height, done.keys, done.violations) == (NEWEST, 1, old.head.height + 1, keys, [])
    assert done.migrated_keys == 1 and done.first["added"] >= 2
    assert old.head.state_root == root and old.machine.version_at(old.view()) == 1


def test_only_later_versions_that_there_are_can_be_rehearsed(old):
    with pytest.raises(UsageError, match="runs version 1"):
        rehearse(old, 1, 1)
    with pytest.raises(UnknownRuntimeVersion):
        rehearse(old, NEWEST + 1, 1)
