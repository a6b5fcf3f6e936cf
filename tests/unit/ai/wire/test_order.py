"""In which order a neuron decides and works: checks before hooks, hooks in their order, work by class and deadline.

And the attacks on what is ordered: fields of all frames dropped, added or of another type, and fields swapped.
"""

import asyncio
import threading

import numpy as np
import pytest

from ai.models.model import Card
from ai.serve.client import NeuronClient
from ai.serve.frames import FRAME_MAX_BYTES, Ask, Cancel, Finish, OpenBody, encode_frame
from ai.serve.hooks import FixedStandings, Hooks, RateLimiter, Standing, by_standing
from ai.serve.refusals import Refused
from ledger import codec
from ledger.crypto import KeyPair

CALLER_KEY, STRANGER_KEY = KeyPair.from_seed(b"c" * 32), KeyPair.from_seed(b"s" * 32)
GENESIS = b"g" * 32


class Noted(RateLimiter):
    """Says when it is asked, and whom it lets wait."""

    def __init__(self, calls, wait_ms=0):
        super().__init__()
        self.calls, self.wait_ms = calls, wait_ms

    def retry_after_ms(self, caller, standing, now_ms):
        self.calls.append("rate")
        return self.wait_ms


@pytest.mark.parametrize(
    ("reason", "wait_ms", "changes", "error", "expected"),
    [
        ("", 0, {}, None, ["blacklist", "priority", "rate"]),
        ("no", 9, {}, "blacklisted", ["blacklist"]),
        ("", 700, {}, "rate_limited", ["blacklist", "priority", "rate"]),
        ("no", 9, {"key": STRANGER_KEY}, "bad_signature", []),  # signed by another than the named caller
        ("no", 9, {"netuid": 9}, "unknown_method", []),
    ],
    ids=["served", "blacklisted", "rate limited", "unverified", "not served here"],
)
async def test_hooks_run_in_order_and_only_after_the_checks(markets, reason, wait_ms, changes, error, expected):
    calls = []

    def blacklist(opened, standing):
        calls.append("blacklist")
        return reason

    def priority(opened, standing):
        calls.append("priority")
        return by_standing(opened, standing)

    async with markets(hooks=Hooks(blacklist, priority, Noted(calls, wait_ms))) as market:
        raw = await market.dial()
        raw.send(market.open_frame(**changes))
        frame = await raw.receive()
        assert calls == expected
        if error is not None:
            assert Refused(error).code == frame.code and frame.retry_after_ms == (wait_ms if error == "rate_limited" else 0)


class Gated:
    """Stands still at its first batch until it is let go; notes the windows in the order in which they are computed."""

    def __init__(self):
        self.go, self.order = threading.Event(), []

    def card(self):
        return Card("gated", bytes(32), context_bytes=32)

    def next_bytes(self, windows):
        self.order += [window[:1] for window in windows]
        assert self.go.wait(5)
        return np.ones((len(windows), 256))

    def write(self, prompt, sampling):
        return iter(())


async def test_the_queue_orders_the_work_itself(markets):
    model = Gated()
    standings = FixedStandings(Standing(), {CALLER_KEY.public: Standing(True, True, 1.0)})
    async with markets(model=model, standings=standings) as market:
        stranger = NeuronClient(STRANGER_KEY, GENESIS, allow_private=True, allow_clear=True)

        def ask(client, letter, timeout_ms=4_000):
            return asyncio.create_task(client.distribution(market.neuron, [letter] * 16, netuid=1, timeout_ms=timeout_ms))

        async def waiting(count):
            async with asyncio.timeout(3):
                while len(market.server.queue) != count:
                    await asyncio.sleep(0.005)

        tasks = [ask(stranger, b"0")]  # a batch by itself, at which the model stands still
        async with asyncio.timeout(3):
            while not model.order:
                await asyncio.sleep(0.005)
        for at, (client, letter, timeout_ms) in enumerate(
            ((stranger, b"y", 4_000), (stranger, b"x", 3_000), (market.client, b"b", 4_000), (market.client, b"a", 3_000)), 1
        ):
            tasks.append(ask(client, letter, timeout_ms))
            await waiting(at)
        model.go.set()
        await asyncio.gather(*tasks)
        await stranger.close()
    assert b"".join(model.order[::16]) == b"0abxy"  # the permit first, in a class the nearest deadline


# --- frames with a field dropped, added or of another type, after a session has begun

FRAMES = {
    "OPEN": None, "ASK": Ask(1, 1, b"\x81@"), "FINISH": Finish(1, 0, bytes(32), bytes(64)), "CANCEL": Cancel(1),
}
CHANGES = [
    (kind, at, how) for kind, fields in (("OPEN", 5), ("ASK", 4), ("FINISH", 5), ("CANCEL", 2))
    for at in range(fields) for how in ("dropped", "another type")
] + [(kind, 9, "added") for kind in FRAMES]


@pytest.mark.parametrize(("kind", "at", "how"), CHANGES)
async def test_frames_have_exactly_their_fields(market, kind, at, how):
    raw = await market.dial()
    if kind != "OPEN":
        raw.send(market.open_frame(max_asks=3))
        await raw.receive()
    value = codec.decode(encode_frame(FRAMES[kind] or market.open_frame())[4:], max_bytes=FRAME_MAX_BYTES)
    if how == "dropped":
        del value[at]
    elif how == "added":
        value.append(0)
    else:
        value[at] = None
    data = codec.encode(value)
    raw.send(len(data).to_bytes(4, "big") + data)
    assert await raw.refusal() == (0, "malformed") and await raw.ended()
    raw.close()


SWAPS = {
    ("caller", "callee"): "wrong_callee", ("issued_at_ms", "deadline_ms"): "expired", ("hops", "budget"): "bad_signature",
    ("netuid", "max_asks"): "bad_signature", ("caller", "body_hash"): "bad_signature", ("callee", "body_hash"): "wrong_callee",
}


@pytest.mark.parametrize("pair", SWAPS, ids=" and ".join)
async def test_two_fields_swapped_on_the_way(market, pair):
    frame = market.open_frame(hops=0, budget=1, max_asks=2)
    names = list(OpenBody.__dataclass_fields__)
    one, other = (names.index(name) for name in pair)
    value = codec.decode(frame.open_body)
    value[one], value[other] = value[other], value[one]
    raw = await market.dial()
    raw.send(type(frame)(frame.sid, codec.encode(value), frame.signature, frame.body))
    assert await raw.refusal() == (1, SWAPS[pair])
    assert not market.server.sessions
    raw.close()
