"""A miner: a model of your own on the market.    python miner.py hotkey.json 2 http://127.0.0.1:9900"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ai import Card, Neuron, Sampling, report, write_bytes
from ledger.client.keys import read_key_file


class Bigrams:
    """Which byte follows which, counted on one text. Put your own model here: these three methods are all it needs."""

    def __init__(self, text: bytes) -> None:
        self.rows = [[0.01] * 256 for _ in range(256)]
        for before, after in zip(text, text[1:], strict=False):
            self.rows[before][after] += 1
        self.hash = hashlib.blake2b(text, digest_size=32).digest()

    def card(self) -> Card:
        return Card("bigrams", model_hash=self.hash, context_bytes=1, summary="bigrams of its own source", domains=("code",))

    def next_bytes(self, windows: Sequence[bytes]) -> list[list[float]]:
        return [self.rows[window[-1] if window else 10] for window in windows]

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        return write_bytes(self, prompt, sampling)


if __name__ == "__main__":
    key, netuid, rpc = sys.argv[1:]  # a registered hotkey's file, a subnet, a node
    model = Bigrams(Path(__file__).read_bytes())
    Neuron(model, read_key_file(Path(key)), [int(netuid)], [rpc], name="miner", home=Path("miner-home"), report=report).run()
