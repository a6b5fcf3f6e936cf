"""Blocks with their certificates in a file: `quorix db export` writes it, `quorix db import` reads it.

    frame 0      [genesis hash, first height, last height]
    other frames [block, certificate], heights ascending without a gap

An import believes nothing of it: every block goes through the same door as one from a peer (`Chain.import_block`), with its
certificate, signatures on two threads, and commits beside the execution of what follows: the disk thread writes all blocks
that wait for it in one synced batch. A file that ends early or is damaged has given all the blocks before that; importing
it again, or a longer one, goes on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

from ledger.blocks import MAX_BLOCK_BYTES, Block
from ledger.chain import MAX_PENDING_COMMITS, Chain, CommitBatch
from ledger.codec import HASH, U64, Bytes, Record, decode, encode
from ledger.errors import DecodeError, Rejected, WrongGenesis
from ledger.framing import FrameWriter, read_frames
from ledger.votes import Certificate
from tools.node.threads import VERIFY_THREADS, Workers, verify_on

KIND: Final = b"quorix blocks 1"
MAX_FRAME_BYTES: Final = MAX_BLOCK_BYTES + (64 << 10)

Progress = Callable[[str, int, int], None]

_RANGE: Final = Record("range", genesis_hash=HASH, first=U64, last=U64)
_BLOCK: Final = Record("entry", block=Bytes(high=MAX_FRAME_BYTES), certificate=Bytes(high=9 * 1024))


@dataclass(frozen=True)
class Range:
    """What a file says it holds."""

    genesis_hash: bytes
    first: int
    last: int


def write_blocks(chain: Chain, first: int, last: int, file: BinaryIO, progress: Progress) -> int:
    """Write the blocks from `first` to `last`; returns the bytes written. Raises NotFound for one that is not kept."""
    pairs = ((chain.block(height), chain.certificate(height)) for height in range(first, last + 1))
    return write_pairs(Range(chain.params.genesis_hash, first, last), pairs, file, progress)


def write_pairs(
    named: Range, pairs: Iterable[tuple[Block, Certificate]], file: BinaryIO, progress: Progress
) -> int:
    """Write the blocks of a range, which `pairs` gives ascending, with their certificates; returns the bytes written."""
    frames = FrameWriter(file, KIND)
    frames.write(encode([named.genesis_hash, named.first, named.last]))
    for done, (block, certificate) in enumerate(pairs, 1):
        frames.write(encode([block.encode(), certificate.encode()]))
        progress("exporting blocks", done, named.last - named.first + 1)
    frames.close()
    return frames.bytes_written


class BlockReader:
    """A file of blocks. Raises DecodeError for damage, WrongGenesis for another chain's."""

    def __init__(self, file: BinaryIO, genesis_hash: bytes) -> None:
        self._frames = read_frames(file, KIND, MAX_FRAME_BYTES)
        value = decode(next(self._frames, b""), where="range")
        _RANGE.check(value, "range")
        self.range = Range(*value)
        if self.range.genesis_hash != genesis_hash:
            raise WrongGenesis(
                f"the file is of the chain {self.range.genesis_hash.hex()[:16]}, this is {genesis_hash.hex()[:16]}"
            )

    def blocks(self) -> Iterator[tuple[Block, Certificate]]:
        """Blocks with their certificates, decoded and in order; nothing is verified."""
        expected = self.range.first
        for frame in self._frames:
            value = decode(frame, max_bytes=MAX_FRAME_BYTES, where=f"block {expected}")
            _BLOCK.check(value, f"block {expected}")
            block = Block.decode(value[0])
            if block.height != expected or expected > self.range.last:
                raise DecodeError(f"block {block.height} stands where {expected} should be", where="blocks")
            yield block, Certificate.decode(value[1])
            expected += 1
        if expected != self.range.last + 1:
            raise DecodeError(f"the file ends at block {expected - 1}, it should reach {self.range.last}", where="blocks")


@dataclass
class Imported:
    """What an import did."""

    blocks: int = 0
    transactions: int = 0
    known: int = 0  # blocks that were there already
    refilled: int = 0  # lost ones that are back


def import_blocks(
    reader: BlockReader, chain: Chain, progress: Progress, refill: Callable[[Block, Certificate], bool] | None = None
) -> Imported:
    """Verify and commit every block above the head. Raises Rejected for the first that is not the chain's next one.

    `refill`: takes in a block below the head if it was lost, and says whether it was.

    What was imported before a failure, or a Ctrl-C, is durable.
    """
    done = Imported()
    waiting: deque[CommitBatch] = deque()
    writing: Future[None] | None = None
    verifiers = Workers("verify", VERIFY_THREADS, VERIFY_THREADS)
    verify = partial(verify_on, verifiers)
    with ThreadPoolExecutor(1) as disk, closing(verifiers):
        try:
            for block, certificate in reader.blocks():
                if block.height <= chain.head.height:
                    if refill is not None and refill(block, certificate):
                        done.refilled += 1
                    else:
                        _same(chain, block)
                        done.known += 1
                    continue
                if block.height != chain.head.height + 1:
                    raise Rejected("Gap", f"the file goes on at block {block.height}, the chain ends at {chain.head.height}")
                waiting.append(chain.import_block(block, certificate, verify_batch=verify))
                if writing is None or writing.done() or chain.head.height - chain.durable_height >= MAX_PENDING_COMMITS:
                    if writing is not None:
                        writing.result()
                    writing = disk.submit(chain.apply, *waiting)
                    waiting.clear()
                done.blocks += 1
                done.transactions += len(block.body.extrinsics)
                progress("importing blocks", block.height - reader.range.first + 1, reader.range.last - reader.range.first + 1)
        finally:
            if writing is not None:
                writing.result()
            if waiting:
                chain.apply(*waiting)
    return done


def _same(chain: Chain, block: Block) -> None:
    if block.height >= chain.params.initial_height and chain.hash_at(block.height) != block.hash:
        raise Rejected(
            "OtherChain", f"block {block.height} of the file is another one than this chain's",
            hint="one of the two was rewound, or made by others: do not mix them",
        )
