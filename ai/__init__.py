"""The market's AI side: models, signed query sessions, judges and the gateway.

    from ai import Neuron, Client, Validator

`Neuron` puts a model of your own on the market, `Client` asks the neurons of a running one, `Validator` judges them.
Importing this package imports neither torch nor numpy; the names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai.client import Client
    from ai.judge.validator import Validator
    from ai.models.model import Card, Model, Sampling
    from ai.serve.neuron import Neuron

__all__ = ["Card", "Client", "Model", "Neuron", "Sampling", "Validator"]

_HOMES = {
    "Card": "ai.models.model",
    "Client": "ai.client",
    "Model": "ai.models.model",
    "Neuron": "ai.serve.neuron",
    "Sampling": "ai.models.model",
    "Validator": "ai.judge.validator",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
