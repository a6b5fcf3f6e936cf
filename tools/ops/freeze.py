"""`python -m tools.ops.freeze`: freezes the present rules, so that a successor can be written in their place.

The rules are all modules of `runtime/` but those of the program (NOT_RULES). They are copied byte by byte to
`runtime/frozen/vN/`, where N is the number they give themselves (`modules/upgrades.py`); their imports of each other are
relative, so the copy is complete. Their hashes are pinned in `runtime/frozen/FROZEN.json`, and a test compares: what is
frozen never changes, or old blocks would get another result.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

import click

from ledger.errors import NotFound, UsageError

RUNTIME: Final = Path(__file__).parents[2] / "runtime"
NOT_RULES: Final = ("versions.py", "frozen")  # names at the top of `runtime/`
PINS: Final = "FROZEN.json"
_NUMBER: Final = re.compile(r"^CURRENT: Final = ([0-9]+)\b", re.MULTILINE)


def freeze(runtime: Path = RUNTIME) -> int:
    """Freeze the rules in `runtime`; returns their number. Raises UsageError if that number is frozen already."""
    number, frozen = number_of(runtime), runtime / "frozen"
    folder = frozen / f"v{number}"
    if folder.exists():
        raise UsageError(f"version {number} is frozen already", hint="give the rules in runtime/ the next number first")
    for path in rule_files(runtime):
        copy = folder / path.relative_to(runtime)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (frozen / "__init__.py").touch()
    pins = {**pinned(frozen), f"v{number}": hashes(folder)}
    (frozen / PINS).write_text(json.dumps(pins, indent=1, sort_keys=True) + "\n")
    return number


def rule_files(runtime: Path) -> list[Path]:
    """The modules of the rules, in order."""
    return [path for path in sorted(runtime.rglob("*.py")) if path.relative_to(runtime).parts[0] not in NOT_RULES]


def number_of(package: Path) -> int:
    """The number that rules give themselves."""
    source = package / "modules" / "upgrades.py"
    found = _NUMBER.search(source.read_text()) if source.exists() else None
    if found is None:
        raise NotFound(f"{source} does not say which version it is")
    return int(found[1])


def pinned(frozen: Path) -> dict[str, dict[str, str]]:
    """Pinned hashes: "vN" -> path -> SHA-256 in hex."""
    path = frozen / PINS
    return json.loads(path.read_text()) if path.exists() else {}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all modules of a package, by path."""
    paths = sorted(folder.rglob("*.py"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@click.command()
def main() -> None:
    """Freeze the rules of runtime/ as they are."""
    number = freeze()
    click.echo(
        f"version {number} is frozen in runtime/frozen/v{number}\n"
        f"next: CURRENT = {number + 1} in runtime/modules/upgrades.py, a migration in runtime/migrations.py,\n"
        f"      RULES = {{..., {number}: \"frozen.v{number}\", {number + 1}: \"\"}} in runtime/versions.py"
    )


if __name__ == "__main__":
    main()
