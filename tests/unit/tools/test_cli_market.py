"""What commands about the market say to a person, and where the common options may stand."""

import asyncio
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ledger.client.account_records import ChallengeRecord
from ledger.client.keys import encode_address
from ledger.client.records import At, EpochTraceRecord, Metagraph, NeuronRecord, Reading, Serving, SubnetRecord
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


# --- subnets -----------------------------------------------------------------------------------------------------

SUBNET = SubnetRecord(**{**dict.fromkeys(SubnetRecord.__dataclass_fields__, 0), "name": "prose", "label": "shapley"})


class Subnets:
    """Forty subnets, the last but one of which is challenged; one neuron in each."""

    notice = ChallengeRecord(b"c" * 32, b"h" * 32, "better", 5_000_000_000, 900)

    async def subnet_list(self, at):
        return Reading(At(70, b"x" * 32), [replace(SUBNET, netuid=n) for n in range(1, 41)])

    async def subnet_get_challenge(self, netuid, at):
        assert at == 70
        return Reading(At(70, b"x" * 32), self.notice if netuid == 39 else None)

    async def subnet_get_metagraph(self, netuid, at):
        neuron = replace(NEURON, hotkey=b"h" * 32, coldkey=b"c" * 32, name="")
        return Reading(At(70, b"x" * 32), Metagraph(netuid, 1, 0, [neuron, replace(neuron, uid=1, name="named")]))


def listed(monkeypatch, *words):
    monkeypatch.setattr("tools.cli.subnet.run", lambda settings, work: asyncio.run(work(Subnets())))
    done = CliRunner().invoke(cli, ["subnet", *words], standalone_mode=False)
    assert done.exception is None, done.exception
    return done


def test_the_list_of_subnets_shows_to_which_notice_is_given(monkeypatch):
    said = listed(monkeypatch, "list")
    line = next(line for line in said.output.splitlines() if "notice" in line)
    assert line.strip().startswith("subnet 39: qx") and "block 900" in line and "5" in line
    value = json.loads(listed(monkeypatch, "list", "--json").stdout)
    (notice,) = value["notices"]
    assert len(value["value"]) == 40 and notice["netuid"] == 39 and notice["challenge"]["ends_at"] == 900


def test_a_hotkey_that_is_cut_ends_in_an_ellipsis(monkeypatch):
    address = encode_address(b"h" * 32)
    said = listed(monkeypatch, "metagraph", "1").output
    assert f"{address[:9]}\u2026 " in said and address[:10] not in said and "named " in said
    value = json.loads(listed(monkeypatch, "metagraph", "1", "--json").stdout)["value"]
    assert value["neurons"][0]["hotkey"] == "0x" + "68" * 32
