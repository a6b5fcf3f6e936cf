"""What a judge says on chain: weights by commit and reveal (rules 4.1 to 4.3 of the protocol), and receipts' roots.

    commit   in epoch e: a hash of the weights. They are stored first, so that a restart can still reveal them. Sent again
             in the same epoch it is the same hash: a lost answer costs nothing. If it became final only in the next epoch
             it names the wrong one and would be forfeited there, unless it is replaced by a commitment of that epoch
    sealed   with the weights in it, where the authorities have announced their keys for that epoch: they open it, and
             nothing is left to do. The weights are kept all the same: they are revealed by hand if too few secrets came
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
from ledger.client.records import CommitRecord, SubnetRecord
from ledger.codec import pack_u16
from ledger.commitments import SALT_BYTES, weights_commitment
from ledger.crypto import KeyPair
from ledger.errors import Rejected
from ledger.timelock import Payload, seal

from .memory import Memory, Pending

COMMIT_MARGIN_BLOCKS: Final = 3  # a commitment must be final in the epoch it names
CALL_TIMEOUT_S: Final = 20.0
CALL_PERIOD_BLOCKS: Final = SHORTEST_PERIOD  # a call that waits longer names the wrong epoch
# Refusals that pass by themselves: the call is tried again at the next block. All others are final.
PASSING: Final = frozenset({
    "RevealTooEarly", "WeightsAreSealed",
    "CommittingWeightsTooFast", "SettingWeightsTooFast", "CannotPayFee", "Expired", "BirthBlockUnknown",
    "UnknownBirth", "NonceTooLow", "NonceTooHigh", "NonceGap", "AccountFull", "PoolFull", "FeeTooLowToReplace",
})  # fmt: skip

# Refusals of a sealed commit that one without a seal does not meet.
UNSEALABLE: Final = frozenset({"TimelockOff", "TimelockNotReady", "InvalidSealedWeights", "NeuronNoValidatorPermit"})

Report = Callable[[dict[str, Any]], None]


class Ballot:
    """Commits and reveals for one hotkey."""

    def __init__(self, api: ChainApi, key: KeyPair, genesis_hash: bytes, memory: Memory, report: Report) -> None:
        self.api, self.key, self.genesis_hash, self.memory, self._report = api, key, genesis_hash, memory, report
        self.wallet = Wallet(api, key, period=CALL_PERIOD_BLOCKS)

    async def commit(
        self, subnet: SubnetRecord, uids: list[int], values: list[int], salt: str = "", *, sealed: bool = True
    ) -> bool:
        """Vote in the subnet's running epoch; True once the vote is final there. Raises Rejected, Timeout, Unreachable.

        `salt`: 32 bytes in hex that the reveal gives away and nobody knows before; fresh ones are drawn where it is empty.
        `sealed`: let the authorities open it, where the subnet takes that.
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
        done = await self._commit_sealed(pending) if sealed else None
        sealed = done is not None
        done = done or await self._call("weights.commit", netuid=pending.netuid, hash=self.commitment(pending))
        epoch = next((event.fields["epoch"] for event in done.events if event.name == "WeightsCommitted"), None)
        if epoch != pending.epoch:
            self.memory.drop(pending.netuid, pending.epoch)
            self._report({"event": "committed late", "netuid": pending.netuid, "epoch": pending.epoch, "final_in": epoch})
            return False
        self.memory.remember(replace(pending, confirmed=True))
        self._report({"event": "committed", "netuid": pending.netuid, "epoch": pending.epoch, "sealed": sealed})
        return True

    async def _commit_sealed(self, pending: Pending) -> Submitted | None:
        """Commit with the weights sealed to the authorities; None where they cannot be, and nothing was committed.

        A call that comes into the next epoch is refused, since it is sealed to other keys: that is a call without events.
        """
        keys = (await self.api.subnet_get_timelock(pending.netuid)).value.keys
        if keys is None or keys.epoch != pending.epoch:
            return None
        payload = Payload(pending.uids, pending.values, pending.version_key, bytes.fromhex(pending.salt))
        try:
            sealed = seal(payload, keys.publics, keys.threshold)
            return await self._call(
                "weights.commit_timelocked", netuid=pending.netuid, epoch=pending.epoch, hash=self.commitment(pending),
                body=sealed.body, shares=sealed.shares,
            )  # fmt: skip
        except Rejected as refused:
            if refused.error_name == "SealedForOtherEpoch":
                return Submitted(b"")
            if refused.error_name in UNSEALABLE:
                return None
            raise

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
                    if not await self._settle(pending):
                        continue
                else:
                    self._trouble(pending, "RevealMissed", "its window is over: the epoch's dividend is forfeited")
            elif subnet.epoch == pending.epoch:
                continue  # `commit` sends it again
            self.memory.drop(pending.netuid, pending.epoch)

    async def _settle(self, pending: Pending) -> bool:
        """Do what is left to do for a commitment in its reveal window; False while the authorities may still open it."""
        held = await self._on_chain(pending)
        if held is None:
            self._report({"event": "opened", "netuid": pending.netuid, "epoch": pending.epoch})
        elif held.state == "sealed":
            return False
        elif held.state == "malformed":
            self._trouble(pending, "SealedWeightsMalformed", "the authorities could not open it: the epoch is forfeited")
        else:
            await self._reveal_one(pending)
        return True

    async def _is_on_chain(self, pending: Pending) -> bool:
        """Whether a commitment whose outcome never arrived was included in its epoch after all."""
        held = await self._on_chain(pending)
        return held is not None and held.hash == self.commitment(pending)

    async def _on_chain(self, pending: Pending) -> CommitRecord | None:
        """What the chain has of this hotkey for that epoch; None if nothing was included, or it is revealed."""
        commits = (await self.api.subnet_get_commits(pending.netuid)).value
        wanted = (self.key.public, pending.epoch)
        return next((held for held in commits if (held.hotkey, held.epoch) == wanted), None)

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
