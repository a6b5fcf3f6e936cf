"""What one authority knows while a height is open, its bounds, and the values that cross the core's border.

Durable (D) is what `record` returns; the rest is lost in a crash without harm. Votes and proposals of the rounds
[r - 1, r + 2] are kept in full, one and one conflicting per (authority, round, kind). Above the window only the highest
message of each authority is kept, below only certificates: the highest PoLC and one commit certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from .blocks import Block
from .crypto import digest
from .effects import Now
from .signer import STEP_PROPOSE, Signed, SignRecord
from .spec import ChainSpecParams
from .timing import Timing, clamp
from .votes import (
    KIND_TAG,
    NIL,
    PREVOTE,
    Certificate,
    Proposal,
    Status,
    Tally,
    Vote,
    leader,
    max_faulty,
    proposal_body,
    vote_body,
)

Sign = Callable[[str, int, bytes], bytes]  # (kind, height, body) -> signature; pure

ROUNDS_AHEAD: Final = 2
INHERENTS_ONLY_FROM_ROUND: Final = 6
MAX_VERDICTS: Final = 12  # executed blocks remembered; more than can bind at once
MAX_SERVED: Final = 256  # peers remembered by the limit on Finals
OTHER_SIGNER: Final = "another node signs with this key"

# --- between core and engine ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a height; only after the block before it is durable. `me` None: follow, sign nothing."""

    height: int
    parent_hash: bytes
    parent_timestamp_ms: int
    keys: tuple[bytes, ...]
    active: tuple[int, ...]
    me: int | None
    saved: SignRecord | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """Something of this height that a peer sent: shape, bounds and the author's signature were checked."""

    peer: str
    value: Proposal | Vote | Certificate | Status


@dataclass(frozen=True, slots=True)
class Save:
    """Make this record durable before any later Say."""

    record: SignRecord


@dataclass(frozen=True, slots=True)
class Say:
    """Send to all authorities."""

    value: Proposal | Vote | Certificate | Status


@dataclass(frozen=True, slots=True)
class Decide:
    """The block of this certificate is final: commit it, then Start the next height."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Want:
    """Get the block and have it checked; these authorities should have it."""

    hash: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two messages of one authority for one (height, round, kind) and different blocks."""

    first: Proposal | Vote
    second: Proposal | Vote


@dataclass(frozen=True, slots=True)
class Forget:
    """The block binds nobody here any more; a Want may bring it back."""

    hash: bytes


class Halt(Exception):
    """This node must not go on: exit code (20 the own key signs elsewhere, 21 two certificates, 22 a bad block final)."""

    def __init__(self, code: int, reason: str, **incident: Any) -> None:
        super().__init__(reason)
        self.code, self.reason, self.incident = code, reason, incident


# --- the state -----------------------------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """A proposal and the wall time at which it was accepted."""

    proposal: Proposal
    wall_ms: int


class Verdict(NamedTuple):
    """What executing a block has shown, and what the rules need of its header."""

    ok: bool
    timestamp_ms: int
    proposal_round: int


class HeightState:
    """The state of one height, reset by `begin`. A round of -1 means none; `stage` is the step within the round."""

    def __init__(self, params: ChainSpecParams, sign: Sign) -> None:
        self.params, self.timing, self.sign = params, Timing.of(params.block_time_ms), sign
        self.height = params.genesis_height
        self._served: dict[str, tuple[int, int]] = {}  # peer -> height and time of the last Final sent

    def begin(self, start: Start, now: Now) -> None:
        """Forget the height before; keep nothing of it."""
        self.height, self.keys, self.active, self.me = start.height, start.keys, start.active, start.me
        self.parent_hash, self.parent_timestamp_ms = start.parent_hash, start.parent_timestamp_ms
        self.n, self.f = len(start.keys), max_faulty(len(start.keys))
        # After a start the parent's age counts towards the interval, so that a restarted chain goes on at once. The
        # wall clock can only shorten this one wait: whatever it says, the wait is between nothing and one interval.
        interval_ms = self.timing.interval_ms
        self.t_parent = now.mono_ms - clamp(now.wall_ms - start.parent_timestamp_ms, 0, interval_ms)
        # durable
        self.round, self.stage = 0, STEP_PROPOSE
        self.signed: Signed | None = None
        self.locked_round, self.locked_hash = -1, NIL
        self.valid_round, self.valid_hash = -1, NIL
        self.valid_polc: Certificate | None = None
        self.prevoted_hash = NIL
        self.own: tuple[Proposal | None, Vote | None, Vote | None] = (None, None, None)
        self.why: tuple[Proposal | Vote, ...] = ()
        # heard
        self.proposals: dict[int, Accepted] = {}
        self.votes: dict[tuple[int, int], Tally] = {}  # (round, kind)
        self.highest: dict[int, Proposal | Vote] = {}
        self.held_polc: Certificate | None = None  # the highest one, perhaps without its body
        self.commit: Certificate | None = None
        self.conflicts: list[Conflict] = []
        # known of blocks
        self.verdict: dict[bytes, Verdict] = {}
        self.wanted: dict[bytes, None] = {}
        self.first_seen: dict[bytes, int] = {}  # mono time of the first accepted proposal
        # rules that fired in this round, rounds with two proposals
        self.done: dict[str, None] = {}
        self.disputed: dict[int, None] = {}

    def restore(self, saved: SignRecord) -> None:
        """Take over the durable part."""
        self.round, self.stage, self.signed, self.own, self.why = (
            saved.round, saved.step, saved.signed, saved.own, saved.why,
        )
        self.locked_round, self.locked_hash = saved.locked_round, saved.locked_hash
        self.valid_round, self.valid_hash, self.valid_polc = saved.valid_round, saved.valid_hash, saved.valid_polc
        self.prevoted_hash = saved.prevoted_hash

    def record(self) -> SignRecord:
        """The durable part."""
        return SignRecord(
            self.height, self.round, self.stage, self.signed, self.locked_round, self.locked_hash, self.valid_round,
            self.valid_hash, self.valid_polc, self.prevoted_hash, self.own, self.why,
        )

    def slide(self, round_: int) -> None:
        """Move to the start of a round: forget what is below the window."""
        self.round, self.stage, self.own, self.done = round_, STEP_PROPOSE, (None, None, None), {}
        self.proposals = {r: accepted for r, accepted in self.proposals.items() if r >= round_ - 1}
        self.votes = {(r, kind): tally for (r, kind), tally in self.votes.items() if r >= round_ - 1}
        self.disputed = {r: None for r in self.disputed if r >= round_ - 1}
        known = (self.valid_hash, self.locked_hash, *(a.proposal.block_hash for a in self.proposals.values()))
        self.first_seen = {block_hash: at for block_hash, at in self.first_seen.items() if block_hash in known}

    # --- signing: the only places where a message is made ------------------------------------------------------------

    def sign_proposal(self, block_hash: bytes, valid_round: int, polc: Certificate | None) -> Proposal:
        """Sign and remember as the newest signed message."""
        assert self.me is not None
        body = proposal_body(self.height, self.round, valid_round, block_hash)
        signature = self.sign("proposal", self.height, body)
        proposal = Proposal(self.height, self.round, valid_round, block_hash, self.me, signature, polc)
        self.own, self.signed = (proposal, None, None), (self.round, STEP_PROPOSE, digest("proposal", body))
        return proposal

    def sign_vote(self, kind: int, block_hash: bytes) -> Vote:
        """Sign and remember as the newest signed message; the stage becomes that of the vote's kind."""
        assert self.me is not None
        body = vote_body(self.height, self.round, block_hash)
        signature = self.sign(KIND_TAG[kind], self.height, body)
        vote = Vote(kind, self.height, self.round, block_hash, self.me, signature)
        self.own = (self.own[0], vote, None) if kind == PREVOTE else (self.own[0], self.own[1], vote)
        self.stage, self.signed = kind, (self.round, kind, digest(KIND_TAG[kind], body))
        if kind == PREVOTE and block_hash != NIL:
            self.prevoted_hash = block_hash
        return vote

    # --- hearing -----------------------------------------------------------------------------------------------------

    def note(self, message: Proposal | Vote, now: Now) -> None:
        """Take in a verified message. R12: Halt if it bears the own signature but was not made here."""
        step = message.kind if isinstance(message, Vote) else STEP_PROPOSE
        if message.index == self.me:
            mine = self.own[step] if message.round == self.round else None
            above = (message.round, step) > (self.signed[:2] if self.signed else (-1, -1))
            if above or (mine is not None and mine.block_hash != message.block_hash):
                raise Halt(20, OTHER_SIGNER, height=message.height, round=message.round)
        highest = self.highest.get(message.index)
        if highest is None or message.round > highest.round:
            self.highest[message.index] = message
        self.place(message, now)

    def hold_polc(self, certificate: Certificate) -> None:
        """Keep the highest PoLC."""
        if certificate.round > max(self.valid_round, self.held_polc.round if self.held_polc else -1):
            self.held_polc = certificate

    def hold_commit(self, certificate: Certificate) -> None:
        """Keep one commit certificate, that with most signers. Halt if two certify different blocks."""
        if self.commit is not None and self.commit.block_hash != certificate.block_hash:
            both = {"first": self.commit.encode().hex(), "second": certificate.encode().hex()}
            raise Halt(21, "two valid certificates for one height", **both)
        if self.commit is None or len(certificate.indexes) > len(self.commit.indexes):
            self.commit = certificate

    def judge(self, block: Block, ok: bool) -> list[bytes]:
        """Remember a verdict; returns the blocks that are forgotten for it."""
        self.verdict[block.hash] = Verdict(ok, block.header.timestamp_ms, block.header.proposal_round)
        binding = (*self.record().binding(), *(block_hash for block_hash, _ in self.named()), block.hash)
        spare = [known for known in self.verdict if known not in binding]
        forgotten = spare[: max(0, len(self.verdict) - MAX_VERDICTS)]
        for block_hash in forgotten:
            del self.verdict[block_hash]
        return forgotten

    def place(self, message: Proposal | Vote, now: Now) -> None:
        """Count a verified message of the window; a second, different one of the same place is a conflict."""
        if not self.round - 1 <= message.round <= self.round + ROUNDS_AHEAD:
            return
        first: Proposal | Vote | None
        if isinstance(message, Vote):
            first = self.votes.setdefault((message.round, message.kind), Tally(self.n)).add(message)
        else:
            self.first_seen.setdefault(message.block_hash, now.mono_ms)
            first = self.proposals.setdefault(message.round, Accepted(message, now.wall_ms)).proposal
            if first.block_hash == message.block_hash or message.round in self.disputed:
                return
            self.disputed[message.round] = None
        if first is not None and message.index == self.me:
            raise Halt(20, OTHER_SIGNER, height=self.height, round=message.round)
        if first is not None:
            self.conflicts.append(Conflict(first, message))

    def may_serve(self, peer: str, height: int, now: Now) -> bool:
        """At most one Final per peer and height in T_rebroadcast."""
        last_height, at_ms = self._served.get(peer, (-1, 0))
        if height == last_height and now.mono_ms - at_ms < self.timing.rebroadcast_ms:
            return False
        if len(self._served) >= MAX_SERVED:
            self._served.clear()
        self._served[peer] = (height, now.mono_ms)
        return True

    # --- questions ---------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        return Status(self.height, self.round, self.parent_hash)

    def leader(self, round_: int) -> int:
        """Index of the authority that proposes in a round."""
        return leader(self.keys, self.active, self.height, round_)

    def is_timely(self, accepted: Accepted, verdict: Verdict) -> bool:
        """The timestamp is near the wall clock of the moment of acceptance, or the least possible one."""
        off_ms = abs(accepted.wall_ms - verdict.timestamp_ms)
        return verdict.timestamp_ms == self.parent_timestamp_ms + 1 or off_ms <= self.timing.tolerance(self.round)

    def tally(self, kind: int) -> Tally:
        """The votes of this round."""
        return self.votes.get((self.round, kind)) or Tally(self.n)

    def may_propose(self) -> bool:
        """This node leads the round, nothing was proposed and nothing voted yet."""
        return self.me == self.leader(self.round) and self.stage == STEP_PROPOSE and self.own[0] is None

    def build_limits(self) -> tuple[int, int]:
        """Bytes and weight of a fresh block. A builder's rule: blocks shrink until they fit into a round."""
        if self.round >= INHERENTS_ONLY_FROM_ROUND:
            return 0, 0
        return self.params.max_block_bytes >> self.round, self.params.max_block_weight >> self.round

    def knows(self, message: Proposal | Vote | Certificate) -> bool:
        """Taking it in would change nothing."""
        if isinstance(message, Certificate):
            if message.kind == PREVOTE:
                return message.round <= max(self.valid_round, self.held_polc.round if self.held_polc else -1)
            return self.commit is not None and self.commit.block_hash == message.block_hash
        if message.round < self.round - 1:
            return True
        if message.round > self.round + ROUNDS_AHEAD:
            highest = self.highest.get(message.index)
            return highest is not None and highest.round >= message.round
        if isinstance(message, Vote):
            tally = self.votes.get((message.round, message.kind))
            return tally is not None and tally.knows(message)
        accepted = self.proposals.get(message.round)
        same = accepted is not None and accepted.proposal.block_hash == message.block_hash
        return same or message.round in self.disputed

    def is_ok(self, block_hash: bytes) -> bool:
        """The block is here, was executed and breaks no rule."""
        verdict = self.verdict.get(block_hash)
        return verdict is not None and verdict.ok

    def certified(self, kind: int, above: int = -1) -> list[Certificate]:
        """Quorums counted for one block, in rounds greater than `above`."""
        found = []
        for (round_, vote_kind), tally in self.votes.items():
            winner = tally.winner() if vote_kind == kind and round_ > above else None
            if winner is not None and winner != NIL:
                found.append(tally.certificate(winner))
        return found

    def polcs(self) -> list[Certificate]:
        """Prevote certificates newer than the valid one, newest first: counted ones and the held one."""
        held = [self.held_polc] if self.held_polc and self.held_polc.round > self.valid_round else []
        return sorted(held + self.certified(PREVOTE, self.valid_round), key=lambda certificate: -certificate.round)

    def skip_target(self) -> int:
        """The (f + 1)-th highest round in which an authority was seen: an honest one is there. -1 if too few spoke."""
        rounds = sorted((message.round for message in self.highest.values()), reverse=True)
        return rounds[self.f] if len(rounds) > self.f else -1

    def named(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """Blocks that something at hand names, with the authorities that should have them."""
        found = [(c.block_hash, c.indexes) for c in (self.commit, self.held_polc) if c is not None]
        if self.me is not None and self.round in self.proposals:
            found.append((self.proposals[self.round].proposal.block_hash, (self.leader(self.round),)))
        for tally in self.votes.values():
            found += [(block_hash, tally.supporters(block_hash)) for block_hash in tally.named(self.f + 1)]
        return found


def short(block_hash: bytes) -> str:
    """For traces."""
    return "nil" if block_hash == NIL else block_hash[:4].hex()
