"""The chain API as a node answers it: every method of `ChainApi` over the node's chain, pool and network.

The head is the newest block that is durable here: what a caller has seen survives a crash of this node. Lookups are
made on the event loop, in microseconds, on an immutable picture of the chain; what reads many rows or recomputes
something runs on a read thread. Nothing here changes the chain but `author_submit_extrinsic` (through the pool) and the
two groups `dev_` and `admin_`, which are served on the admin socket only.
"""

from __future__ import annotations

from typing import Final

from ledger.client.api import ChainApi
from ledger.client.keys import ADDRESS_PREFIX
from ledger.client.records import Health, Peer, Properties

from .block_methods import BlockMethods
from .market_methods import MarketMethods
from .state_methods import StateMethods

TOKEN: Final = "Q"
DECIMALS: Final = 9


class NodeApi(BlockMethods, StateMethods, MarketMethods):
    """Implements `ChainApi`; what is about the node itself is here."""

    async def system_properties(self) -> Properties:
        params, machine = self.chain.params, self.chain.machine
        return Properties(
            chain=self.spec.name, genesis_hash=params.genesis_hash, token=TOKEN, decimals=DECIMALS,
            address_prefix=ADDRESS_PREFIX, block_time_ms=params.block_time_ms, session_blocks=params.session_blocks,
            runtime_version=machine.version_at(self.chain.view()), node_version=self.version, devnet=params.devnet,
            allow_private=self.spec.allow_private, seal=params.seal,
            signing_domain=self.chain.domain_at(self.node.tip.height + 1),
        )

    async def system_health(self) -> Health:
        return self.node.health()

    async def system_peers(self) -> list[Peer]:
        if self.node.network is None:
            return []
        return [
            Peer(peer.id, peer.address, peer.direction, peer.role, peer.height, peer.faults)
            for peer in self.node.network.peers()
        ]

    # --- admin socket only -------------------------------------------------------------------------------------------

    async def dev_seal(self, count: int = 1) -> int:
        return await self.node.seal(count)

    async def admin_cut_peers(self, peers: list[str]) -> None:
        self.node.cut_peers(peers)

    async def admin_shutdown(self) -> None:
        self.shutdown()


def as_chain_api(api: NodeApi) -> ChainApi:
    """The same object; that it has every method is checked by the type checker."""
    return api
