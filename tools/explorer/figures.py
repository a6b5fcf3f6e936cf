"""How numbers look on the pages: amounts, shares, hashes, dates, and the small drawings beside them.

Drawings are SVG with attributes only, since the content security policy allows no inline style. A number always stands
beside a drawing: length and colour never carry a meaning alone.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

from ledger.client.fields import amount_of, amounts_of
from ledger.client.json_form import to_json
from ledger.client.keys import ELLIPSIS, short_address
from ledger.client.records import NeuronRecord

RAO: Final = 1_000_000_000
ONE_Q32: Final = 1 << 32
ONE_U16: Final = 65535
BAR_WIDTH: Final = 100
MAX_DATE_MS: Final = 253_402_300_799_000  # the end of the year 9999


def amount(rao: int, digits: int = 9) -> str:
    """`1,234.5` in Q, cut (not rounded) after `digits`."""
    whole, part = divmod(abs(int(rao)), RAO)
    text = f"{part:09d}"[:digits].rstrip("0")
    return f"{'-' if rao < 0 else ''}{whole:,}{'.' + text if text else ''}"


def q32(value: int, digits: int = 4) -> str:
    return f"{int(value) / ONE_Q32:.{digits}f}"


def u16(value: int, digits: int = 4) -> str:
    return f"{int(value) / ONE_U16:.{digits}f}"


def percent(part: int, whole: int) -> str:
    """`18.0 %`"""
    return f"{100 * part / whole if whole else 0:.1f} %"


def short(value: bytes) -> str:
    """`0x1234ab…cdef01`, of a hash."""
    text = hexed(value)
    return text if len(text) <= 15 else f"{text[:8]}…{text[-6:]}"


def short_key(public: bytes) -> str:
    """The beginning of a key's address, as the command line shows and takes it."""
    return short_address(public) + ELLIPSIS


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def field_name(name: str) -> str:
    """Name of a field of an event or call; amounts are shown in Q, not in rao."""
    return name.removesuffix("_rao")


def field_text(name: str, value: Any) -> str:
    """A field of an event, or an argument of a call: amounts in Q, those of all uids as their sum."""
    if (rao := amount_of(name, value)) is not None:
        return f"{amount(rao)} Q"
    if (each := amounts_of(name, value)) is not None:
        return f"{amount(sum(each))} Q for {sum(map(bool, each))} of {len(each)} uids"
    return value if isinstance(value, str) else json.dumps(to_json(value), ensure_ascii=False)


def when(timestamp_ms: int) -> str:
    """UTC date and time."""
    if not 0 <= timestamp_ms <= MAX_DATE_MS:
        return f"{timestamp_ms} ms"
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def role(neuron: NeuronRecord) -> str:
    """What a neuron does: judges, answers, both, or neither (a gateway has a uid, but only calls others).

    A miner whose pay has grown into a permit is no validator before it gives weights.
    """
    serves = neuron.serving is not None
    judges = neuron.permit and (neuron.weights_height > 0 or not serves)
    return "validator, miner" if judges and serves else "validator" if judges else "miner" if serves else "–"


def bar(part: float, whole: float, width: int = BAR_WIDTH) -> Markup:
    """A left-aligned bar for a share."""
    share = 0 if not whole else max(0.0, min(1.0, part / whole))
    return Markup(
        f'<svg class="bar" width="{width}" height="8" viewBox="0 0 {width} 8" aria-hidden="true" focusable="false">'
        f'<rect width="{width}" height="8" class="bar-back"/>'
        f'<rect width="{width * share:.1f}" height="8" class="bar-fill"/></svg>'
    )


def cut_bar(kept: int, voted: int, largest: int, width: int = 72) -> Markup:
    """What remains of a vote, then what was cut off it."""
    scale = width / largest if largest else 0.0
    return Markup(
        f'<svg class="bar" width="{width}" height="10" viewBox="0 0 {width} 10" aria-hidden="true" focusable="false">'
        f'<rect width="{kept * scale:.1f}" height="10" class="bar-fill"/>'
        f'<rect x="{kept * scale:.1f}" y=".5" width="{max(0, voted - kept) * scale:.1f}" height="9" class="bar-cut"/></svg>'
    )
