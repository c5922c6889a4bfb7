"""Holds the shape of the code: functions that can be called without counting, and read without scrolling."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore

PACKAGE = Path(casstore.__file__).parent
MOST_PARAMETERS = 6
MOST_LINES = 60
# What users call by keywords, much of it in BentoML's words. Below these, fields that travel together are a type.
PUBLIC = {
    "store.Store.create", "store.Store.save", "store.Store.save_draft", "store.Store.import_archive",
    "store.Store.add_remote", "store.Store.gc", "store.Store.forget", "store.Store.set_policy",
    "models.calls.create", "models.calls.import_model", "models.calls.export_model", "models.bento_model.Model.export",
    "models.info.ModelInfo.__init__",
}  # fmt: skip


_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def functions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions in a module, also those in others, with their names in the package."""
    for child in ast.iter_child_nodes(node):
        inner = f"{name}.{child.name}" if isinstance(child, _NAMED) else name
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield inner, child
        yield from functions(child, inner)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of a function's parameters, but for the instance or class that a method is of."""
    given = function.args
    named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    rest = [each.arg for each in (given.vararg, given.kwarg) if each is not None]
    return [*(named[1:] if named[:1] in (["self"], ["cls"]) else named), *rest]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    first, lines = function.body[0], (function.end_lineno or 0) - function.lineno + 1
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) else 0)


def found(path: Path) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return list(functions(ast.parse(path.read_text(encoding="utf-8")), module))


FOUND = [each for path in sorted(PACKAGE.rglob("*.py")) for each in found(path)]


def test_functions_take_few_parameters() -> None:
    many = {name: parameters(function) for name, function in FOUND if len(parameters(function)) > MOST_PARAMETERS}
    assert {name: names for name, names in many.items() if name not in PUBLIC} == {}
    assert many.keys() == PUBLIC  # none is excused that need not be


def test_functions_are_short() -> None:
    lines = {name: length(each) for name, each in FOUND}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(a, b, /, c, *d, e, **g): pass", ["a", "b", "c", "e", "d", "g"]),
        ("class A:\n    def f(self, a): pass", ["a"]),
        ("class A:\n    @classmethod\n    def f(cls): pass", []),
        ("async def f(self_, a=1): pass", ["self_", "a"]),
    ],
)
def test_parameters_are_counted(source: str, names: list[str]) -> None:
    ((_, function),) = functions(ast.parse(source), "module")
    assert parameters(function) == names


def test_functions_are_found_in_functions_too() -> None:
    source = "class A:\n    def f(self):\n        if 1:\n            def g(): pass\nasync def h(): pass"
    assert [name for name, _ in functions(ast.parse(source), "m")] == ["m.A.f", "m.A.f.g", "m.h"]
