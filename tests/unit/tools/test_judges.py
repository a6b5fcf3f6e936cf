"""`quorix ai validator table` on files that a validator writes."""

import json

import pytest

from ai.judge.live import LiveTables, Row
from ledger.client.keys import short_address
from tools.cli.main import main


@pytest.fixture
def home(tmp_path):
    rows = [
        Row(3, "code", "ab" * 32, 4, 4, 1.25, 1.2, 0.05, 7, 65535, {"shapley": 1.25, "residual": float("inf"), "factor": 1.0}),
        Row(5, "", "cd" * 32, 0, 4, 0.0, 0.0, 0.05, 7, 0, {"shapley": 0.0, "residual": 0.02, "factor": 0.25}),
    ]
    tables = LiveTables(tmp_path / "live.json", "alice")
    tables.show(1, 9, "bytes", 1_700_000_000_000, rows)
    tables.show(2, 8, "exact", 1_700_000_000_000, rows[:1])
    return tmp_path


@pytest.fixture
def quorix(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["quorix", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_the_table_shows_responses_values_scores_and_weights(home, quorix):
    code, out, _ = quorix("ai", "validator", "table", "--dir", str(home))
    assert code == 0 and "alice, subnet 1 (bytes), epoch 9" in out and "subnet 2 (exact)" in out
    assert "code" in out and "4/4" in out and "65535" in out and short_address(b"\xcd" * 32) in out and "0/4" in out


def test_a_devnets_validator_is_called_as_in_the_metagraph(home, quorix):
    (home / "live.json").write_text((home / "live.json").read_text().replace('"alice"', '"0"'))
    assert "validator-0, subnet 1 (bytes)" in quorix("ai", "validator", "table", "--dir", str(home))[1]


def test_json_has_all_of_it_and_one_subnet_can_be_chosen(home, quorix):
    code, out, _ = quorix("ai", "validator", "table", "--dir", str(home), "--subnet", "1", "--json")
    (table,) = json.loads(out)
    assert code == 0 and table["validator"] == "alice" and table["netuid"] == 1
    assert table["rows"][0]["details"] == {"shapley": 1.25, "residual": None, "factor": 1.0}


def test_what_is_missing_or_damaged_is_said(home, tmp_path, quorix):
    code, _, err = quorix("ai", "validator", "table", "--dir", str(home), "--subnet", "7")
    assert code != 0 and "nothing has been scored yet" in err
    (home / "live.json").write_text('{"validator": 1}')
    code, _, err = quorix("ai", "validator", "table", "--dir", str(home))
    assert code != 0 and "no validator's table" in err
    code, _, err = quorix("ai", "validator", "table", "--home", str(tmp_path / "none"))
    assert code != 0 and "no devnet runs here" in err
