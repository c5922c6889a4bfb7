"""The form of the tests themselves: none takes so much that a reader loses count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
MOST_PARAMETERS = 6
LONGEST_NAME = 80


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every test and every fixture, and where it stands."""
    for path in sorted(HERE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (
                node.name.startswith("test_") or any("fixture" in ast.unparse(each) for each in node.decorator_list)
            ):
                yield f"{path.relative_to(HERE)}:{node.lineno}: {node.name}", node


def test_no_test_and_no_fixture_has_many_parameters() -> None:
    """Fixtures that are used together are one object, and values that vary together one value."""
    many = [
        where
        for where, node in functions()
        if len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) > MOST_PARAMETERS
    ]
    assert many == []


def test_names_can_be_typed() -> None:
    assert [where for where, node in functions() if len(node.name) > LONGEST_NAME] == []
