"""The overlay: own writes are seen, iteration merges, undo is exact."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.state import State


class Below:
    def __init__(self, rows):
        self.rows = rows

    def get(self, key):
        return self.rows.get(key)

    def items(self, prefix, after=b""):
        return iter(sorted((k, v) for k, v in self.rows.items() if k.startswith(prefix) and k > after))


KEYS = st.sampled_from([bytes([a, b]) for a in range(2) for b in range(4)])
VALUES = st.one_of(st.none(), st.binary(max_size=2))
WRITES = st.lists(st.tuples(KEYS, VALUES), max_size=12)


# rule: BLK-10
@given(st.dictionaries(KEYS, st.binary(max_size=2)), WRITES, WRITES)
def test_overlay_behaves_like_a_copied_dictionary(below, kept, undone):
    state, model = State(Below(below)), dict(below)
    for key, value in kept:
        state.put(key, value)
        model.pop(key, None) if value is None else model.__setitem__(key, value)
    mark = state.mark()
    for key, value in undone:
        state.put(key, value)
    state.revert(mark)
    assert dict(state.items(b"")) == model
    assert list(state.items(b"\1")) == sorted((k, v) for k, v in model.items() if k[:1] == b"\1")
    assert [key for key, _ in state.items(b"", after=b"\0\2")] == sorted(key for key in model if key > b"\0\2")
    assert all(state.get(key) == model.get(key) for key in [k for k, _ in kept + undone])
    changed = {key: model.get(key) for key in set(below) | set(model) if below.get(key) != model.get(key)}
    assert state.changes() == changed


def test_writes_during_iteration_are_not_seen():
    state = State(Below({b"a": b"1", b"b": b"2"}))
    seen = []
    for key, _ in state.items(b""):
        state.put(b"c", b"3")
        seen.append(key)
    assert seen == [b"a", b"b"]
    assert state.get(b"c") == b"3" and state.before(b"c") is None
