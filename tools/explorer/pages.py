"""The pages: a path, a template, and a function that reads what the page shows through the chain API.

`data` of a page is what its `.json` form returns; `table` what its `.csv` form returns; `show` feeds the template.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.client.api import ChainApi
from ledger.client.keys import decode_address, encode_address
from ledger.client.records import EpochTraceRecord, Metagraph, NeuronRecord, Row
from ledger.errors import Error, NotFound, UsageError

from .epoch import explain

Query = Mapping[str, str]
Table = tuple[list[str], list[list[Any]]]

HOME_BLOCKS: Final = 12
LIST_BLOCKS: Final = 50
HISTORY: Final = 25
MAX_QUERY_CHARS: Final = 200


@dataclass(frozen=True)
class Values:
    data: Any
    show: dict[str, Any]
    table: Table | None = None


Loader = Callable[[ChainApi, dict[str, str], Query], Awaitable[Values]]


@dataclass(frozen=True)
class Page:
    """`snippet`: the same thing by RPC, CLI and Python, with {fields} of the path filled in."""

    path: str
    title: str
    template: str
    load: Loader
    snippet: tuple[str, str, str]
    nav: str = ""
    live: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def _number(text: str, what: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise UsageError(f"{text[:40]!r} is no {what}")
    return int(text)


def _key(text: str) -> bytes:
    if text.startswith("0x"):
        try:
            key = bytes.fromhex(text[2:])
        except ValueError:
            key = b""
        if len(key) != 32:
            raise UsageError(f"{text[:80]!r} is no 32-byte public key")
        return key
    return decode_address(text)


async def names(api: ChainApi) -> dict[bytes, str]:
    """Names of hotkeys and their coldkeys, where the devnet's cast gives them."""
    out: dict[bytes, str] = {}
    for subnet in (await api.subnet_list()).value:
        for neuron in (await api.subnet_get_metagraph(subnet.netuid)).value.neurons:
            if neuron.name:
                out[neuron.hotkey] = neuron.name
                out.setdefault(neuron.coldkey, neuron.name)
    return out


# --- loaders -----------------------------------------------------------------------------------------------------


async def home(api: ChainApi, _: dict[str, str], __: Query) -> Values:
    headers, health, subnets, authorities, supply, pending = await asyncio.gather(
        api.chain_get_headers(limit=HOME_BLOCKS), api.system_health(), api.subnet_list(), api.chain_get_authorities(),
        api.chain_get_supply(), api.author_pending_extrinsics(limit=20),
    )
    properties = await api.system_properties()
    graphs = {s.netuid: (await api.subnet_get_metagraph(s.netuid)).value for s in subnets.value}
    show = {
        "headers": headers, "health": health, "subnets": subnets.value, "authorities": authorities.value,
        "supply": supply.value, "pending": pending, "properties": properties, "earners": _earners(graphs),
    }
    data = {key: show[key] for key in ("headers", "health", "subnets", "authorities", "supply", "properties")}
    return Values(data, show)


def _earners(graphs: dict[int, Metagraph]) -> list[tuple[int, NeuronRecord]]:
    """Neurons with the most pay in the last epochs."""
    rows = [(netuid, n) for netuid, graph in graphs.items() for n in graph.neurons if n.emission_rao]
    return sorted(rows, key=lambda row: (-row[1].emission_rao, row[0], row[1].uid))[:8]


async def blocks(api: ChainApi, _: dict[str, str], query: Query) -> Values:
    before = _number(query["before"], "height") if "before" in query else None
    headers = await api.chain_get_headers(before=before, limit=LIST_BLOCKS)
    columns = ["height", "hash", "timestamp_ms", "proposer_index", "proposal_round", "extrinsics", "finality_ms"]
    table = columns, [[getattr(h, c) for c in columns] for h in headers]
    return Values(headers, {"headers": headers, "older": headers[-1].height if headers else None}, table)


async def block(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    where = path["block"]
    record = await api.chain_get_block(int(where) if where.isdecimal() and len(where) < 19 else where)
    authorities = (await api.chain_get_authorities(record.header.height)).value
    columns = ["index", "id", "call", "signer", "fee_rao", "error"]
    table = columns, [[getattr(x, c) for c in columns] for x in record.extrinsics]
    show = {"block": record, "authorities": authorities, "names": await names(api)}
    return Values(record, show, table)


async def extrinsic(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    text = path["id"].removeprefix("0x")
    try:
        identity = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{text[:80]!r} is not hex") from None
    record = await api.chain_get_extrinsic(identity)
    return Values(record, {"extrinsic": record, "names": await names(api)})


async def account(api: ChainApi, path: dict[str, str], query: Query) -> Values:
    key = _key(path["account"])
    reading, stakes, history, known = await asyncio.gather(
        api.account_get(key), api.account_stakes(key),
        api.account_history(key, after=query.get("after"), limit=HISTORY), names(api),
    )
    columns = ["height", "index", "call", "fee_rao", "error", "id"]
    table = columns, [[getattr(x, c) for c in columns] for x in history.items]
    show = {"key": key, "account": reading.value, "at": reading.at, "stakes": stakes.value, "history": history, "names": known}
    return Values({"account": reading, "stakes": stakes, "history": history}, show, table)


async def subnets(api: ChainApi, _: dict[str, str], __: Query) -> Values:
    reading = await api.subnet_list()
    columns = ["netuid", "name", "neurons", "stake_rao", "epoch", "blocks_left", "registration_cost_rao", "label"]
    table = columns, [[getattr(s, c) for c in columns] for s in reading.value]
    return Values(reading, {"subnets": reading.value}, table)


METAGRAPH_COLUMNS: Final = [
    "uid", "name", "hotkey", "coldkey", "active", "permit", "stake_rao", "stake_weight", "incentive", "consensus", "trust",
    "dividends", "validator_trust", "emission_rao", "registered_height", "weights_height", "immune", "score",
]


async def subnet(api: ChainApi, path: dict[str, str], query: Query) -> Values:
    netuid = _number(path["netuid"], "subnet")
    info, graph, parameters, commits, epochs = await asyncio.gather(
        api.subnet_get(netuid), api.subnet_get_metagraph(netuid), api.subnet_get_hyperparams(netuid),
        api.subnet_get_commits(netuid), api.epoch_list(netuid, limit=12),
    )
    weights = await api.subnet_get_weights(netuid)
    sort = query.get("sort", "uid")
    if sort not in METAGRAPH_COLUMNS:
        raise UsageError(f"{sort[:40]!r} is no column", hint=", ".join(METAGRAPH_COLUMNS))
    neurons = sorted(graph.value.neurons, key=lambda n: getattr(n, sort), reverse=sort not in ("uid", "name", "hotkey"))
    table = METAGRAPH_COLUMNS, [[getattr(n, c) for c in METAGRAPH_COLUMNS] for n in neurons]
    show = {
        "subnet": info.value, "graph": graph.value, "neurons": neurons, "sort": sort, "parameters": parameters.value,
        "commits": commits.value, "epochs": epochs.items, "weights": {row.uid: row for row in weights.value},
        "names": {n.hotkey: n.name for n in neurons},
    }
    return Values({"subnet": info, "metagraph": graph, "parameters": parameters.value}, show, table)


async def neuron(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    netuid, uid = _number(path["netuid"], "subnet"), _number(path["uid"], "uid")
    reading, graph, weights, bonds = await asyncio.gather(
        api.subnet_get_neuron(netuid, uid), api.subnet_get_metagraph(netuid), api.subnet_get_weights(netuid),
        api.subnet_get_bonds(netuid),
    )
    by_uid = {n.uid: n for n in graph.value.neurons}
    history = await _pay_history(api, netuid, uid)
    show = {
        "neuron": reading.value, "netuid": netuid, "by_uid": by_uid, "history": history,
        "given": next((row for row in weights.value if row.uid == uid), None),
        "received": [(row.uid, _value(row, uid), sum(row.values)) for row in weights.value if uid in row.uids],
        "bonds": [(row.uid, _value(row, uid)) for row in bonds.value if uid in row.uids],
    }
    return Values(reading, show)


def _value(row: Row, uid: int) -> int:
    return row.values[row.uids.index(uid)]


async def _pay_history(api: ChainApi, netuid: int, uid: int) -> list[tuple[int, int]]:
    """(epoch, pay in rao) of the newest epochs, oldest first."""
    rows = []
    for entry in (await api.epoch_list(netuid, limit=12)).items:
        record = await api.epoch_explain(netuid, entry.epoch)
        pay = record.trace["pay_rao"]
        rows.append((entry.epoch, int(pay[uid]) if uid < len(pay) else 0))
    return rows[::-1]


async def epoch(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    netuid = _number(path["netuid"], "subnet")
    number = None if path["epoch"] == "latest" else _number(path["epoch"], "epoch")
    record: EpochTraceRecord = await api.epoch_explain(netuid, number)
    listed = await api.epoch_list(netuid, limit=1)
    newest = listed.items[0].epoch if listed.items else record.epoch
    story = explain(record)
    columns = ["uid", "name", "stake_rao", "consensus_q32", "incentive_q32", "dividends_q32", "server_rao", "validator_rao"]
    fields = ["stake_rao", "consensus", "incentive", "dividends", "server_rao", "validator_rao"]
    table = columns, [
        [uid, record.names[uid], *(record.trace[f][uid] for f in fields)] for uid in range(len(record.hotkeys))
    ]
    return Values(record, {"record": record, "story": story, "newest": newest}, table)


async def authorities(api: ChainApi, _: dict[str, str], __: Query) -> Values:
    reading = await api.chain_get_authorities()
    headers = await api.chain_get_headers(limit=LIST_BLOCKS)
    led = {a.index: sum(h.proposer_index == a.index for h in headers) for a in reading.value}
    columns = ["index", "session_key", "active", "disabled", "skipped", "led", "missed", "signed"]
    table = columns, [[getattr(a, c) for c in columns] for a in reading.value]
    return Values(reading, {"authorities": reading.value, "led": led, "window": len(headers)}, table)


async def events(api: ChainApi, _: dict[str, str], query: Query) -> Values:
    kind = query.get("kind") or None
    page, metadata = await asyncio.gather(
        api.events_query(kind, after=query.get("after"), limit=LIST_BLOCKS), api.state_get_metadata()
    )
    table = ["height", "index", "name", "fields"], [[e.height, e.index, e.name, e.fields] for e in page.items]
    return Values(page, {"page": page, "kind": kind or "", "kinds": sorted(metadata.events)}, table)


async def find(api: ChainApi, text: str) -> str:
    """The path of what a search means: height, hash, extrinsic id, address, name, or NETUID/UID."""
    if not text or len(text) > MAX_QUERY_CHARS:
        raise UsageError("nothing to look for", hint="a height, hash, address, name, or SUBNET/UID")
    if text.isdecimal() and len(text) < 19:
        return f"/block/{text}"
    left, slash, right = text.partition("/")
    if slash and left.isdecimal() and right.isdecimal():
        return f"/neuron/{left}/{right}"
    hexed = text.removeprefix("0x")
    if len(hexed) == 64:
        for path, attempt in (("block", api.chain_get_header), ("tx", None)):
            try:
                if attempt is not None:
                    await attempt("0x" + hexed)
                else:
                    await api.chain_get_extrinsic(bytes.fromhex(hexed))
                return f"/{path}/0x{hexed}"
            except (Error, ValueError):
                continue
        return f"/account/0x{hexed}"
    for subnet_record in (await api.subnet_list()).value:
        if text.lower() == subnet_record.name.lower():
            return f"/subnet/{subnet_record.netuid}"
        for row in (await api.subnet_get_metagraph(subnet_record.netuid)).value.neurons:
            if text.lower() == row.name.lower():
                return f"/neuron/{subnet_record.netuid}/{row.uid}"
    try:
        return f"/account/{encode_address(decode_address(text))}"
    except UsageError as error:
        raise NotFound(f"nothing is called {text[:60]!r}", hint="a height, hash, address, name, or SUBNET/UID") from error


PAGES: Final = [
    Page("/", "Live chain", "home.html", home,
         ("chain_getHeaders", "quorix query block", "await api.chain_get_headers()"), "chain", True),
    Page("/blocks", "Blocks", "blocks.html", blocks,
         ("chain_getHeaders", "quorix query block --json", "await api.chain_get_headers(before=...)"), "blocks"),
    Page("/block/{block}", "Block {block}", "block.html", block,
         ("chain_getBlock {block}", "quorix query block {block}", "await api.chain_get_block({block!r})")),
    Page("/tx/{id}", "Extrinsic", "extrinsic.html", extrinsic,
         ("chain_getExtrinsic {id}", "quorix query block", "await api.chain_get_extrinsic(bytes.fromhex(...))")),
    Page("/account/{account}", "Account", "account.html", account,
         ("account_get {account}", "quorix wallet balance {account}", "await api.account_get(key)")),
    Page("/subnets", "Subnets", "subnets.html", subnets,
         ("subnet_list", "quorix subnet list", "await api.subnet_list()"), "subnets"),
    Page("/subnet/{netuid}", "Subnet {netuid}", "subnet.html", subnet,
         ("subnet_getMetagraph {netuid}", "quorix subnet metagraph {netuid}", "await api.subnet_get_metagraph({netuid})")),
    Page("/neuron/{netuid}/{uid}", "Neuron {uid} of subnet {netuid}", "neuron.html", neuron,
         ("subnet_getNeuron {netuid} {uid}", "quorix subnet metagraph {netuid}",
          "await api.subnet_get_neuron({netuid}, {uid})")),
    Page("/epoch/{netuid}/{epoch}", "Epoch {epoch} of subnet {netuid}", "epoch.html", epoch,
         ("epoch_explain {netuid} {epoch}", "quorix epoch explain {netuid} {epoch}",
          "await api.epoch_explain({netuid}, {epoch!r})")),
    Page("/authorities", "Authorities", "authorities.html", authorities,
         ("chain_getAuthorities", "quorix query block", "await api.chain_get_authorities()"), "authorities"),
    Page("/events", "Events", "events.html", events,
         ("events_query", "quorix rpc events_query", "await api.events_query()"), "events"),
]
