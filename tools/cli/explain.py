"""What an error name or an exit code means, from the declarations in `ledger.errors` and the runtime's registry."""

from __future__ import annotations

import difflib
from typing import Any

from ledger import errors
from ledger.errors import NotFound

PLAIN_CODES = {0: "ok", 70: "a bug: the report file named in the message helps", 130: "interrupted by Ctrl-C"}


def explain(code: str) -> tuple[dict[str, Any], str]:
    """(JSON-ready answer, text) for an exit code or an error name. Raises NotFound."""
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.Error)]
    if code.isdecimal():
        number = int(code)
        found = [k for k in kinds if k.exit_code == number and k is not errors.Error]
        if not found and number not in PLAIN_CODES:
            raise NotFound(f"no exit code {number}", hint="exit codes: quorix explain 1, 2, 3...")
        rows = [{"name": k.name, "exit_code": k.exit_code, "about": (k.__doc__ or "").strip()} for k in found]
        text = "\n".join(f"{r['name']}: {r['about']}" for r in rows) or PLAIN_CODES[number]
        return {"exit_code": number, "errors": rows, "about": PLAIN_CODES.get(number, "")}, f"exit code {number}\n{text}"
    for kind in kinds:
        if kind.name == code:
            about = (kind.__doc__ or "").strip()
            answer: dict[str, Any] = {"name": code, "exit_code": kind.exit_code, "rpc_code": kind.rpc_code, "about": about}
            answer["hint"] = kind.default_hint
            hint = f"\nnext: {kind.default_hint}" if kind.default_hint else ""
            return answer, f"{code} (exit {kind.exit_code}, RPC {kind.rpc_code})\n{about}{hint}"
    from runtime.executor import Runtime  # noqa: F401 - declares all rules
    from runtime.registry import ERRORS

    if code in ERRORS:
        rule = ERRORS[code]
        found_rule = {"name": code, "number": rule.number, "about": rule.cause, "hint": rule.hint}
        return found_rule, f"{code}\n{rule.cause}\nnext: {rule.hint}"
    near = difflib.get_close_matches(code[:64], [*(kind.name for kind in kinds), *ERRORS], 1, 0.5)
    raise NotFound(f"no error is called {code[:64]!r}", hint=f"did you mean {near[0]}?" if near else "names are case-sensitive")
