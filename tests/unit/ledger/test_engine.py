"""The engine without a world: order of effects, what is checked and what is dropped, heights, sealing, start and stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger import effects as fx
from ledger.blocks import Block, Body, Header
from ledger.crypto import KeyPair
from ledger.engine import Engine
from ledger.inbox import MAX_NAMED, MAX_VERIFYING
from ledger.machine import AuthoritySet
from ledger.messages import Bundle, FinalBlock, decode_bundle, encode_bundle, encode_final, pack
from ledger.signer import Signer, SignRecord, rewound
from ledger.spec import ChainSpecParams
from ledger.store import MemoryStore
from ledger.trees import list_root
from ledger.votes import (
    KIND_TAG,
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    Certificate,
    Proposal,
    Status,
    Vote,
    proposal_body,
    vote_body,
)
from ledger.watch import STALLED_MS, WATCH_MS

GENESIS = b"g" * 32
KEYS = [KeyPair.from_seed(bytes([i]) * 32) for i in range(7)]
TS = 1_000_000


def block(salt: int = 0, height: int = 1, round_: int = 0, parent: bytes = GENESIS, n: int = 4) -> Block:
    body = Body(b"\x80", b"\x80", ())
    root, leader, state = list_root([body.inherents]), height % n, bytes([salt]) * 32
    header = Header(1, 1, height, 0, TS + 250 * height, parent, NIL, leader, round_, root, state, NIL, NIL, NIL)
    return Block(header, body)


def vote(
    index: int, block_hash: bytes = NIL, kind: int = PREVOTE, round_: int = 0, height: int = 1, domain: bytes = GENESIS
) -> Vote:
    signature = KEYS[index].sign(KIND_TAG[kind], domain, vote_body(height, round_, block_hash))
    return Vote(kind, height, round_, block_hash, index, signature)


def precommit(index: int, block_hash: bytes = NIL, **rest: Any) -> Vote:
    return vote(index, block_hash, PRECOMMIT, **rest)


def propose(index: int, block_hash: bytes, round_: int = 0, height: int = 1) -> Proposal:
    signature = KEYS[index].sign("proposal", GENESIS, proposal_body(height, round_, NO_ROUND, block_hash))
    return Proposal(height, round_, NO_ROUND, block_hash, index, signature)


def certificate(of: Block, signers: tuple[int, ...] = (1, 2, 3), n: int = 4, **rest: Any) -> Certificate:
    return Certificate.build({index: precommit(index, of.hash, height=of.height, **rest) for index in signers}, n)


class Bench:
    """One engine of authority `me` (None: a follower), with a real signer; Verify is answered at once."""

    def __init__(
        self, me: int | None = 0, n: int = 4, *, height: int = 0, tip_hash: bytes = GENESIS, saved: SignRecord | None = None,
        bodies: tuple[Block, ...] = (), domains: Any = None, boot: bool = True, spec: dict[str, Any] | None = None, **rest: Any,
    ) -> None:
        self.spec = ChainSpecParams(**{"genesis_hash": GENESIS, "block_time_ms": 250, "genesis_time_ms": TS, **(spec or {})})
        key = None if me is None else KEYS[me]
        self.domains = domains or ((1, GENESIS),)
        self.engine = Engine(self.spec, self.domains, key and key.public, key and key.sign, **rest)
        self.signer = None if key is None else Signer.create(MemoryStore(), GENESIS, key.public)
        self.n, self.me, self.mono, self.answering = n, me, 0, True
        self.out: list[fx.Effect] = []
        if boot:
            self.do(fx.Boot(self.tip(height, tip_hash), saved, bodies))
            for index in range(n):
                if index != me:
                    self.do(fx.PeerUp(f"p{index}", KEYS[index].public))

    def tip(self, height: int, tip_hash: bytes, of: Block | None = None, cert: Certificate | None = None) -> fx.Tip:
        authorities = AuthoritySet(tuple(key.public for key in KEYS[: self.n]), tuple(range(self.n)))
        return fx.Tip(height, tip_hash, TS + 250 * height, authorities, of and of.header, cert)

    def do(self, *events: fx.Event) -> list[Any]:
        made: list[fx.Effect] = []
        for event in events:
            got = self.engine.handle(event, fx.Now(self.mono, TS + 250 + self.mono))
            made += got
            for effect in got:
                if isinstance(effect, fx.Verify) and self.answering:
                    made += self.do(effect.run())
        self.out += made
        return made

    def frame(self, *values: Any, peer: str = "p1", final: FinalBlock | None = None) -> list[Any]:
        bundles = pack(values, {}) or [Bundle()]
        return self.do(*(fx.Frame(peer, encode_bundle(replace(bundle, final=final))) for bundle in bundles))

    def timer(self, kind: Any, round_: int = 0) -> list[Any]:
        return self.do(fx.Timer(kind, self.engine.core.height, round_))

    def decide(self, chosen: Block, signers: tuple[int, ...] = (1, 2, 3)) -> list[Any]:
        """Let it learn the block and a certificate of it."""
        made = self.frame(final=FinalBlock(chosen.header, certificate(chosen, signers, self.n)))
        return made + self.do(fx.Checked(chosen, True))

    def commit(self, chosen: Block, cert: Certificate | None = None) -> list[Any]:
        return self.do(fx.Committed(self.tip(chosen.height, chosen.hash, chosen, cert or certificate(chosen))))


def of(made: list[Any], kind: Any) -> list[Any]:
    return [effect for effect in made if isinstance(effect, kind)]


def sent(made: list[Any]) -> list[Any]:
    """Every value in the frames that were sent."""
    values: list[Any] = []
    for effect in of(made, fx.Send):
        bundle = decode_bundle(effect.frame)
        values += [*bundle.votes, *bundle.proposals, *bundle.certificates, *([bundle.status] if bundle.status else [])]
    return values


# --- persist before send -----------------------------------------------------------------------------------------------


def test_whatever_is_sent_stands_behind_a_persist_that_holds_it() -> None:
    bench = Bench()
    bench.frame(propose(1, block().hash))
    made = bench.do(fx.Checked(block(), True)) + bench.frame(vote(1, block().hash), vote(2, block().hash))
    gated = [effect for effect in made if fx.is_gated(effect)]
    assert [type(effect) for effect in gated] == [fx.Persist, fx.Send, fx.Persist, fx.Send]
    assert bench.signer is not None
    held: list[Any] = []
    for effect in gated:
        if isinstance(effect, fx.Persist):
            bench.signer.persist(effect.record, effect.bodies)
            held = [message for message in effect.record.own if message is not None]
        else:
            own = [value for value in sent([effect]) if getattr(value, "index", None) == 0]
            assert own and all(value in held for value in own)
    assert bench.signer.load(1)[1] == (block(),)


def test_one_event_makes_one_persist_one_frame_and_then_the_commit() -> None:
    bench = Bench(n=2, me=0)
    bench.frame(propose(1, block().hash), vote(1, block().hash), precommit(1, block().hash))
    made = bench.do(fx.Checked(block(), True))
    gated = [type(effect) for effect in made if fx.is_gated(effect)]
    assert gated == [fx.Persist, fx.Send, fx.CommitBlock]
    assert [(value.kind, value.block_hash) for value in sent(made)] == [(1, block().hash), (2, block().hash)]


def test_consecutive_persists_coalesce_with_all_their_bodies() -> None:
    first = fx.Persist(SignRecord(1, prevoted_hash=block(1).hash), (block(1),))
    second = fx.Persist(SignRecord(1, 1, prevoted_hash=block(1).hash, locked_hash=block(2).hash), (block(2),))
    assert fx.coalesce([first, second]) == fx.Persist(second.record, (block(1), block(2)))


def test_a_body_is_handed_to_the_signer_once() -> None:
    bench = Bench()
    bench.frame(propose(1, block().hash))
    made = bench.do(fx.Checked(block(), True)) + bench.frame(vote(1, block().hash), vote(2, block().hash))
    assert [persist.bodies for persist in of(made, fx.Persist)] == [(block(),), ()]


def test_nothing_of_the_next_height_is_signed_before_the_commit_is_durable() -> None:
    bench = Bench(me=2)
    bench.decide(block(), (0, 1, 3))
    quiet = bench.timer("make") + bench.timer("propose") + bench.frame(propose(2, block(1, 2).hash, height=2))
    assert not of(quiet, fx.Persist) and not of(quiet, fx.Send)
    made = bench.commit(block())
    assert bench.engine.core.height == 2 and of(made, fx.SetTimer)


def test_after_a_stop_nothing_is_done_any_more() -> None:
    bench = Bench()
    bench.timer("propose")
    made = bench.frame(vote(0, block().hash))
    assert [stop.code for stop in of(made, fx.Stop)] == [20] and not of(made, fx.Send)
    assert bench.timer("rebroadcast") == [] and bench.frame(vote(1)) == []


# --- one authority -----------------------------------------------------------------------------------------------------


def test_one_authority_writes_once_a_block_and_sends_nothing() -> None:
    bench = Bench(me=0, n=1)
    bench.do(fx.PeerUp("follower", b""), fx.PeerUp("odd", KEYS[3].public))
    (build,) = of(bench.timer("make"), fx.Build)
    assert build == fx.Build(1, 0, TS + 250, bench.spec.max_block_bytes, bench.spec.max_block_weight)
    (check,) = of(bench.do(fx.Built(1, 0, block())), fx.Check)
    made = bench.do(fx.Checked(check.block, True))
    gated = [effect for effect in bench.out if fx.is_gated(effect)]
    assert [type(effect) for effect in gated] == [fx.CommitBlock, fx.Persist]
    assert gated[1].sync is False and gated[1].bodies == () and gated[1].record.guard == (1, 0, 2)
    assert of(made, fx.CommitBlock)[0].certificate.verify([KEYS[0].public], GENESIS)


def test_one_authority_whose_chain_is_older_than_its_signatures_stops_and_says_what_to_do() -> None:
    for saved in (SignRecord(9, 0, 2, (0, 2, NIL)), SignRecord(3, 0, 2, (0, 2, NIL))):
        (stop,) = of(Bench(n=1, height=2, saved=saved).out, fx.Stop)
        assert stop.code == 20 and "restore" in stop.reason and "rewind" in stop.reason
    assert not of(Bench(n=1, height=3, saved=SignRecord(3, 0, 2, (0, 2, NIL))).out, fx.Stop)


@pytest.mark.parametrize("seal", ["instant", "manual"])
def test_sealing_on_demand(seal: str) -> None:
    bench = Bench(me=0, n=1, spec={"seal": seal})
    assert of(bench.out, fx.SetTimer) == []
    wrong, right = (fx.Seal(1), fx.Work()) if seal == "instant" else (fx.Work(), fx.Seal(1))
    assert of(bench.do(wrong), fx.Build) == [] and of(bench.do(right), fx.Build) != []
    chosen = block(n=1)
    bench.do(fx.Built(1, 0, chosen), fx.Checked(chosen, True))
    made = bench.commit(chosen, certificate(chosen, (0,), 1))
    assert of(made, fx.Build) == [] and of(made, fx.SetTimer) == []
    assert of(made, fx.Publish) != []
    assert of(bench.do(right), fx.Build) != []


# --- messages ----------------------------------------------------------------------------------------------------------


def test_what_is_known_or_out_of_place_costs_no_signature_check() -> None:
    bench = Bench()
    assert len(of(bench.frame(vote(1)), fx.Verify)) == 1
    assert of(bench.frame(vote(1)), fx.Verify) == []  # known
    assert of(bench.frame(vote(1, height=7), precommit(2, height=9)), fx.Verify) == []  # far away
    made = bench.frame(vote(5))  # nobody has this index
    assert of(made, fx.Verify) == [] and [penalty.points for penalty in of(made, fx.Penalise)] == [20]
    made = bench.frame(propose(3, block().hash))  # does not lead
    assert of(made, fx.Verify) == [] and of(made, fx.Penalise) != []
    assert len(of(bench.frame(vote(1, block().hash)), fx.Verify)) == 1  # a conflict is news
    assert of(bench.frame(vote(1, block(7).hash)), fx.Verify) == []  # a third vote is not


def test_the_same_message_is_in_the_check_once() -> None:
    bench = Bench()
    bench.answering = False
    assert len(of(bench.frame(vote(1)), fx.Verify)) == 1
    assert of(bench.frame(vote(1), peer="p2"), fx.Verify) == []
    assert len(of(bench.frame(vote(2), peer="p2"), fx.Verify)) == 1


def test_a_forged_copy_does_not_hide_the_genuine_message() -> None:
    bench = Bench()
    bench.answering = False
    forged = replace(vote(1), signature=bytes(64))
    (first,) = of(bench.frame(forged, peer="p3"), fx.Verify)
    (second,) = of(bench.frame(vote(1)), fx.Verify)
    made = bench.do(first.run())
    assert [(penalty.peer, penalty.points) for penalty in of(made, fx.Penalise)] == [("p3", 50)]
    bench.do(second.run())
    assert bench.engine.core.tally(PREVOTE).votes == {1: vote(1)}


def test_the_signatures_in_the_check_are_bounded() -> None:
    bench = Bench()
    bench.answering = False
    for round_ in range(3, MAX_VERIFYING // 20):
        bench.frame(*(replace(vote(1), signature=bytes([i % 256, i // 256]) + bytes(62), round=round_) for i in range(64)))
    assert sum(len(effect.values) for effect in of(bench.out, fx.Verify)) <= MAX_VERIFYING


def test_messages_under_another_domain_are_forged() -> None:
    bench = Bench()
    assert of(bench.frame(vote(1, domain=b"x" * 32)), fx.Penalise)[0].points == 50
    rewind = rewound(((1, GENESIS),), 90, NIL, NIL, bytes(16))
    bench = Bench(height=90, domains=rewind)
    assert of(bench.frame(vote(1, height=91)), fx.Penalise) != []
    assert of(bench.frame(vote(1, height=91, domain=rewind[-1][1])), fx.Penalise) == []


def test_a_certificate_from_before_a_rewind_does_not_undo_it() -> None:
    old = block(height=91, parent=NIL)
    final = FinalBlock(old.header, certificate(old))
    bench = Bench(height=90, domains=rewound(((1, GENESIS),), 90, NIL, NIL, bytes(16)))
    made = bench.frame(final=final)
    assert of(made, fx.Penalise) and not of(made, fx.Fetch)


def test_a_malformed_frame_costs_its_sender() -> None:
    bench = Bench()
    (penalty,) = bench.do(fx.Frame("p1", b"\x00"))
    assert (penalty.peer, penalty.points) == ("p1", 20)


def test_conflicting_votes_become_evidence_that_verifies() -> None:
    bench = Bench()
    bench.frame(vote(1, block(1).hash))
    (report,) = of(bench.frame(vote(1, block(2).hash), peer="p3"), fx.ReportEvidence)
    assert report.evidence.verify(GENESIS) and report.evidence.key == KEYS[1].public
    bench.frame(propose(1, block(1).hash))
    (report,) = of(bench.frame(propose(1, block(2).hash)), fx.ReportEvidence)
    assert report.evidence.verify(GENESIS)


def test_a_wanted_block_is_asked_of_who_should_have_it_and_who_named_it() -> None:
    bench = Bench()
    (fetch,) = of(bench.frame(propose(1, block().hash), peer="p3"), fx.Fetch)
    assert fetch == fx.Fetch(block().hash, 1, ("p1", "p3"))
    assert fetch.accepts(block()) and not fetch.accepts(block(1))
    hollow = Block(block().header, Body(b"\x80", b"\x80", (b"x",)))
    assert not fetch.accepts(hollow)  # the right header with another body
    assert len(of(bench.timer("rebroadcast"), fx.Fetch)) == 1
    bench.do(fx.Checked(block(), True))
    assert of(bench.timer("rebroadcast"), fx.Fetch) == []
    assert bench.engine.block(block().hash) == block() and bench.engine.block(block(1).hash) is None


def test_the_header_that_came_with_a_proposal_is_passed_on() -> None:
    bench = Bench()
    frame = encode_bundle(Bundle(proposals=(propose(1, block().hash),), headers={block().hash: block().header}))
    (fetch,) = of(bench.do(fx.Frame("p1", frame)), fx.Fetch)
    assert fetch.header == block().header


def test_headers_and_sources_are_believed_of_verified_messages_only() -> None:
    bench = Bench()
    inbox = bench.engine._inbox
    for salt in range(1, 60):
        fake = replace(propose(1, block(salt).hash), signature=bytes(64))
        frame = Bundle(proposals=(fake,), votes=(replace(vote(2, block(salt).hash), signature=bytes(64)),),
                       headers={block(salt).hash: block(salt).header})
        bench.do(fx.Frame("p3", encode_bundle(frame)))
        forged = replace(certificate(block(salt)), signatures=bytes(192))
        bench.do(fx.Gossip("p3", encode_final(block(salt).header, forged), salt))
    assert not inbox.sources and not inbox.headers
    true = Bundle(proposals=(propose(1, block().hash),), headers={block().hash: block().header})
    (fetch,) = of(bench.do(fx.Frame("p1", encode_bundle(true))), fx.Fetch)
    assert fetch.header == block().header and fetch.peers == ("p1",)
    bench.frame(replace(vote(3, block().hash), signature=bytes(64)), peer="p2")  # repeats a name that is known
    assert inbox.sources == {block().hash: ["p1", "p2"]}


def test_an_authority_that_names_many_blocks_makes_none_of_the_others_forgotten() -> None:
    bench = Bench()
    inbox = bench.engine._inbox
    true = Bundle(proposals=(propose(1, block().hash),), headers={block().hash: block().header})
    bench.do(fx.Frame("p1", encode_bundle(true)))
    for round_ in range(8):
        for salt in (1, 2):
            bench.frame(vote(3, block(10 * round_ + salt).hash, round_=round_), peer="p3")
    assert inbox.sources[block().hash] == ["p1"] and inbox.headers == {block().hash: block().header}
    assert len(inbox.sources) == 1 + MAX_NAMED
    bench.decide(block())
    bench.commit(block())
    assert not inbox.sources and not inbox.headers


# --- heights -----------------------------------------------------------------------------------------------------------


def test_messages_of_the_next_height_wait_for_it() -> None:
    bench = Bench()
    early = [propose(2, block(1, 2).hash, height=2), vote(2, block(1, 2).hash, height=2), vote(3, NIL, height=2, round_=2)]
    assert of(bench.frame(*early, peer="p2"), fx.Verify) == []
    bench.decide(block())
    made = bench.commit(block())
    (check,) = of(made, fx.Verify)
    assert set(check.values) == set(early[:2])  # rounds 0 and 1 only
    assert bench.engine.core.proposals[0].proposal == early[0]
    assert of(made, fx.Fetch)[0].hash == block(1, 2).hash


def test_an_authors_own_early_message_replaces_what_others_claim() -> None:
    bench = Bench()
    forged = replace(vote(2, height=2), signature=bytes(64))
    bench.frame(forged, peer="p3")
    bench.frame(vote(2, height=2), peer="p2")
    bench.frame(forged, peer="p1")
    bench.decide(block())
    bench.commit(block())
    assert bench.engine.core.tally(PREVOTE).votes == {2: vote(2, height=2)}


def test_finality_is_published_by_the_proposer_and_by_others_only_if_it_is_not_heard() -> None:
    final = encode_final(block().header, certificate(block()))
    proposer, other, third = Bench(me=1), Bench(me=0), Bench(me=0)
    proposer.decide(block(), (0, 2, 3))
    assert of(proposer.commit(block()), fx.Publish) == [fx.Publish("block", final)]
    for bench in (other, third):
        bench.decide(block())
        made = bench.commit(block())
        assert of(made, fx.Publish) == [] and ("final", 200) in [(e.kind, e.delay_ms) for e in of(made, fx.SetTimer)]
    assert of(other.do(fx.Timer("final", 1, 0)), fx.Publish) == [fx.Publish("block", final)]
    assert of(third.do(fx.Gossip("p1", final, 7)), fx.Verdict) == [fx.Verdict(7, True)]
    assert of(third.do(fx.Timer("final", 1, 0)), fx.Publish) == []


def test_gossip_is_answered_and_only_permanent_faults_are_refused() -> None:
    bench = Bench(me=None)
    assert bench.do(fx.Gossip("p1", b"junk", 1))[0] == fx.Verdict(1, False)
    made = bench.do(fx.Gossip("p1", encode_final(block(1, 9).header, certificate(block(1, 9))), 2))
    assert of(made, fx.Verdict) == [fx.Verdict(2, None)]  # a height not known yet: neither forwarded nor refused
    assert of(made, fx.Sync) == [fx.Sync("p1", 9, block(1, 9).hash, certificate(block(1, 9)))]
    forged = replace(certificate(block()), signatures=bytes(192))
    made = bench.do(fx.Gossip("p2", encode_final(block().header, forged), 3))
    assert of(made, fx.Verdict) == [fx.Verdict(3, False)] and of(made, fx.Penalise)[0].points == 50
    made = bench.do(fx.Gossip("p1", encode_final(block().header, certificate(block())), 4))
    assert of(made, fx.Verdict) == [fx.Verdict(4, True)] and of(made, fx.Fetch)[0].hash == block().hash


def test_only_verified_finality_is_forwarded() -> None:
    """Whoever forwards a false proof is blamed for it, so an honest node must not be led to."""
    bench = Bench(me=0)
    bench.decide(block())
    final = encode_final(block().header, certificate(block()))
    assert of(bench.do(fx.Gossip("p1", final, 1)), fx.Verdict) == [fx.Verdict(1, True)]  # decided, not yet committed
    bench.commit(block())
    forged = encode_final(block().header, replace(certificate(block()), signatures=bytes(192)))
    assert of(bench.do(fx.Gossip("p2", forged, 2)), fx.Verdict) == [fx.Verdict(2, None)]  # one good proof is enough


def test_a_follower_commits_what_is_certified_and_says_nothing() -> None:
    bench = Bench(me=None)
    made = bench.decide(block())
    assert of(made, fx.CommitBlock) == [fx.CommitBlock(block(), certificate(block()))]
    made = bench.commit(block())
    assert not of(bench.out, fx.Send) and not of(bench.out, fx.Persist) and not of(made, fx.Publish)
    assert bench.engine.core.height == 2


def test_synced_blocks_take_the_same_path_and_lies_are_refused() -> None:
    bench = Bench(me=None)
    made = bench.do(fx.Synced(block(), certificate(block())))
    (check,) = of(made, fx.Check)  # at hand: nothing to fetch
    assert of(bench.do(fx.Checked(check.block, True)), fx.CommitBlock)
    bench.commit(block())
    good = block(0, 2)
    forged = replace(certificate(good), signatures=bytes(192))
    hollow = Block(good.header, Body(b"\x80", b"\x80", (b"x",)))
    for event in (
        fx.Synced(good, forged), fx.Synced(hollow, certificate(good)), fx.Synced(good, certificate(block())),
        fx.Synced(good, Certificate.build({i: vote(i, good.hash, height=2) for i in (1, 2, 3)}, 4)),
    ):
        made = bench.do(event)
        assert of(made, fx.SyncRefused) == [fx.SyncRefused(2)] and not of(made, fx.Check)
    assert of(bench.do(fx.Synced(good, certificate(good))), fx.Check)
    assert bench.do(fx.Synced(block(0, 5), certificate(block(0, 5)))) == []  # not the next one


def test_two_certificates_for_the_tip_stop_the_node_two_rounds_do_not() -> None:
    bench = Bench()
    bench.decide(block())
    bench.commit(block())
    other = certificate(block(), round_=1)
    assert not of(bench.frame(final=FinalBlock(block().header, other)), fx.Stop)
    second = block(9)
    (stop,) = of(bench.frame(final=FinalBlock(second.header, certificate(second))), fx.Stop)
    assert stop.code == 21 and stop.incident["second"] == certificate(second).encode().hex()


def test_a_peer_far_ahead_is_a_hint_for_sync_not_more_often_than_t_rebroadcast() -> None:
    bench = Bench()
    assert of(bench.frame(Status(9, 0, NIL)), fx.Sync) == [fx.Sync("p1", 8)]
    assert of(bench.frame(Status(10, 0, NIL)), fx.Sync) == []
    bench.mono += 200
    assert of(bench.frame(Status(10, 0, NIL)), fx.Sync) == [fx.Sync("p1", 9)]
    assert of(bench.frame(Status(2, 0, NIL), peer="p2"), fx.Sync) == []  # one ahead: a Final will come
    assert of(bench.do(fx.PeerUp("new", b"", 5)), fx.Sync) == [fx.Sync("new", 5)]


def test_many_peers_ahead_of_one_laggard_send_it_few_finals() -> None:
    """Three peers, 50 heights: each answers each Status at most once in T_rebroadcast, and none carries a body."""
    peers = [Bench(me=me, height=50) for me in (1, 2, 3)]
    finals = []
    for ms in range(0, 1000, 50):
        for bench in peers:
            bench.mono = ms
            finals += of(bench.frame(Status(1, 0, NIL), peer="p0"), fx.SendFinal)
    assert len(finals) == 3 * 5 and set(finals) == {fx.SendFinal("p0", 1)}


# --- start and restart -------------------------------------------------------------------------------------------------


def test_a_node_whose_chain_was_rolled_back_follows_until_it_is_where_it_signed() -> None:
    bench = Bench(height=0, saved=SignRecord(2, 1, 2, (1, 2, NIL)))
    assert bench.engine.core.me is None and bench.timer("propose") == []
    bench.decide(block())
    made = bench.commit(block())
    assert bench.engine.core.me == 0 and bench.engine.core.round == 1
    assert not of(made, fx.Build)


def test_a_restart_says_the_same_again_and_checks_the_bodies_it_had() -> None:
    first = Bench()
    first.frame(propose(1, block().hash))
    (persist,) = of(first.do(fx.Checked(block(), True)), fx.Persist)
    assert first.signer is not None
    first.signer.persist(persist.record, persist.bodies)
    saved, bodies = first.signer.load(1)
    second = Bench(saved=saved, bodies=bodies)
    assert of(second.out, fx.Check) == [fx.Check(block())]
    second.do(fx.Checked(block(), True))
    assert [value for value in sent(first.out) if isinstance(value, Vote)] == [vote(0, block().hash)]
    again = second.timer("rebroadcast")
    assert vote(0, block().hash) in sent(again)
    assert second.engine.block(block().hash) == block()  # served from the sign database


def test_a_new_set_begins_at_its_height() -> None:
    bench = Bench(me=5, n=4)
    assert bench.engine.core.me is None
    bench.decide(block())
    bench.n = 7
    made = bench.commit(block(), certificate(block()))
    assert bench.engine.core.me == 5 and of(made, fx.SetTimer)
    late = certificate(block(), (0, 1, 2), round_=1)  # the first block of a session brings one of the old set
    assert not of(bench.frame(final=FinalBlock(block().header, late)), fx.Penalise)


def test_late_answers_are_dropped() -> None:
    bench = Bench()
    bench.decide(block())
    bench.commit(block())
    late = (fx.Checked(block(3), True), fx.Built(1, 0, block(3)), fx.Committed(bench.tip(1, NIL)), fx.Verified(99, ()))
    assert bench.do(*late) == []


# --- the doppelgänger wait ---------------------------------------------------------------------------------------------


def watching(n: int = 4) -> Bench:
    bench = Bench(n=n, watch_first=True)
    assert bench.engine.core.me is None and "watch" in [timer.kind for timer in of(bench.out, fx.SetTimer)]
    return bench


def test_a_new_sign_database_listens_and_another_copy_of_the_key_stops_it() -> None:
    bench = watching()
    assert of(bench.frame(vote(1)), fx.Verify) == []
    assert of(bench.frame(replace(vote(0), signature=bytes(64))), fx.Stop) == []  # a forgery proves nothing
    (stop,) = of(bench.frame(vote(0)), fx.Stop)
    assert stop.code == 20


def test_a_copy_is_noticed_although_the_set_shrank_while_its_vote_was_verified() -> None:
    bench = Bench(me=3, watch_first=True)
    bench.answering = False
    (check,) = of(bench.frame(vote(3)), fx.Verify)
    bench.answering = True
    bench.decide(block(), (0, 1, 2))
    bench.n = 2
    bench.commit(block(), certificate(block(), (0, 1, 2)))
    assert bench.engine.core.n == 2
    (stop,) = of(bench.do(check.run()), fx.Stop)
    assert stop.code == 20


def test_it_signs_after_the_wait_and_two_heights_only_above_the_highest() -> None:
    bench = watching()
    bench.mono = WATCH_MS
    assert of(bench.do(fx.Timer("watch", 0, 0)), fx.SetTimer)  # long enough, but no progress yet
    for height in (1, 2, 3):
        parent = GENESIS if height == 1 else block(0, height - 1).hash
        bench.decide(block(0, height, parent=parent))
        bench.commit(block(0, height, parent=parent), certificate(block(0, height, parent=parent)))
        assert bench.engine.core.me is None
    assert of(bench.do(fx.Timer("watch", 0, 0)), fx.SetTimer) == []
    bench.decide(block(0, 4))
    bench.commit(block(0, 4))
    assert bench.engine.core.me == 0 and bench.engine.core.height == 5


def test_without_progress_it_waits_longer_and_then_the_operators_word_is_needed() -> None:
    bench = watching(2)
    bench.mono = STALLED_MS - 1
    assert of(bench.do(fx.Timer("watch", 0, 0)), fx.SetTimer)
    bench.mono = STALLED_MS
    made = bench.do(fx.Timer("watch", 0, 0))
    assert of(made, fx.SetTimer) == [] and of(made, fx.Log)[0].fields == {"sign_from": 2}
    assert bench.engine.core.me is None  # height 1 may have been signed: only above
    assert Bench(n=2, watch_first=True, sign_from=1).engine.core.me == 0
    assert Bench(n=2, watch_first=True, sign_from=2).engine.core.me is None


def test_one_authority_needs_no_wait() -> None:
    assert Bench(n=1, watch_first=True).engine.core.me == 0
