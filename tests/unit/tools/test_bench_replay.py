"""`quorix bench replay`: a small run goes through the file, the import and the audit, and reports its figures."""

from tools.lab.frame import execute, find


def test_a_small_replay():
    result = execute(find("benchmark", "replay"), {"blocks": 10, "transfers": 2})
    measured = {target.name: target.measured for target in result.targets}
    assert measured["blocks replayed"] == 10 and measured["blocks a second"] > 0
    assert result.figures["transactions_per_block"] == 2 and result.figures["transactions_per_s"] > 0
    assert result.figures["file_bytes_per_block"] > 500
