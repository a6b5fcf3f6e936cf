"""The gateway without HTTP: the market it follows, the requests that run, their receipts and counts.

Beside the requests three loops run: the market's picture is refreshed, its experts are measured, and once an epoch the
root of each subnet's receipts goes on chain. Each request runs in a task of its own (`Running`), which holds its place
and its sessions: whoever waits for its bytes may go away at any moment, and cancelling the task ends everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

from ai.contradiction import describe
from ai.judge.ballot import commit_root
from ai.receipts import Receipt, ReceiptProof, ReceiptStore
from ai.serve.client import NeuronClient
from ai.serve.clock import wall_ms
from ai.serve.frames import OpenBody
from ledger.client.api import ChainApi
from ledger.client.calls import Wallet
from ledger.client.keys import decode_address, encode_address, short_address
from ledger.crypto import KeyPair
from ledger.errors import Error, Rejected, Unreachable

from .audit import AUDIT_SHARE, audit
from .decisions import DecisionLog, explain, record_of
from .generate import Generation, Trail, Wish
from .market import Expert, Market
from .openai import ApiError, Request
from .router import TOP
from .usage import FREE_UNITS_A_DAY, Usage

MAX_IN_FLIGHT: Final = 8
MAX_WAITING: Final = 32
MAX_OF_ONE_KEY: Final = 20  # at work or waiting: no key shall keep all others out
REQUEST_TIMEOUT_S: Final = 60.0
CALIBRATE_EVERY_S: Final = 12.0
CALIBRATE_FAST: Final = 8  # the first measurements come quickly: a gate needs some hundred rows
CALIBRATE_FAST_S: Final = 1.0
REFRESH_EVERY_S: Final = 2.0
ROOTS_EVERY_S: Final = 2.0
PROOFS_AT_ONCE: Final = 2  # a proof reads files
MAX_LEFT_OUT: Final = 16
MAX_LISTED: Final = 16  # names in a message
SECONDS_A_DAY: Final = 86_400

Report = Callable[[dict[str, Any]], None]
LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True)
class GatewayConfig:
    """`api_keys`: if not empty, a Bearer key among them is required. `quotas`: bytes a day of keys that have not the usual
    number. `hosts`: names under which it may be called."""

    key: KeyPair
    home: Path
    api_keys: frozenset[str] = frozenset()
    seed: int | None = None  # of routing's exploration and of what is measured; None: from the system's randomness
    hosts: frozenset[str] = LOCAL_NAMES
    quotas: Mapping[str, int] = field(default_factory=dict)
    measure: bool = True


class Gateway:
    """State of the process."""

    def __init__(self, config: GatewayConfig, api: ChainApi, texts: dict[str, bytes], report: Report) -> None:
        """`texts`: what to measure experts with, by domain. Raises Locked where another gateway has the same home."""
        self.config, self.api, self.texts, self.report = config, api, texts, report
        self.random: Random = SystemRandom() if config.seed is None else Random(config.seed)
        self.receipts = ReceiptStore(config.home / "receipts", clock=wall_ms)
        self.usage = Usage(config.home / "usage.db")
        self.decisions = DecisionLog(config.home / "routes.db")
        self.wallet = Wallet(api, config.key)
        self._quotas = {self.usage.caller(key): units for key, units in config.quotas.items()}
        self.places = asyncio.Semaphore(MAX_IN_FLIGHT)
        self.served = self.usage.total_requests()
        self.failed = 0
        self.created = int(time.time())
        self.running: set[Running] = set()
        self.rooted: dict[int, int] = {}
        self._market: Market | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._proofs = asyncio.Semaphore(PROOFS_AT_ONCE)
        self.audits = 0
        self._auditing: asyncio.Task[None] | None = None

    @property
    def market(self) -> Market:
        """Raises Unreachable until `start` has been through."""
        if self._market is None:
            raise Unreachable("the gateway has not reached its node yet")
        return self._market

    async def start(self) -> None:
        """Connect to the chain and begin to follow it; raises Unreachable if the node does not answer."""
        properties = await self.api.system_properties()
        epochs: dict[int, int] = {}
        client = NeuronClient(
            self.config.key, properties.genesis_hash, receipts=self.receipts, epoch_of=lambda netuid: epochs.get(netuid, 0),
            allow_private=properties.allow_private, allow_clear=properties.devnet,
        )
        market = self._market = Market(self.api, client, self.texts, self.random, epochs, self.report)
        loops: list[tuple[Callable[[], Coroutine[Any, Any, None]], Callable[[], float]]] = [
            (market.refresh, lambda: REFRESH_EVERY_S), (self._commit_roots, lambda: ROOTS_EVERY_S),
        ]
        if self.config.measure:
            loops.append((self._measure, self._pause))
        self._tasks = [asyncio.create_task(self._forever(work, pause)) for work, pause in loops]

    async def close(self) -> None:
        """Break off what runs, close connections and files."""
        loops = self._tasks + [task for task in (self._auditing,) if task is not None]
        works = [running.cancel() for running in list(self.running)] + loops
        for task in loops:
            task.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        if self._market is not None:
            await self._market.close()
            await self._market.client.close()
        self.receipts.close()
        self.usage.close()
        self.decisions.close()

    async def _forever(self, work: Callable[[], Coroutine[Any, Any, None]], pause: Callable[[], float]) -> None:
        """Do it again and again. A node or neuron that fails is asked again; the same trouble is told once."""
        told = ""
        while True:
            try:
                await work()
                told = ""
            except Error as error:
                rule = error.error_name if isinstance(error, Rejected) else error.name
                if rule != told:
                    told = rule
                    self.report({"event": "trouble", "doing": work.__name__.strip("_"), "error": rule, "cause": error.cause})
            except Exception as error:  # a mistake here must not end the loop, and must not be lost
                self.tell_bug(error)
            await asyncio.sleep(pause())

    def tell_bug(self, error: BaseException) -> None:
        """Report what should not have happened."""
        self.report({"event": "trouble", "error": "Bug", "cause": f"{type(error).__name__}: {error}"})

    async def _measure(self) -> None:
        for netuid in list(self.market.epochs):
            await self.market.calibrate(netuid)

    def _pause(self) -> float:
        return CALIBRATE_FAST_S if self.market.measurements < CALIBRATE_FAST else CALIBRATE_EVERY_S

    async def _commit_roots(self) -> None:
        """The root of the previous epoch's receipts of each subnet, once."""
        for netuid, epoch in list(self.market.epochs.items()):
            if epoch > 0 and self.rooted.get(netuid, -1) < epoch - 1:
                await commit_root(self.wallet, self.receipts, netuid, epoch - 1)
                self.rooted[netuid] = epoch - 1

    # --- models

    def models(self) -> list[str]:
        """Ids of everything that can be asked now."""
        experts = self.market.serving()
        netuids = sorted({netuid for e in experts for netuid in e.trust})
        names = Counter(e.name for e in experts)
        own = (e.name if names[e.name] == 1 else encode_address(e.hotkey) for e in experts)
        return ["net/moe", *(f"net/{n}/moe" for n in netuids), *(f"net/{name}" for name in own)]

    def resolve(self, model: str) -> tuple[int | None, Expert | None]:
        """(subnet or None for all, the one expert or None). Raises ApiError 404."""
        parts = model.split("/")
        if parts == ["net", "moe"]:
            return None, None
        if len(parts) == 3 and parts[::2] == ["net", "moe"]:
            netuid = next((n for n in self.market.epochs if str(n) == parts[1]), None)
            if netuid is not None:
                return netuid, None
        if len(parts) == 2 and parts[0] == "net":
            meant = [expert for expert in self.market.named(parts[1]) if expert.card is not None]
            if len(meant) == 1:
                return None, meant[0]
            if meant:
                message = f"the model {model[:128]!r} may be any of {_listed(encode_address(e.hotkey) for e in meant)}"
                raise ApiError(404, message, param="model", code="model_not_found")
        message = f"the model {model[:128]!r} does not exist; see /v1/models"
        raise ApiError(404, message, param="model", code="model_not_found")

    # --- requests

    def admit(self, authorization: str) -> str:
        """The name of a caller that may ask now. Raises ApiError 401 or 429."""
        caller = self.known(authorization)
        self._check_quota(caller)
        return caller

    def known(self, authorization: str) -> str:
        """The caller's name, whether or not its quota is used up. Raises ApiError 401."""
        if not self.config.api_keys:
            return self.usage.caller(None)
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or key not in self.config.api_keys:
            raise ApiError(401, "a valid API key is required", kind="authentication_error", code="invalid_api_key")
        return self.usage.caller(key)

    def _check_quota(self, caller: str) -> None:
        """Raises ApiError 429 where a key's day is used up, what is still at work counted as if it came to its end."""
        running = sum(running.most_units for running in self.running if running.caller == caller)
        used = self.usage.units_today(caller, wall_ms()) + running
        if self.config.api_keys and used > self._quotas.get(caller, FREE_UNITS_A_DAY):
            raise ApiError(429, "the day's quota is used up", kind="insufficient_quota", code="quota", retry_after_s=3600)

    def usage_of(self, caller: str) -> dict[str, Any]:
        """What a caller used, by day, and its quota: bytes a day, None where keys are off."""
        quota = self._quotas.get(caller, FREE_UNITS_A_DAY) if self.config.api_keys else None
        used = self.usage.units_today(caller, wall_ms())
        days = [
            {"day": f"{datetime.fromtimestamp(day * SECONDS_A_DAY, UTC):%Y-%m-%d}", "requests": requests, "units": units}
            for day, requests, units in self.usage.by_day(caller)
        ]
        left = None if quota is None else max(0, quota - used)
        return {"caller": caller, "units_today": used, "quota_a_day": quota, "left": left, "days": days}

    def wish(self, model: str, headers: Mapping[str, str]) -> Wish:
        """How a request wants to be routed: by its model, narrowed by headers. Raises ApiError 400 or 404.

        `x-quorix-subnet`: a netuid; `x-quorix-top`: places beside the generalist, 1 or 2; `x-quorix-without`: names or
        hotkeys to leave out, comma between them. A whole address may be of somebody who is not there: he is left out too.
        """
        netuid, only = self.resolve(model)
        if (subnet := headers.get("x-quorix-subnet")) is not None:
            if netuid is not None and str(netuid) != subnet:
                raise ApiError(400, "model and x-quorix-subnet name different subnets", param="x-quorix-subnet")
            netuid = next((known for known in self.market.epochs if str(known) == subnet), None)
            if netuid is None or (only is not None and netuid not in only.trust):
                raise ApiError(404, f"nothing like it on subnet {subnet[:16]!r}", param="x-quorix-subnet")
        top = headers.get("x-quorix-top", str(TOP))
        if top not in map(str, range(1, TOP + 1)):
            raise ApiError(400, f"x-quorix-top must be from 1 to {TOP}", param="x-quorix-top")
        return Wish(netuid, only, int(top), self._left_out(headers.get("x-quorix-without", "")))

    def _left_out(self, text: str) -> frozenset[bytes]:
        """Hotkeys of those whom a list names. Raises ApiError 400 for too many, for a name of nobody or of several."""
        parts = {part.strip() for part in text.split(",") if part.strip()}
        if len(parts) > MAX_LEFT_OUT:
            raise ApiError(400, f"at most {MAX_LEFT_OUT} experts can be left out", param="x-quorix-without")
        out = set()
        for part in sorted(parts):
            meant = [expert.hotkey for expert in self.market.named(part)] or _address(part)
            if len(meant) != 1:
                cause = f"{part[:64]!r} is {'more than one expert' if meant else 'no expert'}; there are "
                known = meant or [expert.hotkey for expert in self.market.experts.values()]
                said = _listed(encode_address(key) if meant else self.name_of(key) for key in known)
                raise ApiError(400, cause + said, param="x-quorix-without", code="unknown_expert")
            out.add(meant[0])
        return frozenset(out)

    def preview(self, prompt: bytes, wish: Wish) -> dict[str, Any]:
        """Whom the router would choose for a prompt now, without chance, and why. Nobody is asked."""
        known = [wish.only] if wish.only is not None else self.market.available(wish.netuid)
        candidates = [expert.candidate(wish.netuid) for expert in known if wish.takes(expert)]
        decision = self.market.router.choose(prompt or b"\n", candidates, [0.0] * len(candidates), top=wish.top)
        return explain(decision, self.name_of)

    async def _audit(self, receipt: str) -> None:
        """Ask a session's question again; tell of a contradiction. Who does not answer is measured elsewhere."""
        open_id = bytes.fromhex(receipt)
        with contextlib.suppress(Error):
            proof = await asyncio.to_thread(self.receipts.prove, open_id)
            expert = self.market.experts.get(OpenBody.decode(Receipt.decode(proof.receipt).open_body).callee)
            if expert is None:
                return
            proven = await audit(self.market.client, self.receipts, expert.address, open_id, self.random)
            self.audits += 1
            if proven is not None:
                self.report({"event": "contradiction", **describe(proven)})

    def name_of(self, hotkey: bytes) -> str:
        """An expert's name, or the beginning of its address once it is gone."""
        expert = self.market.experts.get(hotkey)
        return expert.name if expert is not None else short_address(hotkey)

    def run(self, caller: str, request: Request, wish: Wish) -> Running:
        """Start a request. Raises ApiError 429 where too many wait already."""
        own = sum(running.caller == caller for running in self.running)
        if len(self.running) >= MAX_IN_FLIGHT + MAX_WAITING or (self.config.api_keys and own >= MAX_OF_ONE_KEY):
            raise ApiError(429, "the gateway is busy", kind="rate_limit_error", code="busy", retry_after_s=1)
        self._check_quota(caller)  # again: while the body came, others of this key may have begun
        return Running(self, caller, request, Generation(self.market, request.prompt, request.sampling, wish))

    def settle(self, name: str, caller: str, request: Request, trail: Trail) -> None:
        """Count and record a request that is over, however it ended."""
        if trail.decisions:
            now_ms = wall_ms()
            about = {"id": name, "model": request.model, "at_ms": now_ms, "prompt_bytes": len(request.prompt)}
            self.decisions.add(name, now_ms, {**about, **record_of(trail, self.name_of)})
        if not trail.units:
            self.failed += 1
            return
        if trail.receipts and self._auditing is None and self.random.random() < AUDIT_SHARE:
            self._auditing = asyncio.create_task(self._audit(self.random.choice(trail.receipts)))
            self._auditing.add_done_callback(self._audited)
        self.served += 1
        self.usage.add(caller, len(request.prompt) + trail.units, wall_ms())
        self.report({
            "event": "query", "served": self.served, "model": request.model, "experts": sorted(trail.experts),
            "receipts": len(trail.receipts), "units": trail.units,
        })

    def _audited(self, task: asyncio.Task[None]) -> None:
        self._auditing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.tell_bug(error)

    async def prove(self, open_id: bytes) -> tuple[ReceiptProof, bool]:
        """A receipt with its proof, and whether its root is on chain. Raises NotFound."""
        async with self._proofs:
            proof = await asyncio.to_thread(self.receipts.prove, open_id)
        roots = (await self.api.subnet_get_receipt_roots(proof.netuid, proof.epoch)).value
        wanted = (self.config.key.public, proof.root, proof.count)
        return proof, any((root.hotkey, root.root, root.count) == wanted for root in roots)


class Running:
    """A request at work. Take its bytes with `async for`; `cancel` in any case where you stop taking them."""

    def __init__(self, gateway: Gateway, caller: str, request: Request, generation: Generation) -> None:
        self.trail = generation.trail
        self.name = ("chatcmpl-" if request.chat else "cmpl-") + secrets.token_hex(12)
        self._gateway, self.caller, self._request, self._generation = gateway, caller, request, generation
        self.most_units = len(request.prompt) + request.sampling.max_units
        self._bytes: asyncio.Queue[int | None] = asyncio.Queue()  # at most `max_units` and the end
        self._task = asyncio.create_task(self._work(), name=f"request of {caller}")
        self._task.add_done_callback(self._over)
        gateway.running.add(self)

    def cancel(self) -> asyncio.Task[None]:
        """End it now, unless it has ended; the task that does so."""
        self._task.cancel()
        return self._task

    async def first(self) -> int:
        """The first byte. Raises ApiError or Unreachable, from which an HTTP status can still be made."""
        byte = await self._bytes.get()
        if byte is None:
            await self._task
            raise Unreachable("no expert answered")
        return byte

    async def rest(self) -> AsyncIterator[int]:
        """All further bytes. Where it broke off, `trail.truncated` says why."""
        while (byte := await self._bytes.get()) is not None:
            yield byte
        await asyncio.wait({self._task})
        if self._task.cancelled():
            self.trail.truncated = "the gateway is stopping"
        else:
            self._task.result()

    async def _work(self) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S), self._gateway.places:
                async with contextlib.aclosing(self._generation.run()) as produced:
                    async for byte in produced:
                        self._bytes.put_nowait(byte)
        except (Error, TimeoutError) as error:
            if not self.trail.units:
                raise _as_status(error) from None
            self.trail.truncated = error.cause if isinstance(error, Error) else "out of time"
        finally:
            self._bytes.put_nowait(None)
            self._gateway.settle(self.name, self.caller, self._request, self.trail)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._gateway.running.discard(self)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ApiError):
            self._gateway.tell_bug(error)


def _as_status(error: Error | TimeoutError) -> ApiError:
    cause = error.cause if isinstance(error, Error) else f"no answer within {REQUEST_TIMEOUT_S:g} s"
    return ApiError(503, cause, kind="server_error", code="unavailable", retry_after_s=2)


def _address(text: str) -> list[bytes]:
    try:
        return [decode_address(text)]
    except Error:
        return []


def _listed(names: Iterable[str]) -> str:
    """So many names as a message may hold."""
    every = sorted(names)
    more = f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else ""
    return (", ".join(every[:MAX_LISTED]) or "none") + more
