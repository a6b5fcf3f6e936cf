"""Sessions over real sockets, with the client that everybody uses."""

import asyncio
import os
from dataclasses import replace

import numpy as np
import pytest

from ai.models.model import Sampling
from ai.receipts import Receipt
from ai.serve import client as client_module
from ai.serve import connection as connection_module
from ai.serve import frames
from ai.serve import replay as replay_module
from ai.serve import server as server_module
from ai.serve.client import NeuronAddress, NeuronClient
from ai.serve.frames import Answer, Close
from ai.serve.hooks import FixedStandings, Hooks, Standing, only_registered
from ai.serve.methods import TextRequest, encode_appended, encode_prefixes
from ai.serve.refusals import Refused
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, DiskFailure, Timeout, Unreachable

ONE = KeyPair.from_seed(b"1" * 32)
CALLER_KEY = KeyPair.from_seed(b"c" * 32)  # the client's of a market
GENESIS = b"g" * 32


def refuses(name):
    return pytest.raises(Refused, match=f"^{name}")


async def test_a_distribution_and_its_receipt(market):
    rows, settled = await market.client.distribution(market.neuron, [b"abc", b"x", b""], netuid=1)
    assert rows.argmax(axis=1).tolist() == [99, 120, 0] and np.allclose(rows.sum(axis=1), 1)
    closed = settled.checked.close
    assert (closed.status, closed.units_in, closed.units_out, closed.epoch) == (0, 4, 3, 7)
    assert closed.model_hash == market.server.model.card().model_hash
    ours, theirs = market.client.receipts, market.server.receipts
    assert ours.root(1, 7) == theirs.root(1, 7) and ours.root(1, 7)[1] == 1
    assert ours.prove(settled.open_id).holds()
    Receipt.decode(ours.leaves(1, 7)[0]).verify(GENESIS)


async def test_lock_step(market):
    body = encode_prefixes([b"a", b"b", b"c"])
    async with market.client.session(market.neuron, "distribution", body, netuid=2, max_asks=4) as session:
        assert len(await session.answer()) == 3 * 98
        assert len(await session.ask(encode_appended([b"x", b"", b"z"]))) == 2 * 98
        assert len(await session.ask(encode_appended([b"y", b"", b""]))) == 98
        settled = await session.finish()
    assert (settled.checked.close.asks, settled.checked.close.answers, settled.checked.close.units_out) == (2, 3, 6)
    assert settled.checked.both_sides and session.settled is settled
    [leaf] = market.server.receipts.leaves(2, 7)
    assert leaf == settled.receipt.encode()


@pytest.mark.parametrize("appended", [[b"x"], [b"x", b"y", b"z"], [b"x", b"y"]], ids=["fewer", "more", "one that is done"])
async def test_asks_that_do_not_fit_the_windows(market, appended):
    body = encode_prefixes([b"a", b"b"])
    async with market.client.session(market.neuron, "distribution", body, netuid=1, max_asks=4) as session:
        await session.answer()
        await session.ask(encode_appended([b"1", b""]))
        with refuses("malformed"):
            await session.ask(encode_appended(appended))


async def test_text_streams_and_is_counted(market):
    sampling = Sampling(max_units=40, temperature=0)
    body = TextRequest((("user", b"hi"), ("prompt", b"yo!")), sampling).encode()
    async with market.client.session(market.neuron, "text", body, netuid=1) as session:
        pieces = [piece async for piece in session.stream()]
        settled = await session.finish()
    assert pieces == [b"!" * 16, b"!" * 16, b"!" * 8]
    assert (settled.checked.close.units_in, settled.checked.close.units_out) == (6, 40)
    text, _ = await market.client.text(market.neuron, b"ab", Sampling(5, 0.0, stops=(b"bbb",)), netuid=1)
    assert text == b""


async def test_the_card_is_compared_with_the_chain(market):
    card, _ = await market.client.card(market.neuron, netuid=1)
    assert card == market.server.model.card()


async def test_sessions_share_one_connection_and_the_model(market):
    async def one(number):
        rows, _ = await market.client.distribution(market.neuron, [bytes([number])], netuid=1)
        return int(rows[0].argmax())

    assert await asyncio.gather(*(one(number) for number in range(200))) == list(range(200))
    assert len(market.server.doorkeeper.connections) == 1
    assert market.server.batcher.batches < 100
    assert market.server.counters.receipts == 200 == market.client.receipts.root(1, 7)[1]


async def test_unknown_methods_and_subnets(market):
    for netuid, method in ((3, "distribution"), (1, "oracle")):
        async with market.client.session(market.neuron, method, b"", netuid=netuid) as session:
            with refuses("unknown_method"):
                await session.answer()
    async with market.client.session(market.neuron, "card", netuid=1, max_asks=2) as session:
        with refuses("over_budget"):
            await session.answer()


# --- ends


async def test_leaving_cancels_and_the_receipt_still_comes(market):
    async with market.client.session(market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=9) as session:
        await session.answer()
    await until(lambda: session.settled is not None)
    assert session.settled.status == frames.CANCELLED and not session.settled.checked.both_sides
    assert market.client.receipts.root(1, 7)[1] == 1 and not market.server.sessions


async def test_a_cancel_in_the_same_breath_as_its_open(market):
    raw = await market.dial()
    raw.send(market.open_frame(max_asks=3), frames.Cancel(1))
    closed = await raw.receive()
    assert isinstance(closed, Close) and frames.CloseBody.decode(closed.close_body).status == frames.CANCELLED
    assert not market.server.sessions


async def test_the_deadline_ends_the_session(market):
    async with market.client.session(
        market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=9, timeout_ms=300
    ) as session:
        await session.answer()
        await until(lambda: session.settled is not None)
        assert session.settled.status == frames.EXPIRED
        with pytest.raises(Timeout):
            await session.ask(encode_appended([b"x"]))


async def test_work_whose_deadline_passes_in_the_queue_is_dropped(market):
    slow = asyncio.create_task(market.client.distribution(market.neuron, [b"stall"], netuid=1))
    await asyncio.sleep(0.05)
    before = market.server.batcher.windows
    with pytest.raises(Timeout):
        await market.client.distribution(market.neuron, [b"late"], netuid=1, timeout_ms=100)
    await slow
    assert market.server.batcher.windows == before


async def test_a_model_that_fails_before_its_first_answer(market):
    with refuses("model_failed") as caught:
        await market.client.distribution(market.neuron, [b"raise"], netuid=1)
    assert "user text" not in str(caught.value)
    with refuses("model_failed"):
        await market.client.distribution(market.neuron, [b"nan"], netuid=1)
    await market.client.distribution(market.neuron, [b"fine"], netuid=1)
    assert market.server.counters.failed == {"RuntimeError": 1, "DecodeError": 1}


async def test_a_model_that_fails_later(market):
    with refuses("model_failed"):
        await market.client.text(market.neuron, b"raise late", netuid=1)
    closed = Receipt.decode(market.client.receipts.leaves(1, 7)[0]).verify(GENESIS).close
    assert (closed.status, closed.answers, closed.units_out) == (frames.MODEL_FAILED, 1, 5)


async def test_no_caller_is_blamed_for_an_answer_that_fits_no_frame(market, monkeypatch):
    most = frames.FRAME_MAX_BYTES
    monkeypatch.setattr(market.server.model, "write", lambda prompt, sampling: iter([bytes(most - len(prompt))]))
    raw = await market.dial()
    body = TextRequest((("prompt", b"x"),), Sampling()).encode()
    raw.send(market.open_frame(body, method="text"))
    assert await raw.refusal() == (1, "model_failed")
    body = TextRequest((("prompt", b"x" * 24),), Sampling()).encode()
    raw.send(market.open_frame(body, sid=(1 << 32) - 1, method="text"))
    assert len((await raw.receive()).payload) == frames.FRAME_MAX_BYTES - 24 and isinstance(await raw.receive(), Close)
    assert market.server.counters.refused == {"model_failed": 1} and not market.server.doorkeeper._faults


async def test_a_slow_caller_cancels_by_itself(market, monkeypatch):
    monkeypatch.setattr(client_module, "OWN_IDLE_SECONDS", 0.1)
    async with market.client.session(market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=9) as session:
        await session.answer()
        await asyncio.sleep(0.3)
        with refuses("too_slow"):
            await session.ask(encode_appended([b"x"]))
    await market.client.distribution(market.neuron, [b"still connected"], netuid=1)
    assert market.server.counters.refused == {}


async def test_a_neuron_that_stops_refuses_and_drains(markets):
    async with markets() as market:
        running = asyncio.create_task(market.client.distribution(market.neuron, [b"stall"], netuid=1))
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(market.server.stop())
        await asyncio.sleep(0)
        with refuses("closing") as caught:
            await market.client.distribution(market.neuron, [b"x"], netuid=1)
        assert caught.value.retry_after_ms > 0
        assert (await running)[1].status == frames.OK
        await stopping
        with pytest.raises(Unreachable):
            await market.client.distribution(market.neuron, [b"x"], netuid=1)


@pytest.mark.parametrize("what", ["receipts", "replay file"])
async def test_a_full_disk_stops_the_neuron(market, monkeypatch, what):
    await market.client.distribution(market.neuron, [b"x"], netuid=1)
    module = "ai.receipts.os" if what == "receipts" else "ai.serve.replay.os"
    real = os.write

    def full(descriptor, data):
        mine = descriptor in market.server.receipts._sizes or descriptor == market.server._seen._file
        if mine and (len(data) > 56) == (what == "receipts"):
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(f"{module}.write", full)
    with pytest.raises((Unreachable, Timeout)):
        await market.client.distribution(market.neuron, [b"x"], netuid=1, timeout_ms=200)
    assert isinstance(market.server.broken.exception(), DiskFailure)
    monkeypatch.undo()
    with refuses("closing"):
        await market.client.distribution(market.neuron, [b"x"], netuid=1)


# --- hooks and limits


async def test_blacklist(markets):
    hooks = Hooks(blacklist=only_registered)
    async with markets(hooks=hooks, standings=FixedStandings(default=Standing())) as market:
        with refuses("blacklisted"):
            await market.client.distribution(market.neuron, [b"x"], netuid=1)


async def test_rate_limit(markets):
    async with markets(standings=FixedStandings(default=Standing())) as market:
        body = encode_prefixes([b"x"] * 64)
        with refuses("rate_limited") as caught:
            for _ in range(20):
                async with market.client.session(market.neuron, "distribution", body, netuid=1) as session:
                    await session.finish()
        assert 0 < caught.value.retry_after_ms < 60_000
        assert market.server.counters.units >= 400


async def test_a_full_queue_is_busy(market, monkeypatch):
    market.server.queue._limit = 3
    stall = asyncio.create_task(market.client.distribution(market.neuron, [b"stall"], netuid=1))
    await asyncio.sleep(0.05)
    waiting = [asyncio.create_task(market.client.distribution(market.neuron, [b"x"], netuid=1)) for _ in range(5)]
    results = await asyncio.gather(stall, *waiting, return_exceptions=True)
    refused = [r for r in results if isinstance(r, Refused)]
    assert len(refused) == 2 and all(r.error_name == "busy" and r.retry_after_ms for r in refused)


async def test_a_crowd_of_strangers_keeps_no_validator_out(markets, monkeypatch):
    monkeypatch.setattr(server_module, "MAX_SESSIONS", 16)
    monkeypatch.setattr(replay_module, "MAX_SEEN", 32)
    monkeypatch.setattr(replay_module, "MAX_SEEN_FOR_STRANGERS", 16)
    crowd = [KeyPair.from_seed(bytes([100 + n]) * 32) for n in range(12)]
    listed = {CALLER_KEY.public: Standing(True, True, 0.1)}
    async with markets(standings=FixedStandings(default=Standing(), listed=listed)) as market:
        market.server.queue._limit = 2
        raw = await market.dial()
        raw.send(*(  # each waits for its turn behind a model that stands still, and holds a session
            market.open_frame(encode_prefixes([b"stall"]), sid=sid, key=key, caller=key.public, max_asks=1)
            for sid, key in enumerate(crowd, 1)
        ))  # fmt: skip
        assert (await raw.refusal())[1] == "busy"
        _, settled = await market.client.distribution(market.neuron, [b"x"], netuid=1)
        assert settled.status == frames.OK
        assert market.server.counters.refused["busy"] >= 4
    async with markets(standings=FixedStandings(default=Standing(), listed=listed)) as market:
        raw = await market.dial()
        for sid, key in enumerate(crowd * 2, 1):
            raw.send(market.open_frame(sid=sid, key=key, caller=key.public))
            if isinstance(frame := await raw.receive(), frames.Refuse):
                break
            assert isinstance(frame, Answer) and isinstance(await raw.receive(), frames.Close)
        assert frame.code == 13 and len(market.server._seen) <= 16
        await market.client.distribution(market.neuron, [b"x"], netuid=1)


async def test_more_sessions_than_fit_a_connection_wait_for_a_place(market):
    async def one():
        async with market.client.session(
            market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=1
        ) as session:
            await session.answer()
            await asyncio.sleep(0.05)
            await session.finish()

    await asyncio.gather(*(one() for _ in range(80)))
    assert market.server.counters.refused == {} and market.server.counters.receipts == 80


async def test_no_session_at_work_is_broken_off_for_another_neuron(market, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_CONNECTIONS", 1)
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    elsewhere = replace(market.neuron, port=silent.sockets[0].getsockname()[1])
    async with market.client.session(
        market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=1
    ) as session:
        await session.answer()
        with refuses("busy") as caught:
            await market.client.distribution(elsewhere, [b"x"], netuid=1)
        assert caught.value.retry_after_ms > 0
        assert (await session.finish()).status == frames.OK
    dialling = asyncio.create_task(market.client.distribution(elsewhere, [b"x"], netuid=1))  # takes the idle one's place
    await asyncio.sleep(0.05)
    assert list(market.client._lines) == [elsewhere]
    with refuses("busy"):
        await market.client.distribution(market.neuron, [b"x"], netuid=1)
    dialling.cancel()
    await asyncio.gather(dialling, return_exceptions=True)
    await market.client.distribution(market.neuron, [b"x"], netuid=1)
    silent.close()


async def test_who_waits_for_a_place_learns_that_the_line_was_closed(market, monkeypatch):
    monkeypatch.setattr(client_module, "SESSIONS_PER_CONNECTION", 1)
    async with market.client.session(
        market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=1
    ) as session:
        await session.answer()
        waiting = asyncio.create_task(market.client.distribution(market.neuron, [b"x"], netuid=1))
        await asyncio.sleep(0.05)
        await market.client.close()
        async with asyncio.timeout(3):
            results = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(results[0], Unreachable) and "closed" in results[0].cause


async def test_connections_of_one_caller_are_limited(market):
    others = [NeuronClient(market.client.keypair, GENESIS, allow_private=True, allow_clear=True) for _ in range(2)]
    await market.client.distribution(market.neuron, [b"x"], netuid=1)
    await others[0].distribution(market.neuron, [b"x"], netuid=1)
    with refuses("over_budget"):
        await others[1].distribution(market.neuron, [b"x"], netuid=1)
    await others[0].close()
    await asyncio.sleep(0.05)
    await others[1].distribution(market.neuron, [b"x"], netuid=1)
    await others[1].close()


async def test_connections_of_one_address_are_limited(market, monkeypatch):
    monkeypatch.setattr(connection_module, "is_shared", lambda address: False)
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS_PER_ADDRESS", 3)
    held = [await market.dial() for _ in range(3)]
    assert all(isinstance(raw.greet, frames.Greet) for raw in held)
    refused = await market.dial()
    assert refused.greet.code == 13 and await refused.ended()
    held[0].close()
    await asyncio.sleep(0.05)
    assert isinstance((await market.dial()).greet, frames.Greet)


async def test_the_quietest_gives_way_when_all_connections_are_taken(market, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 4)
    held = [await market.dial() for _ in range(9)]
    assert all(isinstance(raw.greet, frames.Greet) for raw in held)
    await market.client.distribution(market.neuron, [b"x"], netuid=1)
    assert await held[0].ended() and len(market.server.doorkeeper.connections) == 4
    for connection in market.server.doorkeeper.connections:
        connection.open_sessions += 1
    late = await market.dial()
    assert late.greet.code == 13 and await late.ended()


# --- the caller's suspicion


async def test_private_addresses_and_clear_text_need_a_devnet(market):
    for options, reason in (({}, "private"), ({"allow_private": True}, "TLS")):
        client = NeuronClient(ONE, GENESIS, **options)
        with pytest.raises(Unreachable, match=reason):
            await client.distribution(market.neuron, [b"x"], netuid=1)


async def test_another_chain_hotkey_or_capability_is_not_talked_to(market):
    async def call(client=None, **changes):
        await (client or market.client).distribution(replace(market.neuron, **changes), [b"x"], netuid=1)

    with refuses("wrong_callee"):
        await call(hotkey=ONE.public)
    with refuses("wrong_callee"):
        await call(capabilities_hash=b"x" * 32)
    with refuses("wrong_chain"):
        await call(NeuronClient(ONE, b"x" * 32, allow_private=True, allow_clear=True))
    assert market.server.counters.sessions == 0


async def silent_service(answer):
    """A service that is no neuron: says `answer` and remembers who called and what it was told."""
    calls, heard = [], bytearray()

    async def serve(reader, writer):
        calls.append(writer)
        writer.write(answer)
        heard.extend(await reader.read(1000))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], calls, heard


@pytest.mark.parametrize("answer", [b"", b"-ERR unknown command\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_another_service_learns_nothing(answer, monkeypatch):
    monkeypatch.setattr("ai.serve.dialling.GREET_SECONDS", 0.2)
    server, port, calls, heard = await silent_service(answer)
    client = NeuronClient(ONE, GENESIS, allow_private=True, allow_clear=True)
    with pytest.raises((Unreachable, Refused)):
        await client.distribution(NeuronAddress(ONE.public, "127.0.0.1", port), [b"secret"], netuid=1)
    assert not heard and len(calls) == 1
    with pytest.raises((Unreachable, Refused)):  # at once: it is not dialled again so soon
        await client.distribution(NeuronAddress(ONE.public, "127.0.0.1", port), [b"secret"], netuid=1)
    await asyncio.sleep(0.05)
    assert len(calls) == 1
    server.close()


class Impostor(server_module.ServedSession):
    """A neuron that breaks the protocol in the way its class attribute says."""

    way = ""

    def answer(self, payload):
        frame = self._protocol.answer(payload)
        send = self._connection.send
        if self.way == "skips a number":
            send(replace(frame, seq=frame.seq + 1))
        elif self.way == "answers twice":
            send(frame)
            send(Answer(frame.sid, frame.seq + 1, payload))
        elif self.way == "changes the answer":
            send(replace(frame, payload=payload[:-1] + b"x"))
        elif self.way == "another session":
            send(replace(frame, sid=frame.sid + 7))
        elif self.way == "garbage":
            self._connection._transport.write(b"\0\0\0\5hello")
        elif self.way == "huge":
            self._connection._transport.write(b"\xff\xff\xff\xff")
        elif self.way == "greets again":
            send(self._server.greeting())
        elif self.way == "asks":
            send(frames.Cancel(frame.sid))
        elif self.way == "pickle":
            send(replace(frame, payload=b"\x80\x04\x95" + bytes(95)))


WAYS = {
    "skips a number": "out_of_order", "answers twice": "out_of_order", "changes the answer": "out_of_order",
    "another session": "out_of_order", "garbage": "malformed", "huge": "too_large", "greets again": "out_of_order",
    "asks": "malformed",
}


@pytest.mark.parametrize(("way", "error"), WAYS.items(), ids=list(WAYS))
async def test_a_neuron_that_breaks_the_protocol(market, monkeypatch, way, error):
    monkeypatch.setattr(server_module, "ServedSession", Impostor)
    monkeypatch.setattr(Impostor, "way", way)
    async with market.client.session(
        market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=1, timeout_ms=2_000
    ) as session:
        with refuses(error):
            await session.answer()
            await session.finish()
    assert market.client.receipts.netuids() == []


async def test_answers_that_are_no_distribution(market, monkeypatch):
    monkeypatch.setattr(server_module, "ServedSession", Impostor)
    monkeypatch.setattr(Impostor, "way", "pickle")
    with pytest.raises(DecodeError):
        await market.client.distribution(market.neuron, [b"a"], netuid=1)


async def test_a_lost_connection_fails_its_sessions_and_is_dialled_again(market):
    async with market.client.session(
        market.neuron, "distribution", encode_prefixes([b"a"]), netuid=1, max_asks=1
    ) as session:
        await session.answer()
        for connection in list(market.server.doorkeeper.connections):
            connection._transport.abort()
        with pytest.raises(Unreachable):
            await session.ask(encode_appended([b"x"]))
    await until(lambda: not market.server.sessions)
    await market.client.distribution(market.neuron, [b"x"], netuid=1)


async def test_a_neuron_whose_address_changed_is_dialled_there(market):
    await market.client.distribution(market.neuron, [b"x"], netuid=1)
    moved = replace(market.neuron, port=1 + market.neuron.port % 65_000)
    with pytest.raises(Unreachable):
        await market.client.distribution(moved, [b"x"], netuid=1)
    await market.client.distribution(market.neuron, [b"x"], netuid=1)


async def until(condition, seconds=3.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
