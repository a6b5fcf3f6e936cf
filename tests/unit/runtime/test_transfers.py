"""Runs of plain transfers leave to the byte what the ordinary way leaves, whatever stands between them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.blocks import Extrinsic
from ledger.crypto import KeyPair, digest
from ledger.errors import Rejected
from runtime import dispatch, invariants, params, transfers
from runtime.modules import accounts, coldkeys, fees
from runtime.modules.accounts import ACCOUNT, ISSUANCE, U64_MAX, Account

DEPOSIT = params.PARAMS["existential_deposit"].default
KEYS = [KeyPair.from_seed(digest("seed", bytes((index,)))).public for index in range(7)]
STRANGER, NO_KEY = KEYS[-1], bytes(32)


def known(devnet, *rows):
    """The devnet's state with these accounts beside its own."""
    for key, row in zip(KEYS, rows):
        devnet.rows[ACCOUNT.key(key)] = ACCOUNT.encode(row)
    total = accounts.issuance(devnet.view) + sum(row.total_rao for row in rows)
    devnet.rows[ISSUANCE.key()] = ISSUANCE.encode(total)
    return devnet


def fee(devnet):
    """Of a transfer with small numbers, about."""
    return fees.prices(devnet.view).fee_rao(150, transfers.WORK)


def both_ways(devnet, extrinsics, left_out):
    """What a block comes to with runs and without them."""
    found = []
    for take in (transfers.Runs.take, lambda self, start: start):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfers.Runs, "take", take)
            patch.setattr(invariants, "audit", lambda state: [])  # of the whole state: it would take most of the time
            out = {} if left_out else None
            try:
                result = devnet.runtime.apply_block(devnet.view, devnet.block_context(), [], extrinsics, out)
                found.append((list(result.changes.items()), result.events, result.outcomes, result.weight, out))
            except Rejected as error:
                found.append((error.error_name, error.cause, error.data, out))
    return found


AMOUNTS = st.one_of(st.integers(0, 2 * DEPOSIT), st.sampled_from([None, 0, U64_MAX // 2]))
ONE = st.tuples(
    st.sampled_from([0, 1, 2, 3, 4, 5, 2, 4, 4]), st.sampled_from([*KEYS, NO_KEY]), AMOUNTS, st.booleans(),
    st.sampled_from([0, 0, 0, 0, 300]), st.sampled_from([0] * 8 + [1, -1]),
    st.sampled_from(["transfer"] * 12 + ["faucet", "old", "arguments"]),
)


# rule: BLK-1, ACC-3
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(ONE, max_size=14), left_out=st.booleans(), announced=st.booleans())
def test_a_run_leaves_what_the_ordinary_way_leaves(devnet, calls, left_out, announced):
    once = fee(devnet)
    devnet.rows = dict(devnet.genesis.state)
    known(
        devnet, Account(10**10, 0, 3), Account(10**10, 7, 300), Account(once + 2 * DEPOSIT, 0, 2), Account(2 * once, 0, 0),
        Account(2 * once + 3 * DEPOSIT, 0, 2**32), Account(U64_MAX // 2 + 10**6, 0, 1),
    )
    if announced:
        devnet.rows[coldkeys.ANNOUNCED.key(KEYS[0])] = coldkeys.ANNOUNCED.encode(coldkeys.Announcement(bytes(32), 0))
        devnet.rows[coldkeys.ANNOUNCED_COUNT.key()] = coldkeys.ANNOUNCED_COUNT.encode(1)
    nonces = {key: accounts.account(devnet.view, key).nonce for key in KEYS}
    extrinsics = []
    for signer, to, amount, keep_alive, tip, off, kind in [(0, STRANGER, DEPOSIT, True, 0, 0, "transfer"), *calls]:
        key = KEYS[signer]
        args = {"faucet": [DEPOSIT], "arguments": [to, amount]}.get(kind, [to, amount, keep_alive])
        number = dispatch.call_number("accounts.faucet" if kind == "faucet" else "accounts.transfer")
        birth, period = (0, 64) if kind != "old" else (5, 8)
        extrinsics.append(Extrinsic(b"", key, max(0, nonces[key] + off), birth, period, tip, number, args))
        nonces[key] += 1
    with_runs, without = both_ways(devnet, extrinsics, left_out)
    assert with_runs == without


def test_plain_transfers_are_taken_as_a_run_and_the_weight_ends_it(devnet):
    known(devnet, Account(10**10, 0, 5), Account(10**10, 0, 9))
    number = dispatch.call_number("accounts.transfer")
    extrinsics = [Extrinsic(b"", KEYS[0], 5 + index, 0, 64, 0, number, [STRANGER, 1000, True]) for index in range(4)]
    context = devnet.runtime._context(devnet.view, devnet.block_context())
    context.lives[0, 64] = None
    tally = transfers.Tally(limit=2 * transfers.WORK + 1)
    runs = transfers.Runs(context, extrinsics, fees.prices(context.state), tally)
    assert runs.take(0) == 2 and runs.take(2) == 2, "a third one is too heavy"
    assert accounts.account(context.state, STRANGER) == Account(2000, 0, 0)
    assert accounts.account(context.state, KEYS[0]).nonce == 7
    assert [each.first_event for each in tally.outcomes] == [0, 1] and tally.weight == 2 * transfers.WORK
    assert tally.fees_rao == sum(each.fee_rao for each in tally.outcomes)
