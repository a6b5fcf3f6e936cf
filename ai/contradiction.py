"""Two contradictory answers of one neuron: a proof that anybody can check offline.

    proof = [version, [receipt, transcript, answer, window], [receipt, transcript, answer, window]]

It holds iff both receipts verify; both are sessions of `distribution` with the same callee, subnet, model hash and epoch;
both transcripts are the ones whose chain the callee signed; window `window` of answer `answer` had the same text before
it in both; and the two distributions differ by more than 0.02 in total variation. A model that went on training has
another hash, so it is not convicted; nor is an answer that may rest on other neurons' answers: one whose caller allowed it
to ask others. Which of them it used is only known where the session ended in order, and a caller can break any session off.

The consequence is a flag at the receipt. Nothing is slashed, and no validator is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ai.receipts import Checked, Receipt, ReceiptStore
from ai.serve import frames
from ai.serve.methods import Windows
from ai.serve.refusals import Refused
from ledger import codec
from ledger.codec import U16, U32, Bytes, ListOf, Record
from ledger.errors import DecodeError, Rejected

VERSION: Final = 1
MAX_DISTANCE: Final = 0.02  # total variation
MAX_CONTEXTS: Final = 200_000  # compared at once
MAX_FOUND: Final = 64
TRANSCRIPT_MAX_BYTES: Final = 512 << 10
PROOF_MAX_BYTES: Final = 2 * (TRANSCRIPT_MAX_BYTES + frames.RECEIPT_MAX_BYTES) + 64
WHOLE_TEXT: Final = frames.SESSION_MAX_BYTES  # a context is everything before the byte, not what the model looks at
METHOD: Final = "distribution"

_SIDE = Record(
    "side", receipt=Bytes(high=frames.RECEIPT_MAX_BYTES), transcript=Bytes(high=TRANSCRIPT_MAX_BYTES), answer=U32, window=U16
)
_PROOF = Record("contradiction", version=U16, one=_SIDE, other=_SIDE)
_TRANSCRIPT = Record(
    "transcript", body=Bytes(high=frames.BODY_MAX_BYTES), payloads=ListOf(Bytes(high=frames.FRAME_MAX_BYTES), codec.MAX_ITEMS)
)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer about one window, and the session it is from."""

    receipt: bytes
    transcript: bytes
    answer: int
    window: int


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows."""

    callee: bytes
    netuid: int
    epoch: int
    model_hash: bytes
    context: bytes
    distance: float
    open_ids: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Both sides of the proof. Nothing about them is checked until `verify`."""

    one: Said
    other: Said

    def encode(self) -> bytes:
        """The proof's bytes."""
        return codec.encode([VERSION, *([s.receipt, s.transcript, s.answer, s.window] for s in (self.one, self.other))])

    @classmethod
    def decode(cls, data: bytes) -> Contradiction:
        """Reverse of `encode`. Raises DecodeError."""
        value = codec.decode(data, max_bytes=PROOF_MAX_BYTES, where="contradiction")
        _PROOF.check(value)
        if value[0] != VERSION:
            raise DecodeError(f"version {value[0]} is not known", where="contradiction")
        return cls(Said(*value[1]), Said(*value[2]))

    def verify(self, genesis_hash: bytes) -> Proven:
        """What it proves. Raises Rejected naming the rule that does not hold."""
        one, other = _Session.read(self.one, genesis_hash), _Session.read(self.other, genesis_hash)
        a, b = one.checked, other.checked
        if a.open_id == b.open_id:
            raise Rejected("SameSession", "a session does not contradict itself")
        if (a.open.callee, a.open.netuid) != (b.open.callee, b.open.netuid):
            raise Rejected("AnotherNeuron", "the two answers are not of one neuron on one subnet")
        if (a.close.model_hash, a.close.epoch) != (b.close.model_hash, b.close.epoch):
            raise Rejected("AnotherModel", "the model or the epoch differs: a model may go on training")
        context, row = one.at(self.one)
        other_context, other_row = other.at(self.other)
        if context != other_context:
            raise Rejected("AnotherContext", "the two answers are about different texts")
        distance = total_variation(row, other_row)
        if distance <= MAX_DISTANCE:
            raise Rejected("SameAnswer", f"a total variation of {distance:.4f}, more than {MAX_DISTANCE} is needed")
        return Proven(
            a.open.callee, a.open.netuid, a.close.epoch, a.close.model_hash, context, distance, (a.open_id, b.open_id)
        )


@dataclass(frozen=True, slots=True)
class _Session:
    """A checked session: contexts and answers as they travelled."""

    checked: Checked
    said: list[list[tuple[int, bytes, bytes]]]  # by answer: (window, text before the byte, 98 bytes)

    @classmethod
    def read(cls, side: Said, genesis_hash: bytes) -> _Session:
        """Raises Rejected where receipt and transcript do not hold together."""
        try:
            checked = Receipt.decode(side.receipt).verify(genesis_hash)
            value = codec.decode(side.transcript, max_bytes=TRANSCRIPT_MAX_BYTES, where="transcript")
            _TRANSCRIPT.check(value)
        except DecodeError as error:
            raise Rejected("ProofMalformed", error.cause) from None
        if checked.open.method != METHOD:
            raise Rejected("AnotherMethod", f"a session of {checked.open.method}")
        if checked.close.upstream or (checked.open.hops and checked.open.budget):
            raise Rejected("UsedOthers", "the answer may rest on other neurons' answers")
        body, payloads = value
        _check_chain(checked, body, payloads)
        try:
            return cls(checked, list(_said(checked, body, payloads)))
        except Refused as error:
            raise Rejected("ProofMalformed", error.cause) from None

    def at(self, side: Said) -> tuple[bytes, bytes]:
        """(context, 98 bytes) of the answer that the proof points at. Raises Rejected."""
        rows = self.said[side.answer] if side.answer < len(self.said) else []
        found = next(((context, row) for window, context, row in rows if window == side.window), None)
        if found is None:
            raise Rejected("NoSuchAnswer", f"no window {side.window} in answer {side.answer}")
        return found


def _check_chain(checked: Checked, body: bytes, payloads: list[bytes]) -> None:
    """The chain of what is shown must end in the head that the callee signed."""
    head, asks, answers = checked.open_id, 0, 0
    in_turn = checked.open.max_asks > 0
    for index, payload in enumerate(payloads):
        if in_turn and index % 2:
            asks += 1
            head = frames.step(head, frames.ASK, asks, payload)
        else:
            head = frames.step(head, frames.ANSWER, answers, payload)
            answers += 1
    closed, end = checked.close, (head, asks, answers)
    if frames.payload_hash(body) != checked.open.body_hash or end != (closed.head, closed.asks, closed.answers):
        raise Rejected("AnotherTranscript", "the transcript is not the one that was signed")


def _said(checked: Checked, body: bytes, payloads: list[bytes]) -> Iterator[list[tuple[int, bytes, bytes]]]:
    """Answer by answer what was said. Raises Refused where the words are no `distribution` session."""
    from ai.distribution import DISTRIBUTION_BYTES

    windows = Windows(body, WHOLE_TEXT)
    in_turn = checked.open.max_asks > 0
    for index, payload in enumerate(payloads):
        if in_turn and index % 2:
            windows.append(payload)
            continue
        running = windows.numbered
        if len(payload) != len(running) * DISTRIBUTION_BYTES:
            raise Refused("malformed", "an answer of another length")
        rows = (payload[at : at + DISTRIBUTION_BYTES] for at in range(0, len(payload), DISTRIBUTION_BYTES))
        yield [(window, text, row) for (window, text), row in zip(running, rows, strict=True)]


def total_variation(one: bytes, other: bytes) -> float:
    """Half the sum of absolute differences of two 98-byte distributions. Raises Rejected where one is none."""
    from ai.distribution import decode_distribution

    try:
        return float(abs(decode_distribution(one) - decode_distribution(other)).sum() / 2)
    except DecodeError as error:
        raise Rejected("ProofMalformed", error.cause) from None


def find(store: ReceiptStore, netuid: int, epoch: int, genesis_hash: bytes) -> list[Contradiction]:
    """Contradictions among the sessions of an epoch whose transcripts are still there, at most 64, one a neuron and text."""
    seen: dict[tuple[bytes, bytes, int, bytes], tuple[Said, bytes]] = {}
    found: list[Contradiction] = []
    transcripts = dict(store.transcripts(netuid, epoch))
    for receipt in store.leaves(netuid, epoch):
        for said, context, session, row in answers_of(receipt, transcripts, genesis_hash):
            close = session.close
            key = (session.open.callee, close.model_hash, close.epoch, frames.payload_hash(context))
            first, first_row = seen.get(key, (said, row))
            if first is said and len(seen) < MAX_CONTEXTS:
                seen[key] = (said, row)
            elif first.receipt != receipt and len(found) < MAX_FOUND and total_variation(first_row, row) > MAX_DISTANCE:
                found.append(Contradiction(first, said))
    return found


def answers_of(
    receipt: bytes, transcripts: dict[bytes, bytes], genesis_hash: bytes
) -> Iterator[tuple[Said, bytes, Checked, bytes]]:
    """(what was said, about what text, in which session, 98 bytes): every answer of a session that can convict.

    Nothing where the receipt is of another kind, its words are not in `transcripts` (by open_id), or they do not fit.
    """
    try:
        encoded = Receipt.decode(receipt).open_body
        transcript = transcripts.get(frames.OpenBody.decode(encoded).open_id(genesis_hash, encoded), b"")
        session = _Session.read(Said(receipt, transcript, 0, 0), genesis_hash) if transcript else None
    except (DecodeError, Rejected):
        return
    for answer, rows in enumerate(session.said if session is not None else ()):
        for window, context, row in rows:
            assert session is not None
            yield Said(receipt, transcript, answer, window), context, session.checked, row


def describe(proven: Proven) -> dict[str, Any]:
    """A proof in words and numbers, for people and JSON."""
    return {
        "hotkey": proven.callee.hex(), "netuid": proven.netuid, "epoch": proven.epoch, "model_hash": proven.model_hash.hex(),
        "context": proven.context[-64:].decode(errors="replace"), "total_variation": round(proven.distance, 4),
        "receipts": [open_id.hex() for open_id in proven.open_ids],
    }
