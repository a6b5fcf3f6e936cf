"""The serving benchmark measures real sessions: every request leaves a receipt on both sides."""

import pytest

from tools.bench import serving
from tools.lab.frame import Run, find


@pytest.fixture
def stores(monkeypatch):
    """The caller's receipts, counted just before they are deleted."""
    counted = []
    leave = serving._Neuron.__aexit__

    async def count_and_leave(self, *details):
        counted.append(self.client.receipts.root(serving.NETUID, 0)[1])
        await leave(self, *details)

    monkeypatch.setattr(serving._Neuron, "__aexit__", count_and_leave)
    return counted


def test_every_load_is_measured_with_receipts(monkeypatch, stores):
    monkeypatch.setattr(serving, "MODELS", ("none",))
    run = Run()
    serving.serving(run, 64)
    loads = run.figures["loads"]
    assert [load["concurrent"] for load in loads] == [1, 16, 64]
    for load in loads:
        assert load["per_second"] > 0 and load["p50_ms"] <= load["p99_ms"]
        assert load["client_cpu_ms"] > 0 and load["neuron_cpu_ms"] > 0
    assert stores == [serving.WARM_UP + 3 * 64]
    assert len(run.targets) == 5 and find("benchmark", "serving").module == "tools.bench.serving"
