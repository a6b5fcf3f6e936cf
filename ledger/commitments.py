"""What a validator commits before it reveals its weights: one function for the validator and for the chain.

    commitment = H(weights; genesis hash, hotkey, netuid u16le, epoch u32le, cbor([uids, values]), version key u64le, salt)

The hotkey stops copying somebody's commitment, the epoch (the running one at the commit) replaying an old one, 32 random
salt bytes guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .codec import encode, pack_u16
from .crypto import HASH_BYTES, digest

SALT_BYTES: Final = 32


def weights_commitment(
    genesis_hash: bytes, hotkey: bytes, netuid: int, commit_epoch: int, uids: Sequence[int], values: Sequence[int],
    version_key: int, salt: bytes,
) -> bytes:
    """32-byte commitment to a row of weights; `uids` and `values` are numbers up to 65535, exactly as revealed later."""
    if isinstance(uids, bytes) or isinstance(values, bytes):
        raise TypeError("uids and values are numbers, not packed bytes")
    if len(salt) != SALT_BYTES or len(hotkey) != HASH_BYTES or len(genesis_hash) != HASH_BYTES:
        raise ValueError("genesis hash, hotkey and salt have 32 bytes each")
    return digest(
        "weights", genesis_hash, hotkey, netuid.to_bytes(2, "little"), commit_epoch.to_bytes(4, "little"),
        encode([pack_u16(uids), pack_u16(values)]), version_key.to_bytes(8, "little"), salt,
    )
