"""The rooms import one way only, and each name of ours belongs to this distribution alone.

    ledger <- runtime <- genesis · ledger <- p2p · ledger <- ai · all <- tools
    inside ledger  `ledger.client` uses errors, codec, crypto, blocks, votes, trees and proofs: no store, no node part
    inside tools   the explorer sees the chain through `ledger.client` only; the devnet's supervisor imports no node
"""

import ast
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "ledger": (),
    "runtime": ("ledger",),
    "genesis": ("ledger", "runtime"),
    "p2p": ("ledger",),
    "ai": ("ledger",),
    "tools": ("ledger", "runtime", "genesis", "p2p", "ai"),
}
# What the parts with narrower rules may import of our own modules, by prefix.
PURE = ("ledger.errors", "ledger.codec", "ledger.crypto", "ledger.blocks", "ledger.votes", "ledger.trees",
        "ledger.commitments", "ledger.inherents", "ledger.sharing", "ledger.timelock")
NARROW = {
    "ledger/client": (*PURE, "ledger.client"),
    "runtime": (
        *PURE, "ledger.machine", "ledger.client.records", "ledger.client.account_records",
        "ledger.client.governance_records", "ledger.client.timelock_records", "ledger.client.json_form",
    ),
    "ai": (
        "ai", "ledger.errors", "ledger.codec", "ledger.crypto", "ledger.trees", "ledger.commitments", "ledger.timelock",
        "ledger.client",
    ),
    "tools/explorer": ("tools.explorer", "tools.cli.output", "ledger.client", "ledger.errors"),
}
# Lower first: a module of the ledger imports only what stands before it.
LEDGER_ORDER = (
    ("errors", "acceptance"), ("codec",), ("crypto",), ("trees",), ("blocks", "commitments", "inherents"), ("votes",),
    ("machine", "spec"),
)
HEAVY = ("torch", "libp2p", "numpy", "plyvel", "trio")
FORBIDDEN_NAMES = ("common", "utils", "util", "helpers", "core", "manager", "misc", "types")


@cache
def files():
    """All modules but the frozen ones, which are copies of such as were looked at."""
    found = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return tuple(path for path in found if not path.is_relative_to(ROOT / "runtime" / "frozen"))


def module_name(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path):
    """Absolute names of all modules a file imports, at any depth, with their lines."""
    package = list(path.relative_to(ROOT).parent.parts)
    out = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                child = ROOT.joinpath(*stem.split("."), alias.name)
                is_module = child.with_suffix(".py").exists() or child.is_dir()
                out.append((f"{stem}.{alias.name}" if is_module else stem, node.lineno))
    return tuple(out)


def ours(name):
    return name.split(".")[0] in ROOMS


def under(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def offences(allowed, paths):
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for name, line in imports(path)
        if ours(name) and not allowed(path, name)
    ]


def test_rooms_import_downwards_only():
    def allowed(path, name):
        room = path.relative_to(ROOT).parts[0]
        return name.split(".")[0] in (room, *ROOMS[room])

    assert offences(allowed, files()) == []


def test_no_room_imports_the_tests():
    assert [
        f"{path.relative_to(ROOT)}:{line}" for path in files() for name, line in imports(path) if under(name, ("tests",))
    ] == []


@pytest.mark.parametrize("folder", NARROW)
def test_narrow_rules(folder):
    own = folder.replace("/", ".")
    paths = [path for path in files() if path.is_relative_to(ROOT / folder)]
    assert offences(lambda path, name: under(name, (own, *NARROW[folder])), paths) == []


def test_the_foundation_of_the_ledger_is_in_order():
    rank = {name: level for level, names in enumerate(LEDGER_ORDER) for name in names}

    def allowed(path, name):
        target = name.split(".")[1] if name.startswith("ledger.") else ""
        return target in rank and rank[target] <= rank[path.stem] and target != path.stem

    paths = [ROOT / "ledger" / f"{name}.py" for name in rank]
    assert offences(allowed, paths) == []


def test_runtime_imports_its_own_modules_relatively():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files()
        if path.is_relative_to(ROOT / "runtime")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and not node.level and node.module and node.module.split(".")[0] == "runtime")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "runtime" for alias in node.names))
    ]
    assert found == []


def test_no_file_has_a_name_that_says_nothing():
    assert [str(path.relative_to(ROOT)) for path in files() if path.stem in FORBIDDEN_NAMES] == []


def test_tests_are_no_package():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_our_names_belong_to_this_distribution_alone():
    providers = packages_distributions()
    assert {room: sorted(set(providers[room])) for room in ROOMS} == {room: ["quorix"] for room in ROOMS}


@pytest.mark.parametrize("module", ["tools.cli.main", "genesis.cast", "ledger.client.keys", "ledger.client.api"])
def test_light_modules_load_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_reader_of_imports_sees_relative_and_absolute_ones():
    seen = {name for name, _ in imports(ROOT / "runtime" / "executor.py")}
    assert {"ledger.machine", "runtime.modules.accounts", "runtime.state", "collections.abc"} <= seen
    assert offences(lambda path, name: False, [ROOT / "runtime" / "executor.py"])
