"""Distributions over the next byte as 98 bytes of integers: what a `distribution` answer carries for each window.

    32 x (byte u8, count u16 LE), bytes ascending and distinct, then tail u16 LE

Counts are parts of 65,536; the tail is spread evenly over the other 224 bytes; counts + tail = 65,536 exactly. Numbers
that are not finite, negative or not normalised cannot be written down. No torch here: gateways and validators decode.
"""

from __future__ import annotations

from math import isfinite
from operator import sub
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ledger.errors import DecodeError

TOP_BYTES: Final = 32
WHOLE: Final = 65_536
DISTRIBUTION_BYTES: Final = TOP_BYTES * 3 + 2
ALPHABET: Final = 256
_REST: Final = ALPHABET - TOP_BYTES
_ENTRY = np.dtype([("byte", "u1"), ("count", "<u2")])
_ROW = np.dtype({
    "names": ["entries", "tail"], "formats": [(_ENTRY, TOP_BYTES), "<u2"], "offsets": [0, 3 * TOP_BYTES],
    "itemsize": DISTRIBUTION_BYTES,
})  # fmt: skip
_ONE_ROW = Struct("<" + "BH" * TOP_BYTES + "H")

_NOT_ASCENDING: Final = "bytes are not ascending and distinct"
_NOT_WHOLE: Final = f"counts and tail do not sum to {WHOLE}"
_NO_DISTRIBUTION: Final = "not finite, negative or all zero"


def decode_distributions(payload: bytes, windows: int) -> NDArray[np.float64]:
    """Probabilities (windows, 256), float64, each row summing to 1, of an answer of `windows` x 98 bytes.

    Raises DecodeError for a wrong length, bytes out of order or repeated, or a sum other than 65,536.
    """
    if len(payload) != windows * DISTRIBUTION_BYTES:
        raise DecodeError(f"{len(payload)} bytes, expected {windows} x {DISTRIBUTION_BYTES}", where="distribution")
    if windows == 1:
        return _decode_row(payload)
    rows = np.frombuffer(payload, dtype=_ROW)
    entries, tails = rows["entries"], rows["tail"].astype(np.int64)
    chosen, counts = entries["byte"], entries["count"]
    if windows and not (chosen[:, 1:] > chosen[:, :-1]).all():
        raise DecodeError(_NOT_ASCENDING, where="distribution")
    if (counts.sum(axis=1, dtype=np.int64) + tails != WHOLE).any():
        raise DecodeError(_NOT_WHOLE, where="distribution")
    probabilities: NDArray[np.float64] = np.empty((windows, ALPHABET))
    probabilities[:] = (tails / (_REST * WHOLE))[:, None]
    probabilities[np.arange(windows)[:, None], chosen] = counts / WHOLE
    return probabilities


def _decode_row(payload: bytes) -> NDArray[np.float64]:
    """`decode_distributions` of one row, at half the cost."""
    numbers = _ONE_ROW.unpack(payload)
    chosen, counts, tail = numbers[:-1:2], numbers[1::2], numbers[-1]
    if sorted(set(chosen)) != list(chosen):
        raise DecodeError(_NOT_ASCENDING, where="distribution")
    if sum(counts) + tail != WHOLE:
        raise DecodeError(_NOT_WHOLE, where="distribution")
    probabilities = np.full((1, ALPHABET), tail / (_REST * WHOLE))
    probabilities[0].put(chosen, [count / WHOLE for count in counts])
    return probabilities


def decode_distribution(data: bytes) -> NDArray[np.float64]:
    """Probabilities (256,), float64, of one 98-byte distribution. Raises DecodeError as `decode_distributions` does."""
    row: NDArray[np.float64] = decode_distributions(data, 1)[0]
    return row


def encode_distributions(probabilities: NDArray[np.floating]) -> bytes:
    """98 bytes for each row of `probabilities` (windows, 256): finite, non-negative, not all zero; any scale.

    The 32 largest are kept (ties: the lower byte) and rounded by largest remainder, the tail among them.
    Raises DecodeError where a row is none of the above.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != ALPHABET:
        raise DecodeError(f"shape {rows.shape}, expected (windows, {ALPHABET})", where="distribution")
    if len(rows) == 1:
        return _encode_row(rows[0])
    sums = rows.sum(axis=1, keepdims=True)
    if not np.isfinite(sums).all() or (rows < 0).any() or (sums <= 0).any():
        raise DecodeError(_NO_DISTRIBUTION, where="distribution")
    rows = rows / sums
    chosen = np.sort(np.argsort(-rows, axis=1, kind="stable")[:, :TOP_BYTES], axis=1)
    top = np.take_along_axis(rows, chosen, axis=1)
    shares = np.concatenate([top, np.maximum(0.0, 1.0 - top.sum(axis=1, keepdims=True))], axis=1)
    counts = largest_remainder(shares)
    answer = np.zeros((len(rows), DISTRIBUTION_BYTES), dtype=np.uint8)
    entries = np.zeros((len(rows), TOP_BYTES), dtype=_ENTRY)
    entries["byte"], entries["count"] = chosen, counts[:, :TOP_BYTES]
    answer[:, :-2] = entries.view(np.uint8)
    answer[:, -2:] = counts[:, TOP_BYTES:].astype("<u2").view(np.uint8)
    return answer.tobytes()


def _encode_row(row: NDArray[np.float64]) -> bytes:
    """What `encode_distributions` gives for one row, at a third of the cost. Texts go byte by byte."""
    total = float(row.sum())
    if not (isfinite(total) and total > 0 and row.min() >= 0):
        raise DecodeError(_NO_DISTRIBUTION, where="distribution")
    row = row / total
    chosen = np.sort((-row).argsort(kind="stable")[:TOP_BYTES])
    shares = np.empty(TOP_BYTES + 1)
    shares[:-1] = row[chosen]
    shares[-1] = max(0.0, 1.0 - shares[:-1].sum())
    exact = (shares * (WHOLE / shares.sum())).tolist()
    counts = list(map(int, exact))
    less = list(map(sub, counts, exact))
    for index in sorted(range(TOP_BYTES + 1), key=less.__getitem__)[: WHOLE - sum(counts)]:
        counts[index] += 1
    if WHOLE in counts[:-1]:  # a u16 holds at most 65,535: the last unit goes to the tail
        counts[counts.index(WHOLE)] -= 1
        counts[-1] += 1
    numbers = [0] * (2 * TOP_BYTES + 1)
    numbers[:-1:2], numbers[1::2], numbers[-1] = chosen.tolist(), counts[:-1], counts[-1]
    return _ONE_ROW.pack(*numbers)


def largest_remainder(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers (windows, 33) below 65,536 that sum to 65,536 in each row and follow `shares` (non-negative)."""
    exact = shares * (WHOLE / shares.sum(axis=1, keepdims=True))
    counts: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = WHOLE - counts.sum(axis=1, keepdims=True)
    order = np.argsort(counts - exact, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None, :], axis=1)
    counts += ranks < missing
    certain = counts[:, :TOP_BYTES] == WHOLE  # a u16 holds at most 65,535: the last unit goes to the tail
    counts[:, :TOP_BYTES] -= certain
    counts[:, TOP_BYTES] += certain.any(axis=1)
    return counts
