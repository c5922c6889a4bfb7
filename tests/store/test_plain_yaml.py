"""What is written as YAML without PyYAML is what PyYAML writes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from casstore.actions.describing import plain_yaml

WORDS = st.sampled_from([
    *["", "a", "y", "N", "yes", "No", "on", "Off", "true", "NULL", "nan", "inf", "e5", "0x1f", "0b1", "1e5", "1_000"],
    *["3.11", "3.11.7", "1.2.3", "1.4.40", "2.0.0rc1", "1.2.3e5", "1.2.3+cpu", "1.2", "1.", ".5", "12:30:45", "1:2.3"],
    *["2026-11-30", "2026-11-30T02:26:41+00:00", "2026-11-30T02:26:41.875782+00:00", "a-b", "-", "a:b", "a #b", "<<"],
    *["=", "torch", "bert/base", "a.b", "a b", "é", "'", '"', "a\nb", "~", "?", "- a", "word" * 15, "word" * 40, "a_b"],
])  # fmt: skip
NAMES = WORDS | st.from_regex(r"[A-Za-z0-9+./_-]{0,12}", fullmatch=True)
SCALARS = NAMES | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
@example({"a": {"b": {"c": 1, "d": []}, "e": ["f", 2, 0.5, True]}, "g": {}, "h": -0.0, "i": ""})
@example({"a": [[]], "b": [{}]})
@example({"": "", "2026-11-30T02:26:41+00:00": 1})
def test_what_is_plain_is_as_pyyaml_has_it(document: dict[str, Any]) -> None:
    written = plain_yaml.dump(document)
    assert written is None or written == yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def test_a_descriptor_is_plain() -> None:
    document = {
        "name": "bert-base", "labels": {"stage": "dev"}, "metadata": {"metrics": {"acc": 0.93, "epoch": 3}},
        "context": {"framework_versions": {"torch": "2.13.0+cpu"}, "python_version": "3.11.7"},
        "creation_time": "2026-11-30T02:26:41.875782+00:00",
    }  # fmt: skip
    assert plain_yaml.dump(document) == yaml.safe_dump(document, sort_keys=False)


@pytest.mark.parametrize("value", ["yes", "3.11", "a: b", 1e30, float("nan"), None, [[1]], [{"a": 1}]])
def test_what_is_not_plain_is_left_to_pyyaml(value: object) -> None:
    assert plain_yaml.dump({"key": value}) is None


def test_the_same_object_twice_is_left_to_pyyaml() -> None:
    shared = {"a": 1}
    assert plain_yaml.dump({"one": shared, "two": shared}) is None
