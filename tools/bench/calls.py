"""What each kind of call costs a node: from the signed bytes to the outcome, in units of the least it could cost.

    floor   checking one ed25519 signature (`crypto_sign_open`): no call can be cheaper
    call    decode, signature, admission, fee, the call itself, on rows that no earlier call of the block has read

Calls are made by the crowd of `quorix lab calls` on a devnet's market, and only those that succeed count. Beside them: a
row of 4,096 weights set in a subnet of 4,096 neurons, all in.
"""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import median
from typing import Any

import click

from genesis.build import build_genesis
from genesis.cast import cast
from genesis.spec import NeuronSpec
from ledger.blocks import Extrinsic
from ledger.codec import pack_u16
from ledger.crypto import KeyPair, digest
from runtime.registry import CALL_NUMBERS, CALLS
from tools.lab.crowd import accounts, market  # noqa: F401 - they declare the makers
from tools.lab.crowd.local import LocalChain
from tools.lab.crowd.people import MAKERS, Crowd, spec_of
from tools.lab.frame import Run, benchmark, timed

SET_WEIGHTS_LIMIT_MS = 1.0
REPEATS = 3
SAMPLES = 8  # of each kind
CALLS_PER_BLOCK = 16
US = 1_000_000


@benchmark("calls", about="CPU time of each kind of call, and of a row of 4,096 weights, with its signature", seconds=40)
@click.option("--blocks", type=click.IntRange(1), default=500, show_default=True, help="Blocks of traffic that is sampled.")
@click.option("--entries", type=click.IntRange(1, 4096), default=4096, show_default=True, help="Weights in the large row.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the traffic.")
def calls(run: Run, blocks: int, entries: int, seed: int) -> None:
    """Time every kind of call (CPU microseconds, median of the samples)."""
    chain, extrinsic = large_row(entries)
    large = cost_of(chain, extrinsic, 30)
    signature_us = US * timed(lambda: extrinsic.verify(chain.genesis.genesis_hash, chain.head_hash), 200)
    run.at_most(f"weights.set with {entries} entries, all in", large / 1000, SET_WEIGHTS_LIMIT_MS, "ms")
    run.figure("set_weights_us", {"all_in": round(large), "signature": round(signature_us), "bytes": len(extrinsic.encode())})
    samples: dict[str, list[float]] = {name: [] for name in MAKERS}
    crowd = Crowd(seed)
    short = _short(crowd)
    floor_us = US * timed(lambda: short.verify(crowd.chain.genesis.genesis_hash, crowd.chain.head_hash), 500)
    for _ in run.track(range(blocks), "blocks"):
        for _ in range(CALLS_PER_BLOCK):
            crowd.step()
        for name in [name for name, found in samples.items() if not found]:
            crowd.step(name)
        for name, made in crowd.waiting():
            if len(samples[name]) < SAMPLES and succeeds(crowd.chain, made):
                samples[name].append(cost_of(crowd.chain, signed(crowd, made), REPEATS))
        crowd.end_block()
    run.figure("floor_us", round(floor_us, 1))
    run.figure("calls", [
        {
            "call": name, "us": round(median(found), 1), "times_the_floor": round(median(found) / floor_us, 2),
            "work_units": CALLS[CALL_NUMBERS[name]].work, "samples": len(found),
        }
        for name, found in sorted(samples.items()) if found
    ])
    run.equals("kinds of calls without a sample", sum(not found for found in samples.values()), 0, "kinds")


def cost_of(chain: LocalChain, extrinsic: Extrinsic, repeats: int) -> float:
    """Microseconds from the bytes to the outcome."""
    raw, genesis_hash, height = extrinsic.encode(), chain.genesis.genesis_hash, chain.height + 1

    def whole() -> None:
        came = Extrinsic.decode(raw)
        assert came.verify(genesis_hash, chain.head_hash)
        outcome = chain.runtime.dry_run(chain.store, came, height)[0]
        assert not outcome.error, outcome.error

    return US * timed(whole, repeats)


def succeeds(chain: LocalChain, made: Extrinsic) -> bool:
    """True if the call would be admitted and done in the coming block."""
    try:
        return not chain.runtime.dry_run(chain.store, made, chain.height + 1)[0].error
    except Exception:  # inadmissible: it has no cost to speak of
        return False


def signed(crowd: Crowd, made: Extrinsic) -> Extrinsic:
    """The same extrinsic with its signature."""
    return _sign(crowd.keys[made.signer], crowd.chain, made.call_number, made.args, made.nonce, made.tip)


def _sign(key: KeyPair, chain: LocalChain, number: int, args: list[Any], nonce: int = 0, tip: int = 0) -> Extrinsic:
    return Extrinsic.sign(
        key, chain.genesis.genesis_hash, chain.head_hash, nonce=nonce, birth_height=chain.height, call_number=number,
        args=args, tip=tip,
    )


def _short(crowd: Crowd) -> Extrinsic:
    """A transfer, whose signature is the floor."""
    key = crowd.keys[crowd.coldkeys[0]]
    return _sign(key, crowd.chain, CALL_NUMBERS["accounts.transfer"], [crowd.coldkeys[1], 1000, True])


def large_row(entries: int) -> tuple[LocalChain, Extrinsic]:
    """A subnet of 4,096 neurons that takes weights without commit, and a validator's row for so many of them."""
    spec = spec_of(1, subnet={"max_allowed_uids": 4096, "commit_reveal_enabled": False})
    taken = sum(1 in neuron.subnets for neuron in spec.neurons)
    keys = [KeyPair.from_seed(digest("seed", index.to_bytes(4, "big"))).public for index in range(4096 - taken)]
    owner = cast(1)[-1].coldkey.public
    crowded = tuple(NeuronSpec(f"neuron-{index}", key, owner, (1,)) for index, key in enumerate(keys))
    chain = LocalChain(build_genesis(replace(spec, neurons=spec.neurons + crowded)))
    validator = next(member.hotkey for member in cast(1) if member.role == "validator" and member.hotkey is not None)
    chance = random.Random(2026)
    values = [chance.randint(1, 65534) for _ in range(entries - 1)] + [65535]  # scaled by the sender, as validators do
    args = [1, pack_u16(list(range(entries))), pack_u16(values), 0]
    return chain, _sign(validator, chain, CALL_NUMBERS["weights.set"], args)
