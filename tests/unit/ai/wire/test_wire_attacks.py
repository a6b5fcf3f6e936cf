"""Attacks on the wire: whatever is dropped, changed, swapped, replayed, ahead, late, downgraded, misdirected, oversized or
slow is refused by its own name, costs the attacker its connection where it should, and harms nobody else."""

import asyncio
import os
import time
from dataclasses import replace
from random import Random

import pytest

from ai.serve import connection as connection_module
from ai.serve import frames
from ai.serve import server as server_module
from ai.serve.clock import wall_ms
from ai.serve.frames import Answer, Ask, Cancel, Close, Finish, Greet, Open, OpenBody, payload_hash
from ai.serve.methods import encode_appended, encode_prefixes
from ai.serve.refusals import CODES, ENDS_CONNECTION
from ai.serve.replay import ReplayGuard
from ledger import codec
from ledger.crypto import KeyPair

CALLER, STRANGER = KeyPair.from_seed(b"c" * 32), KeyPair.from_seed(b"s" * 32)
GENESIS = b"g" * 32
FIELDS = list(OpenBody.__dataclass_fields__)


async def refused(market, name, *items, sid=1):
    """Sends on a fresh connection; checks the refusal, and that the connection ends exactly where it must."""
    raw = await market.dial()
    raw.send(*items)
    assert await raw.refusal() == (sid, name)
    if CODES[name] in ENDS_CONNECTION:
        assert await raw.ended()
    else:
        await served(raw, market, sid=1_000)
    raw.close()


async def served(raw, market, sid, **changes):
    """One good session on that connection."""
    raw.send(market.open_frame(sid=sid, **changes))
    assert isinstance(await raw.receive(), Answer)
    assert isinstance(await raw.receive(), Close)


def signed(value, body, sid=1, key=CALLER):
    encoded = codec.encode(value)
    return Open(sid, encoded, key.sign("open", GENESIS, encoded), body)


# --- every field of an OPEN


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_dropped_and_signed(market, field):
    body = encode_prefixes([b"abc"])
    value = codec.decode(market.open_body(body).encode())
    del value[FIELDS.index(field)]
    await refused(market, "malformed", signed(value, body))


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_of_another_type_and_signed(market, field):
    body = encode_prefixes([b"abc"])
    value = codec.decode(market.open_body(body).encode())
    value[FIELDS.index(field)] = None
    await refused(market, "malformed", signed(value, body))


async def test_a_field_too_many_and_signed(market):
    body = encode_prefixes([b"abc"])
    await refused(market, "malformed", signed([*codec.decode(market.open_body(body).encode()), 0], body))


CHANGED_UNSIGNED = {
    "version": (2, "bad_version"),
    "newest": (9, "bad_signature"),
    "netuid": (2, "bad_signature"),
    "caller": (STRANGER.public, "bad_signature"),
    "callee": (STRANGER.public, "wrong_callee"),
    "method": ("text", "bad_signature"),
    "nonce": (b"x" * 16, "bad_signature"),
    "issued_at_ms": (1, "bad_signature"),  # one more
    "deadline_ms": (1, "bad_signature"),
    "max_asks": (5, "bad_signature"),
    "hops": (1, "bad_signature"),
    "budget": (3, "bad_signature"),
    "trace": (((STRANGER.public, b"o" * 32),), "bad_signature"),
    "body_hash": (b"x" * 32, "bad_signature"),
}


@pytest.mark.parametrize("field", FIELDS)
async def test_a_field_changed_on_the_way(market, field):
    change, error = CHANGED_UNSIGNED[field]
    opened, frame = market.open_body(encode_prefixes([b"abc"])), market.open_frame()
    opened = OpenBody.decode(frame.open_body)
    if field.endswith("_ms"):
        change += getattr(opened, field)
    value = codec.decode(frame.open_body)
    value[FIELDS.index(field)] = [list(hop) for hop in change] if field == "trace" else change
    await refused(market, error, replace(frame, open_body=codec.encode(value)))


async def test_the_body_changed_or_swapped_on_the_way(market):
    await refused(market, "bad_signature", replace(market.open_frame(), body=encode_prefixes([b"abd"])))
    other = market.open_frame(encode_prefixes([b"other"]))
    await refused(market, "bad_signature", replace(market.open_frame(), body=other.body))


@pytest.mark.parametrize("kind", ["empty", "short", "flipped", "another's", "another tag", "another chain", "another OPEN's"])
async def test_signatures_that_do_not_fit(market, kind):
    frame = market.open_frame()
    signature = {
        "empty": b"",
        "short": frame.signature[:-1],
        "flipped": bytes([frame.signature[0] ^ 1]) + frame.signature[1:],
        "another's": STRANGER.sign("open", GENESIS, frame.open_body),
        "another tag": CALLER.sign("finish", GENESIS, frame.open_body),
        "another chain": CALLER.sign("open", b"x" * 32, frame.open_body),
        "another OPEN's": market.open_frame().signature,
    }[kind]
    await refused(market, "bad_signature", replace(frame, signature=signature))


# --- time, order, place


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        ("stale", {"issued_at_ms": -31_000, "deadline_ms": 5_000}),
        ("not_yet", {"issued_at_ms": 31_000, "deadline_ms": 40_000}),
        ("expired", {"issued_at_ms": -2_000, "deadline_ms": -1}),
        ("expired", {"issued_at_ms": 0, "deadline_ms": 60_100}),
    ],
    ids=["stale", "future", "deadline passed", "deadline too far"],
)
async def test_times_out_of_bounds_and_signed(market, error, changes):
    now = wall_ms()
    await refused(market, error, market.open_frame(**{name: now + offset for name, offset in changes.items()}))


async def test_another_callee(market):
    await refused(market, "wrong_callee", market.open_frame(callee=STRANGER.public))


async def test_a_downgrade(markets):
    async with markets(versions=(1, 2)) as market:
        raw = await market.dial()
        assert raw.greet.versions == (1, 2)
        raw.send(market.open_frame(newest=2))
        assert await raw.refusal() == (1, "downgraded")
        await served(raw, market, sid=2)  # a caller that speaks nothing newer


@pytest.mark.parametrize("version", [0, 2, 65_535])
async def test_versions_not_spoken(market, version):
    await refused(market, "bad_version", market.open_frame(version=version))


async def test_paths(market):
    neuron, other = market.neuron.hotkey, STRANGER.public
    await refused(market, "loop", market.open_frame(trace=((other, b"o" * 32), (neuron, b"o" * 32))))
    await refused(market, "over_budget", market.open_frame(hops=2))
    await refused(market, "over_budget", market.open_frame(budget=13))
    await refused(market, "over_budget", market.open_frame(max_asks=1_025))
    await refused(market, "unknown_method", market.open_frame(netuid=9))
    await refused(market, "unknown_method", market.open_frame(method="oracle"))


# --- replays


async def test_a_replay_on_the_same_and_on_another_connection(market):
    raw, frame = await market.dial(), market.open_frame()
    raw.send(frame)
    assert isinstance(await raw.receive(), Answer) and isinstance(await raw.receive(), Close)
    raw.send(replace(frame, sid=2))
    assert await raw.refusal() == (2, "replayed")
    await refused(market, "replayed", frame)


async def test_a_replay_after_a_restart(markets, tmp_path):
    async with markets() as market:
        raw, frame = await market.dial(), market.open_frame()
        raw.send(frame)
        assert isinstance(await raw.receive(), Answer)
    async with markets(seen=ReplayGuard(tmp_path / "replay.db", wall_ms())) as market:
        await refused(market, "replayed", frame)


async def test_a_replay_after_a_reboot(markets, tmp_path):
    async with markets() as market:
        raw, frame = await market.dial(), market.open_frame()
        raw.send(frame)
        assert isinstance(await raw.receive(), Answer)
    await asyncio.sleep(0.005)
    async with markets(seen=ReplayGuard(tmp_path / "replay.db", wall_ms(), os.urandom(16))) as market:
        await refused(market, "stale", frame)


async def test_a_nonce_is_not_used_up_by_what_was_refused(market):
    frame = market.open_frame()
    await refused(market, "bad_signature", replace(frame, signature=bytes(64)))
    await refused(market, "bad_signature", replace(frame, body=b"other"))
    raw = await market.dial()
    raw.send(frame)
    assert isinstance(await raw.receive(), Answer)


async def test_a_full_table_of_nonces_is_busy(market, monkeypatch):
    monkeypatch.setattr("ai.serve.replay.MAX_SEEN_PER_CALLER", 2)
    raw = await market.dial()
    for sid in (1, 2):
        await served(raw, market, sid=sid)
    raw.send(market.open_frame(sid=3))
    assert await raw.refusal() == (3, "busy")


# --- sizes


async def test_sizes(market):
    await refused(market, "too_large", (frames.FRAME_MAX_BYTES + 1).to_bytes(4, "big"), sid=0)
    await refused(market, "too_large", b"\xff\xff\xff\xff" + bytes(100), sid=0)
    await refused(market, "too_large", market.open_frame(bytes(frames.BODY_MAX_BYTES + 1)))


async def test_an_oversized_ask(market):
    raw = await market.dial()
    raw.send(market.open_frame(max_asks=5))
    await raw.receive()
    raw.send(Ask(1, 1, bytes(frames.BODY_MAX_BYTES + 1)))
    assert await raw.refusal() == (1, "too_large") and await raw.ended()
    assert not market.server.sessions


@pytest.mark.parametrize(
    "junk", [b"\0\0\0\0", b"\0\0\0\1\xff", b"\0\0\0\5hello", b"GET / HTTP/1.1\r\n\r\n", Random(1).randbytes(64)]
)
async def test_junk_ends_the_connection(market, junk):
    raw = await market.dial()
    raw.send(junk)
    sid, name = await raw.refusal()
    assert sid == 0 and name in ("malformed", "too_large") and await raw.ended()


# --- bodies of the methods


@pytest.mark.parametrize(
    "body",
    [b"", b"x", codec.encode([]), codec.encode([[]]), codec.encode([[1]]), codec.encode([[b"x"], 1]),
     codec.encode([[b"x"] * 65]), codec.encode([b"x"])],
)
async def test_malformed_distribution_bodies(market, body):
    await refused(market, "malformed", market.open_frame(body))


TEXT = [[["user", b"hi"]], 5, 1000, 1000, 0, []]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, []), (0, [["user"]]), (0, [["u" * 17, b""]]), (1, 0), (1, 513), (2, -1), (2, 5_001), (3, 0), (3, 1_001),
     (4, 1 << 32), (4, b""), (5, [b""]), (5, [b"x" * 65]), (5, [b"x"] * 5)],
)
async def test_malformed_text_bodies(market, place, value):
    body = codec.encode([*TEXT[:place], value, *TEXT[place + 1 :]])
    await refused(market, "malformed", market.open_frame(body, method="text"))


async def test_a_card_takes_no_body(market):
    await refused(market, "malformed", market.open_frame(b"x", method="card"))


@pytest.mark.parametrize("payload", [b"", codec.encode([]), codec.encode([b"a", b"b"]), codec.encode([1]), codec.encode(b"a")])
async def test_malformed_asks(market, payload):
    raw = await market.dial()
    raw.send(market.open_frame(max_asks=5))
    assert isinstance(await raw.receive(), Answer)
    raw.send(Ask(1, 1, payload))
    assert await raw.refusal() == (1, "malformed") and await raw.ended()


# --- order


async def lock_step(market, max_asks=5):
    raw, frame = await market.dial(), market.open_frame(max_asks=max_asks)
    raw.send(frame)
    answer = await raw.receive()
    opened = OpenBody.decode(frame.open_body)
    head = frames.step(opened.open_id(GENESIS, frame.open_body), frames.ANSWER, 0, answer.payload)
    return raw, opened.open_id(GENESIS, frame.open_body), head


@pytest.mark.parametrize("frame", [Ask(1, 1, b""), Finish(1, 0, b"h" * 32, b""), Cancel(1), Ask(0, 1, b"")], ids=repr)
async def test_frames_of_no_session(market, frame):
    await refused(market, "out_of_order", frame, sid=frame.sid)


@pytest.mark.parametrize(
    "frame", [Answer(1, 0, b""), Close(1, b"", b"", ()), Greet((1,), GENESIS, GENESIS, GENESIS, 1), frames.Refuse(1, 1, 0, "")],
    ids=lambda frame: type(frame).__name__,
)
async def test_frames_of_the_callee(market, frame):
    await refused(market, "malformed", frame, sid=getattr(frame, "sid", 0))


@pytest.mark.parametrize("sid", [0, 3, 2])
async def test_session_numbers_only_grow(market, sid):
    raw = await market.dial()
    await served(raw, market, sid=3)
    raw.send(market.open_frame(sid=sid))
    assert await raw.refusal() == (sid, "out_of_order") and await raw.ended()


@pytest.mark.parametrize("seq", [0, 2, 7])
async def test_asks_out_of_order(market, seq):
    raw, _, _ = await lock_step(market)
    raw.send(Ask(1, seq, encode_appended([b"x"])))
    assert await raw.refusal() == (1, "out_of_order") and await raw.ended()


async def test_two_asks_at_once(market):
    raw, _, _ = await lock_step(market)
    raw.send(Ask(1, 1, encode_appended([b"x"])), Ask(1, 2, encode_appended([b"y"])))
    assert await raw.refusal() == (1, "out_of_order") and await raw.ended()


async def test_an_ask_before_the_first_answer(market):
    raw = await market.dial()
    raw.send(market.open_frame(encode_prefixes([b"stall"]), max_asks=5), Ask(1, 1, encode_appended([b"x"])))
    assert await raw.refusal() == (1, "out_of_order")


async def test_more_asks_than_announced(market):
    raw, _, _ = await lock_step(market, max_asks=1)
    raw.send(Ask(1, 1, encode_appended([b"x"])))
    assert isinstance(await raw.receive(), Answer)
    raw.send(Ask(1, 2, encode_appended([b"y"])))
    assert await raw.refusal() == (1, "over_budget")
    await served(raw, market, sid=2)


@pytest.mark.parametrize("kind", ["head", "asks", "signature", "nothing signed", "another session's"])
async def test_a_finish_over_something_else(market, kind):
    raw, open_id, head = await lock_step(market)

    def sign(session, asks, over):
        return CALLER.sign("finish", GENESIS, frames.finish_content(session, asks, over))

    finish, error = {
        "head": (Finish(1, 0, b"x" * 32, sign(open_id, 0, b"x" * 32)), "out_of_order"),
        "asks": (Finish(1, 1, head, sign(open_id, 1, head)), "out_of_order"),
        "signature": (Finish(1, 0, head, STRANGER.sign("finish", GENESIS, b"")), "bad_signature"),
        "nothing signed": (Finish(1, 0, head, b""), "bad_signature"),
        "another session's": (Finish(1, 0, head, sign(b"o" * 32, 0, head)), "bad_signature"),
    }[kind]
    raw.send(finish)
    assert await raw.refusal() == (1, error) and await raw.ended()
    assert market.server.receipts.netuids() == []


async def test_a_finish_replayed(market):
    raw, open_id, head = await lock_step(market)
    finish = Finish(1, 0, head, CALLER.sign("finish", GENESIS, frames.finish_content(open_id, 0, head)))
    raw.send(finish)
    assert isinstance(await raw.receive(), Close)
    raw.send(finish)  # of a session that has ended: it may have crossed the closing, so it is ignored
    await served(raw, market, sid=2)


# --- slowness


async def test_a_frame_that_does_not_end(market, monkeypatch):
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.1)
    raw = await market.dial()
    raw.send(b"\0\0")
    assert await raw.refusal() == (0, "too_slow") and await raw.ended()


async def test_a_frame_that_drips(market, monkeypatch):
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.15)
    raw, frame = await market.dial(), frames.encode_frame(market.open_frame())

    async def drip():
        for byte in frame:
            raw.send(bytes([byte]))
            await asyncio.sleep(0.01)

    started, task = time.monotonic(), asyncio.create_task(drip())
    try:
        assert await raw.refusal() == (0, "too_slow") and await raw.ended()
    except ConnectionResetError:  # our own late bytes provoked it, and it overtook the refusal
        pass
    assert time.monotonic() - started < 0.01 * len(frame), "each byte won it more time"
    task.cancel()


async def test_a_session_that_idles(market, monkeypatch):
    monkeypatch.setattr(server_module, "STEP_IDLE_SECONDS", 0.1)
    raw, _, _ = await lock_step(market)
    assert await raw.refusal() == (1, "too_slow") and await raw.ended()


async def test_an_idle_connection_is_closed_without_blame(market, monkeypatch):
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.1)
    raw = await market.dial()
    assert await raw.receive(seconds=3) is None
    assert market.server.counters.refused == {}


async def test_a_caller_that_does_not_read_is_cut_off(market):
    raw = await market.dial()
    [connection] = market.server.doorkeeper.connections
    connection.pause_writing()  # what the transport calls when a megabyte waits
    assert await raw.ended() and not market.server.doorkeeper.connections


# --- persistence


async def test_ten_faults_shut_an_address_out_but_not_who_is_inside(market, monkeypatch):
    monkeypatch.setattr(connection_module, "is_shared", lambda address: False)
    inside = await market.dial()
    for _ in range(connection_module.FAULTS_TO_SHUT_OUT):
        raw = await market.dial()
        raw.send(b"\0\0\0\1\xff")
        assert await raw.refusal() == (0, "malformed")
    shut = await market.dial()
    assert shut.greet.code == CODES["rate_limited"] and 0 < shut.greet.retry_after_ms <= 60_001
    assert await shut.ended()
    await served(inside, market, sid=1)
    market.server.doorkeeper._shut_until["127.0.0.1"] = 0.0  # the minute is over
    assert isinstance((await market.dial()).greet, Greet)


async def test_a_broken_program_on_this_machine_shuts_out_nobody_beside_it(market, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS_PER_ADDRESS", 3)
    idle = [await market.dial() for _ in range(5)]
    for _ in range(2 * connection_module.FAULTS_TO_SHUT_OUT):
        raw = await market.dial()
        raw.send(b"\0\0\0\1\xff")
        assert await raw.refusal() == (0, "malformed")
    assert isinstance((await market.dial()).greet, Greet) and all(isinstance(each.greet, Greet) for each in idle)


@pytest.mark.parametrize(("peer", "shared"), [
    (("127.0.0.1", 1), True), (("127.8.8.8", 1), True), (("::1", 1, 0, 0), True), (("::ffff:127.0.0.1", 1, 0, 0), True),
    (("12.7.0.1", 1), False), (("2001:db8::1", 1, 0, 0), False), (None, False),
])
def test_only_loopback_is_shared(peer, shared):
    assert connection_module.is_shared(connection_module._address_of(peer)) is shared


async def test_refusals_that_are_no_fault_shut_nobody_out(market):
    raw = await market.dial()
    for sid in range(1, 30):
        raw.send(market.open_frame(sid=sid, netuid=9))
        assert await raw.refusal() == (sid, "unknown_method")
    assert isinstance((await market.dial()).greet, Greet)


async def test_an_attack_on_one_session_does_not_touch_another_connection(market):
    async with market.client.session(
        market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=3
    ) as session:
        await session.answer()
        for _ in range(5):
            raw = await market.dial()
            raw.send(market.open_frame(max_asks=3), b"\0\0\0\1\xff")
            while await raw.receive() is not None:
                pass
        await session.ask(encode_appended([b"b"]))
        assert (await session.finish()).status == frames.OK
    assert not market.server.sessions and market.server.starting.total() == 0


def test_the_table_of_changes_covers_every_field():
    assert set(CHANGED_UNSIGNED) == set(FIELDS) and payload_hash(b"") != payload_hash(b"x")
