"""A neuron's configuration, as the AI host reads it; light enough to be checked without importing a model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ai.models.model import Model
from ai.models.sources import EXPERT, kind_of, open_source
from ai.receipts import KEEP_HOURS
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, NotFound, UsageError

if TYPE_CHECKING:
    from ai.models.expert import ByteExpert

POLL_SECONDS: Final = 3.0  # how often the metagraph is read
MEMORY_LIMIT_MIB: Final = 8_192  # address space of a neuron's process; torch alone reserves more than it uses

KEPT_BACK: Final = 20  # a twentieth of a learning expert's text judges its versions

_TYPES: Final[dict[str, tuple[type, ...]]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}


@dataclass(frozen=True, slots=True)
class NeuronConfig:
    """A neuron as the host's configuration file describes it. Paths are absolute; `rpc` is tried in order.

    The key is `seed_hex` or an unencrypted `key_file`. `model` is as in `ai.models.sources`. `public_ip` goes on chain where
    it differs from `host`. `collaborate`: how many peers are asked where a caller allows it. `keep_training`: an expert
    goes on training between queries.
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
    keep_training: bool = False

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
        return kind_of(self.model) == EXPERT

    def load(self) -> Model:
        """The model, which must have been trained. Raises NotFound, DecodeError or UsageError."""
        if not self.is_expert:
            return open_source(self.model, name=self.name, device=self.device)
        from ai.models.expert import ByteExpert
        from ai.models.train import domains_of

        path = self.weights()
        try:
            expert = ByteExpert.load(path, name=self.model, domains=domains_of(self.model), device=self.device)
        except DecodeError:
            path.unlink(missing_ok=True)  # a damaged cache: the host trains it again before the next start
            raise
        return self._learning(expert) if self.keep_training else expert

    def _learning(self, expert: ByteExpert) -> Model:
        """The expert, or the version of it that this neuron trained last, training on."""
        from ai.models.corpus import load
        from ai.models.expert import ByteExpert
        from ai.models.learning import LearningExpert
        from ai.models.train import domains_of

        cache, own = Path(self.cache) if self.cache else None, Path(self.home) / "model.safetensors"
        domains = domains_of(self.model)
        try:
            expert = ByteExpert.load(own, name=self.model, domains=domains, device=self.device)
        except NotFound:
            pass
        except DecodeError:
            own.unlink(missing_ok=True)
        whole = [load(domain, cache).train for domain in domains]
        texts, kept = zip(*((text[: -len(text) // KEPT_BACK], text[-len(text) // KEPT_BACK :]) for text in whole), strict=True)
        span = expert.network.shape.context + 1
        unseen = [text[at : at + span] for at in range(0, len(kept[0]) - span, span) for text in kept]
        return LearningExpert(expert, texts, unseen, save_to=own, seed=int.from_bytes(self.key().public[:4], "big"))

    def weights(self) -> Path:
        """Where an expert's weights lie."""
        from ai.models.train import RECIPES, weights_path

        if self.recipe not in RECIPES:
            raise UsageError(f"no recipe {self.recipe!r}", hint=f"one of {', '.join(RECIPES)}")
        cache = Path(self.cache) if self.cache else None
        return weights_path(self.model, RECIPES[self.recipe], seed=self.train_seed, cache=cache)
