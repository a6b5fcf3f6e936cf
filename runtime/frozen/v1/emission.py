"""Emission: what a block mints, which subnet's pots it fills, when epochs run, and who is paid (3.5 to 3.8, 1.1).

    every block   mint -> started subnets by share * (1 - withheld) -> four pots each: owner, server, validator, root
    due subnets   ascending, at most `max_epochs_per_block`, the others in the next block:
                  forfeits -> epoch -> pots paid -> pending stake activated, averages moved -> scores, bonds, history
    root's epoch  root dividends paid into the root pools -> pending root stake -> shares by root votes

Every pot is paid out whole by largest remainder. A pot without receiver is carried once and then recycled. What the
owner's own neurons would earn as miners is recycled, and the subnet's part of the emission shrinks by that fraction.

Rules: EMI-5 payout of the pots · EMI-6 the owner's miners · EMI-7 pots without receiver · EMI-8 root dividends ·
    SCH-3 epochs in one block
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from ledger.codec import pack_u64

from . import epochs, hooks, params
from .curves import block_emission_rao
from .fixed import FRACTION_BITS, ONE, fdiv, largest_remainder
from .modules import accounts, children, hotkeys, neurons, pools, stake, subnets, weights
from .params import ROOT_NETUID
from .registry import Context, event
from .rootvotes import equal_shares, voted_shares
from .splits import part_u16, root_share_q32, split_emission, split_mint
from .tables import ReadState, Table, key_field, u16_field
from .trace import EpochTrace

ROLES: Final = ("owner", "server", "validator", "root")
OWNER, SERVER, VALIDATOR, ROOT = range(4)
PAID_FRACTION: Final = ONE  # of every pot; the rest would be recycled


@dataclass(frozen=True)
class PotRow:
    """A subnet's pots in the order of ROLES, which of them were carried over from the last epoch, and the Q32 part of
    the last server pot that the owner's neurons would have earned."""

    amounts_rao: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    carried: list[bool] = field(default_factory=lambda: [False] * 4)
    withheld_q32: int = 0


POTS = Table(63, "pots", PotRow, u16_field("netuid"))
SHARES = Table(64, "emission_share", int, u16_field("netuid"))  # Q32; all of them sum to ONE
ROOT_DUE = Table(47, "root_due", int, key_field("hotkey"))  # rao earned in subnets, paid at root's next epoch

hooks.holding("pot", POTS, lambda row: sum(row.amounts_rao))
hooks.holding("root_due", ROOT_DUE, lambda amount: amount)

EPOCH_DEFERRED = event(66, "EpochDeferred", "netuid", "to_block")
ROOT_SHARES_UPDATED = event(67, "RootSharesUpdated", "netuids", "shares_q32")
EMISSION_PAID = event(68, "EmissionPaid", "netuid", "owner_rao", "servers_rao", "validators_rao", "root_rao")
POT_CARRIED = event(69, "PotCarried", "netuid", "pot", "amount_rao")
ROOT_DIVIDEND_PAID = event(70, "RootDividendPaid", "hotkey", "amount_rao")


# --- reads -------------------------------------------------------------------------------------------------------


def pots(state: ReadState, netuid: int) -> PotRow:
    """What a subnet has earned since its last payout."""
    return POTS.get(state, netuid) or PotRow()


def emission_shares(state: ReadState) -> dict[int, int]:
    """Q32 shares of the started subnets; equal before the first root epoch that has seen a vote."""
    started = subnets.started(state)
    stored = {netuid: share for (netuid,), share in SHARES.items(state)}
    return {netuid: stored.get(netuid, 0) for netuid in started} if stored else equal_shares(started)


def block_emission(state: ReadState) -> int:
    """What the next block mints at this issuance, in rao."""
    return block_emission_rao(
        accounts.issuance(state), params.get(state, "supply_cap"), params.get(state, "initial_block_emission")
    )


# --- every block -------------------------------------------------------------------------------------------------


@hooks.begin_block(hooks.ORDER_MINT)
def mint_emission(context: Context) -> None:
    """3.5, 3.6: mint the block's emission into the pots of the started subnets; without any, nothing is minted."""
    state = context.state
    shares = emission_shares(state)
    rows = {netuid: pots(state, netuid) for netuid in shares}
    parts = split_mint(block_emission(state), list(shares.values()), [row.withheld_q32 for row in rows.values()])
    if not any(parts):
        return
    accounts.mint(context, sum(parts), "pot")
    for (netuid, row), part_rao in zip(rows.items(), parts, strict=True):
        split = split_emission(
            part_rao, owner_cut=_owner_cut(state, netuid), miner_share=params.get(state, "miner_share", netuid),
            root_share_q32=_root_part(state, netuid),
        )
        added = [old + new for old, new in zip(row.amounts_rao, split, strict=True)]
        POTS.put(state, netuid, value=replace(row, amounts_rao=added))


def _owner_cut(state: ReadState, netuid: int) -> int:
    return params.get(state, "owner_cut") if params.is_on(state, "owner_cut_enabled", netuid) else 0


def _root_part(state: ReadState, netuid: int) -> int:
    """3.7: root's Q32 part of what validators get, by the consensus stakes of the last epochs."""
    return root_share_q32(
        params.get(state, "root_weight"), pools.totals(state, ROOT_NETUID).consensus_rao,
        pools.totals(state, netuid).consensus_rao,
    )


@hooks.begin_block(hooks.ORDER_COINBASE)
def run_due_epochs(context: Context) -> None:
    """1.1: run the epochs that are due, root's last; beyond the block's limit they are deferred."""
    ran, limit = 0, params.get(context.state, "max_epochs_per_block")
    for netuid in subnets.netuids(context.state):
        if not subnets.epoch_is_due(context.state, netuid, context.height) or subnets.is_dissolving(context.state, netuid):
            continue
        if ran < limit:
            run_epoch(context, netuid)
            ran += 1
        else:
            subnets.defer_epoch(context, netuid)
            context.events.append(EPOCH_DEFERRED(netuid, context.height + 1))
    if subnets.exists(context.state, ROOT_NETUID) and subnets.epoch_is_due(context.state, ROOT_NETUID, context.height):
        run_root_epoch(context)


# --- an epoch of a subnet ----------------------------------------------------------------------------------------


def run_epoch(context: Context, netuid: int) -> EpochTrace:
    """Close reveals, compute the epoch, pay the pots, activate stake, write the outcome, begin the next epoch."""
    state = context.state
    forfeited = weights.close_window(context, netuid)
    row = pots(state, netuid)
    stage = epochs.collect(state, netuid, context.height, sum(row.amounts_rao[SERVER:]), forfeited)
    trace = epochs.run(stage.inputs, stage.params)
    paid = _pay_pots(context, netuid, row, stage, trace)
    pools.close_epoch(context, netuid)
    epochs.store(context, netuid, stage, trace, paid)
    hooks.run_end_epoch(context, netuid, subnets.tempo(state, netuid).epoch_index)
    subnets.close_epoch(context, netuid)
    return trace


def _pay_pots(
    context: Context, netuid: int, row: PotRow, stage: epochs.Field, trace: EpochTrace
) -> epochs.Paid:
    """Pay each pot by its own weights (3.7)."""
    n, state = trace.size, context.state
    record = subnets.subnet(state, netuid)
    incentive = trace.pay_weights[:n]
    own, root = _judge_weights(trace.pay_weights[n:], stage)
    is_owners = [
        hotkey != epochs.VACANT and hotkeys.owner_of(state, hotkey) == record.owner_coldkey for hotkey in stage.hotkeys
    ]
    due = _take_from_pots(context, netuid, row, [[1] if trace.agreed else [0], incentive, own, root])
    server, validator, root_pay = due[SERVER] or [0] * n, due[VALIDATOR] or [0] * n, due[ROOT] or [0] * n
    withheld = [pay if owners else 0 for pay, owners in zip(server, is_owners)]
    accounts.recycle(context, sum(withheld), "pot", "owner's miners")
    server = [pay - held for pay, held in zip(server, withheld)]
    if any(incentive):
        owned = sum(weight for weight, owners in zip(incentive, is_owners) if owners)
        POTS.put(state, netuid, value=replace(pots(state, netuid), withheld_q32=fdiv(owned, sum(incentive))))
    previous = subnets.tempo(state, netuid).last_step_block
    for uid, hotkey in enumerate(stage.hotkeys):
        pay_hotkey(context, netuid, hotkey, server[uid], 0, previous)
        if validator[uid] or root_pay[uid]:
            _pay_backers(context, netuid, hotkey, stage.backing[uid], validator[uid], root_pay[uid], previous)
    owner_rao = sum(due[OWNER] or ())
    pools.reward(context, netuid, record.owner_hotkey, record.owner_coldkey, 0, owner_rao)
    paid = epochs.Paid(owner_rao, server, validator, root_pay, withheld)
    context.events.append(EMISSION_PAID(netuid, owner_rao, pack_u64(server), pack_u64(validator), pack_u64(root_pay)))
    return paid


def _judge_weights(dividends: list[int], stage: epochs.Field) -> tuple[list[int], list[int]]:
    """Each validator's weight in the validator pot and in the root pot: by its subnet and its weighted root stake.

    Classic bonds outlive the stake that made them: what they earn without any stake is the subnet's part.
    """
    root = []
    for weight, parts in zip(dividends, stage.backing, strict=True):
        own_rao, root_rao = sum(part.own_rao for part in parts), sum(part.root_rao for part in parts)
        root.append(weight * root_rao // (own_rao + root_rao) if own_rao + root_rao else 0)
    return [weight - part for weight, part in zip(dividends, root, strict=True)], root


def _pay_backers(
    context: Context, netuid: int, hotkey: bytes, backing: list[children.Contribution], dividend_rao: int, root_rao: int,
    previous: int | None,
) -> None:
    """3.4: a validator's dividends to those whose stake earned them: itself and its parents, less its take as a child."""
    state, owner = context.state, neurons.coldkey_of(context.state, hotkey)
    take = stake.in_force(children.child_take(state, netuid, hotkey), previous)
    stakes_rao = [part.own_rao for part in backing]  # a hotkey without any gets all: its own pool decides what becomes of it
    own = largest_remainder(stakes_rao if any(stakes_rao) else [1] + [0] * (len(backing) - 1), dividend_rao)
    root = largest_remainder([part.root_rao for part in backing], root_rao)
    kept_rao = 0
    for part, own_part, root_part in zip(backing, own, root, strict=True):
        share = 0 if hotkeys.owner_of(state, part.hotkey) == owner else take
        own_cut, root_cut = part_u16(own_part, share), part_u16(root_part, share)
        kept_rao += own_cut + root_cut
        pay_hotkey(context, netuid, part.hotkey, 0, own_part - own_cut, previous)
        if root_part - root_cut:
            ROOT_DUE.put(state, part.hotkey, value=(ROOT_DUE.get(state, part.hotkey) or 0) + root_part - root_cut)
    pools.reward(context, netuid, hotkey, owner, 0, kept_rao)


def _take_from_pots(
    context: Context, netuid: int, row: PotRow, pay_weights: list[list[int]]
) -> list[list[int] | None]:
    """Empty the pots that have receivers and split them; carry or recycle the others. None where nothing is paid."""
    amounts, carried = list(row.amounts_rao), list(row.carried)
    out: list[list[int] | None] = []
    for role, receivers in enumerate(pay_weights):
        pot_rao = amounts[role]
        if any(receivers):
            pay_rao = (pot_rao * PAID_FRACTION) >> FRACTION_BITS
            accounts.recycle(context, pot_rao - pay_rao, "pot", "unpaid fraction")
            out.append(largest_remainder(receivers, pay_rao))
            amounts[role], carried[role] = 0, False
            continue
        out.append(None)
        if carried[role]:
            accounts.recycle(context, pot_rao, "pot", f"{ROLES[role]} pot without receiver")
            amounts[role], carried[role] = 0, False
        elif pot_rao:
            context.events.append(POT_CARRIED(netuid, ROLES[role], pot_rao))
            carried[role] = True
    POTS.put(context.state, netuid, value=replace(row, amounts_rao=amounts, carried=carried))
    return out


def pay_hotkey(
    context: Context, netuid: int, hotkey: bytes, incentive_rao: int, dividend_rao: int, previous_epoch: int | None
) -> None:
    """Incentive to the owner's stake; of the dividend the take to the owner's stake and the rest to all stake."""
    if not incentive_rao and not dividend_rao:
        return
    cut_rao = part_u16(dividend_rao, stake.take_at_payout(context.state, hotkey, previous_epoch))
    owner = neurons.coldkey_of(context.state, hotkey)
    lost_rao = pools.reward(context, netuid, hotkey, owner, dividend_rao - cut_rao, incentive_rao + cut_rao)
    accounts.recycle(context, lost_rao, "pot", "dividend without stake")


@hooks.subnet_ending
def end_emission(context: Context, netuid: int) -> None:
    """A subnet that is dissolved pays nothing more: its pots are recycled, its share goes to the others pro rata."""
    state = context.state
    accounts.recycle(context, sum(pots(state, netuid).amounts_rao), "pot", "pots of a dissolved subnet")
    POTS.delete(state, netuid)
    stored = {other: share for (other,), share in SHARES.items(state)}
    if stored.pop(netuid, None) is None:
        return
    SHARES.delete(state, netuid)
    shares = largest_remainder(list(stored.values()), ONE) if any(stored.values()) else [0] * len(stored)
    for other, share in zip(stored, shares, strict=True):
        if share:
            SHARES.put(state, other, value=share)
        else:
            SHARES.delete(state, other)


@hooks.hotkey_swapped
def move_root_due(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """Root dividends that wait go where the root stake goes."""
    waiting = ROOT_DUE.get(context.state, old)
    if netuid == ROOT_NETUID and waiting:
        ROOT_DUE.delete(context.state, old)
        ROOT_DUE.put(context.state, new, value=(ROOT_DUE.get(context.state, new) or 0) + waiting)


# --- root's epoch ------------------------------------------------------------------------------------------------


def run_root_epoch(context: Context) -> None:
    """2.6, 3.8: pay the root dividends, activate root stake, move the subnets' shares by root votes."""
    state = context.state
    tempo = subnets.tempo(state, ROOT_NETUID)
    for (hotkey,), due_rao in list(ROOT_DUE.items(state)):
        ROOT_DUE.delete(state, hotkey)
        if pools.pool(state, ROOT_NETUID, hotkey).shares:
            pay_hotkey(context, ROOT_NETUID, hotkey, 0, due_rao, tempo.last_step_block)
            context.events.append(ROOT_DIVIDEND_PAID(hotkey, due_rao))
        else:
            accounts.recycle(context, due_rao, "root_due", "root dividend without stake")
    pools.close_epoch(context, ROOT_NETUID)
    _move_shares(context, context.height - tempo.last_epoch_block)
    hooks.run_end_epoch(context, ROOT_NETUID, tempo.epoch_index)
    subnets.close_epoch(context, ROOT_NETUID)


def _move_shares(context: Context, blocks: int) -> None:
    state = context.state
    members = neurons.all_neurons(state, ROOT_NETUID)
    votes = [
        (weights.read_row(weights.WEIGHTS, state, ROOT_NETUID, uid), pools.pool(state, ROOT_NETUID, row.hotkey).consensus_rao)
        for uid, row in members.items()
    ]
    shares = voted_shares(
        emission_shares(state), subnets.started(state), votes, kappa=params.get(state, "root_kappa"), blocks=blocks,
        window_blocks=params.get(state, "root_share_blocks"),
    )
    for (netuid,), _ in list(SHARES.items(state)):
        if netuid not in shares:
            SHARES.delete(state, netuid)
    for netuid, share in shares.items():
        SHARES.put(state, netuid, value=share)
    context.events.append(ROOT_SHARES_UPDATED(list(shares), list(shares.values())))


# --- audit -------------------------------------------------------------------------------------------------------


@hooks.invariant("I8 emission shares sum to one")
def audit_shares(state: ReadState) -> list[str]:
    """The stored shares sum to ONE exactly."""
    total = sum(share for _, share in SHARES.items(state))
    return [f"the shares sum to {total}, not {ONE}"] if total not in (0, ONE) else []
