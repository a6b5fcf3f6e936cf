"""Receipts: one a session, signed by both sides, checked offline, kept in append-only files, rooted on chain.

    receipt = [version, open_body, caller_signature, finish_signature or empty, close_body, callee_signature]

Bodies and payloads stay with the two sides; the receipt holds their hashes. It is valid iff both signatures are,
`close_body.open_id` is the digest of `open_body`, and, where the session was one of asks and ended well, the caller
signed FINISH over the same head. A lock-step session that ended otherwise proves the callee's words alone.

Each epoch the receipts of a caller on a subnet make one Merkle tree (person `qx/receipt/1`); its root and count go on
chain. No formula of pay, trust or routing contains a count of receipts: they serve disputes and the payer's accounts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from ledger import codec, crypto
from ledger.codec import U16, Bytes, Record
from ledger.errors import DecodeError, DiskFailure, NotFound, Rejected
from ledger.trees import list_proof, list_root, verify_list_proof

from .files import write_atomic
from .serve.flat import array_head, head_of, number
from .serve.frames import BODY_RECORD_MAX_BYTES, OK, RECEIPT_MAX_BYTES, CloseBody, OpenBody, finish_content
from .serve.refusals import Refused

RECEIPT_VERSION: Final = 1
_RECEIPT = Record(
    "receipt",
    version=U16,
    open_body=Bytes(high=BODY_RECORD_MAX_BYTES),
    caller_signature=Bytes(64),
    finish_signature=Bytes(high=64),
    close_body=Bytes(high=BODY_RECORD_MAX_BYTES),
    callee_signature=Bytes(64),
)
_RECEIPT_HEAD: Final = array_head(len(_RECEIPT.fields))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The six fields as they travelled. Nothing about them is checked until `verify`."""

    open_body: bytes
    caller_signature: bytes
    finish_signature: bytes
    close_body: bytes
    callee_signature: bytes
    version: int = RECEIPT_VERSION

    def encode(self) -> bytes:
        """The receipt's bytes: the leaf of the tree."""
        return b"".join((
            _RECEIPT_HEAD, number(self.version), head_of(self.open_body), self.open_body,
            head_of(self.caller_signature), self.caller_signature, head_of(self.finish_signature), self.finish_signature,
            head_of(self.close_body), self.close_body, head_of(self.callee_signature), self.callee_signature,
        ))  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Reverse of `encode`. Raises DecodeError."""
        value = codec.decode(data, max_bytes=RECEIPT_MAX_BYTES, where="receipt")
        _RECEIPT.check(value)
        version, open_body, caller_signature, finish_signature, close_body, callee_signature = value
        if version != RECEIPT_VERSION:
            raise DecodeError(f"version {version} is not known", where="receipt")
        return cls(open_body, caller_signature, finish_signature, close_body, callee_signature)

    def verify(self, genesis_hash: bytes) -> Checked:
        """Check everything that can be checked offline. Raises Rejected naming what does not hold."""
        try:
            opened, closed = OpenBody.decode(self.open_body), CloseBody.decode(self.close_body)
        except Refused as error:
            raise Rejected("ReceiptMalformed", error.cause) from None
        open_id = opened.open_id(genesis_hash, self.open_body)
        if not crypto.verify(opened.caller, "open", genesis_hash, self.open_body, self.caller_signature):
            raise Rejected("ReceiptSignature", "the caller's signature does not fit")
        if self.finish_signature:
            content = finish_content(open_id, closed.asks, closed.head)
            if not crypto.verify(opened.caller, "finish", genesis_hash, content, self.finish_signature):
                raise Rejected("ReceiptSignature", "the caller did not sign this end")
        return self.verify_callee(genesis_hash, open_id, opened, closed)

    def verify_callee(self, genesis_hash: bytes, open_id: bytes, opened: OpenBody, closed: CloseBody) -> Checked:
        """`verify` without the caller's signatures, for the caller, who has just made them. Bodies are decoded already."""
        if closed.open_id != open_id:
            raise Rejected("ReceiptMismatch", "the closing names another session")
        if closed.asks > opened.max_asks:
            raise Rejected("ReceiptMismatch", "more asks than were announced")
        if opened.max_asks > 0 and closed.status == OK and not self.finish_signature:
            raise Rejected("ReceiptSignature", "the caller did not sign this end")
        if not crypto.verify(opened.callee, "close", genesis_hash, self.close_body, self.callee_signature):
            raise Rejected("ReceiptSignature", "the callee's signature does not fit")
        return Checked(open_id, opened, closed, both_sides=bool(self.finish_signature) or opened.max_asks == 0)


@dataclass(frozen=True, slots=True)
class Checked:
    """A receipt that verified. `both_sides`: the caller's words are proven too, not only the callee's."""

    open_id: bytes
    open: OpenBody
    close: CloseBody
    both_sides: bool


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """A receipt and its place under the root of (caller, netuid, epoch)."""

    netuid: int
    epoch: int
    index: int
    count: int
    root: bytes
    receipt: bytes
    path: tuple[bytes, ...]

    def holds(self) -> bool:
        """True iff the receipt is leaf `index` of `count` under `root`. The root itself is to be found on chain."""
        return verify_list_proof(self.root, self.receipt, self.index, self.count, list(self.path), "receipt")


def receipts_root(leaves: Sequence[bytes]) -> bytes:
    """Merkle root of encoded receipts in their order."""
    return list_root(leaves, "receipt")


# --- storage -----------------------------------------------------------------------------------------------------

KEEP_HOURS: Final = 24
RECEIPTS_MAX_BYTES: Final = 256 << 20  # on disk, all epochs; the two newest epochs of a subnet always stay
TRANSCRIPTS_MAX_BYTES: Final = 64 << 20
MAX_RECEIPTS_PER_EPOCH: Final = 1 << 16
MAX_HASH_FILES: Final = 20_000
EPOCHS_ALWAYS_KEPT: Final = 2
PRUNE_EVERY_MS: Final = 600_000  # looking at all files costs more the more there are
PRUNE_EVERY_BYTES: Final = 16 << 20
MAX_OPEN_FILES: Final = 16
MAX_FLAGS: Final = 256
TRANSCRIPT_MAX_BYTES: Final = 3 << 20
TRANSCRIPTS_BUFFERED_BYTES: Final = 64 << 10

_HEAD_BYTES: Final = 4 + 32  # length of what follows the id, and the id


class ReceiptStore:
    """Receipts of one key, in files `NETUID/EPOCH.receipts` of records `u32 length | open_id | receipt`.

    Beside them `EPOCH.transcript` keeps bodies and payloads, in the same framing. After `keep_hours`, or earlier where
    the space is used up, an epoch's receipts are replaced by their hashes (`EPOCH.hashes`, 32 bytes each). Receipts are
    written at once and without a sync: a killed process loses none of them, only the last transcripts, which wait in
    memory for each other. A torn last record is cut off when the file is opened again.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int], keep_hours: int = KEEP_HOURS) -> None:
        """`clock` gives unix milliseconds."""
        self._path = path
        self._clock = clock
        self._keep_ms = keep_hours * 3_600_000
        self._open: dict[tuple[int, int, str], int] = {}
        self._counts: dict[tuple[int, int], int] = {}
        self._sizes: dict[int, int] = {}  # bytes in each open file
        self._waiting: list[tuple[int, int, bytes]] = []  # transcripts on their way to the disk
        self._waiting_bytes = 0
        self._pruned_at_ms, self._written_bytes = 0, 0
        path.mkdir(parents=True, exist_ok=True)

    def append(self, open_id: bytes, receipt: Receipt, netuid: int, epoch: int, transcript: bytes = b"") -> bool:
        """File a receipt under the epoch its owner was in. False where that epoch is full; nothing is kept then."""
        descriptor = self._descriptor(netuid, epoch, "receipts")  # first: opening it counts what is there
        if self._counts[netuid, epoch] >= MAX_RECEIPTS_PER_EPOCH:
            return False
        self._write(descriptor, _record(open_id, receipt.encode()))
        self._counts[netuid, epoch] += 1
        if transcript and len(transcript) <= TRANSCRIPT_MAX_BYTES:
            self._waiting.append((netuid, epoch, _record(open_id, transcript)))
            self._waiting_bytes += len(transcript)
            if self._waiting_bytes >= TRANSCRIPTS_BUFFERED_BYTES:
                self.flush()
        return True

    def flush(self) -> None:
        """Write the transcripts that wait in memory; receipts never wait."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for (netuid, epoch), group in groupby(waiting, key=lambda item: item[:2]):
            descriptor = self._descriptor(netuid, epoch, "transcript")
            self._write(descriptor, b"".join(record for _, _, record in group))

    def epochs(self, netuid: int) -> list[int]:
        """Epochs whose receipts are still here, ascending."""
        return sorted(int(file.stem) for file in (self._path / str(netuid)).glob("*.receipts"))

    def netuids(self) -> list[int]:
        """Subnets with files, ascending."""
        return sorted(int(folder.name) for folder in self._path.iterdir() if folder.name.isdecimal())

    def leaves(self, netuid: int, epoch: int) -> list[bytes]:
        """Encoded receipts of an epoch in the order in which they were filed."""
        return [receipt for _, receipt in self._records(netuid, epoch, "receipts")]

    def root(self, netuid: int, epoch: int) -> tuple[bytes, int]:
        """(Merkle root, count) of an epoch: what goes on chain once the epoch is over."""
        leaves = self.leaves(netuid, epoch)
        return receipts_root(leaves), len(leaves)

    def prove(self, open_id: bytes) -> ReceiptProof:
        """The receipt of a session with its proof. Raises NotFound."""
        for netuid in self.netuids():
            for epoch in reversed(self.epochs(netuid)):
                if open_id not in self._file(netuid, epoch, "receipts").read_bytes():
                    continue
                records = list(self._records(netuid, epoch, "receipts"))
                for index, (found, receipt) in enumerate(records):
                    if found == open_id:
                        leaves = [leaf for _, leaf in records]
                        path = tuple(list_proof(leaves, index, "receipt"))
                        return ReceiptProof(
                            netuid, epoch, index, len(leaves), receipts_root(leaves), receipt, path
                        )  # fmt: skip
        raise NotFound(f"no receipt {open_id.hex()}", hint="receipts are kept for a limited time")

    def recent(self, netuid: int, limit: int = 20) -> list[tuple[bytes, Receipt]]:
        """The newest receipts of a subnet with their ids, newest first."""
        found: list[tuple[bytes, Receipt]] = []
        for epoch in reversed(self.epochs(netuid)):
            records = list(self._records(netuid, epoch, "receipts"))
            found += [(open_id, Receipt.decode(data)) for open_id, data in reversed(records[-limit:])]
            if len(found) >= limit:
                break
        return found[:limit]

    def transcript(self, netuid: int, epoch: int, open_id: bytes) -> bytes | None:
        """CBOR `[body, [payload, ...]]` of a session in the order in which the payloads travelled, if still here."""
        self.flush()
        return next((data for found, data in self._records(netuid, epoch, "transcript") if found == open_id), None)

    def transcripts(self, netuid: int, epoch: int) -> Iterator[tuple[bytes, bytes]]:
        """(open_id, transcript) of the sessions of an epoch whose words are still here."""
        self.flush()
        return self._records(netuid, epoch, "transcript")

    def flag(self, open_ids: Sequence[bytes], proof: bytes) -> bool:
        """Keep a proof that sessions contradict each other; False where as many are kept as may be."""
        folder = self._path / "contradictions"
        folder.mkdir(exist_ok=True)
        name = "-".join(sorted(open_id.hex() for open_id in open_ids))
        if not (folder / name).exists() and sum(1 for _ in folder.iterdir()) >= MAX_FLAGS:
            return False
        write_atomic(folder / name, proof)
        return True

    def flags(self, open_id: bytes) -> list[bytes]:
        """The proofs that name a session. A flag is shown with its receipt and changes nothing else."""
        return [file.read_bytes() for file in sorted((self._path / "contradictions").glob(f"*{open_id.hex()}*"))]

    def prune(self) -> None:
        """Enforce the limits. Runs by itself when an epoch begins, every few minutes."""
        self._pruned_at_ms, self._written_bytes = self._clock(), 0
        self.flush()
        self._prune_transcripts()
        newest = {netuid: self.epochs(netuid)[-EPOCHS_ALWAYS_KEPT:] for netuid in self.netuids()}
        total = 0
        for netuid, epoch, file in self._by_age("receipts"):
            size, age_ms = _size_and_age(file, self._clock())
            total += size
            if epoch not in newest[netuid] and (age_ms > self._keep_ms or total > RECEIPTS_MAX_BYTES):
                self._shorten(netuid, epoch, file)
        for _, _, file in self._by_age("hashes")[MAX_HASH_FILES:]:
            file.unlink(missing_ok=True)

    def _prune_due(self) -> bool:
        waited_ms = self._clock() - self._pruned_at_ms
        return not 0 <= waited_ms < PRUNE_EVERY_MS or self._written_bytes > PRUNE_EVERY_BYTES

    def close(self) -> None:
        """Close the files. The store may be used again afterwards."""
        self.flush()
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        self._counts.clear()
        self._sizes.clear()

    def _file(self, netuid: int, epoch: int, suffix: str) -> Path:
        return self._path / str(netuid) / f"{epoch:010d}.{suffix}"

    def _descriptor(self, netuid: int, epoch: int, suffix: str) -> int:
        key = (netuid, epoch, suffix)
        if key not in self._open:
            if suffix == "receipts" and self._prune_due():
                self.prune()
            while len(self._open) >= MAX_OPEN_FILES:
                self._close(*next(iter(self._open)))
            file = self._file(netuid, epoch, suffix)
            file.parent.mkdir(exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            whole, count = _whole_records(file)
            os.ftruncate(descriptor, whole)
            self._open[key] = descriptor
            self._sizes[descriptor] = whole
            if suffix == "receipts":
                self._counts[netuid, epoch] = count
        return self._open[key]

    def _close(self, netuid: int, epoch: int, suffix: str) -> None:
        descriptor = self._open.pop((netuid, epoch, suffix), None)
        if descriptor is not None:
            os.close(descriptor)
            del self._sizes[descriptor]
        if suffix == "receipts":
            self._counts.pop((netuid, epoch), None)

    def _write(self, descriptor: int, data: bytes) -> None:
        """Append to an open file. Raises DiskFailure and leaves the file as it was."""
        try:
            written = os.write(descriptor, data)
        except OSError as error:
            raise DiskFailure(f"a receipt cannot be written: {error.strerror}") from None
        if written != len(data):  # a full disk: no torn record may stay in front of later ones
            os.ftruncate(descriptor, self._sizes[descriptor])
            raise DiskFailure(f"wrote {written} of {len(data)} bytes of a receipt")
        self._sizes[descriptor] += written
        self._written_bytes += written

    def _records(self, netuid: int, epoch: int, suffix: str) -> Iterator[tuple[bytes, bytes]]:
        file = self._file(netuid, epoch, suffix)
        if not file.exists():
            return
        data = file.read_bytes()
        for start, end in _record_bounds(data):
            yield data[start + 4 : start + _HEAD_BYTES], data[start + _HEAD_BYTES : end]

    def _by_age(self, suffix: str) -> list[tuple[int, int, Path]]:
        """All files of a kind as (netuid, epoch, path), newest first."""
        found = [(int(f.parent.name), int(f.stem), f) for f in self._path.glob(f"[0-9]*/*.{suffix}")]
        return sorted(found, key=lambda item: item[2].stat().st_mtime_ns, reverse=True)

    def _prune_transcripts(self) -> None:
        total = 0
        for netuid, epoch, file in self._by_age("transcript"):
            size, age_ms = _size_and_age(file, self._clock())
            total += size
            if age_ms > self._keep_ms or total > TRANSCRIPTS_MAX_BYTES:
                self._close(netuid, epoch, "transcript")
                file.unlink(missing_ok=True)

    def _shorten(self, netuid: int, epoch: int, file: Path) -> None:
        hashes = b"".join(crypto.digest("receipt", b"\0", receipt) for receipt in self.leaves(netuid, epoch))
        self._file(netuid, epoch, "hashes").write_bytes(hashes)
        self._close(netuid, epoch, "receipts")
        file.unlink(missing_ok=True)


def _record(open_id: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + open_id + data


def _record_bounds(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + _HEAD_BYTES <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + _HEAD_BYTES + length
        if length > TRANSCRIPT_MAX_BYTES or end > len(data):
            return
        yield at, end
        at = end


def _whole_records(file: Path) -> tuple[int, int]:
    """(bytes, number) of the whole records at the start of a file."""
    bounds = list(_record_bounds(file.read_bytes()))
    return (bounds[-1][1] if bounds else 0), len(bounds)


def _size_and_age(file: Path, now_ms: int) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, now_ms - status.st_mtime_ns // 1_000_000
