"""The pool: extrinsics and inherent candidates that wait for a block.

Everything is bounded (bytes, number, per account, nonce gap, free calls, time to live). An extrinsic enters through
`admit` (the rules' cheap checks against the head's state), one signature check and `insert`; it leaves by inclusion,
expiry, replacement, eviction (`ledger.waiting` says who goes first) or when a block made it invalid. What is in the pool
is verified: importing a block that carries it costs no signature.

Order in a block: by class, then by id, each account in nonce order; fees do not change the order. After a block only the
accounts that it touched are looked at (nonce and money), and a few of the others are judged again in turn. One thread
owns a pool.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from types import MappingProxyType
from typing import Final

from .blocks import MAX_BODY_ITEMS, MAX_EXTRINSIC_BYTES, Extrinsic, encode_inherents
from .chain import Chain, ExecutedBlock
from .errors import DecodeError, Rejected
from .verdict import check_birth, signature_task, verify_one_by_one
from .waiting import AccountQueue, Candidate, Worth

__all__ = ["Candidate", "Pool", "PoolLimits", "read_dump"]

MAX_INHERENT_BYTES: Final = 16 * 1024
INHERENT_LIFE_BLOCKS: Final = 1024
REVALIDATED_PER_BLOCK: Final = 128  # entries judged again after a block, those not judged for longest first
ENTRY_OVERHEAD_BYTES: Final = 5  # longest CBOR head of an extrinsic in the body
CERTIFICATE_OVERHEAD_BYTES: Final = 256  # of the parent certificate beside its signatures, and of the body itself
DUMP_MAGIC: Final = b"quorix pool 1\n"
DIGEST_BYTES: Final = 32
LENGTH_BYTES: Final = 4
KEY_BYTES: Final = 32


@dataclass(frozen=True)
class PoolLimits:
    extrinsics: int = 5_000
    bytes: int = 16 << 20
    per_account: int = 64
    nonce_gap: int = 16  # nonces missing before an extrinsic
    feeless: int = 8  # of one account, waiting: calls that the rules give away
    inherents: int = 256
    inherents_per_author: int = 2  # of one kind: a third replaces the oldest


class Pool:
    """See the module. Refusals are `Rejected` with a stable name: AlreadyKnown, NonceTooLow, NonceGap, AccountFull,
    TooManyFreeCalls, FeeTooLowToReplace, PoolFull, Expired, UnknownBirth, BadSignature, or a name of the machine's."""

    def __init__(self, chain: Chain, limits: PoolLimits | None = None) -> None:
        self.limits = limits or PoolLimits()
        self._chain = chain
        self.changes = 0  # entries that came or left since the start
        self.on_rewind()

    # --- entering -----------------------------------------------------------------------------------------------

    def submit(self, raw: bytes) -> bytes:
        """admit, verify the signature here, insert; returns the extrinsic's id. Raises DecodeError or Rejected."""
        candidate = self.admit(raw)
        if not verify_one_by_one([candidate.signature])[0]:
            raise Rejected("BadSignature", "the extrinsic is not signed by its signer")
        return self.insert(candidate)

    def admit(self, raw: bytes, coming: Mapping[bytes, Collection[int]] = MappingProxyType({})) -> Candidate:
        """All checks but the signature. Raises DecodeError or Rejected (AlreadyKnown for a duplicate).

        `coming`: nonces, by signer, that are to be inserted before this one.
        """
        if raw in self._verified:
            raise Rejected("AlreadyKnown", "the extrinsic is in the pool already")
        extrinsic = Extrinsic.decode(raw)
        self._check_unknown(extrinsic)
        candidate = self._judge(extrinsic, raw)
        self._check_room(candidate, coming.get(extrinsic.signer, ()))
        return candidate

    def admit_all(self, raws: Iterable[bytes]) -> tuple[list[Candidate], list[Rejected]]:
        """admit for many that are to be inserted in this order, and the refusals (Malformed for a DecodeError)."""
        candidates: list[Candidate] = []
        refusals: list[Rejected] = []
        coming: dict[bytes, set[int]] = {}
        for raw in raws:
            try:
                candidate = self.admit(raw, coming)
            except Rejected as refusal:
                refusals.append(refusal)
                continue
            except DecodeError as error:
                refusals.append(Rejected("Malformed", error.cause))
                continue
            coming.setdefault(candidate.extrinsic.signer, set()).add(candidate.extrinsic.nonce)
            candidates.append(candidate)
        return candidates, refusals

    def insert(self, candidate: Candidate) -> bytes:
        """Take in a candidate whose signature was found valid; returns its id. Raises Rejected."""
        fresh = candidate
        if candidate.head_hash != self._chain.head.hash:
            fresh = self._judge(candidate.extrinsic, candidate.raw)
            if fresh.signature != candidate.signature:
                raise Rejected("UnknownBirth", "the birth block was replaced")
        self._check_unknown(fresh.extrinsic)
        for displaced in self._check_room(fresh):
            self._discard(displaced)
        self._add(fresh)
        return fresh.extrinsic.id

    def add_inherent(self, kind: int, payload: bytes, author: bytes = b"") -> bool:
        """Remember an inherent candidate (evidence, heartbeat); False if it is known or too long, or no room is left.

        `author`: the key whose signatures it holds. One key has little room, or it could take everybody's.
        """
        key = (kind, payload)
        if key in self._inherents or len(payload) > MAX_INHERENT_BYTES:
            return False
        same = [other for other, by in self._authors.items() if by == author and other[0] == kind] if author else []
        if len(same) >= self.limits.inherents_per_author:
            self._forget_inherent(same[0])
        if len(self._inherents) >= self.limits.inherents:
            return False
        self._inherents[key] = self._chain.head.height
        if author:
            self._authors[key] = author
        return True

    # --- for a block --------------------------------------------------------------------------------------------

    def select(self, max_bytes: int, max_weight: int) -> list[Extrinsic]:
        """For a block on the head whose encoded body has at most `max_bytes`: by class, then id, within the limits.

        A quarter of both limits is kept for the operational class. Room for the parent certificate and the inherent
        candidates is left free.
        """
        room = max_bytes - CERTIFICATE_OVERHEAD_BYTES - 64 * len(self._chain.authorities().keys)
        room -= len(encode_inherents(self.inherents()))
        normal_room, normal_weight = room * 3 // 4, max_weight * 3 // 4
        chosen: list[Extrinsic] = []
        used_bytes = used_weight = normal_bytes = normal_used = 0
        waiting = [(-first.admission.priority, first.extrinsic.id, first) for first in self._first_of_each()]
        heapq.heapify(waiting)
        while waiting and len(chosen) < MAX_BODY_ITEMS - 2:
            _, _, entry = heapq.heappop(waiting)
            size, weight = len(entry.raw) + ENTRY_OVERHEAD_BYTES, entry.admission.weight
            if used_bytes + size > room or used_weight + weight > max_weight:
                continue  # the account's later ones cannot go before it
            if not entry.is_operational:
                if normal_bytes + size > normal_room or normal_used + weight > normal_weight:
                    continue
                normal_bytes, normal_used = normal_bytes + size, normal_used + weight
            used_bytes, used_weight = used_bytes + size, used_weight + weight
            extrinsic = entry.extrinsic
            chosen.append(extrinsic)
            if (after := self._queues[extrinsic.signer].ready(extrinsic.nonce + 1)) is not None:
                heapq.heappush(waiting, (-after.admission.priority, after.extrinsic.id, after))
        return chosen

    def inherents(self) -> list[tuple[int, bytes]]:
        """Inherent candidates, oldest first."""
        return list(self._inherents)

    @property
    def verified(self) -> Mapping[bytes, Extrinsic]:
        """Extrinsics by their bytes: their signatures hold on this chain. For `Chain.check`; safe to read anywhere."""
        return self._verified

    def on_block(self, executed: ExecutedBlock) -> list[bytes]:
        """After a commit: drop what was included, expired or became invalid; returns the ids dropped unincluded.

        Of the accounts that the block touched, nonce and money are read anew, once for each; the rules' own checks are
        repeated for few entries only, since what they would refuse now a builder leaves out, and names as refused.
        """
        touched = self._touched(executed)
        for extrinsic in executed.extrinsics:
            if (entry := self._entries.get(extrinsic.id)) is not None:
                self._remove(entry)
        refused = (self._entries[each] for each in executed.refused if each in self._entries)
        leaving = {entry.extrinsic.id: entry for entry in (*refused, *self._expired())}
        for entry in leaving.values():
            self._remove(entry)
            touched[entry.extrinsic.signer] = None
        dropped = list(leaving)
        for signer in touched:
            dropped += self._settle(signer)
        for entry in list(islice(self._entries.values(), REVALIDATED_PER_BLOCK)):
            if entry.extrinsic.id in self._entries and not self._revalidate(entry):
                dropped.append(entry.extrinsic.id)
        self._drop_inherents(executed, self._chain.head.height)
        return dropped

    def on_rewind(self) -> None:
        """After a rewind: forget everything (birth blocks may have changed)."""
        self.changes += 1
        self._entries: dict[bytes, Candidate] = {}  # by id; those judged longest ago come first
        self._queues: dict[bytes, AccountQueue] = {}  # by signer
        self._verified: dict[bytes, Extrinsic] = {}
        self._expiring: dict[int, dict[bytes, None]] = {}  # last height that can include it -> ids
        self._worst: list[tuple[Worth, int, bytes]] = []  # heap of (worth, -nonce, id); may hold what is not so any more
        self._inherents: dict[tuple[int, bytes], int] = {}  # -> head height when it came
        self._authors: dict[tuple[int, bytes], bytes] = {}  # of the inherents whose author is known
        self._bytes = 0

    # --- looking ------------------------------------------------------------------------------------------------

    def get(self, extrinsic_id: bytes) -> Extrinsic | None:
        """A waiting extrinsic."""
        entry = self._entries.get(extrinsic_id)
        return None if entry is None else entry.extrinsic

    def __contains__(self, extrinsic_id: object) -> bool:
        return extrinsic_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes of all waiting extrinsics."""
        return self._bytes

    def ready(self) -> bool:
        """True iff a block made now would carry an extrinsic."""
        return next(self._first_of_each(), None) is not None

    def pending(self, limit: int) -> list[Extrinsic]:
        """What waits: first what is ready, in the order in which it would be included, then the rest."""
        ready = {extrinsic.id: extrinsic for extrinsic in self.select(self.limits.bytes * 2, 1 << 64)}
        rest = (entry.extrinsic for entry in self._entries.values() if entry.extrinsic.id not in ready)
        return [*ready.values(), *rest][:limit]

    def of_account(self, account: bytes) -> list[Extrinsic]:
        """Waiting extrinsics of one account in nonce order."""
        queue = self._queues.get(account)
        return [] if queue is None else [entry.extrinsic for entry in queue.in_order()]

    def next_nonce(self, account: bytes, state_nonce: int) -> int:
        """The nonce a client should use next, counting what waits without a gap."""
        queue = self._queues.get(account)
        while queue is not None and state_nonce in queue.entries:
            state_nonce += 1
        return state_nonce

    def dump(self) -> bytes:
        """All waiting extrinsics as bytes, for `read_dump`, each account's in nonce order."""
        raws = (entry.raw for queue in self._queues.values() for entry in queue.in_order())
        frames = b"".join(len(raw).to_bytes(LENGTH_BYTES, "big") + raw for raw in raws)
        return DUMP_MAGIC + _checksum(frames) + frames

    # --- inside -------------------------------------------------------------------------------------------------

    def _check_unknown(self, extrinsic: Extrinsic) -> None:
        if extrinsic.id in self._entries:
            raise Rejected("AlreadyKnown", "the extrinsic is in the pool already")

    def _judge(self, extrinsic: Extrinsic, raw: bytes) -> Candidate:
        """Checks against the chain: birth, then the machine's. Raises Rejected."""
        chain, head, view = self._chain, self._chain.head, self._chain.view()
        task = signature_task(extrinsic, head.height + 1, chain.params.genesis_hash, chain.hash_at)
        admission = chain.machine.admit(view, extrinsic, head.height + 1)
        standing = chain.machine.standing(view, extrinsic.signer)
        if extrinsic.nonce < standing.next_nonce:
            raise Rejected("NonceTooLow", f"nonce {extrinsic.nonce}, the account's next is {standing.next_nonce}")
        return Candidate(extrinsic, raw, admission, standing, task, head.hash)

    def _check_room(self, candidate: Candidate, coming: Collection[int] = ()) -> list[Candidate]:
        """The entries that must leave for this one. Raises Rejected if it is not worth that."""
        nonce, limits = candidate.extrinsic.nonce, self.limits
        queue = self._queues.get(candidate.extrinsic.signer) or AccountQueue(candidate.standing)
        old = queue.entries.get(nonce)
        if old is not None:
            least = old.admission.fee_rao + max(1, -(-old.admission.fee_rao // 10))
            if candidate.admission.fee_rao < least:
                raise Rejected("FeeTooLowToReplace", f"nonce {nonce} is taken; {least} rao would replace it")
            return [old, *self._make_room(candidate, queue, old)]
        if queue.missing_before(nonce, candidate.standing.next_nonce, coming) > limits.nonce_gap:
            next_nonce = candidate.standing.next_nonce
            raise Rejected("NonceGap", f"nonce {nonce} is too far from the account's next, {next_nonce}")
        if len(queue) >= limits.per_account:
            raise Rejected("AccountFull", f"{len(queue)} extrinsics of this account are waiting")
        if candidate.is_feeless and queue.feeless() >= limits.feeless:
            raise Rejected("TooManyFreeCalls", f"{limits.feeless} free calls of this account are waiting")
        return self._make_room(candidate, queue, None)

    def _make_room(self, candidate: Candidate, queue: AccountQueue, old: Candidate | None) -> list[Candidate]:
        """The worst entries, all worth less than the candidate, that must leave beside the one it replaces."""
        limits = self.limits
        surplus = len(self._entries) + (old is None) - limits.extrinsics
        surplus_bytes = self._bytes + len(candidate.raw) - (0 if old is None else len(old.raw)) - limits.bytes
        if surplus <= 0 and surplus_bytes <= 0:
            return []
        worth = queue.worth_with(candidate)
        displaced: list[Candidate] = []
        seen = []
        try:
            while surplus > 0 or surplus_bytes > 0:
                if not self._worst:
                    raise Rejected("PoolFull", "the pool is full")
                item = heapq.heappop(self._worst)
                entry = self._entries.get(item[2])
                if entry is None or self._queues[entry.extrinsic.signer].worth(entry.extrinsic.nonce) != item[0]:
                    continue  # left, or is worth something else now
                seen.append(item)
                if item[0] >= worth:
                    raise Rejected("PoolFull", "the pool is full and everything in it is worth more")
                if entry is not old:
                    displaced.append(entry)
                    surplus, surplus_bytes = surplus - 1, surplus_bytes - len(entry.raw)
        finally:
            for item in dict.fromkeys(seen):
                heapq.heappush(self._worst, item)
        return displaced

    def _add(self, entry: Candidate) -> None:
        extrinsic = entry.extrinsic
        self.changes += 1
        self._entries[extrinsic.id] = entry
        queue = self._queues.setdefault(extrinsic.signer, AccountQueue(entry.standing))
        queue.entries[extrinsic.nonce], queue.standing = entry, entry.standing
        self._verified[entry.raw] = extrinsic
        self._expiring.setdefault(extrinsic.birth_height + extrinsic.period, {})[extrinsic.id] = None
        self._bytes += len(entry.raw)
        self._rank(queue)

    def _rank(self, queue: AccountQueue) -> None:
        for worth, entry in queue.rank():
            heapq.heappush(self._worst, (worth, -entry.extrinsic.nonce, entry.extrinsic.id))
        if len(self._worst) > 2 * len(self._entries) + 64:
            self._worst = [
                (self._queues[entry.extrinsic.signer].worth(entry.extrinsic.nonce), -entry.extrinsic.nonce, extrinsic_id)
                for extrinsic_id, entry in self._entries.items()
            ]
            heapq.heapify(self._worst)

    def _remove(self, entry: Candidate) -> None:
        """Take an entry out; its account must be ranked or settled afterwards."""
        extrinsic = entry.extrinsic
        self.changes += 1
        del self._entries[extrinsic.id]
        del self._verified[entry.raw]
        del self._queues[extrinsic.signer].entries[extrinsic.nonce]
        self._bytes -= len(entry.raw)
        last = extrinsic.birth_height + extrinsic.period
        if (ids := self._expiring.get(last)) is not None:
            ids.pop(extrinsic.id, None)
            if not ids:
                del self._expiring[last]

    def _discard(self, entry: Candidate) -> None:
        self._remove(entry)
        queue = self._queues[entry.extrinsic.signer]
        if queue.entries:
            self._rank(queue)
        else:
            del self._queues[entry.extrinsic.signer]

    def _expired(self) -> Iterator[Candidate]:
        """Those that the next block could not carry."""
        height = self._chain.head.height
        for last in [last for last in self._expiring if last <= height]:
            yield from [self._entries[extrinsic_id] for extrinsic_id in self._expiring[last]]

    def _touched(self, executed: ExecutedBlock) -> dict[bytes, None]:
        """Accounts with waiting extrinsics that signed in the block, or whose key ends the key of a changed row."""
        signers = (extrinsic.signer for extrinsic in executed.extrinsics)
        changed = (key[-KEY_BYTES:] for key in executed.result.changes)
        return {key: None for some in (signers, changed) for key in some if key in self._queues}

    def _settle(self, signer: bytes) -> list[bytes]:
        """Read an account's nonce and money again; drop what is behind the nonce or dearer than all it has."""
        queue = self._queues[signer]
        standing = queue.standing = self._chain.machine.standing(self._chain.view(), signer)
        hopeless = [
            entry for nonce, entry in queue.entries.items()
            if nonce < standing.next_nonce or entry.admission.fee_rao > standing.payable_rao
        ]
        for entry in hopeless:
            self._remove(entry)
        if queue.entries:
            self._rank(queue)
        else:
            del self._queues[signer]
        return [entry.extrinsic.id for entry in hopeless]

    def _revalidate(self, entry: Candidate) -> bool:
        """Judge an entry against the new head and move it to the end of the row; False if it had to leave."""
        extrinsic, chain, head = entry.extrinsic, self._chain, self._chain.head
        queue, view = self._queues[extrinsic.signer], chain.view()
        try:
            check_birth(extrinsic, head.height + 1, chain.hash_at)
            admission = chain.machine.admit(view, extrinsic, head.height + 1)
        except Rejected:
            self._discard(entry)
            return False
        queue.standing = chain.machine.standing(view, extrinsic.signer)
        fresh = Candidate(extrinsic, entry.raw, admission, queue.standing, entry.signature, head.hash)
        del self._entries[extrinsic.id]
        self._entries[extrinsic.id] = queue.entries[extrinsic.nonce] = fresh
        self._rank(queue)
        return True

    def _first_of_each(self) -> Iterator[Candidate]:
        """Of every account the extrinsic that the next block could carry."""
        for queue in self._queues.values():
            if (entry := queue.first()) is not None:
                yield entry

    def _drop_inherents(self, executed: ExecutedBlock, height: int) -> None:
        for kind, payload in executed.block.body.inherent_list():
            self._forget_inherent((kind, payload))
        for key, since in list(self._inherents.items()):
            if height - since > INHERENT_LIFE_BLOCKS:
                self._forget_inherent(key)

    def _forget_inherent(self, key: tuple[int, bytes]) -> None:
        self._inherents.pop(key, None)
        self._authors.pop(key, None)


# --- over a restart ----------------------------------------------------------------------------------------------


def read_dump(data: bytes) -> tuple[list[bytes], str]:
    """The extrinsics of a dump, and what is wrong with it ("" if nothing).

    Of a damaged one, what can be read: every extrinsic is checked again anyway, its signature too.
    """
    if not data.startswith(DUMP_MAGIC):
        return [], "it is not a pool's dump, or one of another version"
    start = len(DUMP_MAGIC) + DIGEST_BYTES
    frames = data[start:]
    found = list(islice(_frames(frames), PoolLimits.extrinsics))
    whole = _checksum(frames) == data[len(DUMP_MAGIC) : start]
    return found, "" if whole else "its checksum is wrong: what can be read is kept"


def _checksum(frames: bytes) -> bytes:
    return blake2b(frames, digest_size=DIGEST_BYTES).digest()


def _frames(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + LENGTH_BYTES <= len(data):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[start - LENGTH_BYTES : start], "big")
        if position - start > MAX_EXTRINSIC_BYTES or position > len(data):
            return
        yield data[start:position]
