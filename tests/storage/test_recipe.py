from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.recipe import MAX_CHUNK_BYTES, Recipe, RecipeSegment

BLOB = Digest.of(b"blob")
digests = st.binary(min_size=32, max_size=32).map(Digest)
segments = st.builds(
    RecipeSegment,
    st.lists(st.tuples(digests, st.integers(1, MAX_CHUNK_BYTES)), min_size=1, max_size=4).map(tuple),
    st.none() | st.text(max_size=20),
    st.none() | st.sampled_from(["BF16", "F32", "Q4_K"]),
    st.none() | st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple),
)
recipes = st.lists(segments, max_size=5).map(
    lambda found: Recipe(BLOB, sum(segment.length for segment in found), "safetensors/1", tuple(found))
)


@given(recipes)
def test_round_trip(recipe: Recipe) -> None:
    packed = recipe.pack()
    again = Recipe.unpack(BLOB, packed)
    assert again == recipe
    assert again.pack() == packed


@given(recipes)
def test_chunks_stand_one_after_the_other(recipe: Recipe) -> None:
    end = 0
    for chunk in recipe.chunks():
        assert chunk.offset == end
        end += chunk.length
    assert end == recipe.size
    assert recipe.is_stored == (sum(1 for _ in recipe.chunks()) > 1)


def test_the_bytes_are_part_of_the_format() -> None:
    a, b = Digest.of(b"a"), Digest.of(b"b")
    recipe = Recipe(BLOB, 7, "gguf/1", (RecipeSegment(((a, 1), (b, 2))), RecipeSegment(((a, 4),), "w", "F32", (1,))))
    rows = [[None, None, None, a + b, [1, 2]], ["w", "F32", [1], bytes(a), [4]]]
    assert recipe.pack() == msgpack.packb(["gguf/1", 7, rows])


def test_the_recipe_of_one_chunk_is_not_stored() -> None:
    recipe = Recipe.of_one_chunk(BLOB, 5)
    assert not recipe.is_stored
    assert [(chunk.digest, chunk.offset, chunk.length) for chunk in recipe.chunks()] == [(BLOB, 0, 5)]
    assert list(Recipe.of_one_chunk(Digest.of(b""), 0).chunks()) == []


def test_what_a_newer_casstore_adds_is_passed_over() -> None:
    packed = msgpack.packb(["gguf/2", 3, [[None, None, None, bytes(32), [3], "new"]], "new"])
    assert Recipe.unpack(BLOB, packed) == Recipe(BLOB, 3, "gguf/2", (RecipeSegment(((Digest(bytes(32)), 3),)),))


ROW = [None, None, None, bytes(32), [3]]


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        [],
        {},
        "text",
        ["plan", 3],
        ["plan", 4, [ROW]],
        ["plan", 3.0, [ROW]],
        ["plan", "3", [ROW]],
        ["plan", True, [[None, None, None, bytes(32), [1]]]],
        [7, 3, [ROW]],
        [None, 3, [ROW]],
        ["plan", 3, 7],
        ["plan", 3, [7]],
        ["plan", 3, [{}]],
        ["plan", 3, [{"a": 1}]],
        ["plan", 3, {"a": 1}],
        ["plan", 3, [[]]],
        ["plan", 3, [ROW[:4]]],
        ["plan", 3, [[None, None, None, bytes(31), [3]]]],
        ["plan", 3, [[None, None, None, bytes(64), [3]]]],
        ["plan", 3, [[None, None, None, "x" * 32, [3]]]],
        ["plan", 3, [[None, None, None, None, [3]]]],
        ["plan", 3, [[None, None, None, [0] * 32, [3]]]],
        ["plan", 3, [[None, None, None, bytes(32), [3.0]]]],
        ["plan", 1, [[None, None, None, bytes(32), [True]]]],
        ["plan", 3, [[None, None, None, bytes(32), 3]]],
        ["plan", 3, [[None, None, None, bytes(32), None]]],
        ["plan", 0, [[None, None, None, bytes(32), [0]]]],
        ["plan", 0, [[None, None, None, bytes(64), [3, -3]]]],
        ["plan", MAX_CHUNK_BYTES + 1, [[None, None, None, bytes(32), [MAX_CHUNK_BYTES + 1]]]],
        ["plan", 3, [[None, None, 7, bytes(32), [3]]]],
        ["plan", 3, [[None, None, ["a"], bytes(32), [3]]]],
        ["plan", 3, [[7, None, None, bytes(32), [3]]]],
        ["plan", 3, [[None, [], None, bytes(32), [3]]]],
    ],
)
def test_what_no_casstore_wrote(value: object) -> None:
    with pytest.raises(IntegrityError):
        Recipe.unpack(BLOB, msgpack.packb(value))


@given(recipes, st.data())
def test_mutated_bytes(recipe: Recipe, draw: st.DataObject) -> None:
    packed = bytearray(recipe.pack())
    position = draw.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(IntegrityError):
        Recipe.unpack(BLOB, bytes(packed[:position]))
    with pytest.raises(IntegrityError):
        Recipe.unpack(BLOB, bytes(packed) + b"\0")
    packed[position] = draw.draw(st.integers(0, 255))
    try:
        read = Recipe.unpack(BLOB, bytes(packed))
    except IntegrityError:
        return
    assert sum(chunk.length for chunk in read.chunks()) == read.size


@given(st.binary(max_size=100))
def test_arbitrary_bytes(packed: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        Recipe.unpack(BLOB, packed)
