"""The OpenRPC document, made from the type hints and documentation of `ChainApi`: names, parameters, results, errors."""

from __future__ import annotations

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin

from ledger import errors
from ledger.client.registry import Method, Parameter, methods

OPENRPC_VERSION: Final = "1.3.2"
_HEX: Final = {"type": "string", "pattern": "^0x([0-9a-f]{2})*$"}
_INTEGER: Final = {"oneOf": [{"type": "integer"}, {"type": "string", "pattern": "^-?[0-9]+$"}]}
_SCALARS: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"}, bool: {"type": "boolean"}, float: {"type": "number"}, bytes: _HEX, int: _INTEGER,
    type(None): {"type": "null"}, Any: {},
}


@cache
def document() -> dict[str, Any]:
    """The whole document, JSON-ready."""
    schemas: dict[str, Any] = {}
    entries = [_method(method, schemas) for method in methods().values()]
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "Quorix chain API",
            "version": "1",
            "description": "Bytes are 0x hex; integers above 2^53 are decimal strings; amounts are in rao (1 Q = 10^9).",
        },
        "methods": entries,
        "components": {"schemas": dict(sorted(schemas.items())), "errors": _errors()},
    }


def _method(method: Method, schemas: dict[str, Any]) -> dict[str, Any]:
    tags = [{"name": method.wire.partition("_")[0]}]
    if method.subscription:
        tags.append({"name": "subscription"})
    if method.unsafe:
        tags.append({"name": "admin-socket"})
    result = {"name": "subscription", "schema": _SCALARS[str]} if method.subscription else {
        "name": "result", "schema": _schema(method.returns, schemas)
    }
    entry: dict[str, Any] = {
        "name": method.wire,
        "summary": method.about,
        "tags": tags,
        "paramStructure": "either",
        "params": [_parameter(parameter, schemas) for parameter in method.parameters],
        "result": result,
    }
    if method.subscription:
        entry["x-event"] = _schema(method.returns, schemas)
    return entry


def _parameter(parameter: Parameter, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = dict(_schema(parameter.kind, schemas))
    if not parameter.required:
        default = parameter.default
        schema["default"] = "0x" + default.hex() if isinstance(default, bytes) else default
    return {"name": parameter.name, "required": parameter.required, "schema": schema}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of a type; records go to `schemas` and are referred to by name."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(option, schemas) for option in arguments]}
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], schemas)}
    record = origin or kind
    assert is_dataclass(record), kind
    name = _name(kind)
    if name not in schemas:
        schemas[name] = {}  # taken, so that a record that holds itself ends
        schemas[name] = _record(record, arguments, schemas)
    return {"$ref": f"#/components/schemas/{name}"}


def _record(record: Any, arguments: tuple[Any, ...], schemas: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    given = dict(zip(getattr(record, "__parameters__", ()), arguments, strict=False))
    properties = {field.name: _schema(_bound(hints[field.name], given), schemas) for field in fields(record)}
    required = [f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING]
    out = {"type": "object", "properties": properties, "required": required}
    about = (record.__doc__ or "").strip()
    if about and not about.startswith(record.__name__ + "("):
        out["description"] = about.splitlines()[0]
    return out


def _bound(hint: Any, given: dict[Any, Any]) -> Any:
    """The hint of a generic record's field with its type variable replaced."""
    if isinstance(hint, TypeVar):
        return given.get(hint, Any)
    if get_origin(hint) is list and isinstance(get_args(hint)[0], TypeVar):
        return list[given.get(get_args(hint)[0], Any)]  # type: ignore[misc]
    return hint


def _name(kind: Any) -> str:
    """Name of a record: Reading[list[Row]] becomes Reading_list_Row."""
    arguments = get_args(kind)
    if not arguments:
        return str(getattr(kind, "__name__", kind))
    base = get_origin(kind)
    if base in (typing.Union, types.UnionType):
        return "_or_".join(_name(option) for option in arguments if option is not type(None))
    return "_".join([str(getattr(base, "__name__", base)), *(_name(argument) for argument in arguments)])


def _errors() -> dict[str, Any]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)]
    return {
        kind.name: {"code": kind.rpc_code, "message": " ".join((kind.__doc__ or "").split())}
        for kind in sorted(kinds, key=lambda kind: kind.name)
        if not issubclass(kind, errors.Fault)
    }
