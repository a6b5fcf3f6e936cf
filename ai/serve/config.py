"""A neuron's configuration, as the AI host reads it; light enough to be checked without importing a model."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ai.models.model import Model
from ai.receipts import KEEP_HOURS
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, UsageError

POLL_SECONDS: Final = 3.0  # how often the metagraph is read
MEMORY_LIMIT_MIB: Final = 8_192  # address space of a neuron's process; torch alone reserves more than it uses

_TYPES: Final[dict[str, tuple[type, ...]]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}


@dataclass(frozen=True, slots=True)
class NeuronConfig:
    """A neuron as the host's configuration file describes it. Paths are absolute; `rpc` is tried in order.

    The key is `seed_hex` or an unencrypted `key_file`. `model` is the name of a trained expert or `module:function`,
    a function without arguments that returns a Model. `public_ip` goes on chain where it differs from `host`.
    `collaborate`: how many peers are asked where a caller allows it.
    """

    name: str
    model: str
    netuids: tuple[int, ...]
    rpc: tuple[str, ...]
    home: str
    seed_hex: str = ""
    key_file: str = ""
    host: str = "127.0.0.1"
    public_ip: str = ""
    port: int = 0
    cache: str = ""
    recipe: str = "full"
    train_seed: int = 0
    device: str = "cpu"
    tls: bool = False
    poll_seconds: float = POLL_SECONDS
    receipts_keep_hours: int = KEEP_HOURS
    memory_limit_mib: int = MEMORY_LIMIT_MIB
    collaborate: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NeuronConfig:
        """Raises UsageError for an unknown, missing or misshapen field."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise UsageError(f"unknown setting {unknown[0]!r} of a neuron", hint=f"known: {', '.join(sorted(known))}")
        lists = {name: tuple(value[name]) for name in ("netuids", "rpc") if isinstance(value.get(name), list)}
        for field in fields(cls):
            expected = _TYPES.get(str(field.type))
            if expected and field.name in value and type(value[field.name]) not in expected:
                raise UsageError(f"neuron {value.get('name', '?')}: {field.name} must be {field.type}")
        try:
            config = cls(**{**value, **lists})
        except TypeError as error:
            raise UsageError(f"neuron {value.get('name', '?')}: {error}") from None
        if not config.netuids or not all(type(netuid) is int for netuid in config.netuids):
            raise UsageError(f"neuron {config.name}: netuids must be a list of numbers")
        if bool(config.seed_hex) == bool(config.key_file):
            raise UsageError(f"neuron {config.name}: give either seed_hex or key_file")
        return config

    def key(self) -> KeyPair:
        """The hotkey. Raises UsageError, NotFound or KeyLocked."""
        if self.key_file:
            from ledger.client.keys import read_key_file

            return read_key_file(Path(self.key_file))
        try:
            seed = bytes.fromhex(self.seed_hex)
        except ValueError:
            seed = b""
        if len(seed) != 32:
            raise UsageError(f"neuron {self.name}: seed_hex must be 64 hex digits")
        return KeyPair.from_seed(seed)

    @property
    def is_expert(self) -> bool:
        """True where the model is one of ours, trained on first use."""
        return ":" not in self.model

    def load(self) -> Model:
        """The model, which must have been trained. Raises NotFound, DecodeError or UsageError."""
        if not self.is_expert:
            module, _, function = self.model.partition(":")
            made: Model = getattr(importlib.import_module(module), function)()
            return made
        from ai.models.expert import ByteExpert
        from ai.models.train import domains_of

        path = self.weights()
        try:
            return ByteExpert.load(path, name=self.model, domains=domains_of(self.model), device=self.device)
        except DecodeError:
            path.unlink(missing_ok=True)  # a damaged cache: the host trains it again before the next start
            raise

    def weights(self) -> Path:
        """Where an expert's weights lie."""
        from ai.models.train import RECIPES, weights_path

        if self.recipe not in RECIPES:
            raise UsageError(f"no recipe {self.recipe!r}", hint=f"one of {', '.join(RECIPES)}")
        cache = Path(self.cache) if self.cache else None
        return weights_path(self.model, RECIPES[self.recipe], seed=self.train_seed, cache=cache)
