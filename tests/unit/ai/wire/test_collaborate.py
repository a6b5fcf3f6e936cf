"""Neurons that ask neurons: budgets hold, loops end, help helps, and who helped is proven."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from ai.distribution import decode_distributions
from ai.judge.probes import ask_batch, plan_batch
from ai.models.model import Card, write_bytes
from ai.serve import collaborate, frames
from ai.serve.client import ANNOUNCED_ASKS, ROOT_BUDGET, NeuronAddress, NeuronClient
from ai.serve.collaborate import BayesMixer, Collaborator, Peer, plan
from ai.serve.frames import OpenBody
from ai.serve.hooks import FixedStandings, Hooks, Standing
from ai.serve.methods import METHODS, Method, encode_appended, encode_prefixes
from ai.serve.refusals import Refused
from ai.serve.server import NeuronServer
from ledger.crypto import KeyPair

GENESIS = b"g" * 32
CALLER, HEAD, *REST = (KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 8))
TEXT = b"the quick brown fox jumps over the lazy dog. " * 4


class Knower:
    """Knows a text by heart, or (without one) nothing."""

    def __init__(self, text=b"", name="knower"):
        self.text, self.name = text, name
        self.asked = 0

    def card(self):
        return Card(self.name, self.name.encode().ljust(32, b"\0"), context_bytes=64)

    def next_bytes(self, windows):
        self.asked += len(windows)
        rows = np.full((len(windows), 256), 1e-4)
        for row, window in enumerate(windows):
            at = self.text.find(window[-6:])
            if at >= 0 and at + 6 < len(self.text):
                rows[row, self.text[at + 6]] = 1.0
        return rows

    def write(self, prompt, sampling):
        return write_bytes(self, prompt, sampling)


class Team:
    """A neuron that collaborates, its peers, and a caller."""

    def __init__(self, stack):
        self._stack = stack
        self.peers, self.models, self.opened = [], {}, []
        self.client = self._client(CALLER)

    def _client(self, key):
        client = NeuronClient(key, GENESIS, allow_private=True, allow_clear=True)
        self._stack.push_async_callback(client.close)
        return client

    async def serve(self, model, key, **options):
        def note(opened, standing):
            self.opened.append(opened)
            return ""

        standings = FixedStandings(default=Standing(True, True, 1.0))
        server = NeuronServer(model, key, GENESIS, [1], standings=standings, hooks=Hooks(blacklist=note), **options)
        self._stack.push_async_callback(server.stop)
        return server, NeuronAddress(key.public, *await server.start(), model.card().capabilities_hash)

    async def start(self, *models, own=None, **options):
        for key, model in zip(REST, models, strict=False):
            server, address = await self.serve(model, key)
            self.peers.append(Peer(address, 0.1))
            self.models[key.public] = (server, model)
        self.helper = Collaborator(self._client(HEAD), lambda netuid: self.peers, **options)
        methods = {**METHODS, "distribution": Method(self.helper.distribution, takes_asks=True)}
        self.head, self.address = await self.serve(own or Knower(name="head"), HEAD, methods=methods)
        return self

    async def ask(self, text=TEXT, *, at=20, steps=8, hops=1, budget=4, timeout_ms=5_000):
        """Bits per byte over `steps`, and the settled session."""
        bits = []
        async with self.client.session(
            self.address, "distribution", encode_prefixes([text[:at]]), netuid=1, max_asks=steps, hops=hops, budget=budget,
            timeout_ms=timeout_ms,
        ) as session:
            answer = await session.answer()
            for place in range(at, at + steps):
                bits.append(-np.log2(decode_distributions(answer, 1)[0][text[place]]))
                answer = await session.ask(encode_appended([text[place : place + 1]]))
            return float(np.mean(bits)), await session.finish(), answer


@pytest.fixture
async def team():
    async with AsyncExitStack() as stack:
        yield Team(stack)


def opened(**changes):
    base = OpenBody(1, 1, 1, CALLER.public, HEAD.public, "distribution", bytes(16), 0, 10_000, 3, 1, 4, (), bytes(32))
    return replace(base, **changes)


@pytest.mark.parametrize("budget", range(frames.MAX_BUDGET + 1))
@pytest.mark.parametrize("peers", [0, 1, 2, 9])
def test_budgets_are_divided_and_never_exceeded(budget, peers):
    made = plan(opened(budget=budget), b"i" * 32, 0, 9, peers)
    if budget == 0 or peers == 0:
        assert made is None
        return
    assert len(made.budgets) == min(budget, peers, collaborate.MAX_FAN_OUT)
    assert sum(made.budgets) + len(made.budgets) <= budget and made.hops == 0
    if peers > 2:
        assert sum(made.budgets) + len(made.budgets) == budget
    assert made.deadline_ms == 6_000 and made.trace == ((HEAD.public, b"i" * 32),)


def test_when_a_neuron_answers_alone():
    full = tuple((bytes([n]) * 32, b"i" * 32) for n in range(frames.MAX_TRACE))
    for changes in ({"hops": 0}, {"budget": 0}, {"deadline_ms": 80}, {"trace": full}):
        assert plan(opened(**changes), b"i" * 32, 0, 3, 3) is None
    assert plan(opened(trace=full[1:]), b"i" * 32, 0, 3, 3).trace[:-1] == full[1:]


async def test_peers_help_and_their_receipts_travel_with_the_closing(team):
    await team.start(Knower(TEXT, "a"), Knower(TEXT[::-1], "b"), Knower(b"", "c"))
    alone, settled, _ = await team.ask(hops=0)
    assert settled.checked.close.upstream == b"" and alone > 7.9
    helped, settled, _ = await team.ask()
    assert helped < 0.6 * alone
    upstream = settled.checked.close.upstream
    assert len(upstream) == 3 * 32  # the caller's side has checked each receipt already
    children = [o for o in team.opened if o.caller == HEAD.public]
    assert {o.callee for o in children} == {key.public for key in REST[:3]}
    for child in children:
        assert child.trace == ((HEAD.public, settled.open_id),)
        assert (child.hops, child.deadline_ms < settled.checked.open.deadline_ms) == (0, True)
    assert sum(c.budget for c in children) == 1
    assert team.helper._merit[REST[0].public] > max(team.helper._merit[key.public] for key in REST[1:3])


async def test_a_dead_a_slow_and_a_lying_peer_harm_nobody(team, monkeypatch):
    monkeypatch.setattr(collaborate, "GRACE_S", 0.4)
    await team.start(Knower(TEXT, "a"), Knower(TEXT, "dead"), Knower(TEXT, "liar"))
    dead, _ = team.models[REST[1].public]
    await dead.stop()
    _, liar = team.models[REST[2].public]
    liar.next_bytes = lambda windows: [[float("nan")] * 256 for _ in windows]
    helped, settled, _ = await team.ask()
    assert helped < 5 and len(settled.checked.close.upstream) == 32 and settled.status == frames.OK
    _, good = team.models[REST[0].public]
    fast = good.next_bytes

    def late(windows):
        time.sleep(1.0)
        return fast(windows)

    good.next_bytes = late
    slow, settled, _ = await team.ask(steps=2)
    assert slow > 7.9 and settled.checked.close.upstream == b"" and settled.status == frames.OK


async def test_nobody_is_asked_twice_on_a_path_and_loops_end(team):
    await team.start(Knower(TEXT, "a"))
    server, _ = team.models[REST[0].public]
    back = Collaborator(team._client(REST[0]), lambda netuid: [Peer(team.address, 1.0)])
    server._methods = {**METHODS, "distribution": Method(back.distribution, takes_asks=True)}
    _, settled, _ = await team.ask()  # head asks a, which would ask head
    assert len(settled.checked.close.upstream) == 32
    assert len(team.opened) == 2
    trace = ((REST[0].public, b"o" * 32), (HEAD.public, b"p" * 32))
    with pytest.raises(Refused) as caught:
        async with team.client.session(
            team.address, "distribution", encode_prefixes([b"x"]), netuid=1, trace=trace, hops=1, budget=4
        ) as session:
            await session.answer()
    assert caught.value.error_name == "loop"


async def test_a_caller_that_leaves_ends_the_children(team):
    await team.start(Knower(TEXT, "a"), Knower(TEXT, "b"))
    async with team.client.session(
        team.address, "distribution", encode_prefixes([TEXT[:20]]), netuid=1, max_asks=9, hops=1, budget=4
    ) as session:
        await session.answer()
    async with asyncio.timeout(3):
        while any(server.sessions for server, _ in team.models.values()) or team.head.sessions:
            await asyncio.sleep(0.01)


async def test_a_window_that_is_done_stays_done_for_all(team):
    await team.start(Knower(TEXT, "a"))
    async with team.client.session(
        team.address, "distribution", encode_prefixes([TEXT[:20], TEXT[:30]]), netuid=1, max_asks=4, hops=1, budget=4
    ) as session:
        decode_distributions(await session.answer(), 2)
        rows = decode_distributions(await session.ask(encode_appended([b"", TEXT[30:31]])), 1)
        assert int(rows[0].argmax()) == TEXT[31]
        assert await session.ask(encode_appended([b"", b""])) == b""
        assert len((await session.finish()).checked.close.upstream) == 32


async def test_a_deadline_below_what_is_usual_is_refused(team):
    await team.start()
    for _ in range(20):
        team.head.first_answers.note(0.5)
    await team.ask(steps=1)
    with pytest.raises(Refused) as caught:
        await team.ask(steps=1, timeout_ms=400)
    assert caught.value.error_name == "expired"


async def test_probes_announce_what_users_do(team):
    await team.start()
    windows = plan_batch({"english": TEXT}, 4, 3, Random(1))
    for hops in (0, 1):
        await ask_batch(team.client, [team.address], 1, windows, hops=hops)
    probes = team.opened
    assert {(o.method, o.max_asks, o.budget) for o in probes} == {("distribution", ANNOUNCED_ASKS, ROOT_BUDGET)}
    assert {o.hops for o in probes} == {0, 1} and {o.trace for o in probes} == {()}
    assert all(54_000 < o.deadline_ms - o.issued_at_ms <= 55_000 for o in probes)


def test_a_mixture_follows_who_predicts():
    mixer, own = BayesMixer(), np.full((1, 256), 1 / 256)
    sure = np.full((1, 256), 1e-4)
    sure[0, 7] = 1.0
    sure /= sure.sum()
    first = mixer.mix(own, {b"p" * 32: sure})[0, 7]
    for _ in range(5):
        mixer.observe([bytes([7])])
        last = mixer.mix(own, {b"p" * 32: sure})[0, 7]
    assert last > first and last > 0.9 and mixer.merit()[b"p" * 32] > 0.9
    mixer.observe([b""])
    assert mixer.merit() == {}
