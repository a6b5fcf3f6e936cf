"""The errors of the wire: one table of numbers and names, declared once and never reused.

Five of them end the connection as well: a peer that sends them is broken or hostile, and ten from one address within a
minute shut that address out for a minute.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import Rejected

DETAIL_MAX_BYTES: Final = 120

# code -> (name, what it means)
REFUSALS: Final[dict[int, tuple[str, str]]] = {
    1: ("malformed", "not strict CBOR, or a field is missing or of the wrong size"),
    2: ("too_large", "a length is over its cap"),
    3: ("bad_version", "this version is not spoken here"),
    4: ("downgraded", "both sides speak a higher version than the one used"),
    5: ("wrong_chain", "the genesis hash is another chain's"),
    6: ("wrong_callee", "addressed to another hotkey"),
    7: ("unknown_method", "the method or subnet is not served here"),
    8: ("stale", "issued too long ago, or before this machine started"),
    9: ("not_yet", "issued in the future"),
    10: ("replayed", "this caller used this nonce before"),
    11: ("bad_signature", "the signature or the hash of the body does not fit"),
    12: ("rate_limited", "too much work asked for; retry later"),
    13: ("busy", "a queue or table is full; retry later"),
    14: ("expired", "the deadline has passed or is too far away"),
    15: ("out_of_order", "the sequence number, turn or chain head differs"),
    16: ("too_slow", "a frame, a step or the connection idled too long"),
    17: ("loop", "this neuron is already part of the request's path"),
    18: ("over_budget", "hops, budget, fan-out or a limit of the session is exceeded"),
    19: ("blacklisted", "this caller is not served here"),
    20: ("model_failed", "the model failed before its first answer"),
    21: ("closing", "the neuron is shutting down; retry later"),
}
CODES: Final = {name: code for code, (name, _) in REFUSALS.items()}
ENDS_CONNECTION: Final = frozenset(CODES[name] for name in (
    "malformed", "too_large", "bad_signature", "out_of_order", "too_slow",
))  # fmt: skip


class Refused(Rejected):
    """A neuron refused a session, or a peer broke the protocol. `error_name` is a name of the table above."""

    name = "Refused"

    def __init__(self, error_name: str, detail: str = "", *, retry_after_ms: int = 0) -> None:
        self.code = CODES[error_name]
        self.detail = detail.encode()[:DETAIL_MAX_BYTES].decode(errors="ignore")
        self.retry_after_ms = retry_after_ms
        hint = f"retry after {retry_after_ms} ms" if retry_after_ms else ""
        super().__init__(error_name, detail or REFUSALS[self.code][1], hint=hint, code=self.code)

    @property
    def ends_connection(self) -> bool:
        """True where the connection cannot be used any more."""
        return self.code in ENDS_CONNECTION


def refusal(code: int, detail: str, retry_after_ms: int) -> Refused:
    """The exception of a REFUSE frame. A code that is not in the table reads as `malformed`."""
    name = REFUSALS[code][0] if code in REFUSALS else "malformed"
    return Refused(name, detail, retry_after_ms=retry_after_ms)
