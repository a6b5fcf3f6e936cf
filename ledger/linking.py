"""The history of an account as a linked list, without rows of its own.

An account's state row carries the place (height, index) of the newest extrinsic that concerns it, and each entry of an
account row (see `indexes`) the place of the account's extrinsic before that one. Neither is part of the state: a node that
begins from a snapshot begins the lists there.

A list has a gap where the account had no state row when an extrinsic concerned it: there was nowhere to keep the place.
That is the case before an account exists and after it is reaped. Its next entry then says UNLINKED instead of a place, so
does a state row that a block makes without an extrinsic of that account; a search over the account rows closes the gap.
NOTHING_OLDER stands at the end: the account had a row in the first state here, and no older extrinsic concerns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from .layout import LINKED_MARK, NOTHING_OLDER, PLACE_BYTES, UNLINKED, state_place, state_row, state_value

AccountKey = Callable[[bytes], bytes]  # state key of an account (see `machine.StateMachine`)
StateRows = dict[bytes, bytes | None]  # by state key

_PLACE_END: Final = 1 + PLACE_BYTES


class Links(dict[bytes, bytes]):
    """State key of an account -> place of its newest extrinsic so far, while going through stored blocks from the first."""

    def __init__(self, account_key: AccountKey) -> None:
        super().__init__()
        self._account_key = account_key

    def begin(self, accounts: Iterable[bytes]) -> list[bytes]:
        """Have places of all these accounts: of those that are not here yet, as they were before these blocks.

        Returns the state key of each.
        """
        keys = list(map(self._account_key, accounts))
        new = [key for key in dict.fromkeys(keys) if key not in self]
        self.update(zip(new, self._below(new), strict=True))
        return keys

    def _below(self, keys: Sequence[bytes]) -> list[bytes]:
        """The places of accounts that are not here, as they were before these blocks."""
        return [NOTHING_OLDER] * len(keys)


class HeadLinks(Links):
    """The same for the block after the head: below it is what the state rows say.

    `before`: state rows before the block, of the keys that it changes; `row` reads others.
    """

    def __init__(self, account_key: AccountKey, before: StateRows, row: Callable[[bytes], bytes | None]) -> None:
        super().__init__(account_key)
        self._before, self._row = before, row

    def _below(self, keys: Sequence[bytes]) -> list[bytes]:
        before, other = self._before, self._row
        rows = [before[key] if key in before else other(key) for key in keys]
        return [
            row[1:_PLACE_END] if row is not None and row[:1] == LINKED_MARK and len(row) >= _PLACE_END else state_place(row)
            for row in rows
        ]


def linked_rows(
    changes: Mapping[bytes, bytes | None], heads: Mapping[bytes, bytes], before: StateRows,
    row: Callable[[bytes], bytes | None],
) -> StateRows:
    """The state rows that a block writes, by state key. What they replace is added to `before`.

    `changes`: values by state key; `heads`: see `Links`; `before` and `row`: see `HeadLinks`.
    """
    written: StateRows = {}
    for key, value in changes.items():
        if value is None:
            written[key] = None
        elif (place := heads.get(key)) is not None:
            written[key] = LINKED_MARK + place + value
        else:
            written[key] = state_row(value, state_place(before[key]))
    for key, place in heads.items():
        if key not in changes and (old := row(key)) is not None:
            before[key], written[key] = old, state_row(state_value(old), place)
    return written


def mended_row(row: bytes, place: bytes | None) -> bytes:
    """A state row as it should be if the stored blocks say that its account's newest extrinsic is at `place`."""
    found = state_place(row)
    wanted = place or (found if found == NOTHING_OLDER else UNLINKED)
    return state_row(state_value(row), wanted)


def fits(row: bytes, place: bytes | None) -> bool:
    """Whether a state row agrees with the stored blocks. One that is not linked says nothing that could be wrong."""
    found = state_place(row)
    return found == UNLINKED or found == (place or NOTHING_OLDER)
