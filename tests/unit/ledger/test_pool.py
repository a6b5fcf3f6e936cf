"""The pool: what enters, what is refused under which name, what a block gets, what leaves and why."""

import random
from dataclasses import replace

import pytest

from ledger.chain import Chain
from ledger.errors import DecodeError, Rejected
from ledger.pool import INHERENT_LIFE_BLOCKS, REVALIDATED_PER_BLOCK, Pool, PoolLimits, read_dump
from ledger.store import MemoryStore


@pytest.fixture
def pool(ledger):
    return Pool(ledger.chain)


def refused(pool, extrinsic):
    with pytest.raises(Rejected) as caught:
        pool.submit(extrinsic.encode())
    return caught.value.error_name


def fill(pool, ledger, account, count, **options):
    return [pool.submit(ledger.extrinsic(account, nonce, **options).encode()) for nonce in range(count)]


def commit_selection(pool, ledger, max_bytes=1 << 20, max_weight=100_000):
    executed = ledger.build(pool.select(max_bytes, max_weight), pool.inherents())
    ledger.chain.commit(executed, ledger.certificate(executed.block))
    return executed, pool.on_block(executed)


# --- entering ----------------------------------------------------------------------------------------------------


def test_submitted_extrinsics_wait_for_a_block(pool, ledger):
    extrinsic = ledger.extrinsic(0)
    assert not pool.ready()
    assert pool.submit(extrinsic.encode()) == extrinsic.id
    assert extrinsic.id in pool and pool.get(extrinsic.id) == extrinsic and len(pool) == 1 and pool.ready()
    assert pool.size_bytes == len(extrinsic.encode())
    assert pool.select(100_000, 100_000) == [extrinsic]
    assert pool.verified[extrinsic.encode()] == extrinsic
    executed, dropped = commit_selection(pool, ledger)
    assert executed.extrinsics == (extrinsic,) and dropped == []
    assert len(pool) == pool.size_bytes == 0 and not pool.verified and not pool.ready()
    assert refused(pool, extrinsic) == "NonceTooLow"


def test_refusals_have_names(pool, ledger, new_ledger):
    ledger.grow(20)
    good = ledger.extrinsic(0)
    pool.submit(good.encode())
    poor = new_ledger(accounts=9)
    poor.chain = ledger.chain
    assert refused(pool, good) == "AlreadyKnown"
    assert refused(pool, ledger.extrinsic(1, birth=1, period=8)) == "Expired"
    assert refused(pool, poor.extrinsic(8, 0)) == "InsufficientBalance"
    assert refused(pool, ledger.extrinsic(1, call=77)) == "UnknownCall"
    assert refused(pool, ledger.extrinsic(1, nonce=17)) == "NonceGap"
    unsigned = bytes(64) + ledger.extrinsic(1).body
    with pytest.raises(Rejected, match="BadSignature"):
        pool.submit(unsigned)
    for junk in (b"", b"x" * 64, b"\xff" * 200, good.encode() + b"\0", bytes(200_000)):
        with pytest.raises(DecodeError):
            pool.submit(junk)
    assert len(pool) == 1


def test_births_in_the_future_are_refused(pool, ledger):
    ledger.grow()
    extrinsic = ledger.extrinsic(0)
    ledger.chain.rewind(0)
    with pytest.raises(Rejected, match="UnknownBirth"):
        pool.submit(extrinsic.encode())


def test_gaps_of_missing_nonces_are_bounded(pool, ledger):
    pool.submit(ledger.extrinsic(0, 16).encode())
    assert refused(pool, ledger.extrinsic(0, 18)) == "NonceGap"  # 0..15 and 17 are missing
    pool.submit(ledger.extrinsic(0, 17).encode())
    pool.submit(ledger.extrinsic(0, 18).encode())
    assert pool.select(1 << 20, 100_000) == [] and not pool.ready()
    assert [each.nonce for each in pool.of_account(ledger.accounts[0].public)] == [16, 17, 18]
    assert [each.nonce for each in pool.pending(10)] == [16, 17, 18]


def test_an_account_has_a_share(ledger):
    pool = Pool(ledger.chain, PoolLimits(per_account=5))
    fill(pool, ledger, 0, 5)
    assert refused(pool, ledger.extrinsic(0, 5)) == "AccountFull"
    pool.submit(ledger.extrinsic(0, 4, tip=9).encode())
    pool.submit(ledger.extrinsic(1).encode())


def test_replacing_costs_a_tenth_more(pool, ledger):
    first = pool.submit(ledger.extrinsic(0, tip=90).encode())  # fee 100
    assert refused(pool, ledger.extrinsic(0, tip=99)) == "FeeTooLowToReplace"
    second = pool.submit(ledger.extrinsic(0, tip=100).encode())
    assert first not in pool and second in pool and len(pool) == 1 and len(pool.verified) == 1
    assert [each.id for each in pool.select(1 << 20, 100_000)] == [second]


def test_a_full_pool_gives_room_to_what_is_worth_more(new_ledger):
    ledger = new_ledger(accounts=8).create()
    pool = Pool(ledger.chain, PoolLimits(extrinsics=4))
    cheap = [pool.submit(ledger.extrinsic(account, tip=account * 1000).encode()) for account in range(4)]
    assert refused(pool, ledger.extrinsic(4)) == "PoolFull"
    better = pool.submit(ledger.extrinsic(5, tip=500).encode())
    assert better in pool and cheap[0] not in pool and len(pool) == 4
    assert refused(pool, ledger.extrinsic(6, tip=400)) == "PoolFull"
    operational = pool.submit(ledger.extrinsic(7, call=3).encode())  # pays less, but its class is higher
    assert operational in pool and better not in pool


def test_worth_is_that_of_the_newest_admission(ledger):
    pool = Pool(ledger.chain, PoolLimits(extrinsics=2))
    admit, price = ledger.machine.admit, {}

    def dearer(view, extrinsic, height):
        admission = admit(view, extrinsic, height)
        return replace(admission, fee_rao=admission.fee_rao + price.get(extrinsic.signer, 0))

    ledger.machine.admit = dearer
    risen = pool.submit(ledger.extrinsic(0, tip=1).encode())
    cheap = pool.submit(ledger.extrinsic(1, tip=50).encode())
    price[ledger.accounts[0].public] = 10_000
    assert pool.on_block(ledger.grow()) == []
    pool.submit(ledger.extrinsic(2, tip=90).encode())
    assert risen in pool and cheap not in pool


def test_bytes_are_bounded(ledger):
    pool = Pool(ledger.chain, PoolLimits(bytes=5_000))
    for nonce in range(4):
        pool.submit(ledger.extrinsic(0, nonce, call=2, args=[b"k", bytes(1000)]).encode())
    assert refused(pool, ledger.extrinsic(1, call=2, args=[b"k", bytes(1000)])) == "PoolFull"
    pool.submit(ledger.extrinsic(1, call=2, args=[b"k", bytes(2000)], tip=900_000).encode())
    assert pool.size_bytes <= 5_000 and len(pool) == 3


def test_storms_stay_inside_every_limit(new_ledger):
    ledger = new_ledger(accounts=6).create()
    limits = PoolLimits(extrinsics=20, bytes=6_000, per_account=8, nonce_gap=3)
    pool, rnd = Pool(ledger.chain, limits), random.Random(3)
    for step in range(600):
        extrinsic = ledger.extrinsic(
            rnd.randrange(6), rnd.randrange(12), rnd.choice((1, 3)), tip=rnd.randrange(5000), period=8
        )
        try:
            pool.submit(extrinsic.encode())
        except Rejected:
            pass
        if step % 50 == 49:
            commit_selection(pool, ledger, 2_000)
        assert len(pool) <= 20 and pool.size_bytes <= 6_000 and len(pool._worst) <= 2 * 20 + 64 + 1
        assert len(pool) == len(pool.verified) == sum(len(queue) for queue in pool._queues.values())
        assert len(pool) == sum(len(ids) for ids in pool._expiring.values())
        assert pool.size_bytes == sum(len(raw) for raw in pool.verified)
        assert all(0 < len(queue) <= 8 for queue in pool._queues.values())
        for extrinsic in pool.select(1 << 20, 1 << 40):
            queue = pool._queues[extrinsic.signer]
            assert queue.ready(extrinsic.nonce).extrinsic == extrinsic and not queue.rank()


def test_inserting_judges_again_when_the_head_moved(pool, ledger):
    stale = pool.admit(ledger.extrinsic(0).encode())
    pool.submit(ledger.extrinsic(0, tip=1).encode())
    commit_selection(pool, ledger)
    with pytest.raises(Rejected, match="NonceTooLow"):
        pool.insert(stale)
    twice = pool.admit(ledger.extrinsic(1).encode())
    pool.insert(twice)
    with pytest.raises(Rejected, match="AlreadyKnown"):
        pool.insert(twice)


def test_a_birth_block_that_was_replaced_is_noticed(pool, ledger):
    ledger.grow(2)
    candidate = pool.admit(ledger.extrinsic(0, birth=2).encode())
    ledger.chain.rewind(1)
    ledger.grow(1, extrinsics=[ledger.extrinsic(3)])
    with pytest.raises(Rejected, match="UnknownBirth"):
        pool.insert(candidate)


def test_a_larger_replacement_makes_room_or_stays_out(ledger):
    pool = Pool(ledger.chain, PoolLimits(bytes=4_000))
    small = pool.submit(ledger.extrinsic(0, 0).encode())
    other = pool.submit(ledger.extrinsic(1, 0, call=2, args=[b"k", bytes(3000)]).encode())
    assert refused(pool, ledger.extrinsic(0, 0, call=2, args=[b"k", bytes(3000)], tip=1)) == "PoolFull"
    large = pool.submit(ledger.extrinsic(0, 0, call=2, args=[b"k", bytes(3000)], tip=100).encode())
    assert large in pool and small not in pool and other not in pool and pool.size_bytes <= 4_000


def test_free_calls_of_an_account_have_a_quota(pool, ledger):
    admit = ledger.machine.admit
    ledger.machine.admit = lambda view, extrinsic, height: replace(admit(view, extrinsic, height), fee_rao=extrinsic.tip)
    fill(pool, ledger, 0, pool.limits.feeless)
    assert refused(pool, ledger.extrinsic(0, pool.limits.feeless)) == "TooManyFreeCalls"
    pool.submit(ledger.extrinsic(1).encode())
    ledger.machine.admit = admit
    pool.submit(ledger.extrinsic(0, pool.limits.feeless).encode())


# --- parked and ready --------------------------------------------------------------------------------------------


def test_what_is_beyond_an_accounts_money_is_parked(pool, ledger):
    fill(pool, ledger, 0, 5, tip=299_990)  # 300,000 each, the account has 1,000,000
    assert [each.nonce for each in pool.select(1 << 20, 100_000)] == [0, 1, 2]
    assert len(pool.pending(10)) == 5
    _, dropped = commit_selection(pool, ledger)
    assert len(dropped) == 2 and len(pool) == 0  # 100,000 are left


def test_money_that_comes_makes_parked_ones_ready(pool, ledger):
    fill(pool, ledger, 0, 4, tip=299_990)
    gift = ledger.extrinsic(1, args=[ledger.accounts[0].public, 500_000])
    assert pool.on_block(ledger.grow(extrinsics=[gift])) == []
    assert [each.nonce for each in pool.select(1 << 20, 100_000)] == [0, 1, 2, 3]


def test_a_filled_gap_makes_the_rest_ready(pool, ledger):
    for nonce in (1, 2):
        pool.submit(ledger.extrinsic(0, nonce).encode())
    assert not pool.ready()
    pool.submit(ledger.extrinsic(0, 0).encode())
    assert [each.nonce for each in pool.select(1 << 20, 100_000)] == [0, 1, 2]


def test_parked_ones_give_way_whatever_they_promise(ledger):
    pool = Pool(ledger.chain, PoolLimits(extrinsics=6))
    for account in range(3):
        for nonce in (1, 2):
            pool.submit(ledger.extrinsic(account, nonce, tip=100_000).encode())
    honest = [pool.submit(ledger.extrinsic(3, nonce).encode()) for nonce in range(6)]
    assert len(pool) == 6 and all(each in pool for each in honest)
    assert refused(pool, ledger.extrinsic(0, 1, tip=500_000)) == "PoolFull"


def test_the_last_of_an_account_leave_first(ledger):
    pool = Pool(ledger.chain, PoolLimits(extrinsics=4))
    fill(pool, ledger, 0, 3)
    dear = pool.submit(ledger.extrinsic(0, 3, tip=50_000).encode())  # worth no more than those before it
    pool.submit(ledger.extrinsic(1, tip=10).encode())
    assert dear not in pool and [each.nonce for each in pool.of_account(ledger.accounts[0].public)] == [0, 1, 2]


# --- for a block -------------------------------------------------------------------------------------------------


def test_order_is_class_then_id_and_nonces_ascend(pool, ledger):
    for account in range(4):
        fill(pool, ledger, account, 5)
    urgent = ledger.extrinsic(3, 5, call=3)
    pool.submit(urgent.encode())
    chosen = pool.select(1 << 20, 1 << 40)
    assert len(chosen) == 21
    for account in ledger.accounts:
        assert [each.nonce for each in chosen if each.signer == account.public] == list(
            range(6 if account is ledger.accounts[3] else 5)
        )
    assert chosen[0].id == min(pool.of_account(account.public)[0].id for account in ledger.accounts)
    assert pool.pending(100) == chosen and pool.pending(3) == chosen[:3]
    ledger.chain.check(ledger.build(chosen).block)


def test_a_tip_buys_no_place(pool, ledger):
    ids = sorted(pool.submit(ledger.extrinsic(account, tip=account * 1000).encode()) for account in range(4))
    assert [each.id for each in pool.select(1 << 20, 100_000)] == ids


def test_selection_obeys_bytes_and_weight(pool, ledger):
    for account in range(4):
        fill(pool, ledger, account, 10)
    assert pool.select(400, 100_000) == []
    for max_bytes in (1_500, 3_000, 5_000):
        chosen = pool.select(max_bytes, 100_000)
        body = ledger.build(chosen).block.body
        assert chosen and len(body.encode()) <= max_bytes
    assert len(pool.select(1 << 20, 1_000)) == 7  # three quarters of ten
    assert pool.select(1 << 20, 0) == []


def test_selection_leaves_room_for_inherents(pool, ledger):
    fill(pool, ledger, 0, 40)
    pool.add_inherent(7, ledger.genesis[b"auth"])
    pool.add_inherent(7, ledger.genesis[b"auth"] * 12)
    chosen = pool.select(4_000, 100_000)
    assert chosen and len(ledger.build(chosen, pool.inherents()).block.body.encode()) <= 4_000


def test_a_quarter_is_kept_for_the_operational_class(pool, ledger):
    fill(pool, ledger, 0, 20)
    for nonce in range(10):
        pool.submit(ledger.extrinsic(1, nonce, call=3).encode())
    chosen = pool.select(1 << 20, 1_600)
    assert sum(each.call_number == 3 for each in chosen) == 10
    assert sum(each.call_number == 1 for each in chosen) == 6
    pool_of_normal = Pool(ledger.chain)
    fill(pool_of_normal, ledger, 0, 20)
    assert len(pool_of_normal.select(1 << 20, 1_600)) == 12


def test_what_the_builder_refused_leaves_the_pool(pool, ledger):
    good, poison = ledger.extrinsic(0), ledger.extrinsic(1, call=4)
    for extrinsic in (good, poison):
        pool.submit(extrinsic.encode())
    executed, dropped = commit_selection(pool, ledger)
    assert executed.extrinsics == (good,) and dropped == [poison.id] and len(pool) == 0


# --- leaving -----------------------------------------------------------------------------------------------------


def test_a_block_from_elsewhere_makes_competing_extrinsics_leave(pool, ledger):
    mine = [pool.submit(ledger.extrinsic(0, nonce).encode()) for nonce in range(3)]
    ledger.grow()  # not seen by the pool
    rival = ledger.extrinsic(0, 0, tip=5)
    executed = ledger.grow(extrinsics=[rival])
    assert pool.on_block(executed) == [mine[0]]
    assert [each.nonce for each in pool.select(1 << 20, 100_000)] == [1, 2]


def test_an_emptied_account_leaves(pool, ledger):
    later = pool.submit(ledger.extrinsic(0, 1).encode())
    spend_all = ledger.extrinsic(0, 0, args=[ledger.accounts[1].public, 999_990])
    assert pool.on_block(ledger.grow(extrinsics=[spend_all])) == [later]


def test_untouched_accounts_are_checked_in_turn(ledger):
    pool = Pool(ledger.chain)
    waiting = pool.submit(ledger.extrinsic(0, 0).encode())
    ledger.machine.admit = lambda *args: (_ for _ in ()).throw(Rejected("Changed"))
    assert pool.on_block(ledger.grow()) == [waiting]


@pytest.mark.parametrize("revalidated", [0, 256])
def test_expiry_is_exact(pool, ledger, revalidated, monkeypatch):
    monkeypatch.setattr("ledger.pool.REVALIDATED_PER_BLOCK", revalidated)
    extrinsic = ledger.extrinsic(0, birth=0, period=8)
    pool.submit(extrinsic.encode())
    for _ in range(7):
        assert pool.on_block(ledger.grow()) == []
    assert pool.select(1 << 20, 100_000) == [extrinsic]  # for block 8 = 0 + 8
    assert pool.on_block(ledger.grow()) == [extrinsic.id]


def test_a_block_costs_one_look_for_each_touched_account(new_ledger):
    ledger = new_ledger(accounts=40).create()
    pool, machine = Pool(ledger.chain), ledger.machine
    for account in range(30):
        fill(pool, ledger, account, 10)
    executed = ledger.grow(extrinsics=[ledger.extrinsic(account, 0) for account in (0, 1, 35)])  # pays 1, 2 and 36
    calls = {"admit": 0, "standing": 0}

    def counted(name, function):
        def count(*args):
            calls[name] += 1
            return function(*args)
        return count

    for name in calls:
        setattr(machine, name, counted(name, getattr(machine, name)))
    assert pool.on_block(executed) == [] and len(pool) == 298
    assert calls == {"admit": REVALIDATED_PER_BLOCK, "standing": 3 + REVALIDATED_PER_BLOCK}
    assert len(pool.select(1 << 20, 100_000)) == 298


def test_a_rewind_empties_the_pool(pool, ledger):
    ledger.grow(2)
    fill(pool, ledger, 0, 3)
    pool.add_inherent(7, b"x")
    ledger.chain.rewind(1)
    pool.on_rewind()
    assert len(pool) == pool.size_bytes == 0 and not pool.verified and not pool.inherents()
    pool.submit(ledger.extrinsic(0).encode())


# --- inherents ---------------------------------------------------------------------------------------------------


def test_one_author_has_little_room_for_inherents(ledger):
    pool = Pool(ledger.chain, PoolLimits(inherents=4))
    assert all(pool.add_inherent(7, bytes([n]), b"a") for n in range(9))
    assert pool.inherents() == [(7, b"\7"), (7, b"\x08")]
    assert pool.add_inherent(8, b"x", b"a") and pool.add_inherent(7, b"x", b"b")
    assert not pool.add_inherent(7, b"y", b"c")
    assert pool.add_inherent(7, b"z", b"a") and (7, b"\7") not in pool.inherents()
    pool.on_rewind()
    assert pool.add_inherent(7, b"z", b"a") and pool.inherents() == [(7, b"z")]


def test_inherent_candidates(ledger):
    pool = Pool(ledger.chain, PoolLimits(inherents=3))
    keys = b"".join(key.public for key in ledger.authority_keys)
    assert pool.add_inherent(7, keys) and not pool.add_inherent(7, keys)
    assert pool.add_inherent(8, b"never valid") and pool.add_inherent(8, b"")
    assert not pool.add_inherent(8, b"no room")
    assert not Pool(ledger.chain).add_inherent(8, bytes(20_000))
    assert not pool.ready()
    executed, _ = commit_selection(pool, ledger)
    assert executed.block.body.inherent_list() == [(7, keys)]
    assert pool.inherents() == [(8, b"never valid"), (8, b"")]
    for key in pool._inherents:
        pool._inherents[key] -= INHERENT_LIFE_BLOCKS
    commit_selection(pool, ledger)
    assert pool.inherents() == []


# --- over a restart ----------------------------------------------------------------------------------------------


def restored(ledger, data):
    """A new pool with what a dump holds."""
    fresh = Pool(ledger.chain)
    for raw in read_dump(data)[0]:
        try:
            fresh.submit(raw)
        except (DecodeError, Rejected):
            continue
    return fresh


def test_a_dump_is_taken_in_again_through_every_check(pool, ledger):
    ledger.grow(2)
    for account in range(3):
        fill(pool, ledger, account, 4)
    pool.submit(ledger.extrinsic(3, 2).encode())  # behind a gap
    data = pool.dump()
    assert read_dump(data)[1] == ""
    fresh = restored(ledger, data)
    assert len(fresh) == 13 and fresh.select(1 << 20, 100_000) == pool.select(1 << 20, 100_000)
    executed, _ = commit_selection(pool, ledger)
    assert len(restored(ledger, data)) == 1 and len(executed.extrinsics) == 12


def test_a_damaged_dump_is_named_and_no_harm(pool, ledger):
    fill(pool, ledger, 0, 5)
    data, rnd = pool.dump(), random.Random(5)
    assert read_dump(Pool(ledger.chain).dump()) == ([], "")
    cut, problem = read_dump(data[:-3])
    assert len(cut) == 4 and "checksum" in problem
    for other in (b"", b"\xff" * 100, data[1:]):
        assert read_dump(other)[0] == [] and "not a pool's dump" in read_dump(other)[1]
    for _ in range(40):
        bad = bytearray(data)
        bad[rnd.randrange(len(bad))] ^= 1 << rnd.randrange(8)
        assert read_dump(bytes(bad))[1]
        assert len(restored(ledger, bytes(bad))) <= 5
    assert len(read_dump(data + bytes(4 * 9_000))[0]) <= PoolLimits.extrinsics


def test_next_nonce_counts_what_waits_without_a_gap(pool, ledger):
    fill(pool, ledger, 0, 3)
    pool.submit(ledger.extrinsic(0, 5).encode())
    assert pool.next_nonce(ledger.accounts[0].public, 0) == 3
    assert pool.next_nonce(ledger.accounts[1].public, 7) == 7


def test_blocks_of_the_pool_import_without_verifying(ledger):
    follower = Chain.create(MemoryStore(), ledger.params, ledger.machine, ledger.genesis)
    pool, theirs = Pool(ledger.chain), Pool(follower)
    for nonce in range(5):
        raw = ledger.extrinsic(0, nonce).encode()
        pool.submit(raw)
        theirs.submit(raw)
    block = ledger.build(pool.select(1 << 20, 100_000)).block
    follower.check(block, known=theirs.verified, verify_batch=lambda tasks: pytest.fail("verified again"))
