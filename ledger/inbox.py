"""The inbox: which messages of peers are worth a signature check, and what is known of those in the check.

Order of checks: length and shape (`ledger.messages`), height window, index, duplicate, signature (on a verify thread). So
a flood of repeated or useless messages costs no cryptography, and everything that is kept has a bound.

Who has a block, and its header, is believed of a verified message only: an authority's newest few blocks are remembered,
and peers who repeat what names one of those.

Messages of the next height (rounds 0 and 1, one per author, round and kind) are kept unverified, since only the end of
this height tells who may sign them; they come back when it begins. Dropping them would cost up to T_rebroadcast a height
to whoever commits last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .bft import Core
from .blocks import Block, Header
from .effects import PeerId, Verified, Verify
from .votes import NIL, PRECOMMIT, PROPOSAL, Certificate, Proposal, Vote

MAX_NAMED: Final = 4  # undecided blocks, of those that one authority named, of which header and sources are remembered
MAX_SOURCES: Final = 4  # peers remembered as having named a block
MAX_VERIFYING: Final = 4096  # values in the check; more are dropped, R10 brings them again
EARLY_ROUNDS: Final = 1  # of the next height

Signable = Vote | Proposal | Certificate


@dataclass(frozen=True, slots=True)
class Pending:
    """What a Verify in progress is about. `ticket`: of gossip; `synced`: the block whose certificate it is."""

    peer: PeerId
    height: int
    values: tuple[Signable, ...]
    keys: tuple[bytes, ...]  # that certify the height
    headers: Mapping[bytes, Header]  # that came along, by hash
    ticket: int | None = None
    synced: Block | None = None


class Inbox:
    """Belongs to one engine. `tip_keys` certify the tip; `listen_to`, if set, is the key whose messages alone matter."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.tip_keys: tuple[bytes, ...] = ()
        self.listen_to: bytes | None = None
        self.final_seen = -1  # highest height of a verified Final that was gossiped
        self._early: dict[tuple[int, int, int], tuple[PeerId, Vote | Proposal]] = {}  # (index, round, kind)
        self._pending: dict[int, Pending] = {}
        self._verifying: dict[Signable, None] = {}
        self._numbers = 0
        self.forget_height()

    def forget_height(self) -> None:
        self.headers: dict[bytes, Header] = {}
        self.sources: dict[bytes, list[PeerId]] = {}
        self._named: dict[int, deque[bytes]] = {}  # by authority, oldest first; under -1 what certificates named

    # --- before the signature ----------------------------------------------------------------------------------------

    def repeat(self, peer: PeerId, value: Signable) -> None:
        """A value that is not verified adds a source, but only of a block that a verified one named."""
        known = self.sources.get(value.block_hash)
        if known is not None and peer not in known and len(known) < MAX_SOURCES:
            known.append(peer)

    def is_misplaced(self, value: Signable) -> bool:
        """Signed, if at all, by somebody who may not say this at this height: anybody can see that."""
        core = self._core
        if isinstance(value, Certificate) or value.height != core.height or core.idle:
            return False
        return value.index >= core.n or (isinstance(value, Proposal) and value.index != core.leader(value.round))

    def is_news(self, value: Signable) -> bool:
        """Of a height in work, and not known already."""
        core = self._core
        if value in self._verifying:
            return False
        if isinstance(value, Certificate) and value.height == core.height - 1:
            return value.kind == PRECOMMIT and value.height > self.final_seen and bool(self.tip_keys)
        if value.height != core.height or core.idle or (core.me is None and not self._is_listened_to(value)):
            return False
        return not core.knows(value)

    def is_first_final(self, value: Signable) -> bool:
        """The first gossiped proof of a block that may be known here: worth a check, because it is forwarded if it holds."""
        return isinstance(value, Certificate) and value.kind == PRECOMMIT and value not in self._verifying and (
            self.final_seen < value.height == self._core.height
        )

    def _is_listened_to(self, value: Signable) -> bool:
        return isinstance(value, Certificate) or self._core.keys[value.index] == self.listen_to

    def keep_early(self, peer: PeerId, peer_key: bytes, value: Signable) -> None:
        """Messages of the next height. What the author itself sent replaces what others say it said."""
        core = self._core
        if isinstance(value, Certificate) or value.height != core.height + 1:
            return
        if value.round > EARLY_ROUNDS or value.index >= core.n:
            return
        place = (value.index, value.round, value.kind if isinstance(value, Vote) else PROPOSAL)
        if place not in self._early or peer_key == core.keys[value.index]:
            self._early[place] = (peer, value)

    def take_early(self) -> dict[PeerId, list[Signable]]:
        """What was kept, by sender; the height it belongs to has begun."""
        early, self._early = self._early, {}
        found: dict[PeerId, list[Signable]] = {}
        for peer, value in early.values():
            found.setdefault(peer, []).append(value)
        return found

    # --- the signature -----------------------------------------------------------------------------------------------

    def begin(
        self, peer: PeerId, height: int, values: Iterable[Signable], domain: bytes, *, ticket: int | None = None,
        synced: Block | None = None, headers: Mapping[bytes, Header] = MappingProxyType({}),
    ) -> Verify | None:
        """One Verify for values of one height. None if there is nothing to check, or too much in the check already.

        `headers`: that came along, by hash. What sync hands over comes one at a time and is let through always.
        """
        some = tuple(dict.fromkeys(values))
        if not some or (synced is None and len(self._verifying) + len(some) > MAX_VERIFYING):
            return None
        self._numbers += 1
        keys = self._core.keys if height == self._core.height else self.tip_keys
        along = {value.block_hash: headers[value.block_hash] for value in some if value.block_hash in headers}
        self._pending[self._numbers] = Pending(peer, height, some, keys, along, ticket, synced)
        self._verifying.update(dict.fromkeys(some))
        return Verify(self._numbers, some, keys, domain, synced)

    def end(self, event: Verified) -> Pending | None:
        """The Verify is answered; None for one that was never asked."""
        pending = self._pending.pop(event.number, None)
        for value in pending.values if pending else ():
            self._verifying.pop(value, None)
        return pending

    def name(self, pending: Pending, value: Signable) -> None:
        """A verified value names a block that its sender has; the oldest of too many named by one authority is forgotten."""
        block_hash = value.block_hash
        if value.height != self._core.height or block_hash == NIL or not pending.peer:
            return
        named = self._named.setdefault(-1 if isinstance(value, Certificate) else value.index, deque())
        if block_hash not in named:
            named.append(block_hash)
        self.sources.setdefault(block_hash, [])
        self.repeat(pending.peer, value)
        if block_hash in pending.headers:
            self.headers[block_hash] = pending.headers[block_hash]
        if len(named) > MAX_NAMED:
            oldest = named.popleft()
            if not any(oldest in others for others in self._named.values()):
                del self.sources[oldest]
                self.headers.pop(oldest, None)
