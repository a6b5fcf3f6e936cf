"""The chain API: one typed class that is the registry of all methods.

The node implements it (`tools.rpc.methods`), `ledger.client.remote.RemoteChain` is the JSON-RPC client of the same
class, OpenRPC and `quorix rpc` are derived from it, and explorer, gateway, AI processes and CLI depend on nothing else.

A method `module_verb_object` is served as `module_verbObject`. `at` is a height, a 0x hash or "head"; the head is
always final. Unknown things raise `NotFound`, states no longer kept `Pruned`, refused extrinsics `Rejected`. Methods
whose name starts with `dev_` or `admin_` are served on the node's admin socket only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from .account_records import (
    BondRecord,
    ChallengeRecord,
    IdentityRecord,
    Lending,
    Proxies,
    Relations,
    SwapRecord,
)
from .governance_records import ProposalRecord
from .metadata_records import Metadata
from .records import (
    AccountRecord,
    AuthorityRecord,
    BlockRecord,
    CandidateRecord,
    CommitRecord,
    DryRun,
    EpochRecord,
    EpochTraceRecord,
    EventRecord,
    ExtrinsicRecord,
    Finality,
    HeaderRecord,
    Health,
    Metagraph,
    NeuronRecord,
    NewHead,
    Page,
    Parameter,
    Peer,
    Properties,
    Reading,
    ReceiptsRoot,
    Row,
    StakeRecord,
    StateProof,
    StateProofs,
    SubnetRecord,
    Supply,
    UpgradeRecord,
)
from .timelock_records import BeaconRecord, TimelockRecord

AtLike = int | str
MAX_PAGE = 1000


class ChainApi(Protocol):
    """Every method of the API; implementations give the bodies."""

    # --- system

    async def system_properties(self) -> Properties:
        """Chain name, genesis hash, token, block time, versions."""
        ...

    async def system_health(self) -> Health:
        """Height, age of the head, peers, sync state, and what blocks readiness."""
        ...

    async def system_peers(self) -> list[Peer]:
        """Connected peers."""
        ...

    # --- chain

    async def chain_get_block(self, at: AtLike = "head") -> BlockRecord:
        """A block with its certificate, decoded extrinsics and events."""
        ...

    async def chain_get_header(self, at: AtLike = "head") -> HeaderRecord:
        """A header."""
        ...

    async def chain_get_headers(self, before: int | None = None, limit: int = 20) -> list[HeaderRecord]:
        """Headers below height `before` (default: from the head), newest first, at most 1000."""
        ...

    async def chain_get_block_hash(self, height: int) -> bytes:
        """Hash of the block at a height; the genesis hash at height 0."""
        ...

    async def chain_get_finalized_head(self) -> bytes:
        """Hash of the head."""
        ...

    async def chain_get_authorities(self, at: AtLike = "head") -> Reading[list[AuthorityRecord]]:
        """The authority set with its counters."""
        ...

    async def chain_get_authority_candidates(self, at: AtLike = "head") -> Reading[list[CandidateRecord]]:
        """Session keys that wait to become authorities."""
        ...

    async def chain_get_proof_of_finality(self, at: AtLike = "head") -> Finality:
        """Header, certificate and the set that signed it."""
        ...

    async def chain_get_extrinsic(self, id: bytes) -> ExtrinsicRecord:
        """A final or waiting extrinsic by its id."""
        ...

    async def chain_get_upgrades(self, at: AtLike = "head") -> Reading[UpgradeRecord]:
        """The runtime version in force, the upgrade that is scheduled, and which authorities are ready for it."""
        ...

    async def chain_get_supply(self, at: AtLike = "head") -> Reading[Supply]:
        """Where every unit of the issuance is."""
        ...

    def chain_subscribe_new_heads(self, start: int | None = None) -> AsyncIterator[NewHead]:
        """Every final block with its events, without gaps: from height `start` (at most 1000 back), or from now on."""
        ...

    # --- state

    async def state_get(self, key: bytes, at: AtLike = "head") -> Reading[bytes | None]:
        """Raw value of a state key."""
        ...

    async def state_get_keys(
        self, prefix: bytes, after: bytes = b"", limit: int = 100, at: AtLike = "head"
    ) -> Reading[list[bytes]]:
        """Keys under a prefix, ascending."""
        ...

    async def state_get_proof(self, key: bytes, at: AtLike = "head") -> StateProof:
        """A proof of inclusion or absence that a light client can check."""
        ...

    async def state_get_proofs(
        self, keys: list[bytes], at: AtLike = "head", since: int | None = None
    ) -> StateProofs:
        """One proof for up to 64 keys, with the authority sets from the first block or from the block at `since` on."""
        ...

    async def state_get_metadata(self) -> Metadata:
        """Calls, events, errors and tables of the runtime."""
        ...

    # --- author

    async def author_submit_extrinsic(self, extrinsic: bytes) -> bytes:
        """Put a signed extrinsic into the pool; returns its id. Raises Rejected with the rule's name."""
        ...

    async def author_pending_extrinsics(self, limit: int = 100) -> list[ExtrinsicRecord]:
        """What waits in the pool, in the order in which it would be included."""
        ...

    async def author_dry_run(self, extrinsic: bytes) -> DryRun:
        """Execute on the head state without keeping anything."""
        ...

    async def author_next_nonce(self, account: bytes) -> int:
        """Next nonce, counting what waits in the pool."""
        ...

    # --- accounts

    async def account_get(self, account: bytes, at: AtLike = "head") -> Reading[AccountRecord]:
        """Balances and keys; an unknown account is all zeros."""
        ...

    async def account_stakes(self, account: bytes, at: AtLike = "head") -> Reading[list[StakeRecord]]:
        """Stake of a coldkey by hotkey and subnet."""
        ...

    async def account_history(self, account: bytes, after: str | None = None, limit: int = 50) -> Page[ExtrinsicRecord]:
        """Extrinsics signed by the account, newest first."""
        ...

    async def account_identity(self, account: bytes, at: AtLike = "head") -> Reading[IdentityRecord | None]:
        """What an account says of itself; null if it says nothing."""
        ...

    async def account_proxies(self, account: bytes, at: AtLike = "head") -> Reading[Proxies]:
        """Proxies that an account has appointed, and what they have announced."""
        ...

    async def account_relations(self, hotkey: bytes, at: AtLike = "head") -> Reading[Relations]:
        """Children and parents of a hotkey in all subnets, and children that do not count yet."""
        ...

    async def account_swaps(self, account: bytes, at: AtLike = "head") -> Reading[SwapRecord]:
        """An announced coldkey swap, and when the next hotkey swap can be made."""
        ...

    async def account_bond(self, account: bytes, at: AtLike = "head") -> Reading[BondRecord]:
        """What an account has put down for its seat among the authorities."""
        ...

    # --- subnets

    async def subnet_list(self, at: AtLike = "head") -> Reading[list[SubnetRecord]]:
        """All subnets but root."""
        ...

    async def subnet_get(self, netuid: int, at: AtLike = "head") -> Reading[SubnetRecord]:
        """One subnet."""
        ...

    async def subnet_get_metagraph(self, netuid: int, at: AtLike = "head") -> Reading[Metagraph]:
        """All neurons of a subnet with their scores of the last epoch."""
        ...

    async def subnet_get_neuron(self, netuid: int, uid: int, at: AtLike = "head") -> Reading[NeuronRecord]:
        """One row of the metagraph."""
        ...

    async def subnet_get_weights(self, netuid: int, at: AtLike = "head") -> Reading[list[Row]]:
        """Applied weights of all validators."""
        ...

    async def subnet_get_bonds(self, netuid: int, at: AtLike = "head") -> Reading[list[Row]]:
        """Bonds of all validators."""
        ...

    async def subnet_get_commits(self, netuid: int, at: AtLike = "head") -> Reading[list[CommitRecord]]:
        """Commitments that wait for their reveal."""
        ...

    async def subnet_get_timelock(self, netuid: int, at: AtLike = "head") -> Reading[TimelockRecord]:
        """Sealed weights: to which keys, who released what, what was opened; and the beacon."""
        ...

    async def subnet_get_beacon(
        self, netuid: int, epoch: int | None = None, at: AtLike = "head"
    ) -> Reading[BeaconRecord | None]:
        """Randomness of an epoch, the running one by default, from secrets released in the one before; null if none."""
        ...

    async def subnet_get_hyperparams(self, netuid: int, at: AtLike = "head") -> Reading[list[Parameter]]:
        """Parameters with defaults, bounds' owner and meaning."""
        ...

    async def subnet_get_identity(self, netuid: int, at: AtLike = "head") -> Reading[IdentityRecord | None]:
        """What a subnet's owner says of it; null if nothing."""
        ...

    async def subnet_get_relations(self, netuid: int, at: AtLike = "head") -> Reading[list[Lending]]:
        """Voting stake that hotkeys lend to their children in a subnet."""
        ...

    async def subnet_get_challenge(self, netuid: int, at: AtLike = "head") -> Reading[ChallengeRecord | None]:
        """Notice to a subnet; null if nobody has given any."""
        ...

    async def subnet_get_registration_cost(self, netuid: int, at: AtLike = "head") -> Reading[int]:
        """Burn price now, in rao."""
        ...

    async def subnet_get_receipt_roots(
        self, netuid: int, epoch: int | None = None, at: AtLike = "head"
    ) -> Reading[list[ReceiptsRoot]]:
        """Receipt roots on chain, of one epoch or of all that are kept."""
        ...

    # --- epochs and events

    async def epoch_list(self, netuid: int, after: str | None = None, limit: int = 50) -> Page[EpochRecord]:
        """Epochs of a subnet, newest first."""
        ...

    async def epoch_explain(self, netuid: int, epoch: int | None = None) -> EpochTraceRecord:
        """Every intermediate value of an epoch (default: the latest)."""
        ...

    async def events_query(
        self, kind: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[EventRecord]:
        """Events, newest first, optionally of one kind."""
        ...

    # --- governance

    async def gov_list(self, at: AtLike = "head") -> Reading[list[ProposalRecord]]:
        """Open proposals with their votes."""
        ...

    async def gov_get(self, number: int, at: AtLike = "head") -> Reading[ProposalRecord]:
        """One open proposal."""
        ...

    async def gov_get_params(self, at: AtLike = "head") -> Reading[list[Parameter]]:
        """Parameters of the whole chain, which proposals can change."""
        ...

    # --- admin socket only

    async def dev_seal(self, count: int = 1) -> int:
        """Make blocks now (manual sealing); returns the new height."""
        ...

    async def admin_cut_peers(self, peers: list[str]) -> None:
        """Drills: neither hear nor speak to these peer ids until the next call, as if the network were parted."""
        ...

    async def admin_shutdown(self) -> None:
        """Stop the node cleanly."""
        ...


def wire_name(method: str) -> str:
    """JSON-RPC name of a Python method name: module_verb_object -> module_verbObject."""
    module, _, rest = method.partition("_")
    head, *tail = rest.split("_")
    return f"{module}_{head}{''.join(word.capitalize() for word in tail)}"
