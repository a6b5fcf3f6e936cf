"""A folder in Hugging Face's form as a neuron: `Model` over `transformers`, from a local path, offline.

What is read: config.json, tokenizer.json (or the byte tokenizer, which needs no file) and safetensors. What is refused,
each with its reason: weights in pickle alone, code in the folder (`auto_map`), weights in another number format or as an
adapter to others, tokenizers that cannot give bytes back, and weights that do not fill the network. Nothing in the folder
is ever executed. Any tokenizer is served as next-byte distributions (see `bytes_adapter`); text is written token by token.

Weights of half precision are computed in float32: with halves an answer depends on what else is in its batch (a sharp
network's by a total variation of up to 0.19), and two answers that differ by 0.02 convict a neuron.
"""

from __future__ import annotations

import inspect
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from ai.files import read_bounded
from ledger.errors import DecodeError, NotFound, UsageError

from .bytes_adapter import ByteAdapter
from .model import Card, Sampling

MAX_JSON_BYTES: Final = 64 << 20
MAX_WEIGHTS_BYTES: Final = 256 << 30
MAX_SHARDS: Final = 512
MAX_CONTEXT_TOKENS: Final = 8_192
USUAL_CONTEXT_BYTES: Final = 512  # of text that a prediction looks at; more costs more
TOKENS_AT_ONCE: Final = 16_384  # in one forward pass
HASH_CHUNK_BYTES: Final = 1 << 20
NO_LIBRARY: Final = "make huggingface, or pip install transformers==5.23.0"
WHERE: Final = "Hugging Face folder"
MAX_HEADER_BYTES: Final = 32 << 20  # of a safetensors file
# What a network of that kind may have at most: building one of absurd size would take all memory, or for ever.
CONFIG_BOUNDS: Final[dict[str, int]] = dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 1 << 10) | {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head"), 1 << 17),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "vocab_size", "num_local_experts"), 1 << 22),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 1 << 26),
}
BYTE_TOKENIZER: Final = "ByT5Tokenizer"
BYTE_TOKENIZER_FIRST: Final = 3  # after padding, end of text and unknown


# --- the folder --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """What was checked before anything was loaded."""

    path: Path
    config: dict[str, Any]
    tokenizer: dict[str, Any] | None  # tokenizer.json; None: bytes
    weights: tuple[Path, ...]

    def model_hash(self) -> bytes:
        """blake2b-256 over the names and contents of all files that make the model."""
        whole = blake2b(digest_size=32)
        files = [self.path / "config.json", *self.weights]
        if self.tokenizer is not None:
            files.append(self.path / "tokenizer.json")
        for file in sorted(files):
            part = blake2b(digest_size=32)
            with file.open("rb") as stream:
                while chunk := stream.read(HASH_CHUNK_BYTES):
                    part.update(chunk)
            whole.update(file.name.encode() + b"\0" + part.digest())
        return whole.digest()


def inspect_folder(path: Path) -> Folder:
    """Check a folder without loading it. Raises NotFound, UsageError (refused, with the reason) or DecodeError."""
    if not path.is_dir():
        raise NotFound(f"{path} is no folder", hint="a local folder with config.json and *.safetensors; nothing is downloaded")
    config = _json(path / "config.json")
    settings = _json(path / "tokenizer_config.json", optional=True) or {}
    assert config is not None
    for name, value in (("config.json", config), ("tokenizer_config.json", settings)):
        if value.get("auto_map") or value.get("trust_remote_code"):
            raise UsageError(f"{name} names code to be run (auto_map)", hint="code from a folder is never executed")
    if "quantization_config" in config:
        raise UsageError("the weights are quantised", hint="save them as float16, bfloat16 or float32")
    if (path / "adapter_config.json").exists():
        raise UsageError("the folder holds an adapter to another model", hint="merge it into its base model first")
    if not isinstance(config.get("model_type"), str):
        raise DecodeError("config.json names no model_type", where=WHERE)
    for name, most in CONFIG_BOUNDS.items():
        number = config.get(name)
        if number is not None and not (type(number) is int and 0 < number <= most):
            raise DecodeError(f"config.json: {name} is not a number from 1 to {most}", where=WHERE)
    tokenizer = _json(path / "tokenizer.json", optional=True)
    if tokenizer is None and settings.get("tokenizer_class") != BYTE_TOKENIZER:
        raise UsageError("the folder has no tokenizer.json", hint="save the tokenizer in its fast form")
    return Folder(path, config, tokenizer, _weights(path))


def _weights(path: Path) -> tuple[Path, ...]:
    index = _json(path / "model.safetensors.index.json", optional=True)
    if index is not None:
        names = sorted(set(index["weight_map"].values())) if isinstance(index.get("weight_map"), dict) else []
        good = all(isinstance(n, str) and n.endswith(".safetensors") and Path(n).name == n for n in names)
        if not names or len(names) > MAX_SHARDS or not good:
            raise DecodeError("model.safetensors.index.json names no files of this folder", where=WHERE)
        found = tuple(path / name for name in names)
    else:
        found = (path / "model.safetensors",)
    missing = [file.name for file in found if not file.is_file()]
    if missing:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt") for file in path.glob(pattern))
        if pickled:
            raise UsageError(f"{pickled[0]} is a pickle, which can run code", hint="save the weights as safetensors")
        raise NotFound(f"{missing[0]} is absent in {path}", hint="the weights are needed as safetensors")
    if sum(file.stat().st_size for file in found) > MAX_WEIGHTS_BYTES:
        raise UsageError(f"the weights exceed {MAX_WEIGHTS_BYTES >> 30} GiB")
    for file in found:
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if header > min(MAX_HEADER_BYTES, file.stat().st_size):
            raise DecodeError(f"{file.name} begins with a header of {header} bytes", where=WHERE)
    return found


def _json(path: Path, *, optional: bool = False) -> dict[str, Any] | None:
    data = read_bounded(path, max_bytes=MAX_JSON_BYTES)
    if data is None:
        if optional and not path.exists():
            return None
        raise NotFound(f"{path} is absent or over {MAX_JSON_BYTES >> 20} MiB", hint="is this a model's folder?")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DecodeError(f"{path.name} is no JSON object", where=WHERE)
    return value


# --- the vocabulary ----------------------------------------------------------------------------------------------


def vocabulary_of(tokenizer: dict[str, Any], size: int) -> list[bytes | None]:
    """The bytes of each token id, from tokenizer.json; None for special tokens and unused ids.

    Raises UsageError for a tokenizer that cannot be served, DecodeError for one that is not of the usual form.
    """
    try:
        out = _vocabulary(tokenizer, size)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"tokenizer.json is not of the usual form ({type(error).__name__})", where=WHERE) from None
    if not any(out):
        raise UsageError("no token of the tokenizer stands for text")
    return out


def _vocabulary(tokenizer: dict[str, Any], size: int) -> list[bytes | None]:
    model = tokenizer.get("model") or {}
    names = model.get("vocab")
    pairs = enumerate(row[0] for row in names) if isinstance(names, list) else ((i, t) for t, i in (names or {}).items())
    kinds = json.dumps([tokenizer.get("decoder"), tokenizer.get("pre_tokenizer"), tokenizer.get("normalizer")])
    if model.get("type") == "WordPiece" or not names:
        raise UsageError("the tokenizer loses bytes of the text", hint="byte-level BPE and SentencePiece keep them")
    out: list[bytes | None] = [None] * size
    level = _byte_level_alphabet() if '"ByteLevel"' in kinds else None
    for token_id, token in pairs:
        if type(token_id) is int and isinstance(token, str) and 0 <= token_id < size:
            out[token_id] = _bytes_of(token, level, bool(model.get("byte_fallback")))
    for added in tokenizer.get("added_tokens") or []:
        if 0 <= added["id"] < size:
            out[added["id"]] = None if added.get("special") else added["content"].encode()
    if model.get("type") == "Unigram" and isinstance(model.get("unk_id"), int) and 0 <= model["unk_id"] < size:
        out[model["unk_id"]] = None
    return out


def _bytes_of(token: str, level: dict[str, int] | None, fallback: bool) -> bytes | None:
    if level is not None:
        return bytes(level[c] for c in token) if all(c in level for c in token) else None
    if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """How byte-level BPE writes bytes as letters: printable ones stand for themselves, the rest from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


# --- the model ---------------------------------------------------------------------------------------------------


class _Tokens:
    """A network and its tokenizer as the adapter's `TokenModel`."""

    def __init__(self, network: Any, tokenizer: Any, vocabulary: list[bytes | None], device: str) -> None:
        """`tokenizer`: of the library `tokenizers`; None for bytes."""
        self.network, self.vocabulary = network, vocabulary
        self._tokenizer, self._device = tokenizer, device
        taken = inspect.signature(network.forward).parameters
        self._keeps, self._places = "logits_to_keep" in taken, "position_ids" in taken

    def encode(self, text: bytes) -> list[int]:
        if self._tokenizer is None:
            return [byte + BYTE_TOKENIZER_FIRST for byte in text]
        try:
            ids = self._tokenizer.encode("\n" + text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return []  # a window may begin or end within a character: the adapter cuts it itself
        begun = b""
        for at, token in enumerate(ids):  # SentencePiece puts a space before a text, which is none of ours
            begun += self.vocabulary[token] or b"\0"
            if begun in (b"\n", b" \n"):
                return list(ids[at + 1 :])
        return []

    def after(self, texts: Sequence[Sequence[int]], places: Sequence[int]) -> list[Any]:
        out: list[Any] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        while order:
            longest = len(texts[order[-1]])
            count = max(1, TOKENS_AT_ONCE // longest)
            batch, order = order[-count:], order[:-count]
            if not self._places:  # a network without places for padding gets texts of one length
                order, batch = order + [i for i in batch if len(texts[i]) < longest], [
                    i for i in batch if len(texts[i]) == longest
                ]
                order.sort(key=lambda i: len(texts[i]))
            rows = self._rows([texts[i] for i in batch], max(places[i] for i in batch))
            for i, row in zip(batch, rows, strict=True):
                out[i] = row[-places[i] :]
        return out

    def _rows(self, texts: list[Sequence[int]], keep: int) -> Any:
        """Probabilities (texts, keep, vocabulary) at the last places; texts are padded in front."""
        import torch

        longest = max(map(len, texts))
        padded = [[0] * (longest - len(text)) + list(text) for text in texts]
        mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
        ids, seen = (torch.tensor(rows, device=self._device) for rows in (padded, mask))
        options: dict[str, Any] = {"attention_mask": seen, "use_cache": False}
        if self._places:
            options["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)
        if self._keeps:
            options["logits_to_keep"] = keep
        with torch.inference_mode():
            logits = self.network(input_ids=ids, **options).logits[:, -keep:].float()
            return torch.softmax(logits, dim=-1).cpu().numpy()


class HuggingFaceModel:
    """A `Model` from a local folder."""

    def __init__(self, network: Any, tokens: _Tokens, card: Card, start: Sequence[int], context_tokens: int) -> None:
        self._network, self._tokens, self._card = network, tokens, card
        self._start, self._context_tokens = list(start), context_tokens
        self.adapter = ByteAdapter(tokens, start)

    @classmethod
    def load(
        cls, path: Path, *, name: str = "", device: str = "cpu", domains: tuple[str, ...] = (),
        context_bytes: int = USUAL_CONTEXT_BYTES,
    ) -> HuggingFaceModel:  # fmt: skip
        """Read a folder. Raises what `inspect_folder` does, and UsageError where the library or the kind is missing."""
        folder = inspect_folder(path)
        network = _network(folder).float().to(device).eval()
        size = int(network.get_input_embeddings().weight.shape[0])
        if folder.tokenizer is None:
            low = BYTE_TOKENIZER_FIRST
            vocabulary: list[bytes | None] = [bytes([i - low]) if low <= i < low + 256 else None for i in range(size)]
            tokenizer = None
        else:
            vocabulary = vocabulary_of(folder.tokenizer, size)
            tokenizer = _tokenizer(path)
        limit = getattr(network.config, "max_position_embeddings", None) or getattr(network.config, "n_positions", None)
        context_tokens = min(int(limit or MAX_CONTEXT_TOKENS), MAX_CONTEXT_TOKENS)
        card = Card(
            name=(name or path.name)[:64], model_hash=folder.model_hash(),
            context_bytes=max(1, min(context_bytes, context_tokens - 2)),
            summary=f"{folder.config['model_type']} by its folder, next bytes through its tokenizer"[:400], domains=domains,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        )  # fmt: skip
        tokens = _Tokens(network, tokenizer, vocabulary, device)
        return cls(network, tokens, card, _start(network.config, vocabulary), context_tokens)

    def card(self) -> Card:
        return self._card

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        return self.adapter.next_bytes([window[-self._card.context_bytes :] for window in windows])

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        """Token by token; what a stop sequence may still need is held back. `max_units` are bytes."""
        hold = max((len(stop) - 1 for stop in sampling.stops), default=0)
        text, sent = bytearray(), 0
        for piece in self._sampled(prompt, sampling):
            text += piece
            ends = [at for stop in sampling.stops if stop and (at := text.find(stop)) >= 0]
            if ends or len(text) >= sampling.max_units:
                del text[min([*ends, sampling.max_units]) :]
                break
            if len(text) - hold > sent:
                yield bytes(text[sent : len(text) - hold])
                sent = len(text) - hold
        if len(text) > sent:
            yield bytes(text[sent:])

    def _sampled(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        """The bytes of tokens drawn one after the other, until one that stands for no text."""
        import torch

        rng, vocabulary = random.Random(sampling.seed), self._tokens.vocabulary
        cut, _, _ = self.adapter.cut(prompt)
        left = max(1, self._context_tokens - sampling.max_units - len(self._start))
        tokens, past = self._start + cut[-left:], None
        feed = tokens[-self._context_tokens :]
        for _ in range(min(sampling.max_units, self._context_tokens - len(feed) + 1)):
            with torch.inference_mode():
                ids = torch.tensor([feed], device=self._network.device)
                said = self._network(input_ids=ids, past_key_values=past, use_cache=True)
            past = said.past_key_values
            token = _draw(said.logits[0, -1].float(), sampling, rng)
            data = vocabulary[token] if token < len(vocabulary) else None
            if not data:
                return
            yield data
            feed = [token]


def _draw(logits: Any, sampling: Sampling, rng: random.Random) -> int:
    import torch

    if sampling.temperature <= 0:
        return int(logits.argmax())
    values, order = torch.softmax(logits / sampling.temperature, dim=-1).sort(descending=True)
    sums = values.cumsum(0)
    kept = int(torch.searchsorted(sums, sampling.top_p * float(sums[-1]))) + 1
    place = int(torch.searchsorted(sums[:kept], rng.random() * float(sums[min(kept, len(sums)) - 1]), right=True))
    return int(order[min(place, kept - 1, len(sums) - 1)])


def _start(config: Any, vocabulary: list[bytes | None]) -> list[int]:
    """The token before every text: the model's own for that, or for the end of texts, or else a newline."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < len(vocabulary):
            return [token]
    return [vocabulary.index(b"\n") if b"\n" in vocabulary else 0]


def _network(folder: Folder) -> Any:
    """The network with all its weights from safetensors, nothing left to chance. Raises UsageError or DecodeError."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError:
        raise UsageError("a Hugging Face folder needs the package transformers", hint=NO_LIBRARY) from None
    kind = folder.config["model_type"]
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(f"transformers knows no causal language model {kind[:64]!r}")
    try:
        network, loading = AutoModelForCausalLM.from_pretrained(
            str(folder.path), local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # the library raises many kinds for damaged folders
        raise DecodeError(f"transformers cannot load it ({type(error).__name__})", where=WHERE) from None
    if loading["missing_keys"] or loading.get("mismatched_keys"):
        raise DecodeError("weights are missing or have other shapes", where=WHERE)
    return network


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UsageError("a tokenizer.json needs the package tokenizers", hint=NO_LIBRARY) from None
    try:
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception:  # the library raises Exception itself
        raise DecodeError("tokenizer.json cannot be read", where=WHERE) from None
