"""`quorix devnet check`: what a check says of nodes that answer, but do not go on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from ledger.client.records import Health
from tests.harness import run
from tools.devnet.check import Wrong, rpc_answers

GOOD = Health(100, 300, 3, False, 100, "authority", True, [])
STALE = replace(GOOD, ready=False, blocking=["the head is 376.6 s old"])


def subject(*healths):
    async def answer(health):
        return health

    return SimpleNamespace(nodes=[SimpleNamespace(system_health=lambda health=health: answer(health)) for health in healths])


def test_a_chain_that_stands_still_does_not_pass():
    assert run(rpc_answers(subject(GOOD, GOOD))) == "2 nodes at heights 100..100"
    with pytest.raises(Wrong, match="node 1 at height 100 is not ready: the head is 376.6 s old"):
        run(rpc_answers(subject(GOOD, STALE)))
