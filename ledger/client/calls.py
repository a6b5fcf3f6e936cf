"""Calls to the chain: build from metadata, sign, submit, and wait until the outcome is final.

    wallet = Wallet(api, keypair)
    done = await wallet.submit("stake.add", hotkey=..., netuid=1, amount_rao=5_000_000_000)

Argument names and order come from the chain's own metadata; nothing about calls is written down here. Nonces count what
waits in the pool, so several calls of one account may be in flight. An extrinsic is valid from its birth block for
`period` blocks; while it is, it is submitted again if a node lost it (the same bytes, so it can never happen twice);
when the period is over without inclusion it can never be included any more, and it is signed anew.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ..blocks import DEFAULT_PERIOD, MIN_PERIOD, Extrinsic
from ..crypto import KeyPair
from ..errors import NotFound, NotReady, RateLimited, Rejected, Timeout, Unreachable, UsageError
from .api import ChainApi
from .metadata_records import CallRecord, Metadata
from .records import EventRecord, ExtrinsicRecord, Properties

Wait = Literal["none", "pool", "final"]
SHORTEST_PERIOD: Final = MIN_PERIOD  # for calls that mean something else if they come late
MAX_ATTEMPTS: Final = 3  # signatures made for one call, each after the one before expired or lost its nonce
POLL_FIRST_MS: Final = 25
POLL_CAP_MS: Final = 500
# Refusals by the pool that say that our nonce was taken meanwhile by another signer of the same account.
STALE_NONCE: Final = ("NonceTooLow", "NonceUsed", "FeeTooLowToReplace")
KNOWN: Final = ("AlreadyKnown", "AlreadyIncluded")


@dataclass(frozen=True)
class Submitted:
    """What became of a call. `height` and `index` are None unless it is final; `error` is "" on success."""

    id: bytes
    height: int | None = None
    index: int | None = None
    error: str = ""
    events: list[EventRecord] = field(default_factory=list)
    fee_rao: int = 0

    @property
    def ok(self) -> bool:
        return not self.error


class Wallet:
    """Signs and submits for one account through one node."""

    def __init__(self, api: ChainApi, key: KeyPair, *, period: int = DEFAULT_PERIOD) -> None:
        self.api, self.key, self.period = api, key, period
        self._turn = asyncio.Lock()  # from choosing a nonce until the pool has taken it
        self._metadata: Metadata | None = None
        self._properties: Properties | None = None

    async def submit(
        self, call: str, /, *, wait: Wait = "final", timeout_s: float = 60.0, tip_rao: int = 0, check: bool = True,
        **arguments: Any,
    ) -> Submitted:
        """Sign and submit `call` ("module.function") with its arguments by name.

        `wait`: "final" returns with the outcome, "pool" when a node has taken it, "none" at once after sending (then a
        refusal by the pool is still raised: the node answers with it). With `check`, a final but failed call raises
        Rejected with the rule's name; without, it is returned with `error` set. Raises Timeout when the outcome is not
        known in time (its `id` is in the error), UsageError for an unknown call or argument.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        last_id = b""
        for attempt in range(MAX_ATTEMPTS):
            try:
                async with asyncio.timeout_at(deadline):
                    extrinsic = await self._send(call, arguments, tip_rao, follow=wait == "final")
                    last_id = extrinsic.id
                    if wait != "final":
                        return Submitted(extrinsic.id)
                    record = await self._follow(extrinsic)
            except TimeoutError:
                name = f" of {call} (0x{last_id.hex()})" if last_id else f" of {call}"
                raise Timeout(f"the outcome{name} is not known after {timeout_s:g} s", id=last_id) from None
            except Rejected as refused:
                if refused.error_name in STALE_NONCE and attempt + 1 < MAX_ATTEMPTS:
                    continue
                raise
            if record is not None:
                return await self._outcome(record, check)
        raise Rejected("Expired", f"{call} was signed {MAX_ATTEMPTS} times and expired each time", id=last_id)

    async def sign(self, call: str, arguments: Mapping[str, Any], *, nonce: int, tip_rao: int = 0) -> Extrinsic:
        """Build and sign without submitting, with the head as birth block."""
        properties, entry = await self._chain(), await self._call(call)
        head = await self.api.chain_get_header()
        return Extrinsic.sign(
            self.key, properties.genesis_hash, head.hash, nonce=nonce, birth_height=head.height,
            call_number=entry.number, args=_positional(entry, arguments), period=self.period, tip=tip_rao,
        )

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _send(self, call: str, arguments: Mapping[str, Any], tip_rao: int, *, follow: bool) -> Extrinsic:
        """Choose a nonce, sign, and put it into the node's pool; one at a time for this account.

        Where the outcome is followed, a node that does not answer to the submission is no failure yet.
        """
        async with self._turn:
            nonce = await self.api.author_next_nonce(self.key.public)
            extrinsic = await self.sign(call, arguments, nonce=nonce, tip_rao=tip_rao)
            try:
                await self.api.author_submit_extrinsic(extrinsic.encode())
            except Rejected as refused:
                if refused.error_name not in KNOWN:
                    raise
            except (Timeout, Unreachable):
                if not follow:
                    raise
            return extrinsic

    async def _follow(self, extrinsic: Extrinsic) -> ExtrinsicRecord | None:
        """The final record, or None once the extrinsic has expired without being included."""
        raw, expires_at = extrinsic.encode(), extrinsic.birth_height + extrinsic.period
        pause_ms, missing = POLL_FIRST_MS, 0
        while True:
            try:
                # Height first: what is not found at a height at or above the expiry is in no block, now or later.
                height = (await self.api.chain_get_header()).height
                record = await self._find(extrinsic.id)
                if record is not None and record.height is not None:
                    return record
                if height >= expires_at:
                    return None
                missing = missing + 1 if record is None else 0
                if missing >= 2:
                    await self._resend(raw)
            except (Unreachable, NotReady, RateLimited, Timeout):
                pass  # the node restarts or is busy; the deadline ends this
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 3 // 2, POLL_CAP_MS)

    async def _find(self, extrinsic_id: bytes) -> ExtrinsicRecord | None:
        try:
            return await self.api.chain_get_extrinsic(extrinsic_id)
        except NotFound:
            return None

    async def _resend(self, raw: bytes) -> None:
        """The node no longer has it: give it the same bytes again. A refusal here is no outcome, only a fact to poll on."""
        try:
            await self.api.author_submit_extrinsic(raw)
        except Rejected:
            pass

    async def _outcome(self, record: ExtrinsicRecord, check: bool) -> Submitted:
        if record.error and check:
            metadata = await self._described()
            rule = next((rule for rule in metadata.errors if rule.name == record.error), None)
            cause, hint = (rule.cause, rule.hint) if rule else (record.error, "")
            raise Rejected(record.error, cause, hint=hint, id=record.id, height=record.height, fee_rao=record.fee_rao)
        return Submitted(record.id, record.height, record.index, record.error, record.events, record.fee_rao)

    # --- what the chain says about itself ----------------------------------------------------------------------------

    async def _chain(self) -> Properties:
        if self._properties is None:
            self._properties = await self.api.system_properties()
        return self._properties

    async def _described(self) -> Metadata:
        if self._metadata is None:
            self._metadata = await self.api.state_get_metadata()
        return self._metadata

    async def _call(self, name: str) -> CallRecord:
        metadata = await self._described()
        for entry in metadata.calls:
            if entry.name == name:
                return entry
        raise UsageError(f"the chain has no call {name[:64]!r}{_nearest(name, [c.name for c in metadata.calls])}")


def _positional(entry: CallRecord, arguments: Mapping[str, Any]) -> list[Any]:
    """Arguments in the call's order. Raises UsageError naming the one that is missing or unknown."""
    names = [name for name, _ in entry.args]
    for given in arguments:
        if given not in names:
            raise UsageError(f"{entry.name} has no argument {given!r}{_nearest(given, names)}")
    for name, kind in entry.args:
        if name not in arguments:
            raise UsageError(f"{entry.name} needs {name} ({kind})")
    return [_plain(arguments[name]) for name in names]


def _plain(value: Any) -> Any:
    """Tuples become lists, byte-like values bytes: what decodes to itself."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:64], known, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known[:20])}"
