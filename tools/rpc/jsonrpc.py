"""JSON-RPC 2.0, strictly: the text of a request in, the text of the answer out. Knows no HTTP.

Single requests and batches (at most 100, answered in order), notifications (no answer), named and positional
parameters, ids of any scalar. Errors of the protocol have the standard codes; errors of Quorix their own
(`ledger.errors`), with `data = {name, cause, hint, details}`. No answer ever holds a traceback.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from ledger.client.faults import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    error_to_json,
    protocol_error,
)
from ledger.client.records import to_json
from ledger.client.registry import methods
from ledger.errors import DecodeError, Error, RateLimited, Timeout, Unsafe, UsageError

from .limits import Limits, RateLimiter, cost, nesting
from .subscriptions import ALIASES, Session, resolve

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_log = logging.getLogger("quorix.rpc")

Observe = Callable[[str, int, float], None]  # (method, error code or 0, seconds)
_SUBSCRIBE: Final = "x_subscribe"
_UNSUBSCRIBE: Final = "x_unsubscribe"
_DISCOVER: Final = ("rpc.discover", "rpc_discover")
_INFINITE: Final = (math.inf, -math.inf)  # what 1e999 is read as; no answer could repeat it
_METHODS: Final = "rpc_methods"


@dataclass(frozen=True)
class Caller:
    """Who asks: the address ("" on a unix socket), and the subscriptions of its WebSocket, if it is one."""

    address: str
    session: Session | None = None


@dataclass
class Dispatcher:
    """Answers requests by calling `api`, an implementation of ChainApi. `unsafe`: serve dev_ and admin_ methods too."""

    api: Any
    limits: Limits
    unsafe: bool = False
    observe: Observe | None = None
    rate: RateLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.rate = RateLimiter(self.limits.rate_per_s, self.limits.burst)

    async def answer(self, text: bytes | str, caller: Caller) -> str | None:
        """The text of the response, or None if there is nothing to answer (only notifications)."""
        try:
            request = json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return _failure("null", protocol_error(PARSE_ERROR, "not JSON", name="ParseError"))
        if isinstance(request, list):
            return await self._batch(request, caller)
        return await self._one(request, caller)

    async def _batch(self, requests: list[Any], caller: Caller) -> str | None:
        if not requests or len(requests) > self.limits.batch:
            cause = f"a batch holds 1 to {self.limits.batch} requests, this one {len(requests)}"
            return _failure("null", protocol_error(INVALID_REQUEST, cause, name="InvalidRequest"))
        answers: list[str] = []
        size = 0
        for first in range(0, len(requests), self.limits.concurrency):
            part = requests[first : first + self.limits.concurrency]
            for answer in await asyncio.gather(*(self._one(request, caller) for request in part)):
                if answer is not None:
                    size += len(answer)
                    answers.append(answer)
            if size > self.limits.response_bytes:
                return _failure("null", self._too_large())
        return f"[{','.join(answers)}]" if answers else None

    async def _one(self, request: Any, caller: Caller) -> str | None:
        """Answer of one request object; None for a notification."""
        if not isinstance(request, dict):
            return _failure("null", protocol_error(INVALID_REQUEST, "a request is an object", name="InvalidRequest"))
        number = request.get("id")
        if isinstance(number, bool | list | dict) or number in _INFINITE:
            cause = "an id is a string, a number or null"
            return _failure("null", protocol_error(INVALID_REQUEST, cause, name="InvalidRequest"))
        id_text = _encode(number)
        method, params = request.get("method"), request.get("params")
        if request.get("jsonrpc") != "2.0" or not isinstance(method, str) or not isinstance(params, list | dict | None):
            cause = 'expected {"jsonrpc": "2.0", "id", "method": string, "params": array or object}'
            return _failure(id_text, protocol_error(INVALID_REQUEST, cause, name="InvalidRequest"))
        started = asyncio.get_running_loop().time()
        result, error = await self._run(method, params, caller)
        if self.observe is not None:
            seconds = asyncio.get_running_loop().time() - started
            self.observe(method if method in methods() else "other", error["code"] if error else 0, seconds)
        if "id" not in request:
            return None
        if error is not None:
            return _failure(id_text, error)
        if len(result) > self.limits.response_bytes:
            return _failure(id_text, self._too_large())
        return f'{{"jsonrpc":"2.0","id":{id_text},"result":{result}}}'

    async def _run(self, name: str, params: Any, caller: Caller) -> tuple[str, dict[str, Any] | None]:
        """(JSON text of the result, None) or ("", error object)."""
        try:
            async with asyncio.timeout(self.limits.call_s):
                return _encode(to_json(await self._call(name, params, caller))), None
        except Error as error:
            return "", error_to_json(error)
        except _UnknownMethod as unknown:
            return "", protocol_error(METHOD_NOT_FOUND, str(unknown), name="MethodNotFound", hint="see rpc_methods")
        except TimeoutError:
            return "", error_to_json(Timeout(f"{name[:64]} took more than {self.limits.call_s:g} s"))
        except Exception:
            _log.exception("%s failed", name[:64])
            return "", protocol_error(INTERNAL_ERROR, "internal error", name="Internal", hint="see the node's log")

    async def _call(self, name: str, params: Sequence[Any] | Mapping[str, Any] | None, caller: Caller) -> Any:
        if not self.rate.take(caller.address, cost(name), int(asyncio.get_running_loop().time() * 1000)):
            raise RateLimited(f"more than {self.limits.rate_per_s} lookups a second", hint="wait, or run your own node")
        if params and not nesting(params, self.limits.depth):
            raise DecodeError(f"more than {self.limits.depth} levels", where="params")
        method = methods().get(ALIASES.get(name, name))
        if method is None:
            return await self._special(name, params, caller)
        if method.unsafe and not self.unsafe:
            raise Unsafe(f"{name} is served on the admin socket only", hint="use unix:/PATH/admin.sock as the address")
        arguments = method.decode_params(params)
        if method.subscription:
            return _session(caller).add(method, arguments)
        return await getattr(self.api, method.name)(**arguments)

    async def _special(self, name: str, params: Any, caller: Caller) -> Any:
        """Methods of the transport itself, which are not part of ChainApi."""
        if name == _SUBSCRIBE:
            named = params if isinstance(params, dict) else dict(zip(("kind", "from"), params or (), strict=False))
            if not set(named) <= {"kind", "from", "filter"} or named.get("filter"):
                raise DecodeError("expected kind and from", where=_SUBSCRIBE)
            method = resolve(named.get("kind"))
            return _session(caller).add(method, method.decode_params({"start": named.get("from")}))
        if name == _UNSUBSCRIBE:
            wanted = params.get("subscription") if isinstance(params, dict) else next(iter(params or ()), None)
            return _session(caller).drop(wanted)
        if name in _DISCOVER:
            from .openrpc import document

            return document()
        if name == _METHODS:
            served = [method.wire for method in methods().values() if self.unsafe or not method.unsafe]
            return {"methods": sorted([*served, *ALIASES, _SUBSCRIBE, _UNSUBSCRIBE, _METHODS, *_DISCOVER])}
        raise _UnknownMethod(name)

    def _too_large(self) -> dict[str, Any]:
        cause = f"the response is larger than {self.limits.response_bytes} bytes"
        return protocol_error(Error.rpc_code, cause, name="ResponseTooLarge", hint="ask for less at once")


class _UnknownMethod(Exception):
    def __str__(self) -> str:
        return f"no method {str(self.args[0])[:64]!r}"


def _session(caller: Caller) -> Session:
    if caller.session is None:
        raise UsageError("subscriptions need a WebSocket connection", hint="connect to ws:// at the same address")
    return caller.session


def _failure(id_text: str, error: dict[str, Any]) -> str:
    return f'{{"jsonrpc":"2.0","id":{id_text},"error":{_encode(error)}}}'


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
