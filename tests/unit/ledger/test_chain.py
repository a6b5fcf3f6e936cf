"""The chain: building, judging, committing, reading back, older states, rewinding, start-up checks."""

import gc
import random
import threading
from dataclasses import replace

import pytest

from ledger import indexes, layout, views
from ledger.blocks import EPOCH_EVENT, NO_CERTIFICATE, Block, Body, encode_inherents
from ledger.chain import MAX_EXECUTED_KEPT, MAX_PENDING_COMMITS, Chain, collector_paused
from ledger.client.proofs import verify_state
from ledger.codec import encode
from ledger.crypto import KeyPair, digest
from ledger.errors import (
    Corruption,
    DecodeError,
    DiskFailure,
    InvariantBroken,
    NewerSchema,
    NotFound,
    NotReady,
    Pruned,
    Rejected,
    UsageError,
    WrongGenesis,
)
from ledger.state_tree import state_root
from ledger.store import SCHEMA_KEY, LevelStore, MemoryStore
from ledger.votes import PREVOTE, authorities_hash


def other(ledger):
    """A second node of the same chain at genesis."""
    return type(ledger)(max_block_weight=ledger.params.max_block_weight).create()


# --- growing -----------------------------------------------------------------------------------------------------


def test_genesis_is_the_head_of_a_new_chain(ledger):
    head = ledger.chain.head
    assert (head.height, head.hash, head.timestamp_ms) == (0, ledger.genesis_hash, 0)
    assert head.state_root == state_root(ledger.genesis)
    assert ledger.chain.authorities().keys == tuple(key.public for key in ledger.authority_keys)
    assert ledger.chain.hash_at(0) == ledger.genesis_hash
    assert ledger.chain.height_of(ledger.genesis_hash) == 0
    with pytest.raises(NotFound):
        ledger.chain.header(0)


def test_a_built_block_is_valid_for_everybody(ledger):
    follower = other(ledger)
    for height in range(1, 6):
        executed = ledger.build([ledger.extrinsic(0), ledger.extrinsic(1, call=2, args=[b"k", b"%d" % height])])
        block = Block.decode(executed.block.encode())
        certificate = ledger.certificate(block)
        ledger.chain.commit(executed, certificate)
        follower.chain.apply(follower.chain.import_block(block, certificate))
        assert follower.chain.head == ledger.chain.head
    assert ledger.chain.head.height == 5
    assert ledger.chain.view().get(b"vk") == b"5"
    assert dict(ledger.store.items(b"")) == dict(follower.store.items(b""))


def test_everything_of_a_block_can_be_read_back(ledger):
    transfer = ledger.extrinsic(0, tip=3)
    ledger.grow(extrinsics=[transfer])
    executed = ledger.grow(2)
    chain = ledger.chain
    for where in (1, chain.hash_at(1)):
        assert chain.header(where).hash == chain.hash_at(1)
        assert chain.body(where).extrinsics == (transfer.encode(),)
        assert chain.certificate(where).block_hash == chain.hash_at(1)
        assert chain.block(where).hash == chain.hash_at(1)
        assert [event[0] for event in chain.events(where)] == [1, 2]
        (outcome,) = chain.outcomes(where)
        assert (outcome.error, outcome.fee_rao, outcome.first_event, outcome.events) == ("", 13, 1, 1)
    assert chain.height_of(executed.block.hash) == 3
    assert chain.header(3).parent_cert_hash == chain.body(3).cert_hash
    assert chain.authority_keys(1) == chain.authority_keys(4) == chain.authorities().keys
    for missing in (4, -1, bytes(32)):
        with pytest.raises(NotFound):
            chain.header(missing)


def test_indexes(ledger):
    first, second = ledger.extrinsic(0), ledger.extrinsic(1, call=3)
    ledger.grow(extrinsics=[first, second])
    ledger.grow(3)
    third = ledger.extrinsic(0)
    ledger.grow(extrinsics=[third])
    chain = ledger.chain
    assert chain.find_extrinsic(first.id) == (1, 0)
    assert chain.find_extrinsic(second.id) == (1, 1)
    assert chain.find_extrinsic(third.id) == (5, 0)
    assert chain.find_extrinsic(bytes(32)) is None
    keys = [account.public for account in ledger.accounts]
    assert chain.account_extrinsics(keys[0]) == ([(5, 0), (1, 0)], None)
    assert chain.account_extrinsics(keys[0], limit=1) == ([(5, 0)], 2)
    assert chain.account_extrinsics(keys[0], limit=1, before_height=2) == ([(1, 0)], None)
    assert chain.account_extrinsics(keys[0], before_height=5) == ([(1, 0)], None)
    assert chain.account_extrinsics(keys[1])[0] == [(5, 0), (1, 1), (1, 0)]  # named by transfers, signed one itself
    assert chain.account_extrinsics(keys[3]) == ([], None)
    assert chain.event_heights(1) == [5, 4, 3, 2, 1]
    assert chain.event_heights(2) == [5, 1]
    assert chain.event_heights(2, before_height=5) == [1]
    assert chain.event_heights(1, limit=2) == [5, 4]
    assert chain.event_heights(99) == []


def test_an_epoch_is_found_by_subnet_and_number_until_its_block_is_gone(ledger, monkeypatch):
    def call(self, extrinsic, state, changes, events):
        events.append([EPOCH_EVENT, *extrinsic.args, b"rest"])
        return ""

    monkeypatch.setattr(type(ledger.machine), "call", call)
    ledger.grow()
    for epoch in range(3):
        ledger.grow(extrinsics=[ledger.extrinsic(0, call=2, args=[7, epoch]), ledger.extrinsic(1, call=2, args=[1, epoch])])
    chain = ledger.chain
    assert [chain.epoch_height(7, epoch) for epoch in range(4)] == [2, 3, 4, None]
    assert chain.epoch_height(1, 2) == 4 and chain.epoch_height(2, 0) is None
    chain.rewind(3)
    assert [chain.epoch_height(7, epoch) for epoch in range(3)] == [2, 3, None]
    assert [chain.event_heights(EPOCH_EVENT), ledger.open().epoch_height(1, 1)] == [[3, 2], 3]


def test_an_account_is_found_at_its_own_place_only():
    """The bytes of an account may also appear across two entries of a row."""
    store = MemoryStore()
    row = b"AAAAAAAB" + b"BB" + b"BBBBBCCC" + b"DD" + b"BBBBBCCC" + b"\0\3" + bytes(10)
    store.write({layout.at(layout.ACCOUNTS, 5): row}, sync=True)
    for account, found in ((b"BBBBBBBB", []), (b"BBBBBCCC", [(5, 3)]), (b"BBBBCCCD", [])):
        assert indexes.account_extrinsics(store, account + bytes(24), layout.UNLINKED, None, 10) == (found, None)


def test_history_rows_and_extra_rows(ledger):
    executed = ledger.build()
    batch = ledger.chain.prepare_commit(executed, ledger.certificate(executed.block), {b"finality": b"12"})
    assert ledger.chain.extra_row(b"finality") == b"12"
    ledger.chain.apply(batch)
    ledger.grow(2)
    rows = [(b"blk" + height.to_bytes(8, "big"), b"row") for height in (1, 2, 3)]
    assert list(ledger.chain.history(b"blk")) == rows
    assert list(ledger.chain.history(b"blk", rows[0][0])) == rows[1:]
    assert list(ledger.chain.history(b"blk", reverse=True)) == rows[::-1]
    assert ledger.chain.history_row(rows[1][0]) == b"row"
    assert ledger.chain.history_row(b"other") is None


def test_prepared_blocks_are_visible_before_they_are_durable(ledger):
    batches = []
    for index in range(MAX_PENDING_COMMITS):
        executed = ledger.build([ledger.extrinsic(0, call=2, args=[b"k%d" % index, b"v"])])
        batches.append(ledger.chain.prepare_commit(executed, ledger.certificate(executed.block)))
    chain = ledger.chain
    assert (chain.head.height, chain.durable_height) == (MAX_PENDING_COMMITS, 0)
    seen = chain.view()
    listed = list(seen.items(b"v"))
    assert listed == [(b"vk%d" % index, b"v") for index in range(MAX_PENDING_COMMITS)]
    assert chain.header(2).hash == chain.hash_at(2)
    assert list(chain.view(2).items(b"v")) == listed[:2]
    executed = ledger.build()
    with pytest.raises(NotReady):
        chain.prepare_commit(executed, ledger.certificate(executed.block))
    with pytest.raises(InvariantBroken):
        chain.apply(batches[1])
    for durable, batch in enumerate(batches, 1):
        chain.apply(batch)
        assert chain.durable_height == durable
        assert list(chain.view().items(b"v")) == listed
    assert list(seen.items(b"v")) == listed
    assert Chain.open(ledger.store, ledger.params, ledger.machine).head == chain.head


def test_several_children_of_one_parent(ledger):
    """Executing rivals leaves the head's state alone; any of them can become the next head."""
    rivals = [
        ledger.build([ledger.extrinsic(0, call=2, args=[b"k", b"%d" % n])], round_=n)
        for n in range(MAX_EXECUTED_KEPT + 2)
    ]
    assert ledger.chain.view().get(b"vk") is None
    assert len({rival.block.hash for rival in rivals}) == len(rivals)
    chosen = ledger.chain.check(rivals[1].block)
    ledger.chain.commit(chosen, ledger.certificate(rivals[1].block))
    assert ledger.chain.view().get(b"vk") == b"1"
    with pytest.raises(InvariantBroken):
        ledger.chain.prepare_commit(rivals[2], ledger.certificate(rivals[2].block))


def test_a_certificate_of_another_block_commits_nothing(ledger):
    first, second = ledger.build(), ledger.build(round_=1)
    with pytest.raises(InvariantBroken):
        ledger.chain.prepare_commit(first, ledger.certificate(second.block))
    with pytest.raises(InvariantBroken):
        ledger.chain.prepare_commit(first, replace(ledger.certificate(first.block), kind=1))
    assert ledger.chain.head.height == 0


def test_building_leaves_invalid_extrinsics_out(ledger):
    good = [ledger.extrinsic(0), ledger.extrinsic(0, nonce=1), ledger.extrinsic(2)]
    poison = ledger.extrinsic(1, call=4)
    after_poison = ledger.extrinsic(1, nonce=1)
    ledger.grow(20)
    expired = ledger.extrinsic(3, birth=1, period=8)
    executed = ledger.build([good[0], poison, after_poison, *good[1:], expired])
    assert executed.extrinsics == tuple(good)
    assert set(executed.refused) == {poison.id, expired.id}
    ledger.chain.check(executed.block)


def test_accounts_that_empty_themselves_cost_no_second_execution(new_ledger):
    ledger = new_ledger(accounts=20).create()
    runs, apply_block = [], ledger.machine.apply_block
    ledger.machine.apply_block = lambda *args: (runs.append(1), apply_block(*args))[1]
    spent = [
        each for account in range(10) for each in (
            ledger.extrinsic(account, 0, args=[ledger.accounts[19].public, 999_990]),
            ledger.extrinsic(account, 1), ledger.extrinsic(account, 2),
        )
    ]
    good = [ledger.extrinsic(account) for account in range(10, 18)]
    executed = ledger.build([*spent, *good])
    assert len(runs) == 1 and executed.extrinsics == (*spent[::3], *good)
    assert executed.refused == tuple(each.id for each in spent[1::3])
    ledger.machine.apply_block = apply_block
    follower = Chain.create(MemoryStore(), ledger.params, ledger.machine, ledger.genesis)
    assert follower.check(executed.block).block == executed.block


def test_building_with_nothing_but_poison_still_makes_a_block(new_ledger):
    ledger = new_ledger(accounts=12).create()
    executed = ledger.build([ledger.extrinsic(account, call=4) for account in range(12)])
    assert executed.extrinsics == ()
    ledger.chain.commit(executed, ledger.certificate(executed.block))


def test_building_halves_what_is_too_heavy_or_too_large(new_ledger):
    ledger = new_ledger(max_block_weight=500).create()
    assert len(ledger.build([ledger.extrinsic(0, nonce) for nonce in range(16)]).extrinsics) == 4
    ledger = new_ledger(max_block_bytes=2000).create()
    large = [ledger.extrinsic(0, nonce, call=2, args=[b"k", bytes(400)]) for nonce in range(8)]
    assert len(ledger.build(large).extrinsics) == 2


def test_the_authority_set_changes_from_the_next_height_on(ledger):
    new = [KeyPair.from_seed(bytes([3, i]) * 16) for i in range(7)]
    executed = ledger.build(inherents=[(7, b"".join(key.public for key in new)), (8, b"not chosen")])
    old = ledger.chain.authorities().keys
    assert executed.block.header.next_authorities_hash == authorities_hash([key.public for key in new])
    ledger.chain.commit(executed, ledger.certificate(executed.block))
    assert ledger.chain.authorities().keys == tuple(key.public for key in new)
    second = ledger.build()
    ledger.chain.commit(second, ledger.certificate(second.block, keys=new))
    assert ledger.chain.authority_keys(1) == old
    assert ledger.chain.authority_keys(2) == tuple(key.public for key in new)
    third = ledger.build()
    ledger.chain.check(third.block)
    assert third.block.header.session == 0


def test_sessions_follow_height_from_the_first_block(new_ledger):
    ledger = new_ledger(initial_height=100, session_blocks=3, genesis_time_ms=5000).create()
    assert ledger.chain.head.height == 99
    executed = ledger.grow(7)
    assert [ledger.chain.header(height).session for height in range(100, 107)] == [0, 0, 0, 1, 1, 1, 2]
    assert executed.block.header.timestamp_ms == 12_000
    assert ledger.chain.header(100).parent_hash == ledger.genesis_hash
    assert ledger.chain.body(100).parent_cert == NO_CERTIFICATE
    assert ledger.extrinsic(0, birth=99).birth_height == 99
    ledger.grow(extrinsics=[ledger.extrinsic(0, birth=99)])
    ledger.open()


# --- the verdict on others' blocks -------------------------------------------------------------------------------


def forged(executed, body=None, **fields):
    """A block with other header fields or another body, committed to by its header."""
    body = body or executed.block.body
    header = replace(
        executed.block.header, **{"extrinsics_root": body.extrinsics_root, "parent_cert_hash": body.cert_hash} | fields
    )
    return Block(header, body)


@pytest.mark.parametrize(
    "field, value",
    [
        ("version", 2), ("runtime_version", 9), ("height", 7), ("session", 1), ("timestamp_ms", 2000),
        ("parent_hash", bytes(32)), ("proposer_index", 1), ("proposal_round", 1), ("state_root", bytes(32)),
        ("events_root", bytes(32)), ("authorities_hash", bytes(32)), ("next_authorities_hash", bytes(32)),
    ],
)
def test_each_header_field_is_checked(ledger, field, value):
    ledger.grow(2)
    executed = ledger.build()
    assert getattr(executed.block.header, field) != value
    with pytest.raises(Rejected) as caught:
        ledger.chain.check(forged(executed, **{field: value}))
    assert caught.value.error_name == "WrongHeader"
    ledger.chain.check(executed.block)


def test_header_must_commit_to_the_body(ledger):
    ledger.grow()
    executed = ledger.build()
    for body in (
        replace(executed.block.body, extrinsics=(b"x",)),
        replace(executed.block.body, inherents=encode_inherents([(1, b"")])),
        replace(executed.block.body, parent_cert=NO_CERTIFICATE),
    ):
        with pytest.raises(Rejected, match="WrongBody"):
            ledger.chain.check(Block(executed.block.header, body))


def test_any_valid_parent_certificate_is_accepted_and_no_other(ledger):
    first = ledger.grow()
    for certificate in (
        ledger.certificate(first.block, signers=[0, 1, 3]), ledger.certificate(first.block, round_=5)
    ):
        executed = ledger.chain.build(timestamp_ms=9000, round_=0, parent_certificate=certificate)
        assert executed.block.body.parent_cert == certificate.encode()
        ledger.chain.check(executed.block)
    good = ledger.build()
    wrong_set = ledger.certificate(first.block, keys=ledger.accounts)
    other_block = ledger.certificate(good.block)
    too_few = ledger.certificate(first.block, signers=[0, 1])
    prevotes = ledger.certificate(first.block, kind=PREVOTE)
    one_bad = ledger.certificate(first.block)
    one_bad = replace(one_bad, signatures=one_bad.signatures[:-64] + bytes(64))
    for bad in (wrong_set, other_block, too_few, prevotes, one_bad):
        with pytest.raises(Rejected, match="WrongParentCertificate"):
            ledger.chain.check(forged(good, replace(good.block.body, parent_cert=bad.encode())))
    for junk in (NO_CERTIFICATE, b"", b"junk"):
        with pytest.raises(Rejected, match="WrongParentCertificate"):
            ledger.chain.check(forged(good, replace(good.block.body, parent_cert=junk)))


def test_the_first_block_carries_no_certificate(ledger):
    executed = ledger.build()
    body = replace(executed.block.body, parent_cert=ledger.certificate(executed.block).encode())
    with pytest.raises(Rejected, match="WrongParentCertificate"):
        ledger.chain.check(forged(executed, body))


def with_extrinsics(executed, *raws):
    return forged(executed, replace(executed.block.body, extrinsics=tuple(raws)))


def test_extrinsics_of_a_block_are_verified(ledger):
    ledger.grow(20)
    base = ledger.build()
    good = ledger.extrinsic(0)
    tampered = replace(good, args=[good.args[0], 999_999])
    cases = [
        ("BadSignature", tampered.encode()),
        ("BadSignature", bytes(64) + good.body),
        ("MalformedExtrinsic", b"short"),
        ("MalformedExtrinsic", good.encode() + b"x"),
        ("Expired", ledger.extrinsic(0, birth=1, period=8).encode()),
        ("UnknownBirth", replace(good, birth_height=21).encode()),
        ("NonceTooHigh", ledger.extrinsic(0, nonce=5).encode()),
        ("Poison", ledger.extrinsic(0, call=4).encode()),
    ]
    for name, raw in cases:
        with pytest.raises(Rejected) as caught:
            ledger.chain.check(with_extrinsics(base, ledger.extrinsic(1).encode(), raw))
        assert caught.value.error_name == name
        assert caught.value.data["index"] == 1


def test_signatures_made_for_another_birth_or_chain_do_not_hold(ledger, new_ledger):
    ledger.grow(3)
    base = ledger.build()
    moved = replace(ledger.extrinsic(0, birth=1), birth_height=2)
    foreign = new_ledger()
    foreign.genesis_hash, foreign.chain = bytes(32), ledger.chain
    for raw in (moved.encode(), foreign.extrinsic(0).encode()):
        with pytest.raises(Rejected, match="BadSignature"):
            ledger.chain.check(with_extrinsics(base, raw))


def test_mortality_is_exact(ledger):
    ledger.grow(9)
    at_edge = ledger.extrinsic(0, birth=2, period=8)  # the next block is 10 = 2 + 8
    ledger.chain.check(ledger.build([at_edge]).block)
    assert ledger.build([at_edge]).extrinsics == (at_edge,)
    assert ledger.build([ledger.extrinsic(0, birth=1, period=8)]).extrinsics == ()


def test_known_extrinsics_are_not_verified_again(ledger):
    extrinsic = ledger.extrinsic(0)
    executed = ledger.build([extrinsic])
    fresh = other(ledger)
    asked = []

    def verify_batch(tasks):
        asked.append(len(tasks))
        return [True] * len(tasks)

    fresh.chain.check(executed.block, known={extrinsic.encode(): extrinsic}, verify_batch=verify_batch)
    assert asked == []
    other(ledger).chain.check(executed.block, verify_batch=verify_batch)
    assert asked == [1]


def test_limits_of_bytes_and_weight(new_ledger):
    roomy = new_ledger(max_block_weight=10_000).create()
    extrinsics = [roomy.extrinsic(0, nonce) for nonce in range(6)]
    block = roomy.build(extrinsics).block
    with pytest.raises(Rejected, match="BlockTooHeavy"):
        new_ledger(max_block_weight=500).create().chain.check(block)
    with pytest.raises(Rejected, match="BlockTooLarge"):
        new_ledger(max_block_bytes=500).create().chain.check(block)


def test_unknown_or_malformed_inherents_are_refused(ledger):
    base = ledger.build()
    for inherents in (encode_inherents([(8, b"")]), encode([[1]]), b"\xff"):
        with pytest.raises(Rejected):
            ledger.chain.check(forged(base, replace(base.block.body, inherents=inherents)))


def test_a_failure_of_the_node_is_no_verdict(ledger):
    executed = ledger.build()
    fresh = other(ledger)
    fresh.machine.apply_block = lambda *args: (_ for _ in ()).throw(OSError("disk"))
    with pytest.raises(OSError):
        fresh.chain.check(executed.block)


def test_mutated_blocks_are_refused_by_name_and_change_nothing(ledger):
    ledger.grow(2)
    executed = ledger.build([ledger.extrinsic(0), ledger.extrinsic(1)], [(7, ledger.genesis[b"auth"])])
    good, head, rnd = executed.block.encode(), ledger.chain.head, random.Random(4)
    fresh = Chain.open(ledger.store, ledger.params, ledger.machine)
    judged = 0
    for _ in range(1500):
        bad = bytearray(good)
        for _ in range(rnd.randint(1, 2)):
            bad[rnd.randrange(len(bad))] ^= 1 << rnd.randrange(8)
        if bytes(bad) == good:
            continue
        try:
            block = Block.decode(bytes(bad))
        except DecodeError:
            continue
        judged += 1
        try:
            fresh.check(block)
        except Rejected:
            continue
        # Only a time or a round can be another one and still be valid: the machine of this test heeds neither.
        assert block.body == executed.block.body
        free = {name: getattr(executed.block.header, name) for name in ("timestamp_ms", "proposal_round")}
        assert replace(block.header, **free) == executed.block.header
    assert judged > 500 and fresh.head == head
    assert fresh.check(Block.decode(good)).block == executed.block


def test_importing_needs_a_valid_certificate(ledger):
    executed = ledger.build()
    block, good = executed.block, ledger.certificate(executed.block)
    fresh = other(ledger)
    for bad in (
        replace(good, round=1), replace(good, kind=1), replace(good, height=2), replace(good, block_hash=bytes(32)),
        ledger.certificate(block, signers=[0, 1]), replace(good, bitmap=b"\xff"),
    ):
        with pytest.raises(Rejected, match="WrongCertificate"):
            fresh.chain.import_block(block, bad)
    fresh.chain.apply(fresh.chain.import_block(block, good))
    assert fresh.chain.head.height == 1


def test_leaders_of_missed_rounds_are_named_to_the_machine(ledger):
    seen = []
    apply_block = ledger.machine.apply_block
    ledger.machine.apply_block = lambda view, context, *rest: (seen.append(context), apply_block(view, context, *rest))[1]
    ledger.grow()
    executed = ledger.build(round_=6)
    keys = ledger.chain.authorities().keys
    context = seen[-1]
    assert context.leaders_missed == tuple(keys[(2 + r) % 4] for r in range(6))
    assert context.proposer == keys[executed.block.header.proposer_index] == keys[(2 + 6) % 4]
    assert context.parent_signers == keys
    assert context.beacon == executed.block.body.cert_hash
    assert seen[0].parent_signers == () and seen[0].beacon == bytes(32)
    ledger.build(round_=2**31)
    assert len(seen[-1].leaders_missed) == 1000


# --- older states, proofs, rewinding -----------------------------------------------------------------------------


def put(ledger, key, value):
    return ledger.extrinsic(0, call=2, args=[key, value])


def test_views_at_every_retained_height(ledger):
    for height in range(1, 11):
        extrinsics = [put(ledger, b"k%d" % (height % 3), b"%d" % height)]
        if height == 8:
            extrinsics = [put(ledger, b"k1", b"")]
        ledger.grow(extrinsics=extrinsics)
    chain = ledger.chain
    assert dict(chain.view(0).items(b"")) == ledger.genesis
    assert dict(chain.view(4).items(b"v")) == {b"vk0": b"3", b"vk1": b"4", b"vk2": b"2"}
    assert dict(chain.view(8).items(b"v")) == {b"vk0": b"6", b"vk2": b"5"}
    assert chain.view(9).get(b"vk1") is None and chain.view(10).get(b"vk1") == b"10"
    assert chain.view(10).get(b"vk0") == b"9"
    for height in range(11):
        assert state_root(dict(chain.view(height).items(b""))) == (
            chain.header(height).state_root if height else state_root(ledger.genesis)
        )
    assert (b"vk1", b"7", None) in chain.state_diff(8)
    assert [key for key, _, _ in chain.state_diff(2)] == sorted([b"vk2", b"a" + ledger.accounts[0].public])
    for missing in (11, -1):
        with pytest.raises(NotFound):
            chain.view(missing)


def test_old_states_are_pruned(new_ledger):
    ledger = new_ledger().create(retain_blocks=5)
    for height in range(1, 13):
        ledger.grow(extrinsics=[put(ledger, b"k", b"%d" % height)])
    assert ledger.chain.view(7).get(b"vk") == b"7"
    for call in (ledger.chain.view, ledger.chain.state_diff, ledger.chain.rewind):
        with pytest.raises(Pruned):
            call(6)
    with pytest.raises(Pruned):
        ledger.chain.prove(b"vk", 6)
    assert ledger.chain.header(1).height == 1
    assert len(list(ledger.store.items(layout.DIFF))) == 5


def test_proofs_at_head_and_before(ledger):
    for height in range(1, 15):
        ledger.grow(extrinsics=[put(ledger, b"k", b"%d" % height)])
    for height in range(15):
        proof = ledger.chain.prove(b"vk", height)
        value = b"%d" % height if height else None
        assert (proof.height, proof.key, proof.value) == (height, b"vk", value)
        root = ledger.chain.header(height).state_root if height else state_root(ledger.genesis)
        assert proof.state_root == root
        assert verify_state(root, b"vk", value, proof.proof)
        assert not verify_state(root, b"vk", b"x", proof.proof)
    assert ledger.chain.prove(b"absent").value is None


@pytest.mark.parametrize("kind", ["memory", "level"])
def test_rewinding_leaves_no_trace(new_ledger, tmp_path, kind):
    store = LevelStore.create(tmp_path / "db") if kind == "level" else None
    ledger = new_ledger(store).create()
    rows = {0: dict(ledger.store.items(b""))}
    for height in range(1, 9):
        new_set = [(7, ledger.authority_keys[0].public * 1)] if height == 6 else []
        executed = ledger.build([put(ledger, b"k%d" % (height % 2), b"%d" % height), ledger.extrinsic(1)], new_set)
        keys = ledger.authority_keys if height < 7 else ledger.authority_keys[:1]
        ledger.chain.commit(executed, ledger.certificate(executed.block, keys=keys))
        rows[height] = dict(ledger.store.items(b""))
    for height in (8, 7, 4, 0):
        ledger.chain.rewind(height)
        found = dict(ledger.store.items(b""))
        assert {key: value for key, value in found.items() if key[:1] != layout.AUTHORITIES} == {
            key: value for key, value in rows[height].items() if key[:1] != layout.AUTHORITIES
        }
        assert ledger.chain.head.height == ledger.chain.durable_height == height
        assert Chain.open(ledger.store, ledger.params, ledger.machine).head == ledger.chain.head
    assert ledger.nonce(0) == 0
    ledger.grow(3, extrinsics=[put(ledger, b"k", b"again")])
    assert ledger.chain.view().get(b"vk") == b"again"
    ledger.chain.audit_state()
    ledger.chain.close()


def test_rewinding_changes_the_domain_of_what_follows(ledger):
    ledger.grow(3)
    ledger.chain.rewind(1)
    new_domain = digest("domain", b"drawn")
    ledger.chain.domain_at = lambda height: new_domain if height >= 2 else ledger.genesis_hash
    ledger.grow(2)
    assert Chain.open(ledger.store, ledger.params, ledger.machine, domain_at=ledger.chain.domain_at).head.height == 3
    with pytest.raises(Corruption, match="certificate"):
        Chain.open(ledger.store, ledger.params, ledger.machine, domain_at=lambda height: ledger.genesis_hash)


def test_only_devnets_rewind_and_only_backwards(new_ledger, ledger):
    fixed = new_ledger(devnet=False).create()
    fixed.grow(2)
    with pytest.raises(UsageError):
        fixed.chain.rewind(1)
    with pytest.raises(NotFound):
        ledger.chain.rewind(1)
    executed = ledger.build()
    ledger.chain.prepare_commit(executed, ledger.certificate(executed.block))
    with pytest.raises(InvariantBroken):
        ledger.chain.rewind(0)


# --- opening -----------------------------------------------------------------------------------------------------


def test_reopening_continues_where_it_stopped(new_ledger, tmp_path):
    ledger = new_ledger(LevelStore.create(tmp_path / "db")).create()
    ledger.grow(3, extrinsics=[ledger.extrinsic(0), ledger.extrinsic(1)])
    head = ledger.chain.head
    ledger.chain.close()
    ledger.store = LevelStore.open(tmp_path / "db")
    assert ledger.open(domain_at=lambda height: ledger.genesis_hash).head == head
    ledger.chain.audit_state()
    ledger.grow(2, extrinsics=[ledger.extrinsic(2)])
    assert ledger.chain.head.height == 5
    ledger.chain.close()


def test_a_crash_before_the_batch_is_written_loses_only_that_block(new_ledger, tmp_path):
    ledger = new_ledger(LevelStore.create(tmp_path / "db")).create()
    ledger.grow(2, extrinsics=[ledger.extrinsic(0)])
    durable = ledger.chain.head
    executed = ledger.build([ledger.extrinsic(1)])
    ledger.chain.prepare_commit(executed, ledger.certificate(executed.block))
    assert ledger.chain.head.height == 3
    ledger.chain.close()
    ledger.store = LevelStore.open(tmp_path / "db")
    assert ledger.open().head == durable
    ledger.chain.audit_state()
    ledger.chain.apply(ledger.chain.import_block(executed.block, ledger.certificate(executed.block)))
    assert ledger.chain.head.hash == executed.block.hash
    ledger.chain.close()


def test_a_failed_write_stops_and_leaves_the_disk_as_it_was(ledger):
    ledger.grow()
    before = dict(ledger.store.items(b""))
    executed = ledger.build()
    batch = ledger.chain.prepare_commit(executed, ledger.certificate(executed.block))
    ledger.store.write = lambda *args, **kwargs: (_ for _ in ()).throw(DiskFailure("no space left"))
    with pytest.raises(DiskFailure):
        ledger.chain.apply(batch)
    assert ledger.chain.durable_height == 1
    assert dict(ledger.store.items(b"")) == before


def test_reading_while_another_thread_commits(new_ledger, tmp_path):
    """Readers see whole heights: what a view holds always has the root of its height."""
    ledger = new_ledger(LevelStore.create(tmp_path / "db")).create()
    chain, failures, stop = ledger.chain, [], threading.Event()

    def read():
        while not stop.is_set():
            proof = chain.prove(b"vk")
            shown = int(proof.value or b"0")
            if shown != proof.height or not verify_state(proof.state_root, b"vk", proof.value, proof.proof):
                failures.append((proof.height, proof.value))
            if proof.height and chain.header(proof.height).state_root != proof.state_root:
                failures.append(proof.height)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for height in range(1, 16):
        ledger.grow(extrinsics=[put(ledger, b"k", b"%d" % height)])
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    chain.close()


def test_creating_needs_an_empty_store(ledger):
    with pytest.raises(UsageError):
        Chain.create(ledger.store, ledger.params, ledger.machine, ledger.genesis)


def test_a_database_of_another_chain_or_schema_is_refused(ledger):
    ledger.grow()
    with pytest.raises(WrongGenesis):
        Chain.open(ledger.store, replace(ledger.params, genesis_hash=bytes(32)), ledger.machine)
    ledger.store.write({SCHEMA_KEY: (99).to_bytes(4, "big")}, sync=True)
    with pytest.raises(NewerSchema):
        ledger.open()


@pytest.mark.parametrize("prefix", [layout.HEADER, layout.CERTIFICATE, layout.PAGE, layout.STATE, layout.BY_HASH])
@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_damaged_rows_are_found_at_start(ledger, prefix, damage):
    ledger.grow(3, extrinsics=[ledger.extrinsic(0)])
    key, value = list(ledger.store.items(prefix))[-1]
    ledger.store.write({key: None if damage == "lost" else value[:-1] + bytes([value[-1] ^ 1])}, sync=True)
    if prefix == layout.STATE and damage == "lost":
        with pytest.raises(Corruption):
            ledger.open().audit_state()
        return
    with pytest.raises(Corruption):
        ledger.open(domain_at=lambda height: ledger.genesis_hash)


@pytest.mark.parametrize("row", [None, b"", b"\x80", encode([1, 2, 3, 4, 5]), b"junk"])
def test_a_damaged_head_row_is_found_at_start(ledger, row):
    ledger.store.write({layout.HEAD_KEY: row}, sync=True)
    with pytest.raises(Corruption):
        ledger.open()


@pytest.mark.parametrize("bug", [AssertionError("no row"), TypeError("no keys"), KeyError("authority"), None])
def test_authorities_that_cannot_be_read_are_found_at_start(ledger, monkeypatch, bug):
    def authorities(view):
        raise bug

    if bug is None:
        ledger.store.write({layout.STATE + b"auth": None}, sync=True)
    else:
        monkeypatch.setattr(ledger.machine, "authorities", authorities)
    with pytest.raises(Corruption, match="authorities"):
        ledger.open()


def test_a_head_that_is_not_its_header_is_found(ledger):
    ledger.grow(2)
    head = replace(ledger.chain.head, timestamp_ms=1)
    ledger.store.write({layout.HEAD_KEY: head.encode()}, sync=True)
    with pytest.raises(Corruption):
        ledger.open()


def test_bodies_with_many_extrinsics_round_trip(new_ledger):
    ledger = new_ledger(accounts=40).create()
    extrinsics = [ledger.extrinsic(account, nonce) for account in range(40) for nonce in range(8)]
    executed = ledger.grow(extrinsics=extrinsics)
    assert len(executed.extrinsics) == 320
    assert len(ledger.chain.outcomes(1)) == 320
    assert ledger.chain.find_extrinsic(extrinsics[-1].id) == (1, 319)
    assert isinstance(ledger.chain.body(1), Body)


def test_a_chain_begins_with_what_its_cache_can_hold_of_the_state(ledger, monkeypatch):
    ledger.grow(extrinsics=[ledger.extrinsic(0, call=2, args=[b"long", bytes(views.MAX_CACHED_ROW_BYTES + 1)])])
    value = ledger.chain.view().get(b"vlong")
    rows = {key[1:]: row for key, row in ledger.store.items(layout.STATE)}
    kept = {key: each.row for key, each in ledger.open()._cache.kept.items()}
    assert kept == {key: row for key, row in rows.items() if key != b"vlong"}
    monkeypatch.setattr(views, "MAX_CACHED_ROWS", 3)
    chain = ledger.open()
    kept = {key: each.row for key, each in chain._cache.kept.items()}
    assert len(kept) == 3 and kept.items() <= rows.items()
    ledger.grow(2)
    assert ledger.chain.view().get(b"vlong") == value


def test_the_collector_goes_on_as_it_was_after_a_block():
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(Rejected), collector_paused():
        raise Rejected("Any")
    assert gc.isenabled()
