"""The smallest state machine: it counts blocks, keeps its authorities and refuses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ledger.blocks import Extrinsic
from ledger.errors import Rejected
from ledger.machine import Admission, AuthoritySet, BlockContext, BlockResult, Objects, Standing, View

COUNT_KEY = b"count"
AUTHORITIES_KEY = b"authorities"


class CounterMachine:
    """`genesis` gives the state to begin with. Extrinsics do not exist here.

    `schedule`: first height -> the set from then on.
    """

    def __init__(self, schedule: Mapping[int, tuple[bytes, ...]] | None = None) -> None:
        self._schedule = schedule or {}

    @staticmethod
    def genesis(keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {COUNT_KEY: bytes(8), AUTHORITIES_KEY: b"".join(keys)}

    def version_at(self, view: View) -> int:
        return 1

    def authorities(self, view: View) -> AuthoritySet:
        return _set_of(view.get(AUTHORITIES_KEY) or b"")

    def admit(self, view: View, extrinsic: Extrinsic, height: int) -> Admission:
        raise Rejected("NoCalls", "this machine has no calls")

    def standing(self, view: View, account: bytes) -> Standing:
        return Standing(0, 0)

    def account_key(self, account: bytes) -> bytes:
        return b"account" + account  # never there

    def remembered(self, values: Iterable[tuple[bytes, bytes]]) -> Objects:
        return {}

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
        changes: dict[bytes, bytes | None] = {COUNT_KEY: count.to_bytes(8, "big")}
        keys = self._schedule.get(context.height + 1)
        if keys is not None:
            changes[AUTHORITIES_KEY] = b"".join(keys)
        authorities = self.authorities(view) if keys is None else _set_of(b"".join(keys))
        return BlockResult(changes, [[1, count]], [], authorities)


def _set_of(joined: bytes) -> AuthoritySet:
    keys = tuple(joined[at : at + 32] for at in range(0, len(joined), 32))
    return AuthoritySet(keys, tuple(range(len(keys))))
