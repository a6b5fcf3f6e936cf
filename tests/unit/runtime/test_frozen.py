"""Frozen rules: byte-identical to their pins, complete, and a second version beside the newest in one program."""

import json
import shutil
import subprocess
import sys

import pytest

from ledger.errors import UsageError
from runtime import versions
from tools.ops import freeze

FROZEN = freeze.RUNTIME / "frozen"


def test_frozen_files_are_those_that_were_frozen():
    pins = freeze.pinned(FROZEN)
    assert sorted(pins) == sorted(package.removeprefix("frozen.") for package in versions.RULES.values() if package)
    assert {path.name for path in FROZEN.glob("*") if path.is_dir() and path.name != "__pycache__"} == set(pins)
    for version, package in versions.RULES.items():
        if package:
            folder = freeze.RUNTIME.joinpath(*package.split("."))
            assert freeze.hashes(folder) == pins[folder.name], f"{folder}: what is frozen never changes"
            assert freeze.number_of(folder) == version


def test_the_newest_rules_are_those_of_the_package_itself():
    assert freeze.number_of(freeze.RUNTIME) == versions.NEWEST == max(versions.RULES)
    assert [version for version, package in versions.RULES.items() if not package] == [versions.NEWEST]
    assert sorted(versions.RULES) == list(range(1, versions.NEWEST + 1))


def test_rules_import_nothing_of_the_program(tmp_path):
    """A copy without `versions.py` is complete."""
    for path in freeze.rule_files(freeze.RUNTIME):
        text = path.read_text()
        assert "versions import" not in text.replace("_versions import", "") and "import versions" not in text, path


def test_freezing_copies_and_pins_once(tmp_path):
    runtime = tmp_path / "runtime"
    shutil.copytree(freeze.RUNTIME, runtime, ignore=shutil.ignore_patterns("__pycache__", "frozen"))
    number = freeze.freeze(runtime)
    folder = runtime / "frozen" / f"v{number}"
    pins = json.loads((runtime / "frozen" / "FROZEN.json").read_text())
    assert pins == {f"v{number}": freeze.hashes(folder)} and "versions.py" not in pins[f"v{number}"]
    assert (folder / "executor.py").read_bytes() == (runtime / "executor.py").read_bytes()
    assert {"executor.py", "modules/accounts.py", "modules/__init__.py", "__init__.py"} <= set(pins[f"v{number}"])
    with pytest.raises(UsageError, match="frozen already"):
        freeze.freeze(runtime)


def test_a_chain_of_the_newest_rules_loads_no_others():
    code = (
        "import sys\nfrom genesis.build import build_genesis\nfrom genesis.cast import devnet_spec\n"
        "from runtime.versions import NEWEST, VersionedRuntime\ngenesis = build_genesis(devnet_spec(1, authorities=1))\n"
        "VersionedRuntime(genesis.genesis_hash).at(NEWEST)\nprint([name for name in sys.modules if 'frozen.v' in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=freeze.RUNTIME.parent)
    assert done.stdout.strip() == "[]"
