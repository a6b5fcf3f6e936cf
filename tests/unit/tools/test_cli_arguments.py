"""Arguments of calls as people write them: every kind of value, and what is refused with a hint how it is written."""

import json

import pytest

from ledger.client.keys import encode_address
from ledger.crypto import KeyPair
from ledger.errors import Aborted, UsageError
from runtime.registry import CALLS
from tools.cli.arguments import batch_file, find_call, form, from_document, prepare
from tools.cli.main import Settings
from tools.cli.output import Output, parse_percent

KEY = KeyPair.from_seed(b"\x21" * 32).public
WHO = encode_address(KEY)
SETTINGS = Settings()


def args(call, *words):
    return prepare(SETTINGS, call, words).args


def test_words_by_name_and_in_order_give_the_same():
    wanted = {"to": KEY, "amount_rao": 1_500_000_000, "keep_alive": True}
    assert args("accounts.transfer", f"to={WHO}", "keep_alive=yes", "amount_rao=1.5Q") == wanted
    assert args("accounts.transfer", "0x" + KEY.hex(), "1_500_000_000r", "true") == wanted
    assert args("accounts.transfer", WHO, "all", "no") == {"to": KEY, "amount_rao": None, "keep_alive": False}
    assert args("keyring.swap_hotkey", WHO, WHO)["netuid"] is None and args("governance.set_sudo") == {"key": None}


def test_every_kind_of_value():
    assert args("proxies.add", WHO, "subnet-owner", "7") == {"delegate": KEY, "kind": 4, "delay_blocks": 7}
    assert args("weights.set_root", "0,2", "65535,1") == {"netuids": b"\0\0\2\0", "values": b"\xff\xff\1\0"}
    assert args("governance.set_subnet_param", "1", "yuma3_on", "no")["value"] is False
    assert args("governance.set_subnet_param", "1", "min_burn_rao", "0.5Q")["value"] == 500_000_000
    assert args("governance.set_subnet_param", "1", "tempo", "20")["value"] == 20
    assert args("proxies.announce", WHO, "0x" + "ab" * 32)["call_hash"] == b"\xab" * 32
    said = json.dumps({"name": "Ada", "url": "", "about": "x", "content_hash": ""})
    assert args("identities.set", said) == {"identity": ["Ada", "", "x", b""]}
    assert args("children.set", WHO, "1", json.dumps([{"share": 5, "hotkey": WHO}]))["children"] == [[5, KEY]]
    assert args("children.set", WHO, "1", "[]")["children"] == []
    nested = prepare(SETTINGS, "governance.propose", [WHO, '{"call": "governance.set_sudo", "args": {"key": null}}'])
    assert nested.args["call"] == [111, [None]] and nested.inner[0] == nested.number


@pytest.mark.parametrize(
    ("call", "words", "said"),
    [
        ("accounts.transfr", [], "there is no call"), ("accounts.transfer", ["to"], "needs"),
        ("accounts.transfer", ["to=x", "colour=red"], "no argument 'colour=red'"),
        ("accounts.transfer", [WHO, "1Q", "yes", "more"], "takes 3 arguments, not 4"),
        ("accounts.transfer", [f"to={WHO}", f"to={WHO}", "amount_rao=1Q"], "given twice"),
        ("accounts.transfer", [WHO, "5", "yes"], "is not an amount"), ("accounts.transfer", [WHO, "1Q", "maybe"], "yes or no"),
        ("accounts.transfer", [WHO[:-1] + "1", "1Q", "yes"], ""), ("authorities.bond", ["all"], "never everything"),
        ("stake.add", [WHO, "70000", "1Q"], "outside"), ("stake.add", [WHO, "-1", "1Q"], "outside"),
        ("stake.add", [WHO, "one", "1Q"], "whole number"), ("stake.add", [WHO, "١", "1Q"], "whole number"),
        ("proxies.add", [WHO, "king", "0"], "expected one of"), ("proxies.announce", [WHO, "0x12"], ""),
        ("proxies.announce", [WHO, "zz"], "in hex"), ("weights.set_root", ["0,x", "1"], "below 65536"),
        ("weights.set_root", ["70000", "1"], "below 65536"), ("identities.set", ["{"], "as JSON"),
        ("identities.set", ['{"name": "a"}'], "misses"), ("identities.set", ['{"colour": "a"}'], "expected an object"),
        ("identities.set", ["[1]"], "expected an object"), ("identities.set", ["[" * 5000], "as JSON"),
        ("children.set", [WHO, "1", '{"a": 1}'], "expected"),
        ("governance.set_subnet_param", ["1", "tempo", "1.5"], "expected"),
        ("governance.set_subnet_param", ["1", "n" * 65, "1"], ""), ("governance.propose", [WHO, '"x"'], "is no call"),
        ("governance.propose", [WHO, '{"call": "nothing.here"}'], "there is no call"),
        ("governance.propose", [WHO, '{"call": "stake.add", "args": 5}'], "neither an object nor a list"),
    ],
)
def test_what_fits_no_shape_is_refused_with_a_hint(call, words, said):
    with pytest.raises(UsageError) as refused:
        prepare(SETTINGS, call, words)
    assert said in refused.value.cause and refused.value.exit_code == 2


def test_every_call_says_how_it_is_written():
    assert form(find_call("stake.add")) == "stake.add hotkey=<key> netuid=<u16> amount_rao=<u64?>"
    for entry in CALLS.values():
        assert form(find_call(entry.name)).startswith(entry.name)


def test_a_batch_is_a_list_of_calls(tmp_path):
    file = tmp_path / "batch.json"
    call = {"call": "accounts.transfer", "args": [WHO, "1r", True]}
    file.write_text(json.dumps([call, {"call": "keyring.clear_coldkey_swap"}]))
    assert [str(each).partition("(")[0] for each in batch_file(SETTINGS, file)] == [
        "accounts.transfer", "keyring.clear_coldkey_swap",
    ]
    for text in ("", "{", "{}", "[]", "[5]", "[" * 9000, '[{"call": 5}]', '[{"call": "stake.add", "more": 1}]'):
        file.write_text(text)
        with pytest.raises(UsageError):
            batch_file(SETTINGS, file)
    file.write_bytes(b" " * (1 << 21))
    with pytest.raises(UsageError):
        batch_file(SETTINGS, file)
    with pytest.raises(UsageError, match="no argument"):
        from_document(SETTINGS, {"call": "stake.add", "args": {"colour": 1}}, "call 0")


def test_percentages():
    assert parse_percent("100%", 65535) == 65535 and parse_percent("0%", 9) == 0 and parse_percent("12.5%", 1000) == 125
    for text in ("", "5", "101%", "100.1%", "-1%", "1e1%", "%", "٥%"):
        with pytest.raises(UsageError):
            parse_percent(text, 100)


def test_what_cannot_be_taken_back_is_typed(monkeypatch, capsys):
    class Terminal:
        def __init__(self, said):
            self.said = said

        def isatty(self):
            return True

        def readline(self):
            return self.said + "\n"

    out = Output(SETTINGS)
    for said, typed in (("dissolve", "dissolve"), ("y", "")):
        monkeypatch.setattr("sys.stdin", Terminal(said))
        out.confirm("the plan", typed)
    for said, typed in (("y", "dissolve"), ("", "dissolve"), ("no", ""), ("dissolve", "")):
        monkeypatch.setattr("sys.stdin", Terminal(said))
        with pytest.raises(Aborted):
            out.confirm("the plan", typed)
    assert "type dissolve" in capsys.readouterr().err
