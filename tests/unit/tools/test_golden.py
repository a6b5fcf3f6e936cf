"""Golden bytes of everything that is encoded, in all rooms: `tests/golden/formats.json`.

    exact    valid inputs of every decoder that the fuzzer knows (`tools/lab/fuzzing/targets.py`), made from fixed values
    stored   inputs whose making depends on more than the format (presets, random salt): they must be read as ever, and
             written as they were
    calls    for every call its number, name, the names and bounds of its arguments, and one encoding
    tables   for every table of the state its key, fields, and one encoded row
    events   for every event its number, name and fields

A new decoder, call, table or event without golden bytes fails, and so does a changed byte: that is another protocol, which
needs a new version, tag or number. `python tests/unit/tools/test_golden.py` adds what is missing and changes nothing else.
"""

import json
import sys
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

import runtime.executor  # noqa: F401 - declares calls, events and tables
from ledger.codec import decode, encode
from runtime.registry import CALLS, EVENTS, decode_args
from runtime.tables import Table
from tools.lab.fuzzing.samples import value_of
from tools.lab.fuzzing.targets import targets

GOLDEN = Path(__file__).parents[2] / "golden" / "formats.json"
STORED = ("chain specification", "snapshot manifest", "light client's proof", "pool file")
ELSEWHERE = {
    "value": "all others are values", "extrinsic": "one for each call: `calls`, and encodings.json",
    "call arguments": "`calls`", "snapshot file": "a manifest and chunks", "JSON-RPC request": "one for each method: OpenRPC",
    "JSON-RPC reply": "OpenRPC", "key file": "tests/unit/ledger/test_keys.py",
}


def exact():
    return {name: target for name, target in targets().items() if name not in STORED and name not in ELSEWHERE}


def hexes(target):
    return [sample.hex() for sample in target.samples()]


def call_golden(number):
    call = CALLS[number]
    args = {name: described(shape) for name, shape in call.schema.fields.items()}
    return {"name": call.name, "args": args, "bytes": encode([number, value_of(call.schema, Random(number))]).hex()}


def described(shape):
    """Name and bounds of a shape, through all levels."""
    parts = [shape.name]
    parts += [f"{name}={getattr(shape, name)}" for name in ("low", "high") if hasattr(shape, name)]
    if hasattr(shape, "item"):
        parts.append(f"of {described(shape.item)}")
    if isinstance(getattr(shape, "fields", None), dict):
        parts += [f"{name}: {described(field)}" for name, field in shape.fields.items()]
    return f"({' '.join(parts)})" if len(parts) > 1 else parts[0]


def table_golden(table):
    key = [f"{field.name}:{field.width}" for field in table.fields]
    columns = [f"{field.name}: {field.type}" for field in fields(table.kind)] if is_dataclass(table.kind) else []
    row = table.encode(of_type(table.kind)).hex()
    return {"name": table.name, "key": key, "fields": columns or [str(table.kind)], "row": row}


def of_type(kind, number=0):
    """A value of an annotated type that depends on nothing else; equal types in a row get different values."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return of_type(next(part for part in typing.get_args(kind) if part is not type(None)), number)
    if origin in (list, tuple):
        of = [part for part in typing.get_args(kind) if part is not ...] or [int]
        return origin(of_type(part, number + at) for at, part in enumerate(of * (3 - len(of) if len(of) < 2 else 1)))
    if origin is dict:
        return {}
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(*(of_type(hints[field.name], at) for at, field in enumerate(fields(kind)) if field.init))
    simple = {int: 1000 + number, bool: True, str: f"text {number}", bytes: bytes([number + 1]) * 32}
    return simple.get(kind, list(range(number, number + 3)))


def event_golden(number):
    event = EVENTS[number]
    return {"name": event.name, "fields": list(event.fields)}


def golden():
    return json.loads(GOLDEN.read_text())


def test_every_format_has_golden_bytes_and_nothing_else_has():
    kept = golden()
    assert set(kept["exact"]) == set(exact())
    assert set(kept["stored"]) == {name for name in STORED if name in targets()}
    assert set(ELSEWHERE) <= set(targets())
    for part, registry in (("calls", CALLS), ("tables", Table.registry), ("events", EVENTS)):
        assert set(kept[part]) == {str(number) for number in registry}, part


@pytest.mark.parametrize("name", exact())
def test_exact_bytes(name):
    assert hexes(targets()[name]) == golden()["exact"][name], f"{name}: these bytes are another protocol"


@pytest.mark.parametrize("name", [name for name in STORED if name in targets()])
def test_stored_bytes_are_read_and_written_as_ever(name):
    target = targets()[name]
    for sample in map(bytes.fromhex, golden()["stored"][name]):
        value = target.read(sample)
        assert target.write is None or target.write(value) == sample


@pytest.mark.parametrize("number", sorted(CALLS))
def test_calls(number):
    kept, now = golden()["calls"][str(number)], call_golden(number)
    assert (kept["name"], kept["args"]) == (now["name"], now["args"])
    found, args = decode(bytes.fromhex(kept["bytes"]))
    assert found == number and encode([number, args]).hex() == kept["bytes"]
    decode_args(CALLS[number], args)


@pytest.mark.parametrize("number", sorted(Table.registry))
def test_tables(number):
    kept, table = golden()["tables"][str(number)], Table.registry[number]
    assert kept == table_golden(table)


def test_events():
    assert golden()["events"] == {str(number): event_golden(number) for number in EVENTS}


def test_the_samples_of_tables_tell_their_fields_apart():
    """Rows in which two neighbours of one type held the same would not notice that they were exchanged."""
    assert of_type(int, 0) != of_type(int, 1) and of_type(bytes, 0) != of_type(bytes, 1)
    assert of_type(list[int], 0) != of_type(list[int], 1)


def write():
    """Add what is missing."""
    kept = golden() if GOLDEN.exists() else {}
    kept = {part: kept.get(part, {}) for part in ("exact", "stored", "calls", "tables", "events")}
    new = {
        "exact": {name: hexes(target) for name, target in exact().items()},
        "stored": {name: hexes(targets()[name]) for name in STORED if name in targets()},
        "calls": {str(number): call_golden(number) for number in sorted(CALLS)},
        "tables": {str(number): table_golden(Table.registry[number]) for number in sorted(Table.registry)},
        "events": {str(number): event_golden(number) for number in sorted(EVENTS)},
    }
    for part, entries in new.items():
        kept[part] = {name: kept[part].get(name, entry) for name, entry in entries.items()}
    GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    write()
