"""Setting weights: what one row of the largest size costs a node, from the bytes of the call to the stored row.

Counted are the steps of the chain itself: the signature over the call, unpacking, every check of the row, scaling,
packing, and the commitment's hash that a reveal is checked against. The row is scaled by its sender, as validators do.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import click

from ledger.codec import decode, encode, pack_u16, unpack_u16
from ledger.commitments import weights_commitment
from ledger.crypto import KeyPair, verify
from runtime.weightcheck import RowRules, max_upscale, prepared_row, row_fault
from tools.lab.frame import Run, benchmark, timed

SEED = 20_26
LIMIT_MS = 2.0
CALL_BYTES = 1 << 16
GENESIS = bytes(32)
EPOCH = 7


class Call(NamedTuple):
    """A signed row as it arrives."""

    body: bytes
    signature: bytes
    signer: bytes
    committed: bytes


@benchmark("set-weights", about="one row of weights, from the signed call to the stored row", seconds=3)
@click.option("--entries", type=click.IntRange(1, 4096), default=4096, show_default=True, help="Weights in the row.")
@click.option("--repeats", type=click.IntRange(1), default=30, show_default=True, help="Runs; the fastest counts.")
def set_weights(run: Run, entries: int, repeats: int) -> None:
    """Time the whole path of a revealed row (CPU milliseconds)."""
    call = signed_row(entries)
    whole_ms = 1000 * timed(lambda: accept(call, entries), repeats)
    signature_ms = 1000 * timed(lambda: verify(call.signer, "extrinsic", GENESIS, call.body, call.signature), repeats)
    run.at_most(f"a row of {entries} weights, all in", whole_ms, LIMIT_MS, "ms")
    run.figure("signature_ms", round(signature_ms, 4))
    run.figure("row_ms", round(whole_ms - signature_ms, 4))
    run.figure("us_per_entry", round(1000 * (whole_ms - signature_ms) / entries, 4))
    run.figure("call_bytes", len(call.body))


def signed_row(entries: int) -> Call:
    """A reveal with its signature and the commitment made before."""
    chance = random.Random(SEED)
    pair = KeyPair.from_seed(bytes(31) + b"\1")
    uids = list(range(entries))
    values = max_upscale([chance.randint(1, 65535) for _ in uids])
    salt = chance.randbytes(32)
    committed = weights_commitment(GENESIS, pair.public, 1, EPOCH, uids, values, 0, salt)
    body = encode([1, pack_u16(uids), pack_u16(values), salt, 0])
    return Call(body, pair.sign("extrinsic", GENESIS, body), pair.public, committed)


def accept(call: Call, uid_count: int) -> bytes:
    """Everything a node does with the row; returns what it stores."""
    assert verify(call.signer, "extrinsic", GENESIS, call.body, call.signature)
    netuid, packed_uids, packed_values, salt, version_key = decode(call.body, max_bytes=CALL_BYTES)
    uids, values = unpack_u16(packed_uids), unpack_u16(packed_values)
    assert call.committed == weights_commitment(GENESIS, call.signer, netuid, EPOCH, uids, values, version_key, salt)
    fault = row_fault(uids, values, version_key, RowRules(uid=0, uid_count=uid_count, permit=True))
    assert fault is None, fault
    row = prepared_row(uids, values)
    return encode([pack_u16([uid for uid, _ in row]), pack_u16([value for _, value in row])])
