"""Where a neuron's model comes from, by what is written for it in a configuration or on a command line.

    code                                 a trained expert of ours, from the cache
    /models/mistral  or  ./mistral       a folder in Hugging Face's form
    http://127.0.0.1:8000/v1#my-model    a model behind an OpenAI-compatible server; its key's file in QUORIX_UPSTREAM_KEY
    package.module:function              a function without arguments that returns a Model
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Final

from ledger.errors import UsageError

from .model import Model

KEY_FILE_VARIABLE: Final = "QUORIX_UPSTREAM_KEY"
EXPERT, FOLDER, UPSTREAM, FUNCTION = "expert", "folder", "upstream", "function"


def kind_of(source: str) -> str:
    """One of the four kinds."""
    if source.startswith(("http://", "https://")):
        return UPSTREAM
    if "/" in source or source.startswith("."):
        return FOLDER
    return FUNCTION if ":" in source else EXPERT


def open_source(source: str, *, name: str, device: str = "cpu") -> Model:
    """The model of any kind but an expert. Raises NotFound, DecodeError or UsageError."""
    kind = kind_of(source)
    if kind == UPSTREAM:
        from .upstream import Upstream

        url, _, model = source.partition("#")
        if not model:
            raise UsageError("the upstream's model is not named", hint="such as http://127.0.0.1:8000/v1#my-model")
        return Upstream(url, model, name=name, key_file=os.environ.get(KEY_FILE_VARIABLE, ""))
    if kind == FOLDER:
        from .huggingface import HuggingFaceModel

        return HuggingFaceModel.load(Path(source).expanduser(), name=name, device=device)
    module, _, function = source.partition(":")
    try:
        made: Model = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"there is no model at {source[:200]} ({type(error).__name__})", hint="module:function") from None
    return made
