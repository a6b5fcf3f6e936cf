"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, Ollama and others) as a neuron that writes text.

    Upstream("http://127.0.0.1:8000/v1", "my-model")

It has no next-byte distributions: it serves the methods `text` and `card`, on subnets whose task kind scores texts. What
the other server sends is not believed: addresses are checked by the dialling policy and connected to as checked (a name is
resolved once per request), redirects and proxies of the environment are not followed, sizes, lines and times are bounded,
compressed replies are refused. The API key is read from a file and sent to that server only.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ai.files import read_bounded
from ledger.client.dial import refusal
from ledger.errors import DecodeError, Error, NotFound, RateLimited, Timeout, Unreachable, UsageError

from .model import Card, Sampling

MAX_URL_CHARACTERS: Final = 512
MAX_KEY_BYTES: Final = 512
MAX_REPLY_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 64 << 10
CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 15.0  # between two pieces of a reply
TOTAL_SECONDS: Final = 60.0
CONTEXT_BYTES: Final = 8_192
OK: Final = 200
TOO_MANY: Final = 429


class Upstream:
    """A `Model` that writes and predicts nothing."""

    def __init__(
        self, url: str, model: str, *, name: str = "upstream", key_file: str = "", chat: bool = True,
        allow_private: bool = True, read_seconds: float = READ_SECONDS, total_seconds: float = TOTAL_SECONDS,
    ) -> None:  # fmt: skip
        """`chat`: ask /chat/completions, else /completions. `allow_private`: the server may be on this machine or network.

        Raises UsageError for an address that is none, NotFound for an absent key file.
        """
        parts = urlsplit(url)
        if len(url) > MAX_URL_CHARACTERS or parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise UsageError("the upstream's address is no http(s) URL", hint="such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise UsageError("the upstream's address holds a password", hint="put it into a file and name that")
        try:
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise UsageError("the upstream's address has no such port") from None
        self._scheme, self._host, self._path = parts.scheme, parts.hostname, parts.path.rstrip("/")
        self._model, self._chat, self._allow_private = model, chat, allow_private
        self._read_seconds, self._total_seconds = read_seconds, total_seconds
        self._key = _read_key(key_file) if key_file else ""
        where = f"{self._scheme}://{self._host}:{self._port}{self._path}"
        self._card = Card(
            name=name, model_hash=blake2b(f"{where}\0{model}".encode(), digest_size=32).digest(),
            context_bytes=CONTEXT_BYTES, summary=f"text of {model[:200]} behind an OpenAI-compatible server",
            methods=("text", "card"),
        )  # fmt: skip

    def card(self) -> Card:
        """`model_hash` names the server and the model: weights that are not here cannot be hashed."""
        return self._card

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        raise UsageError("an upstream predicts no bytes", hint="it serves the method text")

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        """Text in pieces, `max_units` bytes at most. Raises Unreachable, Timeout, RateLimited, DecodeError or UsageError."""
        left = sampling.max_units
        for piece in self._pieces(self._request(prompt, sampling)):
            data = piece.encode(errors="replace")[:left]  # JSON can name half a character
            left -= len(data)
            if data:
                yield data
            if left <= 0:
                return

    def _request(self, prompt: bytes, sampling: Sampling) -> dict[str, Any]:
        text = prompt.decode(errors="replace")
        body: dict[str, Any] = {
            "model": self._model, "max_tokens": sampling.max_units, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "seed": sampling.seed, "stream": True,
        }  # fmt: skip
        if sampling.stops:
            body["stop"] = [stop.decode(errors="replace") for stop in sampling.stops]
        return {**body, "messages": [{"role": "user", "content": text}]} if self._chat else {**body, "prompt": text}

    def _pieces(self, body: dict[str, Any]) -> Iterator[str]:
        """Pieces of text of a streamed reply, or all of one that is not streamed."""
        for line in self._lines("/chat/completions" if self._chat else "/completions", body):
            if line.startswith(b"data:"):
                line = line[5:].strip()
                if line == b"[DONE]":
                    return
            elif not line.startswith(b"{"):
                continue  # comments and other fields of an event stream
            yield _text_of(line)

    def _lines(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        """Non-empty lines of the reply, each and all together bounded, before the deadline."""
        import httpx

        deadline = time.monotonic() + self._total_seconds
        address = self._address()
        shown = f"[{address}]" if ":" in address else address
        headers = {"host": f"{self._host}:{self._port}", "accept-encoding": "identity"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        timeout = httpx.Timeout(self._read_seconds, connect=CONNECT_SECONDS)
        url = f"{self._scheme}://{shown}:{self._port}{self._path}{path}"
        try:
            with httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout) as client:
                sent = client.stream("POST", url, json=body, headers=headers, extensions={"sni_hostname": self._host})
                with sent as reply:
                    _check(reply.status_code, reply.headers.get("content-encoding", "identity"))
                    yield from _split(reply.iter_raw(), deadline)
        except httpx.TimeoutException:
            raise Timeout("the upstream does not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"the upstream cannot be reached ({type(error).__name__})") from None

    def _address(self) -> str:
        """The address to connect to: the first of the host's that may be dialled. Raises UsageError or Unreachable."""
        try:
            found = [str(ipaddress.ip_address(self._host))]
        except ValueError:
            try:
                rows = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            except OSError:
                raise Unreachable("the upstream's name has no address") from None
            found = [str(row[4][0]) for row in rows]
        reasons = [refusal(ip, self._port, allow_private=self._allow_private) for ip in found]
        for ip, reason in zip(found, reasons, strict=True):
            if not reason:
                return ip
        raise UsageError(f"the upstream may not be dialled: {reasons[0] if reasons else 'no address'}")


def _read_key(path: str) -> str:
    data = read_bounded(Path(path), max_bytes=MAX_KEY_BYTES)
    if data is None:
        raise NotFound(f"no key of the upstream at {path}", hint=f"a file of at most {MAX_KEY_BYTES} bytes")
    key = data.decode(errors="replace").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(f"{path} holds no key")
    return key


def _check(status: int, encoding: str) -> None:
    if status == TOO_MANY:
        raise RateLimited("the upstream is busy")
    if status != OK:
        raise Unreachable(f"the upstream answers HTTP {status}")
    if encoding != "identity":
        raise DecodeError("the upstream's reply is compressed", where="upstream")


def _split(pieces: Iterator[bytes], deadline: float) -> Iterator[bytes]:
    """Lines without their ends. Raises DecodeError where one, or all together, are too long, Timeout after the deadline."""
    waiting, total = bytearray(), 0
    for piece in pieces:
        total += len(piece)
        waiting += piece
        if time.monotonic() > deadline:
            raise Timeout("the upstream's reply takes too long")
        *lines, rest = bytes(waiting).split(b"\n")
        waiting = bytearray(rest)
        if total > MAX_REPLY_BYTES or len(waiting) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise DecodeError("the upstream's reply is too long", where="upstream")
        yield from (line.strip() for line in lines if line.strip())
    if waiting.strip():
        yield bytes(waiting).strip()


def _text_of(line: bytes) -> str:
    """The text in a chunk or a whole reply. Raises DecodeError where it is none, Error where it says an error."""
    try:
        value = json.loads(line)
        if "error" in value:
            raise Error("the upstream reports an error")
        choices = value["choices"]
        choice = choices[0] if choices else {}
        part = choice.get("delta") or choice.get("message") or choice
        text = part.get("content", part.get("text")) or ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DecodeError("the upstream's reply is not of the OpenAI kind", where="upstream") from None
    if not isinstance(text, str):
        raise DecodeError("the upstream's text is no text", where="upstream")
    return text
