"""The rules described as one document of plain values, from the registries: what clients, docs and explorers read of them.

    calls       number, name, arguments with the names of their shapes, who may call, class, work units, whether it can be free
    events      number, name, fields          errors   number, name, cause, hint
    tables      number, name, key fields with their widths, fields of the value, which holding of money it is
    params      the table of hyperparameters  constants  named limits of the modules, "module.NAME" -> value
    inherents, invariants, proxies            kinds of unsigned entries; audits; which calls each kind of proxy allows

Everything is sorted, so that two programs with the same rules describe them with the same bytes.

Rules: BLK-13 one description
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Final

from . import (
    chain,
    curves,
    dispatch,
    emission,
    epochs,
    executor,
    fixed,
    hooks,
    invariants,
    migrations,
    params,
    pruning,
    rules,
    schedule,
    splits,
    trace,
    weightcheck,
)
from .modules import proxies, upgrades
from .registry import CALLS, ERRORS, EVENTS
from .tables import Table

WITH_CONSTANTS: Final = (  # beside the modules of `rules.MODULES`
    chain, curves, dispatch, epochs, fixed, invariants, migrations, params, pruning, schedule, splits, trace, weightcheck,
)
assert executor.Runtime.version == upgrades.CURRENT and emission in rules.MODULES  # all that it imports is declared


def document() -> dict[str, Any]:
    """The whole description; JSON-ready."""
    return {
        "runtime_version": upgrades.CURRENT, "calls": calls(), "events": events(), "errors": errors(), "tables": tables(),
        "params": parameters(), "constants": constants(), "inherents": inherents(), "invariants": sorted(hooks.INVARIANTS),
        "proxies": {proxies.KINDS[kind]: list(names) for kind, names in sorted(proxies.ALLOWED.items())},
    }


def calls() -> list[dict[str, Any]]:
    return [
        {
            "number": call.number, "name": call.name,
            "args": [[name, shape.name] for name, shape in call.schema.fields.items()], "origin": call.origin,
            "priority": call.priority.name.lower(), "work": call.work, "free": call.free is not None,
            "about": call.about,
        }
        for _, call in sorted(CALLS.items())
    ]


def events() -> list[dict[str, Any]]:
    return [{"number": kind.number, "name": kind.name, "fields": list(kind.fields)} for _, kind in sorted(EVENTS.items())]


def errors() -> list[dict[str, Any]]:
    return [
        {"number": rule.number, "name": rule.name, "cause": rule.cause, "hint": rule.hint}
        for rule in sorted(ERRORS.values(), key=lambda rule: rule.number)
    ]


def tables() -> list[dict[str, Any]]:
    """`value`: [name, type] of the fields of a record, or the one type of a plain value."""
    out = []
    for number, table in sorted(Table.registry.items()):
        record = is_dataclass(table.kind)
        value = [[field.name, str(field.type)] for field in fields(table.kind)] if record else [["", table.kind.__name__]]
        held = hooks.HOLDINGS.get(number)
        out.append({
            "number": number, "name": table.name, "key": [[field.name, field.width] for field in table.fields],
            "value": value, "holding": "" if held is None else held.name,
        })
    return out


def parameters() -> list[dict[str, Any]]:
    """Bounds of booleans are 0 and 1; `owner_low` and `owner_high` are those of a subnet's owner, where they are narrower."""
    return [
        {
            "number": param.number, "name": param.name, "kind": param.kind, "scope": param.scope, "who": param.who,
            "default": int(param.default), "low": param.low, "high": param.high,
            "owner_low": param.low if param.owner_low is None else param.owner_low,
            "owner_high": param.high if param.owner_high is None else param.owner_high,
            "freeze": param.freeze, "about": param.about,
        }
        for _, param in sorted(params.BY_NUMBER.items())
    ]


def constants() -> dict[str, int]:
    """Whole numbers that a module of the rules declares as final, without those that start with an underscore."""
    out = {}
    for module in (*WITH_CONSTANTS, *rules.MODULES):
        for name, declared in getattr(module, "__annotations__", {}).items():
            value = getattr(module, name)
            if name.isupper() and not name.startswith("_") and "Final" in str(declared) and type(value) is int:
                out[f"{module.__name__.rpartition('.')[2]}.{name}"] = value
    return dict(sorted(out.items()))


def inherents() -> list[dict[str, Any]]:
    return [{"kind": kind, "name": entry.name} for kind, entry in sorted(hooks.INHERENTS.items())]
