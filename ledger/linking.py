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

from collections.abc import Callable, Mapping

from .layout import LINKED_MARK, NOTHING_OLDER, UNLINKED, state_place, state_row, state_value

AccountKey = Callable[[bytes], bytes]  # state key of an account (see `machine.StateMachine`)
StateRows = dict[bytes, bytes | None]  # by state key


class Links(dict[bytes, bytes]):
    """State key of an account -> place of its newest extrinsic so far, while going through stored blocks from the first.

    Of one that is asked for and not here yet: as it was before these blocks.
    """

    def __init__(self, account_key: AccountKey) -> None:
        super().__init__()
        self.account_key = account_key

    def __missing__(self, key: bytes) -> bytes:
        return NOTHING_OLDER


class HeadLinks(Links):
    """The same for the block after the head: below it is what the state rows say.

    `before`: state rows before the block, of the keys that it changes; `row` reads others.
    """

    def __init__(self, account_key: AccountKey, before: StateRows, row: Callable[[bytes], bytes | None]) -> None:
        super().__init__(account_key)
        self._before, self._row = before, row

    def __missing__(self, key: bytes) -> bytes:
        return state_place(self._before.get(key) or self._row(key))


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
