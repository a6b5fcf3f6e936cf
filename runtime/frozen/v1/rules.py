"""The list of modules whose rules make up this runtime: importing a module registers its calls, tables and hooks."""

from __future__ import annotations

from typing import Final

from . import emission
from .modules import (
    accounts,
    authorities,
    bonds,
    children,
    coldkeys,
    creation,
    dissolution,
    evictions,
    evidence,
    fees,
    governance,
    heartbeats,
    hotkeys,
    identities,
    keyring,
    neurons,
    ownership,
    pools,
    proposals,
    proxies,
    registration,
    rowaudit,
    serving,
    sessions,
    stake,
    subnets,
    swaps,
    timelock,
    upgrades,
    weights,
)

MODULES: Final = (
    accounts, fees, hotkeys, subnets, creation, neurons, registration, pools, stake, children, weights, timelock, emission,
    serving,
    rowaudit,
    authorities, heartbeats, bonds, evidence, sessions, governance, proposals, keyring, proxies, identities, ownership, swaps,
    coldkeys, dissolution, evictions, upgrades,
)
LOADED: Final = True
