"""What a judge says on chain: weights by commit and reveal (rules 4.1 to 4.3 of the protocol), and receipts' roots.

    commit   in epoch e: a hash of the weights. They are stored first, so that a restart can still reveal them. Sent again
             in the same epoch it is the same hash: a lost answer costs nothing. If it became final only in the next epoch
             it names the wrong one and would be forfeited there, unless it is replaced by a commitment of that epoch
    reveal   in epoch e + reveal_period, as soon as it has begun; tried again at every block until it is over
    root     of the receipts of epoch e - 1, once, in epoch e

A call that is refused for a reason that passes (a full pool, a rate limit) is tried again at the next block.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ai.receipts import ReceiptStore
from ledger.client.api import ChainApi
from ledger.client.calls import SHORTEST_PERIOD, Submitted, Wallet
from ledger.client.records import SubnetRecord
from ledger.codec import pack_u16
from ledger.commitments import SALT_BYTES, weights_commitment
from ledger.crypto import KeyPair
from ledger.errors import Rejected

from .memory import Memory, Pending

COMMIT_MARGIN_BLOCKS: Final = 3  # a commitment must be final in the epoch it names
CALL_TIMEOUT_S: Final = 20.0
CALL_PERIOD_BLOCKS: Final = SHORTEST_PERIOD  # a call that waits longer names the wrong epoch
# Refusals that pass by themselves: the call is tried again at the next block. All others are final.
PASSING: Final = frozenset({
    "RevealTooEarly", "CommittingWeightsTooFast", "SettingWeightsTooFast", "CannotPayFee", "Expired", "BirthBlockUnknown",
    "UnknownBirth", "NonceTooLow", "NonceTooHigh", "NonceGap", "AccountFull", "PoolFull", "FeeTooLowToReplace",
})  # fmt: skip

Report = Callable[[dict[str, Any]], None]


class Ballot:
    """Commits and reveals for one hotkey."""

    def __init__(self, api: ChainApi, key: KeyPair, genesis_hash: bytes, memory: Memory, report: Report) -> None:
        self.api, self.key, self.genesis_hash, self.memory, self._report = api, key, genesis_hash, memory, report
        self.wallet = Wallet(api, key, period=CALL_PERIOD_BLOCKS)

    async def commit(self, subnet: SubnetRecord, uids: list[int], values: list[int], salt: str = "") -> bool:
        """Vote in the subnet's running epoch; True once the vote is final there. Raises Rejected, Timeout, Unreachable.

        `salt`: 32 bytes in hex that the reveal gives away and nobody knows before; fresh ones are drawn where it is empty.
        """
        if subnet.blocks_left <= COMMIT_MARGIN_BLOCKS:
            return False
        if not subnet.commit_reveal:
            row = Pending(subnet.netuid, subnet.epoch, uids, values, await self._version_key(subnet.netuid), "")
            await self._call("weights.set", netuid=row.netuid, **_row(row))
            return True
        pending = self._pending_of(subnet)
        if pending is None:
            salt = salt or secrets.token_bytes(SALT_BYTES).hex()
            pending = Pending(subnet.netuid, subnet.epoch, uids, values, await self._version_key(subnet.netuid), salt)
            self.memory.remember(pending)
        elif pending.confirmed:
            return False
        done = await self._call("weights.commit", netuid=pending.netuid, hash=self.commitment(pending))
        epoch = next(event.fields["epoch"] for event in done.events if event.name == "WeightsCommitted")
        if epoch != pending.epoch:
            self.memory.drop(pending.netuid, pending.epoch)
            self._report({"event": "committed late", "netuid": pending.netuid, "epoch": pending.epoch, "final_in": epoch})
            return False
        self.memory.remember(replace(pending, confirmed=True))
        self._report({"event": "committed", "netuid": pending.netuid, "epoch": pending.epoch})
        return True

    def commitment(self, pending: Pending) -> bytes:
        """The 32 bytes that go on chain for stored weights."""
        return weights_commitment(
            self.genesis_hash, self.key.public, pending.netuid, pending.epoch, pending.uids, pending.values,
            pending.version_key, bytes.fromhex(pending.salt),
        )

    async def reveal(self, subnet: SubnetRecord) -> None:
        """Reveal what is due. Raises Rejected, Timeout, Unreachable where it is to be tried again."""
        for pending in self.memory.pending(subnet.netuid):
            due = pending.epoch + subnet.reveal_period
            if not pending.confirmed and subnet.epoch > pending.epoch and await self._is_on_chain(pending):
                pending = replace(pending, confirmed=True)
                self.memory.remember(pending)
            if pending.confirmed:
                if subnet.epoch < due:
                    continue
                if subnet.epoch == due:
                    await self._reveal_one(pending)
                else:
                    self._trouble(pending, "RevealMissed", "its window is over: the epoch's dividend is forfeited")
            elif subnet.epoch == pending.epoch:
                continue  # `commit` sends it again
            self.memory.drop(pending.netuid, pending.epoch)

    async def _is_on_chain(self, pending: Pending) -> bool:
        """Whether a commitment whose outcome never arrived was included in its epoch after all."""
        commits = (await self.api.subnet_get_commits(pending.netuid)).value
        wanted = (self.key.public, pending.epoch, self.commitment(pending))
        return any((commit.hotkey, commit.epoch, commit.hash) == wanted for commit in commits)

    async def _reveal_one(self, pending: Pending) -> None:
        """Returns where nothing is left to do for this commitment."""
        try:
            await self._call("weights.reveal", netuid=pending.netuid, salt=bytes.fromhex(pending.salt), **_row(pending))
        except Rejected as refused:
            if refused.error_name in PASSING:
                raise
            self._trouble(pending, refused.error_name, refused.cause)
        else:
            self._report({"event": "revealed", "netuid": pending.netuid, "epoch": pending.epoch})

    def _pending_of(self, subnet: SubnetRecord) -> Pending | None:
        return next((row for row in self.memory.pending(subnet.netuid) if row.epoch == subnet.epoch), None)

    async def _version_key(self, netuid: int) -> int:
        """The lowest version of validator software that the subnet takes."""
        parameters = (await self.api.subnet_get_hyperparams(netuid)).value
        return next((int(p.value) for p in parameters if p.name == "weights_version_key"), 0)

    async def _call(self, name: str, **arguments: Any) -> Submitted:
        return await self.wallet.submit(name, timeout_s=CALL_TIMEOUT_S, **arguments)

    def _trouble(self, pending: Pending, error: str, cause: str) -> None:
        self._report({"event": "trouble", "netuid": pending.netuid, "epoch": pending.epoch, "error": error, "cause": cause})


def _row(pending: Pending) -> dict[str, Any]:
    return {
        "uids": pack_u16(pending.uids), "values": pack_u16(pending.values), "version_key": pending.version_key,
    }  # fmt: skip


async def commit_root(wallet: Wallet, receipts: ReceiptStore, netuid: int, epoch: int) -> None:
    """Put the root of a past epoch's receipts on chain, if there are any; once there, again changes nothing.

    Raises Rejected, Timeout or Unreachable where it may be tried again.
    """
    root, count = receipts.root(netuid, epoch)
    if not count:
        return
    try:
        await wallet.submit(
            "serving.commit_receipts", netuid=netuid, epoch=epoch, root=root, count=count, timeout_s=CALL_TIMEOUT_S
        )
    except Rejected as refused:
        if refused.error_name in PASSING:
            raise
