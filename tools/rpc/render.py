"""Blocks, extrinsics and events of a chain as records of the chain API: names instead of numbers, JSON-ready values.

Names are those of the rules that executed the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger.blocks import Event, Extrinsic, Header, Outcome
from ledger.chain import Chain
from ledger.client.records import (
    At,
    BlockRecord,
    CertificateRecord,
    EventRecord,
    ExtrinsicRecord,
    Finality,
    HeaderRecord,
    StateEntry,
    StateProofs,
    to_json,
)
from ledger.crypto import ZERO_HASH
from ledger.errors import UsageError
from ledger.handovers import handovers
from ledger.votes import KIND_TAG, Certificate
from runtime.versions import Rules, rules, rules_of


def header_record(chain: Chain, height: int, finality_ms: int) -> HeaderRecord:
    """Of a block, or of the genesis state, whose record has its hash, time and state and otherwise zeros."""
    if height == chain.params.genesis_height:
        return _genesis_record(chain)
    header = chain.header(height)
    proposer = chain.authority_keys(height)[header.proposer_index]
    return _header(header, proposer, len(chain.body(height).extrinsics), finality_ms)


def _header(header: Header, proposer: bytes, extrinsics: int, finality_ms: int) -> HeaderRecord:
    return HeaderRecord(
        hash=header.hash, version=header.version, runtime_version=header.runtime_version, height=header.height,
        session=header.session, timestamp_ms=header.timestamp_ms, parent_hash=header.parent_hash,
        parent_cert_hash=header.parent_cert_hash, proposer_index=header.proposer_index,
        proposal_round=header.proposal_round, extrinsics_root=header.extrinsics_root, state_root=header.state_root,
        events_root=header.events_root, authorities_hash=header.authorities_hash,
        next_authorities_hash=header.next_authorities_hash, proposer=proposer, extrinsics=extrinsics,
        finality_ms=finality_ms,
    )


def _genesis_record(chain: Chain) -> HeaderRecord:
    params, head = chain.params, chain.head
    root = following = ZERO_HASH
    if head.height == params.genesis_height:
        root, following = head.state_root, head.next_authorities_hash
    return HeaderRecord(
        params.genesis_hash, 0, params.runtime_version, params.genesis_height, 0, params.genesis_time_ms, ZERO_HASH,
        ZERO_HASH, 0, 0, ZERO_HASH, root, ZERO_HASH, ZERO_HASH, following, ZERO_HASH, 0, 0,
    )


def certificate_record(certificate: Certificate) -> CertificateRecord:
    return CertificateRecord(
        KIND_TAG[certificate.kind], certificate.height, certificate.round, certificate.block_hash,
        list(certificate.indexes), certificate.encode(),
    )


def block_record(chain: Chain, height: int, finality_ms: int) -> BlockRecord:
    """Raises NotFound for the genesis state, which is no block."""
    block, certificate = chain.block(height), chain.certificate(height)
    events, outcomes = chain.results(height)
    extrinsics = [Extrinsic.decode(raw) for raw in block.body.extrinsics]
    records = event_records(chain, height, events, outcomes)
    by_extrinsic: dict[int | None, list[EventRecord]] = {}
    for record in records:
        by_extrinsic.setdefault(record.extrinsic, []).append(record)
    proposer = chain.authority_keys(height)[block.header.proposer_index]
    header_bytes = block.header.encode()
    return BlockRecord(
        header=_header(block.header, proposer, len(extrinsics), finality_ms),
        certificate=certificate_record(certificate),
        extrinsics=[
            _included(_rules_at(chain, height), extrinsic, height, index, outcome, by_extrinsic.get(index, []))
            for index, (extrinsic, outcome) in enumerate(zip(extrinsics, outcomes, strict=True))
        ],
        events=by_extrinsic.get(None, []),
        size_bytes=len(header_bytes) + len(block.body.encode()),
        raw_header=header_bytes,
    )


def extrinsic_record(chain: Chain, height: int, index: int) -> ExtrinsicRecord:
    """A final extrinsic by its place."""
    extrinsic = Extrinsic.decode(chain.body(height).extrinsics[index])
    events, outcomes = chain.results(height)
    own = [record for record in event_records(chain, height, events, outcomes) if record.extrinsic == index]
    return _included(_rules_at(chain, height), extrinsic, height, index, outcomes[index], own)


def _rules_at(chain: Chain, height: int) -> Rules:
    """Those that executed the block."""
    return rules(chain.header(height).runtime_version)


def _included(
    found: Rules, extrinsic: Extrinsic, height: int, index: int, outcome: Outcome, events: list[EventRecord]
) -> ExtrinsicRecord:
    return ExtrinsicRecord(
        id=extrinsic.id, height=height, index=index, signer=extrinsic.signer, nonce=extrinsic.nonce,
        call=call_name(found, extrinsic), args=call_args(found, extrinsic), tip_rao=extrinsic.tip, fee_rao=outcome.fee_rao,
        error=outcome.error, events=events, raw=extrinsic.encode(),
    )


def waiting_record(chain: Chain, extrinsic: Extrinsic) -> ExtrinsicRecord:
    """An extrinsic that waits in the pool."""
    found = rules_of(chain.view())
    return ExtrinsicRecord(
        id=extrinsic.id, height=None, index=None, signer=extrinsic.signer, nonce=extrinsic.nonce,
        call=call_name(found, extrinsic), args=call_args(found, extrinsic), tip_rao=extrinsic.tip, fee_rao=0, error="",
        events=[], raw=extrinsic.encode(),
    )


def call_name(found: Rules, extrinsic: Extrinsic) -> str:
    entry = found.calls.get(extrinsic.call_number)
    return entry.name if entry is not None else f"unknown.{extrinsic.call_number}"


def call_args(found: Rules, extrinsic: Extrinsic) -> dict[str, Any]:
    """Arguments by name, those of calls within calls too; by position where they do not fit a known call."""
    args: dict[str, Any] = found.module("proposal_reads").named_args(extrinsic.call_number, extrinsic.args)
    return args


def event_records(chain: Chain, height: int, events: Sequence[Event], outcomes: Sequence[Outcome]) -> list[EventRecord]:
    """All events of a block, each with the position of the extrinsic that caused it, if one did."""
    owner: list[int | None] = [None] * len(events)
    for position, outcome in enumerate(outcomes):
        for index in range(outcome.first_event, min(outcome.first_event + outcome.events, len(events))):
            owner[index] = position
    found = _rules_at(chain, height)
    return [event_record(found, height, index, owner[index], event) for index, event in enumerate(events)]


def event_record(found: Rules, height: int, index: int, extrinsic: int | None, event: Event) -> EventRecord:
    kind = found.events.get(event[0])
    names = kind.fields if kind is not None else tuple(str(i) for i in range(len(event) - 1))
    fields = {name: to_json(value) for name, value in zip(names, event[1:], strict=False)}
    return EventRecord(height, index, extrinsic, kind.name if kind is not None else f"Event{event[0]}", fields)


def finality_record(chain: Chain, height: int) -> Finality:
    """Raises NotFound for the genesis state, which needs no proof."""
    return Finality(
        chain.header(height).encode(), chain.certificate(height).encode(), list(chain.authority_keys(height))
    )


def state_proofs(chain: Chain, keys: Sequence[bytes], height: int, since: int | None) -> StateProofs:
    """What the keys hold at a height, with the way from the first authority set, or from the block at `since`.

    Raises UsageError, NotFound (also for the genesis state, which needs no proof) or Pruned.
    """
    found, finality, first = chain.prove_keys(keys, height), finality_record(chain, height), chain.params.initial_height
    if since is not None and not first <= since <= height:
        raise UsageError(f"a checkpoint is a block from {first} to {height}")
    heights = [header.height for header in handovers(chain.picture().rows, first if since is None else since, height)]
    if since is not None and since not in (height, *heights[:1]):
        heights.insert(0, since)
    return StateProofs(
        At(height, chain.hash_at(height)), [StateEntry(key, value) for key, value in found.values.items()],
        found.state_root, found.proof, finality, [finality_record(chain, each) for each in heights],
    )
