"""What is said of a version, as a value: what it takes, what it keeps, and that its text is what it always was."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.description import FIELDS, Description
from casstore.errors import InvalidMetadata
from casstore.plain_json import canonical_json

PACKAGE = Path(casstore.__file__).parent
EMPTY: dict[str, Any] = {
    "labels": {}, "metadata": {}, "module": "", "api_version": "v1", "signatures": {}, "options": {}, "context": {},
}  # fmt: skip

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
mappings = st.dictionaries(texts, plain, max_size=3)
documents = st.fixed_dictionaries(
    {
        "labels": st.dictionaries(texts, texts, max_size=3), "metadata": mappings, "module": texts,
        "api_version": texts, "signatures": st.dictionaries(texts, mappings, max_size=2), "options": mappings,
        "context": mappings,
    },
    optional={"untrusted": scalars, "not_finite": plain, "of the future": plain},
)  # fmt: skip


@given(documents)
def test_no_field_is_lost_and_the_text_stays(document: dict[str, Any]) -> None:
    """Also of fields that this release does not know: manifests are written again, as by a rebuild."""
    description = Description.of(document)
    assert description.document() == document
    assert description.text == canonical_json(document)
    assert Description.parse(description.text) == description
    assert description.is_untrusted == bool(document.get("untrusted"))


@given(documents)
def test_the_mark_comes_and_goes_alone(document: dict[str, Any]) -> None:
    rest = {key: value for key, value in document.items() if key != "untrusted"}
    description = Description.of(document)
    assert description.marked(is_untrusted=False).document() == rest
    assert description.marked(is_untrusted=True).document() == {**rest, "untrusted": True}


@given(documents)
def test_what_is_checked_says_the_same_again(document: dict[str, Any]) -> None:
    said = dataclasses.replace(Description.of({**document, "signatures": {}, "context": {}}))
    checked = dataclasses.replace(said, metadata=said.numbers).checked()
    again = dataclasses.replace(checked, metadata=checked.numbers).checked()
    assert again == checked
    assert not checked.is_untrusted


def test_numbers_that_json_does_not_have() -> None:
    checked = Description(metadata={"loss": math.nan, "best": [1.5, -math.inf], "text": "nan"}).checked()
    assert checked.metadata == {"loss": "nan", "best": [1.5, "-inf"], "text": "nan"}
    assert checked.not_finite_places == [["best", 1], ["loss"]]
    assert checked.numbers == {"loss": math.nan, "best": [1.5, -math.inf], "text": "nan"}
    json.loads(checked.text, parse_constant=pytest.fail)


@pytest.mark.parametrize("name", FIELDS)
def test_each_part_is_of_its_kind(name: str) -> None:
    with pytest.raises(TypeError):
        Description.of({**EMPTY, name: 7})
    with pytest.raises(KeyError):
        Description.of({key: value for key, value in EMPTY.items() if key != name})
    with pytest.raises(InvalidMetadata):
        dataclasses.replace(Description(), **{name: 7}).checked()  # type: ignore[arg-type]


def test_the_parts_are_named_in_one_place() -> None:
    """An eighth part is added there, and everything that relays, compares or records them has it."""
    assert tuple(each.name for each in dataclasses.fields(Description))[: len(FIELDS)] == FIELDS
    assert set(FIELDS) == EMPTY.keys()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
                named = {each.value for each in node.elts if isinstance(each, ast.Constant)}
                assert len(named & set(FIELDS)) < 6, f"{path}:{node.lineno}"
