"""The hello: what both sides of every connection say first, and when it is acceptable.

    dialler  -> hello
    listener -> hello, verdict
    dialler  -> verdict

A verdict is empty or the name of the rule that refuses; after a refusal both sides disconnect. Rules, in order: same
protocol version, same genesis, same list of signing domains, and for an authority a proof by its session key over
(genesis hash, peer id, expiry height) under the last domain. Noise has proven the peer id, so nobody else can use the
proof. Nothing else is served to a peer before its hello was accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ledger.crypto import is_valid_key, verify
from ledger.errors import Rejected

from .frames import FrameStream
from .messages import (
    MAX_HELLO_BYTES,
    PROTOCOL_VERSION,
    decode_hello,
    decode_verdict,
    encode_hello,
    encode_verdict,
    proof_body,
)
from .network import Hello

HELLO_SECONDS: Final = 10.0  # for the whole exchange, from the connection on

# What holds beside the rules of the hello (banned, no room): name of the refusal, or empty.
Veto = Callable[[Hello], str]


def default_hello(genesis_hash: bytes) -> Hello:
    """Hello of a node that follows from genesis and proves nothing."""
    return Hello(PROTOCOL_VERSION, genesis_hash, ((0, genesis_hash),), 0, b"", "full")


def check_hello(mine: Hello, theirs: Hello, peer: str) -> None:
    """Raises Rejected with the rule's name: OtherVersion, WrongGenesis, OtherDomains, BadProof or ExpiredProof."""
    if theirs.version != mine.version:
        raise Rejected("OtherVersion", f"peer speaks version {theirs.version}, this node {mine.version}")
    if theirs.genesis_hash != mine.genesis_hash:
        raise Rejected("WrongGenesis", f"peer's genesis is {theirs.genesis_hash.hex()}")
    if theirs.domains != mine.domains:
        raise Rejected("OtherDomains", "peer's list of signing domains differs: one of us was rewound")
    if theirs.role != "authority":
        return
    body = proof_body(theirs.genesis_hash, peer, theirs.expiry_height)
    if not is_valid_key(theirs.session_key):
        raise Rejected("BadProof", "session key is not a valid point")
    if not verify(theirs.session_key, "hello", mine.domains[-1][1], body, theirs.signature):
        raise Rejected("BadProof", "session key did not sign this peer id under the last domain")
    if theirs.expiry_height < mine.height:
        raise Rejected("ExpiredProof", f"proof ended at height {theirs.expiry_height}")


def _refusal(mine: Hello, theirs: Hello, peer: str, veto: Veto) -> str:
    """Name of the rule that refuses, or empty."""
    try:
        check_hello(mine, theirs, peer)
    except Rejected as error:
        return error.error_name
    return veto(theirs)


async def greet(stream: FrameStream, mine: Hello, peer: str, veto: Veto) -> Hello:
    """The dialler's side. Raises Rejected (by either side, with the rule's name), DecodeError or StreamEnded."""
    await stream.write(encode_hello(mine))
    theirs = decode_hello(await stream.read())
    verdict = decode_verdict(await stream.read())
    refusal = _refusal(mine, theirs, peer, veto)
    await stream.write(encode_verdict(refusal))
    return _agreed(theirs, refusal, verdict)


async def welcome(stream: FrameStream, mine: Hello, peer: str, veto: Veto) -> Hello:
    """The listener's side; same errors as `greet`."""
    theirs = decode_hello(await stream.read())
    refusal = _refusal(mine, theirs, peer, veto)
    await stream.write(encode_hello(mine), encode_verdict(refusal))
    verdict = decode_verdict(await stream.read())
    return _agreed(theirs, refusal, verdict)


def _agreed(theirs: Hello, refusal: str, verdict: str) -> Hello:
    if refusal:
        raise Rejected(refusal)
    if verdict:
        raise Rejected(verdict, f"{verdict}, says the peer")
    return theirs


def hello_stream(stream: object) -> FrameStream:
    """Frames of the hello protocol on a raw stream."""
    return FrameStream(stream, MAX_HELLO_BYTES)

