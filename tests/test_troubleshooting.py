"""docs/troubleshooting.md: its headings are messages of casstore's, and every error of casstore's is in it."""

from __future__ import annotations

import ast
import re
from functools import cache

import casstore
from casstore import errors
from tests.pages import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
ANYTHING = "…"
OURS, _, OTHERS = PAGE.partition("## Messages of other programs")
HEADINGS = re.findall(r"^### (.+)$", OURS, re.MULTILINE)
ERRORS = [name for name in casstore.__all__ if isinstance(getattr(errors, name, None), type)]


@cache
def messages() -> list[str]:
    """Every text in casstore's code, with … where a value goes in."""
    found = []
    for path in sorted((ROOT / "casstore").rglob("*.py")):
        found += [text for node in ast.walk(ast.parse(path.read_text())) if (text := _text(node)) is not None]
    return found


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or ANYTHING for part in node.values)
    return None


def occurs(heading: str) -> bool:
    """Whether some message reads so: word for word, with anything in place of each …, be it words that vary."""
    pattern = re.compile(".*".join(re.escape(part) for part in heading.split(ANYTHING)), re.DOTALL)
    values = re.compile(re.escape(heading).replace(re.escape(ANYTHING), ".*").replace("version", "(version|…)"))
    return any(pattern.search(text) or values.search(text) for text in messages())


def test_its_headings_are_what_casstore_says() -> None:
    assert len(HEADINGS) > 100
    assert [heading for heading in HEADINGS if not occurs(heading)] == []
    assert len(set(HEADINGS)) == len(HEADINGS)


def test_every_error_is_in_it() -> None:
    entries = re.findall(r"^\[([^\]]+)\] ", OURS, re.MULTILINE)
    named = {name for entry in entries for name in entry.replace(" or a warning", "").split(", ")}
    table = set(re.findall(r"^\| `(\w+)` \|", OTHERS, re.MULTILINE))
    assert set(ERRORS) <= named
    assert table == set(ERRORS)


def test_every_heading_is_explained() -> None:
    """Headings may share what is said below the last of them."""
    for entry in re.split(r"\n\n", OURS.partition("\n## ")[2]):
        lines = entry.splitlines()
        assert not lines or not lines[-1].startswith("### "), lines[-1]


def test_every_message_of_an_error_of_the_store_is_in_it() -> None:
    """What keeps a user from the whole store is explained, whatever else is not."""
    missing = []
    for path in sorted((ROOT / "casstore").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in _OF_STORES:
                text = _text(node.args[0])
                if text and re.search(r"\w", text) and not any(_matches(each, text) for each in HEADINGS):
                    missing.append(text)
    assert missing == []


_OF_STORES = {"StoreError", "StoreLocked", "StoreTooNew", "SQLiteTooOld", "CatalogDamaged", "StoreUnwritable"}


def _matches(heading: str, text: str) -> bool:
    return re.search(".*".join(re.escape(part) for part in heading.split(ANYTHING)), text, re.DOTALL) is not None
