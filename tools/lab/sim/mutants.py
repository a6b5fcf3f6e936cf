"""Mutants: one small wrong change each, to the core, the signer, the certificates or what stands around them.

Each is what somebody might write, or has written; a suite that does not notice it is not one. `killer` is the scenario that
is expected to notice; the harness (`mutation`) tries it first, then all others. An edit is the exact text of the source and
what takes its place; the harness fails loudly where the text no longer stands exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Mutant:
    """`edits`: (module, text, replacement)."""

    name: str
    killer: str
    edits: tuple[tuple[str, str, str], ...]


def _in(module: str, name: str, killer: str, *edits: tuple[str, str]) -> Mutant:
    return Mutant(name, killer, tuple((module, old, new) for old, new in edits))


def _core(name: str, killer: str, *edits: tuple[str, str]) -> Mutant:
    return _in("ledger.bft", name, killer, *edits)


def _state(name: str, killer: str, *edits: tuple[str, str]) -> Mutant:
    return _in("ledger.bft_state", name, killer, *edits)


def _votes(name: str, killer: str, *edits: tuple[str, str]) -> Mutant:
    return _in("ledger.votes", name, killer, *edits)


def _signer(name: str, killer: str, *edits: tuple[str, str]) -> Mutant:
    return _in("ledger.signer", name, killer, *edits)


_SIGNERS_VERIFIED = "verify(keys[index], tag, domain, body, self.signatures[64 * k : 64 * k + 64]) for k, index in enumerate("
_PACE = "wait_ms = clamp(self.t_parent + interval_ms - self.now.mono_ms, 0, interval_ms)"
_HELD_VOTES = "votes = [*self.tally(PREVOTE).votes.values(), *self.tally(PRECOMMIT).votes.values()]"

MUTANTS: Final = (
    # --- the rules --------------------------------------------------------------------------------------------------
    _core("no pace", "clock back one hour, alone", (_PACE, "wait_ms = 0")),
    _core("wall-clock pacing", "clock back one hour, alone", (
        _PACE, "wait_ms = max(0, self.parent_timestamp_ms + interval_ms - self.now.wall_ms)",
    )),
    _core("wall-clock pacing, clamped", "skewed clocks", (
        _PACE, "wait_ms = clamp(self.parent_timestamp_ms + interval_ms - self.now.wall_ms, 0, interval_ms)",
    )),
    _core("R1 always asks the clock", "clocks farther apart than the tolerance", (
        "soonest_ms if self.round >= CLOCKLESS_ROUND else max(self.now.wall_ms, soonest_ms)",
        "max(self.now.wall_ms, soonest_ms)",
    )),
    _core("R1 forgets the valid block", "hidden lock", (
        "if 0 <= self.valid_round < self.round:\n            if self.is_ok", "if False:\n            if self.is_ok",
    )),
    _state("R1 never shrinks", "full blocks slower than the timeout", (
        "return self.params.max_block_bytes >> self.round, self", "return self.params.max_block_bytes, self",
    ), (
        "        if self.round >= INHERENTS_ONLY_FROM_ROUND:\n            return 0, 0\n", "",
    )),
    _core("no lock", "hidden lock", (" and self.locked_round < 0", "")),
    _core("any certificate unlocks", "older PoLC", (
        "unlocked = self.locked_round <= proposal.valid_round or self.locked_hash == proposal.block_hash", "unlocked = True",
    )),
    _core("nothing unlocks", "late PoLC", (
        "unlocked = self.locked_round <= proposal.valid_round or", "unlocked = self.locked_round < 0 or",
    )),
    _core("R2 votes for bad blocks", "bad blocks", (" if verdict.ok and good else NIL", " if good else NIL")),
    _core("R4 joint guard", "prevotes before the proposal", (
        "                self._out.append(Save(self.record()))\n                return True\n",
        "                self._out.append(Save(self.record()))\n                self.done['R4'] = None\n"
        "                self._r4b_lock()\n                del self.done['R4']\n                return True\n",
    ), (
        "if self.stage != STEP_PREVOTE or self.valid_round != self.round:",
        "if self.stage != STEP_PREVOTE or self.valid_round != self.round or 'R4' not in self.done:",
    )),
    _core("skip the prevote", "prevotes before the proposal", (
        "if self.stage != STEP_PREVOTE or self.valid_round != self.round:",
        "if self.stage == PRECOMMIT or self.valid_round != self.round:",
    )),
    _core("adopt a PoLC without its body", "withheld body", (
        "if polc.round <= self.round and self.is_ok(polc.block_hash):", "if polc.round <= self.round:",
    )),
    _core("R5 drops the lock", "re-proposal after a restart", (
        "        self._cast(PRECOMMIT, NIL, \"R5\")",
        "        self.locked_round = -1\n        self._cast(PRECOMMIT, NIL, \"R5\")",
    )),
    _core("R6 mixed means not all equal", "prevotes for a missing body", (
        "not self.tally(PREVOTE).is_full() or", "not self.tally(PREVOTE).is_full() or self.tally(PREVOTE).winner() or",
    )),
    _core("R8 mixed means not all equal", "all-nil round", ("if tally.winner() in (None, NIL):", "if tally.winner() is None:")),
    _core("R8 leaves a decided round", "precommits for a missing body", ("if tally.winner() in (None, NIL):", "if True:")),
    _core("R7 commits bad blocks", "certified bad block", ("if not verdict.ok:", "if False:")),
    _core("no why", "lost precommits", ("self.why = why", "self.why = ()")),
    _state("R9 follows one liar", "round skip", ("return rounds[self.f] if", "return rounds[0] if")),
    _core("only own votes in R10", "relayed by rebroadcast", (
        _HELD_VOTES, "votes = [vote for vote in self.own[1:] if vote is not None]",
    )),
    _core("R10 does not repeat fetches", "precommits for a missing body", ("self.wanted = {}  # R13", "pass  # R13")),
    _state("R11 answers every Status", "one laggard, three ahead", (
        "if height == last_height and now.mono_ms - at_ms < self.timing.rebroadcast_ms:", "if False:",
    )),
    _state("R12 misses the own key", "another copy of the key", (
        "if above or (mine is not None and mine.block_hash != message.block_hash):", "if False:",
    )),
    _core("no evidence", "equivocating proposer", ("        self._out.append(self.conflicts.pop(0))", (
        "        self.conflicts.pop(0)\n        return True"
    ))),
    _state("no two-certificate alarm", "two certificates", (
        "if self.commit is not None and self.commit.block_hash != certificate.block_hash:", "if False:",
    )),
    _state("no timestamp check", "leader with a false clock", (
        "return verdict.timestamp_ms == self.parent_timestamp_ms + 1 or off_ms <= self.timing.tolerance(self.round)",
        "return True",
    )),
    _state("no least timestamp", "all clocks step back", (
        "return verdict.timestamp_ms == self.parent_timestamp_ms + 1 or", "return",
    )),
    _core("precommit timer armed by a restart", "vote durable with its body", (
        "            self._out += [Say(message) for message in said]\n            self._arm()",
        "            self._out += [Say(message) for message in said]\n            self._arm()\n"
        "            self._timer(\"precommit\", self.timing.vote(self.round))",
    )),
    _state("a restart forgets the lock", "re-proposal after a restart", (
        "        self.locked_round, self.locked_hash = saved.locked_round, saved.locked_hash\n", "",
    )),
    # --- votes and certificates ---------------------------------------------------------------------------------------
    _votes("quorum n//2 + 1", "malformed certificates", ("return 2 * n // 3 + 1", "return n // 2 + 1")),
    _votes("quorum - 1", "malformed certificates", ("return 2 * n // 3 + 1", "return 2 * n // 3")),
    _votes("active-only leader", "dead active list", ("if round_ < len(active):", "if active:")),
    _votes("count a voter twice", "duplicate and relayed votes", ("        if first is None:\n", (
        "        if first is None or first == vote:\n"
    ))),
    _votes("skip the PoLC check", "stripped or foreign PoLC", (
        "return found == wanted and self.polc.verify(keys, domain)", "return found == wanted",
    )),
    _votes("a PoLC of anything", "stripped or foreign PoLC", (
        "return found == wanted and self.polc.verify(keys, domain)", "return self.polc.verify(keys, domain)",
    )),
    _votes("skip a certificate signature", "malformed certificates", (
        _SIGNERS_VERIFIED + "indexes)", _SIGNERS_VERIFIED + "indexes[: quorum(n)])",
    )),
    _votes("certificates of any length", "malformed certificates", (
        "if len(self.bitmap) != (n + 7) // 8 or (indexes and indexes[-1] >= n):", "if indexes and indexes[-1] >= n:",
    )),
    _votes("spare signatures", "malformed certificates", (" or len(self.signatures) != 64 * len(indexes):", ":")),
    _votes("certificates for nil", "malformed certificates", (
        "self.round > MAX_ROUND or self.block_hash == NIL:", "self.round > MAX_ROUND:",
    )),
    _votes("ignore the height", "votes of another height", (
        "return height.to_bytes(8, \"big\") + round_.to_bytes(4, \"big\") + block_hash",
        "return bytes(8) + round_.to_bytes(4, \"big\") + block_hash",
    )),
    _votes("ignore the round", "malformed certificates", (
        "return height.to_bytes(8, \"big\") + round_.to_bytes(4, \"big\") + block_hash",
        "return height.to_bytes(8, \"big\") + bytes(4) + block_hash",
    )),
    _votes("valid round unsigned", "relay changes the valid round", (
        "round_.to_bytes(4, \"big\") + valid_round.to_bytes(4, \"big\") + block_hash",
        "round_.to_bytes(4, \"big\") + bytes(4) + block_hash",
    )),
    _in("ledger.crypto", "ignore the domain", "two devnets of one seed", (
        "return tag + blake2b(context + body,", "return tag + blake2b(bytes(32) + body,",
    )),
    _in("ledger.verdict", "any parent certificate", "bad blocks", (
        "if encoded != trusted and not certificate.verify(keys, domain):", "if False:",
    )),
    _in("ledger.verdict", "time may stand still", "bad blocks", (
        "if header.timestamp_ms <= parent.timestamp_ms:", "if header.timestamp_ms < parent.timestamp_ms:",
    )),
    # --- signer -------------------------------------------------------------------------------------------------------
    _signer("no persist", "proposer crash", ("        self._store.write(batch, sync=sync)\n", "")),
    _signer("persist without sync", "re-proposal after a restart", (
        "self._store.write(batch, sync=sync)", "self._store.write(batch, sync=False)",
    )),
    _signer("stale sign database accepted", "stale sign database", (
        "    if record.guard < stored.guard or (same_place", "    if (same_place",
    )),
    _signer("two messages in one place", "stale sign database", (
        "    if record.guard < stored.guard or (same_place and record.signed != stored.signed):",
        "    if record.guard < stored.guard:",
    )),
    _signer("prevoted body not durable", "withheld body", (
        "hashes = (proposed, self.prevoted_hash, self.locked_hash, self.valid_hash)",
        "hashes = (proposed, self.locked_hash, self.valid_hash)",
    )),
    _signer("proposed body not durable", "proposer crash", (
        "hashes = (proposed, self.prevoted_hash, self.locked_hash, self.valid_hash)",
        "hashes = (self.prevoted_hash, self.locked_hash, self.valid_hash)",
    )),
    _signer("one domain for ever", "revert", ("    found = domains[0][1]\n    for from_height, domain in domains:\n", (
        "    found = domains[0][1]\n    for from_height, domain in domains[:1]:\n"
    ))),
    # --- rules of the authorities --------------------------------------------------------------------------------------
    _in("runtime.modules.heartbeats", "no limit f on skipped", "heartbeats", (
        "return skipped < votes.max_faulty(len(keys))", "return True",
    )),
    _in("runtime.modules.heartbeats", "a heartbeat for everybody", "heartbeats", (
        "    if row.heartbeat == [number, row.skips]:\n        return False\n", "",
    )),
    _in("runtime.modules.evidence", "evidence for ever", "evidence after a set change", (
        "if not max(chain.initial_height, context.height - window) <= found.height <= context.height:", "if False:",
    )),
    _votes("evidence under any domain", "evidence after a set change", (
        "verify(self.key, tag, domain, vote_body(self.height, self.round, block), signature)\n            for block", (
            "signature != b''\n            for block"
        ),
    )),
    _signer("a recovery keeps the old domain", "recovery file", (
        "(*(entry for entry in domains if entry[0] <= height), (height + 1, domain))", "domains",
    )),
    # --- engine and inbox ---------------------------------------------------------------------------------------------
    _in("ledger.engine", "send before persist", "crash at every boundary", (
        "return [*self._persist(), *self._send(),", "return [*self._send(), *self._persist(),",
    )),
    _in("ledger.engine", "sign below the signed height", "chain older than the signatures", (
        "return self._saved is None or height >= self._saved.height", "return True",
    )),
    _in("ledger.engine", "no wait with a new sign database", "sign database missing", (
        "if self._watch is not None or height < self._sign_from:", "if False:",
    )),
    _in("ledger.inbox", "drop the next height", "messages of the next height", (
        "if isinstance(value, Certificate) or value.height != core.height + 1:", "if True:",
    )),
    _in("ledger.inbox", "endless early messages", "early messages are bounded", (
        "if value.round > EARLY_ROUNDS or value.index >= core.n:", "if value.index >= core.n:",
    )),
)
