"""The command tree without a node: help, cost of help, errors and exit codes, amounts, keys, settings."""

import json
import os
import resource
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ledger import errors
from ledger.client.keys import key_from_secret, read_key_file, write_key_file
from ledger.crypto import KeyPair
from ledger.errors import Aborted, KeyLocked, NotFound, UsageError
from tools.cli.explain import explain
from tools.cli.main import NOUNS, Settings, cli, main
from tools.cli.output import RAO, SUPPLY_CAP_RAO, Output, _parts, format_amount, format_time, parse_amount, share
from tools.cli.session import account, at, key_path, read_password
from tools.cli.target import rpc_url

HEAVY = (
    "torch", "libp2p", "numpy", "trio", "jinja2", "starlette", "uvicorn", "rich", "structlog", "prometheus_client", "httpx",
    "plyvel", "nacl", "cbor2",
)  # fmt: skip
CPU_LIMIT_S = 0.2


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing of the machine's own settings shows through."""
    for name in list(os.environ):
        if name.startswith("QUORIX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("QUORIX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def invoke(*words, **options):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False, prog_name="quorix", **options)


def command(*words, **options):
    """The command in a process of its own."""
    line = [sys.executable, "-m", "tools.cli.main", *(str(word) for word in words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **options)


@pytest.fixture
def entry_point(monkeypatch, capsys):
    """`entry_point(words)`: (exit code, stdout, stderr) of the command's entry point, in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["quorix", *words])
        monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - closed with the process
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return run


def value(result):
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


# --- help --------------------------------------------------------------------------------------------------------


def tree(group=cli, path=()):
    """Every command with its words."""
    yield path, group
    if isinstance(group, click.Group):
        ctx = click.Context(group, info_name=path[-1] if path else "quorix")
        for name in group.list_commands(ctx):
            yield from tree(group.get_command(ctx, name), (*path, name))


def test_every_noun_and_verb_has_help_that_says_something():
    found = list(tree())
    assert {path[0] for path, _ in found if path} == {*NOUNS, "version", "explain"} and len(found) > 50
    for path, entry in found:
        shown = invoke(*path, "--help")
        assert shown.exception is None, (path, shown.exception)
        assert shown.stdout.startswith("Usage: quorix") and (entry.help or "").strip(), path
        if not isinstance(entry, click.Group):
            assert "--json" in shown.stdout and "--rpc" in shown.stdout, path
            for option in entry.params:
                assert not isinstance(option, click.Option) or option.help or option.hidden, (path, option.name)


def test_help_and_version_are_cheap():
    for words in (["--help"], ["--version"], ["devnet", "up", "--help"], ["ai", "query", "--help"]):
        spent, limit = [], CPU_LIMIT_S if len(words) == 1 else 3 * CPU_LIMIT_S
        while not spent or (min(spent) > limit and len(spent) < 6):  # what else runs on the machine makes it dearer
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert command(*words).returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(spent) <= limit, (words, spent)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom tools.cli.main import cli\nfound = {}\n"
        "for words in WORDS:\n"
        "    try:\n        cli.main(words, standalone_mode=False)\n    except SystemExit:\n        pass\n"
        "    for name in HEAVY:\n        if name in sys.modules:\n            found.setdefault(name, words)\n"
        "print('FOUND', found)\n"
    )
    root = [["--help"], ["--version"]]
    assert python(f"WORDS = {root}\nHEAVY = {HEAVY}\n{code}").endswith("FOUND {}")
    nouns = [[*path, "--help"] for path, _ in tree() if path and path[0] not in ("lab", "bench")] + [["lab", "--help"]]
    heavy = ("torch", "libp2p", "numpy", "trio", "starlette", "uvicorn", "structlog", "prometheus_client", "plyvel")
    assert python(f"WORDS = {nouns}\nHEAVY = {heavy}\n{code}").endswith("FOUND {}")


def python(code):
    """Output of a program."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.rstrip()


# --- errors and exit codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, code, text",
    [
        (["devnt"], 2, "Did you mean 'devnet'?"), (["subnet", "metagrph"], 2, "Did you mean 'metagraph'?"),
        (["lab", "vectrs"], 2, "Did you mean 'vectors'?"), (["zzzzzz"], 2, "No such command 'zzzzzz'. There are: devnet,"),
        (["bench", "nosuch"], 2, "There are: list, calls,"), (["wallet", "send", "x", "-1Q"], 2, "'-1Q' is a negative number"),
        (["subnet", "list", "--jsn"], 2, "--json"), (["subnet", "metagraph"], 2, "NETUID"),
        (["subnet", "metagraph", "x"], 2, "'x' is not a valid integer"), (["--timeout", "0", "version"], 2, "timeout"),
        (["subnet", "list", "--rpc", "http://127.0.0.1:1"], 4, "next: is the devnet running?"),
        (["subnet", "list", "--rpc", "gopher://x"], 2, "not an RPC address"), (["subnet"], 2, "Usage"),
        (["explain", "Nonsense!"], 3, "no error is called"), (["devnet", "down"], 3, "not running"),
        (["query", "block", "x"], 2, "no height"), (["wallet", "balance", "nobody"], 3, "no key is called"),
        (["wallet", "balance", "//validator//0"], 3, "no devnet"), (["version"], 0, "quorix"),
    ],
)  # fmt: skip
def test_exit_codes_words_and_where_they_go(words, code, text, entry_point):
    ended, out, err = entry_point(*words)
    assert ended == code, (out, err)
    assert text in (out if code == 0 else err)
    assert code == 0 or not out


@pytest.mark.parametrize(
    "words, code, name",
    [
        (["devnt"], 2, "UsageError"), (["wallet", "send"], 2, "UsageError"), (["explain", "x"], 3, "NotFound"),
        (["subnet", "list", "--rpc", "http://127.0.0.1:1"], 4, "Unreachable"), (["config", "get", "rpx"], 2, "UsageError"),
        (["devnet", "reset", "nobody"], 3, "NotFound"),
    ],
)  # fmt: skip
def test_json_errors_are_one_object(words, code, name, entry_point):
    ended, out, err = entry_point(*words, "--json")
    assert ended == code and not err
    error = json.loads(out)["error"]
    assert set(error) == {"name", "cause", "hint", "data"} and error["name"] == name and error["cause"]


def test_a_bug_leaves_a_report_and_shows_one_line(home, tmp_path):
    code = (
        "import sys\nfrom tools.cli import main\n"
        "def broken(*a, **k): raise RuntimeError('as\\npected')\n"
        "main.cli.main = broken\nmain.main()\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 70 and "Traceback" not in done.stderr
    (report,) = tmp_path.glob("quorix-*.txt")
    assert report.name in done.stderr and "RuntimeError" in report.read_text()


def test_assertions_cannot_be_switched_off():
    done = subprocess.run([sys.executable, "-O", "-m", "tools.cli.main", "version"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "-O" in done.stderr


def test_common_options_stand_anywhere():
    for words in (["--json", "version"], ["version", "--json"]):
        assert value(invoke(*words))["version"]
    assert invoke("--quiet", "version").stdout.startswith("quorix")


def test_explain_knows_names_codes_and_rules():
    answer, text = explain("NotFound")
    assert answer["exit_code"] == 3 and text.startswith("NotFound (exit 3")
    assert "RevealTooEarly" in explain("RevealTooEarly")[1]
    assert {row["name"] for row in explain("5")[0]["errors"]} == {"KeyLocked", "KeyFileError"}
    assert explain("0")[1].endswith("ok") and explain("130")[0]["about"]
    for unknown, hint in (("NotFoun", "did you mean NotFound?"), ("RevealTooErly", "did you mean RevealTooEarly?")):
        with pytest.raises(NotFound) as caught:
            explain(unknown)
        assert caught.value.hint == hint
    with pytest.raises(NotFound):
        explain("99")
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)}
    for code in codes:
        assert explain(str(code))[1]


# --- amounts -----------------------------------------------------------------------------------------------------


@given(st.integers(0, SUPPLY_CAP_RAO))
def test_amounts_survive_being_shown(rao):
    assert parse_amount(f"{rao}r") == rao
    shown = format_amount(rao)
    assert parse_amount(shown.replace(",", "").replace(" ", "")) == rao
    assert format_amount(-rao) == ("-" if rao else "") + shown
    assert format_amount(rao, digits=2).count(".") == 1


@pytest.mark.parametrize(
    "text, rao",
    [
        ("1Q", RAO), ("1.5Q", 3 * RAO // 2), ("0.000000001Q", 1), ("1_500_000r", 1_500_000), (" 2Q ", 2 * RAO), ("all", None),
        ("0r", 0), ("21_000_000Q", SUPPLY_CAP_RAO), ("1.500000000000Q", 3 * RAO // 2), ("5.0r", 5),
    ],
)  # fmt: skip
def test_amounts_that_are_understood(text, rao):
    assert parse_amount(text) == rao


@pytest.mark.parametrize(
    "text",
    [
        "1", "", "Q", "-1Q", "+1Q", "1e9r", "1,5Q", "1.5r", "0.0000000001Q", "NaNQ", "InfinityQ", "1q", "1R", "_1Q", ".5Q",
        "1.Q", "21_000_001Q", "1e999999999Q", "\u0661Q", "1Q2Q", "1.00000000000000000000000000001Q", "9" * 100 + "Q", "ALL",
    ],
)  # fmt: skip
def test_amounts_that_are_not(text):
    with pytest.raises(UsageError):
        parse_amount(text)


@given(st.text(max_size=12))
def test_no_text_breaks_the_parser(text):
    try:
        parsed = parse_amount(text)
    except UsageError:
        return
    assert parsed is None or 0 <= parsed <= SUPPLY_CAP_RAO


def test_shares_and_json_numbers(capsys):
    assert (share(0), share(65535), share(32768)) == ("0.0000", "1.0000", "0.5000")
    Output(Settings(json=True)).data({"rao": 1 << 60, "small": 5, "key": b"\1"})
    assert json.loads(capsys.readouterr().out) == {"rao": str(1 << 60), "small": 5, "key": "0x01"}


def test_texts_of_strangers_are_shown_as_they_are_and_move_no_terminal(capsys):
    output = Output(Settings())
    output.table("[b]", ("name", "on"), [("[/red] [link=x]", True), ("\x1b[2J\u202eabc", False)])
    output.data(None, "\x9b31m")
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")] == [
        ["[b]"], ["name", "on"], ["[/red]", "[link=x]", "yes"], ["\ufffd[2J\ufffdabc", "no"], ["\ufffd31m"],
    ]  # fmt: skip


def test_a_table_wider_than_the_terminal_comes_in_parts_and_loses_nothing(capsys, monkeypatch):
    monkeypatch.setattr("tools.cli.output.PIPE_COLUMNS", 60)
    columns = ("uid", "name", *(f"share{i:02d}" for i in range(12)), "id")
    rows = [(i, f"neuron-{i}", *(f"0.{i}{c:03d}" for c in range(12)), "ab" * 33) for i in range(3)]
    Output(Settings()).table("", columns, rows, right=columns[2:14])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    words = " ".join(lines).split()
    assert all(word in words for row in rows for word in row[1:14]) and all(name in words for name in columns)
    assert words.count("name") == words.count("uid") == words.count("neuron-2") >= 3
    assert _parts([3, 9, 9], 80) == [[0, 1, 2]] and _parts([], 80) == [[]] and _parts([90, 90], 80) == [[0, 1]]


def test_nobody_to_ask_and_a_refusal(monkeypatch, capsys):
    with pytest.raises(Aborted) as caught:
        Output(Settings(no_input=True)).confirm("delete everything")
    assert caught.value.exit_code == 7 and "--yes" in caught.value.hint
    Output(Settings(yes=True)).confirm("delete everything")

    class Terminal:
        def __init__(self, answer):
            self.readline = lambda: answer

        def isatty(self):
            return True

    for answer in ("n\n", "", "yes please\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        with pytest.raises(Aborted):
            Output(Settings()).confirm("delete everything")
    monkeypatch.setattr(sys, "stdin", Terminal(" Y \n"))
    Output(Settings()).confirm("delete everything")
    assert "delete everything" in capsys.readouterr().err


# --- keys --------------------------------------------------------------------------------------------------------


def test_keys_are_made_once_with_a_password_from_a_file_and_listed(home, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("correct horse\nsecond line\n")
    made = value(invoke("key", "new", "mine", "--kdf", "interactive", "--password-file", secret, "--json"))
    path = home / "keys" / "mine.json"
    assert made["path"] == str(path) and path.stat().st_mode & 0o777 == 0o600
    assert made["phrase"] not in path.read_text() and len(made["phrase"].split()) == 12
    key = read_key_file(path, "correct horse")
    assert key == key_from_secret(made["phrase"])
    with pytest.raises(KeyLocked):
        read_key_file(path, "correct horse\n")
    assert account(Settings(), "mine") == key.public
    again = invoke("key", "new", "mine", "--unencrypted")
    assert isinstance(again.exception, UsageError) and "not overwritten" in again.exception.cause
    long = value(invoke("key", "new", "server", "--kind", "hotkey", "--words", "24", "--unencrypted", "--json"))
    assert len(long["phrase"].split()) == 24
    (home / "keys" / "broken.json").write_text("{")
    (home / "keys" / "broken.json").chmod(0o600)
    rows = value(invoke("key", "list", "--json"))
    assert [(r["name"], r["kind"], r["encrypted"]) for r in rows] == [
        ("broken", "unreadable", None), ("mine", "coldkey", True), ("server", "hotkey", False),
    ]  # fmt: skip
    assert "mine" in invoke("key", "list").stdout


def test_passwords_come_from_a_file_a_descriptor_or_the_environment_never_from_the_air(tmp_path, monkeypatch):
    secret = tmp_path / "password"
    secret.write_bytes("g\u00fcnther und so\r\n".encode())
    assert read_password(Settings(password_file=str(secret)), "") == "g\u00fcnther und so"
    monkeypatch.setenv("QUORIX_PASSWORD_FILE", str(secret))
    assert read_password(Settings(), "") == "g\u00fcnther und so"
    reader, writer = os.pipe()
    os.write(writer, b"piped secret\n")
    os.close(writer)
    assert read_password(Settings(password_fd=reader), "") == "piped secret"
    os.close(reader)
    secret.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError):
        read_password(Settings(), "")
    with pytest.raises(UsageError):
        read_password(Settings(password_file=str(tmp_path / "none")), "")
    monkeypatch.delenv("QUORIX_PASSWORD_FILE")
    with pytest.raises(KeyLocked) as caught:
        read_password(Settings(no_input=True), "")
    assert caught.value.exit_code == 5
    short = invoke("key", "new", "x", "--password-file", secret)
    assert isinstance(short.exception, UsageError)


def test_a_short_password_is_refused(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("1234567\n")
    refused = invoke("key", "new", "x", "--password-file", secret)
    assert isinstance(refused.exception, UsageError) and "8 characters" in refused.exception.cause


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 65, "a b", "\u00e9"])
def test_key_names_are_plain(name):
    with pytest.raises(UsageError):
        key_path(Settings(), name)


def test_who_is_meant(home):
    key = KeyPair.from_seed(b"k" * 32)
    write_key_file(home / "keys" / "mine.json", key, "coldkey", password=None)
    assert account(Settings(), "mine") == key.public == account(Settings(), "0x" + key.public.hex())
    for wrong in ("0x12", "0xzz", "qx" + "1" * 47):
        with pytest.raises(UsageError):
            account(Settings(), wrong)
    assert at("12") == 12 and at("latest") == at("head") == "head" and at("0x" + "Ab" * 32) == "0x" + "Ab" * 32
    for wrong in ("-1", "0x12", "0x" + "zz" * 32, "1" * 30, "", "\u0661"):
        with pytest.raises(UsageError):
            at(wrong)


def test_times_are_shown_for_people():
    assert format_time(1_700_000_000_123) == "2023-11-14 22:13:20.123 UTC"
    assert format_time(0) == "1970-01-01 00:00:00.000 UTC"
    assert format_time(-1) == "-1 ms" and format_time(1 << 63) == f"{1 << 63} ms"


# --- settings ----------------------------------------------------------------------------------------------------


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(home, monkeypatch):
    assert rpc_url(Settings()) == "http://127.0.0.1:9900"
    assert value(invoke("config", "set", "rpc", "http://127.0.0.1:1111", "--json"))["path"] == str(home / "config.toml")
    assert rpc_url(Settings()) == "http://127.0.0.1:1111"
    monkeypatch.setenv("QUORIX_RPC", "http://127.0.0.1:2222")
    assert rpc_url(Settings()) == "http://127.0.0.1:2222"
    assert rpc_url(Settings(rpc="http://127.0.0.1:3333")) == "http://127.0.0.1:3333"
    origins = {row["name"]: row["origin"] for row in value(invoke("config", "show", "--origin", "--json"))}
    assert origins["rpc"] == "QUORIX_RPC" and origins["gateway"] == "default"
    shown = invoke("config", "set", "rpc", "http://127.0.0.1:4444")
    assert "goes before the file" in shown.stderr
    monkeypatch.delenv("QUORIX_RPC")
    got = value(invoke("config", "get", "rpc", "--json"))
    assert got == {"name": "rpc", "value": "http://127.0.0.1:4444", "origin": str(home / "config.toml")}
    assert value(invoke("config", "get", "rpc", "--rpc", "http://127.0.0.1:5", "--json"))["origin"] == "flag"


def test_settings_of_every_kind_are_written_and_read_back(home):
    for name, text, expected in (
        ("rpc_port", "1234", 1234), ("history", "archive", "archive"), ("peers", "/a, /b", ["/a", "/b"]),
        ("log", "debug", "debug"),
    ):
        assert value(invoke("config", "set", name, text, "--json"))["value"] == expected
        assert value(invoke("config", "get", name, "--json"))["value"] == expected
    assert value(invoke("config", "path", "--json")) == {"path": str(home / "config.toml"), "exists": True}
    assert invoke("config", "get", "history").stdout == "archive\n"
    assert "/a, /b" in invoke("config", "show").stdout


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("rpc_prot", "1", "did you mean rpc_port?"), ("rpc_port", "70000", "no port"), ("rpc_port", "x", "whole number"),
        ("history", "maybe", "archive"), ("seal", "never", "interval"), ("rpc", "ftp://x", "not an RPC address"),
        ("gateway", "localhost:1", "not a gateway's address"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_not_written(home, name, text, words):
    refused = invoke("config", "set", name, text)
    assert isinstance(refused.exception, UsageError)
    assert words in refused.exception.cause + refused.exception.hint and not (home / "config.toml").exists()


def test_a_wrong_file_is_told_by_every_command_that_reads_it(home):
    home.mkdir()
    (home / "config.toml").write_text("rcp = 'http://x'\n")
    for words in (["config", "show"], ["subnet", "list"], ["ai", "query", "x"], ["config", "set", "rpc", "http://127.0.0.1:1"]):
        refused = invoke(*words)
        assert isinstance(refused.exception, UsageError) and refused.exception.hint == "did you mean rpc?", words
    (home / "config.toml").write_text("rpc = 3\n")
    assert "expected text" in invoke("subnet", "list").exception.cause
