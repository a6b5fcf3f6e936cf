"""Upgrades of the rules: who schedules one, when the authorities are ready, and how a node without them stops."""

from dataclasses import replace

import pytest

from ledger.errors import InvariantBroken, UnknownRuntimeVersion
from ledger.inherents import HEARTBEAT, Heartbeat
from runtime import chain as chain_rules
from runtime import migrations
from runtime.migrations import MAX_MIGRATED_KEYS, Migration, activate
from runtime.modules import authorities, upgrades
from runtime.versions import NEWEST, RULES, VersionedRuntime, rules, rules_of

NEXT = upgrades.CURRENT + 1
SESSION = 5


@pytest.fixture
def chain(devnet):
    """The devnet with sessions of five blocks."""
    key = chain_rules.INFO.key()
    devnet.rows[key] = chain_rules.INFO.encode(replace(chain_rules.INFO.decode(devnet.rows[key]), session_blocks=SESSION))
    return devnet


def beat(chain, index, *versions):
    """A heartbeat that tells the versions an authority's node can run."""
    key, domain = chain.session(index), chain.genesis.genesis_hash
    session = chain_rules.info(chain.view).session(chain.next_height)
    return HEARTBEAT, Heartbeat.sign(key, domain, session, chain.hashes[chain.height], "test", versions).encode()


def tell(chain, *indexes, versions=(upgrades.CURRENT, NEXT)):
    chain.block(inherents=sorted(beat(chain, index, *versions) for index in indexes))


def schedule(chain, height, version=NEXT):
    return chain.root("governance.schedule_upgrade", version, height)


def until(chain, height):
    """Blocks up to a height; the events of upgrades of each."""
    out = {}
    while chain.height < height:
        result = chain.block()
        names = [name for name in chain.names(result) if name.startswith("Upgrade")]
        if names:
            out[chain.height] = names
    return out


def waiting(chain):
    return upgrades.pending(chain.view)


# --- calls -------------------------------------------------------------------------------------------------------


# rule: UPG-1
def test_root_schedules_one_upgrade_to_newer_rules_a_session_ahead(chain):
    height = chain.next_height + SESSION
    assert chain.call(chain.cold("owner"), "governance.schedule_upgrade", NEXT, height) == "RequireSudo"
    for version in (0, upgrades.CURRENT, upgrades.MAX_VERSION):
        assert schedule(chain, height + 20, version) == "UpgradeNotNewer"
    for blocks in (0, SESSION - 1, upgrades.MAX_BLOCKS_AHEAD + 1):
        assert schedule(chain, chain.next_height + blocks) == "UpgradeTooSoon"
    at = chain.next_height + SESSION
    assert schedule(chain, at) == "" and waiting(chain) == upgrades.Upgrade(NEXT, at)
    assert schedule(chain, at + 50) == "UpgradePending"
    assert chain.root("governance.cancel_upgrade") == "" and waiting(chain) is None
    assert chain.root("governance.cancel_upgrade") == "NoUpgrade"


# rule: UPG-5
def test_root_moves_an_upgrade_by_the_same_notice(chain):
    assert chain.root("governance.move_upgrade", 99) == "NoUpgrade"
    at = chain.next_height + SESSION
    schedule(chain, at)
    until(chain, at - 1)
    assert waiting(chain).postponed == 1
    assert chain.root("governance.move_upgrade", chain.next_height + SESSION - 1) == "UpgradeTooSoon"
    assert chain.call(chain.cold("owner"), "governance.move_upgrade", 99) == "RequireSudo"
    later = chain.next_height + 3 * SESSION
    assert chain.root("governance.move_upgrade", later) == "" and waiting(chain) == upgrades.Upgrade(NEXT, later)


# rule: UPG-6
def test_the_state_keeps_the_first_height_of_each_version(chain):
    assert upgrades.first_heights(chain.view) == {upgrades.CURRENT: 1}
    context = certain(chain).context()
    activate(context, (), NEXT)
    assert upgrades.first_heights(context.state) == {upgrades.CURRENT: 1, NEXT: chain.next_height}
    upgrades.FIRST_HEIGHTS.delete(context.state, NEXT)
    assert "the state has version" in upgrades.check_upgrade(context.state)[0]


# --- readiness ---------------------------------------------------------------------------------------------------


def test_ready_are_those_who_told_and_can_act(chain):
    tell(chain, 0, 1, 2, 3)
    keys = [chain.session(index).public for index in range(4)]
    found = upgrades.readiness(chain.view, NEXT)
    assert (found.ready, found.needed, found.of, found.is_enough) == (tuple(keys), 3, 4, True)
    assert upgrades.readiness(chain.view, NEXT + 1).ready == ()
    for index, change in enumerate(({"skipped": True}, {"disabled": True}, {"versions": []})):
        row = authorities.authority(chain.view, keys[index])
        chain.rows[authorities.AUTHORITIES.key(keys[index])] = authorities.AUTHORITIES.encode(replace(row, **change))
    found = upgrades.readiness(chain.view, NEXT)
    assert found.ready == (keys[3],) and not found.is_enough


# rule: UPG-2
def test_an_upgrade_becomes_certain_when_enough_are_ready(chain):
    tell(chain, 0, 1, 2)
    at = chain.next_height + SESSION
    schedule(chain, at)
    assert until(chain, at - 1) == {at - 1: ["UpgradeCertain"]}
    assert waiting(chain).certain and chain.runtime.version_at(chain.view) == NEXT
    assert upgrades.state_version(chain.view) == upgrades.CURRENT and chain.audit() == []


# rule: UPG-2
def test_it_is_postponed_by_sessions_while_too_few_are_ready_and_follows_when_they_are(chain):
    tell(chain, 0, 1)
    at = chain.next_height + SESSION
    schedule(chain, at)
    assert until(chain, at + SESSION - 1) == {at - 1: ["UpgradePostponed"], at + SESSION - 1: ["UpgradePostponed"]}
    assert waiting(chain) == upgrades.Upgrade(NEXT, at + 2 * SESSION, postponed=2)
    tell(chain, 2)
    assert until(chain, at + 2 * SESSION - 1) == {at + 2 * SESSION - 1: ["UpgradeCertain"]}


def test_it_is_cancelled_in_the_end(chain):
    at = chain.next_height + SESSION
    schedule(chain, at)
    last = at - 1 + SESSION * upgrades.MAX_POSTPONED
    found = until(chain, last)
    assert list(found.values()) == [["UpgradePostponed"]] * upgrades.MAX_POSTPONED + [["UpgradeCancelled"]]
    assert max(found) == last and waiting(chain) is None and chain.runtime.version_at(chain.view) == upgrades.CURRENT
    assert chain.audit() == []


def test_who_tells_a_version_no_more_is_not_ready(chain):
    tell(chain, 0, 1, 2)
    chain.skip(SESSION)
    tell(chain, 2, versions=(upgrades.CURRENT,))
    assert not upgrades.readiness(chain.view, NEXT).is_enough


def test_the_audit_finds_an_upgrade_that_cannot_be(chain):
    chain.rows[upgrades.UPGRADE.key()] = upgrades.UPGRADE.encode(upgrades.Upgrade(upgrades.CURRENT, 9, postponed=99))
    found = upgrades.check_upgrade(chain.view)
    assert len(found) == 2 and "waits in a state" in found[0] and "postponed 99 times" in found[1]


# --- nodes -------------------------------------------------------------------------------------------------------


def certain(chain):
    tell(chain, 0, 1, 2)
    schedule(chain, chain.next_height + SESSION)
    until(chain, waiting(chain).height - 1)
    return chain


def test_rules_do_not_execute_a_block_of_other_rules(chain):
    with pytest.raises(UnknownRuntimeVersion, match=f"needs runtime version {NEXT}"):
        certain(chain).block()


# rule: UPG-4
def test_a_program_without_the_version_stops_before_its_first_block_and_says_what_to_do(chain):
    runtime, view = VersionedRuntime(chain.genesis.genesis_hash), certain(chain).view
    assert runtime.version_at(view) == NEXT and runtime.known == tuple(sorted(RULES))
    assert runtime.authorities(view).keys  # the state is still that of the rules that made it
    with pytest.raises(UnknownRuntimeVersion, match=f"block {chain.next_height} needs runtime version {NEXT}") as caught:
        runtime.require_next(view, chain.next_height)
    assert caught.value.exit_code == 8 and "install" in caught.value.hint
    for act in (runtime.apply_block, runtime.block_inherents):
        with pytest.raises(UnknownRuntimeVersion):
            act(view, chain.block_context(), [], *([[]] if act == runtime.apply_block else []))


def test_an_operator_can_hold_a_node_back(chain):
    runtime = VersionedRuntime(chain.genesis.genesis_hash, newest=0)
    assert runtime.known == ()
    with pytest.raises(UnknownRuntimeVersion, match="held back") as caught:
        runtime.authorities(chain.view)
    assert "max_runtime_version" in caught.value.hint
    key = chain.session(0).public
    tell(chain, 0, versions=RULES)
    assert not VersionedRuntime(chain.genesis.genesis_hash).heartbeat_is_due(chain.view, key, chain.next_height)


def test_versions_are_found_by_number_and_by_state(chain):
    assert rules_of(chain.view) is rules(NEWEST) and rules().version == upgrades.CURRENT
    assert rules().calls[117].name == "governance.schedule_upgrade" and rules().module("modules.upgrades") is upgrades
    assert {"UpgradeCertain"} <= {kind.name for kind in rules().events.values()}
    assert "NoUpgrade" in rules().errors and rules().tables[130].name == "upgrade"
    with pytest.raises(UnknownRuntimeVersion):
        rules(NEWEST + 1)


# --- migrations --------------------------------------------------------------------------------------------------


def migration(version, log, *, before=(), after=(), keys=1):
    def run(context):
        log.append(version)
        return keys

    return Migration(version, f"to {version}", lambda state: before, run, lambda state: after)


# rule: UPG-3
def test_migrations_of_all_versions_between_run_in_order(chain):
    log, context = [], certain(chain).context()
    upgrades.UPGRADE.put(context.state, value=replace(waiting(chain), version=NEXT + 1))
    steps = [migration(version, log) for version in (upgrades.CURRENT, NEXT, NEXT + 1, NEXT + 2)]
    activate(context, steps, NEXT + 1)
    assert log == [NEXT, NEXT + 1] and upgrades.state_version(context.state) == NEXT + 1
    assert upgrades.pending(context.state) is None
    assert context.events == [upgrades.ACTIVATED(NEXT + 1, upgrades.CURRENT, 2)]
    activate(context, steps, NEXT + 1)
    assert len(context.events) == 1


FAULTS = [{"before": ["a row is missing"]}, {"after": ["a row is left"]}, {"keys": MAX_MIGRATED_KEYS + 1}]


# rule: UPG-3
@pytest.mark.parametrize("fault", FAULTS)
def test_a_migration_that_does_not_fit_stops_the_node(chain, fault):
    with pytest.raises(InvariantBroken, match="is missing|is left|touched 5001 keys"):
        activate(certain(chain).context(), [migration(NEXT, [], **fault)], NEXT)


def test_nothing_is_migrated_without_a_certain_upgrade(chain):
    with pytest.raises(InvariantBroken, match="is to be executed by version"):
        activate(chain.context(), (), NEXT)
    assert [each.version for each in migrations.MIGRATIONS] == sorted(each.version for each in migrations.MIGRATIONS)
