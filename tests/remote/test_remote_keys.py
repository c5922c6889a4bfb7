"""Keys of a remote: each is read as it was made, and a listing may hold anything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore import InvalidTag, Tag
from casstore.digest import Digest
from casstore.remote import keys

PUSHES = st.integers(0, (1 << 128) - 1).map(lambda number: f"{number:032x}")
NUMBERS = st.integers(0, 1 << 70)
PARTS = st.from_regex(r"\A[a-z0-9]([-._a-z0-9]{0,8}[a-z0-9])?\Z")


@st.composite
def tags(draw: st.DrawFn) -> Tag:
    try:
        return Tag(draw(PARTS), draw(PARTS))
    except InvalidTag:  # names of devices, and `latest`
        return Tag("m", "1")


NO_KEYS = """
refs/m/1 refs/m/1/ refs/m/1/01 refs/m/1/-1 refs/m/1/0.y refs/M/1/0 refs/m/latest/0 refs/con/1/0 refs/../1/0 refs//1/0
refs/m/1/0.s refs/m/1/0.s01 refs/m/1/0.x.x refs/m/1/٣ pushes/x/open gc/ gc/01 packs/a/1.pack segments/1 refs/m/1/0.sig
refs/m/1/0.0.sig
"""
JUNK = st.text(max_size=12) | st.sampled_from([*NO_KEYS.split(), "refs/m/1/0\n"])


@given(PUSHES, NUMBERS)
def test_keys_of_pushes_are_read_as_they_were_made(push: str, number: int) -> None:
    assert keys.parse_pack(keys.pack(push, number)) == (push, number)
    assert keys.parse_segment(keys.segment(push, number)) == (push, number)
    assert keys.parse_epoch(keys.epoch(number)) == number
    for made in (keys.push_open(push), keys.push_seen(push, number), keys.push_end(push)):
        assert keys.parse_push(made) == push
        assert (keys.parse_pack(made), keys.parse_segment(made), keys.parse_epoch(made)) == (None, None, None)
    state = keys.pushes([(keys.push_open(push), 5), (keys.push_seen(push, number), 9)])[push]
    assert (state.is_open, state.has_ended, state.seen, state.opened_ns, state.modified_ns) == (
        True,
        False,
        number,
        5,
        9,
    )


@given(tags(), NUMBERS)
def test_keys_of_refs_are_read_as_they_were_made(tag: Tag, generation: int) -> None:
    key = keys.ref(tag, generation)
    assert keys.parse_ref(key) == tag
    assert keys.parse_ref(keys.tombstone(tag, generation)) is None
    state = keys.refs([key])[tag]
    assert (state.is_live, state.key(tag)) == (True, key)
    repacked = state.next_repacked(tag)
    assert keys.parse_ref(repacked) == tag
    again = keys.refs([repacked, key])[tag]
    assert again.key(tag) == repacked
    assert keys.refs([key, repacked, again.next_repacked(tag)])[tag].key(tag) == again.next_repacked(tag)
    assert not keys.refs([key, repacked, keys.tombstone(tag, generation)])[tag].is_live
    after = keys.ref(tag, generation + 1)
    assert keys.refs([key, keys.tombstone(tag, generation), after])[tag].key(tag) == after


@given(tags(), NUMBERS, st.binary(max_size=3))
def test_signatures_are_of_one_generation(tag: Tag, generation: int, data: bytes) -> None:
    digest = Digest.of(data)
    ref, key = keys.ref(tag, generation), keys.signature(tag, generation, digest)
    assert (keys.parse_signature(key), keys.parse_ref(key)) == (digest, None)
    assert (keys.parse_signature(ref), keys.parse_signature(keys.tombstone(tag, generation))) == (None, None)

    def signatures(*listed: str) -> tuple[list[str], list[str]]:
        state = keys.refs([key, *listed])[tag]
        return state.signatures, state.dead_signatures

    after = keys.ref(tag, generation + 1)
    assert signatures() == ([], []), "in doubt it stays"
    assert signatures(ref) == signatures(ref, f"{ref}.s0") == ([key], [])
    assert signatures(ref, f"{ref}.x") == signatures(f"{ref}.x") == signatures(ref, after) == ([], [key])
    assert not keys.refs([key])[tag].is_live
    assert keys.refs([key, ref])[tag].key(tag) == ref


@given(st.lists(JUNK), PUSHES)
def test_what_is_no_key_means_nothing(listed: list[str], push: str) -> None:
    assert keys.refs(listed) == {}
    assert keys.pushes((key, 1) for key in listed) == {}
    for key in listed:
        assert (keys.parse_ref(key), keys.parse_pack(key), keys.parse_segment(key)) == (None, None, None)
        assert (keys.parse_push(key), keys.parse_epoch(key)) == (None, None)
    assert keys.refs([*listed, "refs/m/1/0"])[Tag("m", "1")].is_live


EVENTS = st.tuples(st.integers(0, 3), st.sampled_from(["", ".x", ".s0", ".s1", ".s10"]))


@given(st.lists(EVENTS, unique=True), st.lists(JUNK), st.randoms())
def test_what_a_listing_says_of_a_tag(events: list[tuple[int, str]], junk: list[str], random: Any) -> None:
    """In the words of docs/format.md, whatever order it comes in."""
    listed = [f"refs/m/1/{generation}{suffix}" for generation, suffix in events] + junk
    random.shuffle(listed)
    tag = Tag("m", "1")
    found = keys.live(keys.refs(listed)).get(tag)
    standing = [generation for generation, suffix in events if not suffix]
    highest = max(standing, default=-1)
    if not standing or (highest, ".x") in events:
        assert found is None
    else:
        again = [int(suffix[2:]) for generation, suffix in events if generation == highest and suffix[:2] == ".s"]
        assert found == f"refs/m/1/{highest}" + (f".s{max(again)}" if again else "")


@pytest.mark.parametrize("text", ["0" * 31, "0" * 33, "g" * 32, "A" * 32, "0" * 32 + "\n", ""])
def test_what_is_not_the_id_of_a_push(text: str) -> None:
    assert not keys.is_push_id(text)
    assert keys.parse_push(f"pushes/{text}/open") is None
    assert keys.parse_segment(f"segments/{text}/1") is None
