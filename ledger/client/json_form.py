"""The one JSON form of what the chain API returns.

A record is an object of its fields; bytes are "0x" hex; an integer above 2^53 is a decimal string; a list or tuple is an
array. `from_json` rebuilds the record from the type hints and refuses anything else, so server and client share the
classes of `records` and no other description of the wire exists.
"""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin

from ..errors import DecodeError

JSON_SAFE_INTEGER: Final = 1 << 53


def to_json(value: Any) -> Any:
    """JSON-ready form of a record or of plain values."""
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return value if -JSON_SAFE_INTEGER <= value <= JSON_SAFE_INTEGER else str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: Any, value: Any, where: str = "value") -> Any:
    """Rebuild a value of the annotated type; raises DecodeError naming the place."""
    if kind is Any:
        return value
    if isinstance(kind, TypeVar):
        return value
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _from_union(kind, value, where)
    if origin in (list, tuple):
        item = get_args(kind)[0]
        if not isinstance(value, list):
            raise DecodeError("expected an array", where=where)
        return [from_json(item, part, f"{where}[{i}]") for i, part in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise DecodeError("expected an object", where=where)
        return {str(key): from_json(get_args(kind)[1], part, f"{where}.{key}") for key, part in value.items()}
    record = origin if origin is not None else kind
    if is_dataclass(record):
        return _from_object(record, get_args(kind), value, where)
    return _from_scalar(kind, value, where)


@cache
def _hints(record: Any) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _from_union(kind: Any, value: Any, where: str) -> Any:
    options = get_args(kind)
    if value is None and type(None) in options:
        return None
    error: DecodeError | None = None
    for option in options:
        if option is type(None):
            continue
        try:
            return from_json(option, value, where)
        except DecodeError as failed:
            error = failed
    raise error or DecodeError("unexpected null", where=where)


def _from_object(record: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise DecodeError("expected an object", where=where)
    hints = _hints(record)
    known = {f.name: f for f in fields(record)}
    parameters = dict(zip(getattr(record, "__parameters__", ()), arguments, strict=False))
    out = {}
    for name, declared in known.items():
        if name in value:
            hint = hints[name]
            args = get_args(hint)
            if parameters and isinstance(hint, TypeVar):
                hint = parameters.get(hint, hint)
            elif parameters and args and isinstance(args[0], TypeVar) and get_origin(hint) is list:
                hint = list[parameters.get(args[0], Any)]  # type: ignore[misc]
            out[name] = from_json(hint, value[name], f"{where}.{name}")
        elif declared.default is MISSING and declared.default_factory is MISSING:
            raise DecodeError("missing", where=f"{where}.{name}")
    return record(**out)


def _from_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is int and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, str) and len(value) <= 80 and value.isascii() and value.removeprefix("-").isdecimal():
            return int(value)
    elif kind is bool and isinstance(value, bool):
        return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind is str and isinstance(value, str):
        return value
    elif kind is bytes and isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    elif kind is type(None) and value is None:
        return None
    raise DecodeError(f"expected {getattr(kind, '__name__', kind)}", where=where)
