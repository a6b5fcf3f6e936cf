"""The byte-level expert: one transformer block over hashed n-gram embeddings, 1.93 M parameters, context 128 bytes.

Each position's embedding is the sum of its byte, its place and four table rows picked by hashes of the last 2, 3, 4 and
5 bytes. The tables hold almost all parameters and are read, not multiplied, which is why fifteen CPU-seconds of
training give something worth asking. `forward` is for training; `next_bytes` computes the last position alone, which
with a single block needs keys and values of all positions but only one query and one MLP row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ai.files import read_bounded
from ledger.errors import DecodeError, NotFound

from .model import Card, Sampling, write_bytes

WEIGHTS_MAX_BYTES: Final = 64 << 20
ALPHABET: Final = 256
HEAD_WIDTH: Final = 16
_HASH_MULTIPLIER: Final = 1_000_003
_HASH_MASK: Final = 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of an expert. `tables`: rows of the hash tables of orders 2, 3, ..."""

    width: int = 64
    context: int = 128
    tables: tuple[int, ...] = field(default=(4096, 8192, 8192, 8192))

    @property
    def heads(self) -> int:
        """Attention heads, of 16 numbers each."""
        return self.width // HEAD_WIDTH


class ExpertNetwork(nn.Module):  # type: ignore[misc]
    """Bytes (batch, length <= context) -> logits (batch, length, 256)."""

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.byte = nn.Embedding(ALPHABET, width)
        self.place = nn.Embedding(shape.context, width)
        self.tables = nn.ModuleList([nn.Embedding(rows, width) for rows in shape.tables])
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.before_mlp = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.before_head = nn.LayerNorm(width)
        self.head = nn.Linear(width, ALPHABET, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def embed(self, text: Tensor) -> Tensor:
        """(batch, length) int64 -> (batch, length, width): byte, place and hashed n-grams."""
        length, orders = text.shape[1], len(self.tables)
        total = self.byte(text) + self.place.weight[:length]
        padded = F.pad(text, (orders, 0))
        hashed = text
        for order, table in enumerate(self.tables, start=1):
            earlier = padded[:, orders - order : orders - order + length]
            hashed = (hashed * _HASH_MULTIPLIER + earlier + 1) & _HASH_MASK
            total = total + table(hashed % table.num_embeddings)
        return total

    def forward(self, text: Tensor) -> Tensor:
        """Logits at every position, each from its own and earlier bytes only."""
        stream = self.embed(text)
        batch, length, width = stream.shape
        qkv = self.qkv(self.before_attention(stream)).view(batch, length, 3, self.shape.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.attended(mixed.transpose(1, 2).reshape(batch, length, width))
        return self._finish(stream)

    def last(self, text: Tensor, lengths: Tensor) -> Tensor:
        """Logits (batch, 256) at position `lengths - 1` of each row; what lies beyond is padding and not looked at."""
        stream = self.embed(text)
        batch, length, width = stream.shape
        heads = self.shape.heads
        rows = torch.arange(batch, device=text.device)
        normed = self.before_attention(stream)
        here = normed[rows, lengths - 1]
        query = F.linear(here, self.qkv.weight[:width]).view(batch, heads, 1, -1)
        pairs = F.linear(normed, self.qkv.weight[width:]).view(batch, length, 2, heads, -1)
        key, value = pairs.permute(2, 0, 3, 1, 4)
        seen = torch.arange(length, device=text.device)[None, :] < lengths[:, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None, :])
        return self._finish(stream[rows, lengths - 1] + self.attended(mixed.reshape(batch, width)))

    def _finish(self, stream: Tensor) -> Tensor:
        stream = stream + self.narrow(F.gelu(self.widen(self.before_mlp(stream))))
        return self.head(self.before_head(stream))


class ByteExpert:
    """A trained expert as a `Model`. An empty window is read as one newline."""

    def __init__(self, network: ExpertNetwork, card: Card, device: str = "cpu") -> None:
        self.network = network.to(device).eval()
        self.device = device
        self._card = card

    @classmethod
    def load(cls, path: Path, *, name: str, domains: tuple[str, ...] = (), device: str = "cpu") -> ByteExpert:
        """Read a safetensors file written by `save`. The file's size is checked before it is read, and so is every
        tensor's name, type and shape before it is used. Raises NotFound or DecodeError."""
        data = read_bounded(path, max_bytes=WEIGHTS_MAX_BYTES)
        if data is None:
            raise NotFound(f"{path} is absent or over {WEIGHTS_MAX_BYTES >> 20} MiB", hint="it is trained on first use")
        network = decode_weights(data)
        card = Card(
            name=name,
            model_hash=blake2b(data, digest_size=32).digest(),
            context_bytes=network.shape.context,
            summary=f"byte-level expert for {', '.join(domains)}" if domains else "byte-level expert",
            domains=domains,
            parameters=parameter_count(network),
        )
        return cls(network, card, device)

    def card(self) -> Card:
        return self._card

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def probabilities(self, windows: Sequence[bytes]) -> Tensor:
        """Next-byte probabilities (len(windows), 256), float32."""
        context = self.network.shape.context
        tails = [window[-context:] or b"\n" for window in windows]
        longest = max(map(len, tails))
        packed = bytearray(b"".join(tail.ljust(longest, b"\0") for tail in tails))
        text = torch.frombuffer(packed, dtype=torch.uint8).view(len(tails), longest).to(self.device).long()
        lengths = torch.tensor([len(tail) for tail in tails], device=self.device)
        return torch.softmax(self.network.last(text, lengths).float(), dim=-1)

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        return self.probabilities(windows).cpu().numpy()

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        return write_bytes(self, prompt, sampling)


def encode_weights(network: ExpertNetwork) -> bytes:
    """A safetensors file of half-precision tensors. It holds nothing else: the sizes are read off the tensors."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().half().contiguous().cpu() for name, tensor in network.state_dict().items()}
    data: bytes = save(tensors)
    return data


def decode_weights(data: bytes) -> ExpertNetwork:
    """The network in a safetensors file. Raises DecodeError unless it holds exactly an expert's tensors."""
    from safetensors.torch import load

    try:
        tensors = load(data)
    except Exception as error:  # the library raises several kinds for a damaged file
        raise DecodeError(f"not safetensors ({type(error).__name__})", where="weights") from None
    network = ExpertNetwork(_shape_of(tensors))
    expected = network.state_dict()
    if tensors.keys() != expected.keys():
        raise DecodeError("other tensors than an expert's", where="weights")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != torch.float16:
            raise DecodeError(f"wrong shape or type of {name}", where="weights")
        if not torch.isfinite(tensor).all():
            raise DecodeError(f"{name} holds a number that is not finite", where="weights")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return network


MAX_WIDTH: Final = 1024
MAX_CONTEXT: Final = 4096
MAX_TABLES: Final = 8


def _shape_of(tensors: dict[str, Tensor]) -> Shape:
    """Sizes read off the tensors themselves, bounded before a network of that size is made."""
    try:
        context, width = tensors["place.weight"].shape
        names = [f"tables.{order}.weight" for order in range(MAX_TABLES) if f"tables.{order}.weight" in tensors]
        tables = tuple(tensors[name].shape[0] for name in names)
    except (KeyError, ValueError):
        raise DecodeError("not an expert's tensors", where="weights") from None
    if not (0 < width <= MAX_WIDTH and width % HEAD_WIDTH == 0 and 0 < context <= MAX_CONTEXT):
        raise DecodeError("sizes out of bounds", where="weights")
    return Shape(width=width, context=context, tables=tables)


def parameter_count(network: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
