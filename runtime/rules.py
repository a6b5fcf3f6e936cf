"""The list of modules whose rules make up this runtime: importing a module registers its calls, tables and hooks."""

from __future__ import annotations

from typing import Final

from .modules import accounts, authorities, fees, governance, keyring, serving

MODULES: Final = (accounts, authorities, fees, governance, keyring, serving)
LOADED: Final = True
