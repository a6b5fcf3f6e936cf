"""Arguments of any call of the runtime, as people write them: read by the shapes that the call itself declares.

    keys         addresses, names of key files, //role//name paths, 0x public keys
    amounts      fields that end with _rao: 1.5Q, 1_000r; `all` where none is allowed
    none         for what may be left out
    lists        [..] as JSON, or values with commas between them; records: {"field": value} as JSON
    calls        {"call": "stake.add", "args": {..}} as JSON, for calls within calls

What fits no shape is a UsageError that names the argument and its type. Nothing here knows a single call.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import DecodeError, UsageError
from tools.cli.output import parse_amount
from tools.cli.session import account

if TYPE_CHECKING:
    from ledger.codec import Shape
    from runtime.registry import Call
    from tools.cli.main import Settings

MAX_FILE_BYTES: Final = 1 << 20
MAX_TEXT_CHARACTERS: Final = 1 << 16
YES, NO = ("yes", "true", "on"), ("no", "false", "off")


@dataclass(frozen=True)
class Prepared:
    """A call that is ready to be signed: `args` by name, checked against its shapes."""

    number: int
    name: str
    args: dict[str, Any]

    @property
    def inner(self) -> list[Any]:
        """Its form within another call."""
        return [self.number, list(self.args.values())]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={show(value)}' for name, value in self.args.items())})"


def show(value: Any) -> str:
    """A value of an argument for a person."""
    from ledger.client.records import to_json
    from tools.cli.session import address

    if isinstance(value, bytes) and len(value) == 32:
        return address(value)
    shown = to_json(value)
    return shown if isinstance(shown, str) else json.dumps(shown)


def prepare(settings: Settings, name: str, words: Sequence[str]) -> Prepared:
    """A call with its arguments as words, NAME=VALUE or all in order. Raises UsageError."""
    entry = find_call(name)
    names = list(entry.schema.fields)
    by_name = [word.partition("=") for word in words if word.partition("=")[0] in names]
    if len(by_name) == len(words):
        given = {field: value for field, _, value in by_name}
        if len(given) < len(words):
            raise UsageError("an argument is given twice", hint=form(entry))
    elif len(words) > len(names):
        raise UsageError(f"{entry.name} takes {len(names)} arguments, not {len(words)}", hint=form(entry))
    elif by_name:
        stray = next(word for word in words if word.partition("=")[0] not in names)
        raise UsageError(f"{entry.name} has no argument {stray[:80]!r}", hint=form(entry))
    else:
        given = dict(zip(names, words, strict=False))
    return _prepared(settings, entry, given)


def from_document(settings: Settings, document: Any, where: str) -> Prepared:
    """A call of a JSON document: {"call": name, "args": {..} or [..]}."""
    if not isinstance(document, dict) or not isinstance(document.get("call"), str) or set(document) - {"call", "args"}:
        raise UsageError(f"{where} is no call", hint='write {"call": "stake.add", "args": {"hotkey": "..", ..}}')
    entry, args = find_call(document["call"]), document.get("args", {})
    if isinstance(args, list) and len(args) <= len(entry.schema.fields):
        args = dict(zip(entry.schema.fields, args, strict=False))
    if not isinstance(args, dict):
        raise UsageError(f"the arguments of {where} are neither an object nor a list of {len(entry.schema.fields)}")
    stray = next((name for name in args if name not in entry.schema.fields), None)
    if stray is not None:
        raise UsageError(f"{entry.name} has no argument {stray[:80]!r}", hint=form(entry))
    return _prepared(settings, entry, args)


def batch_file(settings: Settings, path: Path) -> list[Prepared]:
    """Calls of a JSON file: a list of {"call": name, "args": {..}}."""
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path} is larger than any batch")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    if not isinstance(document, list) or not document:
        raise UsageError(f"{path} is no list of calls", hint='write [{"call": "stake.add", "args": {..}}, ..]')
    return [from_document(settings, each, f"call {index} of {path.name}") for index, each in enumerate(document)]


def find_call(name: str) -> Call:
    """The registry's entry. Raises UsageError with the nearest names."""
    import runtime.executor  # noqa: F401 - declares all calls
    from runtime.registry import CALL_NUMBERS, CALLS

    if name not in CALL_NUMBERS:
        near = difflib.get_close_matches(name[:64], CALL_NUMBERS, 3, 0.4)
        hint = f"did you mean {' or '.join(near)}? all of them: quorix tx calls" if near else "quorix tx calls"
        raise UsageError(f"there is no call {name[:64]!r}", hint=hint)
    return CALLS[CALL_NUMBERS[name]]


def form(entry: Call) -> str:
    """How a call is written."""
    return " ".join([entry.name, *(f"{name}=<{shape.name}>" for name, shape in entry.schema.fields.items())])


def _prepared(settings: Settings, entry: Call, given: Mapping[str, Any]) -> Prepared:
    missing = [name for name, shape in entry.schema.fields.items() if name not in given and not _optional(shape)]
    if missing:
        raise UsageError(f"{entry.name} needs {', '.join(missing)}", hint=form(entry))
    args = {}
    for name, shape in entry.schema.fields.items():
        try:
            args[name] = value_of(settings, shape, given.get(name), name)
            shape.check(args[name], name)
        except DecodeError as error:
            raise UsageError(f"{entry.name}: {error.cause}", hint=form(entry)) from None
    return Prepared(entry.number, entry.name, args)


def _optional(shape: Shape) -> bool:
    from ledger.codec import Optional

    return isinstance(shape, Optional)


def value_of(settings: Settings, shape: Shape, given: Any, name: str) -> Any:
    """A value of a shape from a word or from JSON. Raises UsageError, or DecodeError naming the place."""
    from ledger.codec import Bytes, Int, ListOf, OneOf, Optional, Record, Text
    from runtime.dispatch import INNER_CALL

    if isinstance(shape, Optional):
        return None if given in (None, "none", "all") else value_of(settings, shape.item, given, name)
    if isinstance(shape, OneOf):
        return _plain(given, name)
    if isinstance(shape, Record | ListOf) and isinstance(given, str):
        given = _parsed(given, shape, name)
    if shape is INNER_CALL:
        return from_document(settings, given, name).inner
    if isinstance(shape, Record):
        return _record(settings, shape, given, name)
    if isinstance(shape, ListOf):
        if not isinstance(given, list):
            raise DecodeError(f"expected {shape.name}", where=name)
        return [value_of(settings, shape.item, item, f"{name}[{index}]") for index, item in enumerate(given)]
    if isinstance(shape, Int):
        return _integer(shape, given, name)
    if isinstance(shape, Bytes):
        return _bytes(settings, shape, given, name)
    if isinstance(shape, Text):
        return given if isinstance(given, str) else str(given)
    return _flag(given, name)


def _record(settings: Settings, shape: Any, given: Any, name: str) -> list[Any]:
    fields = shape.fields
    if isinstance(given, list) and len(given) == len(fields):
        given = dict(zip(fields, given, strict=True))
    if not isinstance(given, dict) or set(given) - set(fields):
        raise DecodeError(f"expected an object of {', '.join(fields)}", where=name)
    missing = [each for each, inner in fields.items() if each not in given and not _optional(inner)]
    if missing:
        raise DecodeError(f"misses {', '.join(missing)}", where=name)
    return [value_of(settings, inner, given.get(each), f"{name}.{each}") for each, inner in fields.items()]


def _parsed(text: str, shape: Shape, name: str) -> Any:
    """JSON, or for lists values with commas between them."""
    if text[:1] not in "[{" and not hasattr(shape, "fields"):
        return text.split(",") if text else []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DecodeError(f"expected {shape.name} as JSON", where=name) from None


def _integer(shape: Any, given: Any, name: str) -> int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    text = str(given)
    if name.endswith("_rao"):
        rao = parse_amount(text)
        if rao is None:
            raise UsageError(f"{name} has to be named: it is never everything")
        return rao
    if shape.name == "kind of proxy" and not text.isdecimal():
        from runtime.modules.proxies import KINDS

        if text.replace("-", " ") not in KINDS:
            raise DecodeError(f"expected one of {', '.join(kind.replace(' ', '-') for kind in KINDS)}", where=name)
        return KINDS.index(text.replace("-", " "))
    digits = text.replace("_", "").removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise DecodeError(f"expected {shape.name}, a whole number", where=name)
    return int(text.replace("_", ""))


def _bytes(settings: Settings, shape: Any, given: Any, name: str) -> bytes:
    if shape.name == "packed u16":
        return _packed(given, name)
    if not isinstance(given, str) or len(given) > MAX_TEXT_CHARACTERS:
        raise DecodeError(f"expected {shape.name}", where=name)
    if shape.name == "key":
        return account(settings, given)
    try:
        return bytes.fromhex(given.removeprefix("0x"))
    except ValueError:
        raise DecodeError(f"expected {shape.name} in hex", where=name) from None


def _packed(given: Any, name: str) -> bytes:
    from ledger.codec import pack_u16

    parts = given.split(",") if isinstance(given, str) else given
    if isinstance(given, str) and not given:
        parts = []
    try:
        values = [int(part) for part in parts]
    except (TypeError, ValueError):
        values = [-1]
    if any(not 0 <= value < 1 << 16 for value in values):
        raise DecodeError("expected numbers below 65536 with commas between them", where=name)
    return pack_u16(values)


def _flag(given: Any, name: str) -> bool:
    if isinstance(given, bool):
        return given
    if str(given).lower() in YES + NO:
        return str(given).lower() in YES
    raise DecodeError("expected yes or no", where=name)


def _plain(given: Any, name: str) -> bool | int:
    """A parameter's value: yes, no, or a whole number."""
    if isinstance(given, bool | int):
        return given
    text = str(given)
    if text.lower() in YES + NO:
        return text.lower() in YES
    if text[-1:] in ("Q", "r") and parse_amount(text) is not None:
        return parse_amount(text) or 0
    digits = text.replace("_", "").removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise DecodeError("expected yes, no, an amount or a whole number", where=name)
    return int(text.replace("_", ""))
