"""What rules remember of a head's values from block to block is what they would read there."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.crypto import KeyPair, digest
from ledger.layout import STATE, state_row
from ledger.store import MemoryStore
from ledger.views import LayeredRows, RowCache
from runtime import tables
from runtime.modules.accounts import ACCOUNT

CODE, JSON = "neuron code", "neuron json"
STRANGERS = [KeyPair.from_seed(digest("seed", bytes((index,)))).public for index in range(2)]
TRANSFER = st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from([None, 0, 400, 10**6, 10**9]), st.booleans())


class Head:
    """The devnet's state as a chain has it: stored rows and a cache over them."""

    def __init__(self, devnet):
        self.store, self.cache = MemoryStore(), RowCache()
        self.store.write({STATE + key: state_row(value) for key, value in devnet.rows.items()}, sync=False)
        self.cache.fill(self.rows, devnet.runtime.remembered)

    @property
    def rows(self):
        return LayeredRows((), self.store.snapshot())

    def advance(self, result):
        rows = {key: None if value is None else state_row(value) for key, value in result.changes.items()}
        before = self.rows
        self.store.write({STATE + key: row for key, row in rows.items()}, sync=False)
        self.cache.advance(self.cache.over(before), rows, result.objects)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(TRANSFER, max_size=4), min_size=1, max_size=4))
def test_a_block_on_what_is_remembered_is_that_on_the_state(devnet, blocks):
    devnet.rows, devnet.height = dict(devnet.genesis.state), 0
    devnet.hashes = {0: devnet.genesis.genesis_hash}
    head = Head(devnet)
    signers = devnet.cold(CODE), devnet.cold(JSON)
    people = [*(key.public for key in signers), *STRANGERS]
    for transfers in blocks:
        extrinsics, nonces = [], {key.public: devnet.nonce(key.public) for key in signers}
        for first, to, amount, keep_alive in transfers:
            key = signers[first]
            extrinsics.append(devnet.sign(key, "accounts.transfer", people[to], amount, keep_alive, nonce=nonces[key.public]))
            nonces[key.public] += 1
        left_out, context = {}, devnet.block_context()
        found = devnet.runtime.apply_block(head.cache.over(head.rows), context, [], extrinsics, left_out)
        assert found == devnet.runtime.apply_block(devnet.view, context, [], extrinsics, {})
        head.advance(found)
        devnet.block(*(each for index, each in enumerate(extrinsics) if index not in left_out))
        known = {key: each.value for key, each in head.cache.kept.items() if each.codec is ACCOUNT}
        for key, row in known.items():
            assert ACCOUNT.encode(row) == devnet.rows[key]
    assert set(known) == {key for key in devnet.rows if key[:2] == ACCOUNT.prefix}


def test_a_damaged_value_is_left_to_whoever_reads_it():
    good = ACCOUNT.key(STRANGERS[0]), b"\x83\x01\x02\x03"
    bad = [(ACCOUNT.key(STRANGERS[1]), data) for data in (b"", b"\x83\x01", b"\x05")]
    assert tables.remembered([good, *bad, (b"\0\2", b"\x05")]) == {ACCOUNT: {good[0]: ACCOUNT.decode(good[1])}}
