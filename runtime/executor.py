"""The executor: runs a block on its parent's state, and says what a later block may hold. Implements `StateMachine`.

    begin    migrations · inherents · leaders and uptime · registrations settled · emission minted · reveals · epochs run
             and paid
    body     extrinsics in order: admitted (else the whole block is invalid), fee taken, call run; a call that refuses is
             undone and its fee kept (rule: every check of the pool is repeated here)
    end      fees recycled, tips paid · session end · upgrade · invariants: conservation always, the full audit while the
             state is small · number of keys

Pure: same view and block, same result. All rules are in the modules; they are registered by being imported here.

Rules: BLK-1 order of a block · BLK-2 what is admitted · BLK-3 nonces · BLK-4 inherents · BLK-5 weight of a block
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ledger.blocks import EXTRINSIC_VERSION, MAX_PERIOD, Event, Extrinsic, Outcome
from ledger.crypto import is_valid_key
from ledger.errors import Rejected, UnknownRuntimeVersion
from ledger.machine import Admission, AuthoritySet, BlockContext, BlockResult, Standing, View

from . import chain, dispatch, hooks, invariants, migrations, params, rules, tables, transfers
from .modules import accounts, authorities, coldkeys, fees, heartbeats, sessions, upgrades
from .registry import Call, Context, error, refuse
from .state import State

Recovered = Mapping[int, Sequence[tuple[bytes, bytes]]]  # height -> (session key, account) of the set that goes on after it

assert rules.LOADED, "the modules register their rules by being imported"

error(15, "UnsupportedVersion", "the extrinsic has another version than this chain", "build it with a newer client")
error(16, "NonceTooLow", "an extrinsic with this nonce is in the chain already", "ask `author_nextNonce`")
error(17, "NonceTooHigh", "extrinsics with lower nonces are missing")
error(18, "Expired", "the extrinsic's period is over", "sign it again with a recent birth block")
error(19, "BirthBlockUnknown", "the birth block is not among the chain's recent ones", "sign it again")


# An extrinsic whose envelope is fine: its call, checked arguments, whether it is free, fee with tip in rao, work, the
# signer's row. A bare tuple, because a block makes thousands.
_Admitted = tuple[Call, list[Any], bool, int, int, accounts.Account]


class Runtime:
    """The rules as one object. `genesis_hash` is the chain's; `domain_at` names the signing domain of a height, where it
    differs from the genesis hash (after a rewind); `recoveries` are the sets that took the place of lost ones."""

    version: Final = upgrades.CURRENT

    def __init__(
        self, genesis_hash: bytes, domain_at: Callable[[int], bytes] | None = None, recoveries: Recovered | None = None
    ) -> None:
        assert len(genesis_hash) == 32
        self.genesis_hash = genesis_hash
        self.domain_at = domain_at
        self.recoveries: Recovered = recoveries or {}

    # --- what is known before a block -----------------------------------------------------------------------------

    def version_at(self, view: View) -> int:
        """Version of the rules that execute the block after the state of `view`."""
        return upgrades.next_version(view)

    def authorities(self, view: View) -> AuthoritySet:
        """The set that certifies the block after the state of `view`."""
        return authorities.current(view)

    def birth_hash(self, view: View, height: int) -> bytes | None:
        """Hash of a block among the last 4,096 below the head of `view`, from the state alone."""
        return chain.birth_hash(view, height)

    def admit(self, view: View, extrinsic: Extrinsic, height: int) -> Admission:
        """Cheap validity for block `height` on the parent state; raises Rejected. The signature is not checked here."""
        context = self._context(view, _future_block(view, height))
        entry, values, _, fee_rao, work, row = _admit(context, extrinsic, fees.prices(view))
        if entry.precheck is not None:
            entry.precheck(context, *values)
        return Admission(extrinsic.signer, extrinsic.nonce, row.nonce, int(entry.priority), fee_rao, work)

    def standing(self, view: View, account: bytes) -> Standing:
        """Next nonce of an account, and its free balance."""
        row = accounts.account(view, account)
        return Standing(row.nonce, row.free_rao)

    account_key = staticmethod(accounts.ACCOUNT.key)  # state key of an account's row
    remembered = staticmethod(tables.remembered)

    def block_inherents(
        self, view: View, context: BlockContext, candidates: Sequence[tuple[int, bytes]]
    ) -> list[tuple[int, bytes]]:
        """Of the candidates, those that are valid in this block, in the order in which it must carry them."""
        working = self._context(view, context)
        taken: list[tuple[int, bytes]] = []
        for kind, payload in sorted(dict.fromkeys(candidates)):
            mark = working.mark()
            try:
                _check_inherent_place(working, taken, kind, payload)
                hooks.INHERENTS[kind].function(working, payload)
            except Rejected:
                working.revert(mark)
                continue
            taken.append((kind, payload))
        return taken

    def heartbeat_is_due(self, view: View, key: bytes, height: int, known: tuple[int, ...] = (upgrades.CURRENT,)) -> bool:
        """True if the authority with this session key, which can run these versions, should send one for block `height`."""
        return heartbeats.heartbeat_is_due(view, key, height, known)

    def dry_run(self, view: View, extrinsic: Extrinsic, height: int) -> tuple[Outcome, list[Event], Rejected | None]:
        """What would become of one extrinsic in block `height` on this state, with its events and its call's refusal.

        Raises Rejected if it is inadmissible.
        """
        context = self._context(view, _future_block(view, height))
        outcome, refusal = _run(context, extrinsic, _admit(context, extrinsic, fees.prices(view)))
        return outcome, context.events, refusal

    def audit(self, view: View, *, deep: bool = False) -> list[str]:
        """Violations of the full audit. Blocks run it themselves while the state is small (`audits_itself`)."""
        return [str(violation) for violation in invariants.audit(view, deep=deep)]

    def audits_itself(self, view: View) -> bool:
        """True while the state is small enough for a full audit in every block; else the node audits now and then."""
        return chain.key_count(view) < params.get(view, "audit_below_keys")

    # --- a block ----------------------------------------------------------------------------------------------------

    def apply_block(
        self, view: View, context: BlockContext, inherents: Sequence[tuple[int, bytes]], extrinsics: Sequence[Extrinsic],
        left_out: dict[int, str] | None = None,
    ) -> BlockResult:
        """Execute a whole block. Raises Rejected if it is invalid (with `index` where one extrinsic is the reason), and
        InvariantBroken if the rules themselves failed. `left_out`: see `StateMachine`."""
        if (needed := upgrades.next_version(view)) != self.version:
            raise UnknownRuntimeVersion(f"block {context.height} needs runtime version {needed}, not {self.version}")
        working = self._context(view, context)
        if context.session != chain.info(working.state).session(context.height):
            refuse("InvalidBlock", f"session {context.session} is not that of height {context.height}")
        _begin(working, inherents)
        outcomes, weight = _body(working, extrinsics, left_out)
        return _end(working, outcomes, weight)

    def _context(self, view: View, block: BlockContext) -> Context:
        context = Context(State(view), block, self.genesis_hash, domain_at=self.domain_at)
        migrations.activate(context)
        if block.height - 1 in self.recoveries:
            sessions.recover(context, self.recoveries[block.height - 1])
        return context


error(30_000, "InvalidBlock", "the block breaks a rule of its form")
error(30_001, "InvalidInherent", "an inherent is unknown, repeated, out of order or one too many")
error(30_002, "BlockTooHeavy", "the block holds more work than the chain allows")


def _begin(context: Context, inherents: Sequence[tuple[int, bytes]]) -> None:
    chain.remember_parent(context)
    taken: list[tuple[int, bytes]] = []
    for kind, payload in inherents:
        _check_inherent_place(context, taken, kind, payload)
        hooks.INHERENTS[kind].function(context, payload)
        taken.append((kind, payload))
    hooks.run_begin_block(context)


def _check_inherent_place(context: Context, before: list[tuple[int, bytes]], kind: int, payload: bytes) -> None:
    """Known kind, strictly ascending by (kind, payload), and within the kind's number per block."""
    if kind not in hooks.INHERENTS:
        refuse("InvalidInherent", f"kind {kind} is unknown")
    if before and (kind, payload) <= before[-1]:
        refuse("InvalidInherent", "inherents are not in ascending order")
    if sum(1 for other, _ in before if other == kind) >= hooks.INHERENTS[kind].limit(context.state):
        refuse("InvalidInherent", f"too many of kind {hooks.INHERENTS[kind].name}")


def _body(
    context: Context, extrinsics: Sequence[Extrinsic], left_out: dict[int, str] | None
) -> tuple[list[Outcome], int]:
    prices = fees.prices(context.state)
    tally = transfers.Tally(chain.info(context.state).max_block_weight)
    runs, index = transfers.Runs(context, extrinsics, prices, tally), 0
    while index < len(extrinsics):
        if (index := runs.take(index)) == len(extrinsics):
            break
        _one(context, extrinsics[index], index, prices, tally, left_out)
        index += 1
    fees.settle(context, tally.fees_rao, tally.tips_rao, authorities.account_of(context.state, context.block.proposer))
    fees.adjust_multiplier(context, tally.weight)
    return tally.outcomes, tally.weight


def _one(
    context: Context, extrinsic: Extrinsic, index: int, prices: fees.Prices, tally: transfers.Tally,
    left_out: dict[int, str] | None,
) -> None:
    """Admit and run the extrinsic at `index`."""
    signer = context.signer
    try:
        admitted = _admit(context, extrinsic, prices)
        _, _, _, fee_rao, work, row = admitted
        if row.nonce != extrinsic.nonce:
            refuse("NonceTooHigh", f"the nonce is {extrinsic.nonce}, the account's next is {row.nonce}")
        if tally.weight + work > tally.limit:
            refuse("BlockTooHeavy")
    except Rejected as problem:
        if left_out is None:
            raise Rejected(problem.error_name, problem.cause, hint=problem.hint, index=index) from None
        left_out[index], context.signer = problem.error_name, signer  # nothing was written for it
        return
    tally.weight += work
    tally.outcomes.append(_run(context, extrinsic, admitted)[0])
    context.state.settle()
    tally.fees_rao += fee_rao - extrinsic.tip
    tally.tips_rao += extrinsic.tip


def _admit(context: Context, extrinsic: Extrinsic, prices: fees.Prices) -> _Admitted:
    """The checks that pool and dispatcher share: version, birth, call and arguments, nonce, fee. Sets the signer."""
    if extrinsic.version != EXTRINSIC_VERSION:
        refuse("UnsupportedVersion")
    if (extrinsic.birth_height, extrinsic.period) not in context.lives:
        _check_life(context, extrinsic)
    entry, values = dispatch.find(extrinsic.call_number, extrinsic.args)
    row = accounts.account(context.state, extrinsic.signer)
    if extrinsic.nonce < row.nonce:
        refuse("NonceTooLow", f"the nonce is {extrinsic.nonce}, the account's next is {row.nonce}", next_nonce=row.nonce)
    if row.nonce == 0 and not is_valid_key(extrinsic.signer):
        refuse("InvalidKey", key=extrinsic.signer.hex())
    work = dispatch.EXTRINSIC_WORK + dispatch.work_of(entry, values)
    context.signer = extrinsic.signer
    hooks.run_call_guards(context, entry)
    if extrinsic.tip and not coldkeys.may_tip(context.state, extrinsic.signer):
        refuse("ColdkeySwapAnnounced", "it pays no tips")
    free = entry.free is not None and fees.may_be_free(context) and entry.free(context, *values)
    fee_rao = extrinsic.tip + (0 if free else prices.fee_rao(len(extrinsic.body) + fees.SIGNATURE_BYTES, work))
    if fee_rao > row.free_rao:
        refuse("CannotPayFee", f"the fee is {fee_rao} rao, the free balance {row.free_rao}", fee_rao=fee_rao)
    return entry, values, free, fee_rao, work, row


def _check_life(context: Context, extrinsic: Extrinsic) -> None:
    """Born in a block of this chain that is known, and not older than its period."""
    born, height = extrinsic.birth_height, context.block.height
    if not 1 <= extrinsic.period <= MAX_PERIOD:
        refuse("UnsupportedVersion", f"a period of {extrinsic.period} blocks is not allowed")
    if height > born + extrinsic.period:
        refuse("Expired", f"it was valid up to height {born + extrinsic.period}, this would be {height}")
    if born >= height or (born != height - 1 and chain.birth_hash(context.state, born) is None):
        refuse("BirthBlockUnknown", f"height {born} is not known at height {height}")
    context.lives[born, extrinsic.period] = None


def _run(context: Context, extrinsic: Extrinsic, admitted: _Admitted) -> tuple[Outcome, Rejected | None]:
    """Take the fee and run the call; a refusal is the outcome's error."""
    entry, values, free, fee_rao, _, row = admitted
    accounts.charge(context, extrinsic.signer, row, fee_rao)
    first = len(context.events)
    refusal = dispatch.attempt(context, entry, values)
    if refusal is not None and free:
        fees.note_free_failure(context)
    name = "" if refusal is None else refusal.error_name
    return Outcome(name, fee_rao, first, len(context.events) - first), refusal


def _end(context: Context, outcomes: list[Outcome], weight: int) -> BlockResult:
    sessions.end_session(context)
    upgrades.decide(context)
    changes = context.state.changes()
    invariants.require(invariants.check_conservation(context, changes), context.height)
    chain.count_keys(context, changes)
    if chain.key_count(context.state) < params.get(context.state, "audit_below_keys"):
        invariants.require(invariants.audit(context.state), context.height)
    return BlockResult(
        changes, context.events, outcomes, authorities.current(context.state), context.history, weight,
        context.state.objects(),
    )


def _future_block(view: View, height: int) -> BlockContext:
    """For checks before the block exists: only the height is known."""
    nobody = bytes(32)
    return BlockContext(height, chain.info(view).session(height), 0, nobody, nobody, 0, (), (), nobody)
