"""The serving benchmark measures real sessions: every request leaves a receipt on both sides."""

import json
import sys

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
    steps = run.figures["steps_in_sessions"]
    assert [(row["steps"], row["sessions"]) for row in steps] == [(16, 1), (16, 16), (64, 1), (64, 16)]
    assert stores == [serving.WARM_UP + 3 * 64 + 64 // 16 + 16 + 64 // 64 + 16]
    for row in steps:
        cpu_ms = row["client_cpu_ms"] + row["neuron_cpu_ms"]
        assert row["of_a_request_with_signed_headers"] == round(cpu_ms / serving.SIGNED_HEADERS_MS, 3) > 0
    assert run.figures["peers"] == dict.fromkeys(("axon_dendrite", "signed_headers"), serving.NOT_INSTALLED)
    assert len(run.targets) == 5 and find("benchmark", "serving").module == "tools.bench.serving"


def test_a_peer_runs_in_its_own_interpreter_or_is_not_installed(tmp_path):
    load = {"concurrent": 1, "client_cpu_ms": 11.0, "server_cpu_ms": 10.0}
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho noise\necho '{json.dumps({'version': '10.5.0', 'loads': [load]})}'\n")
    interpreter.chmod(0o755)
    measured = serving.measure_peer("axon_dendrite", str(interpreter))
    assert measured["version"] == "10.5.0" and serving._peer_ms(measured, 5.0) == 21.0
    for python in (None, str(tmp_path / "absent"), sys.executable):
        assert serving.measure_peer("axon_dendrite", python) is None
