"""docs/ledger.md names the rows, files, commands and numbers that there are, and its proof can be followed by hand."""

import keyword
import re
from pathlib import Path

from ledger import chain, errors, integrity, layout, state_tree, tree_pages
from ledger.blocks import HEADER_SHAPE, MAX_BLOCK_BYTES
from ledger.client.proofs import verify_states
from ledger.codec import decode, encode
from ledger.crypto import digest
from ledger.history import RETAINED_BLOCKS
from ledger.state_tree import StateTree
from tools.cli.db import group
from tools.node import disk, service

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "ledger.md").read_text()


def rows(title):
    """The cells of a section's tables."""
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]


def test_every_row_of_the_database_is_named():
    named = {letter for first, *_ in rows("The database") for letter in re.findall(r"`([a-zA-Z])`", first)}
    prefixes = [value for name, value in vars(layout).items() if name.isupper() and type(value) is bytes and len(value) == 1]
    assert named == {each.decode() for each in prefixes if each.isalpha()} | {"m"}


def test_every_command_is_named_and_no_other():
    named = {word for first, *_ in rows("`quorix db`") for word in re.findall(r"`(\w+)", first)}
    assert named == set(group.commands)


def test_files_links_and_commands_of_lab_and_bench_exist():
    for name in re.findall(r"\]\(([^)#]+)\)", DOCS):
        assert (ROOT / "docs" / name).resolve().exists(), name
    for room, name in re.findall(r"`quorix (lab|bench) (\w+)", DOCS):
        module = f"{name}_" if keyword.iskeyword(name) else name
        assert (ROOT / "tools" / room / f"{module}.py").exists(), name


def test_numbers_of_the_page():
    said = (
        (tree_pages.PAGE_ENTRIES, "at most {} entries"), (tree_pages.ENTRY_BYTES, "{} bytes"),
        (state_tree.MAX_PROVEN_KEYS, "up to {} keys"), (RETAINED_BLOCKS, "the last {} blocks"),
        (chain.MAX_PENDING_COMMITS, "At most {} batches"), (integrity.CHECKED_LINKS, "{} header links"),
        (integrity.CHECKED_VALUES, "{} values against"), (len(HEADER_SHAPE.fields), "array of {}"),
        (MAX_BLOCK_BYTES >> 20, "at most {} MiB"), (disk.LOW_BYTES >> 30, "below {} GiB"),
        (disk.FULL_BYTES >> 20, "below {} MiB"), (int(service.POOL_KEPT_S), "every {} s"),
    )
    assert [words for number, words in said if words.format(number) not in DOCS] == []
    failures = (errors.Corruption, errors.DiskFailure, errors.WrongGenesis, errors.NewerSchema)
    assert [kind.exit_code for kind in failures] == [int(code) for code in ("23", "24", "25", "26")]
    assert all(f"({kind.exit_code})" in DOCS for kind in failures) and f"exit code {errors.Locked.exit_code}" in DOCS


def test_the_proof_that_is_shown_adds_up():
    (shape,) = re.findall(r"part is `([0-9a-f ]+)`", DOCS)
    steps = [row for row in rows("An example to run") if re.fullmatch(r"`[0-9a-f]{2}`", row[0])]
    assert [row[0].strip("`") for row in steps] == shape.split()
    marks = bytes.fromhex(shape)
    siblings = sum(mark.bit_count() for mark in marks if mark < 16)
    others = sum(mark - 16 for mark in marks if mark >= 16)
    assert [row[2] for row in steps] == [str(mark.bit_count()) if mark < 16 else "" for mark in marks]
    assert [row[3] for row in steps] == [str(mark - 16) if mark >= 16 else "" for mark in marks]
    size = len(encode([marks, bytes(32 * siblings), bytes(64 * others)]))
    assert f"{siblings} siblings are {32 * siblings} bytes; {others} entries at depth 3 are {64 * others}" in DOCS
    assert f"The proof has {size} bytes" in DOCS and f"that is {size}." in DOCS


def test_a_proof_is_laid_out_as_described():
    """The description, followed by hand: a page's other entries, and siblings in the order of their masks."""
    values = {b"key %d" % number: b"value" for number in range(12)}
    tree = StateTree().updated(values)[0]
    key = b"key 3"
    shape, siblings, pages = decode(tree.prove(key))
    path = digest("leaf", key)
    child = path[0] >> 6
    assert shape[0] < 16 <= shape[1] and len(shape) == 2 and not shape[0] >> child & 1
    own = [pages[at : at + 64] for at in range(0, len(pages), 64)] + [path + digest("leaf", b"value")]
    given = iter(siblings[at : at + 32] for at in range(0, len(siblings), 32))
    children = [
        digest("page", *sorted(own)) if each == child else next(given) if shape[0] >> each & 1 else bytes(32)
        for each in range(4)
    ]
    assert digest("node", *children) == tree.root and verify_states(tree.root, {key: b"value"}, tree.prove(key))
