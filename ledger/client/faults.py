"""The JSON-RPC form of errors, both ways, so that a refusal looks the same whether it happened here or in a node.

    {"code": -32003, "message": "InsufficientBalance: ...", "data": {"name", "cause", "hint", "details": {...}}}

`data.name` is the stable name by which the client finds the class again; a rule's error is `Rejected` with that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from ..errors import DecodeError, Error, Fault, Rejected
from .records import to_json

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
MAX_TEXT_CHARACTERS: Final = 2000


def error_to_json(error: Error) -> dict[str, Any]:
    """The error object of a response. Holds no traceback and no path that the error itself does not name."""
    name = error.error_name if isinstance(error, Rejected) else error.name
    return {
        "code": error.rpc_code,
        "message": str(error)[:MAX_TEXT_CHARACTERS],
        "data": {
            "name": name,
            "cause": error.cause[:MAX_TEXT_CHARACTERS],
            "hint": error.hint[:MAX_TEXT_CHARACTERS],
            "details": to_json(error.data),
        },
    }


def protocol_error(code: int, message: str, *, name: str, hint: str = "") -> dict[str, Any]:
    """An error of the transport itself: parse error, invalid request, unknown method, internal error."""
    message = message[:MAX_TEXT_CHARACTERS]
    return {"code": code, "message": message, "data": {"name": name, "cause": message, "hint": hint, "details": {}}}


def error_from_json(value: Any) -> Error:
    """The error that a response's error object stands for; a malformed object yields a plain Error."""
    if not isinstance(value, dict):
        return Error("the node sent a malformed error")
    data = value.get("data") if isinstance(value.get("data"), dict) else {}
    assert isinstance(data, dict)
    cause = _text(data.get("cause")) or _text(value.get("message")) or "the node gave no reason"
    name, hint = _text(data.get("name")), _text(data.get("hint"))
    details = data.get("details") if isinstance(data.get("details"), dict) else {}
    assert isinstance(details, dict)
    details = {str(key): item for key, item in details.items() if key not in ("error_name", "cause", "hint", "self")}
    if value.get("code") == Rejected.rpc_code:
        return Rejected(name or "Rejected", cause, hint=hint, **details)
    kind = _by_name().get(name)
    if kind is DecodeError:
        return DecodeError(cause)
    if kind is not None:
        return kind(cause, hint=hint, **details)
    return Error(f"{name}: {cause}" if name else cause, hint=hint, code=value.get("code"))


@cache
def _by_name() -> dict[str, type[Error]]:
    return {kind.name: kind for kind in _subclasses(Error) if not issubclass(kind, Fault | Rejected)}


def _subclasses(kind: type[Error]) -> Iterator[type[Error]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _text(value: Any) -> str:
    return value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else ""
