"""The pool: extrinsics and inherent candidates that wait for a block.

Everything is bounded (bytes, number, per account, nonce gap, time to live). An extrinsic enters through `admit` (cheap
checks against the head's state), one signature check and `insert`; it leaves by inclusion, expiry, replacement, eviction
or when a block made it invalid. What is in the pool is verified: importing a block that carries it costs no signature.

Order in a block: by class, then by id, each account in nonce order; fees do not change the order. One thread owns a pool.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from .blocks import MAX_BODY_ITEMS, MAX_EXTRINSIC_BYTES, Extrinsic, encode_inherents
from .chain import Chain, ExecutedBlock
from .errors import DecodeError, Rejected
from .machine import OPERATIONAL_PRIORITY, Admission
from .verdict import SignatureTask, VerifyBatch, check_birth, signature_task, verify_one_by_one

MAX_INHERENT_BYTES: Final = 16 * 1024
INHERENT_LIFE_BLOCKS: Final = 1024
REVALIDATED_PER_BLOCK: Final = 256  # entries of accounts that the block did not touch, in turn
ENTRY_OVERHEAD_BYTES: Final = 5  # longest CBOR head of an extrinsic in the body
CERTIFICATE_OVERHEAD_BYTES: Final = 256  # of the parent certificate beside its signatures, and of the body itself


@dataclass(frozen=True)
class PoolLimits:
    extrinsics: int = 5_000
    bytes: int = 16 << 20
    per_account: int = 64
    nonce_gap: int = 16  # nonces missing before an extrinsic
    inherents: int = 256
    inherents_per_author: int = 2  # of one kind: a third replaces the oldest


@dataclass(frozen=True, slots=True)
class Candidate:
    """An extrinsic that passed every check but the signature's."""

    extrinsic: Extrinsic
    raw: bytes
    admission: Admission
    signature: SignatureTask  # (public key, message, signature) for a `VerifyBatch`

    @property
    def rank(self) -> tuple[int, int]:
        """Worth when the pool is full: class, then fee per byte."""
        return self.admission.priority, self.admission.fee_rao * 1000 // len(self.raw)


class Pool:
    """See the module. Refusals are `Rejected` with a stable name: AlreadyKnown, NonceTooLow, NonceGap, AccountFull,
    FeeTooLowToReplace, PoolFull, Expired, UnknownBirth, BadSignature, or a name of the machine's."""

    def __init__(self, chain: Chain, limits: PoolLimits | None = None) -> None:
        self.limits = limits or PoolLimits()
        self._chain = chain
        self._entries: dict[bytes, Candidate] = {}  # by id; the longest not revalidated come first
        self._accounts: dict[bytes, dict[int, Candidate]] = {}  # signer -> nonce
        self._ready_nonce: dict[bytes, int] = {}  # of the signers in _accounts
        self._verified: dict[bytes, Extrinsic] = {}
        self._worst: list[tuple[tuple[int, int], bytes]] = []  # heap of (rank, id); may hold ids that left
        self._inherents: dict[tuple[int, bytes], int] = {}  # -> head height when it came
        self._authors: dict[tuple[int, bytes], bytes] = {}  # of the inherents whose author is known
        self._bytes = 0

    # --- entering -----------------------------------------------------------------------------------------------

    def submit(self, raw: bytes) -> bytes:
        """admit, verify the signature here, insert; returns the extrinsic's id. Raises DecodeError or Rejected."""
        candidate = self.admit(raw)
        if not verify_one_by_one([candidate.signature])[0]:
            raise Rejected("BadSignature", "the extrinsic is not signed by its signer")
        return self.insert(candidate)

    def admit(self, raw: bytes) -> Candidate:
        """All checks but the signature. Raises DecodeError or Rejected (AlreadyKnown for a duplicate)."""
        extrinsic = Extrinsic.decode(raw)
        if extrinsic.id in self._entries:
            raise Rejected("AlreadyKnown", "the extrinsic is in the pool already")
        candidate = self._judge(extrinsic, raw)
        self._check_room(candidate)
        return candidate

    def insert(self, candidate: Candidate) -> bytes:
        """Take in a candidate whose signature was found valid; returns its id. Raises Rejected."""
        fresh = self._judge(candidate.extrinsic, candidate.raw)  # the head may have moved since
        if fresh.signature != candidate.signature:
            raise Rejected("UnknownBirth", "the birth block was replaced")
        if candidate.extrinsic.id in self._entries:
            raise Rejected("AlreadyKnown", "the extrinsic is in the pool already")
        for displaced in self._check_room(fresh):
            self._remove(displaced)
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
        waiting = [
            (-first.admission.priority, first.extrinsic.id, first)
            for account, first in self._ready_entries()
        ]
        heapq.heapify(waiting)
        while waiting and len(chosen) < MAX_BODY_ITEMS - 2:
            _, _, entry = heapq.heappop(waiting)
            size, weight = len(entry.raw) + ENTRY_OVERHEAD_BYTES, entry.admission.weight
            operational = entry.admission.priority >= OPERATIONAL_PRIORITY
            if used_bytes + size > room or used_weight + weight > max_weight:
                continue  # the account's later ones cannot go before it
            if not operational:
                if normal_bytes + size > normal_room or normal_used + weight > normal_weight:
                    continue
                normal_bytes, normal_used = normal_bytes + size, normal_used + weight
            used_bytes, used_weight = used_bytes + size, used_weight + weight
            extrinsic = entry.extrinsic
            chosen.append(extrinsic)
            if (after := self._accounts[extrinsic.signer].get(extrinsic.nonce + 1)) is not None:
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

        Accounts that the block touched are checked again at once, the others a few at a time.
        """
        for extrinsic in executed.extrinsics:
            if (entry := self._entries.get(extrinsic.id)) is not None:
                self._remove(entry)
        dropped = [each for each in executed.refused if each in self._entries]
        for extrinsic_id in dropped:
            self._remove(self._entries[extrinsic_id])
        touched = dict.fromkeys(extrinsic.signer for extrinsic in executed.extrinsics)
        stale = [entry.extrinsic.id for signer in touched for entry in self._accounts.get(signer, {}).values()]
        stale += islice(self._entries, REVALIDATED_PER_BLOCK)
        dropped += [each for each in dict.fromkeys(stale) if not self._revalidate(self._entries[each])]
        height = self._chain.head.height
        expired = [e for e in self._entries.values() if height >= e.extrinsic.birth_height + e.extrinsic.period]
        for entry in expired:
            self._remove(entry)
            dropped.append(entry.extrinsic.id)
        self._drop_inherents(executed, height)
        return dropped

    def on_rewind(self) -> None:
        """After a rewind: forget everything (birth blocks may have changed)."""
        self._entries.clear()
        self._accounts.clear()
        self._ready_nonce.clear()
        self._verified = {}
        self._worst.clear()
        self._inherents.clear()
        self._authors.clear()
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
        return next(self._ready_entries(), None) is not None

    def pending(self, limit: int) -> list[Extrinsic]:
        """What waits: first what is ready, in the order in which it would be included, then the rest."""
        ready = {extrinsic.id: extrinsic for extrinsic in self.select(self.limits.bytes * 2, 1 << 64)}
        rest = (entry.extrinsic for entry in self._entries.values() if entry.extrinsic.id not in ready)
        return [*ready.values(), *rest][:limit]

    def of_account(self, account: bytes) -> list[Extrinsic]:
        """Waiting extrinsics of one account in nonce order."""
        entries = self._accounts.get(account, {})
        return [entries[nonce].extrinsic for nonce in sorted(entries)]

    def next_nonce(self, account: bytes, state_nonce: int) -> int:
        """The nonce a client should use next, counting what waits without a gap."""
        entries = self._accounts.get(account, {})
        while state_nonce in entries:
            state_nonce += 1
        return state_nonce

    # --- over a restart -----------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All waiting extrinsics as bytes, for `load`: each with its length in 4 bytes, in nonce order."""
        raws = (entries[nonce].raw for entries in self._accounts.values() for nonce in sorted(entries))
        return b"".join(len(raw).to_bytes(4, "big") + raw for raw in raws)

    def load(self, data: bytes, verify_batch: VerifyBatch | None = None) -> int:
        """Take a dump in again, through every check; returns how many entered. What is damaged or stale is left out."""
        candidates: list[Candidate] = []
        for raw in islice(_frames(data), self.limits.extrinsics):
            try:
                candidates.append(self._judge(Extrinsic.decode(raw), raw))
            except (DecodeError, Rejected):
                continue
        taken = 0
        valid = (verify_batch or verify_one_by_one)([candidate.signature for candidate in candidates])
        for candidate, good in zip(candidates, valid, strict=True):
            try:
                if good:
                    self.insert(candidate)
                    taken += 1
            except Rejected:
                continue
        return taken

    # --- inside -------------------------------------------------------------------------------------------------

    def _judge(self, extrinsic: Extrinsic, raw: bytes) -> Candidate:
        """Checks against the chain: birth, then the machine's. Raises Rejected."""
        chain, height = self._chain, self._chain.head.height + 1
        task = signature_task(extrinsic, height, chain.params.genesis_hash, chain.hash_at)
        admission = chain.machine.admit(chain.view(), extrinsic, height)
        if extrinsic.nonce < admission.ready_nonce:
            raise Rejected("NonceTooLow", f"nonce {extrinsic.nonce}, the account's next is {admission.ready_nonce}")
        return Candidate(extrinsic, raw, admission, task)

    def _check_room(self, candidate: Candidate) -> list[Candidate]:
        """The entries that must leave for this one. Raises Rejected if it is not worth that."""
        extrinsic, limits = candidate.extrinsic, self.limits
        entries = self._accounts.get(extrinsic.signer, {})
        if (old := entries.get(extrinsic.nonce)) is not None:
            least = old.admission.fee_rao + max(1, -(-old.admission.fee_rao // 10))
            if candidate.admission.fee_rao < least:
                raise Rejected("FeeTooLowToReplace", f"nonce {extrinsic.nonce} is taken; {least} rao would replace it")
            return [old]
        ready = candidate.admission.ready_nonce
        if extrinsic.nonce - ready - sum(ready <= nonce < extrinsic.nonce for nonce in entries) > limits.nonce_gap:
            raise Rejected("NonceGap", f"nonce {extrinsic.nonce} is too far from the account's next, {ready}")
        if len(entries) >= limits.per_account:
            raise Rejected("AccountFull", f"{len(entries)} extrinsics of this account are waiting")
        return self._make_room(candidate)

    def _make_room(self, candidate: Candidate) -> list[Candidate]:
        """The worst entries, all ranked below the candidate, whose leaving makes room for it."""
        displaced: list[Candidate] = []
        freed, seen = 0, []
        try:
            while (
                len(self._entries) - len(displaced) >= self.limits.extrinsics
                or self._bytes - freed + len(candidate.raw) > self.limits.bytes
            ):
                if not self._worst:
                    raise Rejected("PoolFull", "the pool is full")
                rank, extrinsic_id = heapq.heappop(self._worst)
                entry = self._entries.get(extrinsic_id)
                if entry is None or entry.rank != rank:
                    continue  # left, or was ranked anew
                seen.append((rank, extrinsic_id))
                if rank >= candidate.rank:
                    raise Rejected("PoolFull", "the pool is full and everything in it is worth more")
                displaced.append(entry)
                freed += len(entry.raw)
        finally:
            for item in seen:
                heapq.heappush(self._worst, item)
        return displaced

    def _add(self, entry: Candidate) -> None:
        extrinsic = entry.extrinsic
        self._entries[extrinsic.id] = entry
        self._accounts.setdefault(extrinsic.signer, {})[extrinsic.nonce] = entry
        self._ready_nonce[extrinsic.signer] = entry.admission.ready_nonce
        self._verified[entry.raw] = extrinsic
        self._bytes += len(entry.raw)
        heapq.heappush(self._worst, (entry.rank, extrinsic.id))
        if len(self._worst) > 2 * len(self._entries) + 64:
            self._worst = [(each.rank, each.extrinsic.id) for each in self._entries.values()]
            heapq.heapify(self._worst)

    def _remove(self, entry: Candidate) -> None:
        extrinsic = entry.extrinsic
        del self._entries[extrinsic.id]
        del self._verified[entry.raw]
        self._bytes -= len(entry.raw)
        entries = self._accounts[extrinsic.signer]
        del entries[extrinsic.nonce]
        if not entries:
            del self._accounts[extrinsic.signer]
            del self._ready_nonce[extrinsic.signer]

    def _revalidate(self, entry: Candidate) -> bool:
        """Judge an entry against the new head and move it to the end of the row; False if it had to leave."""
        self._remove(entry)
        try:
            chain, height = self._chain, self._chain.head.height + 1
            check_birth(entry.extrinsic, height, chain.hash_at)
            admission = chain.machine.admit(chain.view(), entry.extrinsic, height)
        except Rejected:
            return False
        if entry.extrinsic.nonce < admission.ready_nonce:
            return False
        self._add(Candidate(entry.extrinsic, entry.raw, admission, entry.signature))
        return True

    def _ready_entries(self) -> Iterator[tuple[bytes, Candidate]]:
        """(signer, entry) of every account whose next extrinsic is here."""
        for signer, entries in self._accounts.items():
            if (entry := entries.get(self._ready_nonce[signer])) is not None:
                yield signer, entry

    def _drop_inherents(self, executed: ExecutedBlock, height: int) -> None:
        for kind, payload in executed.block.body.inherent_list():
            self._forget_inherent((kind, payload))
        for key, since in list(self._inherents.items()):
            if height - since > INHERENT_LIFE_BLOCKS:
                self._forget_inherent(key)

    def _forget_inherent(self, key: tuple[int, bytes]) -> None:
        self._inherents.pop(key, None)
        self._authors.pop(key, None)


def _frames(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + 4 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size > MAX_EXTRINSIC_BYTES or position + 4 + size > len(data):
            return
        yield data[position + 4 : position + 4 + size]
        position += 4 + size
