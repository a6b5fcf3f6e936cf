"""Users of a world with the real rules: they send transactions to random nodes, and root changes the authority set.

A user sends one transfer at a time, again to other nodes until it is in the chain; now and then two in the wrong order, or
one that must be refused. Root wants one honest authority more or less, as long as the others stay a minority that the set
tolerates.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from ledger.blocks import Extrinsic
from ledger.errors import Rejected
from ledger.votes import max_faulty
from runtime.modules import accounts, authorities, bonds, sessions
from runtime.registry import CALL_NUMBERS
from runtime.state import State

from .rules import ROOT, account

if TYPE_CHECKING:
    from .node import Node
    from .world import World

EVERY_MS: Final = 400
MAX_TRANSFER_RAO: Final = 10**9


class Traffic:
    """Does nothing in worlds without users and without changes of the set."""

    def __init__(self, world: World) -> None:
        plan = world.plan
        self._world, self.submitted = world, 0
        self._users = [User(world, f"user {index}") for index in range(plan.users if plan.runtime else 0)]
        if plan.runtime and plan.set_changes:
            joining = range(plan.n, plan.n + plan.candidates)
            self._users += [Root(world, ROOT), *(Owner(world, f"authority {index}") for index in joining)]

    def begin(self) -> None:
        for user in self._users:
            self._next(user)

    def _next(self, user: User) -> None:
        def act() -> None:
            self.submitted += user.act()
            self._next(user)

        self._world.timeline.after(self._world.rng.randint(EVERY_MS // 2, 2 * EVERY_MS), act)


class User:
    """`role` names the account."""

    def __init__(self, world: World, role: str) -> None:
        self.world, self.key = world, account(role, world.plan)
        self._pending: list[Extrinsic] = []

    def act(self) -> int:
        """Submit what is on the way again, or something new; returns how many were taken."""
        up = [node for node in self.world.honest if node.alive and node.stop_code is None]
        if not up:
            return 0
        node = self.world.rng.choice(up)
        nonce = accounts.account(State(node.chain.view()), self.key.public).nonce
        self._pending = [extrinsic for extrinsic in self._pending if extrinsic.nonce >= nonce]
        if not self._pending:
            calls = self.calls(node, self.world.rng)
            self._pending = [self._sign(node, nonce + offset, *call) for offset, call in enumerate(calls)]
        taken = 0
        for extrinsic in sorted(self._pending, key=lambda _: self.world.rng.random()):
            try:
                node.peering.submit(extrinsic.encode())
                taken += 1
            except Rejected as refusal:
                if refusal.error_name in ("UnknownBirth", "BirthBlockUnknown", "Expired", "BadSignature"):
                    self._pending = []  # the chain was rewound
                    break
        return taken

    def calls(self, node: Node, rng: Random) -> list[tuple[str, list[Any]]]:
        """Transfers to another user."""
        to = account(f"user {rng.randrange(self.world.plan.users)}", self.world.plan).public
        return [("accounts.transfer", [to, rng.randint(0, MAX_TRANSFER_RAO), True]) for _ in range(rng.choice((1, 1, 1, 2)))]

    def _sign(self, node: Node, nonce: int, name: str, args: list[Any]) -> Extrinsic:
        head = node.chain.head
        return Extrinsic.sign(
            self.key, self.world.params.genesis_hash, head.hash, nonce=nonce, birth_height=head.height,
            call_number=CALL_NUMBERS[name], args=args,
        )


class Owner(User):
    """The account of a candidate: it bonds what a seat needs."""

    def calls(self, node: Node, rng: Random) -> list[tuple[str, list[Any]]]:
        state = State(node.chain.view())
        enough = bonds.is_enough(state, self.key.public)
        return [] if enough else [("authorities.bond", [bonds.least_rao(state)])]


class Root(User):
    """The sudo key: it wants one honest authority more or less, again and again."""

    def calls(self, node: Node, rng: Random) -> list[tuple[str, list[Any]]]:
        present = list(node.chain.authorities().keys)
        absent = [key for key in self.world.honest_keys if key not in present]
        wanted = [*present, rng.choice(absent)] if absent and rng.random() < 0.6 else self._fewer(present, rng)
        state, session_keys = State(node.chain.view()), [*self.world.rules.keys, *self.world.rules.candidates]
        members = []
        for key in wanted:
            index = [each.public for each in session_keys].index(key)
            row = authorities.authority(state, key)
            owner = row.account if row is not None else account(f"authority {index}", self.world.plan).public
            members.append([key, owner, None if row is not None else self._proof(node, session_keys[index], owner)])
        inner = [CALL_NUMBERS["authorities.propose_set"], [members]]
        return [("governance.sudo", [inner])]

    def _proof(self, node: Node, key: Any, owner: bytes) -> bytes:
        domain = node.domain(node.chain.head.height + 1)
        return bytes(key.sign("pop", domain, sessions.possession_body(owner, key.public)))

    def _fewer(self, present: list[bytes], rng: Random) -> list[bytes]:
        """Without one of the honest ones, if the others stay a minority that the smaller set tolerates."""
        honest = [key for key in present if key in self.world.honest_keys]
        if len(honest) <= 1 or len(present) - len(honest) > max_faulty(len(present) - 1):
            return present
        gone = rng.choice(honest)
        return [key for key in present if key != gone]
