"""A busy chain is the same under every hash seed, and the experiment would notice if it were not."""

import json
import os
from pathlib import Path

import pytest

from ledger.errors import Error
from tools.lab import busy, determinism
from tools.lab.frame import Run

BLOCKS = 48


def test_a_busy_chain_replays_to_the_same_rows_under_other_hash_seeds(tmp_path: Path) -> None:
    """Made with one hash seed, replayed with another and with this process's own, which is random."""
    file, out = tmp_path / "blocks", tmp_path / "out"
    happened = determinism.child("record_to", "1", file, out, BLOCKS, 0)
    assert set(busy.WANTED) <= set(happened)
    there = determinism.child("replay_to", "0", file, out)
    here = busy.replay(file)
    assert here == there and len(here["roots"]) == BLOCKS + 1 == len(set(here["roots"]))


@pytest.mark.long
def test_the_experiment() -> None:
    run = Run()
    determinism.determinism(run, 120, 0, ("0", "1", "random"))
    assert all(target.ok for target in run.targets), run.targets


def test_a_file_of_blocks_is_made_of_its_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        busy.record(tmp_path / name, 3, seed)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_differing_roots_are_counted() -> None:
    assert determinism.differing([["a", "b"], ["a", "b"]]) == 0
    assert determinism.differing([["a", "b"], ["a", "c"], ["a", "b", "d"]]) == 2


def test_a_hash_seed_reaches_the_process_and_its_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Error, match="(?s)hash seed 1 failed: .*No such file"):
        determinism.child("replay_to", "1", tmp_path / "none", tmp_path / "out")
    seen = {}

    def run(words, env, **_):
        seen.update(env)
        (tmp_path / "out").write_text(json.dumps({"ok": True}))
        return type("Done", (), {"returncode": 0, "stdout": b""})

    monkeypatch.setattr(determinism.subprocess, "run", run)
    assert determinism.child("replay_to", "7", tmp_path / "none", tmp_path / "out") == {"ok": True}
    assert seen["PYTHONHASHSEED"] == "7" and seen["PATH"] == os.environ["PATH"]
