"""The rules of `runtime/`, read from its source: integers only, and nothing that differs between machines or runs."""

import ast
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parents[3] / "runtime"
FILES = sorted(path for path in RUNTIME.rglob("*.py") if "frozen" not in path.relative_to(RUNTIME).parts)
ALLOWED_IMPORTS = (
    "__future__", "bisect", "collections.abc", "dataclasses", "enum", "functools", "itertools", "operator", "typing", "ledger",
)
FORBIDDEN_CALLS = (
    "hash", "id", "float", "complex", "round", "set", "frozenset", "open", "print", "input", "eval", "exec", "vars",
    "globals", "locals", "memoryview",
)
FORBIDDEN_ATTRIBUTES = ("popitem", "__hash__", "__dict__", "environ")


ALSO = {
    "reads.py": ("ipaddress",),  # formats addresses for people; nothing of it enters a block
    "rows.py": ("memoryview()",),  # of bytes, which nobody can change
    "versions.py": ("importlib",),  # finds the rules that execute a block; nothing of it enters one
    "yuma_arrays.py": ("import numpy", "numpy.typing"),  # whole numbers only: see below
}
FORBIDDEN_IN_NUMPY = (  # floats, and what differs between processors or runs
    "float64", "float32", "float_", "double", "argsort", "random", "mean", "average", "dot", "matmul", "einsum", "exp", "log",
    "sqrt", "divide", "true_divide", "linspace", "linalg", "power", "empty_like", "seterr", "errstate",
)


def problems(source, also=()):
    """(line, what) of everything that the rules forbid."""
    for node in ast.walk(ast.parse(source)):
        what = problem(node)
        if what and what.removeprefix("from ") not in also:
            yield node.lineno, what


def problem(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
        return "a float"
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        return "true division"
    if isinstance(node, ast.Set | ast.SetComp):
        return "a set: its order is not defined"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
        return f"{node.func.id}()"
    if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
        return f".{node.attr}"
    if isinstance(node, ast.Import):
        return f"import {node.names[0].name}"
    if isinstance(node, ast.ImportFrom) and not node.level and not (node.module or "").startswith(ALLOWED_IMPORTS):
        return f"from {node.module}"
    if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Nonlocal):
        return type(node).__name__
    if isinstance(node, ast.ExceptHandler) and (node.type is None or _names(node.type, ("Exception", "BaseException"))):
        return "catching everything: a bug must not become an outcome"
    return ""


def _names(node, names):
    return isinstance(node, ast.Name) and node.id in names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RUNTIME)))
def test_the_runtime_is_deterministic(path):
    assert list(problems(path.read_text(), ALSO.get(path.name, ()))) == []


def test_no_rule_uses_the_reads():
    assert [path.name for path in FILES if "import reads" in path.read_text() or ".reads" in path.read_text()] == []


@pytest.mark.parametrize(
    "source",
    [
        "x = 1.5", "x = 1e9", "x = 2j", "x = a / b", "x /= 2", "x = {1, 2}", "x = {a for a in b}", "x = set(b)",
        "x = frozenset(b)", "x = hash(b)", "x = id(b)", "x = round(b)", "x = float(b)", "import time", "import os",
        "from random import random", "from time import time", "import numpy", "from torch import nn", "async def f(): ...",
        "print(1)", "open('x')", "try: pass\nexcept Exception: pass", "try: pass\nexcept: pass", "x.popitem()",
    ],
)
def test_the_check_finds_what_is_forbidden(source):
    assert list(problems(source))


@pytest.mark.parametrize(
    "source", ["x = a // b", "x = {1: 2}", "from ledger.codec import encode", "from .tables import Table", "x = 10**9"]
)
def test_the_check_leaves_the_rest_alone(source):
    assert list(problems(source)) == []


def test_arrays_hold_whole_numbers():
    tree = ast.parse((RUNTIME / "yuma_arrays.py").read_text())
    assert [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_IN_NUMPY] == []
    operators = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult | ast.Pow)]
    assert operators == []
