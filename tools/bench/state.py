"""The state tree: what an update costs by size of state and batch, how large proofs are, how fast they are checked.

Three settings. `node`: as a node has it, opened from a LevelDB database, each version bound to a snapshot after its rows
were written, at most 262,144 pages in memory (a million keys), the others read when they are needed. `half`: the same with
half the pages of this state, as a larger state would meet it. `memory`: the whole tree in memory, never bound.

Updates are of random existing keys, in batches as blocks make them; values have 40 bytes, keys 34. Times are CPU time of
the thread that updates the tree; writing the rows is not part of them (see `bench import`).
"""

from __future__ import annotations

import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ledger.client.proofs import verify_state, verify_states
from ledger.layout import PAGE
from ledger.state_tree import MAX_PROVEN_KEYS, RESIDENT_PAGES, PageChanges, StateTree
from ledger.store import LevelStore
from ledger.tree_pages import StoredPages
from tools.lab.frame import Run, benchmark, timed

SEED = 1
KEY_BYTES = 34
VALUE_BYTES = 40
BATCHES = (100, 1_000, 5_000, 10_000)
BLOCK_KEYS = 5_000
PROOFS = 2_000
UPDATE_LIMITS_US = {100_000: 9.0, 1_000_000: 15.0}
PROOF_LIMIT_BYTES = 1200
VERIFY_LIMIT_US = 25.0
OPEN_LIMIT_S = 0.2


@benchmark("state", about="state tree: updates, proofs, opening, memory; all in memory and as a node has it", seconds=10)
@click.option("--keys", type=click.IntRange(10_000, 5_000_000), default=100_000, show_default=True, help="State size.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs; the fastest counts.")
@click.option("--warm", type=click.IntRange(0), default=12, show_default=True, help="Blocks before those that are timed.")
def state(run: Run, keys: int, repeats: int, warm: int) -> None:
    """Time the tree at one size of state (CPU microseconds a key)."""
    chance = random.Random(SEED)
    names = [chance.randbytes(KEY_BYTES) for _ in range(keys)]
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder:
        root = build(run, Path(folder) / "db", names, chance)
        measure_node(run, Path(folder) / "db", root, names, chance, repeats, warm)
        measure_memory(run, Path(folder) / "db", names, chance, repeats)
    run.figure("rss_peak_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)


def build(run: Run, folder: Path, names: Sequence[bytes], chance: random.Random) -> bytes:
    """Make the database of the whole state; returns its root."""
    genesis = {name: chance.randbytes(VALUE_BYTES) for name in names}
    made: list[tuple[StateTree, PageChanges]] = []
    build_s = timed(lambda: made.append(StateTree().updated(genesis)), 1)
    run.figure("build_us_per_key", round(build_s / len(names) * 1e6, 2))
    tree, rows = made.pop()
    store = LevelStore.create(folder)
    for start in range(0, len(ordered := sorted(rows.items())), 20_000):
        store.write({PAGE + key: row for key, row in ordered[start : start + 20_000]}, sync=True)
    store.close()
    return tree.root


def measure_node(
    run: Run, folder: Path, root: bytes, names: Sequence[bytes], chance: random.Random, repeats: int, warm: int
) -> None:
    """The tree of a node: opening, the first block, and blocks once what it keeps is warm; then with half the pages."""
    store, before_mib = LevelStore.open(folder), rss_mib()
    opened: list[StateTree] = []
    open_s = timed(lambda: opened.append(StateTree.open(StoredPages(store.snapshot()), root)), repeats, time.thread_time)
    run.at_most("opening", open_s, OPEN_LIMIT_S, "s")
    tree, times = blocks(run, "node", store, opened[-1], names, chance, warm + repeats, RESIDENT_PAGES)
    run.figure("node_first_block_us_per_key", round(times[0], 2))
    judge_update(run, "node", len(names), min(times[-repeats:]))
    run.figure("node_memory_mib", rss_mib() - before_mib)
    run.figure("node_pages_in_memory", tree.resident_pages)
    half = max(1, tree.resident_pages // 2)
    tree, times = blocks(run, "half", store, tree, names, chance, warm + repeats, half)
    run.figure("half_update_us_per_key_5000", round(min(times[-repeats:]), 2))
    run.figure("half_pages_in_memory", tree.resident_pages)
    some = chance.sample(names, PROOFS)
    prove_s = timed(lambda: [tree.prove(name) for name in some], 1, time.thread_time)
    run.figure("half_prove_us", round(prove_s / PROOFS * 1e6, 2))
    store.close()


def blocks(
    run: Run, setting: str, store: LevelStore, tree: StateTree, names: Sequence[bytes], chance: random.Random,
    count: int, limit: int,
) -> tuple[StateTree, list[float]]:
    """Write blocks of updates and bind each version to the store; microseconds a key of each block."""
    times = []
    for _ in run.track(range(count), f"blocks, {setting}"):
        batch = {name: chance.randbytes(VALUE_BYTES) for name in chance.sample(names, BLOCK_KEYS)}
        start = time.thread_time()
        tree, rows = tree.updated(batch)
        spent = time.thread_time() - start
        store.write({PAGE + key: row for key, row in sorted(rows.items())}, sync=False)
        pages = StoredPages(store.snapshot())
        start = time.thread_time()
        tree = tree.over(pages, limit)
        times.append((spent + time.thread_time() - start) / BLOCK_KEYS * 1e6)
    return tree, times


def measure_memory(run: Run, folder: Path, names: Sequence[bytes], chance: random.Random, repeats: int) -> None:
    """The whole tree in memory: rebuilding, updates and inserts by batch, proofs."""
    store, before_mib = LevelStore.open(folder), rss_mib()
    trees: list[StateTree] = []

    def rebuild() -> None:
        trees[:] = [StateTree.from_pages(StoredPages(store).items(b"", b""))]

    run.figure("rebuild_s", round(timed(rebuild, 1), 3))
    tree = trees.pop()
    run.figure("memory_mib", rss_mib() - before_mib)
    run.figure("pages", tree.resident_pages)
    store.close()
    for size in run.track(BATCHES, "batches in memory"):
        tree = measure_batch(run, tree, names, chance, size, repeats)
    measure_proofs(run, tree, names, chance, repeats)


def measure_batch(
    run: Run, tree: StateTree, names: Sequence[bytes], chance: random.Random, size: int, repeats: int
) -> StateTree:
    """Update and insert `size` keys; returns the tree after the updates."""
    newest = [tree]
    batches = iter([{name: chance.randbytes(VALUE_BYTES) for name in chance.sample(names, size)} for _ in range(repeats)])
    written: list[int] = []

    def update() -> None:
        changed, rows = newest[-1].updated(next(batches))
        newest[:] = [changed]
        written.append(sum(len(row or b"") for row in rows.values()))

    update_us = timed(update, repeats) / size * 1e6
    fresh = iter([{chance.randbytes(KEY_BYTES): bytes(VALUE_BYTES) for _ in range(size)} for _ in range(repeats)])
    insert_us = timed(lambda: newest[0].updated(next(fresh)), repeats) / size * 1e6
    run.figure(f"update_us_per_key_{size}", round(update_us, 2))
    run.figure(f"insert_us_per_key_{size}", round(insert_us, 2))
    run.figure(f"row_bytes_per_key_{size}", round(written[-1] / size))
    if size == BLOCK_KEYS:
        judge_update(run, "memory", len(names), update_us)
    return newest[-1]


def judge_update(run: Run, setting: str, keys: int, update_us: float) -> None:
    limit, name = UPDATE_LIMITS_US.get(keys), f"{setting}: update of {keys:,} keys in batches of {BLOCK_KEYS:,}"
    if limit is None:
        run.figure(name, round(update_us, 2))
    else:
        run.at_most(name, update_us, limit, "us/key")


def measure_proofs(run: Run, tree: StateTree, names: Sequence[bytes], chance: random.Random, repeats: int) -> None:
    """Size and time of proofs: half of keys that are there, half of absent ones, then of many keys at once."""
    content = {name: chance.randbytes(VALUE_BYTES) for name in names[: PROOFS // 2]}
    tree, _ = tree.updated(content)
    values: dict[bytes, bytes | None] = content | dict.fromkeys(chance.randbytes(KEY_BYTES) for _ in range(PROOFS // 2))
    proofs = {name: tree.prove(name) for name in values}
    prove_us = timed(lambda: [tree.prove(name) for name in values], repeats) / PROOFS * 1e6
    right: list[bool] = []

    def verify() -> None:
        right.extend(verify_state(tree.root, name, value, proofs[name]) for name, value in values.items())

    verify_us = timed(verify, repeats) / PROOFS * 1e6
    sizes = sorted(map(len, proofs.values()))
    run.at_most("proof, mean", sum(sizes) / PROOFS, PROOF_LIMIT_BYTES, "bytes")
    run.at_most("proof, verified", verify_us, VERIFY_LIMIT_US, "us")
    run.figure("proof_bytes_p99", sizes[PROOFS * 99 // 100])
    run.figure("proof_bytes_max", sizes[-1])
    run.figure("proof_of_a_held_key_bytes_max", max(len(proofs[name]) for name, value in values.items() if value is not None))
    run.figure("prove_us", round(prove_us, 2))
    for count in (8, MAX_PROVEN_KEYS):
        some = dict(list(values.items())[PROOFS // 2 - count // 2 :][:count])
        shared = tree.prove(*some)
        alone = sum(len(proofs[name]) for name in some)
        verify_us = timed(measured(right, tree.root, some, shared), repeats) * 1e6
        run.figure(f"proof_of_{count}_keys_bytes", len(shared))
        run.figure(f"proof_of_{count}_keys_saved", round(1 - len(shared) / alone, 3))
        run.figure(f"proof_of_{count}_keys_verified_us", round(verify_us, 1))
    assert all(right), "a proof of the tree was refused"


def measured(
    right: list[bool], root: bytes, values: dict[bytes, bytes | None], proof: bytes
) -> Callable[[], None]:
    return lambda: right.append(verify_states(root, values, proof))


def rss_mib() -> int:
    """Memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20
