"""A subnet's metagraph as arrays: who is registered, with what stake, pay and address.

    async with await Metagraph.connect(2, "http://127.0.0.1:9900") as graph:
        best = graph.names[graph.incentive.argmax()]
        weights = await graph.weights()          # (n, n): row i is how uid i voted

Row i of every array is uid i. Shares are fractions of 1; amounts are integers in rao. `sync` reads the chain again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from ledger.client.api import AtLike
from ledger.client.keys import encode_address, keys_named, short_address
from ledger.client.records import NeuronRecord, Row
from ledger.client.remote import RemoteChain
from ledger.errors import NotFound

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray

ONE_U16: Final = 65_535
MAX_SHOWN: Final = 4
KEY_BYTES: Final = 32


class Metagraph:
    """See the module. `neurons` are the records themselves; `height` is the block they are of."""

    def __init__(self, api: Any, netuid: int) -> None:
        """`api` implements ChainApi. Nothing is read before `sync`."""
        self.api, self.netuid = api, netuid
        self.neurons: list[NeuronRecord] = []
        self.height = self.epoch = 0

    @classmethod
    async def connect(cls, netuid: int, rpc: str = "http://127.0.0.1:9900") -> Metagraph:
        """The metagraph at the head of the chain behind that node. Raises Unreachable or NotFound."""
        api: Any = RemoteChain(rpc)
        graph = cls(api, netuid)
        try:
            return await graph.sync()
        except BaseException:
            await api.close()
            raise

    async def sync(self, at: AtLike = "head") -> Self:
        """Read it at a height, a hash or the head. Raises NotFound where there is no such subnet or block."""
        reading = await self.api.subnet_get_metagraph(self.netuid, at)
        self.neurons = sorted(reading.value.neurons, key=lambda neuron: neuron.uid)
        self.height, self.epoch = reading.at.height, reading.value.epoch
        return self

    async def close(self) -> None:
        """Close the connection that `connect` opened."""
        if isinstance(self.api, RemoteChain):
            await self.api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __len__(self) -> int:
        return len(self.neurons)

    @property
    def uids(self) -> list[int]:
        return [neuron.uid for neuron in self.neurons]

    @property
    def hotkeys(self) -> list[bytes]:
        return [neuron.hotkey for neuron in self.neurons]

    @property
    def names(self) -> list[str]:
        """Names where a neuron has one, else the beginning of its hotkey's address."""
        return [neuron.name or short_address(neuron.hotkey) for neuron in self.neurons]

    @property
    def stake_rao(self) -> NDArray[int64]:
        return self._integers(lambda neuron: neuron.stake_rao)

    @property
    def emission_rao(self) -> NDArray[int64]:
        """What each was paid in the last epoch."""
        return self._integers(lambda neuron: neuron.emission_rao)

    @property
    def incentive(self) -> NDArray[float64]:
        """Share of the miners' pay."""
        return self._shares(lambda neuron: neuron.incentive)

    @property
    def dividends(self) -> NDArray[float64]:
        """Share of the validators' pay."""
        return self._shares(lambda neuron: neuron.dividends)

    @property
    def trust(self) -> NDArray[float64]:
        return self._shares(lambda neuron: neuron.trust)

    @property
    def consensus(self) -> NDArray[float64]:
        return self._shares(lambda neuron: neuron.consensus)

    @property
    def permits(self) -> NDArray[bool_]:
        """Who may vote."""
        import numpy as np

        return np.array([neuron.permit for neuron in self.neurons], dtype=np.bool_)

    @property
    def serving(self) -> list[NeuronRecord]:
        """Those that say where they answer."""
        return [neuron for neuron in self.neurons if neuron.serving is not None]

    async def weights(self) -> NDArray[float64]:
        """(n, n) votes as they were applied, each row summing to 1 or, where nothing was voted, to 0."""
        return self._matrix((await self.api.subnet_get_weights(self.netuid)).value)

    async def bonds(self) -> NDArray[float64]:
        """(n, n) bonds of validators (rows) in miners, each row summing to 1 or 0."""
        return self._matrix((await self.api.subnet_get_bonds(self.netuid)).value)

    def find(self, who: int | str | bytes) -> NeuronRecord:
        """The neuron of that uid, name or hotkey (bytes, or as `keys_named` takes it). Raises NotFound."""
        found = neuron_named(who, self.neurons)
        if found is not None:
            return found
        shown = who if not isinstance(who, bytes) else encode_address(who) if len(who) == KEY_BYTES else who.hex()
        hint = "quorix subnet register NETUID --hotkey KEY --max-price AMOUNT"
        raise NotFound(f"{shown} is not registered on subnet {self.netuid}", hint=hint)

    def _integers(self, field: Callable[[NeuronRecord], int]) -> NDArray[int64]:
        import numpy as np

        return np.array([field(neuron) for neuron in self.neurons], dtype=np.int64)

    def _shares(self, field: Callable[[NeuronRecord], int]) -> NDArray[float64]:
        import numpy as np

        return np.array([field(neuron) for neuron in self.neurons], dtype=np.float64) / ONE_U16

    def _matrix(self, rows: list[Row]) -> NDArray[float64]:
        import numpy as np

        out = np.zeros((len(self), len(self)))
        for row in rows:
            total = sum(row.values)
            if total and row.uid < len(self):
                out[row.uid, row.uids] = np.array(row.values, dtype=np.float64) / total
        return out


def neuron_named(who: int | str | bytes, neurons: Sequence[NeuronRecord]) -> NeuronRecord | None:
    """The neuron of that uid, name or hotkey; None where there is none. Raises NotFound where several may be meant."""
    for neuron in neurons:
        if who in (neuron.uid, neuron.hotkey) or (neuron.name and who == neuron.name):
            return neuron
    if not isinstance(who, str):
        return None
    meant = keys_named(who, [neuron.hotkey for neuron in neurons])
    if len(meant) > 1:
        raise NotFound(f"several hotkeys begin with {who}", hint=", ".join(map(encode_address, meant[:MAX_SHOWN])))
    return next((neuron for neuron in neurons if meant == [neuron.hotkey]), None)
