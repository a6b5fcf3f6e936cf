"""Makers of the other calls: accounts, authorities, governance, keys, proxies, identities, batches. See `people`."""

from __future__ import annotations

from typing import Any

from runtime import params
from runtime.chain import info
from runtime.modules import (
    authorities,
    bonds,
    coldkeys,
    governance,
    hotkeys,
    identities,
    proposals,
    proxies,
    sessions,
    subnets,
    upgrades,
)

from .people import MAX_COLDKEYS, Crowd, Made, Q, makes

SAFE_GLOBALS = {  # parameters that governance moves here, with values that keep everything going
    "fee_base_rao": (500, 2000), "min_stake": (Q // 1000, Q // 100), "root_kappa": (32768, 49151),
    "faucet_limit_rao": (Q, 900 * Q), "nominator_min_required_stake": (0, 2 * Q), "stake_threshold": (0, Q),
    "subnet_limit": (3, 5), "owner_cut": (0, 11796), "childkey_cooldown_tempos": (0, 2), "authority_bond_rao": (5 * Q, 10 * Q),
}
OWNERS_PARAMS = {
    "bonds_penalty": (0, 65535), "bonds_moving_average": (0, 975_000), "liquid_alpha_on": (0, 1), "yuma3_on": (0, 1),
    "commit_reveal_enabled": (0, 1), "min_burn_rao": (Q // 1000, Q // 10), "burn_half_life": (5, 400),
    "burn_increase_ppm": (1_000_000, 2_000_000), "serving_rate_limit": (1, 5), "alpha_sigmoid_steepness": (0, 2000),
    "owner_cut_enabled": (0, 1), "transfer_toggle": (0, 1), "activity_cutoff_factor": (1000, 20_000), "bonds_reset_on": (0, 1),
}
ROOTS_PARAMS = {
    "kappa": (19661, 45875), "miner_share": (16384, 49151), "stake_ema_blocks": (0, 100), "unbond_blocks": (0, 20),
    "permit_twice": (0, 1), "max_regs_per_block": (1, 8), "max_allowed_validators": (2, 20), "exact_payout": (1, 1),
    "min_non_immune_uids": (0, 10), "weights_set_rate_limit": (0, 3),
}
NO_VERSION = 9_999


# --- accounts ---------------------------------------------------------------------------------------------------------


@makes("accounts.transfer", 30)
def transfer(crowd: Crowd) -> Made:
    to = crowd.coldkey()
    if len(crowd.coldkeys) < MAX_COLDKEYS and crowd.chance.random() < 0.2:
        to = crowd.fresh()

    def done() -> None:
        if to not in crowd.coldkeys:
            crowd.coldkeys.append(to)

    amount = crowd.amount() if crowd.chance.random() < 0.98 else None
    return Made(crowd.coldkey(), [to, amount, crowd.chance.random() < 0.5], done)


@makes("accounts.faucet", 5)
def faucet(crowd: Crowd) -> Made:
    return Made(crowd.coldkey(), [crowd.amount(high=900 * Q)])


# --- authorities ------------------------------------------------------------------------------------------------------


def _authority_account(crowd: Crowd) -> bytes | None:
    keys = authorities.session_keys(crowd.state)
    return authorities.account_of(crowd.state, crowd.chance.choice(keys))


def _possession(crowd: Crowd, account: bytes, key: bytes) -> bytes:
    return crowd.keys[key].sign("pop", crowd.chain.genesis.genesis_hash, sessions.possession_body(account, key))


@makes("authorities.set_session_key", 5)
def set_session_key(crowd: Crowd) -> Made | None:
    old = crowd.chance.choice(authorities.session_keys(crowd.state))
    account, new = authorities.account_of(crowd.state, old), crowd.fresh()
    return None if account is None else Made(account, [old, new, _possession(crowd, account, new)])


@makes("authorities.bond", 5)
def bond(crowd: Crowd) -> Made:
    account = _authority_account(crowd) if crowd.chance.random() < 0.5 else None
    return Made(account or crowd.coldkey(), [crowd.amount()])


@makes("authorities.unbond", 5)
def unbond(crowd: Crowd) -> Made | None:
    held = [account for (account,), row in bonds.BONDS.items(crowd.state) if row.bonded_rao]
    if not held:
        return None
    account = crowd.chance.choice(held)
    return Made(account, [crowd.chance.choice((crowd.amount(), bonds.bond_of(crowd.state, account).bonded_rao))])


@makes("authorities.withdraw_bond", 5)
def withdraw_bond(crowd: Crowd) -> Made | None:
    number = info(crowd.state).session(crowd.height)
    ripe = [a for (a,), row in bonds.BONDS.items(crowd.state) if any(free_in <= number for free_in, _ in row.unbonding)]
    return Made(crowd.chance.choice(ripe), []) if ripe else None


@makes("authorities.propose_set", 4)
def propose_set(crowd: Crowd) -> Made:
    """Between three and six members: some of today's, some new ones whose accounts have a bond."""
    keys = authorities.session_keys(crowd.state)
    members: list[list[Any]] = [[key, authorities.account_of(crowd.state, key), None] for key in keys]
    crowd.chance.shuffle(members)
    members = members[: crowd.chance.randint(3, 6)]
    bonded = [account for (account,), row in bonds.BONDS.items(crowd.state) if row.bonded_rao >= 5 * Q]
    for account in crowd.chance.sample(bonded, min(len(bonded), 6 - len(members))):
        key = crowd.fresh()
        members.append([key, account, _possession(crowd, account, key)])
    return Made(bytes(32), [members])


# --- governance -------------------------------------------------------------------------------------------------------


def _value(crowd: Crowd, table: dict[str, tuple[int, int]]) -> tuple[str, int | bool]:
    name = crowd.chance.choice(list(table))
    value = crowd.chance.randint(*table[name])
    return name, bool(value) if params.PARAMS[name].kind == "bool" else value


def root_call(crowd: Crowd) -> list[Any]:
    """A call of root: a parameter of the chain or of a subnet."""
    if crowd.chance.random() < 0.5:
        return crowd.call("governance.set_global_param", list(_value(crowd, SAFE_GLOBALS)))
    return crowd.call("governance.set_subnet_param", [crowd.netuid(), *_value(crowd, ROOTS_PARAMS)])


@makes("governance.sudo", 10)
def sudo(crowd: Crowd) -> Made | None:
    key = governance.sudo_key(crowd.state)
    return None if key is None else Made(key, [root_call(crowd)])


@makes("governance.set_sudo", 2)
def set_sudo(crowd: Crowd) -> Made:
    return Made(bytes(32), [crowd.coldkey()])


@makes("governance.set_global_param", 6)
def set_global_param(crowd: Crowd) -> Made:
    return Made(bytes(32), list(_value(crowd, SAFE_GLOBALS)))


@makes("governance.set_subnet_param", 20)
def set_subnet_param(crowd: Crowd) -> Made:
    netuid = crowd.netuid()
    if not subnets.exists(crowd.state, netuid):
        return Made(crowd.coldkey(), [netuid, "tempo", 15])
    changed = ("tempo", 15) if params.get(crowd.state, "tempo", netuid) > 15 else _value(crowd, OWNERS_PARAMS)
    return Made(subnets.subnet(crowd.state, netuid).owner_coldkey, [netuid, *changed])


@makes("governance.schedule_upgrade", 3)
def schedule_upgrade(crowd: Crowd) -> Made:
    """To rules that no authority has: it is postponed, and cancelled in the end."""
    return Made(bytes(32), [NO_VERSION, crowd.height + 20 + crowd.chance.randint(0, 40)])


@makes("governance.cancel_upgrade", 3)
def cancel_upgrade(crowd: Crowd) -> Made | None:
    return None if upgrades.pending(crowd.state) is None else Made(bytes(32), [])


@makes("governance.move_upgrade", 2)
def move_upgrade(crowd: Crowd) -> Made | None:
    height = crowd.height + 20 + crowd.chance.randint(0, 40)
    return None if upgrades.pending(crowd.state) is None else Made(bytes(32), [height])


def _seat(crowd: Crowd) -> tuple[bytes, bytes] | None:
    """A root seat: coldkey and hotkey."""
    found = crowd.neuron(0)
    owner = None if found is None else crowd.owner(found[1])
    return None if found is None or owner is None else (owner, found[1])


@makes("governance.propose", 8)
def propose(crowd: Crowd) -> Made | None:
    seat = _seat(crowd)
    return None if seat is None else Made(seat[0], [seat[1], root_call(crowd)])


@makes("governance.vote", 25)
def vote(crowd: Crowd) -> Made | None:
    seat, open_ones = _seat(crowd), [number for number, row in proposals.proposals(crowd.state) if row.approved_at is None]
    if seat is None or not open_ones:
        return None
    return Made(seat[0], [seat[1], crowd.chance.choice(open_ones), crowd.chance.random() < 0.7])


@makes("governance.cancel", 5)
def cancel(crowd: Crowd) -> Made | None:
    seat, open_ones = _seat(crowd), [number for number, _ in proposals.proposals(crowd.state)]
    return None if seat is None or not open_ones else Made(seat[0], [seat[1], crowd.chance.choice(open_ones)])


# --- batches and proxies ----------------------------------------------------------------------------------------------


def plain_call(crowd: Crowd, signer: bytes) -> list[Any]:
    """A call that any coldkey can make."""
    kind = crowd.chance.randrange(3)
    hotkey = crowd.hotkey()
    if kind == 0 or hotkey is None:
        return crowd.call("accounts.transfer", [crowd.coldkey(), crowd.amount(high=Q), True])
    if kind == 1:
        return crowd.call("stake.add", [hotkey, crowd.netuid(root=True), crowd.amount()])
    held = hotkeys.hotkeys_of(crowd.state, signer)
    return crowd.call("stake.remove", [held[0] if held else hotkey, crowd.netuid(root=True), crowd.amount()])


@makes("keyring.batch", 8)
def batch(crowd: Crowd) -> Made:
    signer = crowd.coldkey()
    return Made(signer, [[plain_call(crowd, signer) for _ in range(crowd.chance.randint(1, 3))]])


@makes("keyring.batch_each", 8)
def batch_each(crowd: Crowd) -> Made:
    signer = crowd.coldkey()
    return Made(signer, [[plain_call(crowd, signer) for _ in range(crowd.chance.randint(1, 5))]])


@makes("proxies.add", 6)
def add_proxy(crowd: Crowd) -> Made:
    return Made(crowd.coldkey(), [crowd.coldkey(), crowd.chance.choice((0, 0, 1, 5)), crowd.chance.choice((0, 0, 2, 5))])


def _right(crowd: Crowd, *, delayed: bool | None = None) -> tuple[bytes, list[Any]] | None:
    found = [
        (real, row) for (real,), held in proxies.PROXIES.items(crowd.state) for row in held.rows
        if delayed is None or bool(row[2]) == delayed
    ]
    return crowd.chance.choice(found) if found else None


@makes("proxies.remove", 4)
def remove_proxy(crowd: Crowd) -> Made | None:
    found = _right(crowd)
    return None if found is None else Made(found[0], list(found[1]))


@makes("proxies.announce", 8)
def announce_call(crowd: Crowd) -> Made | None:
    found = _right(crowd, delayed=True)
    if found is None:
        return None
    (real, (delegate, _, _)), inner = found, plain_call(crowd, found[0])

    def done() -> None:
        crowd.delegated.append((real, delegate, inner))

    return Made(delegate, [real, proxies.call_hash(*inner)], done)


@makes("proxies.withdraw", 3)
def withdraw_announcement(crowd: Crowd) -> Made | None:
    if not crowd.delegated:
        return None
    real, delegate, inner = crowd.delegated.pop(crowd.chance.randrange(len(crowd.delegated)))
    return Made(crowd.chance.choice((real, delegate)), [real, delegate, proxies.call_hash(*inner)])


@makes("proxies.run", 15)
def run_proxy(crowd: Crowd) -> Made | None:
    if crowd.delegated and crowd.chance.random() < 0.5:
        real, delegate, inner = crowd.delegated.pop(0)
        return Made(delegate, [real, inner])
    found = _right(crowd, delayed=False)
    return None if found is None else Made(found[1][0], [found[0], plain_call(crowd, found[0])])


# --- coldkeys and identities ------------------------------------------------------------------------------------------


@makes("keyring.announce_coldkey_swap", 3)
def announce_coldkey_swap(crowd: Crowd) -> Made | None:
    coldkey, heir = crowd.coldkey(), crowd.fresh()
    if coldkeys.announcement_of(crowd.state, coldkey) is not None and crowd.chance.random() < 0.8:
        return None

    def done() -> None:
        crowd.heirs[coldkey] = heir

    return Made(coldkey, [coldkeys.swap_hash(heir)], done)


def _announced(crowd: Crowd, after: int) -> bytes | None:
    """An account whose announcement is that many blocks past its delay."""
    ripe = [who for (who,), row in coldkeys.ANNOUNCED.items(crowd.state) if crowd.height >= row.ready_at + after]
    return crowd.chance.choice(ripe) if ripe else None


@makes("keyring.swap_coldkey", 20)
def swap_coldkey(crowd: Crowd) -> Made | None:
    old = _announced(crowd, 0)
    heir = None if old is None else crowd.heirs.get(old)
    if old is None or heir is None:
        return None

    def done() -> None:
        crowd.coldkeys = [heir if key == old else key for key in crowd.coldkeys]
        del crowd.heirs[old]

    return Made(old, [heir], done)


@makes("keyring.clear_coldkey_swap", 3)
def clear_coldkey_swap(crowd: Crowd) -> Made | None:
    old = _announced(crowd, params.get(crowd.state, "coldkey_swap_again_delay"))
    return None if old is None else Made(old, [])


@makes("identities.set", 5)
def set_identity(crowd: Crowd) -> Made:
    return Made(crowd.coldkey(), [["someone", "", "a text", crowd.chance.choice((b"", bytes(32)))]])


@makes("identities.clear", 4)
def clear_identity(crowd: Crowd) -> Made | None:
    known = [who for (who,), _ in identities.IDENTITIES.items(crowd.state)]
    return Made(crowd.chance.choice(known), []) if known else None
