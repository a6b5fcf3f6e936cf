"""Vectors: all public ones come out, whatever a file is called, and a wrong number is noticed."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tools.cli.lab import group
from tools.lab.frame import Result, execute, find
from tools.lab.replay import epochs
from tools.lab.replay.cases import Mismatch
from tools.lab.replay.compare import agree

VECTORS = Path(__file__).parents[2] / "vectors"
OTHER_RULES = {  # functions that no rule of Quorix answers to, in the public files
    "adjustment_case", "blocks_until_next_epoch_modulo_legacy", "commit_hash_scale_blake2b256",
    "ema_matrix_sparse_quirk", "epoch_pending_split", "first_block_of_epoch_legacy", "floor_to_u16", "floor_to_u64",
    "interval_adjustment", "mask_by_row_and_column_blocks", "mask_matrix", "mat_vec_mul_columns", "moving_price",
    "pool_injection", "power_shares", "set_alpha_values", "subnet_shares", "sum", "u16_to_real", "u64_checked_sum",
    "work_meets_difficulty",
}


def replay(folder: Path, max_uids: int = 0) -> Result:
    return execute(find("experiment", "vectors"), {"directory": folder, "max_uids": max_uids})


def load(name: str) -> Any:
    path = VECTORS / name
    if name.endswith(".gz"):
        return [json.loads(line) for line in gzip.open(path, "rt")]
    return json.loads(path.read_text())


def replay_cases(folder: Path, cases: list[Any], **document: Any) -> Result:
    (folder / "some name.json").write_text(json.dumps({**document, "cases": cases}))
    return replay(folder)


def check_public(result: Result) -> None:
    figures = result.figures
    assert figures["failed"] == [] and result.ok
    excused = sum(row["count"] for row in figures["not_applicable"])
    assert figures["cases"] == figures["passed"] + excused
    assert {row["function"] for row in figures["not_applicable"]} == OTHER_RULES
    assert all(row["why"] for row in figures["not_applicable"])


def test_all_public_vectors_of_ordinary_size() -> None:
    result = replay(VECTORS, max_uids=600)
    check_public(result)
    assert result.figures["cases"] >= 508 and result.figures["values_compared"] > 300_000
    by_file = {row["file"]: row for row in result.figures["files"]}
    for name in ("epoch.json", "consensus.json", "random_subnets.jsonl.gz", "random_precision.jsonl.gz"):
        assert by_file[name]["passed"] == by_file[name]["cases"]


@pytest.mark.long
def test_all_public_vectors() -> None:
    check_public(replay(VECTORS))


def test_largest_remainder_stays_within_the_tolerances_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The chain's payout differs from the peer's by less than any vector allows."""
    monkeypatch.setattr(epochs, "PEER", replace(epochs.PEER, exact_payout=True))
    for name in ("epoch.json", "random_precision.jsonl.gz", "random_subnets.jsonl.gz"):
        (tmp_path / name).write_bytes((VECTORS / name).read_bytes())
    result = replay(tmp_path, max_uids=100)
    assert result.figures["failed"] == [] and result.figures["passed"] > 100


# --- recognition


def test_files_are_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.json").write_text(json.dumps(load("consensus.json")))
    lines = "".join(json.dumps(case) + "\n" for case in load("random_precision.jsonl.gz")[:2])
    (tmp_path / "anything.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "package.json").write_text('{"name": "no vectors here"}')
    (tmp_path / "keys.json").write_text('[{"public": "00"}]')
    (tmp_path / "notes.txt").write_text("{")
    result = replay(tmp_path)
    assert result.ok and result.figures["passed"] == result.figures["cases"] == 10
    assert [row["file"] for row in result.figures["skipped_files"]] == ["keys.json", "package.json"]


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.json", b"{"), ("a.json", b"\xff"), ("a.jsonl.gz", b"plain"), ("a.jsonl.gz", gzip.compress(b"{}\n[", mtime=0)[:-4])],
)
def test_a_damaged_file_is_a_missed_target(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / "consensus.json").write_text(json.dumps(load("consensus.json")))
    (tmp_path / name).write_bytes(data)
    result = replay(tmp_path)
    assert not result.ok and result.figures["failed"] == [] and result.figures["skipped_files"][0]["file"] == name


def test_a_folder_without_vectors_misses_its_target(tmp_path: Path) -> None:
    assert not replay(tmp_path).ok


# --- what is wrong is noticed


def history(name: str) -> dict[str, Any]:
    document = load("epoch.json")
    return next(case for case in document["cases"] if case["id"] == name)


def change_exact(field: str) -> Callable[[dict[str, Any]], None]:
    def change(case: dict[str, Any]) -> None:
        values = [step for step in case["steps"] if step["op"] == "epoch"][-1]["exact"][field]
        values[0] = not values[0] if isinstance(values[0], bool) else values[0] + 100_000

    return change


def change_bond(case: dict[str, Any]) -> None:
    step = next(step for step in case["steps"] if step["op"] == "epoch" and any(step["exact"]["bonds"]))
    row = next(row for row in step["exact"]["bonds"] if row)
    row[0][1] += 9


def drop_bonds(case: dict[str, Any]) -> None:
    step = next(step for step in case["steps"] if step["op"] == "epoch" and any(step["exact"]["bonds"]))
    step["exact"]["bonds"] = [[] for _ in step["exact"]["bonds"]]


def last_epoch(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda case: [step for step in case["steps"] if step["op"] == "epoch"][-1].update(parts)


def append_step(case: dict[str, Any]) -> None:
    case["steps"].append({"op": "pray", "uid": 0})


def forget_weights(case: dict[str, Any]) -> None:
    case["steps"] = [step for step in case["steps"] if step["op"] != "set_weights"]


WRONG: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    *((f"exact {name}", change_exact(name)) for name in (
        "active", "permits", "stake_weight", "consensus", "validator_trust", "rank", "trust", "incentive", "dividends",
        "server_emission", "validator_emission", "emission",
    )),
    ("bond", change_bond), ("bonds missing", drop_bonds), ("unknown operation", append_step),
    ("weights forgotten", forget_weights),
    ("expect", last_epoch(expect={"bonds": {"0,4": 5}})), ("expect uid", last_epoch(expect={"emission": {"0": 5}})),
    ("expect real", last_epoch(expect={"real": {"stake": [1, 0, 0, 0, 0, 0, 0, 0]}})),
    ("trace", last_epoch(trace={"consensus_real": [1] * 8})),
    ("real bond", last_epoch(trace={"bonds_real": {"0,4": 0.5}})), ("unknown value", last_epoch(expect={"luck": [0] * 8})),
    ("property", last_epoch(property=["emission[0] > emission[3]"])),
    ("unknown property", last_epoch(property=["all is well"])),
    ("unknown term", last_epoch(property=["luck[0] > 0"])),
    ("unknown parameter", lambda case: case["params"].update(luck=7)),
]


@pytest.mark.parametrize(("what", "change"), WRONG, ids=[what for what, _ in WRONG])
def test_a_wrong_history_fails_with_its_id_and_reason(tmp_path: Path, what: str, change: Callable) -> None:
    case = history("bonds_ema_8")
    defaults = load("epoch.json")["defaults"]
    assert replay_cases(tmp_path, [case], defaults=defaults).ok
    change(case)
    result = replay_cases(tmp_path, [case], defaults=defaults)
    assert not result.ok and [row["id"] for row in result.figures["failed"]] == ["bonds_ema_8"]
    assert result.figures["failed"][0]["reason"]


def test_lists_that_are_longer_or_shorter_than_the_subnet_are_fitted(tmp_path: Path) -> None:
    case, defaults = history("graph_1"), load("epoch.json")["defaults"]
    for stated in ([*case["last_update"], 1, 1], []):
        assert replay_cases(tmp_path, [{**case, "last_update": stated}], defaults=defaults).ok


def test_properties_compare_terms_and_numbers(tmp_path: Path) -> None:
    case = history("bonds_ema_8")
    last_epoch(property=[
        "emission[0] < emission[3]", "emission[0] != 5", "bonds[0,7] >= 1", "incentive[7] == 65535", "rank[7] <= 65535",
        "server_emission[7] > 0",
    ])(case)
    assert replay_cases(tmp_path, [case], defaults=load("epoch.json")["defaults"]).ok


def test_a_wrong_random_subnet_fails(tmp_path: Path) -> None:
    cases = load("random_precision.jsonl.gz")

    def write(case: dict[str, Any]) -> Result:
        (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(json.dumps(case).encode()))
        return replay(tmp_path)

    good = cases[0]
    assert write(good).ok
    for field, value in (("emission", 5), ("permits", "0" * good["n"]), ("incentive", [9] * good["n"])):
        wrong = json.loads(json.dumps(good))
        wrong["epochs"][-1][field] = [value] * good["n"] if isinstance(value, int) else value
        assert not write(wrong).ok, field
    for change in (
        lambda case: case["epochs"].append({}), lambda case: case["epochs"].pop(),
        lambda case: case["events"].append(["x", 0, 0]), lambda case: case.update(bonds_last=[[]] * case["n"]),
        lambda case: case["params"].update(luck=1),
    ):
        wrong = json.loads(json.dumps(good))
        change(wrong)
        assert not write(wrong).ok


def test_a_wrong_graph_or_guarantee_fails(tmp_path: Path) -> None:
    graph = history("graph_512_i1_self")
    defaults = load("epoch.json")["defaults"]
    for change in (
        lambda case: case["expect_each_server"].update(incentive=150),
        lambda case: case["expect_each_validator"].update(bond_to_first_server=60000),
        lambda case: case["expect_each_validator"].update(luck=1),
        lambda case: case["generator"].update(validator_weights="by mood"),
    ):
        wrong = json.loads(json.dumps(graph))
        wrong["generator"]["epochs"] = [1]
        change(wrong)
        assert not replay_cases(tmp_path, [wrong], defaults=defaults).ok
    promise = load("consensus.json")["cases"][1]
    assert not replay_cases(tmp_path, [{**promise, "major_stake": 0.7}]).ok
    assert not replay_cases(tmp_path, [{**promise, "share": 0.6}]).ok
    assert not replay_cases(tmp_path, [{**promise, "property": "all is fair"}]).ok


@pytest.mark.parametrize("name", ["registration.json", "weights.json", "emission.json", "math.json"])
def test_every_function_notices_a_wrong_output(tmp_path: Path, name: str) -> None:
    """Each case that passes fails when its output is replaced by a value of the same kind that it cannot have."""
    cases = load(name)["cases"]
    passed = replay_cases(tmp_path, cases).figures
    excused = {row["function"] for row in passed["not_applicable"]} - {"subnet_shares"}
    changed = [{**case, "output": wrong(case["output"])} for case in cases if case["fn"] not in excused]
    changed = [case for case in changed if case["output"] is not None]
    result = replay_cases(tmp_path, changed).figures
    assert len(result["failed"]) + sum(row["count"] for row in result["not_applicable"]) == len(changed) > 30


def wrong(value: Any) -> Any:
    """A value of the same shape that differs by more than any tolerance; None if there is nothing to change."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 10**9
    if isinstance(value, str):
        return "too early" if value in ("ok", "expired") else "ok"
    if isinstance(value, dict):
        key = next(iter(value), None)
        return None if key is None else {**value, key: wrong(value[key])}
    if isinstance(value, list) and value:
        first = wrong(value[0])
        return None if first is None else [first, *value[1:]]
    return None


def test_results_in_words_are_matched_with_error_names(tmp_path: Path) -> None:
    def row(result: str, **given: Any) -> dict[str, Any]:
        fields = {"n": 4, "min_allowed": 1, "setter_uid": 0, "uids": [1, 2], "weights": [1, 2], "permit": True, **given}
        return {"fn": "set_weights", "id": result, "input": fields, "output": {"result": result, "stored": None}}

    good = [
        row("duplicate uids", uids=[1, 1]), row("unknown uid", uids=[1, 9]), row("too few weights", min_allowed=4),
        row("length mismatch", weights=[1]), row("no permit", permit=False), row("too many uids", n=1), row("ok"),
        row("max weight exceeded", limit=100),
    ]
    assert replay_cases(tmp_path, good).figures["failed"] == []
    bad = [row("ok", uids=[1, 1]), row("duplicate uids"), row("unknown uid", uids=[1, 1]), row("bad mood", uids=[1, 1])]
    assert len(replay_cases(tmp_path, bad).figures["failed"]) == 4
    zeros = row("ok", weights=[0, 0])
    assert replay_cases(tmp_path, [zeros]).figures["not_applicable"][0]["count"] == 1


def test_an_unknown_function_is_not_applicable_and_an_unknown_form_fails(tmp_path: Path) -> None:
    unknown = {"fn": "phase_of_the_moon", "id": "z", "input": 1, "output": 1, "tol": 0}
    odd = {"fn": "block_emission", "id": "y", "input": {"a": 1}, "output": 1, "tol": 0}
    figures = replay_cases(tmp_path, [unknown, odd]).figures
    assert figures["not_applicable"][0]["function"] == "phase_of_the_moon"
    assert [row["id"] for row in figures["failed"]] == ["y"] and "cannot be replayed" in figures["failed"][0]["reason"]


def test_a_dense_form_with_zeros_and_a_sparse_one_both_count(tmp_path: Path) -> None:
    case = {
        "fn": "ema_matrix", "id": "e", "tol": 0, "forms": ["dense", "sparse"], "output": [[0.5, 0.25]],
        "input": {"new": [[0, 0.5]], "old": [[1, 0]], "alpha": 0.5},
    }
    figures = replay_cases(tmp_path, [case]).figures
    assert figures["passed"] == 1 and figures["values_compared"] == 4


def test_comparison_tells_kinds_apart() -> None:
    assert agree([1, {"a": True}], [2, {"a": True}], 1) == 2
    for actual, expected in ((True, 1), (1, True), (None, 0), ("1", 1), ([1], [1, 2]), (5, {"a": 5}), (1, 3)):
        with pytest.raises(Mismatch):
            agree(actual, expected, 1)


# --- the command


def test_the_command_prints_one_object_and_exits_by_its_verdict(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(load("consensus.json")))
    good = CliRunner().invoke(group, ["vectors", str(tmp_path), "--json"])
    data = json.loads(good.stdout)
    assert good.exit_code == 0 and list(data) == ["name", "ok", "targets", "figures", "environment", "seconds"]
    assert data["figures"]["cases"] == data["figures"]["passed"] == 8 and data["figures"]["failed"] == []
    document = load("consensus.json")
    document["cases"][0]["major_stake"] = 2
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert CliRunner().invoke(group, ["vectors", str(tmp_path), "--json"]).exit_code == 1
    shown = CliRunner().invoke(group, ["vectors", str(tmp_path)])
    assert shown.exit_code == 1 and "c00" in shown.stdout and "MISSED" in shown.stdout
