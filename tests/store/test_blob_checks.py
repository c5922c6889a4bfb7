"""Blobs are compared with their digests while their chunks come, in whatever order those come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

import casstore
from casstore.actions.packs import blob_checks
from casstore.actions.packs.blob_checks import BlobChecks
from casstore.digest import Digest
from casstore.progress import SILENT
from casstore.storage.objects import Objects
from casstore.storage.recipe import Recipe, RecipeSegment
from tests.kit import noise, plant

PIECES = [noise(1000 + number, number) for number in range(6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    """A store that has the pieces as chunks."""
    place = tmp_path_factory.mktemp("blobs")
    with casstore.Store(place / "store", auto_gc=False) as made:
        made.save("m:1", plant(place / "files", {f"{number}.bin": piece for number, piece in enumerate(PIECES)}))
        yield made


def recipe_of(pieces: list[bytes], blob: Digest | None = None) -> Recipe:
    whole = b"".join(pieces)
    chunks = tuple((Digest.of(piece), len(piece)) for piece in pieces)
    return Recipe(blob or Digest.of(whole), len(whole), "fastcdc/1", (RecipeSegment(chunks),))


@settings(max_examples=60)
@given(st.data())
def test_in_any_order_they_are_checked_as_wholes(store: casstore.Store, data: st.DataObject) -> None:
    blobs = data.draw(st.lists(st.lists(st.sampled_from(PIECES), min_size=2, max_size=12), min_size=1, max_size=3))
    order = data.draw(st.permutations(PIECES))
    come = order[: data.draw(st.integers(0, len(order)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob_checks, "_MOST_HELD_BYTES", data.draw(st.integers(0, 5000)))

        def check(recipes: list[Recipe]) -> None:
            checks = BlobChecks(store._workspace, {recipe.blob: recipe for recipe in recipes}, "a remote")
            for piece in come:
                checks.take(Digest.of(piece), piece)
            checks.finish(SILENT)

        check([recipe_of(pieces) for pieces in blobs])
        wrong = Digest(blake3(b"".join(blobs[0]) + b"!").digest())
        with pytest.raises(casstore.IntegrityError, match="is not what its digest says"):
            check([recipe_of(blobs[0], wrong), *map(recipe_of, blobs[1:])])


def test_what_comes_in_order_is_not_read_again(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def read_blob(_: Objects, recipe: Recipe, start: int = 0) -> Iterator[bytes]:
        read.append(len(recipe.digests) - start)
        yield from ()

    monkeypatch.setattr(Objects, "read_blob", read_blob)
    recipe = recipe_of([PIECES[0], PIECES[1], PIECES[1], PIECES[0], PIECES[2]])
    checks = BlobChecks(store._workspace, {recipe.blob: recipe}, "a remote")
    for piece in (PIECES[1], PIECES[0], PIECES[2]):
        checks.take(Digest.of(piece), piece)
    checks.finish(SILENT)
    assert read == [0]


def test_a_chunk_of_another_length_is_refused(store: casstore.Store, tmp_path: Path) -> None:
    first, second = (Digest.of(piece) for piece in PIECES[:2])
    chunks = ((first, len(PIECES[0]) - 1), (second, len(PIECES[1]) + 1))
    whole = b"".join(PIECES[:2])
    recipe = Recipe(Digest.of(whole), len(whole), "fastcdc/1", (RecipeSegment(chunks),))
    checks = BlobChecks(store._workspace, {recipe.blob: recipe}, "a remote")
    checks.take(first, PIECES[0])
    checks.take(second, PIECES[1])
    with pytest.raises(casstore.IntegrityError, match="where the recipe says"):
        checks.finish(SILENT)
