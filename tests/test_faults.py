"""The page of faults names a test for each of its lines, and the tests are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "faults.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [r for r in table if not r.startswith(("| fault |", "| --- |"))]


def test_every_line_names_tests_that_exist():
    names = {}
    assert len(rows()) > 50
    for row in rows():
        fault, happens, tests = re.split(r"(?<!\\) \| ", row.strip("| "))
        assert fault and happens
        found = TEST.findall(tests)
        assert ", ".join(f"`{file}::{name}`" for file, name in found) == tests, row
        for file, name in found:
            if file not in names:
                body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
                names[file] = {n.name for n in body if isinstance(n, ast.FunctionDef)}
            assert name in names[file], row
