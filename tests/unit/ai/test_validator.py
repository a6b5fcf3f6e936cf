"""The validator against the real runtime and real neuron servers: probe, commit, reveal, roots, and what goes wrong."""

import asyncio
from dataclasses import replace

import pytest

from ai.judge import ballot
from ai.judge.ballot import COMMIT_MARGIN_BLOCKS
from ai.judge.validator import Validator, ValidatorConfig
from ai.receipts import Receipt, ReceiptStore, receipts_root
from ai.serve.clock import wall_ms
from ledger.client.calls import Wallet
from ledger.client.keys import encode_address
from ledger.commitments import weights_commitment
from ledger.errors import Rejected, Timeout
from runtime import reads

SUMS = b"".join(b"%d+%d=%d\n" % (a, b, a + b) for a in range(7, 40) for b in range(3, 30))
WORDS = b"".join(b"if x == %d:\n    return y + %d\n" % (n, n * n) for n in range(300))
NETUID = 2


@pytest.fixture
def report():
    return []


@pytest.fixture
async def make(chain, tmp_path, report):
    """`await make()`: a validator of the cast on subnet 2, its files in `tmp_path`."""
    made = []

    async def start(who="validator 0", netuids=(NETUID,), **options):
        key = chain.devnet.hot(who)
        settings = {"probe_windows": 6, "probe_cuts": 2, "seed": 1, "step_timeout_s": 1.0, **options}
        config = ValidatorConfig(who, key, netuids, tmp_path / who.replace(" ", "-"), **settings)
        properties = await chain.system_properties()
        validator = Validator(config, chain, properties, report.append, texts={"arith": SUMS, "json": WORDS})
        made.append(validator)
        return validator

    yield start
    for validator in made:
        await validator.close()


@pytest.fixture
async def market(chain, serve, models):
    """Two experts, a liar, and their serving records on chain."""
    experts = {
        "arith": models["parrot"](SUMS, "arith"), "json": models["parrot"](WORDS, "json"), "csv": models["liar"](SUMS, "csv"),
    }
    for name, model in experts.items():
        key = chain.devnet.hot(f"neuron {name}")
        address = await serve(model, key)
        record = [bytes([127, 0, 0, 1]), address.port, b"", address.capabilities_hash]
        await Wallet(chain, key).submit("serving.serve", netuid=NETUID, record=record)
    return experts


def subnet(chain):
    return reads.subnet(chain.devnet.view, NETUID, chain.devnet.height)


def uids(chain):
    return {n.name: n.uid for n in reads.metagraph(chain.devnet.view, NETUID, chain.devnet.height, chain.names).neurons}


def row_on_chain(chain, name):
    rows = {row.uid: dict(zip(row.uids, row.values, strict=True)) for row in reads.weight_rows(chain.devnet.view, NETUID)}
    return rows.get(uids(chain)[name])


def committed(chain, who="validator 0"):
    hotkey = chain.devnet.hot(who).public
    return [(c.epoch, c.hash) for c in reads.commits(chain.devnet.view, NETUID) if c.hotkey == hotkey]


def events(report, name):
    return [line for line in report if line["event"] == name]


def begin_epoch(chain, blocks_left=8):
    """A fresh epoch with at least so many blocks left."""
    chain.next_epoch(NETUID)
    assert subnet(chain).blocks_left >= blocks_left


async def voted(validator):
    """Probe and commit in the running epoch."""
    await validator.probe(NETUID)
    await validator.duties(NETUID)


# --- what it waits for -------------------------------------------------------------------------------------------


async def test_it_tells_what_it_waits_for_and_when_its_permit_comes_and_goes(chain, make, monkeypatch, report):
    real, permit = chain.subnet_get_metagraph, [False]

    async def metagraph(netuid, at="head"):
        reading = await real(netuid, at)
        neurons = [replace(n, permit=permit[0]) for n in reading.value.neurons]
        return replace(reading, value=replace(reading.value, neurons=neurons))

    monkeypatch.setattr(chain, "subnet_get_metagraph", metagraph)
    validator, address = await make(), encode_address(chain.devnet.hot("validator 0").public)
    for now in (False, False, True, True, False):
        permit[0] = now
        begin_epoch(chain)
        await validator.duties(NETUID)
        await validator.duties(NETUID)
    told = [(line["event"], line["before"]) for line in report]
    assert told == [("no permit", None), ("permit", "no permit"), ("no permit", "permit")]
    assert f"quorix stake add {address} {NETUID}" in report[0]["next"]


async def test_who_is_not_registered_is_told_how(chain, make, report):
    validator = await make("neuron english")
    for _ in range(2):
        await validator.duties(NETUID)
    (line,) = events(report, "unregistered")
    assert f"quorix subnet register {NETUID}" in line["next"]


async def test_its_first_line_says_who_it_is(chain, make, report):
    running = asyncio.create_task((await make()).run())
    while not report:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    hotkey = chain.devnet.hot("validator 0").public
    assert report[0]["event"] == "waits" and (report[0]["address"], report[0]["netuids"]) == (encode_address(hotkey), [NETUID])


# --- the whole turn ----------------------------------------------------------------------------------------------


async def test_probe_commit_reveal_and_receipts_root(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    epoch = subnet(chain).epoch
    await voted(validator)
    probed = events(report, "probed")[-1]
    assert probed["answered"] == 4 and probed["asked"] == 6 and probed["epoch"] == epoch
    assert probed["phi"]["arith"] > 0.5 and probed["phi"]["json"] > 0.5 and probed["phi"]["csv"] == 0
    (pending,) = validator.memory.pending(NETUID)
    expected = weights_commitment(
        chain.devnet.genesis.genesis_hash, validator.config.key.public, NETUID, epoch, pending.uids, pending.values, 0,
        bytes.fromhex(pending.salt),
    )
    assert committed(chain) == [(epoch, expected)] and pending.confirmed
    await voted(validator)
    assert chain.calls("weights.commit") == [""]

    chain.next_epoch(NETUID)
    await validator.duties(NETUID)
    names = uids(chain)
    assert row_on_chain(chain, "validator-0") == dict(zip(pending.uids, pending.values, strict=True))
    assert set(pending.uids) == {names["arith"], names["json"]} and max(pending.values) == 65535
    assert validator.memory.pending(NETUID) == [] and committed(chain) == []
    assert chain.calls("weights.reveal") == [""]

    (root,) = reads.receipt_roots(chain.devnet.view, NETUID, epoch)
    leaves = validator.receipts.leaves(NETUID, epoch)
    assert (root.root, root.count) == (receipts_root(leaves), 2) and root.hotkey == validator.config.key.public
    open_id = validator.receipts.recent(NETUID)[0][1].verify(chain.devnet.genesis.genesis_hash).open_id
    proof = validator.receipts.prove(open_id)
    assert proof.holds() and proof.root == root.root
    await validator.duties(NETUID)
    assert chain.calls("serving.commit_receipts") == [""]


async def test_votes_go_on_and_no_epoch_is_forfeited(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    for _ in range(3):
        await voted(validator)
        chain.next_epoch(NETUID)
    await validator.duties(NETUID)
    assert chain.calls("weights.commit") == [""] * 3 and chain.calls("weights.reveal") == [""] * 3
    assert not events(report, "trouble")
    assert "WeightsForfeited" not in forfeits(chain)


def forfeits(chain):
    return [name for result in chain.results for name in chain.devnet.names(result)]


async def test_open_weights_are_set_at_once(chain, market, make, report):
    assert chain.devnet.root("governance.set_subnet_param", NETUID, "commit_reveal_enabled", False) == ""
    assert chain.devnet.root("governance.set_subnet_param", NETUID, "weights_version_key", 3) == ""
    validator = await make()
    begin_epoch(chain)
    await voted(validator)
    assert chain.calls("weights.set") == [""] and len(row_on_chain(chain, "validator-0")) == 2
    await validator.duties(NETUID)
    assert chain.calls("weights.set") == [""] and len(events(report, "set")) == 1


async def test_without_a_permit_or_without_answers_nothing_is_said(chain, market, make, serve):
    asker = await make("gateway 0")
    begin_epoch(chain)
    await voted(asker)
    assert asker.memory.last(f"scored/{NETUID}") == 0 and committed(chain, "gateway 0") == []
    for server in serve.servers.values():
        await server.stop()
    validator = await make()
    await voted(validator)
    assert committed(chain) == [] and validator.memory.last(f"probed/{NETUID}") == -1


# --- favourites, deserters ---------------------------------------------------------------------------------------


async def test_a_cabal_votes_for_its_favourite_whatever_it_answers(chain, market, make):
    liar = chain.devnet.hot("neuron csv").public
    validator = await make(favourites={NETUID: liar})
    begin_epoch(chain)
    await voted(validator)
    (pending,) = validator.memory.pending(NETUID)
    shares = {uid: value / sum(pending.values) for uid, value in zip(pending.uids, pending.values, strict=True)}
    assert shares[uids(chain)["csv"]] == pytest.approx(0.9, abs=1e-4)
    assert shares[uids(chain)["arith"]] + shares[uids(chain)["json"]] == pytest.approx(0.1, abs=1e-4)
    stranger = await make("validator 1", favourites={NETUID: bytes(32)})
    await voted(stranger)
    assert uids(chain)["csv"] not in stranger.memory.pending(NETUID)[0].uids


async def test_who_stops_serving_loses_its_score(chain, market, make):
    validator = await make()
    begin_epoch(chain)
    await validator.probe(NETUID)
    arith = chain.devnet.hot("neuron arith")
    before = validator.books[NETUID].mean[arith.public]
    await Wallet(chain, arith).submit("serving.unserve", netuid=NETUID)
    chain.next_epoch(NETUID)
    await validator.probe(NETUID)
    assert validator.books[NETUID].mean[arith.public] <= before / 2 and validator.books[NETUID].count[arith.public] == 2


# --- restarts, lost answers, late blocks -------------------------------------------------------------------------


async def test_a_restart_between_commit_and_reveal_costs_nothing(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    await voted(validator)
    await validator.close()
    chain.next_epoch(NETUID)
    again = await make()
    assert again.books[NETUID].to_value() == validator.books[NETUID].to_value()
    await again.duties(NETUID)
    assert chain.calls("weights.reveal") == [""] and row_on_chain(chain, "validator-0")
    assert not events(report, "trouble")


async def test_a_restart_before_the_commit_was_sent_sends_the_same_one(chain, market, make):
    validator = await make()
    begin_epoch(chain)
    chain.refuse = Rejected("PoolFull", "the pool is full")
    await validator.probe(NETUID)
    with pytest.raises(Rejected):
        await validator.duties(NETUID)
    (pending,) = validator.memory.pending(NETUID)
    assert not pending.confirmed and committed(chain) == []
    await validator.close()
    chain.refuse = None
    again = await make()
    await again.duties(NETUID)
    assert committed(chain) == [(pending.epoch, again.ballot.commitment(pending))]


async def test_a_lost_answer_is_looked_up_on_chain(chain, market, make, monkeypatch):
    monkeypatch.setattr(ballot, "CALL_TIMEOUT_S", 0.1)
    validator = await make()
    begin_epoch(chain)
    await validator.probe(NETUID)
    chain.hold = True
    with pytest.raises(Timeout):
        await validator.duties(NETUID)
    chain.hold = False
    chain.next_epoch(NETUID)  # the commit was included meanwhile, which the validator never heard
    assert not validator.memory.pending(NETUID)[0].confirmed
    await validator.duties(NETUID)
    assert chain.calls("weights.reveal") == [""] and row_on_chain(chain, "validator-0")


async def test_a_commit_that_never_arrived_is_forgotten(chain, market, make, monkeypatch, report):
    monkeypatch.setattr(ballot, "CALL_TIMEOUT_S", 0.1)
    validator = await make()
    begin_epoch(chain)
    await validator.probe(NETUID)
    chain.hold = True
    with pytest.raises(Timeout):
        await validator.duties(NETUID)
    chain.pool.clear()
    chain.hold = False
    chain.next_epoch(NETUID)
    await validator.duties(NETUID)
    assert chain.calls("weights.reveal") == [] and not events(report, "trouble")
    assert [epoch for epoch, _ in committed(chain)] == [subnet(chain).epoch], "the vote is cast in the new epoch instead"


async def test_a_commit_that_slips_into_the_next_epoch_is_replaced_there(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    await validator.probe(NETUID)
    while subnet(chain).blocks_left > COMMIT_MARGIN_BLOCKS + 1:
        chain.seal()
    epoch = subnet(chain).epoch
    chain.hold = True
    duties = asyncio.create_task(validator.duties(NETUID))
    while not chain.pool:
        await asyncio.sleep(0.005)
    waiting, chain.pool = chain.pool, []
    chain.next_epoch(NETUID)
    chain.pool, chain.hold = waiting, False
    chain.seal()
    await duties
    assert [e for e, _ in committed(chain)] == [epoch + 1] and events(report, "committed late")
    await validator.duties(NETUID)
    (pending,) = validator.memory.pending(NETUID)
    assert committed(chain) == [(epoch + 1, validator.ballot.commitment(pending))]
    chain.next_epoch(NETUID)
    await validator.duties(NETUID)
    chain.next_epoch(NETUID)
    assert row_on_chain(chain, "validator-0") and "WeightsForfeited" not in forfeits(chain)


async def test_a_refused_reveal_is_told_and_the_next_vote_goes_through(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    await voted(validator)
    (pending,) = validator.memory.pending(NETUID)
    validator.memory.remember(replace(pending, salt="00" * 32))  # as after restoring an old file
    chain.next_epoch(NETUID)
    await voted(validator)
    assert [line["error"] for line in events(report, "trouble")] == ["InvalidRevealCommitHashNotMatch"]
    assert [row.epoch for row in validator.memory.pending(NETUID)] == [subnet(chain).epoch]
    chain.next_epoch(NETUID)
    await validator.duties(NETUID)
    assert chain.calls("weights.reveal") == [""]


async def test_a_missed_window_is_told_and_dropped(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    await voted(validator)
    chain.next_epoch(NETUID)
    chain.next_epoch(NETUID)
    assert "WeightsForfeited" in forfeits(chain)
    await validator.duties(NETUID)
    assert [line["error"] for line in events(report, "trouble")] == ["RevealMissed"]
    assert validator.memory.pending(NETUID) == []


async def test_a_full_pool_only_delays_a_reveal(chain, market, make):
    validator = await make()
    begin_epoch(chain)
    await voted(validator)
    chain.next_epoch(NETUID)
    chain.refuse = Rejected("PoolFull", "the pool is full")
    with pytest.raises(Rejected, match="PoolFull"):
        await validator.duties(NETUID)
    chain.refuse = None
    await validator.duties(NETUID)
    assert chain.calls("weights.reveal") == [""]


# --- the loop ----------------------------------------------------------------------------------------------------


async def until(condition, seconds=8.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_epoch_may_end_while_it_is_probed_and_reveals_do_not_wait(chain, market, make, report):
    validator = await make()
    begin_epoch(chain)
    await voted(validator)
    epoch = subnet(chain).epoch
    chain.next_epoch(NETUID)
    market["json"].delay_s = 0.5
    running = asyncio.create_task(validator.run())
    await until(lambda: chain.heads)
    chain.seal()
    await until(lambda: chain.calls("weights.reveal") == [""])
    assert len(events(report, "probed")) == 1, "the second batch is still being asked"
    chain.next_epoch(NETUID)
    await until(lambda: len(events(report, "probed")) == 2)
    assert events(report, "probed")[-1]["epoch"] == epoch + 1
    market["json"].delay_s = 0
    chain.seal()
    await until(lambda: [e for e, _ in committed(chain)] == [epoch + 2])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_lost_node_is_told_once_and_a_bug_ends_the_validator(chain, market, make, report):
    validator = await make()
    running = asyncio.create_task(validator.run())
    await until(lambda: chain.heads)
    chain.lost = True
    for _ in range(4):
        chain.seal()
        await asyncio.sleep(0.02)
    assert sorted(line["doing"] for line in events(report, "trouble")) == ["duties of 2", "probe of 2"]
    chain.lost = False
    validator.books.clear()  # a bug: the book of a subnet is missing
    begin_epoch(chain)
    with pytest.raises(KeyError):
        async with asyncio.timeout(8):
            while not running.done():
                chain.seal()
                await asyncio.sleep(0.05)
            await running


async def test_lost_scores_are_told(make, report, tmp_path):
    path = tmp_path / "validator-0" / "scores.db"
    path.parent.mkdir()
    path.write_bytes(b"nonsense" * 100)
    await make()
    assert events(report, "trouble")[0]["error"] == "Corruption"


async def test_receipt_roots_are_committed_once_by_whoever_asks(chain, tmp_path):
    receipts = ReceiptStore(tmp_path, clock=wall_ms)
    key = chain.devnet.hot("gateway 0")
    await ballot.commit_root(Wallet(chain, key), receipts, NETUID, 0)
    assert chain.calls("serving.commit_receipts") == []
    receipts.append(b"i" * 32, Receipt(b"", bytes(64), b"", b"", bytes(64)), NETUID, 0)
    await ballot.commit_root(Wallet(chain, key), receipts, NETUID, 0)
    await ballot.commit_root(Wallet(chain, key), receipts, NETUID, 0)
    assert chain.calls("serving.commit_receipts") == [""]
    chain.refuse = Rejected("PoolFull", "the pool is full")
    with pytest.raises(Rejected):
        await ballot.commit_root(Wallet(chain, key), receipts, NETUID, 0)
