"""`quorix lab fuzz`: hostile inputs for every decoder that reads what somebody else wrote.

Each input is refused with the decoder's named error, or accepted and then encodes to the same bytes again; it takes a
bounded time and a bounded memory. What breaks this is made smaller, printed as the one command that repeats it, and kept
with the regression inputs (tests/vectors/fuzz), which every run tries first. `quorix lab fuzz --target NAME --input HEX`
judges one input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.errors import NotFound, UsageError
from tools.lab.frame import Run, experiment

if TYPE_CHECKING:
    from tools.lab.fuzzing.run import Failure, Outcome

ALL = "all"
SLOW_SHARE = 20  # a slow target gets one input where the others get this many
KEPT = Path(__file__).parents[2] / "tests" / "vectors" / "fuzz" / "inputs.json"
MAX_KEPT_BYTES = 4096
MAX_KEPT = 8  # inputs a decoder
WAITING = 4  # chunks handed out a process

Work = tuple[str, int, int, int]  # target, seed, chunk, inputs


@experiment("fuzz", about="hostile inputs for every decoder: named errors, same bytes back, bounded time", seconds=60)
@click.option("--target", "names", multiple=True, default=(ALL,), show_default=True, help="Decoder, or all; repeatable.")
@click.option("--inputs", type=click.IntRange(1), default=2_000, show_default=True,
              help="Inputs a decoder (slow ones get a twentieth).")
@click.option("--seed", default=0, show_default=True, help="Another seed makes other inputs.")
@click.option("--input", "given", default=None, metavar="HEX", help="Judge this one input.")
@click.option("--workers", default=2, show_default=True, help="Processes; 0 runs in this one.")
def fuzz(run: Run, names: tuple[str, ...], inputs: int, seed: int, given: str | None, workers: int) -> None:
    """Structure-aware and mutational inputs, from valid samples."""
    from tools.lab.fuzzing.targets import targets

    chosen = list(targets()) if ALL in names else list(names)
    for name in chosen:
        if name not in targets():
            raise NotFound(f"there is no decoder {name!r}", hint="known: " + ", ".join(targets()))
    if given is not None:
        return _one(run, chosen, given)
    known = kept_failures(chosen)
    worst_ms, worst_bomb, unrefused = bombs(chosen)
    outcomes = {name: _empty(name) for name in chosen}
    work = list(plan(chosen, seed, inputs))
    for outcome in run.track(perform(work, workers), "chunks", len(work)):
        outcomes[outcome.target].add(outcome)
    failures = [*known, *unrefused, *(failure for outcome in outcomes.values() for failure in outcome.failures)]
    keep([failure for outcome in outcomes.values() for failure in outcome.failures])
    _report(run, outcomes, failures)
    from tools.lab.fuzzing.bombs import BOMB_LIMIT_MS

    run.at_most("costliest bomb", round(worst_ms, 2), BOMB_LIMIT_MS, "ms")
    run.figure("costliest bomb", worst_bomb)


def _report(run: Run, outcomes: dict[str, Outcome], failures: list[Failure]) -> None:
    inputs, seconds = sum(each.inputs for each in outcomes.values()), sum(each.seconds for each in outcomes.values())
    run.equals("inputs that break the contract", len(failures), 0, "inputs")
    run.figure("inputs", inputs)
    run.figure("accepted", sum(each.accepted for each in outcomes.values()))
    run.figure("inputs_per_cpu_second", round(inputs / seconds) if seconds else 0)
    run.figure("failures", [f"{failure.what}: {failure.line}" for failure in failures])
    run.figure("decoders", [
        {
            "decoder": name, "inputs": each.inputs, "accepted": each.accepted, "slowest_ms": round(each.slowest_ms, 2),
            "us_per_input": round(each.seconds / max(1, each.inputs) * 1e6, 1), "failures": len(each.failures),
        }
        for name, each in outcomes.items()
    ])


def _one(run: Run, chosen: list[str], given: str) -> None:
    from tools.lab.fuzzing.run import judge, memory
    from tools.lab.fuzzing.targets import targets

    if len(chosen) != 1:
        raise UsageError("--input is for one decoder", hint="name it with --target")
    try:
        data = bytes.fromhex(given)
    except ValueError:
        raise UsageError("--input is not hex") from None
    target = targets()[chosen[0]]
    target.samples()
    wrong, refusal, milliseconds = judge(target, data)
    wrong = wrong or memory(target, data)
    run.equals("inputs that break the contract", int(bool(wrong)), 0, "inputs")
    run.figure("verdict", wrong or refusal or "accepted")
    run.figure("milliseconds", round(milliseconds, 3))


# --- work --------------------------------------------------------------------------------------------------------


def plan(chosen: list[str], seed: int, inputs: int) -> Iterator[Work]:
    """Chunks of all targets, in turn, so that a run that is stopped has done something of each."""
    from tools.lab.fuzzing.run import CHUNK
    from tools.lab.fuzzing.targets import targets

    left = {name: max(1, inputs // SLOW_SHARE) if targets()[name].slow else inputs for name in chosen}
    number = 0
    while any(left.values()):
        for name, count in left.items():
            if count:
                yield name, seed, number, min(CHUNK, count)
                left[name] = count - min(CHUNK, count)
        number += 1


def perform(work: list[Work], workers: int) -> Iterator[Outcome]:
    """Outcomes in the order in which they come. Each process imports everything anew, so none inherits a lock."""
    from tools.lab.fuzzing.run import chunk

    if workers == 0:
        yield from (chunk(*each) for each in work)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        todo = iter(work)
        running = {pool.submit(chunk, *each) for each in islice(todo, workers * WAITING)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                running.update(pool.submit(chunk, *each) for each in islice(todo, 1))
                yield future.result()


def _empty(name: str) -> Outcome:
    from tools.lab.fuzzing.run import Outcome

    return Outcome(name)


def bombs(chosen: list[str]) -> tuple[float, str, list[Failure]]:
    """Every bomb for every decoder of its form: (most CPU milliseconds, where, bombs that were not refused)."""
    from dataclasses import replace

    from tools.lab.fuzzing.bombs import BOMB_LIMIT_MS, cbor_bombs, json_bombs
    from tools.lab.fuzzing.run import Failure, judge
    from tools.lab.fuzzing.targets import targets

    worst, where, failures = 0.0, "", []
    sets = {"cbor": list(cbor_bombs()), "json": list(json_bombs())}
    for name in chosen:
        target = replace(targets()[name], max_ms=BOMB_LIMIT_MS)
        target.samples()
        for bomb, data in sets.get(target.form, ()):
            wrong, refusal, milliseconds = judge(target, bytes(target.lead) + data)
            if not refusal and target.write is not None:
                wrong = wrong or "a bomb was accepted"
            if wrong:
                failures.append(Failure(name, data[:64], f"{bomb}: {wrong}"))
            if milliseconds > worst:
                worst, where = milliseconds, f"{bomb}, given to {name}"
    return worst, where, failures


# --- regression inputs -------------------------------------------------------------------------------------------


def kept_inputs() -> dict[str, list[bytes]]:
    """Inputs that failed once, by target."""
    if not KEPT.is_file():
        return {}
    return {name: [bytes.fromhex(item) for item in items] for name, items in json.loads(KEPT.read_text()).items()}


def kept_failures(chosen: list[str]) -> list[Failure]:
    """Those of them that fail (again)."""
    from tools.lab.fuzzing.run import Failure, judge
    from tools.lab.fuzzing.targets import targets

    found = []
    for name, items in kept_inputs().items():
        if name in chosen:
            targets()[name].samples()
            found += [Failure(name, data, wrong) for data in items if (wrong := judge(targets()[name], data)[0])]
    return found


def keep(failures: list[Failure]) -> None:
    """Add what failed to the regression inputs of a source tree."""
    if not failures or not KEPT.parent.is_dir():
        return
    rows: dict[str, Any] = {name: [data.hex() for data in items] for name, items in kept_inputs().items()}
    for failure in failures:
        row = rows.setdefault(failure.target, [])
        if len(failure.data) <= MAX_KEPT_BYTES and len(row) < MAX_KEPT and failure.data.hex() not in row:
            row.append(failure.data.hex())
    KEPT.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
