"""What is quickly found to be in order about the names of a directory is what a close look finds in order, too."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.actions.sources import source

names = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=6) | st.text(
    st.sampled_from("aB9-_. ~:*\\\u00e4"), min_size=1, max_size=4
)


@given(st.lists(names, max_size=4))
def test_plain_names_need_no_closer_look(found) -> None:
    if source._PLAIN_NAMES.fullmatch("/".join(found)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in found:
                source._check_name(name, name)


@given(st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=5))
def test_what_is_plainly_distinct_does_not_collide(paths) -> None:
    if source._are_plainly_distinct(paths):
        source._check_each(paths)


@pytest.mark.parametrize("paths", [["a", "A"], ["d/a", "D/b"], ["x/y/a", "x/Y"], ["Model.yaml"], ["\u00e4", "a\u0308"]])
def test_collisions(paths) -> None:
    with pytest.raises(casstore.InvalidSource, match="differ only by case"):
        source.check_collisions(paths)
