"""`quorix lab powerloss`: the power fails after every single write of a run, and everything recovers.

Whole nodes with the real engine, rules, chain and signer run in virtual time on disks that remember the order of all writes
(`sim/faultstore.py`). While they run, two rules are checked against what is really synced: no message leaves before the
record that contains it is durable, and nothing of a height is signed before the block below it is. Afterwards, for each
point in the sequence of writes, all machines lose power at once: what was not synced is gone, or part of it is there. The
nodes start again from those disks and must keep every block that any of them had committed, never say another word where
they had spoken, never stop, and go on. The same sequence is then written to a real LevelDB log, which is cut at every
record's boundary and inside records: what opens must be exactly the whole batches before the cut.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import click

from ledger import layout
from ledger.chain import Chain
from ledger.errors import Error
from ledger.layout import Head
from ledger.level_files import FULL, HEADER_BYTES, LAST, records
from ledger.messages import decode_bundle
from ledger.signer import Signer, SignRecord
from ledger.store import LevelStore
from ledger.votes import Proposal, Vote
from tools.lab.frame import Run, experiment
from tools.lab.sim.faultstore import Disks, FaultStore, Journal, Operation
from tools.lab.sim.keys import keyed_hashes
from tools.lab.sim.plan import Plan
from tools.lab.sim.rules import Rules
from tools.lab.sim.world import Violation, World

if TYPE_CHECKING:
    from tools.lab.sim.node import Node

RECORD_PREFIX = b"r/"  # of the signer's rows
BLOCKS_AFTER = 2
PATIENCE_MS = 20_000  # virtual
USERS = 2
SESSION_BLOCKS = 20
CUTS_INSIDE = 2  # of each record
LOG_BUFFER_BYTES = 64 << 20  # nothing leaves the log
MAX_FAILURES = 10

Place = tuple[bytes, bytes, int, int, int]  # key, domain, height, round, kind


@experiment("powerloss", about="the power fails after every write: nothing committed is lost, nothing signed twice", seconds=60)
@click.option("--blocks", default=200, show_default=True, help="Length of the run.")
@click.option("--authorities", default=1, show_default=True, help="Nodes, which lose power at once.")
@click.option("--points", default=0, show_default=True, help="Power losses, spread evenly; 0: after every write.")
@click.option("--first", default=0, show_default=True, help="Leave out the points before this one.")
@click.option("--cuts", default=0, show_default=True, help="Cuts of each real log, spread evenly; 0: at every record.")
@click.option("--seed", default=0, show_default=True, help="Another run.")
def powerloss(run: Run, blocks: int, authorities: int, points: int, first: int, cuts: int, seed: int) -> None:
    """Each point twice: with all unsynced writes lost, and with a random beginning of them kept."""
    with keyed_hashes():
        recording = Recording.make(seed, authorities, blocks)
        tally = Tally()
        for at, disks in run.track(recording.points(points, first), "power losses"):
            for lost in (None, Random(f"lost {seed} {at}")):
                tally.add(at, recovered(recording, disks, lost))
            if len(tally.failures) >= MAX_FAILURES:
                break
    torn = Torn()
    with tempfile.TemporaryDirectory(prefix="quorix-power-") as folder:
        for disk in ("p0/chain", "p0/sign"):
            torn.add(cut_logs(recording.journal, disk, Path(folder), cuts, seed))
    _report(run, recording, tally, torn)


def _report(run: Run, recording: Recording, tally: Tally, torn: Torn) -> None:
    run.equals("broken order of writes and messages", len(recording.disorder), 0, "times")
    run.equals("power losses without recovery", len(tally.failures), 0, "points")
    run.equals("cut logs that opened as something else", len(torn.failures), 0, "cuts")
    run.figure("writes", len(recording.journal.operations))
    run.figure("writes_synced", sum(each.sync for each in recording.journal.operations))
    run.figure("messages_sent", len(recording.said))
    run.figure("points", tally.points)
    run.figure("recoveries", tally.recoveries)
    run.figure("recovery_worst_ms", tally.worst_ms)
    run.figure("log_cuts", torn.cuts)
    run.figure("trouble", [*recording.disorder, *tally.failures, *torn.failures])


# --- the run that is recorded ------------------------------------------------------------------------------------


@dataclass
class Recording:
    """A run, write by write. `said` and `committed` carry the number of writes before them."""

    plan: Plan
    rules: Rules
    journal: Journal
    seed: int
    created: int  # writes that made the databases
    said: list[tuple[int, Place, bytes]] = field(default_factory=list)
    committed: list[tuple[int, int, bytes]] = field(default_factory=list)  # (writes before, height, hash)
    disorder: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, seed: int, authorities: int, blocks: int) -> Recording:
        """Run a world with users until it has so many blocks."""
        plan = Plan(n=authorities, runtime=True, users=USERS, session_blocks=SESSION_BLOCKS, trouble_ms=1 << 40)
        rules = Rules.of(seed, plan)
        world = World(seed, plan, rules=rules)
        journal = put_disks(world, None)
        recording = cls(plan, rules, journal, seed, len(journal.operations))
        journal.watch = lambda operation: recording.written(world, operation)
        listen(world, recording)
        world.start()
        world.until(lambda: all(node.alive and node.chain.durable_height >= blocks for node in world.nodes), 1 << 40)
        return recording

    def points(self, count: int, first: int) -> Iterator[tuple[int, Disks]]:
        """(number of writes done, the disks then) of each moment at which the power fails."""
        disks, last = Disks(self.journal), len(self.journal.operations)
        step = 1 if count == 0 else max(1, (last - self.created) // count)
        while disks.count < last:
            disks.advance()
            if disks.count >= max(self.created, first) and (disks.count - self.created) % step == 0:
                yield disks.count, disks

    # --- order ---------------------------------------------------------------------------------------------------

    def written(self, world: World, operation: Operation) -> None:
        """Nothing of height h + 1 is signed before block h is durable."""
        name, _, kind = operation.disk.partition("/")
        for key, value in operation.batch.items() if kind == "sign" else ():
            if key.startswith(RECORD_PREFIX) and value is not None:
                record = SignRecord.decode(value)
                if record.signed is not None and durable_height(world.named(name)) < record.height - 1:
                    self.disorder.append(f"{name} signs at {record.height} before block {record.height - 1} is durable")

    def sent(self, node: Node, value: Vote | Proposal, place: Place) -> None:
        """No message leaves before it is durable."""
        self.said.append((len(self.journal.operations), place, value.block_hash))
        disk: Any = node.sign_store
        stored = disk.durable(RECORD_PREFIX + place[1])
        record = None if stored is None else SignRecord.decode(stored)
        if record is None or record.guard < place[2:]:
            self.disorder.append(f"{node.name} sends {place[2:]} before it is durable")
        if durable_height(node) < value.height - 1:
            self.disorder.append(f"{node.name} sends {place[2:]} before block {value.height - 1} is durable")


def durable_height(node: Node) -> int:
    """Height of the head that would be there after a power loss now."""
    disk: Any = node.chain_store
    return Head.decode(disk.durable(layout.HEAD_KEY)).height


def put_disks(world: World, rows: dict[str, dict[bytes, bytes]] | None) -> Journal:
    """Give the nodes disks that remember: with these rows, or with new databases."""
    journal = Journal(lambda: world.timeline.now_ms)
    for node in world.nodes:
        chain, sign = FaultStore(journal, f"{node.name}/chain"), FaultStore(journal, f"{node.name}/sign")
        if rows is None:
            Chain.create(chain, world.params, world.machine, world.genesis_state)
            Signer.create(sign, world.params.genesis_hash, node.key.public, world.params.initial_height)
        else:
            chain.write(rows[chain.name], sync=True)
            sign.write(rows[sign.name], sync=True)
        vars(node).update(chain_store=chain, sign_store=sign)
    return journal


def listen(world: World, recording: Recording, said: dict[Place, bytes] | None = None) -> None:
    """Have every message and commit of honest nodes told; with `said`, what was said before must not change."""
    checks = world.checks
    sent, committed = checks.sent, checks.committed

    def on_sent(node: Node, frame: bytes) -> None:
        bundle = decode_bundle(frame)
        values: tuple[Vote | Proposal, ...] = (*bundle.votes, *bundle.proposals)
        for value in values:
            if node.engine.core.keys[value.index] == node.key.public and value.height == node.engine.core.height:
                kind = 0 if isinstance(value, Proposal) else value.kind
                place = (node.key.public, node.domain(value.height), value.height, value.round, kind)
                if said is None:
                    recording.sent(node, value, place)
                elif said.setdefault(place, value.block_hash) != value.block_hash:
                    checks.violated(f"{node.name} says something else at {place[2:]} than before the power loss")
        sent(node, frame)

    def on_committed(node: Node, block: Any, certificate: Any) -> None:
        if said is None:
            recording.committed.append((len(recording.journal.operations), block.height, block.hash))
        committed(node, block, certificate)

    vars(checks).update(sent=on_sent, committed=on_committed)


# --- after the power loss ----------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the power losses."""

    points: int = 0
    recoveries: int = 0
    worst_ms: int = 0
    failures: list[str] = field(default_factory=list)
    _last: int = -1

    def add(self, at: int, outcome: int | str) -> None:
        """`outcome`: virtual milliseconds until all went on, or what was wrong."""
        self.points += at != self._last
        self._last = at
        if isinstance(outcome, str):
            self.failures.append(f"after write {at}: {outcome}")
        else:
            self.recoveries += 1
            self.worst_ms = max(self.worst_ms, outcome)


def recovered(recording: Recording, disks: Disks, lost: Random | None) -> int | str:
    """Start all nodes from what the disks hold. Milliseconds until all have new blocks, or what went wrong."""
    done = disks.count
    world = World(recording.seed + done, recording.plan, rules=recording.rules)
    names = [f"{node.name}/{kind}" for node in world.nodes for kind in ("chain", "sign")]
    put_disks(world, {name: disks.after_power_loss(name, lost) for name in names})
    start_ms = world.timeline.now_ms = recording.journal.operations[done - 1].at_ms + 1
    final = {height: block_hash for before, height, block_hash in recording.committed if before <= done}
    said = {place: block_hash for before, place, block_hash in recording.said if before <= done}
    world.checks.decided.update(final)
    listen(world, recording, said)
    target = max(final, default=0) + BLOCKS_AFTER
    try:
        world.start()
        world.until(lambda: all(n.alive and n.chain.durable_height >= target for n in world.nodes), start_ms + PATIENCE_MS)
        for node in world.nodes:
            world.checks.final(node)
            for height, block_hash in final.items():
                if node.chain.hash_at(height) != block_hash:
                    return f"{node.name} has another block {height} than was committed"
    except (Violation, Error) as failure:
        return f"{type(failure).__name__}: {failure}"
    return world.timeline.now_ms - start_ms


# --- real logs ---------------------------------------------------------------------------------------------------


@dataclass
class Torn:
    """What became of cut logs."""

    cuts: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Torn) -> None:
        self.cuts += other.cuts
        self.failures += other.failures


def cut_logs(journal: Journal, disk: str, folder: Path, limit: int, seed: int) -> Torn:
    """Write a disk's batches to LevelDB and open its log, cut at every record's boundary and inside."""
    batches = [operation.batch for operation in journal.operations if operation.disk == disk]
    source = folder / disk.replace("/", "-")
    store = LevelStore.create(source, write_buffer_bytes=LOG_BUFFER_BYTES)
    for batch in batches:
        store.write(batch, sync=False)
    store.close()
    (log,) = source.glob("*.log")
    data, torn = log.read_bytes(), Torn()
    ends = [start + HEADER_BYTES + length for start, length in records(data) if data[start + 6] in (FULL, LAST)]
    assert len(ends) == len(batches), "a batch is one logical record of the log"
    rows: dict[bytes, bytes] = {}
    whole = 0
    for cut in _cuts(data, limit, seed):
        while whole < len(ends) and ends[whole] <= cut:
            rows.update({key: value for key, value in batches[whole].items() if value is not None})
            for key in [key for key, value in batches[whole].items() if value is None]:
                rows.pop(key, None)
            whole += 1
        torn.cuts += 1
        found = _opened(source, log.name, data[:cut], folder / "cut")
        if found != rows:
            torn.failures.append(f"{disk} cut at {cut}: {found if isinstance(found, str) else 'other rows than its batches'}")
    return torn


def _cuts(data: bytes, limit: int, seed: int) -> Sequence[int]:
    rng = Random(f"cuts {seed}")
    found = {len(data)}
    for start, length in records(data):
        found |= {start, *(start + rng.randrange(1, HEADER_BYTES + length) for _ in range(CUTS_INSIDE))}
    ordered = sorted(found)
    return ordered[:: max(1, len(ordered) // limit)] if limit else ordered


def _opened(source: Path, log: str, data: bytes, copy: Path) -> dict[bytes, bytes] | str:
    """The rows of a database whose log is this, or the error with which it does not open."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for path in source.iterdir():
        if path.name == "CURRENT" or path.name.startswith("MANIFEST"):
            shutil.copy(path, copy)
    (copy / log).write_bytes(data)
    try:
        store = LevelStore.open(copy)
    except Error as error:
        return str(error)
    try:
        return dict(store.items(b""))
    finally:
        store.close()
