"""The shorter way to YAML writes what PyYAML does, or leaves it to it."""

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
    *["01", "a-", "-a", "a: b", "a\n", "_a", "_"],
])  # fmt: skip
NAMES = WORDS | st.from_regex(r"[A-Za-z0-9+./_-]{0,12}", fullmatch=True) | st.text("aeglnotxy019_.-/:# '", max_size=8)
SCALARS = NAMES | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)


def by_pyyaml(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text


@given(st.dictionaries(NAMES, VALUES, max_size=4))
@example({"a": {"b": {"c": 1, "d": []}, "e": ["f", 2, 0.5, True]}, "g": {}, "h": -0.0, "i": ""})
@example({"a": {"b": {}}, "loss": 1e-05, "large": 1e22, "small": -0.0})
@example({"a": [[]], "b": [{}]})
@example({"": "", "2026-11-30T02:26:41+00:00": 1})
def test_what_is_plain_is_as_pyyaml_has_it(document: dict[str, Any]) -> None:
    assert plain_yaml.dump(document) in (None, by_pyyaml(document))


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), st.floats() | st.integers(), min_size=1))
def test_metrics_are_as_pyyaml_has_them(metrics: dict[str, Any]) -> None:
    assert plain_yaml.dump({"metadata": metrics}) in (None, by_pyyaml({"metadata": metrics}))


@pytest.mark.parametrize("version", ["v1", "1.2.3", "4hx2kq7mzp3wlrta"])
def test_what_most_versions_say_is_plain(version: str) -> None:
    document = {
        "name": "bert-base", "version": version, "module": "", "labels": {"stage": "dev"}, "options": {},
        "metadata": {"loss": 0.25, "steps": 900, "is_best": True, "nested": {"acc": 1e-05, "layers": [1, 2]}},
        "context": {"framework_versions": {"torch": "2.13.0+cpu"}, "python_version": "3.11.7"},
        "creation_time": "2026-11-30T02:35:46.123456+00:00",
    }  # fmt: skip
    assert plain_yaml.dump(document) == by_pyyaml(document)


@pytest.mark.parametrize("value", ["yes", "3.11", "a: b", float("nan"), None, [[1]], [{"a": 1}]])
def test_what_is_not_plain_is_left_to_pyyaml(value: object) -> None:
    assert plain_yaml.dump({"key": value}) is None


def test_what_stands_twice_is_left_to_pyyaml() -> None:
    twice = {"a": 1}
    assert plain_yaml.dump({"one": twice, "two": twice}) is None
    itself: dict[str, Any] = {}
    itself["a"] = itself
    assert plain_yaml.dump(itself) is None
