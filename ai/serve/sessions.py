"""A session as two state machines without a clock or socket: the caller's side and the callee's.

    OPEN -> ANSWER 0; then, with `max_asks` 0, ANSWER 1, 2, ... may stream and CLOSE ends it
                      else strictly in turn ASK k, ANSWER k; FINISH after the last ANSWER; CLOSE

A side accepts exactly the frames that this order allows now; anything else is `out_of_order`. Both compute the chain
head from what travelled. CLOSE is signed by the callee over that head; the caller checks it against its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ai.receipts import Checked, Receipt
from ledger import crypto
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, Rejected

from . import frames
from .flat import array_head, head_of
from .frames import ANSWER, ASK, OK, Answer, Ask, Close, CloseBody, Finish, Open, OpenBody
from .refusals import Refused

TRANSCRIPT_KEPT_BYTES: Final = 256 << 10  # of one session; the transcript of a larger one is not kept

_TWO_ITEMS: Final = array_head(2)
_CALLER, _CALLEE, _ENDED = "the caller's turn", "the callee's turn", "an ended session"


@dataclass(slots=True)
class _Chain:
    """What both sides keep: the head, the counts, the bytes each way, and the payloads for the transcript."""

    head: bytes
    asks: int = 0
    answers: int = 0
    bytes_in: int = 0  # towards the callee
    bytes_out: int = 0
    payloads: list[bytes] = field(default_factory=list)

    def ask(self, payload: bytes) -> None:
        self.asks += 1
        self.bytes_in += len(payload)
        self.head = frames.step(self.head, ASK, self.asks, payload)
        self._keep(payload)

    def answer(self, payload: bytes) -> None:
        self.head = frames.step(self.head, ANSWER, self.answers, payload)
        self.answers += 1
        self.bytes_out += len(payload)
        self._keep(payload)

    def _keep(self, payload: bytes) -> None:
        if self.bytes_in + self.bytes_out <= TRANSCRIPT_KEPT_BYTES:
            self.payloads.append(payload)
        else:
            self.payloads.clear()

    def transcript(self, body: bytes) -> bytes:
        """CBOR `[body, payloads]`, or nothing for a session too large to be kept."""
        whole = len(self.payloads) == self.asks + self.answers
        if not whole:
            return b""
        parts = [_TWO_ITEMS, head_of(body), body, array_head(len(self.payloads))]
        for payload in self.payloads:
            parts += (head_of(payload), payload)
        return b"".join(parts)


class CalleeSession:
    """The neuron's side of one accepted OPEN."""

    def __init__(self, frame: Open, opened: OpenBody, open_id: bytes, keypair: KeyPair, genesis_hash: bytes) -> None:
        self.sid, self.open, self.open_id, self.body = frame.sid, opened, open_id, frame.body
        self._frame, self._keypair, self._genesis_hash = frame, keypair, genesis_hash
        self._chain = _Chain(head=open_id, bytes_in=len(frame.body))
        self._turn = _CALLEE
        self._finish_signature = b""

    @property
    def answers(self) -> int:
        """Answers given so far."""
        return self._chain.answers

    @property
    def lock_step(self) -> bool:
        """True where the caller announced asks and so must FINISH."""
        return self.open.max_asks > 0

    @property
    def room_bytes(self) -> int:
        """How many bytes of answers still fit into the session."""
        return frames.SESSION_MAX_BYTES - self._chain.bytes_out

    def answer(self, payload: bytes) -> Answer:
        """The frame of the next answer. Raises Refused over_budget where the session's bytes are used up."""
        if self._turn is not _CALLEE:
            raise Refused("out_of_order", "an answer out of turn")
        if len(payload) > self.room_bytes or self._chain.answers > frames.MAX_ASKS:
            raise Refused("over_budget", "answers over the session's limit")
        frame = Answer(self.sid, self._chain.answers, payload)
        self._chain.answer(payload)
        if self.lock_step:
            self._turn = _CALLER
        return frame

    def on_ask(self, frame: Ask) -> bytes:
        """The payload of the next ask. Raises Refused out_of_order or over_budget."""
        if self._turn is not _CALLER:
            raise Refused("out_of_order", f"ASK on {self._turn}")
        if frame.seq != self._chain.asks + 1:
            raise Refused("out_of_order", f"ASK {frame.seq} after {self._chain.asks}")
        if frame.seq > self.open.max_asks:
            raise Refused("over_budget", f"ASK {frame.seq} of {self.open.max_asks}")
        if len(frame.payload) > frames.BODY_MAX_BYTES:
            raise Refused("too_large", f"an ask of {len(frame.payload)} bytes")
        if self._chain.bytes_in + len(frame.payload) > frames.SESSION_MAX_BYTES:
            raise Refused("over_budget", "asks over the session's limit")
        self._chain.ask(frame.payload)
        self._turn = _CALLEE
        return frame.payload

    def on_finish(self, frame: Finish) -> None:
        """Check FINISH against the chain and the caller's signature. Raises Refused out_of_order or bad_signature."""
        if self._turn is not _CALLER:
            raise Refused("out_of_order", f"FINISH on {self._turn}")
        if (frame.asks, frame.head) != (self._chain.asks, self._chain.head):
            raise Refused("out_of_order", "the head or the number of asks differs")
        content = frames.finish_content(self.open_id, frame.asks, frame.head)
        if not crypto.verify(self.open.caller, "finish", self._genesis_hash, content, frame.signature):
            raise Refused("bad_signature", "FINISH")
        self._finish_signature = frame.signature
        self._turn = _ENDED

    def close(
        self, status: int, *, model_hash: bytes, epoch: int, units_in: int, units_out: int, now_ms: int,
        upstream: tuple[tuple[bytes, bytes], ...] = (),
    ) -> tuple[Close, Receipt, bytes]:  # fmt: skip
        """(CLOSE frame, receipt, transcript). `upstream`: (open_id, receipt bytes) of the sessions used for this one."""
        self._turn = _ENDED
        body = CloseBody(
            self.open.version, self.open_id, self._chain.head, self._chain.asks, self._chain.answers, status, model_hash,
            epoch, units_in, units_out, now_ms, b"".join(open_id for open_id, _ in upstream),
        ).encode()  # fmt: skip
        signature = self._keypair.sign("close", self._genesis_hash, body)
        finish = self._finish_signature if status == OK else b""
        receipt = Receipt(self._frame.open_body, self._frame.signature, finish, body, signature)
        frame = Close(self.sid, body, signature, tuple(data for _, data in upstream))
        return frame, receipt, self._chain.transcript(self.body)


MAX_UNITS: Final = 1 << 31  # a claim above this is nonsense


class CallerSession:
    """The caller's side of one OPEN it signed."""

    def __init__(self, sid: int, opened: OpenBody, body: bytes, keypair: KeyPair, genesis_hash: bytes) -> None:
        encoded = opened.encode()
        signed = crypto.signing_bytes("open", genesis_hash, encoded)
        self.sid, self.open = sid, opened
        self.open_id = signed[-crypto.HASH_BYTES :]
        self._keypair, self._genesis_hash, self._body = keypair, genesis_hash, body
        self.frame = Open(sid, encoded, keypair.sign_raw(signed), body)
        self._chain = _Chain(head=self.open_id, bytes_in=len(body))
        self._head_before_ask = self.open_id
        self._turn = _CALLEE
        self._finish_signature = b""

    @property
    def may_ask(self) -> bool:
        """True where it is the caller's turn and an ask is left."""
        return self._turn is _CALLER and self._chain.asks < self.open.max_asks

    def ask(self, payload: bytes) -> Ask:
        """The frame of the next ask. Raises Refused where it is not the caller's turn, or no ask is left."""
        if self._turn is not _CALLER:
            raise Refused("out_of_order", f"ask on {self._turn}")
        if self._chain.asks >= self.open.max_asks:
            raise Refused("over_budget", "no ask is left")
        if len(payload) > frames.BODY_MAX_BYTES:
            raise Refused("too_large", f"an ask of {len(payload)} bytes")
        self._head_before_ask = self._chain.head
        self._chain.ask(payload)
        self._turn = _CALLEE
        return Ask(self.sid, self._chain.asks, payload)

    def on_answer(self, frame: Answer) -> bytes:
        """The payload of the next answer. Raises Refused out_of_order or over_budget: the neuron broke the protocol."""
        if self._turn is not _CALLEE or self._finish_signature or frame.seq != self._chain.answers:
            raise Refused("out_of_order", f"ANSWER {frame.seq} on {self._turn}")
        if self._chain.answers > frames.MAX_ASKS or self._chain.bytes_out + len(frame.payload) > frames.SESSION_MAX_BYTES:
            raise Refused("over_budget", "answers over the session's limit")
        self._chain.answer(frame.payload)
        if self.open.max_asks > 0:
            self._turn = _CALLER
        return frame.payload

    def finish(self) -> Finish:
        """The signed end of a session with asks. Raises Refused where an answer is still due."""
        if self._turn is not _CALLER:
            raise Refused("out_of_order", f"finish on {self._turn}")
        content = frames.finish_content(self.open_id, self._chain.asks, self._chain.head)
        self._finish_signature = self._keypair.sign("finish", self._genesis_hash, content)
        self._turn = _CALLEE
        return Finish(self.sid, self._chain.asks, self._chain.head, self._finish_signature)

    def on_close(self, frame: Close) -> tuple[Receipt, Checked, bytes]:
        """(receipt, its checked content, transcript). Raises Refused: the closing does not fit what travelled."""
        closed = CloseBody.decode(frame.close_body)
        finish = self._finish_signature if closed.status == OK else b""
        receipt = Receipt(self.frame.open_body, self.frame.signature, finish, frame.close_body, frame.signature)
        self._check_chain(closed)
        try:
            checked = receipt.verify_callee(self._genesis_hash, self.open_id, self.open, closed)
        except Rejected as error:
            raise Refused("bad_signature", error.cause) from None
        if closed.status == OK and not checked.both_sides:
            raise Refused("out_of_order", "closed as complete before FINISH")
        if closed.units_in >= MAX_UNITS or closed.units_out >= MAX_UNITS:
            raise Refused("malformed", "units out of bounds")
        self._check_upstream(closed, frame.upstream_receipts)
        self._turn = _ENDED
        return receipt, checked, self._chain.transcript(self._body)

    def _check_chain(self, closed: CloseBody) -> None:
        """The callee's head must be this side's; where it stopped by itself, an ask on its way may be missing."""
        chain = self._chain
        here = (chain.head, chain.asks, chain.answers)
        waiting = self._turn is _CALLEE and not self._finish_signature and chain.asks > 0
        before_ask = (self._head_before_ask, chain.asks - 1, chain.answers) if waiting else here
        ends = (here,) if closed.status == OK else (here, before_ask)
        if closed.open_id != self.open_id or (closed.head, closed.asks, closed.answers) not in ends:
            raise Refused("out_of_order", "CLOSE over another chain")

    def _check_upstream(self, closed: CloseBody, receipts: tuple[bytes, ...]) -> None:
        """Each receipt must be of a session that the callee opened for this one, within what the caller allowed."""
        if len(receipts) > (self.open.budget if self.open.hops else 0):
            raise Refused("over_budget", f"{len(receipts)} sessions used, more than the caller allowed")
        ids: list[bytes] = []
        for data in receipts:
            try:
                checked = Receipt.decode(data).verify(self._genesis_hash)
            except (Rejected, DecodeError) as error:
                raise Refused("bad_signature", f"upstream receipt: {error.cause}") from None
            if checked.open.caller != self.open.callee:
                raise Refused("malformed", "an upstream receipt of somebody else")
            if checked.open.trace[-1:] != ((self.open.callee, self.open_id),) or checked.open_id in ids:
                raise Refused("malformed", "an upstream receipt of another session")
            ids.append(checked.open_id)
        if b"".join(ids) != closed.upstream:
            raise Refused("malformed", "upstream receipts differ from their list")
