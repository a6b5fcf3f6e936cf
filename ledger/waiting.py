"""What one account has waiting: its extrinsics by nonce, which of them a block could carry, and what each is worth.

An extrinsic is *ready* if every nonce from the account's next one up to its own waits too and the account can pay the
fees of all of them; else it is *parked*, behind a gap or behind the account's money.

Worth decides what leaves a full pool: parked before ready, lower class first, then less fee for a byte. An extrinsic is
worth no more than those before it, without which it cannot be included: so an account's last ones leave first, and what
can never pay its fee displaces nobody who does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .blocks import Extrinsic
from .machine import OPERATIONAL_PRIORITY, Admission, Standing
from .verdict import SignatureTask

Worth = tuple[bool, int, int]  # (ready, class, rao for 1000 bytes): the least of the extrinsic and those before it

PARKED: Final[Worth] = (False, 0, 0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An extrinsic that passed every check but the signature's, on the state of the block `head_hash`."""

    extrinsic: Extrinsic
    raw: bytes
    admission: Admission
    standing: Standing  # of its signer
    signature: SignatureTask  # (public key, message, signature) for a `VerifyBatch`
    head_hash: bytes

    @property
    def is_feeless(self) -> bool:
        """Inclusion would cost no fee, or nothing but a tip."""
        return self.admission.fee_rao == self.extrinsic.tip

    @property
    def is_operational(self) -> bool:
        return self.admission.priority >= OPERATIONAL_PRIORITY


class AccountQueue:
    """The extrinsics of one account, by nonce. Whoever changes `entries` or `standing` calls `rank` afterwards."""

    __slots__ = ("_worth", "entries", "standing")

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.entries: dict[int, Candidate] = {}
        self._worth: dict[int, Worth] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def in_order(self) -> Iterator[Candidate]:
        """By nonce."""
        return (self.entries[nonce] for nonce in sorted(self.entries))

    def rank(self) -> list[tuple[Worth, Candidate]]:
        """Settle what each extrinsic is worth now; returns those whose worth is another than before."""
        before, self._worth = self._worth, worth_of(self.entries, self.standing)
        return [(worth, self.entries[nonce]) for nonce, worth in self._worth.items() if before.get(nonce) != worth]

    def worth(self, nonce: int) -> Worth:
        """As of the last `rank`; PARKED for a nonce that does not wait here."""
        return self._worth.get(nonce, PARKED)

    def worth_with(self, candidate: Candidate) -> Worth:
        """What a candidate would be worth here, in place of what has its nonce."""
        nonce = candidate.extrinsic.nonce
        before = {other: entry for other, entry in self.entries.items() if other < nonce}
        return worth_of({**before, nonce: candidate}, candidate.standing)[nonce]

    def ready(self, nonce: int) -> Candidate | None:
        """The extrinsic of that nonce, if it is ready."""
        return self.entries[nonce] if self.worth(nonce)[0] else None

    def first(self) -> Candidate | None:
        """The extrinsic that the next block could carry."""
        return self.ready(self.standing.next_nonce)

    def missing_before(self, nonce: int, next_nonce: int, coming: Collection[int]) -> int:
        """How many nonces from `next_nonce` up to `nonce` neither wait here nor are about to come."""
        present = sum(next_nonce <= other < nonce for other in self.entries)
        return nonce - next_nonce - present - sum(next_nonce <= n < nonce and n not in self.entries for n in coming)

    def feeless(self) -> int:
        """How many cost no fee."""
        return sum(entry.is_feeless for entry in self.entries.values())


def worth_of(entries: Mapping[int, Candidate], standing: Standing) -> dict[int, Worth]:
    """Worth of each extrinsic of an account, by nonce, ascending."""
    found: dict[int, Worth] = {}
    expected, left_rao, ready = standing.next_nonce, standing.payable_rao, True
    least: Worth | None = None
    for nonce in sorted(entries):
        if nonce < standing.next_nonce:  # included already: leaves with the block's news
            found[nonce] = PARKED
            continue
        entry = entries[nonce]
        admission = entry.admission
        left_rao -= admission.fee_rao
        ready = ready and nonce == expected and left_rao >= 0
        own = (ready, admission.priority, admission.fee_rao * 1000 // len(entry.raw))
        least = own if least is None else min(least, own)
        found[nonce], expected = least, nonce + 1
    return found
