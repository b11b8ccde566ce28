"""Every promise names its tests, and the tests are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/invariants.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


def test_every_invariant_has_a_row():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 10))


@pytest.mark.parametrize(("number", "tests"), [(number, tests) for number, _, tests in ROWS])
def test_its_tests_exist(number, tests):
    named = re.findall(r"`(tests/[^`:]+)::([^`]+)`", tests)
    assert named, number
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"
