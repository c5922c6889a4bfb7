"""What becomes of each file of a save: decided without a store and without a disk."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.actions.saving.plan import MOSTLY_KNOWN_SHARE, SMALL_FILE_BYTES, Step, Way, plan
from casstore.actions.saving.request import Handling
from casstore.digest import Digest
from casstore.storage.recipe import Recipe, RecipeSegment

MIB = 1 << 20


def chunk(number: int) -> Digest:
    return Digest.of(b"%d" % number)


def recipe(*chunks: tuple[int, int]) -> Recipe:
    """The recipe of a file of chunks, each a number and a length; one chunk's length is always the same."""
    parts = tuple((chunk(number), length) for number, length in chunks)
    blob = Digest.of(b"".join(digest for digest, _ in parts))
    return Recipe(blob, sum(length for _, length in chunks), "by hand", (RecipeSegment(parts),) if parts else ())


def length_of(number: int) -> int:
    return (number * 7919) % MIB + 1


recipes = st.lists(
    st.lists(st.integers(0, 12), max_size=8).map(lambda numbers: recipe(*((n, length_of(n)) for n in numbers))),
    max_size=6,
)
stored = st.sets(st.integers(0, 12).map(chunk))


@given(recipes, stored, st.booleans())
def test_each_chunk_wanted_is_stored_once_and_nothing_known_again(
    files: Sequence[Recipe], have: set[Digest], materialize: bool
) -> None:
    before = set(have)
    steps = list(plan(files, have, materialize=materialize))
    brought = [digest for step in steps for digest in step.new]
    assert len(steps) == len(files)
    assert have == before
    assert len(brought) == len(set(brought))
    assert set(brought) == {digest for file in files for digest in file.digests} - have
    for file, step in zip(files, steps, strict=True):
        assert (step.way in (Way.PACK, Way.ADOPT)) == bool(step.new)
        for digest, found in step.new.items():
            assert (found.digest, found.length) in {(d, n) for segment in file.segments for d, n in segment.chunks}
            assert (digest, found.offset) in {(each.digest, each.offset) for each in file.chunks()}


@given(recipes, stored)
def test_without_a_directory_all_that_is_new_goes_into_packs(files: Sequence[Recipe], have: set[Digest]) -> None:
    ways = {step.way for step in plan(files, have, materialize=False)}
    assert ways <= {Way.PACK, Way.NOTHING}


@given(recipes, stored)
def test_with_a_directory_every_file_with_bytes_stands(files: Sequence[Recipe], have: set[Digest]) -> None:
    steps = plan(files, have, materialize=True)
    assert all((step.way is Way.NOTHING) == (not file.size) for file, step in zip(files, steps, strict=True))


@given(recipes, stored)
def test_what_was_planned_is_known_from_then_on(files: Sequence[Recipe], have: set[Digest]) -> None:
    """As in a second try, or when the very same files are saved again."""
    have |= {digest for step in plan(files, have, materialize=True) for digest in step.new}
    assert not any(step.new for step in plan(files, have, materialize=True))


BIG = [(number, MIB) for number in range(8)]


@pytest.mark.parametrize(
    ("file", "have", "way"),
    [
        (recipe((0, SMALL_FILE_BYTES - 1)), [], Way.PACK),
        (recipe((0, SMALL_FILE_BYTES)), [], Way.ADOPT),
        (recipe(*BIG), [], Way.ADOPT),
        (recipe(*BIG), range(6), Way.ADOPT),  # a quarter of it is new
        (recipe(*BIG), range(7), Way.PACK),
        (recipe(*BIG), range(8), Way.SHARE),
        (recipe((0, 5)), [0], Way.SHARE),
        (recipe(), [], Way.NOTHING),
    ],
)
def test_small_files_and_small_changes_go_into_packs(file: Recipe, have: Sequence[int], way: Way) -> None:
    assert MOSTLY_KNOWN_SHARE == 0.25
    assert [step.way for step in plan([file], set(map(chunk, have)), materialize=True)] == [way]


def test_the_first_of_twins_brings_what_both_need() -> None:
    first, second = plan([recipe(*BIG), recipe(*BIG)], set(), materialize=True)
    assert (first.way, len(first.new)) == (Way.ADOPT, 8)
    assert second == Step(Way.SHARE, {})


HANDLINGS = {
    # takes, is watched, removes, goes whole
    Handling.DRAFT: (True, False, False, False),
    Handling.COPY: (False, False, False, False),
    Handling.COPY_WATCHED: (False, True, False, False),
    Handling.TAKE: (True, False, True, False),
    Handling.TAKE_WATCHED: (True, True, True, False),
    Handling.KEPT: (True, False, True, True),
    Handling.BECOME: (True, True, False, False),
}


def test_each_handling_is_a_choice_of_its_own() -> None:
    """Four things are decided by one word; no two words mean the same."""
    said = {each: (each.takes, each.is_watched, each.removes, each.goes_whole) for each in Handling}
    assert said == HANDLINGS
    assert len(set(said.values())) == len(Handling)
