"""The engine: consensus, chain, pool and sync of one node as one machine without I/O.

`Engine.handle(event, now) -> [Effect]` is called on one thread, never re-entered, with both clocks as arguments. All
events and effects are in `ledger.effects`. What a shell must do:

**Boot.** Open the chain and, with a session key, the sign database; feed `Boot` with the tip and `Signer.load(tip.height
+ 1)`. Before that nothing else. Then feed whatever happens, in the order in which it happens.

**Effects**, in the order of the list:
- *Free* effects (SetTimer, Verify, Build, Check, Fetch, ReportEvidence, Penalise, Verdict, Sync, SyncRefused, Stop, Log)
  are performed at once: they start work elsewhere and return. Verify runs on a verify thread (`effect.run()` is the answer),
  Build and Check on the chain thread, Fetch on the network and then the chain thread. Each answer is fed back as an event.
- *Gated* effects (Persist, Send, SendFinal, Publish, CommitBlock) go into one first-in-first-out lane for each node, over
  all calls of `handle`. The lane is worked off strictly in order: Persist and CommitBlock run on the node's disk thread,
  and nothing behind one of them starts before it is durable. So no Send ever goes before the Persist that stands before it:
  this is the whole of "no Send before Persist is durable", and it is safety, not politeness. A failed Persist or CommitBlock
  is never retried: the process ends (DoubleSignRisk 20, InvariantBroken 22, DiskFailure 24) with the lane unsent.
- If several Persists stand next to each other in the lane, `effects.coalesce` makes one of them.

**Answers.** Verify -> Verified · Build -> Built · Check, Fetch -> Checked (`ok` False only for `Rejected`; any other failure
stops the node) · CommitBlock -> Committed with the new tip · SetTimer -> Timer (one timer of each kind, the newest counts).
An answer may come late or never; it may not be made up.

**Also fed**: Frame (direct channel), Gossip (block topic, each answered by one Verdict), PeerUp, PeerDown, Synced (one
block at a time), Work (after each Committed too, while the pool is not empty), Seal. Requests of peers for an undecided
block are answered from `engine.block(hash)`.

With one authority nothing is sent, so nothing needs to be durable before the commit: a single Persist, not synced, follows
each CommitBlock and only keeps the guard up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .bft import Core, Trace
from .bft_state import Conflict, Decide, Forget, Message, Save, Say, Start, Want
from .blocks import Block, Header
from .effects import (
    Boot,
    Built,
    Check,
    Checked,
    CommitBlock,
    Committed,
    Effect,
    Event,
    Fetch,
    Frame,
    Gossip,
    Log,
    Now,
    PeerDown,
    PeerId,
    PeerUp,
    Penalise,
    Persist,
    Publish,
    ReportEvidence,
    Seal,
    Send,
    SetTimer,
    Stop,
    Sync,
    Synced,
    SyncRefused,
    Timer,
    Tip,
    Verdict,
    Verified,
    Work,
    is_gated,
)
from .errors import DecodeError
from .inbox import Inbox, Signable
from .messages import FinalBlock, Said, decode_bundle, decode_final, encode_bundle, encode_final, pack
from .signer import Domains, SignRecord, domain_at
from .spec import ChainSpecParams
from .timing import Timing
from .votes import NO_ROUND, PRECOMMIT, PROPOSAL, Certificate, Evidence, Proposal, Status, Vote
from .watch import WATCH_TICK_MS, Watch

MAX_PEERS: Final = 256

SignWith = Callable[[str, bytes, bytes], bytes]  # (kind, domain, body) -> signature: KeyPair.sign


@dataclass
class _Peer:
    session_key: bytes
    hinted_ms: int = -1


class Engine:
    """One node. `session_key` (public, 32 bytes) and `sign` are both None on a node that only follows."""

    def __init__(
        self, params: ChainSpecParams, domains: Domains, session_key: bytes | None = None, sign: SignWith | None = None,
        *, trace: Trace | None = None, watch_first: bool = False, sign_from: int = 0,
    ) -> None:
        """`watch_first`: the sign database is new although the key is not (doppelgänger wait); `sign_from`: the operator's
        word that no other copy of the key signed at or above that height, which replaces the wait."""
        self.params, self.domains, self.timing = params, domains, Timing.of(params.block_time_ms)
        self._key, self._sign = session_key, sign
        self._watch_first, self._sign_from = watch_first and sign_from == 0, sign_from
        self.core = Core(params, self._sign_at, trace)
        self.tip: Tip | None = None
        self.stopped = False
        self._watch: Watch | None = None
        self._saved: SignRecord | None = None
        self._peers: dict[PeerId, _Peer] = {}
        self._inbox = Inbox(self.core)
        self._guard: SignRecord | None = None  # with one authority: kept until the commit
        self._forget_height()

    def _forget_height(self) -> None:
        self._blocks: dict[bytes, Block] = {}
        self._checking: dict[bytes, None] = {}
        self._durable: dict[bytes, None] = {}  # bodies in the sign database
        self._inbox.forget_height()

    # --- the only door -----------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take in one event. The shell performs the effects as the module's docstring says."""
        self._now = now
        self._effects: list[Effect] = []
        self._said: list[Said] = []
        self._record: SignRecord | None = None
        if not self.stopped:
            _HANDLERS[type(event)](self, event)
        free = [effect for effect in self._effects if not is_gated(effect)]
        if any(isinstance(effect, Stop) for effect in free):
            self.stopped = True
            return free
        return [*self._persist(), *self._send(), *(effect for effect in self._effects if is_gated(effect)), *free]

    def block(self, block_hash: bytes) -> Block | None:
        """An undecided block that this node has, for peers who ask for it."""
        return self._blocks.get(block_hash)

    def _persist(self) -> list[Effect]:
        """At most one Persist for each event: the last record, with the binding bodies that are not durable yet."""
        record = self._record
        if record is None:
            return []
        if self.core.n == 1:
            self._guard = record.guard_only()
            return []
        new = [self._blocks.get(block_hash) for block_hash in record.binding() if block_hash not in self._durable]
        self._durable = dict.fromkeys(record.binding())
        return [Persist(record, tuple(block for block in new if block is not None))]

    def _send(self) -> list[Effect]:
        """One frame for all that this event made us say; more only if the limits of a frame ask for it."""
        if not self._said or self.core.n == 1:
            return []
        peers = tuple(peer for peer, info in self._peers.items() if info.session_key)
        headers = {block_hash: block.header for block_hash, block in self._blocks.items()}
        bundles = pack(self._said, headers) if peers else []
        return [Send(peers, encode_bundle(bundle), bool(bundle.votes)) for bundle in bundles]

    # --- heights -----------------------------------------------------------------------------------------------------

    def _boot(self, boot: Boot) -> None:
        self.tip, self._saved = boot.tip, boot.saved
        if self._watch_first and self._key is not None and len(boot.tip.authorities.keys) > 1:
            self._watch, self._inbox.listen_to = Watch.begin(boot.tip.height, self._now.mono_ms), self._key
            self._effects.append(SetTimer("watch", 0, 0, WATCH_TICK_MS))
            self._log("warning", "listening before signing: the sign database of this key is new")
        self._begin_height({block.hash: block for block in boot.bodies if block.height == boot.tip.height + 1})

    def _begin_height(self, bodies: dict[bytes, Block]) -> None:
        """Start the core on the height after the tip, then hand it what arrived early."""
        tip = self._tip
        height, keys = tip.height + 1, tip.authorities.keys
        self._forget_height()
        self._blocks.update(bodies)
        self._durable = dict.fromkeys(bodies)
        saved = self._saved
        if saved is not None and saved.height >= height and len(keys) == 1 and (saved.height > height or not any(saved.own)):
            self._effects.append(Stop(20, (
                f"the key has signed height {saved.height} but the chain ends at {tip.height}: the chain database is older "
                "than the sign database; restore the newer chain database, or rewind the devnet (a new signing domain)"
            )))
            return
        me = keys.index(self._key) if self._key in keys and self._may_sign(height) else None
        self._core(Start(height, tip.hash, tip.timestamp_ms, keys, tip.authorities.active, me, saved))
        for block in bodies.values():
            self._want(block.hash, ())
        for peer, values in self._inbox.take_early().items():
            self._sift(peer, values, {})

    def _may_sign(self, height: int) -> bool:
        if self._watch is not None or height < self._sign_from:
            return False
        return self._saved is None or height >= self._saved.height

    @property
    def _tip(self) -> Tip:
        assert self.tip is not None, "Boot comes first"
        return self.tip

    def _committed(self, event: Committed) -> None:
        tip, height = event.tip, self.core.height
        if tip.height != height or not self.core.idle:
            return
        self.tip, self._inbox.tip_keys = tip, self.core.keys
        mine = tip.header is not None and self.core.keys[tip.header.proposer_index] == self._key
        if self._watch is not None:
            self._watch.saw(tip.height, self._now.mono_ms)
        if mine:
            self._publish_final()
        elif self._key is not None:
            self._effects.append(SetTimer("final", tip.height, 0, self.timing.rebroadcast_ms))
        self._begin_height({})

    def _publish_final(self) -> None:
        tip = self._tip
        if tip.header is not None and tip.certificate is not None:
            self._effects.append(Publish("block", encode_final(tip.header, tip.certificate)))

    # --- messages ----------------------------------------------------------------------------------------------------

    def _frame(self, event: Frame) -> None:
        try:
            bundle = decode_bundle(event.data)
        except DecodeError as error:
            self._effects.append(Penalise(event.peer, str(error), 20))
            return
        headers = dict(bundle.headers or {})
        final = []
        if bundle.final is not None:
            final, headers[bundle.final.header.hash] = self._final(event.peer, bundle.final), bundle.final.header
        self._sift(event.peer, [*bundle.votes, *bundle.proposals, *bundle.certificates, *final], headers)
        if bundle.status is not None:
            self._status(event.peer, bundle.status)

    def _gossip(self, event: Gossip) -> None:
        try:
            final = decode_final(event.data)
        except DecodeError as error:
            self._effects += [Verdict(event.ticket, False), Penalise(event.peer, str(error), 20)]
            return
        if not self._sift(event.peer, self._final(event.peer, final), {final.header.hash: final.header}, event.ticket):
            self._effects.append(Verdict(event.ticket, None))

    def _sift(
        self, peer: PeerId, values: Sequence[Signable], headers: Mapping[bytes, Header], ticket: int | None = None
    ) -> bool:
        """Have those values verified that are worth it. True if there are any. `headers`: that came along, by hash."""
        info = self._peers.get(peer)
        for value in values:
            self._inbox.repeat(peer, value)
            self._inbox.keep_early(peer, info.session_key if info else b"", value)
        if any(self._inbox.is_misplaced(value) for value in values):
            self._effects.append(Penalise(peer, "a vote or proposal of somebody who may not make it", 20))
        news = [
            value for value in values if not self._inbox.is_misplaced(value)
            and (self._inbox.is_news(value) or (ticket is not None and self._inbox.is_first_final(value)))
        ]
        checks = [
            self._inbox.begin(
                peer, height, [value for value in news if value.height == height], domain_at(self.domains, height),
                ticket=ticket, headers=headers,
            )
            for height in dict.fromkeys(value.height for value in news)
        ]
        self._effects += [check for check in checks if check is not None]
        return any(checks)

    def _final(self, peer: PeerId, final: FinalBlock) -> list[Certificate]:
        """The certificate, if it is of the height in work or of the tip; later ones are a hint for sync."""
        if final.height > self.core.height:
            self._hint(peer, final.height, final.certificate)
            return []
        return [final.certificate]

    def _status(self, peer: PeerId, status: Status) -> None:
        if status.height >= self.core.height + 2:
            self._hint(peer, status.height - 1)
        else:
            self._core(Message(peer, status))

    def _hint(self, peer: PeerId, height: int, certificate: Certificate | None = None) -> None:
        """Tell sync, at most once per peer in T_rebroadcast."""
        info, now_ms = self._peers.get(peer), self._now.mono_ms
        if info is None or (info.hinted_ms >= 0 and now_ms - info.hinted_ms < self.timing.rebroadcast_ms):
            return
        info.hinted_ms = now_ms
        self._effects.append(Sync(peer, height, certificate.block_hash if certificate else b"", certificate))

    def _verified(self, event: Verified) -> None:
        pending = self._inbox.end(event)
        if pending is None:
            return
        bad = len(pending.values) > len(event.good)
        if pending.ticket is not None:
            self._effects.append(Verdict(pending.ticket, not bad))
            if not bad:
                self._inbox.final_seen = max(self._inbox.final_seen, pending.height)
        if pending.synced is None:
            self._effects += [Penalise(pending.peer, "invalid signature", 50)] if bad else []
        elif bad and pending.height == self.core.height:
            self._effects.append(SyncRefused(pending.height))
        elif pending.height == self.core.height:
            self._blocks.setdefault(pending.synced.hash, pending.synced)
        for value in event.good:
            self._inbox.name(pending, value)
            self._accept(pending.peer, value, pending.keys)

    def _accept(self, peer: PeerId, value: Signable, keys: Sequence[bytes]) -> None:
        """A verified value reaches the core, or proves that something is very wrong. `keys` verified it."""
        tip = self._tip
        if self._watch is not None:
            self._watch.saw(value.height - 1, self._now.mono_ms)
            if not isinstance(value, Certificate) and keys[value.index] == self._key:
                self._effects.append(Stop(20, "another node signs with this key"))
        if value.height == self.core.height:
            self._core(Message(peer, value))
        elif isinstance(value, Certificate) and value.height == tip.height and value.block_hash != tip.hash:
            both = {"first": tip.certificate.encode().hex() if tip.certificate else "", "second": value.encode().hex()}
            self._effects.append(Stop(21, "two valid certificates for one height", both))

    def _synced(self, event: Synced) -> None:
        block, certificate = event.block, event.certificate
        if block.height != self.core.height or self.core.idle:
            return
        named = (certificate.kind, certificate.height, certificate.block_hash)
        check = None
        if named == (PRECOMMIT, block.height, block.hash):
            domain = domain_at(self.domains, block.height)
            check = self._inbox.begin("", block.height, [certificate], domain, synced=block)
        self._effects.append(SyncRefused(block.height) if check is None else check)

    # --- between core and shell --------------------------------------------------------------------------------------

    def _core(self, event: Any) -> None:
        for effect in self.core.step(event, self._now):
            handler = _TRANSLATED.get(type(effect))
            if handler is None:
                self._effects.append(effect)
            else:
                handler(self, effect)

    def _save(self, effect: Save) -> None:
        self._record = effect.record

    def _say(self, effect: Say) -> None:
        self._said.append(effect.value)

    def _decide(self, effect: Decide) -> None:
        certificate = effect.certificate
        block = self._blocks[certificate.block_hash]
        self._effects.append(CommitBlock(block, certificate))
        if self._guard is not None or (self.core.n == 1 and self._record is not None):
            record = self._record.guard_only() if self._record is not None else self._guard
            assert record is not None
            self._guard = self._record = None
            self._effects.append(Persist(record, (), sync=False))
        if certificate.round > 0:
            self._log("info", "decided late", height=block.height, round=certificate.round)

    def _wanted(self, effect: Want) -> None:
        self._want(effect.hash, effect.indexes)

    def _want(self, block_hash: bytes, indexes: tuple[int, ...]) -> None:
        """Have the block checked; fetch it first if it is not at hand."""
        block = self._blocks.get(block_hash)
        if block_hash in self._checking:
            return
        if block is not None:
            self._checking[block_hash] = None
            self._effects.append(Check(block))
            return
        holders = [self.core.keys[index] for index in indexes if index != self.core.me]
        peers = [peer for key in holders for peer, info in self._peers.items() if info.session_key == key]
        peers += self._inbox.sources.get(block_hash, [])
        header = self._inbox.headers.get(block_hash)
        self._effects.append(Fetch(block_hash, self.core.height, tuple(dict.fromkeys(peers)), header))

    def _checked(self, event: Checked) -> None:
        block = event.block
        if block.height != self.core.height or self.core.idle:
            return
        self._checking.pop(block.hash, None)
        self._blocks[block.hash] = block
        if not event.ok:
            self._log("warning", "bad block", hash=block.hash.hex(), reason=event.reason)
        self._core(event)

    def _built(self, event: Built) -> None:
        if (event.height, event.round) == (self.core.height, self.core.round) and not self.core.idle:
            self._blocks[event.block.hash] = event.block
            self._core(event)

    def _forget(self, effect: Forget) -> None:
        self._blocks.pop(effect.hash, None)

    def _conflict(self, effect: Conflict) -> None:
        first, second = effect.first, effect.second
        key, kind = self.core.keys[first.index], first.kind if isinstance(first, Vote) else PROPOSAL
        self._log("warning", "authority signed two things", key=key.hex(), height=first.height, round=first.round)
        self._effects.append(ReportEvidence(Evidence(
            kind, key, first.height, first.round, first.block_hash, _valid_round(first), first.signature,
            second.block_hash, _valid_round(second), second.signature,
        )))

    def _timer(self, event: Timer) -> None:
        if event.kind == "final":
            if event.height == self._tip.height > self._inbox.final_seen:
                self._publish_final()
        elif event.kind == "watch":
            self._watch_tick()
        else:
            self._core(event)

    def _watch_tick(self) -> None:
        watch = self._watch
        if watch is None:
            return
        if not watch.is_over(self._now.mono_ms):
            self._effects.append(SetTimer("watch", 0, 0, WATCH_TICK_MS))
            return
        self._watch, self._inbox.listen_to, self._sign_from = None, None, watch.highest_seen + 2
        self._log("info", "no other copy of this key was seen", sign_from=self._sign_from)

    def _peer_up(self, event: PeerUp) -> None:
        if event.peer in self._peers or len(self._peers) < MAX_PEERS:
            self._peers[event.peer] = _Peer(event.session_key)
        if event.height >= self.core.height + 1:
            self._hint(event.peer, event.height)

    def _peer_down(self, event: PeerDown) -> None:
        self._peers.pop(event.peer, None)

    def _sign_at(self, kind: str, height: int, body: bytes) -> bytes:
        assert self._sign is not None
        return self._sign(kind, domain_at(self.domains, height), body)

    def _log(self, level: Any, event: str, **fields: Any) -> None:
        self._effects.append(Log(level, event, fields))


def _valid_round(message: Vote | Proposal) -> int:
    return message.valid_round if isinstance(message, Proposal) else NO_ROUND


_HANDLERS: Final[dict[type, Callable[[Engine, Any], None]]] = {
    Boot: Engine._boot, Frame: Engine._frame, Gossip: Engine._gossip, Verified: Engine._verified, Timer: Engine._timer,
    Built: Engine._built, Checked: Engine._checked, Committed: Engine._committed, PeerUp: Engine._peer_up,
    PeerDown: Engine._peer_down, Synced: Engine._synced, Work: Engine._core, Seal: Engine._core,
}
_TRANSLATED: Final[dict[type, Callable[[Engine, Any], None]]] = {
    Save: Engine._save, Say: Engine._say, Decide: Engine._decide, Want: Engine._wanted, Forget: Engine._forget,
    Conflict: Engine._conflict,
}
