"""The chain API as a node answers it: every method of `ChainApi` over the node's chain, pool and network.

The head is the newest block that is durable here: what a caller has seen survives a crash of this node. Lookups are
made on the event loop, in microseconds, on an immutable picture of the chain; what reads many rows or recomputes
something runs on a read thread. Nothing here changes the chain but `author_submit_extrinsic` (through the pool) and the
two groups `dev_` and `admin_`, which are served on the admin socket only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from genesis.cast import neuron_names
from genesis.spec import ChainSpec
from ledger.blocks import Extrinsic
from ledger.chain import Chain
from ledger.client.api import MAX_PAGE, AtLike, ChainApi
from ledger.client.keys import ADDRESS_PREFIX
from ledger.client.records import (
    AccountRecord,
    At,
    AuthorityRecord,
    BlockRecord,
    CallRecord,
    CandidateRecord,
    CommitRecord,
    DryRun,
    EpochRecord,
    EpochTraceRecord,
    ErrorRecord,
    EventRecord,
    ExtrinsicRecord,
    Finality,
    HeaderRecord,
    Health,
    Metadata,
    Metagraph,
    NeuronRecord,
    NewHead,
    Page,
    Parameter,
    Peer,
    Properties,
    Reading,
    ReceiptsRoot,
    Row,
    StakeRecord,
    StateProof,
    StateProofs,
    SubnetRecord,
    Supply,
)
from ledger.errors import DecodeError, NotFound, Rejected
from ledger.machine import View
from runtime import epochs, reads
from runtime.executor import Runtime
from runtime.modules import accounts, authorities, bonds
from runtime.registry import CALLS, ERRORS, EVENTS
from runtime.tables import Table

from . import render
from .subscriptions import Follower

if TYPE_CHECKING:
    from tools.node.node import Node

T = TypeVar("T")

TOKEN: Final = "Q"
DECIMALS: Final = 9
MAX_KEY_BYTES: Final = 1024
MAX_CURSOR_CHARACTERS: Final = 64
HEADERS_KEPT: Final = 1024
HEADS_KEPT: Final = 16  # rendered heads, so that many subscribers cost one rendering
EVENT_SCAN_BLOCKS: Final = 1000  # looked at in one call for events of any kind


@dataclass
class NodeApi:
    """Implements `ChainApi`. `shutdown` ends the process that the node lives in."""

    node: Node
    spec: ChainSpec
    version: str
    shutdown: Callable[[], None]

    def __post_init__(self) -> None:
        self._heads: OrderedDict[int, NewHead] = OrderedDict()
        self._headers: OrderedDict[int, HeaderRecord] = OrderedDict()

    @property
    def chain(self) -> Chain:
        return self.node.chain

    @cached_property
    def _names(self) -> dict[bytes, str]:
        return neuron_names(self.spec)

    # --- system ------------------------------------------------------------------------------------------------------

    async def system_properties(self) -> Properties:
        params, machine = self.chain.params, self.chain.machine
        return Properties(
            chain=self.spec.name, genesis_hash=params.genesis_hash, token=TOKEN, decimals=DECIMALS,
            address_prefix=ADDRESS_PREFIX, block_time_ms=params.block_time_ms, session_blocks=params.session_blocks,
            runtime_version=machine.version, node_version=self.version, devnet=params.devnet,
            allow_private=self.spec.allow_private, seal=params.seal,
            signing_domain=self.chain.domain_at(self.node.tip.height + 1),
        )

    async def system_health(self) -> Health:
        return self.node.health()

    async def system_peers(self) -> list[Peer]:
        if self.node.network is None:
            return []
        return [
            Peer(peer.id, peer.address, peer.direction, peer.role, peer.height, peer.faults)
            for peer in self.node.network.peers()
        ]

    # --- chain -------------------------------------------------------------------------------------------------------

    async def chain_get_block(self, at: AtLike = "head") -> BlockRecord:
        height = self._height(at)
        return await self._heavy(render.block_record, self.chain, height, self.node.finality_ms(height))

    async def chain_get_header(self, at: AtLike = "head") -> HeaderRecord:
        return self._header(self._height(at))

    async def chain_get_headers(self, before: int | None = None, limit: int = 20) -> list[HeaderRecord]:
        limit = _page(limit)
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
        place = self.chain.find_extrinsic(_key(id, "id"))
        if place is not None and place[0] <= self.node.tip.height:
            record = render.extrinsic_record(self.chain, *place)
            if record.id == id:  # rows are found by the beginning of an id
                return record
        waiting = self.node.pool.get(id)
        if waiting is not None:
            return render.waiting_record(waiting)
        raise NotFound(f"there is no extrinsic 0x{id.hex()}", hint="it may have expired, or was never submitted")

    async def chain_get_supply(self, at: AtLike = "head") -> Reading[Supply]:
        return await self._reading(at, lambda view, height: reads.supply(view))

    def chain_subscribe_new_heads(self, start: int | None = None) -> Follower[NewHead]:
        return Follower(self.node.heads, self._new_head, start)

    # --- state -------------------------------------------------------------------------------------------------------

    async def state_get(self, key: bytes, at: AtLike = "head") -> Reading[bytes | None]:
        _bounded(key)
        height = self._height(at)
        return self._stamped(height, self.chain.view(height).get(key))

    async def state_get_keys(
        self, prefix: bytes, after: bytes = b"", limit: int = 100, at: AtLike = "head"
    ) -> Reading[list[bytes]]:
        _bounded(prefix)
        limit = _page(limit)

        def keys(view: View, height: int) -> list[bytes]:
            return [key for (key, _), _ in zip(view.items(prefix, after), range(limit), strict=False)]

        return await self._reading(at, keys)

    async def state_get_proof(self, key: bytes, at: AtLike = "head") -> StateProof:
        _bounded(key)
        return await self._heavy(self._prove, key, self._height(at))

    async def state_get_proofs(
        self, keys: list[bytes], at: AtLike = "head", since: int | None = None
    ) -> StateProofs:
        for key in keys:
            _bounded(key)
        return await self._heavy(render.state_proofs, self.chain, keys, self._height(at), since)

    async def state_get_metadata(self) -> Metadata:
        return Metadata(
            runtime_version=self.chain.machine.version,
            calls=[
                CallRecord(
                    call.number, call.name, [[name, shape.name] for name, shape in call.schema.fields.items()],
                    call.origin, call.work, call.about,
                )
                for _, call in sorted(CALLS.items())
            ],
            events={kind.name: list(kind.fields) for _, kind in sorted(EVENTS.items())},
            errors=[
                ErrorRecord(rule.number, rule.name, rule.cause, rule.hint)
                for rule in sorted(ERRORS.values(), key=lambda rule: rule.number)
            ],
            tables={table.name: number for number, table in sorted(Table.registry.items())},
        )

    # --- author ------------------------------------------------------------------------------------------------------

    async def author_submit_extrinsic(self, extrinsic: bytes) -> bytes:
        return await self.node.submit(extrinsic)

    async def author_pending_extrinsics(self, limit: int = 100) -> list[ExtrinsicRecord]:
        params = self.chain.params
        waiting = self.node.pool.select(params.max_block_bytes, params.max_block_weight)
        return [render.waiting_record(extrinsic) for extrinsic in waiting[: _page(limit)]]

    async def author_dry_run(self, extrinsic: bytes) -> DryRun:
        decoded = Extrinsic.decode(extrinsic)
        return await self._heavy(self._dry_run, decoded)

    async def author_next_nonce(self, account: bytes) -> int:
        state_nonce = accounts.account(self.chain.view(), _key(account, "account")).nonce
        return self.node.pool.next_nonce(account, state_nonce)

    # --- accounts ----------------------------------------------------------------------------------------------------

    async def account_get(self, account: bytes, at: AtLike = "head") -> Reading[AccountRecord]:
        height, who = self._height(at), _key(account, "account")
        return self._stamped(height, reads.account(self.chain.view(height), who))

    async def account_stakes(self, account: bytes, at: AtLike = "head") -> Reading[list[StakeRecord]]:
        who = _key(account, "account")
        return await self._reading(at, lambda view, height: reads.stakes(view, who))

    async def account_history(self, account: bytes, after: str | None = None, limit: int = 50) -> Page[ExtrinsicRecord]:
        who, limit = _key(account, "account"), _page(limit)
        top = self.node.tip.height + 1
        before = top if after is None else min(top, _cursor(after, 1)[0])

        def history() -> Page[ExtrinsicRecord]:
            places, further = self.chain.account_extrinsics(who, before_height=before, limit=limit)
            items = [render.extrinsic_record(self.chain, height, index) for height, index in places]
            return Page(items, None if further is None else str(further))

        return await self._heavy(history)

    # --- subnets -----------------------------------------------------------------------------------------------------

    async def subnet_list(self, at: AtLike = "head") -> Reading[list[SubnetRecord]]:
        return await self._reading(at, reads.subnet_list)

    async def subnet_get(self, netuid: int, at: AtLike = "head") -> Reading[SubnetRecord]:
        return await self._reading(at, lambda view, height: reads.subnet(view, _netuid(netuid), height))

    async def subnet_get_metagraph(self, netuid: int, at: AtLike = "head") -> Reading[Metagraph]:
        return await self._reading(at, lambda view, height: reads.metagraph(view, _netuid(netuid), height, self._names))

    async def subnet_get_neuron(self, netuid: int, uid: int, at: AtLike = "head") -> Reading[NeuronRecord]:
        return await self._reading(at, lambda view, height: reads.neuron(view, _netuid(netuid), uid, height, self._names))

    async def subnet_get_weights(self, netuid: int, at: AtLike = "head") -> Reading[list[Row]]:
        return await self._reading(at, lambda view, height: reads.weight_rows(view, _netuid(netuid)))

    async def subnet_get_bonds(self, netuid: int, at: AtLike = "head") -> Reading[list[Row]]:
        return await self._reading(at, lambda view, height: reads.bond_rows(view, _netuid(netuid)))

    async def subnet_get_commits(self, netuid: int, at: AtLike = "head") -> Reading[list[CommitRecord]]:
        return await self._reading(at, lambda view, height: reads.commits(view, _netuid(netuid)))

    async def subnet_get_hyperparams(self, netuid: int, at: AtLike = "head") -> Reading[list[Parameter]]:
        return await self._reading(at, lambda view, height: reads.hyperparams(view, _netuid(netuid)))

    async def subnet_get_registration_cost(self, netuid: int, at: AtLike = "head") -> Reading[int]:
        return await self._reading(at, lambda view, height: reads.registration_cost(view, _netuid(netuid), height))

    async def subnet_get_receipt_roots(
        self, netuid: int, epoch: int | None = None, at: AtLike = "head"
    ) -> Reading[list[ReceiptsRoot]]:
        if epoch is not None:
            _epoch(epoch, "epoch")
        return await self._reading(at, lambda view, height: reads.receipt_roots(view, _netuid(netuid), epoch))

    # --- epochs and events -------------------------------------------------------------------------------------------

    async def epoch_list(self, netuid: int, after: str | None = None, limit: int = 50) -> Page[EpochRecord]:
        limit = _page(limit)
        prefix = epochs.history_prefix(_netuid(netuid))
        start = b"" if after is None else epochs.history_key(netuid, _epoch(_cursor(after, 1)[0], "after"))

        def listing() -> Page[EpochRecord]:
            reads.next_epoch(self.chain.view(), netuid, self.node.tip.height)  # NotFound for an unknown subnet
            rows = self.chain.history(prefix, start, reverse=True)
            items = [reads.epoch_record(row) for (_, row), _ in zip(rows, range(limit), strict=False)]
            return Page(items, str(items[-1].epoch) if len(items) == limit else None)

        return await self._heavy(listing)

    async def epoch_explain(self, netuid: int, epoch: int | None = None) -> EpochTraceRecord:
        prefix = epochs.history_prefix(_netuid(netuid))
        if epoch is not None:
            _epoch(epoch, "epoch")

        def explain() -> EpochTraceRecord:
            if epoch is not None:
                row = self.chain.history_row(epochs.history_key(netuid, epoch))
            else:
                row = next((row for _, row in self.chain.history(prefix, reverse=True)), None)
            if row is None:
                what = "has had no epoch yet" if epoch is None else f"has no epoch {epoch}"
                raise NotFound(f"subnet {netuid} {what}", hint="see epoch_list")
            return reads.epoch_trace(row, self._names)

        return await self._heavy(explain)

    async def events_query(
        self, kind: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[EventRecord]:
        limit = _page(limit)
        start = None if after is None else tuple(_cursor(after, 2))
        number = None
        if kind is not None:
            number = next((each.number for each in EVENTS.values() if each.name == kind), None)
            if number is None:
                raise NotFound(f"there is no event {kind[:64]!r}", hint="state_getMetadata lists them")
        return await self._heavy(self._events, number, start, limit)

    # --- admin socket only -------------------------------------------------------------------------------------------

    async def dev_seal(self, count: int = 1) -> int:
        return await self.node.seal(count)

    async def admin_cut_peers(self, peers: list[str]) -> None:
        self.node.cut_peers(peers)

    async def admin_shutdown(self) -> None:
        self.shutdown()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _height(self, at: AtLike) -> int:
        """Height of a place on the chain. Raises NotFound, or DecodeError for what is no place."""
        head = self.node.tip.height
        if at == "head":
            return head
        if isinstance(at, int):
            if not self.chain.params.genesis_height <= at <= head:
                raise NotFound(f"there is no block {at}; the head is at {head}")
            return at
        try:
            block_hash = bytes.fromhex(at[2:]) if at.startswith("0x") else b""
        except ValueError:
            block_hash = b""
        if len(block_hash) != 32:
            raise DecodeError("expected a height, a 0x hash or head", where="at")
        height = self.chain.height_of(block_hash)
        if height > head:
            raise NotFound(f"there is no block {at}")
        return height

    def _stamped(self, height: int, value: T) -> Reading[T]:
        return Reading(At(height, self.chain.hash_at(height)), value)

    async def _reading(self, at: AtLike, compute: Callable[[View, int], T]) -> Reading[T]:
        height = self._height(at)
        return await self._heavy(lambda: self._stamped(height, compute(self.chain.view(height), height)))

    async def _heavy(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self.node.read(function, *arguments)

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
            events = render.event_records(height, *self.chain.results(height))
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

    def _prove(self, key: bytes, height: int) -> StateProof:
        proof = self.chain.prove(key, height)
        finality = render.finality_record(self.chain, height)
        at = At(height, self.chain.hash_at(height))
        return StateProof(at, key, proof.value, proof.state_root, proof.proof, finality)

    def _dry_run(self, extrinsic: Extrinsic) -> DryRun:
        view, height = self.chain.view(self.node.tip.height), self.node.tip.height + 1
        try:
            outcome, events = cast(Runtime, self.chain.machine).dry_run(view, extrinsic, height)
        except Rejected as error:
            return DryRun(False, error.error_name, error.hint, 0, [])
        hint = ERRORS[outcome.error].hint if outcome.error in ERRORS else ""
        records = [render.event_record(height, index, 0, event) for index, event in enumerate(events)]
        return DryRun(not outcome.error, outcome.error, hint, outcome.fee_rao, records)

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
                render.event_records(height, *chain.results(height)), chain.events(height), strict=True
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


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise DecodeError(f"{limit} is outside 1..{MAX_PAGE}", where="limit")
    return limit


def _cursor(text: str, parts: int) -> list[int]:
    """Numbers of a cursor that an earlier page gave."""
    numbers = text.split(":") if len(text) <= MAX_CURSOR_CHARACTERS else []
    if len(numbers) != parts or not all(part.isdecimal() and len(part) <= 20 for part in numbers):
        raise DecodeError("not a cursor of an earlier page", where="after")
    return [int(part) for part in numbers]


def _key(account: bytes, where: str) -> bytes:
    if len(account) != 32:
        raise DecodeError(f"expected 32 bytes, got {len(account)}", where=where)
    return account


def _epoch(number: int, where: str) -> int:
    if not 0 <= number < 1 << 32:
        raise DecodeError("not an epoch", where=where)
    return number


def _netuid(netuid: int) -> int:
    if not 0 <= netuid < 1 << 16:
        raise NotFound(f"there is no subnet {netuid}")
    return netuid


def _bounded(key: bytes) -> None:
    if len(key) > MAX_KEY_BYTES:
        raise DecodeError(f"longer than {MAX_KEY_BYTES} bytes", where="key")


def as_chain_api(api: NodeApi) -> ChainApi:
    """The same object; that it has every method is checked by the type checker."""
    return api
