"""The checks of an OPEN, cheap to dear, without a clock or socket.

    shape -> version -> callee is me -> subnet and method -> path and budget -> issued_at within 30 s
    -> now < deadline <= issued_at + 60 s -> nonce unseen -> hash of the body -> signature -> nonce noted

The length was checked before the frame was read. Nothing of the caller's is believed or remembered before its
signature verified, and each check that fails has its own error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from ledger import crypto

from . import frames
from .frames import Open, OpenBody
from .refusals import Refused


class Seen(Protocol):
    """The replay guard as admission uses it."""

    def check(self, caller: bytes, nonce: bytes, issued_at_ms: int, now_ms: int, *, stranger: bool = False) -> None:
        """Raises Refused stale, replayed or busy, for strangers earlier."""
        ...

    def note(self, caller: bytes, nonce: bytes, issued_at_ms: int, now_ms: int) -> None:
        """Remember it for good."""
        ...


@dataclass(slots=True)
class Admission:
    """What a neuron compares an OPEN with. `serves(netuid, method)`: what is served here; `is_stranger(netuid, caller)`."""

    hotkey: bytes
    genesis_hash: bytes
    serves: Callable[[int, str], bool]
    seen: Seen
    versions: Collection[int] = frames.VERSIONS
    is_stranger: Callable[[int, bytes], bool] = lambda netuid, caller: False

    def admit(self, frame: Open, now_ms: int) -> tuple[OpenBody, bytes]:
        """(body, open_id) of an OPEN that passed every check and is noted. Raises Refused."""
        if len(frame.body) > frames.BODY_MAX_BYTES:
            raise Refused("too_large", f"a body of {len(frame.body)} bytes, at most {frames.BODY_MAX_BYTES}")
        opened = OpenBody.decode(frame.open_body)
        self._check_version(opened)
        if opened.callee != self.hotkey:
            raise Refused("wrong_callee")
        if not self.serves(opened.netuid, opened.method):
            raise Refused("unknown_method", f"{opened.method} on subnet {opened.netuid}")
        self._check_path(opened)
        self._check_times(opened, now_ms)
        stranger = self.is_stranger(opened.netuid, opened.caller)
        self.seen.check(opened.caller, opened.nonce, opened.issued_at_ms, now_ms, stranger=stranger)
        if frames.payload_hash(frame.body) != opened.body_hash:
            raise Refused("bad_signature", "the body is not the one that was signed")
        signed = crypto.signing_bytes("open", self.genesis_hash, frame.open_body)
        if not crypto.verify_raw(opened.caller, signed, frame.signature):
            raise Refused("bad_signature", "OPEN")
        self.seen.note(opened.caller, opened.nonce, opened.issued_at_ms, now_ms)
        return opened, signed[-crypto.HASH_BYTES :]  # the tag, and the digest that is the session's name

    def _check_version(self, opened: OpenBody) -> None:
        if opened.version not in self.versions:
            raise Refused("bad_version", f"version {opened.version}")
        if opened.version < min(opened.newest, max(self.versions)):
            raise Refused("downgraded", f"version {opened.version}, both speak a higher one")

    def _check_path(self, opened: OpenBody) -> None:
        if any(hotkey == self.hotkey for hotkey, _ in opened.trace):
            raise Refused("loop")
        if opened.hops > frames.MAX_HOPS or opened.budget > frames.MAX_BUDGET:
            raise Refused("over_budget", f"{opened.hops} hops, a budget of {opened.budget}")
        if opened.max_asks > frames.MAX_ASKS:
            raise Refused("over_budget", f"{opened.max_asks} asks, at most {frames.MAX_ASKS}")

    def _check_times(self, opened: OpenBody, now_ms: int) -> None:
        if opened.issued_at_ms < now_ms - frames.CLOCK_WINDOW_MS:
            raise Refused("stale", f"issued {now_ms - opened.issued_at_ms} ms ago")
        if opened.issued_at_ms > now_ms + frames.CLOCK_WINDOW_MS:
            raise Refused("not_yet", f"issued {opened.issued_at_ms - now_ms} ms ahead")
        if opened.deadline_ms <= now_ms:
            raise Refused("expired", "the deadline has passed")
        if opened.deadline_ms > opened.issued_at_ms + frames.SESSION_MAX_MS:
            raise Refused("expired", f"the deadline is over {frames.SESSION_MAX_MS} ms away")
