"""The fuzzer: it knows every decoder, finds planted faults, makes them small, and what it once found stays mended."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ledger.codec import decode, encode
from ledger.errors import DecodeError
from tools.lab import fuzz
from tools.lab.frame import Run
from tools.lab.fuzzing.bombs import cbor_bombs, json_bombs
from tools.lab.fuzzing.mutate import MAX_INPUT_BYTES, Mutator
from tools.lab.fuzzing.run import Failure, chunk, judge, memory, shrunk
from tools.lab.fuzzing.target import Target
from tools.lab.fuzzing.targets import targets

ROOT = Path(__file__).parents[3]
ROOMS = ("ledger", "p2p", "ai/serve")
INPUTS = 60

# Parts of others.
WITHIN = {
    "ledger.client.registry.Method.decode_params": "target JSON-RPC request",
    "ledger.codec.decode_trusted": "a value of the state, under its root",
}


@pytest.mark.parametrize("name", targets())
def test_every_decoder_withstands_hostile_inputs(name: str) -> None:
    outcome = chunk(name, 1, 0, INPUTS)
    assert not outcome.failures, "\n".join(f"{failure.what}: {failure.line}" for failure in outcome.failures)
    assert outcome.inputs == INPUTS


def test_every_sample_is_valid() -> None:
    locked = {"key file", "JSON-RPC reply"}  # one of their samples is refused on purpose: a password is missing, an error
    for name, target in targets().items():
        verdicts = [judge(target, data)[:2] for data in target.samples()]
        assert not [wrong for wrong, _ in verdicts if wrong], name
        assert sum(refusal != "" for _, refusal in verdicts) == (name in locked), (name, verdicts)


def decoders() -> Iterator[str]:
    """Qualified names of functions that are called decode, decode_something, _decode_something or from_value."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.is_relative_to(ROOT / "runtime" / "frozen"):
                continue  # copies
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                inner = node.body if isinstance(node, ast.ClassDef) else [node]
                for function in inner:
                    if isinstance(function, ast.FunctionDef) and _decodes(function.name):
                        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
                        yield f"{module}.{owner}{function.name}"


def _decodes(name: str) -> bool:
    name = name.lstrip("_")
    return name in ("decode", "from_value") or name.startswith("decode_")


def test_no_decoder_is_left_out() -> None:
    covered = {name for target in targets().values() for name in target.covers}
    known = set(decoders())
    missing = known - covered - set(WITHIN)
    assert not missing, f"add targets to tools/lab/fuzzing/targets.py: {sorted(missing)}"
    stale = {name for name in covered if name.startswith(("ledger.", "p2p.", "ai.serve."))} | set(WITHIN)
    assert {name for name in stale - known if _decodes(name.rpartition(".")[2])} == set()


# --- it finds what is wrong ----------------------------------------------------------------------------------------


def _wrong(read, **more) -> Target:
    return Target("planted", "cbor", lambda: [encode([1, b"x" * 40, [2, "three"]])], read, **more)


def planted_crash(data: bytes) -> object:
    value = decode(data)
    return value[5] if type(value) is list and len(value) == 2 else value


def _found(target: Target) -> Failure:
    mutator = Mutator(Random(1), target.form, target.samples())
    for _ in range(20_000):
        data = mutator.next()
        wrong, refusal, _ = judge(target, data)
        if wrong:
            return Failure(target.name, data, wrong)
        if refusal:
            mutator.keep(data)
    raise AssertionError("not found")


def test_a_crash_is_found_and_made_small() -> None:
    target = _wrong(planted_crash)
    failure = shrunk(target, _found(target))
    assert failure.what.startswith("IndexError") and len(failure.data) <= 44
    assert failure.line == f"quorix lab fuzz --target 'planted' --input {failure.data.hex()}"


def test_a_lax_decoder_is_found() -> None:
    import cbor2

    def lax(data: bytes) -> object:
        try:
            return cbor2.loads(data)
        except Exception as error:
            raise DecodeError(str(error)) from None

    assert _found(_wrong(lax, write=encode)).what.startswith("accepted")


def test_a_slow_and_a_greedy_decoder_are_found() -> None:
    slow = _wrong(lambda data: sum(range(3_000_000)), max_ms=5.0)
    assert judge(slow, b"\x80")[0].startswith("slow")
    greedy = _wrong(lambda data: bytes(16 << 20))
    assert memory(greedy, b"\x80").startswith("memory") and not memory(_wrong(decode), b"\x80")


def test_a_seed_repeats_its_inputs() -> None:
    def drawn(seed: int) -> list[bytes]:
        target = targets()["bundle"]
        mutator = Mutator(Random(seed), target.form, target.samples(), target.lead)
        return [mutator.next() for _ in range(50)]

    assert drawn(3) == drawn(3) != drawn(4)
    assert max(map(len, drawn(3))) <= MAX_INPUT_BYTES


def test_bombs_are_bombs() -> None:
    """Each is refused by the codec, and at once; without its checks some would take seconds."""
    for bomb, data in cbor_bombs():
        assert len(data) <= 1 << 20, bomb
        with pytest.raises(DecodeError):
            decode(data, max_bytes=1 << 21)
    assert all(len(data) <= 1 << 20 for _, data in json_bombs())
    worst_ms, where, failures = fuzz.bombs(["value", "extrinsic", "JSON-RPC request", "JSON-RPC reply", "gateway request"])
    assert not failures and worst_ms <= 30, (where, failures)


def test_what_was_found_once_stays_mended() -> None:
    assert not fuzz.kept_failures(list(targets()))
    assert set(fuzz.kept_inputs()) <= set(targets())


def test_the_experiment_reports_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "inputs.json")
    run = Run()
    fuzz.fuzz(run, ("vote", "status"), 100, 0, None, 0)
    assert all(target.ok for target in run.targets) and run.figures["inputs"] == 200
    fuzz.keep([Failure("vote", b"\x01", "x"), Failure("vote", b"\x01", "x")])
    assert json.loads((tmp_path / "inputs.json").read_text()) == {"vote": ["01"]}
    one = Run()
    fuzz.fuzz(one, ("vote",), 1, 0, "80", 0)
    assert one.figures["verdict"].startswith("DecodeError") and one.targets[0].ok
