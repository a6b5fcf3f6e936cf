"""The ledger's benchmarks run with small settings and report what they promise; speed is not judged here."""

import gc

import pytest

from tools.lab.frame import execute, find
from tools.node.config import load_config

SMALL = {
    "state": {"keys": 10_000, "repeats": 1, "warm": 0},
    "commit": {"blocks": 10, "transfers": 2, "busy": 20},
    "import": {"accounts": 2_000, "transfers": 20, "blocks": 2},
    "pool": {"entries": 900, "transfers": 300, "junk": 420, "per_block": 100},
}


def test_the_import_is_measured_on_a_node_as_it_is_configured(tmp_path, monkeypatch):
    """Databases, configuration and threads of the benchmark are made by the node's own functions, with nothing added."""
    from tools.bench import import_
    from tools.node import home, threads

    assert import_.make_home is home.make_home and import_.open_databases is home.open_databases
    assert import_.Threads is threads.Threads and import_.settle_interpreter is threads.settle_interpreter
    configured, collecting = [], []
    monkeypatch.setattr(import_, "open_databases", lambda *of: configured.append(of[0]) or home.open_databases(*of))
    monkeypatch.setattr(import_, "floor", lambda tasks: collecting.append(gc.isenabled()) or 1e-4)
    execute(find("benchmark", "import"), SMALL["import"] | {"transfers": 2})
    for config in configured:
        plain = load_config(config.home, {}, {})
        assert config == plain and set(plain.origin.values()) == {"default"} and plain.history == "full"
    assert len(configured) == 4 and collecting and all(collecting)


@pytest.mark.parametrize("name", SMALL)
def test_runs(name):
    entry = find("benchmark", name)
    entry.load()
    result = execute(entry, SMALL[name])
    assert result.figures and result.targets and all(target.measured is not None for target in result.targets)
    if name == "commit":
        (committed,) = (target for target in result.targets if target.name == "blocks committed")
        assert committed.ok and committed.measured == 13
    if name == "pool":
        assert all(target.ok for target in result.targets if target.unit not in ("ms", "us"))
        assert result.figures["honest ones included"] == 40
    if name == "import":
        assert {target.name for target in result.targets} == {
            "import, one core", "import, two threads", "import, from the pool"
        }
