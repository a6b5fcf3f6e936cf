"""What commands about the market say to a person, and where the common options may stand."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ledger.client.records import EpochTraceRecord, NeuronRecord, Serving
from tools.cli.ai import _show_routes
from tools.cli.epoch import ONE_Q32, Explanation
from tools.cli.main import Settings, cli
from tools.cli.output import Output
from tools.cli.subnet import _role

HALF = ONE_Q32 // 2
TRACE = {
    "emission_rao": 10, "need_rao": 5, "stake_rao": [7, 6, 5, 0], "active_stake_rao": [7, 6, 5, 0],
    "active_share": [HALF, HALF, 0, 0], "permit": [True, True, True, False], "active": [True, True, True, True],
    "weights": [[[2, HALF], [3, HALF]], [[2, ONE_Q32]], [], []],
    "clipped": [[[2, HALF], [3, HALF]], [[2, HALF]], [], []],
    "consensus": [0, 0, HALF, HALF],
}
SERVING = Serving("127.0.0.1", 9950, b"", b"", 1)
NEURON = NeuronRecord(**{**dict.fromkeys(NeuronRecord.__dataclass_fields__, 0), "active": True, "serving": None})


def explain(capsys, uid, step):
    record = EpochTraceRecord(1, 4, 60, [b""] * 4, ["judge", "copy", "rich-miner", "miner"], TRACE)
    Explanation(Output(Settings()), record, uid).show(step)
    return capsys.readouterr().out


def test_a_miner_with_a_permit_that_gave_no_weights_has_no_row(capsys):
    said = explain(capsys, None, "weights")
    assert "0 judge" in said and "1 copy" in said
    assert "\n 2 rich-miner" not in said  # a column only


@pytest.mark.parametrize(("uid", "row", "columns"), [(0, {"0 judge"}, {"2", "3"}), (3, {"0 judge", "1 copy"}, {"3"})])
def test_one_neuron_is_its_row_or_its_column(capsys, uid, row, columns):
    said = explain(capsys, uid, "clip")
    assert {name for name in ("0 judge", "1 copy") if name in said} == row
    assert {name[0] for name in ("2 rich-miner", "3 miner") if name in said.split("consensus:")[0]} == columns


def test_a_step_without_numbers_says_so(capsys):
    record = EpochTraceRecord(1, 0, 15, [b""] * 2, ["", ""], {**TRACE, "weights": [[], []]})
    Explanation(Output(Settings()), record, None).show("weights")
    assert capsys.readouterr().out.strip() == "2. weights as voted: nothing"


@pytest.mark.parametrize(("change", "said"), [
    ({"permit": True, "weights_height": 9}, "validator"),
    ({"permit": True, "weights_height": 9, "active": False}, "validator idle"),
    ({"permit": True, "serving": SERVING}, "miner"),
    ({"permit": True, "serving": SERVING, "weights_height": 9}, "validator miner"),
    ({"serving": SERVING, "active": False}, "miner"),
    ({"active": False}, "-"),
])
def test_the_role_is_what_a_neuron_does(change, said):
    assert _role(replace(NEURON, **change)) == said


@pytest.mark.parametrize("words", ["--json devnet status", "devnet --json status", "devnet status --json"])
def test_common_options_stand_anywhere(words, tmp_path):
    answer = CliRunner().invoke(cli, [*words.split(), "--home", str(tmp_path)])
    assert answer.exit_code == 0 and json.loads(answer.stdout) == []


def test_the_help_of_a_command_lists_options_and_no_arguments():
    said = CliRunner().invoke(cli, ["devnet", "down", "--help"]).stdout
    assert "devnet down [OPTIONS] [NAME]" in said and "  [NAME]\n" not in said and "Common options" in said


def test_routes_show_aligned_numbers_and_plain_sentences(capsys):
    scores = dict.fromkeys(("gate", "trust", "prior", "reward", "count", "draw", "cost", "score", "weight"), 1.0)
    routing = {"kind": "code", "candidates": [{**scores, "expert": "code", "draw": 0.5039, "chosen": "top"}]}
    _show_routes(Output(Settings()), {"routings": [routing], "lost": {"csv": "late"}, "receipts": ["ab"], "experts": ["code"]})
    out = capsys.readouterr().out
    assert "0.5039" in out and "1.0000" in out and " 1.0 " not in out
    assert "\ncsv was lost: late\n" in out and "\nanswered by code; receipts: ab\n" in out
