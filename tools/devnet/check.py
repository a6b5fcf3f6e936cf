"""`quorix devnet check`: is a running devnet whole? Looked at from outside, through the doors that users have.

Each check is one function that returns what it found or raises `Wrong` saying what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from genesis.cast import Member, cast
from ledger.blocks import Header
from ledger.client.remote import RemoteChain
from ledger.errors import Error
from ledger.signer import domain_at
from ledger.votes import PRECOMMIT, Certificate, authorities_hash
from tools.node.rewinds import rewinds_of

from .layout import Layout, Ports
from .plan import DevnetPlan

EPOCH_PATIENCE_S: Final = 75.0
QUERY_TIMEOUT_S: Final = 30.0
CALL_TIMEOUT_S: Final = 10.0


class Wrong(Exception):
    """A check that does not hold."""


@dataclass(frozen=True)
class CheckResult:
    name: str
    ok: bool
    detail: str


@dataclass
class Subject:
    """The devnet under examination."""

    layout: Layout
    plan: DevnetPlan
    ports: Ports
    blocks: int
    nodes: list[RemoteChain]
    members: list[Member]

    @property
    def api(self) -> Any:
        return self.nodes[0]


def check_devnet(layout: Layout, plan: DevnetPlan, ports: Ports, *, blocks: int) -> list[CheckResult]:
    """Run all checks that apply, in order."""
    return asyncio.run(_check(layout, plan, ports, blocks))


async def _check(layout: Layout, plan: DevnetPlan, ports: Ports, blocks: int) -> list[CheckResult]:
    nodes = [RemoteChain(ports.url(ports.rpc(i)), timeout_s=CALL_TIMEOUT_S) for i in range(plan.nodes)]
    subject = Subject(layout, plan, ports, blocks, nodes, cast(plan.seed, plan.nodes))
    checks: list[tuple[str, Callable[[Subject], Awaitable[str]]]] = [
        ("rpc answers", rpc_answers), ("nodes agree", nodes_agree), ("blocks are final", blocks_are_final),
        ("supply is conserved", supply_is_conserved), ("explorer answers", explorer_answers),
    ]
    if plan.ai != "off":
        checks += [
            ("gateway answers", gateway_answers), ("neurons answer", neurons_answer), ("epochs pay", epochs_pay),
            ("receipts are proven", receipts_are_proven),
        ]
    results = []
    for name, check in checks:
        try:
            results.append(CheckResult(name, True, await check(subject)))
        except (Wrong, Error) as wrong:
            results.append(CheckResult(name, False, str(wrong)))
    for node in nodes:
        await node.close()
    return results


async def rpc_answers(subject: Subject) -> str:
    """Every node's RPC answers, is not behind, and its chain goes on."""
    heights = []
    for index, node in enumerate(subject.nodes):
        health = await node.system_health()
        if not health.ready:
            raise Wrong(f"node {index} at height {health.height} is not ready: {', '.join(health.blocking)}")
        heights.append(health.height)
    return f"{len(heights)} node{'s' if len(heights) > 1 else ''} at heights {min(heights)}..{max(heights)}"


async def nodes_agree(subject: Subject) -> str:
    """Same hash and state root at the highest common block."""
    height = min([(await node.system_health()).height for node in subject.nodes])
    if height < 1:
        raise Wrong("there is no block yet")
    seen = {(h.hash, h.state_root) for h in [await node.chain_get_header(height) for node in subject.nodes]}
    if len(seen) != 1:
        raise Wrong(f"{len(seen)} different blocks or states at height {height}")
    return f"one hash and state root at height {height}"


async def blocks_are_final(subject: Subject) -> str:
    """The newest blocks link to each other and carry certificates that verify with the set of their height."""
    head = (await subject.api.system_health()).height
    genesis = (await subject.api.system_properties()).genesis_hash
    domains = rewinds_of(subject.layout.node(0), genesis, 0)
    first, parent = max(1, head - subject.blocks + 1), None
    for height in range(first, head + 1):
        proof = await subject.api.chain_get_proof_of_finality(height)
        header, certificate = Header.decode(proof.header), Certificate.decode(proof.certificate)
        if header.authorities_hash != authorities_hash(proof.authorities):
            raise Wrong(f"block {height} was certified by another authority set")
        if certificate.kind != PRECOMMIT or certificate.block_hash != header.hash or certificate.height != height:
            raise Wrong(f"the certificate of block {height} is about something else")
        if not certificate.verify(proof.authorities, domain_at(domains, height)):
            raise Wrong(f"the certificate of block {height} does not verify with the signing domain of that height")
        if parent is not None and header.parent_hash != parent:
            raise Wrong(f"block {height} is not a child of block {height - 1}")
        parent = header.hash
    return f"blocks {first}..{head}: linked, every certificate verifies"


async def supply_is_conserved(subject: Subject) -> str:
    """Where every unit is, summed up, is the issuance, to the last unit."""
    reading = await subject.api.chain_get_supply()
    supply = reading.value
    parts = (
        supply.free_rao, supply.reserved_rao, supply.staked_rao, supply.pending_stake_rao, supply.unbonding_rao,
        supply.root_due_rao, supply.pots_rao, supply.locks_rao,
    )
    if sum(parts) != supply.issuance_rao:
        raise Wrong(f"parts sum to {sum(parts)} rao, the issuance is {supply.issuance_rao} rao")
    return f"{supply.issuance_rao:,} rao at block {reading.at.height}, all accounted for"


async def explorer_answers(subject: Subject) -> str:
    return await _page(subject.ports.url(subject.ports.explorer) + "/")


async def gateway_answers(subject: Subject) -> str:
    return await _page(subject.ports.url(subject.ports.gateway) + "/v1/models")


async def _page(url: str) -> str:
    import httpx

    try:
        async with httpx.AsyncClient(trust_env=False, timeout=CALL_TIMEOUT_S) as client:
            reply = await client.get(url)
    except httpx.HTTPError as error:
        raise Wrong(f"{url} does not answer ({type(error).__name__})") from None
    if reply.status_code != 200:
        raise Wrong(f"{url} answers HTTP {reply.status_code}")
    return f"{url}: HTTP 200, {len(reply.content)} bytes"


async def neurons_answer(subject: Subject) -> str:
    """Each neuron that was started gives a byte through the gateway, with a receipt."""
    import httpx

    url = subject.ports.url(subject.ports.gateway) + "/v1/completions"
    silent = []
    async with httpx.AsyncClient(trust_env=False, timeout=QUERY_TIMEOUT_S) as client:
        for name in subject.plan.neurons:
            try:
                reply = await client.post(url, json={"model": f"net/{name}", "prompt": "1+1=", "max_tokens": 1})
                if reply.status_code != 200 or not reply.json()["quorix"]["receipts"]:
                    silent.append(name)
            except (httpx.HTTPError, ValueError, KeyError):
                silent.append(name)
    if silent:
        raise Wrong(f"no answer from {', '.join(silent)}")
    return f"{len(subject.plan.neurons)} of {len(subject.plan.neurons)}"


async def epochs_pay(subject: Subject) -> str:
    """On every subnet one epoch with commit, reveal, consensus and emission; waits for a young devnet."""
    deadline = asyncio.get_running_loop().time() + EPOCH_PATIENCE_S
    while True:
        try:
            return await _epochs(subject)
        except Wrong:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(1.0)


async def _epochs(subject: Subject) -> str:
    for kind in ("WeightsCommitted", "WeightsRevealed"):
        if not (await subject.api.events_query(kind, limit=1)).items:
            raise Wrong(f"no event {kind} yet")
    found = []
    for subnet in (await subject.api.subnet_list()).value:
        page = await subject.api.epoch_list(subnet.netuid, limit=20)
        paid = next((e for e in page.items if e.miners_paid and e.paid_rao), None)
        if paid is None:
            raise Wrong(f"no miner of subnet {subnet.netuid} has been paid yet")
        record = await subject.api.epoch_explain(subnet.netuid, paid.epoch)
        if not any(int(value) for value in record.trace["consensus"]):
            raise Wrong(f"epoch {paid.epoch} of subnet {subnet.netuid} has no consensus")
        found.append(f"subnet {subnet.netuid} epoch {paid.epoch}: {paid.miners_paid} miners paid")
    return "; ".join(found)


async def receipts_are_proven(subject: Subject) -> str:
    """A receipt from a validator's files: both signatures, its Merkle path, and the root that is on chain."""
    deadline = asyncio.get_running_loop().time() + EPOCH_PATIENCE_S
    while True:
        try:
            return await _receipt(subject)
        except Wrong:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(1.0)


async def _receipt(subject: Subject) -> str:
    from ai.receipts import Receipt, ReceiptStore
    from ledger.trees import list_proof, verify_list_proof

    genesis = (await subject.api.system_properties()).genesis_hash
    callers = {m.hotkey.public: m for m in subject.members if m.hotkey is not None and m.role == "validator"}
    for subnet in (await subject.api.subnet_list()).value:
        roots = (await subject.api.subnet_get_receipt_roots(subnet.netuid)).value
        for entry in sorted(roots, key=lambda r: -r.epoch):
            if entry.hotkey not in callers or not entry.count:
                continue
            member = callers[entry.hotkey]
            folder = subject.layout.root / "validators" / member.name / "receipts"
            leaves = ReceiptStore(folder, clock=lambda: 0).leaves(subnet.netuid, entry.epoch)
            if len(leaves) != entry.count:
                raise Wrong(f"{member.path} has {len(leaves)} receipts of epoch {entry.epoch}, the chain says {entry.count}")
            index = len(leaves) // 2
            Receipt.decode(leaves[index]).verify(genesis)
            path = list_proof(leaves, index, "receipt")
            if not verify_list_proof(entry.root, leaves[index], index, entry.count, path, "receipt"):
                raise Wrong(f"the root of {member.path}, epoch {entry.epoch}, does not prove its receipt {index}")
            where = f"subnet {subnet.netuid}, epoch {entry.epoch}"
            return f"receipt {index} of {entry.count} of {member.path}, {where}: signatures and Merkle proof hold"
    raise Wrong("no receipt root on chain yet")
