"""The page of an account or hotkey: money, identity, proxies, children and parents, swaps, bond, what it signed."""

from __future__ import annotations

import asyncio
from typing import Final

from ledger.client.api import ChainApi
from ledger.errors import NotFound

from .page import Query, Values, key_of, names

HISTORY: Final = 25


async def account(api: ChainApi, path: dict[str, str], query: Query) -> Values:
    key = key_of(path["account"])
    reading, stakes, history, known = await asyncio.gather(
        api.account_get(key), api.account_stakes(key),
        api.account_history(key, after=query.get("after"), limit=HISTORY), names(api),
    )
    identity, proxies, relations, swaps, bond = await asyncio.gather(
        api.account_identity(key), api.account_proxies(key), api.account_relations(key), api.account_swaps(key),
        api.account_bond(key),
    )
    value = reading.value
    known_to_chain = value.nonce or value.free_rao or value.reserved_rao or value.owner or value.hotkeys or history.items
    if not (known_to_chain or value.staked_rao or value.unbonding_rao or stakes.value):
        cause = "nothing on this chain mentions that account"
        raise NotFound(cause, hint="it exists as soon as somebody sends to it; an address of another chain never will")
    columns = ["height", "index", "call", "fee_rao", "error", "id"]
    table = columns, [[getattr(x, c) for c in columns] for x in history.items]
    data = {
        "account": reading, "stakes": stakes, "identity": identity.value, "proxies": proxies.value,
        "relations": relations.value, "swaps": swaps.value, "bond": bond.value, "history": history,
    }
    shown = {**data, "account": value, "stakes": stakes.value}
    return Values(data, {**shown, "key": key, "at": reading.at, "names": known}, table)
