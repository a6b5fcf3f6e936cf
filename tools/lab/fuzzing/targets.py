"""The table of all decoders that read what somebody else wrote. A new decoder is one more `Target` here.

A test walks the sources and fails when a function named `decode...` or `from_value` is in no target's `covers`.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any, Final

from ledger.blocks import Block, Body, Extrinsic, Header, encode_inherents
from ledger.codec import decode, encode
from ledger.errors import Corruption, DecodeError, Rejected, WrongGenesis
from ledger.inherents import Heartbeat
from ledger.layout import Head
from ledger.messages import decode_bundle, decode_final, encode_bundle, encode_final
from ledger.signer import SignRecord
from ledger.timelock import Announcement, Payload, Release
from ledger.votes import Certificate, Evidence, Proposal, Status, Vote

from . import samples as made
from .rows import row_targets
from .target import Reader, Target, one
from .texts import file_targets, text_targets

BODY_MS: Final = 10.0  # a body may have twice as many items as any other message


@cache
def targets() -> dict[str, Target]:
    """All targets by name."""
    found = [
        *_ledger(), *_calls(), *_peers(), *_sync(), *_sessions(), *_queries(), *_stored(), *_snapshots(), *text_targets(),
        *file_targets(), *row_targets(),
    ]
    assert len({target.name for target in found}) == len(found), "two targets have one name"
    return {target.name: target for target in found}


# --- the ledger --------------------------------------------------------------------------------------------------


def _ledger() -> list[Target]:
    def plain(kind: Any) -> Reader:
        return lambda data: kind.from_value(decode(data))

    def value(message: Any) -> bytes:
        return encode(message.value())

    inherents = [body.inherents for body in made.bodies()]
    block_hash = made.header().hash
    votes = [encode(made.vote(kind, 1, block_hash).value()) for kind in (1, 2)]
    certificates = [made.certificate(kind, block_hash).encode() for kind in (1, 2)]
    record: dict[str, Any] = {"form": "cbor", "write": lambda item: item.encode()}
    return [
        Target("value", "cbor", lambda: [*made.blocks(), *made.bundles(), encode([None, [True, "x"], -5])], decode, encode,
               covers=("ledger.codec.decode", "ledger.codec.prescan")),
        Target("header", samples=one(made.header().encode()), read=Header.decode, **record,
               covers=("ledger.blocks.Header.decode", "ledger.blocks.Header.from_value")),
        Target("body", samples=lambda: [body.encode() for body in made.bodies()], read=Body.decode, **record, max_ms=BODY_MS,
               covers=("ledger.blocks.Body.decode",)),
        Target("block", samples=made.blocks, read=Block.decode, **record, max_ms=BODY_MS,
               covers=("ledger.blocks.Block.decode",)),
        Target("extrinsic", samples=made.extrinsics, read=Extrinsic.decode, **record, lead=64,
               covers=("ledger.blocks.Extrinsic.decode",)),
        Target("extrinsics of a body", "cbor", lambda: [_full_body()], _together, max_ms=40,
               covers=("ledger.blocks.Extrinsic.decode_each", "ledger.codec.decode_each", "ledger.verdict._decode")),
        Target("inherents", "cbor", lambda: inherents, lambda data: Body(b"", data, ()).inherent_list(), encode_inherents),
        Target("vote", "cbor", lambda: votes, plain(Vote), value, covers=("ledger.votes.Vote.from_value",)),
        Target("proposal", "cbor", lambda: [value(made.proposal()), value(made.proposal(2))], plain(Proposal), value,
               covers=("ledger.votes.Proposal.from_value",)),
        Target("status", "cbor", one(encode([8, 1, block_hash])), plain(Status), value,
               covers=("ledger.votes.Status.from_value",)),
        Target("certificate", samples=lambda: certificates, read=Certificate.decode, **record,
               covers=("ledger.votes.Certificate.decode",)),
        Target("certificate judged", "cbor", lambda: certificates, _judged_certificate, slow=True),
        Target("evidence", samples=one(made.evidence().encode()), read=Evidence.decode, **record,
               covers=("ledger.votes.Evidence.decode",)),
        Target("heartbeat", samples=one(made.heartbeat().encode()), read=Heartbeat.decode, **record,
               covers=("ledger.inherents.Heartbeat.decode",)),
        Target("timelock key", samples=one(made.announcement().encode()), read=Announcement.decode, **record,
               covers=("ledger.timelock.Announcement.decode",)),
        Target("timelock secret", samples=one(made.release().encode()), read=Release.decode, **record,
               covers=("ledger.timelock.Release.decode",)),
        Target("sealed weights", samples=one(made.payload().encode()), read=Payload.decode, **record,
               covers=("ledger.timelock.Payload.decode",)),
        Target("bundle", "cbor", made.bundles, decode_bundle, encode_bundle, covers=("ledger.messages.decode_bundle",)),
        Target("final", "cbor", made.finals, decode_final, lambda item: encode_final(item.header, item.certificate),
               covers=("ledger.messages.decode_final",)),
        Target("sign record", samples=made.sign_records, read=SignRecord.decode, **record, lead=1,
               covers=("ledger.signer.SignRecord.decode",)),
    ]


def _full_body() -> bytes:
    return Body(b"\x80", b"\x80", tuple(made.extrinsics()[:6])).encode()


def _together(data: bytes) -> list[Extrinsic]:
    """Reading many at once must say what reading each says."""
    raws = Body.decode(data).extrinsics
    try:
        each = [Extrinsic.decode(raw) for raw in raws]
    except DecodeError as error:
        try:
            Extrinsic.decode_each(raws)
        except DecodeError:
            raise error from None
        raise AssertionError("accepted together, refused alone") from error
    assert Extrinsic.decode_each(raws) == each, "other values together than alone"
    return each


def _judged_certificate(data: bytes) -> bool:
    certificate = Certificate.decode(data)
    return certificate.verify(made.PUBLIC, made.DOMAIN)


def _calls() -> list[Target]:
    from runtime.dispatch import INNER_CALL
    from runtime.registry import CALLS, decode_args

    def read(data: bytes) -> list[Any]:
        value = decode(data)
        INNER_CALL.check(value)
        number, args = value
        if number not in CALLS:
            raise DecodeError(f"no call {number}")
        return [number, decode_args(CALLS[number], args)]

    rows = [encode([number, args]) for number, args in made.calls()]
    return [Target("call arguments", "cbor", lambda: rows, read, encode, covers=("runtime.registry.decode_args",))]


# --- peers -------------------------------------------------------------------------------------------------------


def _peers() -> list[Target]:
    from p2p import messages as wire
    from p2p.addresses import peer_id_of
    from p2p.frames import FrameDecoder, encode_frame
    from p2p.network import Hello
    from p2p.peers import AddressBook
    from tools.node.relay import decode_batch, encode_batch

    peer = peer_id_of(made.KEYS[0].seed)
    header = made.header(body=made.bodies()[0])
    certificate = made.final().certificate.encode()
    known = Hello(1, made.DOMAIN, ((1, made.DOMAIN), (9, header.hash)), 7, certificate, "full", b"", 0, b"")
    proof = wire.sign_proof(made.KEYS[0], made.DOMAIN, made.DOMAIN, peer, 99)
    authority = Hello(1, made.DOMAIN, ((1, made.DOMAIN),), 7, b"", "authority", made.PUBLIC[0], 99, proof)
    record = wire.PeerRecord.sign(made.KEYS[0], made.DOMAIN, bytes([8, 8, 8, 8]), 9920, 1, made.NOW_MS + 1000)

    def book() -> AddressBook:
        return AddressBook(made.DOMAIN, peer_id_of(made.KEYS[3].seed), allow_private=True)

    def frames(data: bytes) -> list[bytes]:
        decoder, out = FrameDecoder(wire.MAX_CHANNEL_FRAME_BYTES), []
        for at in range(0, len(data), 1000):
            out += decoder.feed(data[at : at + 1000])
        return out

    filled = book()
    filled.add(record, made.NOW_MS)
    stored = filled.dump()
    return [
        Target("hello", "cbor", lambda: [wire.encode_hello(known), wire.encode_hello(authority)], wire.decode_hello,
               wire.encode_hello, covers=("p2p.messages.decode_hello",)),
        Target("verdict on a hello", "cbor", lambda: [encode(""), encode("WrongGenesis")], wire.decode_verdict,
               wire.encode_verdict, covers=("p2p.messages.decode_verdict",)),
        Target("peer record", "cbor", one(record.encode()), wire.PeerRecord.decode, lambda item: item.encode(),
               covers=("p2p.messages.PeerRecord.decode",)),
        Target("peer exchange", "cbor", one(wire.encode_records([record])), wire.decode_records, wire.encode_records,
               covers=("p2p.messages.decode_records",)),
        Target("address book", "cbor", one(stored), lambda data: book().load(data), slow=True,
               max_ms=300),
        Target("channel frames", "bytes", one(b"".join(map(encode_frame, (b"x" * 200, b"", header.encode())))), frames),
        Target("transactions", "cbor", one(encode_batch(made.extrinsics()[:3], [(1, b"evidence")])), decode_batch,
               lambda pair: encode_batch(*pair), covers=("tools.node.relay.decode_batch",)),
    ]


def _sync() -> list[Target]:
    from p2p import messages as wire
    from p2p.sync import decode_block

    full = made.bodies()[0]
    block_hash, header, body = made.header(body=full).hash, made.header(body=full).encode(), full.encode()
    certificate = made.final().certificate.encode()
    requests: list[wire.Request] = [
        wire.GetHead(7), wire.GetHeaders(1, 64), wire.GetBodies((block_hash, made.DOMAIN)), wire.GetBlock(block_hash),
    ]
    replies: list[wire.Reply] = [
        wire.Head(7, block_hash, header, certificate), wire.Headers((header,)), wire.Bodies((body, b"")),
        wire.BlockReply(header, body),
    ]
    found = [
        Target("sync request", "cbor", lambda: [wire.encode_request(each) for each in requests], wire.decode_request,
               wire.encode_request, covers=("p2p.messages.decode_request",)),
        Target("sync envelope", "cbor", one(wire.encode_request_envelope(7, wire.encode_request(requests[0]))),
               wire.decode_request_envelope, lambda pair: wire.encode_request_envelope(*pair),
               covers=("p2p.messages.decode_request_envelope",)),
        Target("sync reply envelope", "cbor", one(wire.encode_reply_envelope(7, True, wire.encode_reply(replies[0]))),
               wire.decode_reply_envelope, lambda parts: wire.encode_reply_envelope(*parts),
               covers=("p2p.messages.decode_reply_envelope",)),
        Target("sync block", "cbor", one(wire.encode_reply(replies[3])),
               lambda data: decode_block(data, wire.GetBlock(block_hash)), covers=("p2p.sync.decode_block",)),
    ]
    for request, reply in zip(requests, replies, strict=True):
        name = type(reply).__name__.removesuffix("Reply").lower()
        found.append(Target(
            f"sync reply: {name}", "cbor", one(wire.encode_reply(reply)),
            lambda data, request=request: wire.decode_reply(data, request), wire.encode_reply,  # type: ignore[misc]
            covers=("p2p.messages.decode_reply",),
        ))
    return found


# --- query sessions ----------------------------------------------------------------------------------------------


def _sessions() -> list[Target]:
    from ai.receipts import Receipt
    from ai.serve import frames as wire
    from ai.serve.refusals import Refused

    key, other = made.PUBLIC[0], made.PUBLIC[1]
    times = (made.NOW_MS, made.NOW_MS + 60_000)
    opened = wire.OpenBody(1, 1, 1, key, other, "distribution", bytes(16), *times, 4, 1, 12, ((key, other),), other)
    open_body = opened.encode()
    open_id = opened.open_id(made.DOMAIN, open_body)
    close_body = wire.CloseBody(1, open_id, other, 1, 2, 0, other, 1, 10, 20, made.NOW_MS + 5, b"").encode()
    signed = made.KEYS[0].sign("open", made.DOMAIN, open_body)
    receipt = Receipt(
        open_body, signed, made.KEYS[0].sign("finish", made.DOMAIN, wire.finish_content(open_id, 1, other)), close_body,
        made.KEYS[1].sign("close", made.DOMAIN, close_body),
    )
    forms: list[wire.Frame] = [
        wire.Greet((1,), made.DOMAIN, key, other, made.NOW_MS), wire.Open(1, open_body, signed, b"body"),
        wire.Ask(1, 0, b"payload"), wire.Answer(1, 0, b"payload"), wire.Finish(1, 1, other, signed),
        wire.Close(1, close_body, signed, (receipt.encode(),)),
        wire.Cancel(1), wire.Refuse(1, 13, 50, "busy"),
    ]
    framed = [wire.encode_frame(form) for form in forms]
    refused: dict[str, Any] = {"form": "cbor", "refuses": (Refused,)}

    def stream(data: bytes) -> list[wire.Frame]:
        buffer = wire.FrameBuffer()
        return [frame for at in range(0, len(data), 4096) for frame in buffer.feed(data[at : at + 4096])]

    return [
        Target("query frame", samples=lambda: [frame[4:] for frame in framed], read=wire.decode_frame,
               write=lambda frame: wire.encode_frame(frame)[4:], **refused, covers=("ai.serve.frames.decode_frame",)),
        Target("query stream", "bytes", lambda: [b"".join(framed), *framed], stream, refuses=(Refused,)),
        Target("open body", samples=one(open_body), read=wire.OpenBody.decode, write=lambda body: body.encode(), **refused,
               covers=("ai.serve.frames.OpenBody.decode",)),
        Target("close body", samples=one(close_body), read=wire.CloseBody.decode, write=lambda body: body.encode(), **refused,
               covers=("ai.serve.frames.CloseBody.decode",)),
        Target("receipt", "cbor", one(receipt.encode()), Receipt.decode, lambda item: item.encode(),
               covers=("ai.receipts.Receipt.decode",)),
        Target("receipt judged", "cbor", one(receipt.encode()), lambda data: Receipt.decode(data).verify(made.DOMAIN),
               refuses=(DecodeError, Rejected), slow=True),
    ]


def _queries() -> list[Target]:
    import numpy as np

    from ai.distribution import decode_distributions, encode_distributions
    from ai.models.model import Card, Sampling
    from ai.serve.methods import TextRequest, Windows, encode_appended, encode_prefixes
    from ai.serve.refusals import Refused

    text = TextRequest((("user", b"hello"), ("prompt", b"x")), Sampling(16, 0.7, 0.9, 5, (b"\n",)))
    rows = encode_distributions(np.linspace(1.0, 2.0, 512).reshape(2, 256))
    refused: dict[str, Any] = {"form": "cbor", "refuses": (Refused,)}

    def windows(data: bytes) -> int:
        return Windows(encode_prefixes([b"a", b"b"]), 64).append(data)

    return [
        Target("text request", samples=one(text.encode()), read=TextRequest.decode, write=lambda item: item.encode(),
               **refused, covers=("ai.serve.methods.TextRequest.decode",)),
        Target("distribution request", samples=one(encode_prefixes([b"abc", b""])), read=lambda data: Windows(data, 64),
               **refused),
        Target("distribution ask", samples=one(encode_appended([b"x", b""])), read=windows, **refused),
        Target("distribution answer", "bytes", one(rows), lambda data: decode_distributions(data, len(data) // 98),
               covers=("ai.distribution.decode_distributions", "ai.distribution.decode_distribution")),
        Target("model card", "cbor", one(Card("tiny", made.PUBLIC[1], 64, "a model", ("prose",), 1000).encode()), Card.decode,
               lambda card: card.encode(), covers=("ai.models.model.Card.decode",)),
    ]


# --- what is stored, and proofs ----------------------------------------------------------------------------------


def _stored() -> list[Target]:
    from ledger.client.proofs import verify_state, verify_states
    from ledger.signer import _decode_domains, _encode_domains
    from runtime.epochs import decode_row, encode_row

    head = Head(7, made.header().hash, made.NOW_MS, made.header().state_root, made.SET_HASH)
    root, proofs = made.proofs()
    several = {key: made.STATE.get(key) for key in made.SEVERAL}
    return [
        Target("head row", "cbor", one(head.encode()), Head.decode, lambda item: item.encode(), refuses=(Corruption,),
               covers=("ledger.layout.Head.decode",)),
        Target("signing domains", "cbor", one(_encode_domains(((1, made.DOMAIN), (9, root)))), _decode_domains,
               _encode_domains, refuses=(Corruption,), covers=("ledger.signer._decode_domains",)),
        Target("epoch row", "cbor", one(encode_row(made.epoch_row())), decode_row, encode_row,
               covers=("runtime.epochs.decode_row", "runtime.trace.EpochTrace.from_bytes")),
        Target("state proof", "cbor", lambda: proofs, lambda data: _only_true(root, data), refuses=(), max_ms=10),
        Target("state proof of absence", "cbor", lambda: proofs,
               lambda data: verify_state(root, b"absent", None, data), refuses=()),
        Target("state proof of several keys", "cbor", lambda: proofs,
               lambda data: verify_states(root, several, data), refuses=()),
    ]


def _snapshots() -> list[Target]:
    from ledger.dumps import Dump
    from ledger.snapshot import Manifest, SnapshotReader
    from ledger.snapshot_chunks import Chunk

    def judged(data: bytes) -> None:
        chunk = Chunk.decode(data)
        chunk.verify(made.proofs()[0])
        assert all(made.STATE.get(key) == value for key, value in chunk.entries), "a chunk proved what is not in the state"

    def read(data: bytes) -> None:
        chain = made.chain()
        reader = SnapshotReader(BytesIO(data), chain.params, chain.authorities().keys)
        assert reader.header.hash == chain.head.hash, "a snapshot of another block was proven"
        for chunk in reader.chunks():
            assert all(chain.view().get(key) == value for key, value in chunk.entries), "another state was proven"

    def manifests() -> list[bytes]:
        chain = made.chain()
        return [SnapshotReader(BytesIO(made.snapshot()), chain.params, chain.authorities().keys).manifest.encode()]

    return [
        Target("snapshot manifest", "cbor", manifests, Manifest.decode, lambda item: item.encode(),
               covers=("ledger.snapshot.Manifest.decode",)),
        Target("block dump", "bytes", made.block_dumps, Dump.decode, lambda item: item.encode(),
               covers=("ledger.dumps.Dump.decode",)),
        Target("snapshot chunk", "cbor", made.chunks, Chunk.decode, lambda item: item.encode(),
               covers=("ledger.snapshot_chunks.Chunk.decode",)),
        Target("snapshot chunk judged", "cbor", made.chunks, judged, refuses=(DecodeError, Rejected), max_ms=60),
        Target("snapshot file", "bytes", lambda: [made.snapshot()], read,
               refuses=(DecodeError, Rejected, WrongGenesis), slow=True, max_ms=100),
    ]


def _only_true(root: bytes, data: bytes) -> bool:
    """A proof of a value that is not there must never be accepted, whatever it is made of."""
    from ledger.client.proofs import verify_state

    assert not verify_state(root, b"key 3", b"another value", data), "a proof of a wrong value was accepted"
    return verify_state(root, b"key 3", b"value 3", data)
