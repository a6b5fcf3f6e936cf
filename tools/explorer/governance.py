"""The pages about who decides: proposals of the root seats with their votes, and the authorities with their bonds."""

from __future__ import annotations

import asyncio
from typing import Final

from ledger.client.api import ChainApi
from ledger.client.records import EventRecord

from .page import LIST_BLOCKS, Query, Values, names

CLOSED_KINDS: Final = ("ProposalExecuted", "ProposalRejected", "ProposalCancelled")
CLOSED: Final = 20


async def governance(api: ChainApi, _: dict[str, str], __: Query) -> Values:
    reading, upgrade, parameters, metadata, known = await asyncio.gather(
        api.gov_list(), api.chain_get_upgrades(), api.gov_get_params(), api.state_get_metadata(), names(api)
    )
    closed = await _closed(api)
    numbers = {entry.number: entry.name for entry in metadata.calls}
    columns = ["number", "state", "call", "proposed_at", "decides_at", "ayes_rao", "nays_rao", "cancels_rao", "eligible_rao"]
    table = columns, [
        [p.number, p.state, p.proposed.call, p.proposed_at, p.decides_at, p.tally.ayes_rao, p.tally.nays_rao,
         p.tally.cancels_rao, p.tally.eligible_rao]
        for p in reading.value
    ]
    data = {"open": reading, "closed": closed, "upgrade": upgrade.value, "parameters": parameters.value}
    show = {
        "proposals": reading.value, "at": reading.at, "closed": closed, "calls": numbers, "upgrade": upgrade.value,
        "parameters": parameters.value, "names": known,
    }
    return Values(data, show, table)


async def _closed(api: ChainApi) -> list[EventRecord]:
    """How the last proposals ended, newest first."""
    pages = await asyncio.gather(*(api.events_query(kind, limit=CLOSED) for kind in CLOSED_KINDS))
    return sorted((event for page in pages for event in page.items), key=lambda e: (-e.height, -e.index))[:CLOSED]


async def authorities(api: ChainApi, _: dict[str, str], __: Query) -> Values:
    reading, upgrade, candidates, known = await asyncio.gather(
        api.chain_get_authorities(), api.chain_get_upgrades(), api.chain_get_authority_candidates(), names(api)
    )
    headers = await api.chain_get_headers(limit=LIST_BLOCKS)
    led = {a.index: sum(h.proposer_index == a.index for h in headers) for a in reading.value}
    columns = [
        "index", "session_key", "active", "disabled", "skipped", "led", "missed", "signed", "account", "bonded_rao",
        "unbonding_rao",
    ]
    table = columns, [[getattr(a, c) for c in columns] for a in reading.value]
    show = {
        "authorities": reading.value, "candidates": candidates.value, "led": led, "window": len(headers),
        "upgrade": upgrade.value, "names": known,
    }
    return Values(reading, show, table)
