"""A snapshot: the state after one final block in a file, with everything that proves it, and starting a node from it.

    manifest   genesis hash, header and certificate of the block, the set that certified it, how much follows
    sets       header, certificate and set of every block, ascending, that handed over to another authority set
    headers    the blocks below the snapshot's that transactions may still name as their birth, ascending
    chunks     the whole state (`ledger/snapshot_chunks.py`), each proven by itself

Trusted is the genesis, which the node has already, and a checkpoint (height, hash) if one is given. From the genesis the
authority sets are followed to the block by their certificates; it commits to its parents and to the state root; the root
commits to every chunk. That leaves one thing that no file can prove: that a quorum of a former set did not, later and in
secret, certify another chain. A checkpoint from a source one trusts excludes it, and outside devnets it is asked for.

What no root commits to is not in the file: the runtime's history rows, events and bodies of older blocks. A node that
starts here has blocks from the next one on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from . import layout
from .blocks import MAX_PERIOD, Header
from .client.light import LightClient
from .client.records import Finality
from .codec import HASH, KEY, U64, Bytes, Int, ListOf, Record, decode, encode
from .errors import DecodeError, NotFound, Rejected, UsageError, WrongGenesis
from .framing import FrameWriter, read_frames
from .history import archive_mark
from .layout import Head, at
from .machine import StateMachine
from .reading import ChainReader
from .snapshot_chunks import MAX_CHUNK_BYTES, Chunk, cut
from .spec import ChainSpecParams
from .state_tree import StateTree
from .store import Store, stamp
from .tree_pages import StoredPages
from .views import LayeredRows, StateView
from .votes import MAX_AUTHORITIES, authorities_hash

KIND: Final = b"quorix snapshot 1"
HEADERS_A_FRAME: Final = 256
MAX_FRAME_BYTES: Final = MAX_CHUNK_BYTES
MAX_SETS: Final = 1 << 20
MAX_CHUNKS: Final = 1 << 24

Progress = Callable[[str, int, int], None]  # what, done, of

_HEADER: Final = Bytes(high=2048, low=1, name="header")
_CERTIFICATE: Final = Bytes(high=9 * 1024, low=1, name="certificate")
_KEYS: Final = ListOf(KEY, MAX_AUTHORITIES, low=1)
_FINALITY: Final = Record("finality", header=_HEADER, certificate=_CERTIFICATE, authorities=_KEYS)
_MANIFEST: Final = Record(
    "manifest", genesis_hash=HASH, finality=_FINALITY, sets=Int(0, MAX_SETS, "sets"), headers=Int(0, MAX_PERIOD, "headers"),
    chunks=Int(0, MAX_CHUNKS, "chunks"), entries=U64, state_bytes=U64,
)
_HEADERS: Final = ListOf(_HEADER, HEADERS_A_FRAME, low=1)


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is of, and how much of each part follows. Nothing in it is believed before it is proven."""

    genesis_hash: bytes
    finality: Finality
    sets: int
    headers: int
    chunks: int
    entries: int
    state_bytes: int

    @property
    def header(self) -> Header:
        return Header.decode(self.finality.header)

    def encode(self) -> bytes:
        return encode([
            self.genesis_hash, _finality_value(self.finality), self.sets, self.headers, self.chunks, self.entries,
            self.state_bytes,
        ])

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Raises DecodeError."""
        value = _checked(_MANIFEST, data, "manifest")
        return cls(value[0], Finality(*value[1]), *value[2:])


def _nothing(what: str, done: int, of: int) -> None:
    """Nobody watches."""


# --- writing -----------------------------------------------------------------------------------------------------


def write_snapshot(
    chain: ChainReader, height: int, file: BinaryIO, progress: Progress = _nothing, *, chunk_bytes: int | None = None
) -> Manifest:
    """Write the state after the block at `height`. Raises Pruned if it is no longer kept, UsageError for the genesis."""
    if height <= chain.params.genesis_height:
        raise UsageError("there is no block yet, and the genesis state is in the specification")
    view, finality = chain.view(height), _finality(chain, height)
    options: dict[str, Any] = {} if chunk_bytes is None else {"chunk_bytes": chunk_bytes}
    progress("reading the state", 0, 0)
    plan = cut(view.items(b""), lambda key: _present(view.get(key)), **options)
    if plan.root != chain.header(height).state_root:
        raise Rejected("WrongState", f"the stored state of block {height} does not have the root in its header")
    chunks = sum(1 for _ in plan.plan())
    sets = [_finality(chain, header.height) for header in chain.set_changes() if header.height < height]
    headers = _parents(chain, height)
    manifest = Manifest(
        chain.params.genesis_hash, finality, len(sets), len(headers), chunks, plan.entries, plan.bytes
    )
    frames = FrameWriter(file, KIND)
    frames.write(manifest.encode())
    for each in sets:
        frames.write(encode(_finality_value(each)))
    for start in range(0, len(headers), HEADERS_A_FRAME):
        frames.write(encode(headers[start : start + HEADERS_A_FRAME]))
    for index, chunk in enumerate(plan.chunks(), 1):
        frames.write(chunk.encode())
        progress("writing chunks", index, chunks)
    frames.close()
    return manifest


def _finality(chain: ChainReader, height: int) -> Finality:
    return Finality(
        chain.header(height).encode(), chain.certificate(height).encode(), list(chain.authority_keys(height))
    )


def _finality_value(finality: Finality) -> list[Any]:
    return [finality.header, finality.certificate, finality.authorities]


def _parents(chain: ChainReader, height: int) -> list[bytes]:
    """Headers below `height` that a transaction of the next block may name, ascending, as far as they are kept."""
    found: list[bytes] = []
    for below in range(height - 1, max(height - MAX_PERIOD, chain.params.genesis_height), -1):
        try:
            found.append(chain.header(below).encode())
        except NotFound:
            break
    return found[::-1]


def _present(value: bytes | None) -> bytes:
    assert value is not None, "a key of an immutable view has lost its value"
    return value


# --- reading -----------------------------------------------------------------------------------------------------


class SnapshotReader:
    """A snapshot file, part after part; each part is proven before it is given out.

    `authorities`: the session keys of the genesis. Raises DecodeError, Rejected or WrongGenesis from every method.
    """

    def __init__(
        self, file: BinaryIO, params: ChainSpecParams, authorities: Sequence[bytes],
        checkpoint: tuple[int, bytes] | None = None,
    ) -> None:
        self._frames = read_frames(file, KIND, MAX_FRAME_BYTES)
        self._params = params
        self.manifest = Manifest.decode(self._next("the manifest"))
        if self.manifest.genesis_hash != params.genesis_hash:
            raise WrongGenesis(
                f"the snapshot is of the chain {self.manifest.genesis_hash.hex()[:16]}, the specification says "
                f"{params.genesis_hash.hex()[:16]}"
            )
        if checkpoint is None and not params.devnet:
            raise UsageError(
                "a snapshot alone cannot exclude that a former set of authorities has certified another chain",
                hint="give --checkpoint HEIGHT:0xHASH of a recent block, from a source you trust",
            )
        client = LightClient(params.genesis_hash, authorities)
        self.sets = [self._set(client) for _ in range(self.manifest.sets)]
        self.header = client.verify(self.manifest.finality)
        self.headers = self._headers()
        if checkpoint is not None:
            self._check(checkpoint)

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk, verified, in order. That none is missing is for the caller to see: by the root they make."""
        last: bytes | None = None
        for index in range(self.manifest.chunks):
            chunk = Chunk.decode(self._next(f"chunk {index}"))
            if last is not None and (chunk.path <= last or chunk.path.startswith(last)):
                raise Rejected("ChunkOrder", f"chunk {index} does not come after the one before it: twice, or out of order")
            try:
                chunk.verify(self.header.state_root)
            except Rejected as error:
                raise Rejected(error.error_name, f"chunk {index}: {error.cause}", chunk=index) from None
            last = chunk.path
            yield chunk
        if next(self._frames, None) is not None:
            raise DecodeError("more frames than the manifest names", where="snapshot")

    def _set(self, client: LightClient) -> tuple[Header, Finality]:
        finality = Finality(*_checked(_FINALITY, self._next("a set"), "set"))
        return client.advance(finality), finality

    def _headers(self) -> list[Header]:
        """The headers below the snapshot's, which they must link to; as many as transactions can name."""
        found: list[Header] = []
        while len(found) < self.manifest.headers:
            found += [Header.decode(raw) for raw in _checked(_HEADERS, self._next("headers"), "headers")]
        if len(found) != self.manifest.headers:
            raise DecodeError("another number of headers than the manifest names", where="headers")
        child = self.header
        for header in reversed(found):
            if header.hash != child.parent_hash or header.height != child.height - 1:
                raise Rejected("BrokenLink", f"header {header.height} is not the parent of the one above it")
            child = header
        lowest = child.height
        if lowest > max(self._params.initial_height, self.header.height - MAX_PERIOD + 1):
            raise Rejected("MissingHeaders", f"headers begin at {lowest}; transactions may name older blocks")
        if lowest == self._params.initial_height and child.parent_hash != self._params.genesis_hash:
            raise Rejected("BrokenLink", "the first block does not follow the genesis")
        return found

    def _check(self, checkpoint: tuple[int, bytes]) -> None:
        height, expected = checkpoint
        known = {header.height: header.hash for header in (*self.headers, self.header)}
        if height not in known:
            raise UsageError(
                f"the checkpoint's block {height} is not in the snapshot, which has {min(known)} to {max(known)}",
                hint="give one within that range, or take another snapshot",
            )
        if known[height] != expected:
            raise Rejected(
                "OtherCheckpoint", f"block {height} has the hash {known[height].hex()}, the checkpoint says {expected.hex()}",
                hint="do not use this snapshot: it is of another chain than the one you trust",
            )

    def _next(self, what: str) -> bytes:
        frame = next(self._frames, None)
        if frame is None:
            raise DecodeError(f"the file ends where {what} should be", where="snapshot")
        return frame


def read_snapshot(
    reader: SnapshotReader, store: Store, params: ChainSpecParams, machine: StateMachine, progress: Progress = _nothing,
    *, retain_blocks: int | None,
) -> Head:
    """Fill an empty store with a snapshot: afterwards a chain opens there at its height. Returns the head.

    A failure leaves a store without a stamp, which nothing opens; the caller throws it away.
    """
    header, tree = reader.header, StateTree()
    for index, chunk in enumerate(reader.chunks(), 1):
        tree, pages = tree.updated(dict(chunk.entries))
        rows: dict[bytes, bytes | None] = {layout.STATE + key: layout.state_row(value) for key, value in chunk.entries}
        rows.update((layout.PAGE + key, page) for key, page in pages.items())
        store.write(rows, sync=False)
        tree = tree.over(StoredPages(store.snapshot()))
        progress("verifying chunks", index, reader.manifest.chunks)
    if tree.root != header.state_root:
        raise Rejected("MissingChunks", "the chunks are all valid, but they are not the whole state")
    next_set = machine.authorities(StateView(LayeredRows((), store.snapshot()))).keys
    if authorities_hash(next_set) != header.next_authorities_hash:
        raise Rejected("WrongState", "the state names another next set of authorities than the header")
    certified = [*reader.sets, (header, reader.manifest.finality)]
    sets = (next_set, *(each.authorities for _, each in certified))
    rows = {layout.AUTHORITIES + authorities_hash(keys): b"".join(keys) for keys in sets}
    for known in (*(found for found, _ in certified), *reader.headers):
        rows[at(layout.HEADER, known.height)] = known.encode()
        rows[layout.BY_HASH + known.hash] = known.height.to_bytes(8, "big")
    rows |= {at(layout.CERTIFICATE, found.height): each.certificate for found, each in certified}
    if retain_blocks is None:
        rows[layout.ARCHIVE_KEY] = archive_mark(header.height)
    head = Head(header.height, header.hash, header.timestamp_ms, header.state_root, header.next_authorities_hash)
    rows[layout.HEAD_KEY] = head.encode()
    rows |= stamp(layout.SCHEMA, params.genesis_hash)
    store.write(rows, sync=True)
    return head


def _checked(shape: Any, data: bytes, where: str) -> Any:
    value = decode(data, max_bytes=MAX_FRAME_BYTES, where=where)
    shape.check(value, where)
    return value
