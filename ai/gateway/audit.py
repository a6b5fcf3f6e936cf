"""Audits: now and then a question that a neuron has answered is asked again, as any user would ask it.

One request of fifty is followed by one. Where the two answers contradict each other (`ai.contradiction`), the proof is
kept beside the receipts and shown with them. Nothing else follows: routing goes by measured quality alone.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from ai.contradiction import Contradiction, Proven, answers_of
from ai.judge.probes import SESSION_TIMEOUT_MS
from ai.receipts import ReceiptStore
from ai.serve.client import ANNOUNCED_ASKS, ROOT_BUDGET, NeuronAddress, NeuronClient
from ai.serve.frames import BODY_MAX_BYTES
from ai.serve.methods import encode_prefixes
from ledger.errors import NotFound, Rejected

AUDIT_SHARE: Final = 0.02  # of requests
CONTEXT_MAX_BYTES: Final = BODY_MAX_BYTES - 16


async def audit(
    client: NeuronClient, store: ReceiptStore, address: NeuronAddress, open_id: bytes, random: Random
) -> Proven | None:
    """Ask again what was answered in a session; the contradiction, flagged at both receipts, or None.

    Raises NotFound where the session's words are not here any more, and what the neuron or the way to it fails with.
    """
    proof = await asyncio.to_thread(store.prove, open_id)
    transcript = store.transcript(proof.netuid, proof.epoch, open_id)
    said = [] if transcript is None else list(answers_of(proof.receipt, {open_id: transcript}, client.genesis_hash))
    usable = [(one, context) for one, context, _, _ in said if len(context) <= CONTEXT_MAX_BYTES]
    if not usable:
        raise NotFound(f"nothing of session {open_id.hex()} can be asked again")
    one, context = random.choice(usable)
    body = encode_prefixes([context])
    async with client.session(
        address, "distribution", body, netuid=proof.netuid, max_asks=ANNOUNCED_ASKS, timeout_ms=SESSION_TIMEOUT_MS,
        budget=ROOT_BUDGET,  # without a hop: an answer with the help of others proves nothing
    ) as session:
        await session.answer()
        again = await session.finish()
    found = await asyncio.to_thread(store.prove, again.open_id)
    words = {again.open_id: store.transcript(found.netuid, found.epoch, again.open_id) or b""}
    for other, same, _, _ in answers_of(found.receipt, words, client.genesis_hash):
        contradiction = Contradiction(one, other)
        try:
            proven = contradiction.verify(client.genesis_hash)
        except Rejected:
            return None  # the same answer, or another model by now
        assert same == context
        store.flag(proven.open_ids, contradiction.encode())
        return proven
    return None
