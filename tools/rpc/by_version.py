"""The runtime's reads as RPC uses them: each by the version of the rules whose form the state has that it is given.

A chain that was upgraded is read at a height before that by the frozen rules of that time. To the type checker these are
the modules of the newest rules: what RPC calls must be there, under the same name, in all versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.versions import rules_of

if TYPE_CHECKING:
    from runtime import account_reads, proposal_reads, reads, timelock_reads
    from runtime.modules import accounts, authorities, bonds
else:

    class _Module:
        """Functions whose first argument is a state."""

        def __init__(self, path: str) -> None:
            self._path = path

        def __getattr__(self, name: str) -> Any:
            def read(state: Any, *arguments: Any) -> Any:
                return getattr(rules_of(state).module(self._path), name)(state, *arguments)

            return read

    account_reads, proposal_reads, reads = _Module("account_reads"), _Module("proposal_reads"), _Module("reads")
    timelock_reads = _Module("timelock_reads")
    accounts, authorities, bonds = (_Module(f"modules.{name}") for name in ("accounts", "authorities", "bonds"))

__all__ = ["account_reads", "accounts", "authorities", "bonds", "proposal_reads", "reads", "timelock_reads"]
