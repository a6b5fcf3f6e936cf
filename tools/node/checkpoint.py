"""Checkpoints: whom a node may believe that was away for long, or is new on an old chain (weak subjectivity).

Certificates prove what a set of keys decided. Keys of long ago may have leaked, and their holders can no longer be punished:
they could certify another past. So a node believes certificates only if its newest block is younger than the time in which
offenders can still lose their bonds; else it needs the height and hash of a block that its operator knows to be final:

    window        min(evidence_window_sessions, authority_unbond_sessions) sessions of blocks at the least interval
    at the start  newest block older than the window and no checkpoint: refused
    checkpoint    the node's block of that height has to be that one, now or when it gets there, and not older than the window

Age is judged by the wall clock: heights prove nothing, a forger makes them freely. Devnets do not ask, and neither does a
chain whose specification names no time of genesis, as long as there is no block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ledger.chain import Chain
from ledger.errors import Fault, UsageError
from runtime.versions import rules_of

DAY_MS: Final = 24 * 3600 * 1000
HINT: Final = "ask somebody you trust for a recent final block: --checkpoint HEIGHT:HASH"


class WrongCheckpoint(Fault):
    """The chain that peers serve is not the one of the checkpoint."""

    exit_code = 25


@dataclass(frozen=True)
class Checkpoint:
    height: int
    hash: bytes


def parse_checkpoint(text: str) -> Checkpoint | None:
    """HEIGHT:HASH, or None for an empty text. Raises UsageError."""
    if not text:
        return None
    found = re.fullmatch("([0-9]{1,18}):(?:0x)?([0-9a-fA-F]{64})", text)
    if found is None:
        raise UsageError(f"{text[:100]!r} is no checkpoint", hint="write HEIGHT:HASH, for example 120000:0x8f...")
    return Checkpoint(int(found[1]), bytes.fromhex(found[2]))


def window_ms(chain: Chain) -> int:
    """Milliseconds for which what the chain's authorities signed can be believed."""
    view = chain.view()
    params = rules_of(view).module("params")
    sessions = min(params.get(view, "evidence_window_sessions"), params.get(view, "authority_unbond_sessions"))
    return int(sessions) * chain.params.session_blocks * chain.params.block_time_ms


def check_start(chain: Chain, checkpoint: Checkpoint | None, wall_ms: int) -> None:
    """Raises UsageError if this node may not believe anybody, WrongCheckpoint if its own chain is another one."""
    head, spec = chain.head, chain.params
    if checkpoint is not None and spec.initial_height <= checkpoint.height <= head.height:
        check_block(chain, checkpoint, chain.hash_at(checkpoint.height), chain.header(checkpoint.height).timestamp_ms, wall_ms)
    unborn = head.height == spec.genesis_height and spec.genesis_time_ms == 0
    age_ms = wall_ms - head.timestamp_ms
    if spec.devnet or unborn or checkpoint is not None or age_ms <= window_ms(chain):
        return
    raise UsageError(
        f"the newest block here is {age_ms // DAY_MS} days old; certificates are believed for {window_ms(chain) / DAY_MS:.1f}",
        hint=HINT,
    )


def check_block(chain: Chain, checkpoint: Checkpoint, block_hash: bytes, timestamp_ms: int, wall_ms: int) -> None:
    """The block at the checkpoint's height: it must be the named one, and young enough to vouch for those above it."""
    if block_hash != checkpoint.hash:
        raise WrongCheckpoint(
            f"block {checkpoint.height} is not the one of the checkpoint: either the checkpoint is wrong, or this chain is",
            hint="check both with somebody you trust; to begin again, move chain/ away",
        )
    if not chain.params.devnet and wall_ms - timestamp_ms > window_ms(chain):
        raise WrongCheckpoint(f"the checkpoint's block is {(wall_ms - timestamp_ms) // DAY_MS} days old: too old", hint=HINT)
