"""The state tree: what an update costs by size of state and batch, how large proofs are, how fast they are checked.

Updates are of random existing keys, in batches as blocks make them; values have 40 bytes, keys 34. Times are CPU time.
"""

from __future__ import annotations

import random
import resource

import click

from ledger.client.proofs import verify_state
from ledger.state_tree import StateTree
from tools.lab.frame import Run, benchmark, timed

SEED = 1
KEY_BYTES = 34
VALUE_BYTES = 40
BATCHES = (100, 1_000, 5_000, 10_000)
PROOFS = 2_000
UPDATE_LIMITS_US = {100_000: 9.0, 1_000_000: 15.0}
PROOF_LIMIT_BYTES = 1200
VERIFY_LIMIT_US = 25.0


@benchmark("state", about="state tree: updates, inserts, proofs, rebuilding at start", seconds=12)
@click.option("--keys", type=click.IntRange(10_000, 5_000_000), default=100_000, show_default=True, help="State size.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs; the fastest counts.")
def state(run: Run, keys: int, repeats: int) -> None:
    """Time the tree at one size of state (CPU microseconds a key)."""
    chance = random.Random(SEED)
    names = [chance.randbytes(KEY_BYTES) for _ in range(keys)]
    genesis = {name: chance.randbytes(VALUE_BYTES) for name in names}
    trees = [StateTree()]
    build_s = timed(lambda: trees.append(trees[0].updated(genesis)[0]), 1)
    run.figure("build_us_per_key", round(build_s / keys * 1e6, 2))
    tree = trees[-1]
    for size in run.track(BATCHES, "batches"):
        tree = measure_batch(run, tree, names, chance, size, repeats)
    measure_proofs(run, tree, names, chance, repeats)
    rows = list(tree.pages())
    rebuild_s = timed(lambda: StateTree.from_pages(rows), 3)
    run.figure("rebuild_s", round(rebuild_s, 3))
    run.figure("pages", len(rows))
    run.figure("rss_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)


def measure_batch(
    run: Run, tree: StateTree, names: list[bytes], chance: random.Random, size: int, repeats: int
) -> StateTree:
    """Update and insert `size` keys; returns the tree after the updates."""
    newest = [tree]
    batches = [{name: chance.randbytes(VALUE_BYTES) for name in chance.sample(names, size)} for _ in range(repeats)]
    rest = iter(batches)
    written: list[int] = []

    def update() -> None:
        changed, pages = newest[-1].updated(next(rest))
        newest.append(changed)
        written.append(sum(len(page or b"") for page in pages.values()))

    update_us = timed(update, repeats) / size * 1e6
    fresh = iter([{chance.randbytes(KEY_BYTES): bytes(VALUE_BYTES) for _ in range(size)} for _ in range(repeats)])
    insert_us = timed(lambda: newest[0].updated(next(fresh)), repeats) / size * 1e6
    run.figure(f"update_us_per_key_{size}", round(update_us, 2))
    run.figure(f"insert_us_per_key_{size}", round(insert_us, 2))
    run.figure(f"page_bytes_per_key_{size}", round(written[-1] / size))
    limit = UPDATE_LIMITS_US.get(len(names))
    if size == 5_000 and limit is not None:
        run.at_most(f"update of {len(names):,} keys in batches of 5,000", update_us, limit, "us/key")
    return newest[-1]


def measure_proofs(run: Run, tree: StateTree, names: list[bytes], chance: random.Random, repeats: int) -> None:
    """Size and time of proofs of absence (inclusion proofs have the same form)."""
    wanted = [*names[: PROOFS // 2], *(chance.randbytes(KEY_BYTES) for _ in range(PROOFS // 2))]
    proofs = [tree.prove(name) for name in wanted]
    absent = list(zip(wanted, proofs))[PROOFS // 2 :]
    prove_us = timed(lambda: [tree.prove(name) for name in wanted], repeats) / len(wanted) * 1e6
    verified: list[bool] = []
    verify_us = timed(
        lambda: verified.extend(verify_state(tree.root, name, None, proof) for name, proof in absent), repeats
    ) / len(absent) * 1e6
    assert all(verified)
    sizes = sorted(map(len, proofs))
    run.at_most("proof, mean", sum(sizes) / len(sizes), PROOF_LIMIT_BYTES, "bytes")
    run.at_most("proof, verified", verify_us, VERIFY_LIMIT_US, "us")
    run.figure("proof_bytes_p99", sizes[len(sizes) * 99 // 100])
    run.figure("proof_bytes_max", sizes[-1])
    run.figure("prove_us", round(prove_us, 2))
