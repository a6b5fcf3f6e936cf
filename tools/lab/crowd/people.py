"""The crowd: accounts that make random calls which mostly make sense, one block after the other.

For each kind of call there is a maker (`makers.py`): it looks at the state and returns a signer and arguments, or None if
there is nothing to do. Which kind is tried follows the makers' weights; one in ten calls is spoiled (a wrong signer, or an
argument of another call) so that refusals are exercised too. All chance comes from one seed: a run repeats exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from random import Random
from typing import Any, NamedTuple

from genesis.build import Genesis, build_genesis
from genesis.cast import cast, devnet_spec
from genesis.spec import AccountSpec, ChainSpec
from ledger.blocks import Extrinsic
from ledger.crypto import KeyPair
from ledger.machine import BlockResult
from runtime import versions
from runtime.modules import accounts, authorities, governance, hotkeys, neurons, subnets
from runtime.registry import CALL_NUMBERS, CALLS
from runtime.state import State

from .local import LocalChain

PERIOD = 64
SPOILED = 0.1  # of all calls
TALKATIVE = 0.3  # of the authorities in each block
Q = 10**9

# Waiting times such that everything comes round within some hundred blocks.
GLOBALS = {
    "authority_bond_rao": 10 * Q, "authority_unbond_sessions": 1, "evidence_window_sessions": 3, "network_min_lock_rao": Q,
    "network_rate_limit": 40, "network_lock_reduction_interval": 40, "network_immunity_period": 300, "start_call_delay": 3,
    "subnet_limit": 4, "eviction_notice_blocks": 30, "owner_change_rate_limit": 30, "owner_hyperparam_rate_limit": 1,
    "admin_freeze_window": 2, "tx_rate_limit": 20, "delegate_take_rate_limit": 12, "childkey_take_rate_limit": 12,
    "coldkey_swap_delay": 15, "coldkey_swap_again_delay": 8, "voting_period": 24, "enactment_delay": 4,
    "proposal_deposit_rao": Q, "root_share_blocks": 60, "max_epochs_per_block": 2,
}
SUBNET = {
    "tempo": 15, "immunity_period": 60, "weights_set_rate_limit": 1, "serving_rate_limit": 3, "max_regs_per_block": 4,
    "unbond_blocks": 12, "stake_ema_blocks": 40, "min_burn_rao": Q // 100, "max_allowed_uids": 24, "bonds_reset_on": True,
    "timelock_on": True,
}
MAX_COLDKEYS = 60  # of the crowd; fresh keys take the place of old ones that swapped away
FREE_RAO = 5_000 * Q


class Made(NamedTuple):
    """A call: who signs, the positional arguments, and what to remember if it succeeds."""

    signer: bytes
    args: list[Any]
    done: Callable[[], None] | None = None


Maker = Callable[["Crowd"], Made | None]


class Entry(NamedTuple):
    maker: Maker
    weight: int


MAKERS: dict[str, Entry] = {}


def makes(name: str, weight: int = 10) -> Callable[[Maker], Maker]:
    """Declare the maker of a call; `weight` says how often it is tried beside the others."""

    def declare(maker: Maker) -> Maker:
        assert name not in MAKERS, f"two makers of {name}"
        MAKERS[name] = Entry(maker, weight)
        return maker

    return declare


def without_maker() -> list[str]:
    """Calls of the registry that nobody makes here, and makers of calls that do not exist."""
    return sorted(MAKERS.keys() ^ CALL_NUMBERS.keys())


def genesis_of(seed: int, **changes: Any) -> Genesis:
    """The genesis of `spec_of`."""
    return build_genesis(spec_of(seed, **changes))


def spec_of(seed: int, *, subnet: Mapping[str, Any] = {}, **changes: Any) -> ChainSpec:
    """The devnet's cast with more money, hotkeys that have some, and short waiting times."""
    spec = devnet_spec(seed)
    members = cast(seed)
    hotkeys_rich = tuple(AccountSpec(member.hotkey.public, Q) for member in members if member.hotkey is not None)
    return replace(
        spec, globals={**spec.globals, **GLOBALS, **changes}, root={**spec.root, "unbond_blocks": 5}, session_blocks=20,
        accounts=tuple(replace(row, free_rao=FREE_RAO) for row in spec.accounts) + hotkeys_rich,
        subnets=tuple(replace(row, params={**row.params, **SUBNET, **subnet}) for row in spec.subnets),
    )


class Crowd:
    """A chain and the people on it. `step` makes one call for the coming block, `end_block` executes them all."""

    def __init__(self, seed: int, genesis: Genesis | None = None, *, chance: Random | None = None) -> None:
        self.chance = chance or Random(seed)
        self.seed, self.chain = seed, LocalChain(genesis or genesis_of(1))
        members = cast(1)
        pairs = [pair for member in members for pair in (member.coldkey, member.hotkey, member.session) if pair is not None]
        self.keys: dict[bytes, KeyPair] = {pair.public: pair for pair in pairs}
        self.coldkeys = [member.coldkey.public for member in members]
        self.rows: dict[tuple[bytes, int, int], tuple[bytes, bytes, bytes]] = {}  # hotkey, netuid, epoch -> committed row, salt
        self.delegated: list[tuple[bytes, bytes, list[Any]]] = []  # announced: real, delegate, call
        self.heirs: dict[bytes, bytes] = {}  # coldkey -> the key that it announced
        self.tried, self.succeeded = Counter[str](), Counter[str]()
        self.refusals, self.left_out, self.idle = Counter[str](), Counter[str](), Counter[str]()
        self.executed = 0  # calls that a block carried, done or refused
        self._waiting: list[tuple[str, Extrinsic, Made]] = []
        self._made = 0

    # --- what makers use ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The head's state."""
        return self.chain.state

    @property
    def height(self) -> int:
        """Of the coming block."""
        return self.chain.height + 1

    def fresh(self) -> bytes:
        """A new key, which the crowd can sign with."""
        self._made += 1
        pair = KeyPair.from_seed(blake2b(f"{self.seed}/{self._made}".encode(), digest_size=32).digest())
        self.keys[pair.public] = pair
        return pair.public

    def coldkey(self) -> bytes:
        return self.chance.choice(self.coldkeys)

    def netuid(self, *, root: bool = False) -> int:
        """A subnet that exists, or root where it is allowed."""
        known = subnets.netuids(self.state)
        return self.chance.choice([0, *known] if root or not known else known)

    def neuron(self, netuid: int) -> tuple[int, bytes] | None:
        """A uid of a subnet and its hotkey."""
        rows = neurons.all_neurons(self.state, netuid)
        if not rows:
            return None
        uid = self.chance.choice(list(rows))
        return uid, rows[uid].hotkey

    def hotkey(self) -> bytes | None:
        """A hotkey that is registered somewhere, mostly."""
        found = self.neuron(self.netuid(root=self.chance.random() < 0.2))
        return None if found is None else found[1]

    def owner(self, hotkey: bytes | None) -> bytes | None:
        return None if hotkey is None else hotkeys.owner_of(self.state, hotkey)

    def amount(self, low: int = 1000, high: int = 20 * Q) -> int:
        """Rao, of every order of magnitude."""
        return min(high, max(low, int(10 ** self.chance.uniform(4, 10.3) + 10 ** self.chance.uniform(4, 9))))

    def maybe_all(self, amount_rao: int) -> int | None:
        return None if self.chance.random() < 0.1 else amount_rao

    def call(self, name: str, args: list[Any]) -> list[Any]:
        """An inner call."""
        return [CALL_NUMBERS[name], args]

    # --- making ---------------------------------------------------------------------------------------------------------

    def step(self, name: str | None = None) -> str:
        """Make one call, of the named kind or any; returns the kind. It may be that there is nothing to do."""
        if name is None:
            name = self.chance.choices(list(MAKERS), [entry.weight for entry in MAKERS.values()])[0]
        self.tried[name] += 1
        made = MAKERS[name].maker(self)
        if made is None:
            self.idle[name] += 1
            return name
        made, number, args = self._spoiled(made), CALL_NUMBERS[name], made.args
        if CALLS[number].origin == "root":
            sudo = governance.sudo_key(self.state)
            if sudo is None:
                self.idle[name] += 1
                return name
            made, number, args = made._replace(signer=sudo), CALL_NUMBERS["governance.sudo"], [[number, args]]
        if any(extrinsic.signer == made.signer for _, extrinsic, _ in self._waiting):
            self.idle[name] += 1
            return name
        nonce = accounts.account(self.state, made.signer).nonce
        tip = self.chance.choice((0, 0, 0, 5))
        extrinsic = Extrinsic(bytes(64), made.signer, nonce, self.chain.height, PERIOD, tip, number, args)
        self._waiting.append((name, extrinsic, made))
        return name

    def waiting(self) -> list[tuple[str, Extrinsic]]:
        """Kind and extrinsic (unsigned) of the calls that the coming block will carry."""
        return [(name, extrinsic) for name, extrinsic, _ in self._waiting]

    def _spoiled(self, made: Made) -> Made:
        return made if self.chance.random() > SPOILED else made._replace(signer=self.coldkey())

    def end_block(self) -> BlockResult:
        """Execute the calls made so far as one block, with its leaders, signers and signs of life."""
        waiting, self._waiting = self._waiting, []
        keys = authorities.session_keys(self.state)
        leaders = [keys[place] for place in authorities.current(self.state).active] or list(keys)
        missed = leaders[:1] if len(leaders) > 1 and self.chance.random() < 0.05 else []
        proposer = self.chance.choice([key for key in leaders if key not in missed])
        signers = [key for key in keys if self.chance.random() < 0.9]
        said = [
            one for key in [*keys, *(key for key, _ in authorities.candidates(self.state))]
            if key in self.keys and self.chance.random() < TALKATIVE
            for one in self.chain.said(self.keys[key], tuple(sorted(versions.RULES)))
        ]
        block = self.chain.block_context(proposer, missed, signers)
        result, left_out = self.chain.add_block(block, said, [extrinsic for _, extrinsic, _ in waiting])
        outcomes = iter(result.outcomes)
        for index, (name, _, made) in enumerate(waiting):
            if index in left_out:
                self.left_out[f"{name}: {left_out[index]}"] += 1
                continue
            error = next(outcomes).error
            self.executed += 1
            if error:
                self.refusals[f"{name}: {error}"] += 1
                continue
            self.succeeded[name] += 1
            if made.done is not None:
                made.done()
        return result
