"""The pages: a path, a template, and a function that reads what the page shows through the chain API.

`data` of a page is what its `.json` form returns; `table` what its `.csv` form returns; `show` feeds the template.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ledger.client.api import ChainApi
from ledger.client.records import EpochTraceRecord, Metagraph, NeuronRecord, Row
from ledger.errors import UsageError

from .accounts import account
from .epoch import earned_rao, explain
from .governance import authorities, governance
from .page import LIST_BLOCKS, Page, Query, Values, hash_of, names, place, whole_number

HOME_BLOCKS: Final = 12
LIST_EVENTS: Final = 50
EPOCHS: Final = 12
EARNERS: Final = 8
ROOTS: Final = 24
JUDGED: Final = 24


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
    return sorted(rows, key=lambda row: (-row[1].emission_rao, row[0], row[1].uid))[:EARNERS]


async def blocks(api: ChainApi, _: dict[str, str], query: Query) -> Values:
    before = whole_number(query["before"], "height") if "before" in query else None
    headers = await api.chain_get_headers(before=before, limit=LIST_BLOCKS)
    columns = ["height", "hash", "timestamp_ms", "proposer_index", "proposal_round", "extrinsics", "finality_ms"]
    table = columns, [[getattr(h, c) for c in columns] for h in headers]
    return Values(headers, {"headers": headers, "older": headers[-1].height if headers else None}, table)


async def block(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    record, newest = await asyncio.gather(api.chain_get_block(place(path["block"])), api.chain_get_header())
    proof = await api.chain_get_proof_of_finality(record.header.height)  # kept for good, unlike the block's state
    columns = ["index", "id", "call", "signer", "fee_rao", "error"]
    table = columns, [[getattr(x, c) for c in columns] for x in record.extrinsics]
    show = {"block": record, "authorities": proof.authorities, "newest": newest.height, "names": await names(api)}
    return Values(record, show, table, {"block": str(record.header.height)})


async def extrinsic(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    record = await api.chain_get_extrinsic(hash_of(path["id"], "extrinsic id"))
    return Values(record, {"extrinsic": record, "names": await names(api)})


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
    netuid = whole_number(path["netuid"], "subnet")
    info, graph, parameters = await asyncio.gather(
        api.subnet_get(netuid), api.subnet_get_metagraph(netuid), api.subnet_get_hyperparams(netuid)
    )
    lock, commits, epochs, weights, roots = await asyncio.gather(
        api.subnet_get_timelock(netuid), api.subnet_get_commits(netuid), api.epoch_list(netuid, limit=EPOCHS),
        api.subnet_get_weights(netuid), api.subnet_get_receipt_roots(netuid),
    )
    identity, challenge, relations = await asyncio.gather(
        api.subnet_get_identity(netuid), api.subnet_get_challenge(netuid), api.subnet_get_relations(netuid)
    )
    sort = query.get("sort", "uid")
    if sort not in METAGRAPH_COLUMNS:
        raise UsageError(f"{sort[:40]!r} is no column", hint=", ".join(METAGRAPH_COLUMNS))
    ascending = sort in ("uid", "name", "hotkey", "coldkey")
    neurons = sorted(graph.value.neurons, key=lambda n: getattr(n, sort), reverse=not ascending)
    shares = {row.uid: _shares(row) for row in weights.value}
    voted_for = {uid for row in weights.value for uid in row.uids}
    judged = [n for n in graph.value.neurons if n.uid in voted_for or n.serving is not None]
    newest_roots = sorted(roots.value, key=lambda root: (-root.epoch, root.hotkey))
    table = METAGRAPH_COLUMNS, [[getattr(n, c) for c in METAGRAPH_COLUMNS] for n in neurons]
    show = {
        "subnet": info.value, "graph": graph.value, "neurons": neurons, "sort": sort, "parameters": parameters.value,
        "commits": commits.value, "lock": lock.value, "epochs": epochs.items, "weights": shares,
        "roots": newest_roots[:ROOTS], "more_roots": max(0, len(newest_roots) - ROOTS),
        "judges": [n for n in graph.value.neurons if n.permit],
        "judged": judged[:JUDGED], "more_judged": max(0, len(judged) - JUDGED), "names": {n.hotkey: n.name for n in neurons},
        "identity": identity.value, "challenge": challenge.value, "relations": relations.value,
    }
    data = {
        "subnet": info, "identity": identity.value, "challenge": challenge.value, "relations": relations.value,
        "metagraph": graph, "parameters": parameters.value, "receipt_roots": roots.value,
    }
    return Values(data, show, table)


async def neuron(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    netuid, uid = whole_number(path["netuid"], "subnet"), whole_number(path["uid"], "uid")
    reading, graph, weights, bonds = await asyncio.gather(
        api.subnet_get_neuron(netuid, uid), api.subnet_get_metagraph(netuid), api.subnet_get_weights(netuid),
        api.subnet_get_bonds(netuid),
    )
    by_uid = {n.uid: n for n in graph.value.neurons}
    history = await _pay_history(api, netuid, reading.value)
    show = {
        "neuron": reading.value, "netuid": netuid, "by_uid": by_uid, "history": history,
        "given": next((row for row in weights.value if row.uid == uid), None),
        "received": [(row.uid, _value(row, uid), sum(row.values)) for row in weights.value if uid in row.uids],
        "bonds": [(row.uid, _value(row, uid)) for row in bonds.value if uid in row.uids],
    }
    return Values(reading, show)


def _shares(row: Row) -> dict[int, float]:
    total = sum(row.values)
    return {uid: value / total if total else 0.0 for uid, value in zip(row.uids, row.values, strict=True)}


def _value(row: Row, uid: int) -> int:
    return row.values[row.uids.index(uid)]


async def _pay_history(api: ChainApi, netuid: int, neuron: NeuronRecord) -> list[tuple[int, int]]:
    """(epoch, pay in rao) of the newest epochs in which the uid was this neuron's, newest first."""
    listed = (await api.epoch_list(netuid, limit=EPOCHS)).items
    records = await asyncio.gather(*(api.epoch_explain(netuid, entry.epoch) for entry in listed))
    mine = [r for r in records if neuron.uid < len(r.hotkeys) and r.hotkeys[neuron.uid] == neuron.hotkey]
    return [(record.epoch, earned_rao(record, neuron.uid)) for record in mine]


async def epoch(api: ChainApi, path: dict[str, str], _: Query) -> Values:
    netuid = whole_number(path["netuid"], "subnet")
    number = None if path["epoch"] == "latest" else whole_number(path["epoch"], "epoch")
    record: EpochTraceRecord = await api.epoch_explain(netuid, number)
    listed = await api.epoch_list(netuid, limit=1)
    newest = listed.items[0].epoch if listed.items else record.epoch
    story = explain(record)
    columns = ["uid", "name", "stake_rao", "consensus_q32", "incentive_q32", "dividends_q32", "paid_rao"]
    fields = ["stake_rao", "consensus", "incentive", "dividends"]
    table = columns, [
        [uid, record.names[uid], *(record.trace[f][uid] for f in fields), earned_rao(record, uid)]
        for uid in range(len(record.hotkeys))
    ]
    return Values(record, {"record": record, "story": story, "newest": newest}, table, {"epoch": str(record.epoch)})


async def events(api: ChainApi, _: dict[str, str], query: Query) -> Values:
    kind = query.get("kind") or None
    page, metadata, known = await asyncio.gather(
        api.events_query(kind, after=query.get("after"), limit=LIST_EVENTS), api.state_get_metadata(), names(api)
    )
    table = ["height", "index", "name", "fields"], [[e.height, e.index, e.name, e.fields] for e in page.items]
    return Values(page, {"page": page, "kind": kind or "", "kinds": sorted(metadata.events), "names": known}, table)


PAGES: Final = [
    Page("/", "Live chain", "home.html", home, ("chain_getHeaders", "quorix devnet status", "await api.chain_get_headers()"),
         "chain", True),
    Page("/blocks", "Blocks", "blocks.html", blocks,
         ("chain_getHeaders", "", "await api.chain_get_headers(limit=50)"), "blocks"),
    Page("/block/{block}", "Block {block}", "block.html", block,
         ("chain_getBlock {block}", "quorix query block {block}", "await api.chain_get_block({block!r})")),
    Page("/tx/{id}", "Extrinsic", "extrinsic.html", extrinsic,
         ("chain_getExtrinsic {id}", "quorix query extrinsic {id}", "await api.chain_get_extrinsic(id)")),
    Page("/account/{account}", "Account", "account.html", account,
         ("account_get {account}", "quorix query account {account} --history", "await api.account_get(key)")),
    Page("/subnets", "Subnets", "subnets.html", subnets,
         ("subnet_list", "quorix subnet list", "await api.subnet_list()"), "subnets"),
    Page("/subnet/{netuid}", "Subnet {netuid}", "subnet.html", subnet,
         ("subnet_getMetagraph {netuid}", "quorix subnet metagraph {netuid}", "await api.subnet_get_metagraph({netuid})")),
    Page("/neuron/{netuid}/{uid}", "Neuron {uid} of subnet {netuid}", "neuron.html", neuron,
         ("subnet_getNeuron {netuid} {uid}", "quorix subnet metagraph {netuid}",
          "await api.subnet_get_neuron({netuid}, {uid})")),
    Page("/epoch/{netuid}/{epoch}", "Epoch {epoch} of subnet {netuid}", "epoch.html", epoch,
         ("epoch_explain {netuid} {epoch}", "quorix epoch explain {netuid} {epoch}",
          "await api.epoch_explain({netuid}, {epoch})")),
    Page("/authorities", "Authorities", "authorities.html", authorities,
         ("chain_getAuthorities", "quorix authority list", "await api.chain_get_authorities()"), "authorities"),
    Page("/governance", "Governance", "governance.html", governance,
         ("gov_list", "quorix governance list", "await api.gov_list()"), "governance"),
    Page("/events", "Events", "events.html", events,
         ("events_query", "quorix query events", "await api.events_query()"), "events"),
]
