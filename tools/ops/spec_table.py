"""The generated parts of docs/spec: which test covers which rule, and the metadata of the rules.

    docs/spec/*.md            the rules, each a heading `## ID title`; written by hand
    opening of a module       `Rules: ID title · ID title`: the module implements them
    tests                     `# rule: ID, ID` above a test that shows them
    docs/spec/coverage.md     written here from the three
    docs/spec/metadata.json   written here: `runtime.metadata.document()`

`python -m tools.ops.spec_table` writes both; a test fails while they are stale, and for a rule that has no module or no test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SPEC: Final = ROOT / "docs" / "spec"
ID: Final = r"[A-Z]{3}-[0-9]+"
GENERATED: Final = ("coverage.md", "README.md")


@dataclass
class Rule:
    """A rule with the page and module that state it, and the tests that show it as "file::test"."""

    id: str
    title: str
    page: str
    modules: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """The rules in the order of the pages, and what does not fit together, as sentences."""

    rules: dict[str, Rule]
    problems: list[str]


def collect(root: Path = ROOT) -> Found:
    """Read pages, modules and tests."""
    rules: dict[str, Rule] = {}
    problems: list[str] = []
    for path in sorted((root / "docs" / "spec").glob("*.md")):
        if path.name in GENERATED:
            continue
        for identifier, title in re.findall(rf"^## ({ID}) (.+)$", path.read_text(), re.MULTILINE):
            if identifier in rules:
                problems.append(f"{identifier} is stated on two pages")
            rules[identifier] = Rule(identifier, title, path.name)
    for module, identifier, title in _stated(root):
        rule = rules.get(identifier)
        if rule is None:
            problems.append(f"{module} names {identifier}, which no page has")
        else:
            rule.modules.append(module)
            if rule.title != title:
                problems.append(f"{module} calls {identifier} {title!r}, the page {rule.title!r}")
    for test, identifier in _shown(root):
        if identifier in rules:
            rules[identifier].tests.append(test)
        else:
            problems.append(f"{test} names {identifier}, which no page has")
    for rule in rules.values():
        problems += [f"{rule.id} is named by no module"] if not rule.modules else []
        problems += [f"{rule.id} is shown by no test"] if not rule.tests else []
    return Found(rules, problems)


def coverage_page(found: Found) -> str:
    """docs/spec/coverage.md."""
    lines = [
        "# Which test covers which rule", "",
        "Written by `python -m tools.ops.spec_table`; do not edit. A test fails while this page is stale, and for a rule",
        "without a module or without a test.", "", f"{len(found.rules)} rules.", "",
        "| rule | | module | tests |", "| --- | --- | --- | --- |",
    ]
    for rule in found.rules.values():
        tests = "<br>".join(f"`{test}`" for test in sorted(rule.tests))
        modules = "<br>".join(f"`{module}`" for module in rule.modules)
        lines.append(f"| [{rule.id}]({rule.page}#{anchor(rule)}) | {rule.title} | {modules} | {tests} |")
    return "\n".join(lines) + "\n"


def metadata_text() -> str:
    """docs/spec/metadata.json."""
    from runtime.metadata import document

    return json.dumps(document(), indent=1) + "\n"


def anchor(rule: Rule) -> str:
    """The fragment of a heading, as Markdown renderers make it."""
    text = re.sub(r"[^\w\- ]", "", f"{rule.id} {rule.title}".lower())
    return text.replace(" ", "-")


def _stated(root: Path) -> Iterator[tuple[str, str, str]]:
    """(module, id, title) of the `Rules:` in the opening of each module of the newest rules."""
    for path in sorted((root / "runtime").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith("runtime/frozen/") or path.stat().st_size == 0:
            continue
        _, named, listed = path.read_text().split('"""', 2)[1].partition("\nRules: ")
        if named:
            for item in " ".join(listed.split()).split(" · "):
                identifier, _, title = item.partition(" ")
                yield name, identifier, title


def _shown(root: Path) -> Iterator[tuple[str, str]]:
    """("file::test", id) of the comments above tests."""
    for path in sorted((root / "tests").rglob("test_*.py")):
        name, waiting = path.relative_to(root).as_posix(), list[str]()
        for line in path.read_text().splitlines():
            if match := re.match(r" *# rule: (.+)$", line):
                waiting += [part.strip() for part in match[1].split(",")]
            elif waiting and (match := re.match(r" *def (test_\w+)", line)):
                yield from ((f"{name}::{match[1]}", identifier) for identifier in waiting)
                waiting = []


def write(root: Path = ROOT) -> list[str]:
    """Write what is generated; returns what does not fit together."""
    found = collect(root)
    (root / "docs" / "spec" / "coverage.md").write_text(coverage_page(found))
    (root / "docs" / "spec" / "metadata.json").write_text(metadata_text())
    return found.problems


def main() -> None:
    problems = write()
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
