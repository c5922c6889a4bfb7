"""What tag is nearest to a text that is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.errors import InvalidTag
from casstore.tag import Tag, TagQuery, slug

NEAR = [
    ("meta-llama/Llama-3", "meta-llama--llama-3"),
    ("bert:feature/x", "bert:feature--x"),
    ("bert:v1.0+cu118", "bert:v1.0-cu118"),
    ("bert:2026-11-29T10:00", "bert:2026-11-29t10-00"),
    ("Org/Name:Feature/X@2", "org--name:feature--x-2"),
    ("BERT", "bert"),
    ("bert:v1", "bert:v1"),
    ("bert:", "bert"),
    ("a b\n", "a-b"),
    ("modèle", "modele"),
    ("../x", "x"),
    ("-rf", "rf"),
    ("con", "x-con"),
    ("bert:nul.txt", "bert:x-nul.txt"),
    ("Straße", "strae"),
]


@pytest.mark.parametrize(("text", "tag"), NEAR)
def test_slugs(text, tag) -> None:
    assert casstore.slug(text) == tag


@given(st.text(max_size=90) | st.text("aZ9-._/: +ß", max_size=90))
def test_a_slug_is_a_tag_and_stays_one(text) -> None:
    try:
        made = slug(text)
    except InvalidTag:
        return
    assert str(TagQuery.parse(made)) == made
    assert slug(made) == made


@given(st.from_regex("[A-Za-z0-9/]{70,90}", fullmatch=True), st.from_regex("[A-Za-z0-9/]{70,90}", fullmatch=True))
def test_long_names_that_differ_stay_different(one, other) -> None:
    assert (slug(f"a{one}") == slug(f"a{other}")) == (one == other)


@pytest.mark.parametrize("text", ["", "/", "模型", ":v1", "bert:///", "\ud800"])
def test_what_nothing_is_left_of(text) -> None:
    with pytest.raises(InvalidTag, match="nothing in"):
        slug(text)


@pytest.mark.parametrize("value", [None, 5, b"a"])
def test_only_text(value) -> None:
    with pytest.raises(InvalidTag, match="a tag is text"):
        slug(value)


@pytest.mark.parametrize("text", ["meta-llama/Llama-3", "bert:feature/x", "bert:v1.0+cu118", "bert:2026-11-29T10:00",
                                  "bert:" + "v" * 64, "n" * 64 + ":v1", "con:v1", "bert:nul"])  # fmt: skip
def test_the_error_says_which_tag_would_do(text) -> None:
    for parse in (TagQuery.parse, Tag.parse):
        with pytest.raises(InvalidTag, match="would do") as caught:
            parse(text)
        assert caught.value.suggestion == slug(text)
        assert repr(slug(text)) in str(caught.value)
        assert str(parse(slug(text) if ":" in text else f"{slug(text)}:v1"))


def test_where_nothing_would_do_nothing_is_suggested() -> None:
    with pytest.raises(InvalidTag) as caught:
        TagQuery.parse("模型")
    assert caught.value.suggestion is None
    assert "would do" not in str(caught.value)
