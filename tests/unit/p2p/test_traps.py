"""What py-libp2p 0.8.1 does wrong, each over real sockets with two hosts or more: none of it may reach the node."""

import asyncio
import logging
import socket

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from ledger.errors import NotReady, Rejected, Unreachable
from p2p.addresses import address_of, peer_id_of
from p2p.gossip import BURST, RATE_PER_S
from p2p.host import RECEIVE_WINDOW_BYTES, STREAM_BURST, STREAMS_PER_PEER
from p2p.pace import TokenBuckets
from p2p.thread import monotonic_ms

PREFIX = "/qx/00010203"


async def raw_stream(attacker, victim, protocol):
    """A stream of the attacker's host, without any of our own framing."""
    return await attacker.in_trio(attacker.switch.host.open_stream, ID.from_base58(victim.net.id), protocol)


async def connected_pair(peer, **options):
    victim, attacker = await peer(1, **options), await peer(2, **options)
    await attacker.net.connect(victim.address)
    return victim, attacker


async def still_works(victim, peer, wait_until, number=9):
    """The very host that was attacked accepts a new peer and takes its gossip."""
    assert victim.net.restarts == 0
    other = await peer(number)
    await other.net.connect(victim.address)
    await asyncio.sleep(0.3)
    while not victim.gossip.empty():
        victim.gossip.get_nowait()
    await other.net.publish("block", b"still here")
    assert await asyncio.wait_for(victim.gossip.get(), 5) == (other.net.id, b"still here")
    assert victim.net.restarts == 0


# --- 1: one bad frame ends the host


GARBAGE = encode_varint_prefixed(b"\xff" * 50)


@pytest.mark.parametrize("protocol", ["/meshsub/1.1.0", f"{PREFIX}/sync/1", f"{PREFIX}/hello/1"])
async def test_trap_1_garbage_on_a_stream_is_a_fault_of_the_peer(peer, wait_until, protocol):
    victim, attacker = await connected_pair(peer)
    stream = await raw_stream(attacker, victim, protocol)
    await attacker.in_trio(stream.write, GARBAGE)
    faults = victim.switch._lasting.faults
    await wait_until(lambda: faults.points(attacker.net.id, monotonic_ms()) == 20)
    await still_works(victim, peer, wait_until)


async def test_trap_1_garbage_of_an_authority_ends_its_stream_only(peer, wait_until):
    victim, attacker = await connected_pair(peer, role="authority")
    victim.on_frame = unable
    stream = await raw_stream(attacker, victim, f"{PREFIX}/authority/1")
    await attacker.in_trio(stream.write, GARBAGE)  # a frame like any other: the owner judges what is in it
    assert (await asyncio.wait_for(victim.frames.get(), 5))[1] == b"\xff" * 50
    await attacker.in_trio(stream.write, b"\xff" * 50)  # no length
    with pytest.raises(Exception):  # noqa: B017 - the library has several names for a reset
        await attacker.in_trio(stream.read, 1)
    await wait_until(lambda: attacker.net.channels() == [victim.net.id])
    await still_works(victim, peer, wait_until)


async def unable(_, frame):
    await asyncio.sleep(0)


async def test_trap_1_gossip_with_a_false_author_is_a_fault_of_the_peer(peer, wait_until):
    victim, attacker = await connected_pair(peer)
    message = rpc_pb2.Message(
        data=b"x", topicIDs=[f"{PREFIX}/block/1"], from_id=b"\xff" * 7, key=b"\xff" * 9, seqno=b"1", signature=b"1"
    )
    stream = await raw_stream(attacker, victim, "/meshsub/1.1.0")
    rpc = rpc_pb2.RPC(publish=[message])
    await attacker.in_trio(stream.write, encode_varint_prefixed(rpc.SerializeToString()))
    await wait_until(lambda: victim.net.peers()[0].faults == 20)
    assert victim.gossip.empty()
    await still_works(victim, peer, wait_until)


async def test_trap_1_gossip_out_of_bounds_is_a_fault_of_the_peer(peer, wait_until):
    victim, attacker = await connected_pair(peer)
    stream = await raw_stream(attacker, victim, "/meshsub/1.1.0")
    topics = [f"{PREFIX}/block/1", f"{PREFIX}/tx/1"]
    for message in (rpc_pb2.Message(data=b"x", topicIDs=topics), rpc_pb2.Message(data=bytes(300_000), topicIDs=topics[:1])):
        rpc = rpc_pb2.RPC(publish=[message])
        await attacker.in_trio(stream.write, encode_varint_prefixed(rpc.SerializeToString()))
    await wait_until(lambda: victim.net.peers()[0].faults == 40)
    await still_works(victim, peer, wait_until)


async def test_trap_1_a_handler_that_fails_harms_nobody(peer, wait_until):
    async def broken(_, data):
        if data == b"not now":
            raise NotReady("no verdict")
        if data != b"still here":
            raise KeyError("a bug of the owner")
        await victim.gossip.put((_, data))
        return True

    victim, attacker = await connected_pair(peer, role="authority")
    victim.on_gossip = victim.on_frame = broken
    await wait_until(lambda: attacker.net.channels() == [victim.net.id])
    await asyncio.sleep(0.3)
    await attacker.net.publish("block", b"x")
    await attacker.net.publish("block", b"not now")
    for frame in (b"x", b"not now", b"still here"):
        attacker.net.send(victim.net.id, frame, votes=True)
    assert (await asyncio.wait_for(victim.frames.get(), 5))[1] == b"still here", "one frame took another with it"
    await asyncio.sleep(0.1)
    assert victim.net.peers()[0].faults == 0, "the peer did nothing wrong"
    await still_works(victim, peer, wait_until)


async def test_trap_1_a_frame_that_announces_too_much_is_refused_before_it_is_read(peer, wait_until):
    victim, attacker = await connected_pair(peer)
    stream = await raw_stream(attacker, victim, f"{PREFIX}/sync/1")
    await attacker.in_trio(stream.write, b"\xff\xff\xff\x7f")
    await wait_until(lambda: victim.net.peers()[0].faults == 20)
    await still_works(victim, peer, wait_until)


# --- 2: a peer that connects before pubsub runs ends the host


async def test_trap_2_peers_that_knock_during_the_start_harm_nobody(peer, wait_until):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = address_of("127.0.0.1", port, peer_id_of(bytes([1]) * 32))
    early = [await peer(number, static=(target,)) for number in (2, 3, 4, 5)]
    await asyncio.sleep(0.3)  # all of them are trying
    late = await peer(1, port=port)
    await wait_until(lambda: len(late.net.peers()) == 4)
    await asyncio.sleep(0.4)
    await late.net.publish("block", b"x")
    for other in early:
        assert (await asyncio.wait_for(other.gossip.get(), 5))[1] == b"x"
    assert [other.net.restarts for other in (late, *early)] == [0] * 5


# --- 3: one failed dial refuses all others for a minute


async def test_trap_3_a_failed_dial_does_not_block_the_next(peer):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    early, identity = await peer(2), peer_id_of(bytes([1]) * 32)
    for _ in range(2):
        with pytest.raises(Unreachable):
            await early.net.connect(address_of("127.0.0.1", port, identity))
    await peer(1, port=port)
    assert await asyncio.wait_for(early.net.connect(address_of("127.0.0.1", port, identity)), 5) == identity


# --- 4: sequence numbers repeat after a restart


async def test_trap_4_messages_after_a_quick_restart_are_forwarded(peer, wait_until):
    middle, end, first = await peer(2), await peer(3), await peer(1)
    await end.net.connect(middle.address)
    await first.net.connect(middle.address)
    await asyncio.sleep(0.4)
    for k in range(5):
        await first.net.publish("block", b"before %d" % k)
    got = {(await asyncio.wait_for(end.gossip.get(), 5))[1] for _ in range(5)}
    before = first.switch.gossip.pubsub.counter
    await first.net.stop()
    again = await peer(1)
    assert again.switch.gossip.pubsub.counter > before > 10**18
    await again.net.connect(middle.address)
    await asyncio.sleep(0.4)
    for k in range(5):
        await again.net.publish("block", b"after %d" % k)
    got |= {(await asyncio.wait_for(end.gossip.get(), 5))[1] for _ in range(5)}
    assert got == {b"%s %d" % (when, k) for when in (b"before", b"after") for k in range(5)}


# --- 5: bursts are dropped silently


async def test_trap_5_a_burst_arrives_whole(peer):
    one, two = await connected_pair(peer)
    await asyncio.sleep(0.3)
    await asyncio.gather(*(one.net.publish("tx", b"%d" % k) for k in range(200)))
    got = {(await asyncio.wait_for(two.gossip.get(), 5))[1] for _ in range(200)}
    assert len(got) == 200


async def test_trap_5_a_flood_is_cut(peer):
    one, two = await connected_pair(peer)
    await asyncio.sleep(0.3)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(one.net.publish("tx", b"%d" % k) for k in range(500)))
    before = -1
    while two.gossip.qsize() != before:  # until nothing more comes
        before = two.gossip.qsize()
        await asyncio.sleep(0.7)
    allowed = BURST + RATE_PER_S * (asyncio.get_running_loop().time() - began)
    assert BURST / 2 < two.gossip.qsize() <= min(allowed, 499)


# --- 6: a hub loses its mesh


async def test_trap_6_all_leaves_of_a_star_stay_in_the_mesh(peer, wait_until):
    hub = await peer(1)
    leaves = await asyncio.gather(*(peer(number) for number in range(2, 16)))
    for leaf in leaves:  # only the hub is known to them; the exchange is held back
        leaf.switch._lasting.plan.enough = 0
        await leaf.net.connect(hub.address)
    await asyncio.sleep(2.5)  # two heartbeats, in which a smaller degree would prune
    assert hub.switch.gossip.neighbours("block") == len(leaves)
    assert [leaf.switch.gossip.neighbours("block") for leaf in leaves] == [1] * len(leaves)


# --- 7: gossipsub 1.2 costs twice, and what else is not to be offered


async def test_trap_7_only_what_is_used_is_offered(peer, wait_until):
    one, two = await connected_pair(peer)
    target = ID.from_base58(one.net.id)
    await wait_until(lambda: bool(two.switch.host.protocols_of(target)))
    offered = set(two.switch.host.protocols_of(target))
    assert {name for name in offered if "meshsub" in name} == {"/meshsub/1.1.0", "/meshsub/1.0.0"}
    assert {name for name in offered if name.startswith("/qx/")} == {
        f"{PREFIX}/{name}/1" for name in ("hello", "sync", "authority")
    }
    rest = {name for name in offered if "meshsub" not in name and not name.startswith("/qx/")}
    assert rest == {"/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"}
    upgrader = one.switch.host.network.upgrader
    assert list(upgrader.security_multistream.transports) == ["/noise"]
    assert list(upgrader.muxer_multistream.transports) == ["/yamux/1.0.0"]


# --- and what was found besides


async def test_closed_inbound_connections_free_their_slots(peer, wait_until):
    hub = await peer(1, max_connections=2)  # the library is given room for four
    for number in range(2, 8):
        other = await peer(number)
        await other.net.connect(hub.address)
        await other.net.stop()
        await wait_until(lambda: not hub.switch.sessions.connected())
    assert hub.switch.host.library.get_peerstore().peer_ids() == [hub.switch.host.id], "what is kept of them grows"


async def test_the_receive_window_holds(peer, wait_until):
    release = asyncio.Event()

    async def blocked(_, frame):
        await release.wait()

    victim, attacker = await connected_pair(peer, role="authority")
    victim.on_frame = blocked
    stream = await raw_stream(attacker, victim, f"{PREFIX}/authority/1")

    async def ignore_the_window():
        stream.muxed_stream.send_window = 1 << 40
        for _ in range(200):
            await stream.write(encode_varint_prefixed(bytes(50_000)))

    with pytest.raises(Exception):  # noqa: B017 - whichever way the library ends it
        await attacker.in_trio(ignore_the_window)
        raise RuntimeError
    (connection,) = victim.switch.host.network.get_connections() or [None]
    buffers = connection.muxed_conn.stream_buffers.values() if connection else []
    assert all(len(buffer) <= 2 * RECEIVE_WINDOW_BYTES for buffer in buffers)
    release.set()
    await still_works(victim, peer, wait_until)


async def test_a_peer_that_opens_many_streams_keeps_only_its_share(peer, wait_until):
    victim, attacker = await connected_pair(peer)
    target = ID.from_base58(victim.net.id)

    async def many():
        return [await attacker.switch.host.network.new_stream(target) for _ in range(100)]

    streams = await attacker.in_trio(many)
    await asyncio.sleep(0.3)
    assert max(victim.switch.host._streams.values()) <= STREAMS_PER_PEER and len(streams) == 100
    await still_works(victim, peer, wait_until)


async def test_nothing_but_our_dialler_dials(peer):
    one, two = await peer(1), await peer(2)
    target = ID.from_base58(one.net.id)

    async def suggest():
        store = two.switch.host.library.get_peerstore()
        store.add_addrs(target, [Multiaddr(one.address.rpartition("/p2p/")[0])], 60)
        await two.switch.host.open_stream(target, "/ipfs/ping/1.0.0")

    with pytest.raises(Unreachable):
        await two.in_trio(suggest)
    assert not one.switch.host.network.get_connections()


async def test_addresses_that_may_not_be_dialled_are_not(peer):
    one = await peer(1)
    two = await peer(2, allow_private=False)
    two.switch._lasting.plan.add(_learned(one.address), 0, static=False)
    with pytest.raises(Rejected, match="NotDialable"):
        await two.in_trio(two.switch._dial, _learned(one.address))


def _learned(text):
    from p2p.addresses import parse_address

    return parse_address(text)


async def test_the_librarys_log_is_silent(peer, capfd):
    victim, attacker = await connected_pair(peer)
    with pytest.raises(Unreachable):
        await raw_stream(attacker, victim, "/nobody/speaks/this")
    assert logging.getLogger("libp2p").propagate is False
    assert capfd.readouterr().err == ""


async def test_a_peer_that_says_no_hello_is_disconnected(peer, wait_until, monkeypatch):
    from p2p import sessions

    monkeypatch.setattr(sessions, "HELLO_SECONDS", 0.5)
    victim, attacker = await peer(1), await peer(2)

    async def say_nothing(session):
        await trio.sleep_forever()

    attacker.switch.sessions.greet = say_nothing
    port = int(victim.address.split("/")[4])
    await attacker.in_trio(attacker.switch.host.dial, ID.from_base58(victim.net.id), "127.0.0.1", port)
    await wait_until(lambda: bool(victim.switch.sessions.connected()))
    await wait_until(lambda: not victim.switch.sessions.connected() and not victim.switch.host.network.get_connections())
    assert victim.events == [] and victim.net.peers() == [] and attacker.net.restarts == 0


async def test_streams_opened_too_often_are_refused(peer, wait_until):
    victim, attacker = await connected_pair(peer)
    target = ID.from_base58(victim.net.id)

    async def one_after_the_other():
        victim.switch.host._stream_pace = TokenBuckets(0.01, STREAM_BURST, 8)  # or a slow machine earns new tokens
        for _ in range(STREAM_BURST + 1):
            stream = await attacker.switch.host.open_stream(target, "/ipfs/ping/1.0.0")
            await stream.reset()

    with pytest.raises(Unreachable):
        await attacker.in_trio(one_after_the_other)
    await still_works(victim, peer, wait_until)
