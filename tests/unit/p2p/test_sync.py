"""The planner against served chains: honest, short, lying and silent peers. Time is virtual, no socket is involved."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.blocks import NO_CERTIFICATE, NO_INHERENTS, Block, Body, Header
from ledger.codec import encode
from ledger.errors import DecodeError
from p2p.answers import answer
from p2p.messages import (
    MAX_BODIES_BYTES,
    BlockReply,
    Bodies,
    GetBlock,
    GetBodies,
    GetHead,
    GetHeaders,
    Head,
    Headers,
    decode_reply,
    encode_reply,
    encode_request,
)
from p2p.sync import (
    HEAD_EVERY_MS,
    LOST_MS,
    MAX_BODY_ASKS,
    MAX_HELD_BYTES,
    MAX_PEERS,
    PATIENCE_MS,
    RETRY_MS,
    SUSPEND_MS,
    SyncPlanner,
    decode_block,
)

GENESIS = b"G" * 32


def certificate_of(block_hash):
    return encode([b"certified", block_hash])


def make_chain(length, *, salt=b"", size=10, start=(0, GENESIS, NO_CERTIFICATE)):
    """Blocks that link and match their bodies. A certificate is "valid" iff it is `certificate_of` the block."""
    blocks, (height, parent, certificate) = [], start
    for _ in range(length):
        height += 1
        extrinsics = [bytes(100_000)] * (size // 100_000) + [salt + height.to_bytes(4, "big") + bytes(size % 100_000)]
        body = Body(certificate, NO_INHERENTS, tuple(extrinsics))
        header = Header(
            1, 1, height, 0, height, parent, body.cert_hash, 0, 0, body.extrinsics_root, bytes(32), bytes(32), bytes(32),
            bytes(32),
        )
        blocks.append(Block(header, body))
        parent, certificate = header.hash, certificate_of(header.hash)
    return blocks


class Served:
    """A `ChainSource` over a list of blocks whose first has height 1; it shows only `visible` of them."""

    def __init__(self, blocks, visible=None):
        self.blocks, self.visible = blocks, len(blocks) if visible is None else visible
        self.hide_bodies = self.silent = False
        self.tamper = lambda request, reply: reply
        self.served = []

    def head(self):
        if not self.visible:
            return Head(0, GENESIS, b"", b"")
        block = self.blocks[self.visible - 1]
        return Head(block.height, block.hash, block.header.encode(), certificate_of(block.hash))

    def header_at(self, height):
        return self.blocks[height - 1].header.encode() if 1 <= height <= self.visible else None

    def body_of(self, block_hash):
        found = [b for b in self.blocks[: self.visible] if b.hash == block_hash and not self.hide_bodies]
        return found[0].body.encode() if found else None

    def block_of(self, block_hash):
        found = [b for b in self.blocks if b.hash == block_hash]
        return (found[0].header.encode(), found[0].body.encode()) if found else None

    def reply(self, request):
        self.served.append(request)
        data = answer(encode_request(request), self)
        return encode_reply(self.tamper(request, decode_reply(data, request)))


class Run:
    """Drives a planner: performs its requests, commits what it hands over if the certificate is valid."""

    def __init__(self, peers, height=0, head=GENESIS):
        self.planner, self.peers, self.now = SyncPlanner(height, head), peers, 0
        self.blocks, self.penalties, self.refusals = [], [], 0
        self.most_asks = self.most_held = 0
        for name, served in peers.items():
            self.planner.peer_up(name, served.head().height)

    def step(self, ms=100):
        self.now += ms
        asks = self.planner.next(self.now)
        while asks or (block := self.planner.ready()):
            self.most_asks = max(self.most_asks, sum(isinstance(a.request, GetBodies) for a in self.planner._asks.values()))
            for ask in asks:
                served = self.peers[ask.peer]
                if served.silent:
                    self.penalties += self.planner.failed(ask.number, self.now + 10_000, timeout=True)
                else:
                    self.penalties += self.planner.reply(ask.number, served.reply(ask.request), self.now)
            self.most_held = max(self.most_held, self.planner._held_bytes)
            if asks:
                block = self.planner.ready()
            if block:
                self.take(block)
            self.now += 1
            asks = self.planner.next(self.now)

    def take(self, synced):
        block = synced.block
        if synced.certificate == certificate_of(block.hash):
            self.blocks.append(block)
            self.planner.committed(block.height, block.hash)
        else:
            self.refusals += 1
            self.penalties += self.planner.refused(block.height, self.now)

    def until(self, height, steps=400):
        for _ in range(steps):
            if self.planner.height >= height:
                return self
            self.step()
        raise AssertionError(f"stuck at {self.planner.height} of {height}; {self.penalties}")

    def guilty(self):
        return {(p.peer, p.points) for p in self.penalties}


def test_a_chain_is_fetched_whole_and_in_order_with_its_tip():
    chain = make_chain(1300)
    run = Run({"a": Served(chain), "b": Served(chain), "c": Served(chain)}).until(1300)
    assert run.blocks == chain and not run.penalties and run.planner.behind == 0
    assert {name for name, peer in run.peers.items() if any(isinstance(r, GetBodies) for r in peer.served)} == {"a", "b", "c"}
    assert run.most_asks <= MAX_BODY_ASKS


def test_a_later_height_than_genesis_is_a_start_too():
    chain = make_chain(50)
    run = Run({"a": Served(chain)}, height=20, head=chain[19].hash).until(50)
    assert run.blocks == chain[20:]


def test_big_blocks_never_fill_the_memory():
    chain = make_chain(60, size=900_000)
    sizes = sum(len(b.body.encode()) for b in chain)
    run = Run({"a": Served(chain), "b": Served(chain)}).until(60)
    assert run.blocks == chain and run.most_held <= MAX_HELD_BYTES + MAX_BODIES_BYTES < sizes


def test_a_chain_that_grows_is_followed():
    chain = make_chain(200)
    served = Served(chain, visible=50)
    run = Run({"a": served})
    for visible in range(50, 201, 3):
        served.visible = visible
        run.step(1000)
    served.visible = 200
    run.until(200)
    assert run.blocks == chain and not run.penalties


def test_one_block_ahead_is_left_to_consensus_for_a_while():
    chain = make_chain(1)
    planner = SyncPlanner(0, GENESIS)
    planner.peer_up("a", 1)
    asks = planner.next(0)
    assert [type(ask.request) for ask in asks] == [GetHead]
    planner.reply(asks[0].number, encode_reply(Served(chain).head()), 10)
    assert planner.next(PATIENCE_MS - 1) == []
    assert [type(ask.request) for ask in planner.next(PATIENCE_MS)] == [GetHeaders]


def test_blocks_that_come_otherwise_shorten_the_work():
    chain = make_chain(10)
    run = Run({"a": Served(chain)})
    asks = run.planner.next(0)
    run.planner.committed(7, chain[6].hash)
    for ask in asks:
        assert run.planner.reply(ask.number, run.peers["a"].reply(ask.request), 0) == []
    run.until(10)
    assert run.blocks == chain[7:] and not run.penalties


def test_a_request_whose_end_is_never_told_is_forgotten():
    chain = make_chain(10)
    run = Run({"a": Served(chain)})
    assert run.planner.next(0)
    assert run.planner.next(LOST_MS) == []
    run.now = LOST_MS + 1
    run.until(10)


def test_heads_are_exchanged_in_turn_and_seldom():
    planner = SyncPlanner(0, GENESIS)
    for name in "abcdef":
        planner.peer_up(name, 0)
    asked = []
    for now in range(0, 10 * HEAD_EVERY_MS, 100):
        for ask in planner.next(now):
            asked.append(ask.peer)
            planner.reply(ask.number, encode_reply(Head(0, GENESIS, b"", b"")), now)
    assert set(asked) == set("abcdef") and len(asked) <= 6 * 10


# --- liars


def forged(chain, at):
    """Same blocks below `at`, another chain from there on, whose certificates nobody gave."""
    fork = make_chain(
        len(chain) - at + 1, salt=b"forged", start=(at - 1, chain[at - 2].hash, certificate_of(chain[at - 2].hash))
    )
    bad = []
    parent = fork[0].header.parent_hash
    for block in fork:
        body = block.body if block is fork[0] else replace(block.body, parent_cert=encode([b"forged", parent]))
        header = replace(block.header, parent_hash=parent, parent_cert_hash=body.cert_hash)
        bad.append(Block(header, body))
        parent = header.hash
    return chain[: at - 1] + bad


@pytest.mark.parametrize("at", [2, 40, 99])
def test_a_forged_chain_is_found_out_and_the_true_one_followed(at):
    chain = make_chain(100)
    run = Run({"liar": Served(forged(chain, at)), "true": Served(chain)}).until(100)
    assert run.blocks == chain
    assert {peer for peer, _ in run.guilty()} <= {"liar"}


def test_who_forges_the_next_block_is_penalised_and_not_asked_again():
    chain = make_chain(100)
    liar = Served(forged(chain, 50))
    run = Run({"liar": liar})
    for _ in range(20):
        run.step()
    assert run.blocks == chain[:49] and ("liar", 50) in run.guilty()
    before = len(liar.served)
    run.step(SUSPEND_MS - 60_000)
    assert len(liar.served) == before
    run.peers["true"] = Served(chain)
    run.planner.peer_up("true", 100)
    run.until(100)


TAMPER = {
    "heights": (GetHeaders, lambda r: Headers(r.headers[1:]), 50),
    "links": (GetHeaders, lambda r: Headers(r.headers[:1] + r.headers[2:3] * (len(r.headers) > 2)), 50),
    "garbage headers": (GetHeaders, lambda r: Headers((b"\xff",)), 20),
    "other bodies": (GetBodies, lambda r: Bodies(r.bodies[::-1]), 50),
    "garbage bodies": (GetBodies, lambda r: Bodies((b"\xff",)), 20),
    "nothing": (GetBodies, lambda r: Bodies(()), 2),
    "no headers": (GetHeaders, lambda r: Headers(()), 2),
    "another verb": (GetBodies, lambda r: BlockReply(b"", b""), 20),
    "false head": (GetHead, lambda r: replace(r, hash=b"x" * 32), 20),
    "empty head": (GetHead, lambda r: replace(r, header=b""), 20),
    "garbage head": (GetHead, lambda r: replace(r, header=b"\xff"), 20),
}


@pytest.mark.parametrize("name", TAMPER)
def test_bad_replies_cost_their_sender_and_nobody_else(name):
    kind, change, points = TAMPER[name]
    chain = make_chain(300)
    liar = Served(chain)
    liar.tamper = lambda request, reply: change(reply) if isinstance(request, kind) else reply
    run = Run({"liar": liar, "true": Served(chain)}).until(300)
    assert run.blocks == chain
    run.now += HEAD_EVERY_MS
    for _ in range(40):
        run.step()
    assert ("liar", points) in run.guilty() or not any(isinstance(r, kind) for r in liar.served)
    assert {peer for peer, _ in run.guilty()} <= {"liar"}


def test_headers_without_bodies_cost_their_giver():
    chain = make_chain(30)
    liar = Served(chain)
    liar.hide_bodies = True
    run = Run({"liar": liar})
    run.step()
    assert run.guilty() == {("liar", 20)} and not run.planner._slots
    run.peers["true"] = Served(chain)
    run.planner.peer_up("true", 30)
    assert run.until(30).guilty() == {("liar", 20)}


def test_a_peer_without_bodies_that_gave_no_headers_is_innocent():
    chain = make_chain(300)
    pruned = Served(chain)
    pruned.hide_bodies = True
    pruned.header_at = lambda height: None
    run = Run({"pruned": pruned, "true": Served(chain)}).until(300)
    assert run.guilty() <= {("pruned", 2)}


def test_a_false_tip_certificate_costs_its_giver():
    chain = make_chain(5)
    liar = Served(chain)
    liar.tamper = lambda request, reply: replace(reply, certificate=b"forged") if isinstance(reply, Head) else reply
    run = Run({"liar": liar})
    for _ in range(40):
        run.step()
    assert run.blocks == chain[:4] and run.refusals and ("liar", 50) in run.guilty()
    run.peers["true"] = Served(chain)
    run.planner.peer_up("true", 5)
    run.until(5)


def test_a_lowered_height_is_a_lie_and_a_new_hello_is_not():
    planner = SyncPlanner(0, GENESIS)
    chain = make_chain(9)
    planner.peer_up("a", 9)
    first = planner.next(0)[0]
    assert planner.reply(first.number, encode_reply(Served(chain).head()), 1) == []
    planner.peer_up("a", 5)
    ask = next(a for a in planner.next(HEAD_EVERY_MS) if isinstance(a.request, GetHead))
    assert planner.reply(ask.number, encode_reply(Served(chain, 5).head()), HEAD_EVERY_MS) == []
    ask = next(a for a in planner.next(2 * HEAD_EVERY_MS) if isinstance(a.request, GetHead))
    assert [p.points for p in planner.reply(ask.number, encode_reply(Served(chain, 4).head()), 2 * HEAD_EVERY_MS)] == [20]
    assert planner.best_height == 0


def test_three_timeouts_suspend_but_a_lone_peer_is_tried_again():
    chain = make_chain(30)
    served = Served(chain)
    served.silent = True
    run = Run({"a": served})
    for _ in range(60):
        run.step(500)
    assert ("a", 2) in run.guilty() and len(run.penalties) < 12
    served.silent = False
    run.now += RETRY_MS
    run.until(30)


def test_a_silent_peer_does_not_hold_up_the_others():
    chain = make_chain(400)
    silent = Served(chain)
    silent.silent = True
    run = Run({"silent": silent, "true": Served(chain)}).until(400)
    assert run.blocks == chain and run.guilty() == {("silent", 2)}


def test_an_absurd_height_costs_nothing():
    chain = make_chain(20)
    run = Run({"a": Served(chain)})
    run.planner.peer_up("boaster", 2**63)
    run.peers["boaster"] = Served(chain)
    run.until(20)
    assert run.blocks == chain and len(run.planner._slots) == 0


def test_a_peer_that_leaves_leaves_no_trace_but_its_suspension():
    chain = make_chain(30)
    run = Run({"a": Served(chain)})
    run.planner.next(100)
    assert run.planner._asks
    run.planner.peer_down("a")
    assert not run.planner._asks and run.planner.next(200) == [] and run.planner.behind == 0
    assert run.planner.reply(1, b"", 300) == [] and run.planner.failed(1, 300, timeout=True) == []
    run.planner.peer_up("a", 30)
    run.until(30)


def test_peers_are_bounded():
    planner = SyncPlanner(0, GENESIS)
    for k in range(MAX_PEERS + 10):
        planner.peer_up(f"peer {k}", 1)
    assert len(planner._peers) == MAX_PEERS
    planner.peer_down("peer 3")
    planner.peer_up("late", 1)
    assert "late" in planner._peers and len(planner._peers) == MAX_PEERS
    for k in range(500):
        planner.certificate(k.to_bytes(32, "big"), b"", "late")
    assert len(planner._tips) <= 64


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_with_one_true_peer_the_chain_is_always_reached(data):
    chain = make_chain(data.draw(st.integers(1, 60)))
    peers = {"true": Served(chain)}
    for k in range(data.draw(st.integers(0, 3))):
        peer = peers[f"other {k}"] = Served(
            chain if data.draw(st.booleans()) or len(chain) < 3 else forged(chain, data.draw(st.integers(2, len(chain))))
        )
        peer.visible = data.draw(st.integers(0, len(chain)))
        peer.silent, peer.hide_bodies = data.draw(st.booleans()), data.draw(st.booleans())
        kind, change, _ = TAMPER[data.draw(st.sampled_from(sorted(TAMPER)))]
        if data.draw(st.booleans()):
            peer.tamper = lambda request, reply, kind=kind, change=change: (
                change(reply) if isinstance(request, kind) else reply
            )
    run = Run(peers).until(len(chain), steps=3000)
    assert run.blocks == chain and "true" not in {peer for peer, _ in run.guilty()}


# --- over sockets


async def test_a_follower_catches_up_over_real_sockets(peer):
    chain = make_chain(400, size=2000)
    served = Served(chain)

    async def serve(_, data):
        return answer(data, served)

    servers = [await peer(number, answer=serve, changes={"height": 400}) for number in (1, 2)]
    follower = await peer(3, static=tuple(server.address for server in servers))
    planner, done, loop = SyncPlanner(0, GENESIS), [], asyncio.get_running_loop()

    async def perform(ask):
        data = await follower.net.request(ask.peer, ask.data)
        assert planner.reply(ask.number, data, round(loop.time() * 1000)) == []

    end = loop.time() + 15
    while len(done) < 400 and loop.time() < end:
        for info in follower.net.peers():
            planner.peer_up(info.id, info.height)
        await asyncio.gather(*map(perform, planner.next(round(loop.time() * 1000))), asyncio.sleep(0.01))
        while ready := planner.ready():
            assert ready.certificate == certificate_of(ready.block.hash)
            done.append(ready.block)
            planner.committed(ready.block.height, ready.block.hash)
    assert done == chain


# --- serving


def test_answers_are_bounded_prefixes():
    chain = make_chain(600, size=20_000)
    served = Served(chain)
    assert len(decode_reply(answer(encode_request(GetHeaders(100, 512)), served), GetHeaders(100, 512)).headers) == 501
    request = GetBodies(tuple(b.hash for b in chain[:512]))
    bodies = decode_reply(answer(encode_request(request), served), request).bodies
    assert 0 < sum(map(len, bodies)) <= MAX_BODIES_BYTES and len(bodies) < 512
    assert bodies[7] == chain[7].body.encode()
    with pytest.raises(DecodeError):
        answer(b"\xff", served)


def test_a_block_by_hash_is_checked():
    chain = make_chain(3)
    request = GetBlock(chain[1].hash)
    assert decode_block(answer(encode_request(request), Served(chain)), request) == chain[1]
    assert decode_block(answer(encode_request(GetBlock(bytes(32))), Served(chain)), GetBlock(bytes(32))) is None
    other = encode_reply(BlockReply(chain[2].header.encode(), chain[2].body.encode()))
    mixed = encode_reply(BlockReply(chain[1].header.encode(), chain[2].body.encode()))
    for data in (other, mixed, encode_reply(BlockReply(b"\xff", b"\xff")), encode_reply(BlockReply(b"x", b""))):
        with pytest.raises(DecodeError):
            decode_block(data, request)
