"""What goes into the engine and what comes out of it: every event and every effect, as plain values.

`Engine.handle(event, now) -> list[Effect]` is the only door (`ledger.engine` says how a shell must perform effects). An
event that answers an effect names it: Verify -> Verified, Check and Fetch -> Checked, Build -> Built,
CommitBlock -> Committed, SetTimer -> Timer. The pure, heavy effects carry their own work (`Verify.run`).

Heights are block numbers, rounds start at 0, times are integer milliseconds, hashes and keys are 32 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .blocks import Block, Header
from .machine import AuthoritySet
from .signer import SignRecord
from .votes import Certificate, Evidence, Proposal, Vote

PeerId = str
TimerKind = Literal["make", "propose", "prevote", "precommit", "rebroadcast", "final", "watch"]


class Now(NamedTuple):
    """Both clocks at the moment of an event: `mono_ms` never goes back (timers), `wall_ms` is Unix time (ts)."""

    mono_ms: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Tip:
    """The last durable block, its certificate, and the set that certifies the next one.

    Before the first block: `height` = initial_height - 1, `hash` = genesis hash, `timestamp_ms` = genesis time,
    `header` and `certificate` None.
    """

    height: int
    hash: bytes
    timestamp_ms: int
    authorities: AuthoritySet
    header: Header | None = None
    certificate: Certificate | None = None


# --- events: what the shell tells the engine -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Boot:
    """First event, exactly once. `saved` and `bodies` are what `Signer.load` returned; both empty without a key."""

    tip: Tip
    saved: SignRecord | None = None
    bodies: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes of one frame of an authority's direct channel."""

    peer: PeerId
    data: bytes


@dataclass(frozen=True, slots=True)
class Gossip:
    """Bytes of one message on the block topic; answered by one Verdict with the same `ticket`."""

    peer: PeerId
    data: bytes
    ticket: int


@dataclass(frozen=True, slots=True)
class Verified:
    """Answer to the Verify with the same `number`: those of its values whose signatures all hold, in order."""

    number: int
    good: tuple[Proposal | Vote | Certificate, ...]


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer set by SetTimer fired."""

    kind: TimerKind
    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Built:
    """Answer to Build. Late answers are dropped by the engine."""

    height: int
    round: int
    block: Block


@dataclass(frozen=True, slots=True)
class Checked:
    """Answer to Check or Fetch: the block was executed once on its parent. `ok` is False only for a broken rule.

    An I/O or memory failure while checking is no verdict: the shell stops the node instead.
    """

    block: Block
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """Answer to CommitBlock: the block is durable. Nothing of the next height is signed before this event."""

    tip: Tip


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A peer said hello. `session_key` is empty unless it proved to be an authority (then it has a direct channel)."""

    peer: PeerId
    session_key: bytes = b""
    height: int = 0


@dataclass(frozen=True, slots=True)
class PeerDown:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Synced:
    """A block from sync with a certificate of it, both unverified.

    Feed one at a time: the next after Committed of this height or SyncRefused.
    """

    block: Block
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Work:
    """The pool is not empty (sealing mode `instant`). Repeat after each Committed while it still holds."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Make `count` blocks now (sealing mode `manual`)."""

    count: int


Event = (
    Boot | Frame | Gossip | Verified | Timer | Built | Checked | Committed | PeerUp | PeerDown | Synced | Work | Seal
)

# --- gated effects: performed strictly in order, none before an earlier Persist is durable --------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """`signer.persist(record, bodies, sync=sync)` on the disk thread. A failure ends the process (exit 20, 22, 24)."""

    record: SignRecord
    bodies: tuple[Block, ...]
    sync: bool = True


@dataclass(frozen=True, slots=True)
class Send:
    """One frame to each of these peers, on their direct channels. `votes`: it overtakes frames without votes."""

    peers: tuple[PeerId, ...]
    frame: bytes
    votes: bool


@dataclass(frozen=True, slots=True)
class SendFinal:
    """Read header and certificate of the committed `height` and send them to the peer, as `final` of a bundle."""

    peer: PeerId
    height: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Gossip on a topic. Only finality is gossiped here, on the topic "block"."""

    topic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class CommitBlock:
    """One atomic synced batch of block, state and certificate; then Committed.

    `Chain.check` of it again (free if its execution is still kept) and `prepare_commit` on the chain thread, `apply` on
    the disk thread.
    """

    block: Block
    certificate: Certificate


# --- free effects: performed at once, in any order -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire Timer(kind, height, round) in `delay_ms`. There is one timer of each kind: setting it again replaces it."""

    kind: TimerKind
    height: int
    round: int
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Verify:
    """Check signatures on a verify thread: `run()` is pure and returns the Verified event to feed back."""

    number: int
    values: tuple[Proposal | Vote | Certificate, ...]
    keys: tuple[bytes, ...]
    domain: bytes
    block: Block | None = None  # from sync: nothing is good unless its body is the one that its header commits to

    def run(self) -> Verified:
        if self.block is not None and not body_fits(self.block):
            return Verified(self.number, ())
        return Verified(self.number, tuple(value for value in self.values if value.verify(self.keys, self.domain)))


@dataclass(frozen=True, slots=True)
class Build:
    """Make a block on the head on the chain thread; then Built. Nothing of it can fail but by a fault: then stop.

    `max_bytes` bounds the encoded body, `max_weight` the extrinsics (0 and 0 = inherents only). What execution yielded
    may be kept, so that the Check that follows is quick.
    """

    height: int
    round: int
    timestamp_ms: int
    max_bytes: int
    max_weight: int


@dataclass(frozen=True, slots=True)
class Check:
    """Check the header against the head and execute the block once, on the chain thread; then Checked."""

    block: Block


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the block with this hash from these peers, in order, until one serves it; check it as in Check; then Checked.

    What a peer serves must pass `accepts`: else that peer is at fault (it says nothing about the block) and the next is
    asked. If none serves it, nothing is fed back: the engine asks again after T_rebroadcast. A Fetch of a hash that is
    being fetched replaces its list of peers and starts nothing new.
    """

    hash: bytes
    height: int
    peers: tuple[PeerId, ...]
    header: Header | None = None  # if it is known

    def accepts(self, block: Block) -> bool:
        """True iff this is the block of that hash, with the body that its header commits to."""
        return block.hash == self.hash and body_fits(block)


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """Give it to the pool as a candidate inherent."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Penalise:
    """Count against a peer: malformed 20, invalid signature or block 50; at 100 it is banned."""

    peer: PeerId
    reason: str
    points: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to Gossip: forward it (True), call it permanently invalid (False), or neither (None).

    Only what was verified here is forwarded: whoever forwards a false proof is taken for its author. None is the answer to
    what cannot be judged yet, is too old to matter, or adds nothing; it counts against nobody.
    """

    ticket: int
    accept: bool | None


@dataclass(frozen=True, slots=True)
class Sync:
    """Hint to the sync planner: this peer claims that the block at `height` is final. A claim, not a fact.

    `certificate` is the peer's proof of the block `block_hash`, not yet verified, if it gave one.
    """

    peer: PeerId
    height: int
    block_hash: bytes = b""
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class SyncRefused:
    """Answer to Synced: the certificate does not prove that block, or the body is not the header's."""

    height: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the node with this exit code. `incident` (text -> JSON-ready) is written to `incident/` first."""

    code: int
    reason: str
    incident: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Log:
    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


Gated = Persist | Send | SendFinal | Publish | CommitBlock
Free = SetTimer | Verify | Build | Check | Fetch | ReportEvidence | Penalise | Verdict | Sync | SyncRefused | Stop | Log
Effect = Gated | Free
GATED = (Persist, Send, SendFinal, Publish, CommitBlock)


def body_fits(block: Block) -> bool:
    """The body is the one that the header commits to. If not, whoever served it is at fault, never the block."""
    header, body = block.header, block.body
    return body.extrinsics_root == header.extrinsics_root and body.cert_hash == header.parent_cert_hash


def is_gated(effect: Effect) -> bool:
    """True for effects that wait for every earlier Persist of the same node."""
    return isinstance(effect, GATED)


def coalesce(persists: Sequence[Persist]) -> Persist:
    """Of consecutive Persists only the last record is written, with the new bodies of all."""
    bodies = {block.hash: block for persist in persists for block in persist.bodies}
    return Persist(persists[-1].record, tuple(bodies.values()), persists[-1].sync)
