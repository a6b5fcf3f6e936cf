"""The two state machines: honest sessions agree on the chain, and everything out of order is refused."""

import os
from dataclasses import replace

import pytest

from ai.receipts import Receipt
from ai.serve import frames
from ai.serve.frames import Answer, Ask, Close, Finish, OpenBody, payload_hash
from ai.serve.refusals import Refused
from ai.serve.sessions import CalleeSession, CallerSession
from ledger.crypto import KeyPair
from ledger.errors import Rejected

GENESIS = b"g" * 32
CALLER, CALLEE, THIRD = (KeyPair.from_seed(name * 32) for name in (b"a", b"b", b"c"))


def pair(max_asks=0, body=b"body", callee=CALLEE, hops=0, budget=0):
    opened = OpenBody(
        1, 1, 1, CALLER.public, callee.public, "distribution", os.urandom(16), 1000, 2000, max_asks, int(hops), budget, (),
        payload_hash(body),
    )
    caller = CallerSession(1, opened, body, CALLER, GENESIS)
    open_id = opened.open_id(GENESIS, caller.frame.open_body)
    return caller, CalleeSession(caller.frame, opened, open_id, callee, GENESIS)


def close(callee, status=frames.OK, upstream=()):
    return callee.close(
        status, model_hash=b"m" * 32, epoch=3, units_in=1, units_out=2, now_ms=1500, upstream=upstream
    )


def lock_step(max_asks=3, asks=2):
    """A session after `asks` rounds, on the caller's turn."""
    caller, callee = pair(max_asks)
    caller.on_answer(callee.answer(b"first"))
    for index in range(asks):
        callee.on_ask(caller.ask(b"ask %d" % index))
        caller.on_answer(callee.answer(b"answer %d" % index))
    return caller, callee


def refused(name, function, *arguments):
    with pytest.raises(Refused) as caught:
        function(*arguments)
    assert caught.value.error_name == name, caught.value


def test_one_shot_sessions_leave_the_same_receipt_on_both_sides():
    caller, callee = pair()
    assert caller.on_answer(callee.answer(b"one")) == b"one"
    caller.on_answer(callee.answer(b"two"))
    frame, receipt, transcript = close(callee)
    mine, checked, mine_transcript = caller.on_close(frame)
    assert mine == receipt and mine_transcript == transcript
    assert (checked.close.answers, checked.close.asks, checked.both_sides) == (2, 0, True)
    assert Receipt.decode(receipt.encode()).verify(GENESIS) == checked


def test_lock_step_sessions_are_signed_at_both_ends():
    caller, callee = lock_step()
    callee.on_finish(caller.finish())
    frame, receipt, _ = close(callee)
    mine, checked, _ = caller.on_close(frame)
    assert mine == receipt and len(receipt.finish_signature) == 64
    assert (checked.close.asks, checked.close.answers, checked.both_sides) == (2, 3, True)


def test_a_closing_crosses_an_ask_on_its_way():
    caller, callee = lock_step()
    caller.ask(b"never seen by the callee")
    frame, receipt, _ = close(callee, frames.EXPIRED)
    mine, checked, _ = caller.on_close(frame)
    assert mine == receipt and checked.close.asks == 2 and not checked.both_sides


def test_a_cancelled_session_closes_over_what_was_sent():
    caller, callee = lock_step()
    mine, checked, _ = caller.on_close(close(callee, frames.CANCELLED)[0])
    assert checked.close.status == frames.CANCELLED and mine.finish_signature == b""


def test_a_finish_that_the_deadline_overtook_proves_nothing():
    caller, callee = lock_step()
    caller.finish()
    mine, checked, _ = caller.on_close(close(callee, frames.EXPIRED)[0])
    assert mine.finish_signature == b"" and not checked.both_sides


# --- the callee against a caller that breaks the order


def test_the_callee_takes_asks_only_in_turn():
    caller, callee = pair(max_asks=2)
    refused("out_of_order", callee.on_ask, Ask(1, 1, b""))
    callee.answer(b"")
    refused("out_of_order", callee.answer, b"twice")
    refused("out_of_order", callee.on_ask, Ask(1, 2, b""))
    refused("out_of_order", callee.on_ask, Ask(1, 0, b""))
    callee.on_ask(Ask(1, 1, b""))
    refused("out_of_order", callee.on_ask, Ask(1, 2, b""))


def test_the_callee_takes_no_ask_where_none_was_announced():
    _, callee = pair()
    callee.answer(b"")
    refused("out_of_order", callee.on_ask, Ask(1, 1, b""))


def test_the_callee_holds_the_caller_to_its_limits(monkeypatch):
    _, callee = lock_step(max_asks=2, asks=2)
    refused("over_budget", callee.on_ask, Ask(1, 3, b""))
    _, callee = lock_step()
    refused("too_large", callee.on_ask, Ask(1, 3, bytes(frames.BODY_MAX_BYTES + 1)))
    monkeypatch.setattr(frames, "SESSION_MAX_BYTES", 100)
    refused("over_budget", callee.on_ask, Ask(1, 3, bytes(100)))


def test_answers_are_bounded(monkeypatch):
    monkeypatch.setattr(frames, "SESSION_MAX_BYTES", 100)
    caller, callee = pair()
    refused("over_budget", callee.answer, bytes(101))
    refused("over_budget", caller.on_answer, Answer(1, 0, bytes(101)))
    monkeypatch.setattr(frames, "MAX_ASKS", 3)
    for _ in range(4):
        caller.on_answer(callee.answer(b""))
    refused("over_budget", callee.answer, b"")
    refused("over_budget", caller.on_answer, Answer(1, 4, b""))


@pytest.mark.parametrize("change", ["asks", "head", "signature", "signer", "empty"])
def test_a_finish_must_fit(change):
    caller, callee = lock_step()
    finish = caller.finish()
    content = frames.finish_content(caller.open_id, finish.asks, finish.head)
    changed = {
        "asks": Finish(1, finish.asks + 1, finish.head, finish.signature),
        "head": Finish(1, finish.asks, b"x" * 32, finish.signature),
        "signature": Finish(1, finish.asks, finish.head, bytes([finish.signature[0] ^ 1]) + finish.signature[1:]),
        "signer": Finish(1, finish.asks, finish.head, THIRD.sign("finish", GENESIS, content)),
        "empty": Finish(1, finish.asks, finish.head, b""),
    }[change]
    refused("out_of_order" if change in ("asks", "head") else "bad_signature", callee.on_finish, changed)
    callee.on_finish(finish)
    refused("out_of_order", callee.on_finish, finish)
    refused("out_of_order", callee.on_ask, Ask(1, 3, b""))


# --- the caller against a callee that breaks the order


def test_the_caller_takes_answers_only_in_turn():
    caller, callee = pair(max_asks=2)
    refused("out_of_order", caller.on_answer, Answer(1, 1, b""))
    refused("out_of_order", caller.ask, b"too early")
    refused("out_of_order", caller.finish)
    caller.on_answer(callee.answer(b""))
    refused("out_of_order", caller.on_answer, Answer(1, 1, b"unasked"))
    caller.finish()
    refused("out_of_order", caller.on_answer, Answer(1, 1, b"after the end"))


def test_the_caller_keeps_its_own_limits():
    caller, _ = lock_step(max_asks=2, asks=2)
    assert not caller.may_ask
    refused("over_budget", caller.ask, b"")
    caller, _ = lock_step()
    refused("too_large", caller.ask, bytes(frames.BODY_MAX_BYTES + 1))


def forged(callee, key=CALLEE, **changes):
    frame = close(callee)[0]
    body = replace(frames.CloseBody.decode(frame.close_body), **changes).encode()
    return Close(1, body, key.sign("close", GENESIS, body), frame.upstream_receipts)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"open_id": b"x" * 32}, "out_of_order"),
        ({"head": b"x" * 32}, "out_of_order"),
        ({"asks": 1}, "out_of_order"),
        ({"answers": 9}, "out_of_order"),
        ({"units_out": (1 << 32) - 1}, "malformed"),
        ({"upstream": b"u" * 32}, "malformed"),
    ],
)
def test_a_closing_over_something_else_is_refused(changes, error):
    caller, callee = lock_step()
    callee.on_finish(caller.finish())
    refused(error, caller.on_close, forged(callee, **changes))


CLOSING = {
    "version": (2, "bad_version"), "open_id": (b"x" * 32, "out_of_order"), "head": (b"x" * 32, "out_of_order"),
    "asks": (1, "out_of_order"), "answers": (4, "out_of_order"), "status": (frames.LIMIT, "bad_signature"),
    "model_hash": (b"x" * 32, "bad_signature"), "epoch": (4, "bad_signature"), "units_in": (2, "bad_signature"),
    "units_out": (1, "bad_signature"), "closed_at_ms": (1501, "bad_signature"), "upstream": (b"u" * 32, "bad_signature"),
}  # fmt: skip


@pytest.mark.parametrize("field", frames.CloseBody.__dataclass_fields__)
def test_a_field_of_a_closing_changed_on_the_way_is_refused(field):
    caller, callee = lock_step()
    callee.on_finish(caller.finish())
    frame, change, error = close(callee)[0], *CLOSING[field]
    body = replace(frames.CloseBody.decode(frame.close_body), **{field: change}).encode()
    refused(error, caller.on_close, Close(1, body, frame.signature))
    assert caller.on_close(frame)[1].both_sides  # the true one still counts


def test_a_closing_of_another_session_and_a_second_one_are_refused():
    caller, callee = lock_step()
    callee.on_finish(caller.finish())
    other, twin = lock_step()
    twin.on_finish(other.finish())
    refused("out_of_order", caller.on_close, close(twin)[0])
    for signature in (b"", CALLEE.sign("open", GENESIS, b""), CALLEE.sign("close", b"x" * 32, close(callee)[0].close_body)):
        refused("bad_signature", caller.on_close, Close(1, close(callee)[0].close_body, signature))


@pytest.mark.parametrize("kind", ["ask", "answer"])
def test_a_step_changed_on_the_way_ends_in_another_head(kind):
    caller, callee = lock_step()
    ask = caller.ask(b"what the caller said")
    callee.on_ask(replace(ask, payload=b"what was heard") if kind == "ask" else ask)
    answer = callee.answer(b"what the neuron said")
    caller.on_answer(replace(answer, payload=b"what was heard") if kind == "answer" else answer)
    refused("out_of_order", callee.on_finish, caller.finish())
    for status in (frames.OK, frames.CANCELLED):
        refused("out_of_order", caller.on_close, close(callee, status)[0])


def test_a_closing_by_somebody_else_is_refused():
    caller, callee = lock_step()
    callee.on_finish(caller.finish())
    refused("bad_signature", caller.on_close, forged(callee, THIRD))
    frame = close(callee)[0]
    refused("bad_signature", caller.on_close, Close(1, frame.close_body, b"", ()))


def test_complete_before_finish_is_refused():
    caller, callee = lock_step()
    refused("bad_signature", caller.on_close, close(callee)[0])


# --- upstream receipts


def upstream_receipt(caller_key, *path):
    body = b""
    opened = OpenBody(
        1, 1, 1, caller_key.public, THIRD.public, "distribution", os.urandom(16), 1000, 2000, 0, 0, 0, path, payload_hash(body)
    )
    inner = CallerSession(1, opened, body, caller_key, GENESIS)
    callee = CalleeSession(inner.frame, opened, inner.open_id, THIRD, GENESIS)
    inner.on_answer(callee.answer(b"x"))
    return inner.open_id, close(callee)[1].encode()


def test_upstream_receipts_travel_with_the_closing():
    caller, callee = pair(hops=1, budget=1)
    caller.on_answer(callee.answer(b""))
    open_id, data = upstream_receipt(CALLEE, (CALLEE.public, caller.open_id))
    _, checked, _ = caller.on_close(close(callee, upstream=((open_id, data),))[0])
    assert checked.close.upstream == open_id


@pytest.mark.parametrize(("kind", "error"), [
    ("somebody else's", "malformed"), ("noise", "bad_signature"), ("another id", "malformed"), ("of a root", "malformed"),
    ("of another session", "malformed"), ("of a session further up", "malformed"), ("twice", "malformed"),
    ("no hop allowed", "over_budget"), ("no budget", "over_budget"), ("over the budget", "over_budget"),
])
def test_false_upstream_receipts_are_refused(kind, error):
    caller, callee = pair(hops=kind != "no hop allowed", budget={"no budget": 0, "over the budget": 1}.get(kind, 2))
    caller.on_answer(callee.answer(b""))
    here = (CALLEE.public, caller.open_id)
    path = {
        "of a root": (), "of another session": ((CALLEE.public, b"o" * 32),),
        "of a session further up": (here, (THIRD.public, b"o" * 32)),
    }.get(kind, (here,))
    open_id, data = upstream_receipt(CALLER if kind == "somebody else's" else CALLEE, *path)
    if kind == "noise":
        data = b"noise"
    if kind == "another id":
        open_id = b"x" * 32
    upstream = ((open_id, data),) * (1 + (kind in ("twice", "over the budget")))
    refused(error, caller.on_close, close(callee, upstream=upstream)[0])


# --- receipts offline


def finished():
    caller, callee = lock_step()
    callee.on_finish(caller.finish())
    return close(callee)[1]


@pytest.mark.parametrize("field", ["open_body", "caller_signature", "finish_signature", "close_body", "callee_signature"])
def test_a_receipt_with_any_field_changed_is_invalid(field):
    receipt, value = finished(), getattr(finished(), field)
    assert receipt.verify(GENESIS).both_sides
    with pytest.raises(Rejected):
        replace(receipt, **{field: value}).verify(GENESIS)  # of another session
    own = getattr(receipt, field)
    with pytest.raises(Rejected):
        replace(receipt, **{field: own[:-1] + bytes([own[-1] ^ 1])}).verify(GENESIS)


def test_a_receipt_of_another_chain_is_invalid():
    with pytest.raises(Rejected):
        finished().verify(b"x" * 32)


def test_a_complete_receipt_needs_its_finish():
    with pytest.raises(Rejected, match="did not sign this end"):
        replace(finished(), finish_signature=b"").verify(GENESIS)


def test_large_sessions_keep_no_transcript(monkeypatch):
    monkeypatch.setattr("ai.serve.sessions.TRANSCRIPT_KEPT_BYTES", 50)
    caller, callee = pair()
    for _ in range(5):
        caller.on_answer(callee.answer(bytes(20)))
    assert close(callee)[2] == b""
