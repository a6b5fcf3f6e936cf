"""Any arguments that fit a call's schema, from anybody: refused by name or done, never an exception of another kind."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runtime.executor  # noqa: F401 - declares all calls
from ledger.codec import Bytes, Int, ListOf, Optional, Record, Text
from ledger.errors import DecodeError, Rejected
from runtime.registry import CALLS

MARKET = {number: entry for number, entry in CALLS.items() if 20 <= number < 80 or 122 <= number < 126}


def values_of(shape, keys):
    """Values of a shape, mostly such that rules get to see them."""
    if isinstance(shape, Optional):
        return st.one_of(st.none(), values_of(shape.item, keys))
    if isinstance(shape, Text):
        return st.text(max_size=8)
    if isinstance(shape, Int):
        edges = st.sampled_from([shape.low, shape.high, min(shape.high, 1), min(shape.high, 2)])
        return st.one_of(st.integers(0, 7), edges, st.integers(shape.low, shape.high))
    if isinstance(shape, ListOf):
        return st.lists(values_of(shape.item, keys), min_size=shape.low, max_size=min(shape.high, 3))
    if isinstance(shape, Record):
        return st.tuples(*(values_of(field, keys) for field in shape.fields.values())).map(list)
    assert isinstance(shape, Bytes)
    if shape.low == shape.high == 32:
        return st.one_of(st.sampled_from(keys), st.just(bytes(32)), st.binary(min_size=32, max_size=32))
    few = st.lists(st.integers(0, 6), max_size=4).map(lambda numbers: b"".join(n.to_bytes(2, "little") for n in numbers))
    return st.one_of(few, st.binary(max_size=12))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_calls_refuse_by_name(make_market, data):
    world = make_market()
    world.next_block(2)
    keys = [world.key(name) for name in ("validator 0", "validator 0 hot", "miner 0", "miner 0 hot", "owner", "nobody")]
    for _ in range(12):
        entry = CALLS[data.draw(st.sampled_from(sorted(MARKET)), label="call")]
        args = [data.draw(values_of(shape, keys), label=name) for name, shape in entry.schema.fields.items()]
        signer = data.draw(st.sampled_from(keys), label="signer")
        try:
            entry.schema.check(list(args))
        except DecodeError:
            continue
        if entry.free is not None:
            world.is_free(entry.name, signer, *args)
        if entry.precheck is not None:
            world.precheck(entry.name, signer, *args)
        try:
            world.call(entry.name, signer, *args)
        except Rejected as refusal:
            assert refusal.error_name and refusal.cause
    world.next_block(12)


def test_every_call_of_the_market_is_known():
    assert sorted(entry.name for entry in MARKET.values()) == [
        "children.set", "children.set_take", "hotkeys.associate", "keyring.announce_coldkey_swap",
        "keyring.clear_coldkey_swap", "keyring.swap_coldkey", "keyring.swap_hotkey", "neurons.register",
        "neurons.root_register", "neurons.unregister", "stake.add", "stake.decrease_take", "stake.increase_take",
        "stake.move", "stake.remove", "stake.transfer", "stake.withdraw_unbonded", "subnets.challenge", "subnets.dissolve",
        "subnets.keep", "subnets.register_network", "subnets.set_owner_hotkey", "subnets.start_call",
        "subnets.transfer_ownership", "weights.commit", "weights.commit_timelocked", "weights.reveal", "weights.set",
        "weights.set_root",
    ]


def test_unknown_subnets_are_refused_by_every_call_that_names_one(market):
    market.next_block()
    hot, cold = market.key("validator 0 hot"), market.key("validator 0")
    two, none = b"\2\0", b""
    for name, signer, args in (
        ("neurons.register", cold, (77, hot, 5)), ("neurons.unregister", cold, (77, hot)),
        ("stake.add", cold, (hot, 77, 10**9)), ("stake.remove", cold, (hot, 77, None)),
        ("stake.move", cold, (hot, hot, 1, 77, None)), ("stake.move", cold, (hot, hot, 77, 1, None)),
        ("stake.transfer", cold, (hot, hot, 1, 77, None)), ("stake.transfer", cold, (hot, hot, 77, 1, None)),
        ("subnets.keep", cold, (77,)), ("weights.set", hot, (77, two, two, 0)),
        ("weights.commit", hot, (77, bytes(32))), ("weights.commit_timelocked", hot, (77, 0, bytes(32), none, none)),
        ("weights.reveal", hot, (77, none, none, bytes(32), 0)),
        ("subnets.start_call", cold, (77,)), ("subnets.set_owner_hotkey", cold, (77, hot)),
        ("subnets.transfer_ownership", cold, (77, cold, hot)), ("children.set", cold, (hot, 77, [])),
        ("children.set_take", cold, (hot, 77, 5)), ("subnets.dissolve", cold, (77,)),
    ):
        assert market.refused(name, signer, *args) == "SubnetNotExists", name
    assert market.precheck("weights.reveal", hot, 77, none, none, bytes(32), 0) == "SubnetNotExists"
