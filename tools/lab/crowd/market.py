"""Makers of the market's calls: neurons, stake, children, weights, subnets, serving. See `people`."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from nacl import bindings

from ledger.codec import pack_u16, unpack_u16
from ledger.commitments import weights_commitment
from ledger.sharing import KEY_BYTES, split
from ledger.timelock import Payload
from runtime import params
from runtime.modules import (
    children,
    creation,
    evictions,
    hotkeys,
    neurons,
    pools,
    serving,
    stake,
    subnets,
    timelock,
    weights,
)
from runtime.modules.ownership import PROOF

from .people import Crowd, Made, Q, makes

SALT_BYTES = 32
PARENT_SHARE = (1 << 64) - 1


# --- neurons ----------------------------------------------------------------------------------------------------------


@makes("neurons.register", 25)
def register(crowd: Crowd) -> Made:
    netuid, coldkey = crowd.netuid(), crowd.coldkey()
    owned = [key for key in hotkeys.hotkeys_of(crowd.state, coldkey) if neurons.uid_of(crowd.state, netuid, key) is None]
    hotkey = crowd.chance.choice(owned) if owned and crowd.chance.random() < 0.7 else crowd.fresh()
    price = subnets.registration_price_rao(crowd.state, netuid, crowd.height)
    return Made(coldkey, [netuid, hotkey, price + crowd.amount(high=Q)])


@makes("neurons.root_register")
def root_register(crowd: Crowd) -> Made | None:
    hotkey = crowd.hotkey()
    owner = crowd.owner(hotkey)
    return None if owner is None else Made(owner, [hotkey])


@makes("neurons.unregister", 4)
def unregister(crowd: Crowd) -> Made | None:
    netuid = crowd.netuid(root=True)
    found = crowd.neuron(netuid)
    if found is None or (crowd.chance.random() < 0.7 and neurons.has_permit(crowd.state, netuid, found[0])):
        return None
    owner = crowd.owner(found[1])
    return None if owner is None else Made(owner, [netuid, found[1]])


# --- stake ------------------------------------------------------------------------------------------------------------


@makes("stake.add", 30)
def add_stake(crowd: Crowd) -> Made | None:
    hotkey = crowd.hotkey()
    signer = crowd.owner(hotkey) if crowd.chance.random() < 0.4 else crowd.coldkey()
    return None if hotkey is None or signer is None else Made(signer, [hotkey, crowd.netuid(root=True), crowd.amount()])


def _position(crowd: Crowd) -> tuple[bytes, int, bytes, int] | None:
    """A coldkey's stake: coldkey, netuid, hotkey, rao."""
    for _ in range(4):
        coldkey = crowd.coldkey()
        held = list(pools.positions(crowd.state, coldkey))
        if held:
            netuid, hotkey, active, pending = crowd.chance.choice(held)
            return coldkey, netuid, hotkey, active + pending
    return None


def _part(crowd: Crowd, whole_rao: int) -> int | None:
    """Some of it, all of it, or (sometimes) too much."""
    return crowd.maybe_all(crowd.chance.choice((crowd.amount(), whole_rao // 2, whole_rao // 10, whole_rao)) or 1)


@makes("stake.remove", 20)
def remove_stake(crowd: Crowd) -> Made | None:
    found = _position(crowd)
    return None if found is None else Made(found[0], [found[2], found[1], _part(crowd, found[3])])


@makes("stake.move", 15)
def move_stake(crowd: Crowd) -> Made | None:
    found, to = _position(crowd), crowd.hotkey()
    if found is None or to is None:
        return None
    return Made(found[0], [found[2], to, found[1], crowd.netuid(root=True), _part(crowd, found[3])])


@makes("stake.transfer", 15)
def transfer_stake(crowd: Crowd) -> Made | None:
    found = _position(crowd)
    if found is None:
        return None
    return Made(found[0], [crowd.coldkey(), found[2], found[1], crowd.netuid(root=True), _part(crowd, found[3])])


@makes("stake.withdraw_unbonded")
def withdraw_unbonded(crowd: Crowd) -> Made | None:
    ripe = [
        coldkey for (coldkey,), rows in stake.UNBONDING.items(crowd.state) if any(at <= crowd.height for at, _ in rows)
    ]
    return Made(crowd.chance.choice(ripe), []) if ripe else None


@makes("stake.increase_take", 6)
def increase_take(crowd: Crowd) -> Made | None:
    hotkey = crowd.hotkey()
    owner = crowd.owner(hotkey)
    if hotkey is None or owner is None:
        return None
    row = stake.take_of(crowd.state, hotkey)
    return Made(owner, [hotkey, min(11_796, (row.next_take or row.take) + crowd.chance.randint(1, 3000))])


@makes("stake.decrease_take", 6)
def decrease_take(crowd: Crowd) -> Made | None:
    hotkey = crowd.hotkey()
    owner = crowd.owner(hotkey)
    if hotkey is None or owner is None:
        return None
    row = stake.take_of(crowd.state, hotkey)
    return Made(owner, [hotkey, crowd.chance.randrange(max(1, row.next_take or row.take))])


# --- children ---------------------------------------------------------------------------------------------------------


@makes("children.set", 10)
def set_children(crowd: Crowd) -> Made | None:
    netuid = crowd.netuid()
    parent = crowd.neuron(netuid)
    if parent is None:
        return None
    named = dict.fromkeys(found[1] for _ in range(crowd.chance.randrange(4)) if (found := crowd.neuron(netuid)) is not None)
    share = PARENT_SHARE // max(1, len(named)) // crowd.chance.choice((1, 2, 3, 1000))
    rows = [[share, hotkey] for hotkey in named if hotkey != parent[1]]
    owner = crowd.owner(parent[1])
    return None if owner is None else Made(owner, [parent[1], netuid, rows])


@makes("children.set_take", 6)
def set_child_take(crowd: Crowd) -> Made | None:
    netuid = crowd.netuid()
    children_held = [hotkey for (held, hotkey), _ in children.PARENTS.items(crowd.state) if held == netuid]
    hotkey = crowd.chance.choice(children_held) if children_held else crowd.hotkey()
    owner = crowd.owner(hotkey)
    return None if owner is None else Made(owner, [hotkey, netuid, crowd.chance.randint(0, 11_796)])


# --- weights ----------------------------------------------------------------------------------------------------------


def _judge(crowd: Crowd, *, commit: bool) -> tuple[int, bytes] | None:
    """A subnet that takes weights by commit (or not), and a hotkey with a permit there."""
    open_ones = [
        netuid for netuid in subnets.netuids(crowd.state)
        if params.is_on(crowd.state, "commit_reveal_enabled", netuid) == commit
    ]
    if not open_ones:
        return None
    netuid = crowd.chance.choice(open_ones)
    held = neurons.all_neurons(crowd.state, netuid)
    permitted = [row.hotkey for uid, row in held.items() if neurons.has_permit(crowd.state, netuid, uid)]
    return (netuid, crowd.chance.choice(permitted)) if permitted else None


def _row(crowd: Crowd, netuid: int) -> tuple[bytes, bytes]:
    """Random weights on some of the subnet's neurons."""
    uids = list(neurons.all_neurons(crowd.state, netuid))
    chosen = crowd.chance.sample(uids, crowd.chance.randint(1, len(uids)))
    largest = crowd.chance.choice((1, 5, 65535))
    return pack_u16(chosen), pack_u16([crowd.chance.randint(0, largest) for _ in chosen[1:]] + [largest])


@makes("weights.set", 25)
def set_weights(crowd: Crowd) -> Made | None:
    found = _judge(crowd, commit=False)
    return None if found is None else Made(found[1], [found[0], *_row(crowd, found[0]), 0])


@makes("weights.commit", 40)
def commit_weights(crowd: Crowd) -> Made | None:
    found = _judge(crowd, commit=True)
    if found is None:
        return None
    (netuid, hotkey), salt = found, crowd.chance.randbytes(SALT_BYTES)
    epoch = subnets.tempo(crowd.state, netuid).epoch_index + subnets.epoch_is_due(crowd.state, netuid, crowd.height)
    uids, values = _row(crowd, netuid)
    hashed = weights_commitment(
        crowd.chain.genesis.genesis_hash, hotkey, netuid, epoch, unpack_u16(uids), unpack_u16(values), 0, salt
    )

    def done() -> None:
        crowd.rows[hotkey, netuid, epoch] = (uids, values, salt)

    return Made(hotkey, [netuid, hashed], done)


def _boxed(crowd: Crowd, share: bytes, public: bytes) -> bytes:
    """A sealed box whose one-time key comes from the crowd's chance: a run repeats to the last byte."""
    once, secret = bindings.crypto_box_seed_keypair(crowd.chance.randbytes(32))
    nonce = blake2b(once + public, digest_size=bindings.crypto_box_NONCEBYTES).digest()
    return bytes(once + bindings.crypto_box(share, nonce, public, secret))


@makes("weights.commit_timelocked", 40)
def commit_timelocked(crowd: Crowd) -> Made | None:
    found = _judge(crowd, commit=True)
    if found is None or subnets.epoch_is_due(crowd.state, found[0], crowd.height):
        return None
    (netuid, hotkey), salt = found, crowd.chance.randbytes(SALT_BYTES)
    epoch = subnets.tempo(crowd.state, netuid).epoch_index
    lock = timelock.lock(crowd.state, netuid, epoch)
    if lock is None:
        return None
    uids, values = (unpack_u16(part) for part in _row(crowd, netuid))
    hashed = weights_commitment(crowd.chain.genesis.genesis_hash, hotkey, netuid, epoch, uids, values, 0, salt)
    key, *coefficients = (crowd.chance.randbytes(KEY_BYTES) for _ in range(lock.threshold))
    shares = split(key, len(lock.publics), coefficients)
    body = bindings.crypto_secretbox(Payload(uids, values, 0, salt).encode(), bytes(24), key)
    boxes = b"".join(_boxed(crowd, share, public) for share, public in zip(shares, lock.publics, strict=True))

    def done() -> None:
        crowd.rows[hotkey, netuid, epoch] = (pack_u16(uids), pack_u16(values), salt)

    return Made(hotkey, [netuid, epoch, hashed, body, boxes], done)


@makes("weights.reveal", 60)
def reveal_weights(crowd: Crowd) -> Made | None:
    ready = []
    for hotkey, netuid, epoch in list(crowd.rows):
        if not subnets.exists(crowd.state, netuid):
            del crowd.rows[hotkey, netuid, epoch]
            continue
        running = subnets.tempo(crowd.state, netuid).epoch_index
        window = epoch + params.get(crowd.state, "reveal_period_epochs", netuid)
        if window < running or not weights.commits_of(crowd.state, netuid, hotkey):
            del crowd.rows[hotkey, netuid, epoch]
        elif window == running:
            ready.append((hotkey, netuid, epoch))
    if not ready:
        return None
    hotkey, netuid, epoch = crowd.chance.choice(ready)
    return Made(hotkey, [netuid, *crowd.rows[hotkey, netuid, epoch], 0])


@makes("weights.set_root")
def set_root_weights(crowd: Crowd) -> Made | None:
    found = crowd.neuron(0)
    if found is None:
        return None
    known = subnets.netuids(crowd.state)
    chosen = crowd.chance.sample(known, crowd.chance.randint(1, len(known))) if known else []
    return Made(found[1], [pack_u16(chosen), pack_u16([crowd.chance.randint(1, 100) for _ in chosen])])


# --- subnets ----------------------------------------------------------------------------------------------------------


def _subnet_of(crowd: Crowd, *, started: bool | None = None) -> tuple[int, subnets.Subnet] | None:
    rows = [(netuid, subnets.subnet(crowd.state, netuid)) for netuid in subnets.netuids(crowd.state)]
    rows = [row for row in rows if started is None or (row[1].started_at is not None) == started]
    return crowd.chance.choice(rows) if rows else None


def _creator(crowd: Crowd) -> tuple[bytes, bytes]:
    """A coldkey and a hotkey for a new subnet."""
    coldkey = crowd.coldkey()
    owned = hotkeys.hotkeys_of(crowd.state, coldkey)
    return coldkey, crowd.chance.choice(owned) if owned and crowd.chance.random() < 0.5 else crowd.fresh()


@makes("subnets.register_network", 10)
def register_network(crowd: Crowd) -> Made:
    coldkey, hotkey = _creator(crowd)
    return Made(coldkey, [hotkey, creation.lock_cost_rao(crowd.state, crowd.height), "traffic"])


@makes("subnets.start_call", 30)
def start_subnet(crowd: Crowd) -> Made | None:
    found = _subnet_of(crowd, started=False)
    return None if found is None else Made(found[1].owner_coldkey, [found[0]])


@makes("subnets.set_owner_hotkey", 4)
def set_owner_hotkey(crowd: Crowd) -> Made | None:
    found = _subnet_of(crowd)
    if found is None:
        return None
    owned = hotkeys.hotkeys_of(crowd.state, found[1].owner_coldkey)
    return Made(found[1].owner_coldkey, [found[0], crowd.chance.choice(owned)]) if owned else None


@makes("subnets.transfer_ownership", 4)
def transfer_ownership(crowd: Crowd) -> Made | None:
    found, to = _subnet_of(crowd), crowd.coldkey()
    owned = hotkeys.hotkeys_of(crowd.state, to)
    if found is None or not owned:
        return None
    return Made(found[1].owner_coldkey, [found[0], to, crowd.chance.choice(owned)])


@makes("subnets.dissolve", 2)
def dissolve(crowd: Crowd) -> Made | None:
    found = _subnet_of(crowd)
    if found is None or len(subnets.started(crowd.state)) < 2 or crowd.chance.random() < 0.7:
        return None
    return Made(found[1].owner_coldkey, [found[0]])


@makes("subnets.challenge", 12)
def challenge(crowd: Crowd) -> Made:
    coldkey, hotkey = _creator(crowd)
    return Made(coldkey, [hotkey, creation.lock_cost_rao(crowd.state, crowd.height), "challenger"])


@makes("subnets.keep", 10)
def keep(crowd: Crowd) -> Made | None:
    found = _subnet_of(crowd)
    challenged = [netuid for (netuid,), _ in evictions.CHALLENGES.items(crowd.state)]
    if not challenged or found is None:
        return None
    netuid = crowd.chance.choice(challenged)
    return Made(subnets.subnet(crowd.state, netuid).owner_coldkey, [netuid])


@makes("subnets.set_identity", 5)
def set_subnet_identity(crowd: Crowd) -> Made | None:
    found = _subnet_of(crowd)
    if found is None:
        return None
    identity = ["name", "https://quorix.invalid", "about", "prose", crowd.chance.randbytes(32)]
    return Made(found[1].owner_coldkey, [found[0], identity])


# --- serving ----------------------------------------------------------------------------------------------------------


@makes("serving.serve")
def serve(crowd: Crowd) -> Made | None:
    netuid = crowd.netuid()
    found = crowd.neuron(netuid)
    if found is None:
        return None
    record: list[Any] = [bytes([10, *crowd.chance.randbytes(3)]), crowd.chance.randint(0, 65535), b"", bytes(32)]
    return Made(found[1], [netuid, record])


@makes("serving.unserve", 5)
def unserve(crowd: Crowd) -> Made | None:
    served = [key for key, _ in serving.SERVING.items(crowd.state)]
    if not served:
        return None
    netuid, hotkey = crowd.chance.choice(served)
    return Made(hotkey, [netuid])


@makes("serving.commit_receipts")
def commit_receipts(crowd: Crowd) -> Made | None:
    netuid = crowd.netuid()
    found = crowd.neuron(netuid)
    if found is None:
        return None
    epoch = subnets.tempo(crowd.state, netuid).epoch_index - crowd.chance.randint(0, 1)
    return Made(found[1], [netuid, max(0, epoch), crowd.chance.randbytes(32), crowd.chance.randint(1, 9)])


@makes("serving.set_commitment")
def set_commitment(crowd: Crowd) -> Made | None:
    netuid = crowd.netuid()
    found = crowd.neuron(netuid)
    if found is None:
        return None
    fields = [crowd.chance.randbytes(crowd.chance.choice((1, 32, 900))) for _ in range(crowd.chance.randint(1, 3))]
    return Made(found[1], [netuid, fields, crowd.chance.random() < 0.5])


@makes("hotkeys.associate", 6)
def associate(crowd: Crowd) -> Made:
    coldkey, hotkey = crowd.coldkey(), crowd.fresh()
    proof = crowd.keys[hotkey].sign(PROOF, crowd.chain.genesis.genesis_hash, coldkey + hotkey)
    return Made(coldkey, [hotkey, proof])


@makes("keyring.swap_hotkey", 8)
def swap_hotkey(crowd: Crowd) -> Made | None:
    old = crowd.hotkey()
    owner = crowd.owner(old)
    if old is None or owner is None:
        return None
    where = crowd.chance.choice((None, crowd.netuid(root=True)))

    def done() -> None:  # what the old one committed to cannot be revealed by the new one
        for key in [key for key in crowd.rows if key[0] == old]:
            del crowd.rows[key]

    return Made(owner, [old, crowd.fresh(), where], done)
