"""Past states: versions of an archive against states kept in memory, change of mode, pruning, kills in the middle."""

import random

import pytest

from ledger import history, layout
from ledger.errors import DiskFailure, InvariantBroken, Pruned
from ledger.layout import ReverseDiff
from ledger.store import LevelStore, MemoryStore
from ledger.views import MemoryView

KEYS = [
    b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0\1", b"a\0\xff", b"a" + bytes(8), b"a" + bytes(7) + b"\5", b"ab", b"b", b"b\xff",
]


def archive(rnd, blocks, store):
    """A store with versions of random changes, and the states after each block."""
    state, states = {}, [{}]
    store.write({layout.ARCHIVE_KEY: history.archive_mark(0)}, sync=True)
    for height in range(1, blocks + 1):
        chosen = rnd.sample(KEYS, rnd.randint(1, 4))
        before = ReverseDiff({key: layout.state_row(state[key]) if key in state else None for key in chosen}, {})
        rows = history.kept_rows(before, height, None, 1)
        for key in chosen:
            value = rnd.choice((None, b"", b"%d" % height))
            rows[layout.STATE + key] = None if value is None else layout.state_row(value, height.to_bytes(10, "big"))
            state[key] = value
            if value is None:
                del state[key]
        store.write(rows, sync=False)
        states.append(dict(state))
    return states


@pytest.mark.parametrize("seed", range(4))
def test_an_archive_gives_every_state(seed, tmp_path):
    rnd = random.Random(seed)
    store = LevelStore.create(tmp_path / "db") if seed == 0 else MemoryStore()
    states = archive(rnd, 80, store)
    for height in rnd.sample(range(80), 25):
        view, model = history.ArchiveView(store, height), MemoryView(states[height])
        assert {key: view.get(key) for key in [*KEYS, b"never"]} == {key: model.get(key) for key in [*KEYS, b"never"]}
        for prefix in (b"", b"a", b"a\0", b"b", b"\0", b"z"):
            assert list(view.items(prefix)) == list(model.items(prefix))
            for after in (prefix + b"\0", prefix + b"a"):
                assert list(view.items(prefix, after)) == list(model.items(prefix, after))
    store.close()


def put(ledger, value, key=b"k"):
    return ledger.extrinsic(0, call=2, args=[key, value])


def grown(ledger, blocks):
    for height in range(ledger.chain.head.height + 1, ledger.chain.head.height + blocks + 1):
        ledger.grow(extrinsics=[put(ledger, b"%d" % height)])


def readable(chain):
    found = []
    for height in range(chain.head.height + 1):
        try:
            value = chain.view(height).get(b"vk")
        except Pruned:
            continue
        assert value == (b"%d" % height if height else None)
        found.append(height)
    return found


def test_an_archive_reads_all_heights_and_full_the_newest(new_ledger):
    ledger = new_ledger().create(retain_blocks=None)
    grown(ledger, 12)
    assert readable(ledger.chain) == list(range(13))
    assert ledger.chain.first_readable_height() == 0
    assert ledger.chain.state_diff(3)[-1] == (b"vk", b"2", b"3")
    assert ledger.chain.prove(b"vk", 2).value == b"2"
    ledger.chain.rewind(4)
    assert not [key for key, _ in ledger.store.items(layout.VERSION) if int.from_bytes(key[-8:], "big") > 4]
    grown(ledger, 6)
    assert readable(ledger.chain) == list(range(11))


def test_from_archive_to_full_prunes_as_blocks_come(new_ledger, monkeypatch):
    monkeypatch.setattr(history.Pruner.rows, "__defaults__", (7,))
    ledger = new_ledger().create(retain_blocks=None)
    grown(ledger, 20)
    chain = ledger.open(retain_blocks=5)
    assert chain.first_readable_height() == 0  # the diffs are still there
    grown(ledger, 3)
    ledger.open(retain_blocks=5)  # a restart in the middle
    grown(ledger, 25)
    assert not list(ledger.store.items(layout.VERSION))
    assert readable(ledger.chain) == list(range(43, 49))
    assert ledger.chain.first_readable_height() == 43


def test_from_full_to_archive_keeps_what_is_left_and_names_the_rest(new_ledger):
    ledger = new_ledger().create(retain_blocks=5)
    grown(ledger, 12)
    chain = ledger.open(retain_blocks=None)
    assert chain.first_readable_height() == 7
    grown(ledger, 12)
    assert readable(ledger.chain) == list(range(7, 25))
    with pytest.raises(Pruned) as caught:
        ledger.chain.view(6)
    assert caught.value.cause == "the state of block 6 is not kept here: states are kept from block 7 on"
    assert ledger.open(retain_blocks=None).first_readable_height() == 7


def test_a_kill_while_an_archive_begins_leaves_a_full_node(new_ledger):
    class Dying(MemoryStore):
        left = 1 << 30

        def write(self, batch, *, sync):
            self.left -= 1
            if self.left < 0:
                raise DiskFailure("killed")
            super().write(batch, sync=sync)

    ledger = new_ledger(Dying()).create()
    grown(ledger, 10)
    for left in range(11):
        ledger.store.left = left
        with pytest.raises(DiskFailure):
            ledger.open(retain_blocks=None)
        ledger.store.left = 1 << 30
        assert readable(ledger.open()) == list(range(11))
    ledger.open(retain_blocks=None)
    assert history.archive_from(ledger.store) == 0
    assert readable(ledger.chain) == list(range(11))


def test_remembered_pasts_follow_the_head(ledger):
    grown(ledger, 4)
    assert ledger.chain.view(2).get(b"vk") == b"2"
    grown(ledger, 4)
    assert (ledger.chain.view(2).get(b"vk"), ledger.chain.view(5).get(b"vk")) == (b"2", b"5")
    assert dict(ledger.chain.view(2).items(b"vk")) == {b"vk": b"2"}
    ledger.chain.rewind(1)
    ledger.grow(extrinsics=[put(ledger, b"other")])
    grown(ledger, 2)
    assert ledger.chain.view(2).get(b"vk") == b"other"


def test_several_blocks_are_written_in_one_batch(new_ledger):
    ledger, alone = new_ledger().create(), new_ledger().create()
    grown(ledger, 2)
    grown(alone, 2)
    batches = []
    for height in range(3, 6):
        executed = ledger.build([put(ledger, b"%d" % height)])
        certificate = ledger.certificate(executed.block)
        batches.append(ledger.chain.prepare_commit(executed, certificate))
        alone.chain.apply(alone.chain.import_block(executed.block, certificate))
    with pytest.raises(InvariantBroken):
        ledger.chain.apply(*batches[1:])
    with pytest.raises(InvariantBroken):
        ledger.chain.apply(batches[1], batches[0])
    ledger.chain.apply(*batches)
    assert ledger.chain.durable_height == 5
    assert dict(ledger.store.items(b"")) == dict(alone.store.items(b""))
    assert readable(ledger.chain) == list(range(6))
    assert [ledger.chain.prove(b"vk", height).value for height in (3, 4, 5)] == [b"3", b"4", b"5"]
    grown(ledger, 2)
    ledger.open().audit_state()


def test_unknown_pasts_are_named(new_ledger):
    ledger = new_ledger().create(retain_blocks=3)
    grown(ledger, 9)
    with pytest.raises(Pruned, match="from block 6 on") as caught:
        ledger.chain.view(2)
    assert caught.value.data == {"first_kept": 6}
