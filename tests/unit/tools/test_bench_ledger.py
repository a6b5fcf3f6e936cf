"""The ledger's benchmarks run with small settings and report what they promise; speed is not judged here."""

import pytest

from tools.lab.frame import execute, find

SMALL = {
    "state": {"keys": 10_000, "repeats": 1},
    "commit": {"blocks": 10, "transfers": 2},
    "import": {"accounts": 2_000, "transfers": 20, "blocks": 2},
    "pool": {"entries": 900, "transfers": 300, "junk": 420, "per_block": 100},
}


@pytest.mark.parametrize("name", SMALL)
def test_runs(name):
    entry = find("benchmark", name)
    entry.load()
    result = execute(entry, SMALL[name])
    assert result.figures and result.targets and all(target.measured is not None for target in result.targets)
    if name == "commit":
        (replayed,) = (target for target in result.targets if target.name == "blocks replayed")
        assert replayed.ok and replayed.measured == 10
    if name == "pool":
        assert all(target.ok for target in result.targets if target.unit not in ("ms", "us"))
        assert result.figures["honest ones included"] == 40
    if name == "import":
        assert {target.name for target in result.targets} == {
            "import, one core", "import, two threads", "import, from the pool"
        }
