"""The written rules: every rule has a page, a module and a test, and what is generated of them is fresh."""

import json

import pytest

from ledger.codec import Text
from runtime import metadata
from runtime.registry import CALLS, ERRORS, EVENTS
from runtime.tables import Table
from tools.ops import spec_table


@pytest.fixture(scope="module")
def found():
    return spec_table.collect()


def test_every_rule_has_a_page_a_module_and_a_test(found):
    assert found.problems == [] and len(found.rules) > 100


def test_the_generated_pages_are_fresh(found):
    again = "run `python -m tools.ops.spec_table`, and look at what it changes: the rules are a protocol"
    assert (spec_table.SPEC / "coverage.md").read_text() == spec_table.coverage_page(found), again
    assert (spec_table.SPEC / "metadata.json").read_text() == spec_table.metadata_text(), again


def test_what_does_not_fit_together_is_named(tmp_path):
    for folder in ("docs/spec", "runtime/frozen/v1", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs/spec/a.md").write_text("# A\n\n## AAA-1 one\n\ntext\n\n## AAA-2 two\n\n## AAA-3 three\n")
    (tmp_path / "docs/spec/b.md").write_text("## AAA-1 one\n")
    (tmp_path / "runtime/a.py").write_text('"""A.\n\nRules: AAA-1 one · AAA-2 other ·\n    AAA-9 nine\n"""\n')
    (tmp_path / "runtime/frozen/v1/a.py").write_text('"""A.\n\nRules: AAA-8 eight\n"""\n')
    test = "# rule: AAA-1, AAA-7\n@mark\ndef test_it():\n    pass\n\n\ndef test_other():\n    pass\n"
    (tmp_path / "tests/test_a.py").write_text(test)
    found = spec_table.collect(tmp_path)
    assert found.rules["AAA-1"].tests == ["tests/test_a.py::test_it"]
    assert sorted(found.problems) == [
        "AAA-1 is stated on two pages", "AAA-2 is shown by no test", "AAA-3 is named by no module", "AAA-3 is shown by no test",
        "runtime/a.py calls AAA-2 'other', the page 'two'", "runtime/a.py names AAA-9, which no page has",
        "tests/test_a.py::test_it names AAA-7, which no page has",
    ]


# rule: BLK-13
def test_the_metadata_describes_everything_and_is_plain():
    document = metadata.document()
    assert json.loads(json.dumps(document)) == document
    assert [call["number"] for call in document["calls"]] == sorted(CALLS)
    assert [event["number"] for event in document["events"]] == sorted(EVENTS)
    assert sorted(error["name"] for error in document["errors"]) == sorted(ERRORS)
    assert [table["number"] for table in document["tables"]] == sorted(Table.registry)
    assert all(call["about"] and call["priority"] in ("normal", "weights", "operational") for call in document["calls"])
    by_name = {table["name"]: table for table in document["tables"]}
    assert by_name["account"]["holding"] == "account" and by_name["account"]["key"] == [["account", 32]]
    assert by_name["account"]["value"] == [["free_rao", "int"], ["reserved_rao", "int"], ["nonce", "int"]]
    assert document["constants"]["children.MAX_CHILDREN"] == 5 and Text(5).name not in document["constants"]
    owner = next(param for param in document["params"] if param["name"] == "bonds_moving_average")
    assert (owner["high"], owner["owner_high"], owner["who"]) == (990_000, 975_000, "owner")


# rule: BLK-13
def test_calls_of_every_proxy_kind_exist():
    names = {call.name for call in CALLS.values()}
    assert all(set(allowed) <= names for allowed in metadata.document()["proxies"].values())
