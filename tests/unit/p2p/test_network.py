"""Two and more networks over real sockets: hello, gossip, requests, channels, restart, ban and rebuild."""

import asyncio
import logging
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from ledger.errors import DecodeError, NotFound, Rejected, Timeout, Unreachable, UsageError
from p2p.addresses import address_of, peer_id_of
from p2p.answers import answer
from p2p.faults import INVALID
from p2p.messages import (
    MAX_CHANNEL_FRAME_BYTES,
    MAX_GOSSIP_BYTES,
    GetBlock,
    GetBodies,
    GetHead,
    GetHeaders,
    Head,
    decode_reply,
    encode_request,
)


def test_importing_the_face_loads_neither_trio_nor_libp2p():
    code = "import sys, p2p.network, p2p.service; print({'trio', 'libp2p', 'multiaddr'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


async def test_a_host_starts_with_the_pinned_fastecdsa(peer):
    from importlib.metadata import version

    import fastecdsa
    import libp2p

    assert version("fastecdsa") == "3.0.1" and version("libp2p") == "0.8.1"
    one = await peer(1)
    assert one.address.startswith("/ip4/127.0.0.1/tcp/") and one.address.endswith("/p2p/" + one.net.id)
    assert fastecdsa and libp2p


# --- hello


async def test_hello_tells_both_sides_about_each_other(peer, wait_until):
    one, two = await peer(1, role="authority"), await peer(2)
    assert await two.net.connect(one.address) == one.net.id
    await wait_until(lambda: bool(one.events and two.events))
    assert one.events == [(two.net.id, True)] and two.events == [(one.net.id, True)]
    assert two.hellos[0].role == "authority" and two.hellos[0].session_key == one.key.public
    seen, other = two.net.peers()[0], one.net.peers()[0]
    assert (seen.id, seen.role, seen.direction, seen.height) == (one.net.id, "authority", "out", 7)
    assert (other.id, other.role, other.direction, other.session_key) == (two.net.id, "full", "in", b"")


async def test_wrong_genesis_is_refused_by_name(peer, wait_until):
    one, two = await peer(1), await peer(2, genesis=bytes(32))
    with pytest.raises(Rejected) as refused:
        await two.net.connect(one.address)
    assert refused.value.error_name == "WrongGenesis"
    await wait_until(lambda: not one.switch.sessions.connected())
    assert one.events == two.events == [] and one.net.peers() == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"genesis_hash": bytes(32)}, "WrongGenesis"),  # another genesis that begins with the same eight digits
        ({"domains": ((0, bytes(range(32))), (5, bytes(32)))}, "OtherDomains"),
        ({"version": 2}, "OtherVersion"),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused_by_name_on_both_sides(peer, wait_until, caplog, changes, name):
    one, two = await peer(1), await peer(2, changes=changes)
    with caplog.at_level(logging.WARNING, "quorix.p2p"), pytest.raises(Rejected) as refused:
        await two.net.connect(one.address)
    assert refused.value.error_name == name
    await wait_until(lambda: sum(name in line for line in caplog.messages) >= 2)
    assert one.events == two.events == []


@pytest.mark.parametrize(
    ("field", "name"), [("signature", "BadProof"), ("expiry_height", "BadProof"), ("session_key", "BadProof")]
)
async def test_a_false_authority_proof_is_refused(peer, field, name):
    one, two = await peer(1), await peer(2, role="authority")
    true = await two._hello(one.net.id)
    lies = {"signature": bytes(64), "expiry_height": true.expiry_height + 1, "session_key": one.key.public}
    two.changes = {field: lies[field]}
    with pytest.raises(Rejected) as refused:
        await two.net.connect(one.address)
    assert refused.value.error_name == name


async def test_a_proof_made_for_another_peer_id_is_refused(peer):
    one, two = await peer(1, role="authority"), await peer(2, role="authority")
    stolen = await one._hello("")
    two.changes = {name: getattr(stolen, name) for name in ("session_key", "signature", "expiry_height")}
    with pytest.raises(Rejected, match="BadProof"):
        await two.net.connect(one.address)


async def test_an_expired_proof_is_refused(peer):
    one, two = await peer(1, changes={"height": 1001}), await peer(2, role="authority")
    with pytest.raises(Rejected, match="ExpiredProof"):
        await two.net.connect(one.address)


async def test_slots_are_kept_for_authorities(peer, wait_until):
    hub = await peer(1, max_connections=4)  # two of four are reserved
    strangers = [await peer(number) for number in (2, 3, 4)]
    await strangers[0].net.connect(hub.address)
    await strangers[1].net.connect(hub.address)
    with pytest.raises(Rejected, match="TooManyPeers"):
        await strangers[2].net.connect(hub.address)
    authority = await peer(5, role="authority")
    assert await authority.net.connect(hub.address) == hub.net.id
    await wait_until(lambda: len(hub.net.peers()) == 3)


# --- gossip


async def test_gossip_flows_both_ways(peer):
    one, two = await peer(1), await peer(2)
    await two.net.connect(one.address)
    await asyncio.sleep(0.3)
    await one.net.publish("block", b"from one")
    assert await asyncio.wait_for(two.gossip.get(), 5) == (one.net.id, b"from one")
    await two.net.publish("tx", b"x" * MAX_GOSSIP_BYTES)
    assert (await asyncio.wait_for(one.gossip.get(), 5))[1] == b"x" * MAX_GOSSIP_BYTES
    with pytest.raises(UsageError):
        await one.net.publish("tx", b"x" * (MAX_GOSSIP_BYTES + 1))
    with pytest.raises(UsageError):
        await one.net.publish("vote", b"x")


async def test_an_invalid_message_is_not_forwarded_and_counts_against_the_forwarder(peer, wait_until):
    one, two, three = await peer(1), await peer(2, verdict=False), await peer(3)
    await two.net.connect(one.address)
    await three.net.connect(two.address)
    await asyncio.sleep(0.4)
    await one.net.publish("block", b"bad")
    await asyncio.wait_for(two.gossip.get(), 5)
    await wait_until(lambda: any(info.faults >= 19 for info in two.net.peers() if info.id == one.net.id))
    await asyncio.sleep(0.2)
    assert three.gossip.empty()


# --- sync


class Chain:
    def head(self):
        return Head(3, b"h" * 32, b"header 3", b"certificate")

    def header_at(self, height):
        return b"header %d" % height if height <= 3 else None

    def body_of(self, block_hash):
        return b"body" + block_hash[:1] if block_hash[0] < 9 else None

    def block_of(self, block_hash):
        return (b"header", b"body") if block_hash == bytes(32) else None


async def serve(_, data):
    return answer(data, Chain())


async def test_sync_verbs_both_ways(peer, wait_until):
    one, two = await peer(1, answer=serve), await peer(2, answer=serve)
    await two.net.connect(one.address)
    await wait_until(lambda: bool(one.net.peers()))
    for asker, server in ((one, two), (two, one)):
        async def ask(request, asker=asker, server=server):
            return decode_reply(await asker.net.request(server.net.id, encode_request(request)), request)

        assert (await ask(GetHead(0))).certificate == b"certificate"
        assert (await ask(GetHeaders(2, 5))).headers == (b"header 2", b"header 3")
        assert (await ask(GetBodies((b"\1" * 32, b"\x09" * 32)))).bodies == (b"body\1", b"")
        assert (await ask(GetBlock(bytes(32)))).body == b"body"
        assert (await ask(GetBlock(b"\1" * 32))).header == b""


async def test_a_head_exchange_tells_both_sides_heights(peer, wait_until):
    async def high(_, data):
        return answer(data, type("High", (Chain,), {"head": lambda self: Head(50, b"h" * 32, b"header", b"")})())

    one, two = await peer(1, answer=high), await peer(2)
    await two.net.connect(one.address)
    await two.net.request(one.net.id, encode_request(GetHead(33)))
    await wait_until(lambda: one.net.peers()[0].height == 33 and two.net.peers()[0].height == 50)


async def test_requests_are_pipelined_and_large_replies_arrive(peer):
    order: list[int] = []

    async def slow_first(_, data):
        await asyncio.sleep(0.3 if data == b"slow" else 0)
        order.append(len(data))
        return data * 100_000

    one, two = await peer(1, answer=slow_first), await peer(2)
    await two.net.connect(one.address)
    slow, fast = await asyncio.gather(two.net.request(one.net.id, b"slow"), two.net.request(one.net.id, b"quickly"))
    assert (len(slow), len(fast), order) == (400_000, 700_000, [7, 4])


async def test_requests_that_fail_say_why(peer):
    async def handler(_, data):
        if data == b"silent":
            await asyncio.sleep(60)
        raise {b"bug": KeyError("x"), b"missing": NotFound("x"), b"bad": DecodeError("x")}[data]

    one, two = await peer(1, answer=handler), await peer(2)
    await two.net.connect(one.address)
    for data, name in ((b"bug", "InternalError"), (b"missing", "NotFound"), (b"bad", "DecodeError")):
        with pytest.raises(Unreachable, match=name):
            await two.net.request(one.net.id, data)
    assert one.net.peers()[0].faults == 20  # the malformed one only
    with pytest.raises(Timeout):
        await two.net.request(one.net.id, b"silent", timeout_ms=100)
    with pytest.raises(Unreachable):
        await two.net.request(peer_id_of(bytes(32)), b"x")
    with pytest.raises(UsageError):
        await two.net.request(one.net.id, bytes(65 * 1024))


async def test_a_peer_that_never_answers_is_disconnected(peer, wait_until):
    async def never(_, data):
        await asyncio.sleep(60)
        return b""

    one, two = await peer(1, answer=never), await peer(2)
    await two.net.connect(one.address)
    for _ in range(3):
        with pytest.raises(Timeout):
            await two.net.request(one.net.id, b"x", timeout_ms=50)
    await wait_until(lambda: (one.net.id, False) in two.events)


# --- channel


async def test_channels_exist_between_authorities_only(peer, wait_until):
    one, two, full = await peer(1, role="authority"), await peer(2, role="authority"), await peer(3)
    await two.net.connect(one.address)
    await full.net.connect(one.address)
    await wait_until(lambda: one.net.channels() == [two.net.id] and two.net.channels() == [one.net.id])
    assert one.net.send(two.net.id, b"vote", votes=True)
    assert await asyncio.wait_for(two.frames.get(), 5) == (one.net.id, b"vote")
    assert not one.net.send(full.net.id, b"vote", votes=True)
    assert not full.net.send(one.net.id, b"vote", votes=True)
    with pytest.raises(UsageError):
        one.net.send(two.net.id, bytes(MAX_CHANNEL_FRAME_BYTES + 1), votes=True)


async def test_a_key_outside_the_set_loses_its_channel(peer, wait_until):
    one, two = await peer(1, role="authority"), await peer(2, role="authority")
    await two.net.connect(one.address)
    await wait_until(lambda: one.net.channels() == [two.net.id])
    one.net.set_authorities([one.key.public])
    await wait_until(lambda: one.net.channels() == [])
    one.net.set_authorities([one.key.public, two.key.public])
    await wait_until(lambda: one.net.channels() == [two.net.id])


async def test_votes_overtake_what_waits_and_are_never_dropped(peer, wait_until):
    release = asyncio.Event()

    async def blocked(_, frame):
        await release.wait()

    one, two = await peer(1, role="authority"), await peer(2, role="authority", on_frame=blocked)
    await two.net.connect(one.address)
    await wait_until(lambda: one.net.channels() == [two.net.id])
    big = bytes(MAX_CHANNEL_FRAME_BYTES - 8)
    sent = 0
    while True:  # until the receiver's window, the writer and the queue are full
        if not one.net.send(two.net.id, b"bulk%04d" % sent + big, votes=False):
            await asyncio.sleep(0.2)
            if not one.net.send(two.net.id, b"bulk%04d" % sent + big, votes=False):
                break
        sent += 1
    assert all(one.net.send(two.net.id, b"vote%04d" % k, votes=True) for k in range(200))
    release.set()
    names = [(await asyncio.wait_for(two.frames.get(), 10))[1][:8] for _ in range(sent + 200)]
    votes = [name for name in names if name.startswith(b"vote")]
    assert votes == [b"vote%04d" % k for k in range(200)]
    assert [name for name in names if name.startswith(b"bulk")] == [b"bulk%04d" % k for k in range(sent)]
    first, last = names.index(b"vote0000"), names.index(b"vote0199")
    assert last - first == 199, "something came between the votes"
    assert sent - first >= 40, f"{sent - first} of {sent} frames were overtaken"


# --- life


async def test_redial_finds_a_node_that_starts_later_and_one_that_comes_back(peer, wait_until):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    early = await peer(2, static=(address_of("127.0.0.1", port, peer_id_of(bytes([1]) * 32)),))
    late = await peer(1, port=port)
    await wait_until(lambda: early.events == [(late.net.id, True)])
    await late.net.stop()
    await wait_until(lambda: early.events[-1] == (late.net.id, False))
    again = await peer(1, port=port)  # the same key and address
    await wait_until(lambda: early.events[-1] == (again.net.id, True))
    await asyncio.sleep(0.3)
    await again.net.publish("block", b"after restart")
    assert (await asyncio.wait_for(early.gossip.get(), 5))[1] == b"after restart"


async def test_a_banned_peer_is_disconnected_and_refused(peer, wait_until):
    one, two = await peer(1), await peer(2)
    await two.net.connect(one.address)
    await wait_until(lambda: bool(one.net.peers()))
    one.net.fault(two.net.id, "invalid block", INVALID)
    await wait_until(lambda: one.net.peers()[0].faults == 50)
    one.net.fault(two.net.id, "invalid block", INVALID)
    await wait_until(lambda: one.net.peers() == [] and (one.net.id, False) in two.events)
    with pytest.raises(Rejected, match="Banned"):
        await two.net.connect(one.address)


async def test_late_data_never_bans_an_authority(peer, wait_until):
    one, two = await peer(1), await peer(2, role="authority")
    await two.net.connect(one.address)
    await wait_until(lambda: bool(one.net.peers()))
    for _ in range(100):
        one.net.fault(two.net.id, "timeout", 2)
    one.net.fault(two.net.id, "invalid signature", INVALID)
    await wait_until(lambda: one.net.peers()[0].faults == 50)
    assert (two.net.id, False) not in one.events


async def test_a_host_that_dies_is_built_again(peer, wait_until):
    one, two = await peer(1, answer=serve), await peer(2, answer=serve)
    await two.net.connect(one.address)
    await wait_until(lambda: bool(one.net.peers()))
    address, first = one.address, one.switch

    async def crash():
        raise KeyError("deliberate")

    one.net._bridge.post(first.nursery.start_soon, crash)
    await wait_until(lambda: one.net.restarts == 1)
    await wait_until(lambda: one.events[1:2] == [(two.net.id, False)])
    await wait_until(lambda: one.events[2:] == [(two.net.id, True)])  # the other side redials
    assert one.address == address and one.switch is not first
    assert decode_reply(await two.net.request(one.net.id, encode_request(GetHead(0))), GetHead(0)).height == 3


async def test_all_hosts_are_built_again_if_the_trio_loop_ends(peer, wait_until):
    import trio

    one, two = await peer(1), await peer(2)
    await two.net.connect(one.address)

    async def crash():
        raise KeyError("deliberate")

    one.net._bridge.post(trio.lowlevel.spawn_system_task, crash)
    await wait_until(lambda: one.net.restarts == two.net.restarts == 1)
    await wait_until(lambda: bool(one.net.peers() and two.net.peers()))


async def test_a_taken_port_is_an_error(peer):
    one = await peer(1)
    two = await peer(2, start=False, port=int(one.address.split("/")[4]))
    with pytest.raises(UsageError, match="port"):
        await two.net.start()
    assert two.net.addresses() == [] and two.net.restarts == 0


async def test_calls_on_a_stopped_network(peer):
    one = await peer(1)
    await one.net.stop()
    await one.net.publish("block", b"nobody hears it")
    assert not one.net.send(one.net.id, b"x", votes=True)
    with pytest.raises(Unreachable):
        await one.net.request(one.net.id, b"x")
    with pytest.raises(Unreachable):
        await one.net.connect(address_of("127.0.0.1", 9, peer_id_of(bytes(32))))
    await one.net.stop()


async def test_a_dial_to_nobody_and_to_the_wrong_key(peer):
    one, two = await peer(1), await peer(2)
    with pytest.raises(Unreachable):
        await two.net.connect(address_of("127.0.0.1", 9, one.net.id))
    with pytest.raises(Unreachable):
        await two.net.connect(one.address.replace(one.net.id, peer_id_of(bytes(32))))
    with pytest.raises(UsageError):
        await two.net.connect("/ip4/127.0.0.1/tcp/1")


async def test_peers_learn_of_each_other_by_the_exchange_and_keep_a_book(peer, wait_until, tmp_path):
    hub = await peer(1)
    one = await peer(2, static=(hub.address,), book_path=tmp_path / "peers.cbor")
    two = await peer(3, static=(hub.address,))
    await wait_until(lambda: {info.id for info in one.net.peers()} == {hub.net.id, two.net.id})
    await one.net.stop()
    assert (tmp_path / "peers.cbor").stat().st_size > 100
    again = await peer(2, book_path=tmp_path / "peers.cbor")  # no static peer any more
    await wait_until(lambda: len(again.net.peers()) == 2)


async def test_a_damaged_book_is_only_a_slower_start(peer, tmp_path):
    (tmp_path / "peers.cbor").write_bytes(b"\xff" * 50)
    assert (await peer(1, book_path=tmp_path / "peers.cbor")).net.addresses()


async def test_two_that_dial_each_other_at_once_end_up_connected(peer, wait_until):
    one, two = await peer(1), await peer(2)
    await asyncio.gather(one.net.connect(two.address), two.net.connect(one.address))
    await wait_until(lambda: len(one.net.peers()) == len(two.net.peers()) == 1)
    await asyncio.sleep(0.4)
    await one.net.publish("block", b"hello")
    assert (await asyncio.wait_for(two.gossip.get(), 5))[1] == b"hello"


async def test_a_new_hello_of_the_same_peer_is_told_again(peer, wait_until):
    one, two = await peer(1), await peer(2)
    await two.net.connect(one.address)
    await wait_until(lambda: bool(one.hellos))
    session = two.switch.sessions.all_up()[0]
    two.changes = {"height": 99}
    await two.in_trio(two.switch.sessions.greet, session)
    await wait_until(lambda: one.hellos[-1] == replace(one.hellos[0], height=99))
