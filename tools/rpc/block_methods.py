"""RPC methods about blocks: headers, certificates, extrinsics, authorities, events."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from functools import cached_property
from typing import Final

from ledger.client.api import AtLike
from ledger.client.records import (
    AuthorityRecord,
    BlockRecord,
    CandidateRecord,
    EventRecord,
    ExtrinsicRecord,
    Finality,
    HeaderRecord,
    NewHead,
    Page,
    Reading,
    Supply,
    UpgradeRecord,
)
from ledger.errors import NotFound
from ledger.machine import View
from runtime.registry import EVENTS

from . import render
from .by_version import authorities, bonds, reads
from .places import Places, cursor, key_of, page
from .subscriptions import Follower

HEADERS_KEPT: Final = 1024
HEADS_KEPT: Final = 16  # rendered heads, so that many subscribers cost one rendering
EVENT_SCAN_BLOCKS: Final = 1000  # looked at in one call for events of any kind


class BlockMethods(Places):
    """`chain_` and `events_`."""

    @cached_property
    def _heads(self) -> OrderedDict[int, NewHead]:
        return OrderedDict()

    @cached_property
    def _headers(self) -> OrderedDict[int, HeaderRecord]:
        return OrderedDict()

    async def chain_get_block(self, at: AtLike = "head") -> BlockRecord:
        height = self._height(at)
        return await self._heavy(render.block_record, self.chain, height, self.node.finality_ms(height))

    async def chain_get_header(self, at: AtLike = "head") -> HeaderRecord:
        return self._header(self._height(at))

    async def chain_get_headers(self, before: int | None = None, limit: int = 20) -> list[HeaderRecord]:
        limit = page(limit)
        top = self.node.tip.height if before is None else min(before - 1, self.node.tip.height)
        lowest = max(self.chain.params.initial_height, top - limit + 1)
        return await self._heavy(lambda: [self._header(height) for height in range(top, lowest - 1, -1)])

    async def chain_get_block_hash(self, height: int) -> bytes:
        return self.chain.hash_at(self._height(height))

    async def chain_get_finalized_head(self) -> bytes:
        return self.node.tip.hash

    async def chain_get_authorities(self, at: AtLike = "head") -> Reading[list[AuthorityRecord]]:
        return await self._reading(at, self._authorities)

    async def chain_get_authority_candidates(self, at: AtLike = "head") -> Reading[list[CandidateRecord]]:
        return await self._reading(at, self._candidates)

    async def chain_get_proof_of_finality(self, at: AtLike = "head") -> Finality:
        return render.finality_record(self.chain, self._height(at))

    async def chain_get_extrinsic(self, id: bytes) -> ExtrinsicRecord:
        place = self.chain.find_extrinsic(key_of(id, "id"))
        if place is not None and place[0] <= self.node.tip.height:
            record = render.extrinsic_record(self.chain, *place)
            if record.id == id:  # rows are found by the beginning of an id
                return record
        waiting = self.node.pool.get(id)
        if waiting is not None:
            return render.waiting_record(self.chain, waiting)
        raise NotFound(f"there is no extrinsic 0x{id.hex()}", hint="it may have expired, or was never submitted")

    async def chain_get_supply(self, at: AtLike = "head") -> Reading[Supply]:
        return await self._reading(at, lambda view, height: reads.supply(view))

    async def chain_get_upgrades(self, at: AtLike = "head") -> Reading[UpgradeRecord]:
        return await self._reading(at, lambda view, height: self.node.upgrade(height))

    def chain_subscribe_new_heads(self, start: int | None = None) -> Follower[NewHead]:
        return Follower(self.node.heads, self._new_head, start)

    async def events_query(
        self, kind: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[EventRecord]:
        limit = page(limit)
        start = None if after is None else tuple(cursor(after, 2))
        number = None
        if kind is not None:
            number = next((each.number for each in EVENTS.values() if each.name == kind), None)
            if number is None:
                near = difflib.get_close_matches(kind[:64], [each.name for each in EVENTS.values()], 3)
                hint = f"did you mean {' or '.join(near)}?" if near else "quorix query metadata --json lists them"
                raise NotFound(f"there is no event {kind[:64]!r}", hint=hint)
        return await self._heavy(self._events, number, start, limit)

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _header(self, height: int) -> HeaderRecord:
        """A header's record never changes, so the latest that were asked for are kept."""
        known = self._headers.get(height)
        if known is None:
            known = render.header_record(self.chain, height, self.node.finality_ms(height))
            if height == self.chain.params.genesis_height:
                return known
            self._headers[height] = known
            if len(self._headers) > HEADERS_KEPT:
                self._headers.popitem(last=False)
        return known

    async def _new_head(self, height: int) -> NewHead:
        """A head with its events, rendered once for all subscribers."""
        known = self._heads.get(height)
        if known is None:
            header = self._header(height)
            events = render.event_records(self.chain, height, *self.chain.results(height))
            known = self._heads[height] = NewHead(header, header.extrinsics, header.finality_ms, events)
            if len(self._heads) > HEADS_KEPT:
                self._heads.popitem(last=False)
        return known

    def _authorities(self, view: View, height: int) -> list[AuthorityRecord]:
        current = authorities.current(view)
        number = self.chain.params.session(max(height, self.chain.params.initial_height))
        session = authorities.session(view, number)
        place = {key: i for i, key in enumerate(session.keys)} if session is not None else {}
        counters = authorities.uptime(view, number) if session is not None else None
        out = []
        for index, key in enumerate(current.keys):
            row, where = authorities.authority(view, key), place.get(key)
            assert row is not None, "a key of the set has no row"
            known = counters is not None and where is not None
            bond = bonds.bond_of(view, row.account)
            out.append(AuthorityRecord(
                index, key, index in current.active, row.disabled, row.skipped,
                counters.led[where] if known else 0, row.missed, counters.signed[where] if known else 0,  # type: ignore
                counters.blocks if counters is not None else 0, row.account, bond.bonded_rao,
                bond.total_rao - bond.bonded_rao, row.heartbeat[0] if row.heartbeat else None,
            ))
        return out

    def _candidates(self, view: View, height: int) -> list[CandidateRecord]:
        least, session = bonds.least_rao(view), self.chain.params.session(height + 1)
        out = []
        for key, row in authorities.candidates(view):
            bonded, beat = bonds.bond_of(view, row.account).bonded_rao, row.heartbeat_session
            ready = beat == session and bonded >= least
            out.append(CandidateRecord(key, row.account, bonded, least, beat if beat >= 0 else None, ready))
        return out

    def _events(self, number: int | None, start: tuple[int, ...] | None, limit: int) -> Page[EventRecord]:
        """Events below the place (height, index), newest first. A page may be short although more follow."""
        chain = self.chain
        top = self.node.tip.height if start is None else min(start[0], self.node.tip.height)
        lowest = chain.params.initial_height
        if number is None:
            heights = list(range(top, max(lowest, top - EVENT_SCAN_BLOCKS + 1) - 1, -1))
        else:
            heights = chain.event_heights(number, before_height=top + 1, limit=limit)
        items: list[EventRecord] = []
        for height in heights:
            for record, event in reversed(list(zip(
                render.event_records(chain, height, *chain.results(height)), chain.events(height), strict=True
            ))):
                passed = start is not None and (height, record.index) >= (start[0], start[1])
                if passed or (number is not None and event[0] != number):
                    continue
                items.append(record)
                if len(items) == limit:
                    return Page(items, f"{height}:{record.index}")
        last = heights[-1] if heights else lowest
        more = last > lowest and (number is None or len(heights) == limit)
        return Page(items, f"{last}:0" if more else None)
