"""The shorter way to YAML writes what PyYAML does, or leaves it to it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from casstore.actions.describing import plain_yaml

_TRICKY = [
    "",
    "y",
    "No",
    "ON",
    "null",
    "~",
    "nan",
    "1e5",
    "0x1f",
    "0b1",
    "1_000",
    "1.5",
    "1.2.3",
    "01",
    "1:20",
    "<<",
    "=",
]
_TEXT = (
    st.sampled_from(
        [*_TRICKY, "a-", "-a", "a.b", "a: b", "a #b", "a\n", "2026-11-30", "2026-11-30T02:35:46.123456+00:00"]
    )
    | st.text("aeglnotxy019_.-/:# '", max_size=8)
    | st.text(max_size=80)
)
_VALUES = _TEXT | st.booleans() | st.integers() | st.floats() | st.none()
_DOCUMENTS = st.dictionaries(
    _TEXT,
    st.recursive(_VALUES, lambda inner: st.dictionaries(_TEXT, inner, max_size=4) | st.lists(inner, max_size=2)),
    max_size=6,
)


def by_pyyaml(document: dict[str, Any]) -> str:
    text: str = yaml.dump(document, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
    return text


@given(_DOCUMENTS)
@example({"a": {"b": {}}, "loss": 1e-05, "large": 1e22, "small": -0.0})
def test_it_is_what_pyyaml_writes(document: dict[str, Any]) -> None:
    assert plain_yaml.dump(document) in (None, by_pyyaml(document))


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), st.floats() | st.integers(), min_size=1))
def test_metrics_are_what_pyyaml_writes(metrics: dict[str, Any]) -> None:
    assert plain_yaml.dump({"metadata": metrics}) in (None, by_pyyaml({"metadata": metrics}))


@pytest.mark.parametrize("version", ["v1", "1.2.3", "4hx2kq7mzp3wlrta"])
def test_what_most_versions_say_is_plain(version: str) -> None:
    document = {
        "name": "bert-base", "version": version, "module": "", "labels": {"stage": "dev"}, "options": {},
        "metadata": {"loss": 0.25, "steps": 900, "is_best": True, "nested": {"acc": 1e-05}},
        "context": {"framework_name": "torch", "python_version": "3.11.7"},
        "creation_time": "2026-11-30T02:35:46.123456+00:00",
    }  # fmt: skip
    assert plain_yaml.dump(document) == by_pyyaml(document)


def test_what_stands_twice_is_left_to_pyyaml() -> None:
    twice = {"a": 1}
    assert plain_yaml.dump({"one": twice, "two": twice}) is None
    itself: dict[str, Any] = {}
    itself["a"] = itself
    assert plain_yaml.dump(itself) is None
