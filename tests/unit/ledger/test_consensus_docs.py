"""docs/consensus.md names the rules that the core has, all of them and no others, and files and exit codes that exist."""

import re
from pathlib import Path

from ledger import errors
from ledger.votes import max_faulty, quorum

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "consensus.md").read_text()
CORE = (ROOT / "ledger" / "bft.py").read_text()
SAID = ("enter, leader", "propose ", "want ", "prevote ", "precommit ", "valid ", "decide ", "go to round", "a quorum ")
RULE = re.compile(r"\bR(\d+[ab]?)\b")


def rules(text):
    """Ids; a bare R4 means both of its halves."""
    found = set(RULE.findall(text))
    return (found - {"4"}) | ({"4a", "4b"} if "4" in found else set())


def test_the_page_has_a_row_for_each_rule_of_the_core_and_no_other():
    rows = set(re.findall(r"^\| \*\*R(\d+[ab]?)\*\* ", DOCS, re.MULTILINE))
    fired = set(re.findall(r'_fired\("R(\d+[ab]?)"', CORE)) | set(re.findall(r'_cast\([^"\n]*"R(\d+[ab]?)"', CORE))
    assert rows == rules(CORE) and fired <= rows and len(rows) == 15


def test_the_page_names_no_rule_that_the_core_does_not_have():
    assert rules(DOCS) == rules(CORE)


def test_the_worked_height_shows_only_what_the_core_says():
    (trace,) = re.findall(r"```\n(.*?)```", DOCS, re.DOTALL)
    told = [line for line in trace.splitlines() if not re.match(r"\d+ p\d (crash|boot|clock) ?", line)]
    lines = [re.fullmatch(r"\d+ p\d R(\d+[ab]?) 8/\d (.*)", line) for line in told]
    assert len(lines) > 40 and all(lines)
    for name, said in (line.groups() for line in lines):
        assert f'"R{name}"' in CORE or name in ("2", "3", "4b", "5"), name
        words = said.split("  ")[0]
        assert words.startswith(SAID), words


def test_numbers_of_the_page():
    for n, f, q in ((1, 0, 1), (4, 1, 3), (7, 2, 5), (100, 33, 67)):
        assert f"| {n} | {f} | {q} |" in DOCS and (max_faulty(n), quorum(n)) == (f, q)
    for code, kind in ((20, errors.DoubleSignRisk), (21, errors.TwoCertificates), (22, errors.InvariantBroken),
                       (23, errors.Corruption), (24, errors.DiskFailure), (25, errors.WrongGenesis),
                       (26, errors.NewerSchema), (27, errors.Locked)):
        assert kind.exit_code == code and str(code) in DOCS


def test_files_that_the_page_names_exist():
    for name in re.findall(r"`((?:ledger|runtime)/[a-z_/]+\.py)`", DOCS):
        assert (ROOT / name).exists(), name
