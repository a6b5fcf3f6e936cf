"""The smallest state machine: it counts blocks, keeps its authorities and refuses nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.blocks import Extrinsic
from ledger.errors import Rejected
from ledger.machine import Admission, AuthoritySet, BlockContext, BlockResult, Standing, View

COUNT_KEY = b"count"
AUTHORITIES_KEY = b"authorities"


class CounterMachine:
    """`genesis` gives the state to begin with. Extrinsics do not exist here."""

    version = 1

    @staticmethod
    def genesis(keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {COUNT_KEY: bytes(8), AUTHORITIES_KEY: b"".join(keys)}

    def authorities(self, view: View) -> AuthoritySet:
        joined = view.get(AUTHORITIES_KEY) or b""
        keys = tuple(joined[at : at + 32] for at in range(0, len(joined), 32))
        return AuthoritySet(keys, tuple(range(len(keys))))

    def admit(self, view: View, extrinsic: Extrinsic, height: int) -> Admission:
        raise Rejected("NoCalls", "this machine has no calls")

    def standing(self, view: View, account: bytes) -> Standing:
        return Standing(0, 0)

    def block_inherents(
        self, view: View, context: BlockContext, candidates: Sequence[tuple[int, bytes]]
    ) -> list[tuple[int, bytes]]:
        return []

    def apply_block(
        self, view: View, context: BlockContext, inherents: Sequence[tuple[int, bytes]], extrinsics: Sequence[Extrinsic],
        left_out: dict[int, str] | None = None,
    ) -> BlockResult:
        if inherents or extrinsics:
            raise Rejected("NoCalls", "this machine has no calls")
        count = int.from_bytes(view.get(COUNT_KEY) or b"", "big") + 1
        return BlockResult({COUNT_KEY: count.to_bytes(8, "big")}, [[1, count]], [], self.authorities(view))
