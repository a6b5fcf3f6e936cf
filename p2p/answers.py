"""The serving side of sync: one function from request bytes to reply bytes, over whatever holds the chain."""

from __future__ import annotations

from typing import Protocol

from .messages import (
    ENVELOPE_BYTES,
    MAX_BODIES_BYTES,
    BlockReply,
    Bodies,
    GetBodies,
    GetHead,
    GetHeaders,
    Head,
    Headers,
    decode_request,
    encode_reply,
)


class ChainSource(Protocol):
    """What is served. All answers are encoded bytes; None where this node does not have it."""

    def head(self) -> Head:
        """The tip with the certificate that makes it final; header and certificate are b"" at genesis."""
        ...

    def header_at(self, height: int) -> bytes | None:
        """Encoded header of the final block at `height`."""
        ...

    def body_of(self, block_hash: bytes) -> bytes | None:
        """Encoded body of a final block."""
        ...

    def block_of(self, block_hash: bytes) -> tuple[bytes, bytes] | None:
        """Encoded header and body of a final or a proposed block (its proposer and voters hold it)."""
        ...


def answer(data: bytes, source: ChainSource) -> bytes:
    """Serve one request. Raises DecodeError if it is malformed; never more than the reply limit."""
    request = decode_request(data)
    if isinstance(request, GetHead):
        return encode_reply(source.head())
    if isinstance(request, GetHeaders):
        headers: list[bytes] = []
        for height in range(request.from_height, request.from_height + request.count):
            header = source.header_at(height)
            if header is None:
                break
            headers.append(header)
        return encode_reply(Headers(tuple(headers)))
    if isinstance(request, GetBodies):
        bodies: list[bytes] = []
        room = MAX_BODIES_BYTES
        for block_hash in request.hashes:
            body = source.body_of(block_hash) or b""
            room -= len(body) + ENVELOPE_BYTES
            if bodies and room < 0:
                break
            bodies.append(body)
        return encode_reply(Bodies(tuple(bodies)))
    block = source.block_of(request.hash)
    return encode_reply(BlockReply(*block) if block else BlockReply(b"", b""))
