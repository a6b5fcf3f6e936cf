"""RPC methods about the state and about what is to change it: values, proofs, metadata, submission, rehearsal."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from ledger.blocks import Extrinsic
from ledger.client.api import AtLike
from ledger.client.metadata_records import CallRecord, ErrorRecord, KeyPart, Metadata, ParamRecord, TableRecord
from ledger.client.records import (
    At,
    DryRun,
    ExtrinsicRecord,
    Reading,
    StateProof,
    StateProofs,
    to_json,
)
from ledger.errors import Rejected
from ledger.machine import View
from runtime.versions import VersionedRuntime, rules, rules_of

from . import render
from .by_version import accounts
from .places import Places, bounded, key_of, page


class StateMethods(Places):
    """`state_` and `author_`."""

    async def state_get(self, key: bytes, at: AtLike = "head") -> Reading[bytes | None]:
        bounded(key)
        height = self._height(at)
        return self._stamped(height, self.chain.view(height).get(key))

    async def state_get_keys(
        self, prefix: bytes, after: bytes = b"", limit: int = 100, at: AtLike = "head"
    ) -> Reading[list[bytes]]:
        bounded(prefix)
        limit = page(limit)

        def keys(view: View, height: int) -> list[bytes]:
            return [key for (key, _), _ in zip(view.items(prefix, after), range(limit), strict=False)]

        return await self._reading(at, keys)

    async def state_get_proof(self, key: bytes, at: AtLike = "head") -> StateProof:
        bounded(key)
        return await self._heavy(self._prove, key, self._height(at))

    async def state_get_proofs(
        self, keys: list[bytes], at: AtLike = "head", since: int | None = None
    ) -> StateProofs:
        for key in keys:
            bounded(key)
        return await self._heavy(render.state_proofs, self.chain, keys, self._height(at), since)

    async def state_get_metadata(self) -> Metadata:
        return _described(self.chain.machine.version_at(self.chain.view()))

    async def author_submit_extrinsic(self, extrinsic: bytes) -> bytes:
        return await self.node.submit(extrinsic)

    async def author_pending_extrinsics(self, limit: int = 100) -> list[ExtrinsicRecord]:
        params = self.chain.params
        waiting = self.node.pool.select(params.max_block_bytes, params.max_block_weight)
        return [render.waiting_record(self.chain, extrinsic) for extrinsic in waiting[: page(limit)]]

    async def author_dry_run(self, extrinsic: bytes) -> DryRun:
        decoded = Extrinsic.decode(extrinsic)
        return await self._heavy(self._dry_run, decoded)

    async def author_next_nonce(self, account: bytes) -> int:
        state_nonce = accounts.account(self.chain.view(), key_of(account, "account")).nonce
        return self.node.pool.next_nonce(account, state_nonce)

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _prove(self, key: bytes, height: int) -> StateProof:
        proof = self.chain.prove(key, height)
        finality = render.finality_record(self.chain, height)
        at = At(height, self.chain.hash_at(height))
        return StateProof(at, key, proof.value, proof.state_root, proof.proof, finality)

    def _dry_run(self, extrinsic: Extrinsic) -> DryRun:
        head = self.node.tip.height  # read once: this is another thread than the one that moves it
        view, height = self.chain.view(head), head + 1
        found = rules_of(view)
        try:
            outcome, events, refusal = cast(VersionedRuntime, self.chain.machine).dry_run(view, extrinsic, height)
        except Rejected as error:
            return DryRun(False, error.error_name, error.hint, 0, [], error.cause, to_json(error.data))
        hint = found.errors[outcome.error].hint if outcome.error in found.errors else ""
        records = [render.event_record(found, height, index, 0, event) for index, event in enumerate(events)]
        cause, data = ("", {}) if refusal is None else (refusal.cause, to_json(refusal.data))
        return DryRun(not outcome.error, outcome.error, hint, outcome.fee_rao, records, cause, data)


@cache
def _described(version: int) -> Metadata:
    """The description of one version of the rules, as records."""
    found: dict[str, Any] = rules(version).module("metadata").document()
    return Metadata(
        runtime_version=found["runtime_version"], calls=[CallRecord(**call) for call in found["calls"]],
        events={kind["name"]: kind["fields"] for kind in found["events"]},
        errors=[ErrorRecord(**error) for error in found["errors"]],
        tables={table["name"]: table["number"] for table in found["tables"]},
        table_rows=[
            TableRecord(row["number"], row["name"], [KeyPart(*part) for part in row["key"]], row["value"], row["holding"])
            for row in found["tables"]
        ],
        event_numbers={kind["name"]: kind["number"] for kind in found["events"]},
        params=[ParamRecord(**param) for param in found["params"]], constants=found["constants"],
        inherents={kind["name"]: kind["kind"] for kind in found["inherents"]}, invariants=found["invariants"],
        proxies=found["proxies"],
    )
