"""The methods of `ChainApi` as a table: the one description that server, client, OpenRPC and command line share.

Nothing is listed twice: names, parameters, defaults and types are read from the annotated class, so a method that is
added there is served, callable and documented without another line.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from ..errors import DecodeError, UsageError
from .api import ChainApi, wire_name
from .records import from_json, to_json

UNSAFE_PREFIXES: Final = ("dev_", "admin_")
REQUIRED: Final = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """A named parameter; `default` is REQUIRED where there is none. `convert` rebuilds the value from JSON."""

    name: str
    kind: Any
    default: Any
    convert: Callable[[Any, str], Any]

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Method:
    """One method. For a subscription `returns` is the type of each message."""

    name: str  # Python name
    wire: str  # JSON-RPC name
    parameters: tuple[Parameter, ...]
    returns: Any
    subscription: bool
    unsafe: bool
    about: str

    def decode_params(self, params: Sequence[Any] | Mapping[str, Any] | None) -> dict[str, Any]:
        """JSON parameters, positional or named, as keyword arguments. Raises DecodeError naming the parameter."""
        if not params:
            named: dict[str, Any] = {}
        elif isinstance(params, Mapping):
            named = dict(params)
        else:
            if len(params) > len(self.parameters):
                raise DecodeError(f"{len(params)} parameters, at most {len(self.parameters)} expected", where=self.wire)
            named = {parameter.name: value for parameter, value in zip(self.parameters, params, strict=False)}
        out: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name in named:
                out[parameter.name] = parameter.convert(named.pop(parameter.name), parameter.name)
            elif parameter.required:
                raise DecodeError("missing parameter", where=parameter.name)
        if named:
            stray = str(next(iter(named)))
            hint = _nearest(stray, [parameter.name for parameter in self.parameters])
            raise DecodeError(f"unknown parameter{hint}", where=stray[:64])
        return out

    def encode_params(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a Python call as named JSON parameters. Raises TypeError as Python does."""
        if len(args) > len(self.parameters):
            raise TypeError(f"{self.name} takes at most {len(self.parameters)} arguments, {len(args)} given")
        out = {parameter.name: value for parameter, value in zip(self.parameters, args, strict=False)}
        known = {parameter.name for parameter in self.parameters}
        for name, value in kwargs.items():
            if name not in known or name in out:
                raise TypeError(f"{self.name}: unexpected or repeated argument {name!r}")
            out[name] = value
        for parameter in self.parameters:
            if parameter.required and parameter.name not in out:
                raise TypeError(f"{self.name}: argument {parameter.name!r} is missing")
        return {name: to_json(value) for name, value in out.items()}


@cache
def methods() -> Mapping[str, Method]:
    """All methods by wire name, in the order in which `ChainApi` declares them."""
    out: dict[str, Method] = {}
    for name, function in vars(ChainApi).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        hints = typing.get_type_hints(function)
        returns = hints["return"]
        subscription = typing.get_origin(returns) is AsyncIterator
        if subscription:
            (returns,) = typing.get_args(returns)
        out[wire_name(name)] = Method(
            name, wire_name(name), _parameters(function, hints), returns, subscription,
            name.startswith(UNSAFE_PREFIXES), (inspect.getdoc(function) or "").replace("\n", " "),
        )
    return out


def find(wire: str) -> Method:
    """The method of a wire name or a Python name. Raises UsageError with the nearest name."""
    found = methods().get(wire) or methods().get(wire_name(wire) if "_" in wire else wire)
    if found is None:
        raise UsageError(f"unknown method {wire[:64]}{_nearest(wire, list(methods()))}")
    return found


def _parameters(function: Callable[..., Any], hints: Mapping[str, Any]) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(name, hints[name], parameter.default, _converter(hints[name]))
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    )


def _converter(kind: Any) -> Callable[[Any, str], Any]:
    def convert(value: Any, where: str) -> Any:
        return from_json(kind, value, where)

    return convert


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:64], known, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""
