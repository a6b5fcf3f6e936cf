"""The market's AI side: models, signed query sessions, judges and the gateway.

    from ai import Neuron, Client, Validator, Metagraph

`Neuron` puts a model of your own on the market, `Client` asks the neurons of a running one, `Validator` judges them, and
`Metagraph` shows who is registered and paid. `quorix ai new miner` and `quorix ai new validator` write programs to start from.
Importing this package imports neither torch nor numpy; the names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai.client import Client
    from ai.judge.validator import Validator, ValidatorConfig
    from ai.metagraph import Metagraph
    from ai.models.model import Card, Model, Sampling, write_bytes
    from ai.serve.neuron import Neuron
    from ai.serve.worker import report

__all__ = [
    "Card", "Client", "Metagraph", "Model", "Neuron", "Sampling", "Validator", "ValidatorConfig", "report",
    "write_bytes",
]

_HOMES = {
    "Card": "ai.models.model",
    "Client": "ai.client",
    "Metagraph": "ai.metagraph",
    "Model": "ai.models.model",
    "Neuron": "ai.serve.neuron",
    "Sampling": "ai.models.model",
    "Validator": "ai.judge.validator",
    "ValidatorConfig": "ai.judge.validator",
    "report": "ai.serve.worker",
    "write_bytes": "ai.models.model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
