"""RPC methods about the market: accounts, subnets, neurons, epochs, proposals.

States are read by the rules of their time (`by_version`). The rows of past epochs have one form for all versions.
"""

from __future__ import annotations

from ledger.client.account_records import (
    BondRecord,
    ChallengeRecord,
    IdentityRecord,
    Lending,
    Proxies,
    Relations,
    SwapRecord,
)
from ledger.client.api import AtLike
from ledger.client.governance_records import ProposalRecord
from ledger.client.records import (
    AccountRecord,
    CommitRecord,
    EpochRecord,
    EpochTraceRecord,
    ExtrinsicRecord,
    Metagraph,
    NeuronRecord,
    Page,
    Parameter,
    Reading,
    ReceiptsRoot,
    Row,
    StakeRecord,
    SubnetRecord,
)
from ledger.client.timelock_records import BeaconRecord, TimelockRecord
from ledger.errors import NotFound
from runtime import epochs
from runtime.reads import epoch_record, epoch_trace

from . import render
from .by_version import account_reads, proposal_reads, reads, timelock_reads
from .places import Places, cursor, epoch_number, key_of, netuid_of, page, proposal_number


class MarketMethods(Places):
    """`account_`, `subnet_`, `epoch_` and `gov_`."""

    # --- accounts ----------------------------------------------------------------------------------------------------

    async def account_get(self, account: bytes, at: AtLike = "head") -> Reading[AccountRecord]:
        height, who = self._height(at), key_of(account, "account")
        return self._stamped(height, reads.account(self.chain.view(height), who))

    async def account_stakes(self, account: bytes, at: AtLike = "head") -> Reading[list[StakeRecord]]:
        who = key_of(account, "account")
        return await self._reading(at, lambda view, height: reads.stakes(view, who))

    async def account_history(self, account: bytes, after: str | None = None, limit: int = 50) -> Page[ExtrinsicRecord]:
        who, limit = key_of(account, "account"), page(limit)
        top = self.node.tip.height + 1
        before = top if after is None else min(top, cursor(after, 1)[0])

        def history() -> Page[ExtrinsicRecord]:
            places, further = self.chain.account_extrinsics(who, before_height=before, limit=limit)
            items = [render.extrinsic_record(self.chain, height, index) for height, index in places]
            return Page(items, None if further is None else str(further))

        return await self._heavy(history)

    async def account_identity(self, account: bytes, at: AtLike = "head") -> Reading[IdentityRecord | None]:
        height, who = self._height(at), key_of(account, "account")
        return self._stamped(height, account_reads.identity(self.chain.view(height), who))

    async def account_proxies(self, account: bytes, at: AtLike = "head") -> Reading[Proxies]:
        who = key_of(account, "account")
        return await self._reading(at, lambda view, height: account_reads.appointed(view, who))

    async def account_relations(self, hotkey: bytes, at: AtLike = "head") -> Reading[Relations]:
        who = key_of(hotkey, "hotkey")
        return await self._reading(at, lambda view, height: account_reads.relations(view, who))

    async def account_swaps(self, account: bytes, at: AtLike = "head") -> Reading[SwapRecord]:
        who = key_of(account, "account")
        return await self._reading(at, lambda view, height: account_reads.swap(view, who, height))

    async def account_bond(self, account: bytes, at: AtLike = "head") -> Reading[BondRecord]:
        who = key_of(account, "account")
        return await self._reading(at, lambda view, height: account_reads.bond(view, who))

    # --- subnets -----------------------------------------------------------------------------------------------------

    async def subnet_list(self, at: AtLike = "head") -> Reading[list[SubnetRecord]]:
        return await self._reading(at, reads.subnet_list)

    async def subnet_get(self, netuid: int, at: AtLike = "head") -> Reading[SubnetRecord]:
        return await self._reading(at, lambda view, height: reads.subnet(view, netuid_of(netuid), height))

    async def subnet_get_metagraph(self, netuid: int, at: AtLike = "head") -> Reading[Metagraph]:
        return await self._reading(at, lambda view, height: reads.metagraph(view, netuid_of(netuid), height, self._names))

    async def subnet_get_neuron(self, netuid: int, uid: int, at: AtLike = "head") -> Reading[NeuronRecord]:
        return await self._reading(at, lambda view, height: reads.neuron(view, netuid_of(netuid), uid, height, self._names))

    async def subnet_get_weights(self, netuid: int, at: AtLike = "head") -> Reading[list[Row]]:
        return await self._reading(at, lambda view, height: reads.weight_rows(view, netuid_of(netuid)))

    async def subnet_get_bonds(self, netuid: int, at: AtLike = "head") -> Reading[list[Row]]:
        return await self._reading(at, lambda view, height: reads.bond_rows(view, netuid_of(netuid)))

    async def subnet_get_commits(self, netuid: int, at: AtLike = "head") -> Reading[list[CommitRecord]]:
        return await self._reading(at, lambda view, height: reads.commits(view, netuid_of(netuid)))

    async def subnet_get_timelock(self, netuid: int, at: AtLike = "head") -> Reading[TimelockRecord]:
        return await self._reading(at, lambda view, height: timelock_reads.timelock_of(view, netuid_of(netuid)))

    async def subnet_get_beacon(
        self, netuid: int, epoch: int | None = None, at: AtLike = "head"
    ) -> Reading[BeaconRecord | None]:
        if epoch is not None:
            epoch_number(epoch, "epoch")
        return await self._reading(at, lambda view, height: timelock_reads.beacon(view, netuid_of(netuid), epoch))

    async def subnet_get_hyperparams(self, netuid: int, at: AtLike = "head") -> Reading[list[Parameter]]:
        return await self._reading(at, lambda view, height: reads.hyperparams(view, netuid_of(netuid)))

    async def subnet_get_identity(self, netuid: int, at: AtLike = "head") -> Reading[IdentityRecord | None]:
        return await self._reading(at, lambda view, height: account_reads.subnet_identity(view, netuid_of(netuid)))

    async def subnet_get_relations(self, netuid: int, at: AtLike = "head") -> Reading[list[Lending]]:
        return await self._reading(at, lambda view, height: account_reads.subnet_relations(view, netuid_of(netuid)))

    async def subnet_get_challenge(self, netuid: int, at: AtLike = "head") -> Reading[ChallengeRecord | None]:
        return await self._reading(at, lambda view, height: account_reads.challenge(view, netuid_of(netuid)))

    async def subnet_get_registration_cost(self, netuid: int, at: AtLike = "head") -> Reading[int]:
        return await self._reading(at, lambda view, height: reads.registration_cost(view, netuid_of(netuid), height))

    async def subnet_get_receipt_roots(
        self, netuid: int, epoch: int | None = None, at: AtLike = "head"
    ) -> Reading[list[ReceiptsRoot]]:
        if epoch is not None:
            epoch_number(epoch, "epoch")
        return await self._reading(at, lambda view, height: reads.receipt_roots(view, netuid_of(netuid), epoch))

    # --- epochs ---------------------------------------------------------------------------------------------------------

    async def epoch_list(self, netuid: int, after: str | None = None, limit: int = 50) -> Page[EpochRecord]:
        limit = page(limit)
        prefix = epochs.history_prefix(netuid_of(netuid))
        start = b"" if after is None else epochs.history_key(netuid, epoch_number(cursor(after, 1)[0], "after"))

        def listing() -> Page[EpochRecord]:
            reads.next_epoch(self.chain.view(), netuid, self.node.tip.height)  # NotFound for an unknown subnet
            rows = self.chain.history(prefix, start, reverse=True)
            items = [epoch_record(row) for (_, row), _ in zip(rows, range(limit), strict=False)]
            return Page(items, str(items[-1].epoch) if len(items) == limit else None)

        return await self._heavy(listing)

    async def epoch_explain(self, netuid: int, epoch: int | None = None) -> EpochTraceRecord:
        prefix = epochs.history_prefix(netuid_of(netuid))
        if epoch is not None:
            epoch_number(epoch, "epoch")

        def explain() -> EpochTraceRecord:
            if epoch is not None:
                row = self.chain.history_row(epochs.history_key(netuid, epoch))
            else:
                row = next((row for _, row in self.chain.history(prefix, reverse=True)), None)
            if row is None:
                what = "has had no epoch yet" if epoch is None else f"has no epoch {epoch}"
                raise NotFound(f"subnet {netuid} {what}", hint=f"quorix epoch list {netuid}")
            return epoch_trace(row, self._names)

        return await self._heavy(explain)

    # --- proposals ---------------------------------------------------------------------------------------------------

    async def gov_list(self, at: AtLike = "head") -> Reading[list[ProposalRecord]]:
        return await self._reading(at, proposal_reads.open_proposals)

    async def gov_get(self, number: int, at: AtLike = "head") -> Reading[ProposalRecord]:
        return await self._reading(at, lambda view, height: proposal_reads.proposal(view, proposal_number(number), height))

    async def gov_get_params(self, at: AtLike = "head") -> Reading[list[Parameter]]:
        return await self._reading(at, lambda view, height: reads.hyperparams(view, None))
