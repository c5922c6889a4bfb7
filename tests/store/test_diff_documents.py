"""JSON and YAML as the values that differ: what is told leads from one document to the other."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.actions.comparing import documents
from casstore.actions.comparing.difference import Change, ValueChange
from casstore.actions.comparing.documents import changes, parse

few = settings(max_examples=50)
scalars = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, math.inf]) | st.text(max_size=2)
)
values = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "a.b", '"', "é", ""]), below)
    ),
    max_leaves=12,
)


def told(old: Any, new: Any, root: str = "$") -> list[tuple[str, str, Any, Any]]:
    return [(each.change.value, each.path, each.old, each.new) for each in changes(old, new, root)]


def steps(path: str) -> list[Any]:
    """The keys and numbers of a path."""
    found = re.findall(r'\.([^\W\d][\w-]*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]', path)
    return [word or (int(number) if number else json.loads(quoted)) for word, number, quoted in found]


def patched(old: Any, found: list[ValueChange]) -> Any:
    """The old document with the changes made: what is removed last to first, then the rest in their order."""
    made = [copy.deepcopy(old)]
    removed = [each for each in found if each.change is Change.REMOVED]
    for each in [*[c for c in found if c.change is Change.CHANGED], *reversed(removed)]:
        *above, last = [0, *steps(each.path)]
        target: Any = made
        for step in above:
            target = target[step]
        if each.change is Change.REMOVED:
            del target[last]
        else:
            target[last] = each.new
    for each in found:
        if each.change is Change.ADDED:
            *above, last = [0, *steps(each.path)]
            target = made
            for step in above:
                target = target[step]
            target.insert(last, each.new) if isinstance(target, list) else target.update({last: each.new})
    return made[0]


@few
@given(values, values)
def test_the_changes_lead_from_one_to_the_other(old: Any, new: Any) -> None:
    found = list(changes(old, new))
    made = patched(old, found)
    assert json.dumps(made, sort_keys=True) == json.dumps(new, sort_keys=True)


@few
@given(values)
def test_a_value_is_the_same_as_its_copy(value: Any) -> None:
    assert told(value, copy.deepcopy(value)) == []
    assert told([math.nan, value], [math.nan, copy.deepcopy(value), "other"]) == [("added", "$[2]", None, "other")]


@few
@given(values, values)
def test_the_other_way_round_is_the_opposite(old: Any, new: Any) -> None:
    other = {"added": "removed", "removed": "added", "changed": "changed"}
    opposite = [(other[change], path, after, before) for change, path, before, after in told(new, old)]
    assert sorted(map(repr, told(old, new))) == sorted(map(repr, opposite))


def test_paths() -> None:
    old = {"a": {"b c": [1, {"x": 0.1}]}, "gone": None, "": 1}
    new = {"a": {"b c": [1, {"x": 0.0}]}, "": 2, "new-1": True}
    assert told(old, new) == [
        ("changed", '$.a["b c"][1].x', 0.1, 0.0),
        ("changed", '$[""]', 1, 2),
        ("added", "$.new-1", None, True),
        ("removed", "$.gone", None, None),
    ]
    assert told({"k": 1, "x y": {"z": 1}}, {"k": 2, "x y": {"z": 2}}, "") == [
        ("changed", "k", 1, 2),
        ("changed", '["x y"].z', 1, 2),
    ]
    assert told([1], {"a": 1}) == [("changed", "$", [1], {"a": 1})]


def test_what_is_put_into_a_list_moves_nothing() -> None:
    assert told([1, 2, 3], [0, 1, 2, 3]) == [("added", "$[0]", None, 0)]
    assert told([1, 2, 3], [1, 3]) == [("removed", "$[1]", 2, None)]
    assert told([1, 2, 3], [1, 5, 6, 3]) == [("changed", "$[1]", 2, 5), ("added", "$[2]", None, 6)]


@pytest.mark.parametrize(
    ("old", "new"), [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ("1", 1), (None, False), ([], {})]
)
def test_what_python_takes_for_equal_may_differ(old: Any, new: Any) -> None:
    assert told(old, new) == [("changed", "$", old, new)]
    assert len(told([[old], 2], [[new]])) == 2
    assert told([{"a": old}], [{"a": new}, 1])[0] == ("changed", "$[0].a", old, new)


def test_keys_of_yaml() -> None:
    old, new = (parse("a.yml", text) for text in (b"1: a\n2024-01-01: [x]", b"true: a\n2024-01-01: [y]"))
    assert told(old, new) == [
        ("added", "$[true]", None, "a"),
        ("changed", '$["2024-01-01"][0]', "x", "y"),
        ("removed", "$[1]", "a", None),
    ]


@pytest.mark.parametrize(
    ("path", "raw", "why"),
    [
        ("a.json", b"{", "not JSON"),
        ("a.json", b"\xff", "not JSON"),
        ("a.json", b"[" * 100_000, "nests too deep|not JSON"),
        ("a.json", b"[" + b"0," * 5_000_000, "more than"),
        ("a.yaml", b"a: [", "not YAML"),
        ("a.yaml", b"a: !!python/object:os.system {}", "never made"),
        (
            "a.yml",
            b"a: &a [1]\n" + b"\n".join(b"%c: &%c [*%c, *%c]" % (c, c, c - 1, c - 1) for c in range(98, 122)),
            "values",
        ),
    ],
)
def test_what_is_no_document_says_why(path: str, raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(path, raw)


def test_numbers_of_many_digits_are_text() -> None:
    assert parse("a.json", b"1" * 5000) == "1" * 5000
    assert parse("a.json", b"\xef\xbb\xbf[NaN, 12]")[1] == 12


def test_what_nests_very_deep_is_compared_as_a_whole() -> None:
    def nested(inner: Any) -> Any:
        for _ in range(documents.MAX_DEPTH + 2):
            inner = [inner, 1]
        return inner

    assert told(nested(1), nested(1)) == []
    ((change, path, old, new),) = told(nested(1), nested(2))
    assert (change, path, old, new) == ("changed", "$" + "[0]" * documents.MAX_DEPTH, [[1, 1], 1], [[2, 1], 1])
