"""The read API: every column from state, and its JSON form round-trips."""

from dataclasses import replace

import pytest

from ledger.client import records
from ledger.codec import pack_u16
from ledger.commitments import weights_commitment
from ledger.errors import NotFound
from runtime import epochs, reads
from runtime.fixed import ONE
from runtime.modules import neurons, serving, stake

SALT = bytes(32)


@pytest.fixture
def lived(market):
    """A market after three epochs: rows revealed in epoch 1, paid at its end, a commit open in epoch 3."""
    market.next_block()
    for index, row in ((0, [(2, 3), (3, 1)]), (1, [(2, 1), (3, 1)])):
        hotkey = market.key(f"validator {index} hot")
        uids, values = [uid for uid, _ in row], [value for _, value in row]
        hashed = weights_commitment(market.genesis_hash, hotkey, 1, 0, uids, values, 0, SALT)
        market.call("weights.commit", hotkey, 1, hashed)
    market.to_next_epoch(1)
    for index, row in ((0, [(2, 3), (3, 1)]), (1, [(2, 1), (3, 1)])):
        market.call(
            "weights.reveal", market.key(f"validator {index} hot"), 1, pack_u16([uid for uid, _ in row]),
            pack_u16([value for _, value in row]), SALT, 0,
        )
    market.call("stake.add", market.key("miner 2"), market.key("validator 0 hot"), 1, 5 * market.Q)
    market.to_next_epoch(1)
    market.to_next_epoch(1)
    market.call("weights.commit", market.key("validator 0 hot"), 1, b"\5" * 32)
    return market


def round_trip(value):
    assert records.from_json(type(value), records.to_json(value)) == value


def test_subnets(lived):
    [row] = reads.subnet_list(lived.state, lived.height)
    assert (row.netuid, row.name, row.neurons, row.max_uids, row.tempo) == (1, "prose", 5, 256, 10)
    assert (row.epoch, row.last_epoch_height, row.next_epoch_height, row.blocks_left) == (3, 30, 40, 10)
    assert row.started and row.commit_reveal and row.reveal_period == 1 and "commit-reveal" in row.label
    assert row.emission_share_q32 == ONE and sum(row.pots_rao) == 0
    assert lived.Q * 9 // 10 < row.registration_cost_rao < lived.Q
    assert row.stake_rao > 1005 * lived.Q
    round_trip(row)
    assert reads.subnet(lived.state, 0, lived.height).registration_cost_rao == 0
    assert reads.root_shares(lived.state) == {1: ONE}
    lived.next_block(3)
    assert reads.next_epoch(lived.state, 1, lived.height).blocks_left == 7
    assert sum(reads.subnet(lived.state, 1, lived.height).pots_rao) == 3 * lived.Q


def test_metagraph(lived):
    lived.call("neurons.unregister", lived.key("miner 1"), 1, lived.key("miner 1 hot"))
    graph = reads.metagraph(lived.state, 1, lived.height, {lived.key("miner 0 hot"): "code"})
    assert (graph.netuid, graph.epoch, graph.last_epoch_height) == (1, 3, 30)
    assert [row.uid for row in graph.neurons] == [0, 1, 2, 4]
    validator, miner = graph.neurons[0], graph.neurons[2]
    assert validator.permit and validator.active and validator.dividends > 0 == validator.incentive
    assert validator.stake_rao > 600 * lived.Q and validator.coldkey == lived.key("validator 0")
    assert validator.weights_height == 1 and miner.weights_height == 0
    assert miner.name == "code" and validator.name == ""
    assert not miner.permit or miner.stake_rao  # stake from pay may earn a permit
    assert miner.incentive > 0 and miner.emission_rao > 0 and miner.score > 0
    assert (miner.registered_height, miner.immune) == (0, False)
    assert sum(row.stake_weight for row in graph.neurons) <= 65535
    assert reads.neuron(lived.state, 1, 2, lived.height, {lived.key("miner 0 hot"): "code"}) == miner
    round_trip(graph)
    for uid in (3, 5, -1, 1 << 16):
        with pytest.raises(NotFound):
            reads.neuron(lived.state, 1, uid, lived.height)


def test_serving_records_and_receipt_roots(lived):
    lived.call("serving.serve", lived.key("miner 0 hot"), 1, [bytes([127, 0, 0, 1]), 9001, b"", bytes(32)])
    row = reads.neuron(lived.state, 1, 2, lived.height)
    assert row.serving == records.Serving("127.0.0.1", 9001, b"", bytes(32), lived.height)
    lived.call("serving.commit_receipts", lived.key("validator 0 hot"), 1, 3, b"\1" * 32, 7)
    lived.call("serving.commit_receipts", lived.key("validator 0 hot"), 1, 2, b"\2" * 32, 8)
    roots = reads.receipt_roots(lived.state, 1)
    assert [(root.epoch, root.count) for root in roots] == [(2, 8), (3, 7)]
    assert reads.receipt_roots(lived.state, 1, 3) == [roots[1]]
    assert serving.receipts_of(lived.state, 1, 3, lived.key("validator 0 hot")).root == roots[1].root


def test_rows_and_commits(lived):
    assert reads.weight_rows(lived.state, 1) == [
        records.Row(0, [2, 3], [65535, 21845]), records.Row(1, [2, 3], [65535, 65535]),
    ]
    bonds = reads.bond_rows(lived.state, 1)
    assert [row.uid for row in bonds] == [0, 1] and bonds[0].uids == [2, 3] and all(bonds[0].values)
    [commit] = reads.commits(lived.state, 1)
    assert commit == records.CommitRecord(lived.key("validator 0 hot"), 3, lived.height, b"\5" * 32)


def test_hyperparameters(lived):
    by_name = {row.name: row for row in reads.hyperparams(lived.state, 1)}
    assert (by_name["tempo"].value, by_name["tempo"].default) == (10, 360)
    assert by_name["commit_reveal_enabled"].value is True
    assert {row.name for row in reads.hyperparams(lived.state, None)}.isdisjoint(by_name)
    for row in by_name.values():
        round_trip(row)


def test_accounts_and_stakes(lived):
    who = lived.key("miner 2")
    row = reads.account(lived.state, who)
    assert row.free_rao == 995 * lived.Q and row.hotkeys == [lived.key("miner 2 hot")] and row.owner is None
    [held] = reads.stakes(lived.state, who)
    assert (held.hotkey, held.netuid, held.pending_rao) == (lived.key("validator 0 hot"), 1, 0)
    assert row.staked_rao == held.stake_rao > 5 * lived.Q
    assert reads.account(lived.state, lived.key("miner 2 hot")).owner == who
    assert reads.account(lived.state, lived.key("stranger")).free_rao == 0
    lived.set("unbond_blocks", 5, 1)
    lived.call("stake.remove", who, lived.key("validator 0 hot"), 1, lived.Q)
    assert reads.account(lived.state, who).unbonding_rao == lived.Q


def test_supply_adds_up(lived):
    lived.set("unbond_blocks", 5, 1)
    lived.call("stake.add", lived.key("miner 0"), lived.key("validator 0 hot"), 0, lived.Q)
    lived.call("stake.remove", lived.key("miner 2"), lived.key("validator 0 hot"), 1, lived.Q)
    lived.call("neurons.register", lived.key("miner 0"), 1, lived.key("new hot"), lived.Q)
    lived.next_block()
    lived.call("stake.add", lived.key("miner 1"), lived.key("validator 0 hot"), 1, lived.Q)
    supply = reads.supply(lived.state)
    parts = {
        name: value for name, value in vars(supply).items() if name not in ("issuance_rao", "cap_rao", "block_emission_rao")
    }
    assert sum(parts.values()) == supply.issuance_rao
    assert all(parts[name] for name in ("free_rao", "reserved_rao", "staked_rao", "pending_stake_rao", "unbonding_rao"))
    assert parts["pots_rao"] == lived.Q == supply.block_emission_rao
    round_trip(supply)


def test_registration_queue(lived):
    lived.call("neurons.register", lived.key("miner 0"), 1, lived.key("new hot"), 2 * lived.Q)
    assert reads.registration_queue(lived.state, 1) == [(lived.key("miner 0"), lived.key("new hot"), 2 * lived.Q)]
    assert reads.registration_queue(lived.state, 0) == []


def test_epochs(lived):
    data = {**lived.history, **lived.context.history}
    summary = reads.epoch_record(data[epochs.history_key(1, 1)])
    assert (summary.netuid, summary.epoch, summary.height, summary.validators) == (1, 1, 20, 2)
    trace = epochs.decode_row(data[epochs.history_key(1, 1)]).trace
    assert [uid for uid, stake in enumerate(trace.active_stake_rao) if stake and trace.raw_weights[uid]] == [0, 1]
    rich_miner = replace(trace, active_stake_rao=[stake or 1 for stake in trace.active_stake_rao])
    assert reads._voters(rich_miner) == 2 == reads._voters(replace(rich_miner, has_rows=False, raw_weights=[]))
    assert summary.miners_paid == 2 and summary.paid_rao >= summary.emission_rao > 0
    row = reads.epoch_trace(data[epochs.history_key(1, 1)], {lived.key("miner 0 hot"): "code"})
    assert row.names[2] == "code" and row.hotkeys[0] == lived.key("validator 0 hot")
    assert row.trace["consensus"][2] > 0 and len(row.trace["weights"]) == 5
    assert sum(row.trace["paid"]["server_rao"]) > 0 and row.trace["paid"]["owner_rao"] > 0
    assert records.to_json(row)["trace"]["paid"]["owner_rao"] == row.trace["paid"]["owner_rao"]


@pytest.mark.parametrize("read", [
    reads.weight_rows, reads.bond_rows, reads.commits, reads.receipt_roots, reads.hyperparams,
    lambda state, netuid: reads.metagraph(state, netuid, 1), lambda state, netuid: reads.next_epoch(state, netuid, 1),
    lambda state, netuid: reads.subnet(state, netuid, 1), lambda state, netuid: reads.neuron(state, netuid, 0, 1),
    lambda state, netuid: reads.registration_cost(state, netuid, 1),
])
def test_an_unknown_subnet_is_not_found(market, read):
    with pytest.raises(NotFound):
        read(market.state, 77)


def test_reading_changes_nothing(lived):
    before = lived.state.mark()
    reads.subnet_list(lived.state, lived.height)
    reads.metagraph(lived.state, 1, lived.height)
    reads.supply(lived.state)
    reads.account(lived.state, lived.key("miner 2"))
    reads.stakes(lived.state, lived.key("miner 2"))
    assert lived.state.mark() == before
    assert neurons.scores(lived.state, 9) == neurons.Scores() and stake.unbonding_rao(lived.state, bytes(32)) == 0
