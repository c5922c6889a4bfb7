from __future__ import annotations

import re
import threading
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore import tag as tag_module
from casstore.errors import InvalidTag
from casstore.tag import MAX_PART_CHARACTERS, Tag, TagQuery, generate_version

DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
parts = st.from_regex(r"[a-z0-9]([-._a-z0-9]{0,61}[a-z0-9])?", fullmatch=True).filter(
    lambda text: not DEVICES.fullmatch(text)
)
versions = parts.filter(lambda text: text != "latest")

BAD_PARTS = [
    "",
    "m\n",
    "\nm",
    " m",
    "m ",
    "a b",
    "../x",
    "..",
    ".",
    ".hidden",
    "a/b",
    "a\\b",
    "/abs",
    "-rf",
    "m-",
    "m.",
    "_m",
    "m_",
    "m\0",
    "m\u00e9",
    "\uff4d",
    "\u0661",
    "m*",
    "%2e",
    "a" * 64,
]


@given(parts, versions)
def test_round_trip(name: str, version: str) -> None:
    tag = Tag(name, version)
    assert str(tag) == f"{name}:{version}"
    assert Tag.parse(str(tag)) == tag
    assert TagQuery.parse(str(tag)) == TagQuery.parse(tag) == TagQuery(name, version)
    assert str(TagQuery.parse(tag)) == str(tag)


@given(st.text(max_size=80))
def test_any_text_is_a_tag_or_refused(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tag = Tag.parse(text)
        except InvalidTag:
            return
    assert re.fullmatch(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?:[a-z0-9]([-._a-z0-9]*[a-z0-9])?", str(tag))


@pytest.mark.parametrize("part", BAD_PARTS)
def test_parts_that_are_refused(part: str) -> None:
    for make in (lambda: Tag(part, "v1"), lambda: Tag("bert", part), lambda: TagQuery.parse(f"bert:{part}")):
        with pytest.raises(InvalidTag):
            make()
    with pytest.raises(InvalidTag):
        TagQuery.parse(part)


@pytest.mark.parametrize("part", ["a", "0", "a-b", "a.b_c-d", "v1.0.0", "a..b", "a" * 63, "console", "com", "com10"])
def test_parts_that_are_taken(part: str) -> None:
    assert str(Tag(part, part)) == f"{part}:{part}"


def test_length_counts_at_most_63() -> None:
    assert MAX_PART_CHARACTERS == 63
    with pytest.raises(InvalidTag, match="has 64 characters; at most 63"):
        Tag("bert", "a" * 64)


def test_latest_is_no_version_of_its_own() -> None:
    with pytest.raises(InvalidTag, match="'latest' always means the newest"):
        Tag.parse("bert:latest")
    with pytest.raises(InvalidTag), pytest.warns(UserWarning, match="lower case"):
        Tag("bert", "LATEST")
    assert str(Tag("latest", "v1")) == "latest:v1"


@pytest.mark.parametrize("part", ["con", "prn", "aux", "nul", "com0", "com9", "lpt1", "nul.txt", "aux.v1.0"])
def test_names_that_windows_reserves(part: str) -> None:
    for name, version in ((part, "v1"), ("bert", part)):
        with pytest.raises(InvalidTag, match="Windows reserves"):
            Tag(name, version)


def test_upper_case_is_lowered_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="lower case") as caught:
        tag = Tag.parse("BERT:V1")
    assert tag == Tag("bert", "v1")
    assert [str(warning.message) for warning in caught] == [
        "the name 'BERT' is kept in lower case, as 'bert'",
        "the version 'V1' is kept in lower case, as 'v1'",
    ]


def test_a_colon_at_the_end_says_what_to_write() -> None:
    with pytest.raises(InvalidTag, match="'bert:' ends in ':'; write 'bert'"):
        TagQuery.parse("bert:")
    with pytest.raises(InvalidTag, match="names no version; write it as bert:VERSION"):
        Tag.parse("bert")


@pytest.mark.parametrize("text", [":v1", ":", "a:b:c", "a::b"])
def test_colons_in_other_places(text: str) -> None:
    with pytest.raises(InvalidTag):
        TagQuery.parse(text)


@pytest.mark.parametrize("value", [None, 7, b"bert:v1", ["bert"]])
def test_what_is_not_text(value: object) -> None:
    with pytest.raises(InvalidTag, match="a tag is text"):
        TagQuery.parse(value)  # type: ignore[arg-type]


def test_what_wants_the_newest() -> None:
    assert TagQuery.parse("bert").wants_newest
    assert TagQuery.parse("bert:latest").wants_newest
    assert not TagQuery.parse("bert:v1").wants_newest
    assert str(TagQuery.parse("bert")) == "bert"


def test_tags_are_values() -> None:
    assert {Tag("a", "1"): "found"}[Tag("a", "1")] == "found"
    assert sorted([Tag("b", "1"), Tag("a", "2"), Tag("a", "1")]) == [Tag("a", "1"), Tag("a", "2"), Tag("b", "1")]
    with pytest.raises(AttributeError):
        Tag("a", "1").version = "2"  # type: ignore[misc]


def test_generated_versions_are_valid_and_increase() -> None:
    made = [generate_version() for _ in range(2000)]
    assert made == sorted(set(made))
    for version in made[:50]:
        assert len(version) == 16
        assert Tag("bert", version).version == version


def test_generated_versions_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_module, "_last_generated", 0)
    made = []
    # From 1970 to 3050: the last digit of the milliseconds, and every carry above it.
    for milliseconds in (0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001, 34_000_000_000_000):
        monkeypatch.setattr(time, "time_ns", lambda at=milliseconds: at * 1_000_000)
        made.append(generate_version())
    assert made == sorted(made)


def test_generated_versions_increase_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_module, "_last_generated", 0)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    before = generate_version()
    monkeypatch.setattr(time, "time_ns", lambda: 1_600_000_000_000_000_000)
    assert before < generate_version() < generate_version()


def test_generated_versions_are_unique_over_threads() -> None:
    made: list[list[str]] = [[] for _ in range(8)]

    def generate(into: list[str]) -> None:
        into.extend(generate_version() for _ in range(1000))

    threads = [threading.Thread(target=generate, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({version for into in made for version in into}) == 8000
    assert all(into == sorted(into) for into in made)
