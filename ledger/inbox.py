"""The inbox: which messages of peers are worth a signature check, and what is known of those in the check.

Order of checks: length and shape (`ledger.messages`), height window, index, duplicate, signature (on a verify thread). So
a flood of repeated or useless messages costs no cryptography, and everything that is kept has a bound.

Messages of the next height (rounds 0 and 1, one per author, round and kind) are kept unverified, since only the end of
this height tells who may sign them; they come back when it begins. Dropping them would cost up to T_rebroadcast a height
to whoever commits last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .bft import Core
from .blocks import Block, Header
from .effects import PeerId, Verified, Verify
from .messages import Bundle
from .votes import NIL, PRECOMMIT, PROPOSAL, Certificate, Proposal, Vote

MAX_NAMED: Final = 32  # undecided blocks of which a header or a source is remembered
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

    # --- before the signature ----------------------------------------------------------------------------------------

    def remember(self, peer: PeerId, bundle: Bundle) -> None:
        """Who named which undecided block, and the headers that came along."""
        values: tuple[Signable, ...] = (*bundle.votes, *bundle.proposals, *bundle.certificates)
        for value in values:
            self._name(peer, value.height, value.block_hash)
        for header in (bundle.headers or {}).values():
            self.remember_header(peer, header)

    def remember_header(self, peer: PeerId, header: Header) -> None:
        self._name(peer, header.height, header.hash)
        if header.height == self._core.height and len(self.headers) < MAX_NAMED:
            self.headers[header.hash] = header

    def _name(self, peer: PeerId, height: int, block_hash: bytes) -> None:
        if height != self._core.height or block_hash == NIL:
            return
        if block_hash in self.sources or len(self.sources) < MAX_NAMED:
            known = self.sources.setdefault(block_hash, [])
            if peer not in known and len(known) < MAX_SOURCES:
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
        synced: Block | None = None,
    ) -> Verify | None:
        """One Verify for values of one height. None if there is nothing to check, or too much in the check already.

        What sync hands over comes one at a time and is let through always.
        """
        some = tuple(dict.fromkeys(values))
        if not some or (synced is None and len(self._verifying) + len(some) > MAX_VERIFYING):
            return None
        self._numbers += 1
        self._pending[self._numbers] = Pending(peer, height, some, ticket, synced)
        self._verifying.update(dict.fromkeys(some))
        keys = self._core.keys if height == self._core.height else self.tip_keys
        return Verify(self._numbers, some, keys, domain, synced)

    def end(self, event: Verified) -> Pending | None:
        """The Verify is answered; None for one that was never asked."""
        pending = self._pending.pop(event.number, None)
        for value in pending.values if pending else ():
            self._verifying.pop(value, None)
        return pending
