from __future__ import annotations

import dataclasses
import random
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from casstore.description import Description
from casstore.digest import Digest
from casstore.errors import IntegrityError, UnsupportedFormat
from casstore.plain_json import canonical_json
from casstore.storage.manifest import Allowance, Base, FileEntry, Manifest
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.tag import Tag

A, B, C = Digest.of(b"a"), Digest.of(b"b"), Digest.of(b"c")
RECIPE = Recipe(A, 7, "gguf/1", (RecipeSegment(((C, 3), (B, 4)), "w", "F32", (7,)),))
PLAIN: dict[str, Any] = {
    "labels": {"stage": "dev"}, "metadata": {"acc": 0.93, "\u00e4": [1, None, True]}, "module": "", "api_version": "v1",
    "signatures": {}, "options": {}, "context": {},
}  # fmt: skip
MANIFEST = Manifest(
    tag=Tag("bert", "v1"),
    created_at_ns=1_700_000_000_000_000_000,
    files=(FileEntry("bin/run", True, 1, B), FileEntry("model.gguf", False, 7, A)),
    directories=("empty", "nested/empty"),
    recipes={A: RECIPE},
    description=Description.of(PLAIN),
    base=Base(Tag("bert", "v0"), B),
    casstore_version="0.1.0",
)

digests = st.binary(min_size=32, max_size=32).map(Digest)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=9)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join)
entries = st.builds(FileEntry, paths, st.booleans(), st.integers(0, 2**60), digests)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=9,
)
tags = st.builds(Tag, st.sampled_from(["bert", "a.b"]), st.from_regex(r"v[0-9]{1,9}", fullmatch=True))


def is_coherent(manifest: Manifest) -> bool:
    """Whether such a version can be: no path stands twice or is a file and a directory, and recipes fit."""
    files = {file.path for file in manifest.files}
    leaves = [*(file.path for file in manifest.files), *manifest.directories]
    parents = {leaf.rsplit("/", up)[0] for leaf in leaves for up in range(1, leaf.count("/") + 1)}
    return (
        len(files) == len(manifest.files)
        and files.isdisjoint({*parents, *manifest.directories})
        and all(manifest.recipe_of(file).size == file.size for file in manifest.files)
    )


manifests = st.builds(
    Manifest,
    tag=tags,
    created_at_ns=st.integers(0, 2**63 - 1),
    files=st.lists(entries, max_size=4).map(tuple),
    directories=st.lists(paths, max_size=3).map(tuple),
    recipes=st.dictionaries(digests, st.just(RECIPE), max_size=3).map(
        lambda found: {digest: dataclasses.replace(recipe, blob=digest) for digest, recipe in found.items()}
    ),
    description=st.dictionaries(names, json_values, max_size=4).map(lambda found: Description.of({**found, **PLAIN})),
    base=st.none() | st.builds(Base, tags, digests),
    casstore_version=names,
    newer_fields=st.dictionaries(st.sampled_from(["zeta", "alpha"]), st.integers(0, 9), max_size=2),
).filter(is_coherent)


def document(**changes: Any) -> dict[str, Any]:
    unpacked: dict[str, Any] = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(MANIFEST.pack()))
    return {**unpacked, **changes}


def packed(value: object) -> bytes:
    return zstandard.ZstdCompressor().compress(msgpack.packb(value))


@given(manifests)
def test_round_trip(manifest: Manifest) -> None:
    data = manifest.pack()
    again = Manifest.unpack(data)
    assert again == manifest
    assert again.pack() == data
    assert again.digest == manifest.digest


@given(manifests, st.randoms())
def test_equal_manifests_have_equal_bytes(manifest: Manifest, shuffler: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            shuffler.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return value

    other = dataclasses.replace(
        manifest,
        description=Description.of(shuffled(manifest.description.document())),
        recipes=shuffled(manifest.recipes),
        newer_fields=shuffled(manifest.newer_fields),
    )
    assert other == manifest
    assert other.pack() == manifest.pack()


def test_the_document_is_part_of_the_format() -> None:
    assert document() == {
        "format": 1,
        "requires": [],
        "hash": "blake3-256",
        "name": "bert",
        "version": "v1",
        "created_at": 1_700_000_000_000_000_000,
        "files": [["bin/run", True, 1, B], ["model.gguf", False, 7, A]],
        "directories": ["empty", "nested/empty"],
        "recipes": [[A, RECIPE.pack()]],
        "description": '{"api_version":"v1","context":{},"labels":{"stage":"dev"},'
        '"metadata":{"acc":0.93,"\u00e4":[1,null,true]},"module":"","options":{},"signatures":{}}',
        "base": ["bert", "v0", B],
        "casstore": "0.1.0",
    }
    assert list(document()) == sorted(document())


def test_what_stands_in_it() -> None:
    assert MANIFEST.size == 8
    assert MANIFEST.recipe_of(MANIFEST.files[1]) == RECIPE
    assert MANIFEST.recipe_of(MANIFEST.files[0]) == Recipe.of_one_chunk(B, 1)


def test_the_digest_is_of_the_files_section() -> None:
    section = [[["bin/run", True, 1, B], ["model.gguf", False, 7, A]], ["empty", "nested/empty"]]
    assert MANIFEST.digest == Digest.of(msgpack.packb(section))


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": Tag("other", "v2")},
        {"created_at_ns": 0},
        {"description": Description()},
        {"base": None},
        {"casstore_version": "9"},
        {"recipes": {}},
        {"newer_fields": {"a": 1}},
    ],
)
def test_the_digest_does_not_depend_on(changes: dict[str, Any]) -> None:
    other = dataclasses.replace(MANIFEST, **changes)
    assert other.digest == MANIFEST.digest
    assert other.pack() != MANIFEST.pack()


@pytest.mark.parametrize(
    "changes",
    [
        {"files": (FileEntry("bin/ran", True, 1, B), MANIFEST.files[1])},
        {"files": (FileEntry("bin/run", False, 1, B), MANIFEST.files[1])},
        {"files": (FileEntry("bin/run", True, 2, B), MANIFEST.files[1])},
        {"files": (FileEntry("bin/run", True, 1, A), MANIFEST.files[1])},
        {"files": MANIFEST.files[:1]},
        {"directories": ("empty",)},
        {"directories": ()},
    ],
)
def test_the_digest_depends_on(changes: dict[str, Any]) -> None:
    assert dataclasses.replace(MANIFEST, **changes).digest != MANIFEST.digest


def test_newer_fields_are_kept() -> None:
    read = Manifest.unpack(packed(document(zeta=[1], alpha={"b": 2})))
    assert read.newer_fields == {"zeta": [1], "alpha": {"b": 2}}
    again = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(read.pack()))
    assert again == document(zeta=[1], alpha={"b": 2})
    assert list(again) == sorted(again)


@pytest.mark.parametrize("changes", [{"format": 2}, {"requires": ["encryption"]}, {"hash": "sha256"}])
def test_what_a_newer_casstore_requires_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFormat, match="newer casstore; upgrade"):
        Manifest.unpack(packed(document() | changes))


HOSTILE_PATHS = ["", ".", "..", "../x", "/abs", "a//b", "a/", "a/../b", "./a", "a/.", "a\0b", 7, None, b"a", ["a"]]


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_hostile_paths(path: object) -> None:
    with pytest.raises(IntegrityError):
        Manifest.unpack(packed(document(files=[[path, False, 1, B]])))
    with pytest.raises(IntegrityError):
        Manifest.unpack(packed(document(directories=[path])))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"},
        {"name": "BERT"},
        {"name": 7},
        {"version": "latest"},
        {"version": None},
        {"created_at": "now"},
        {"created_at": None},
        {"created_at": 1.5},
        {"files": None},
        {"files": [7]},
        {"files": [[]]},
        {"files": [{}]},
        {"files": [["a", False, 1]]},
        {"files": [["a", False, -1, B]]},
        {"files": [["a", False, 1, B], ["a", False, 1, B]]},
        {"files": [["a", False, 1, B], ["a/b", False, 1, B]]},
        {"files": [["a/b", False, 1, B], ["a", False, 1, B]]},
        {"files": [["a", False, 1, B]], "directories": ["a"]},
        {"files": [["a", False, 1, B]], "directories": ["a/b"]},
        {"files": [["model.gguf", False, 8, A]]},
        {"files": [["a", False, 1.5, B]]},
        {"files": [["a", False, "1", B]]},
        {"files": [["a", False, 1, B[:31]]]},
        {"files": [["a", False, 1, "x" * 32]]},
        {"files": [["a", False, 1, None]]},
        {"directories": None},
        {"directories": "abc/.."},
        {"recipes": [[A, b"nonsense"]]},
        {"recipes": [[A[:5], RECIPE.pack()]]},
        {"recipes": [A]},
        {"recipes": [[]]},
        {"recipes": 7},
        {"description": None},
        {"description": "{"},
        {"description": "[]"},
        {"description": "7"},
        {"description": "{}"},
        {"description": canonical_json(PLAIN).replace("0.93", "NaN")},
        {"description": canonical_json(PLAIN).replace("dev", "\\ud800")},
        {"description": canonical_json(PLAIN).replace('"dev"', "7")},
        {"description": canonical_json(PLAIN).replace('"module":""', '"module":7')},
        {"files": [["model.yaml", False, 1, B]]},
        {"files": [["model.yaml/x", False, 1, B]]},
        {"directories": ["model.yaml"]},
        {"files": [["a", False, 1 << 63, B]]},
        {"created_at": 1 << 63},
        {b"newer": 1},
        {"description": "[" * 100_000},
        {"base": []},
        {"base": ["bert"]},
        {"base": ["bert", "v1", b"short"]},
        {"base": {}},
        {"base": 7},
        {"casstore": None},
    ],
)
def test_what_no_casstore_wrote(changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        Manifest.unpack(packed(document() | changes))


@pytest.mark.parametrize("key", sorted(document()))
def test_missing_fields(key: str) -> None:
    value = document()
    del value[key]
    with pytest.raises(IntegrityError):
        Manifest.unpack(packed(value))


@pytest.mark.parametrize("value", [None, 7, [], "text", [document()], {1: 2}, {}])
def test_no_document(value: object) -> None:
    with pytest.raises(IntegrityError):
        Manifest.unpack(packed(value))


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    for candidate in (data, zstandard.ZstdCompressor().compress(data)):
        with pytest.raises(IntegrityError):
            Manifest.unpack(candidate)


def test_cut_short_anywhere() -> None:
    data = MANIFEST.pack()
    for length in range(len(data)):
        with pytest.raises(IntegrityError):
            Manifest.unpack(data[:length])


def test_damage_is_never_read_as_another_version() -> None:
    data = bytearray(MANIFEST.pack())
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            try:
                read = Manifest.unpack(bytes(data))
            except IntegrityError:
                pass
            else:
                # A bit that zstd ignores.
                assert read == MANIFEST
            data[position] ^= 1 << bit


def test_bytes_after_the_end() -> None:
    with pytest.raises(IntegrityError):
        Manifest.unpack(MANIFEST.pack() + b"\0")
    with pytest.raises(IntegrityError):
        Manifest.unpack(MANIFEST.pack() * 2)


@pytest.mark.parametrize("size", [(1 << 30) + 1, 1 << 45, (1 << 64) - 2])
def test_a_claim_of_size_allocates_nothing(size: int) -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x03\x00\x10a"
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            Manifest.unpack(frame)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(json_values)
def test_canonical_json(value: Any) -> None:
    text = canonical_json(value)
    assert "\n" not in text
    assert canonical_json({"b": value, "a": 1}) == canonical_json({"a": 1, "b": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")], {"a": {"b": float("nan")}}])
def test_numbers_that_json_lacks(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)


@pytest.mark.crash
def test_manifests_that_come_together_share_what_they_may_hold() -> None:
    """However small each is: that there are many does not let them hold more."""
    recipe = Recipe(A, 200_000, "", (RecipeSegment(((B, 1),) * 200_000),))
    many = dataclasses.replace(MANIFEST, files=(FileEntry("w", False, 200_000, A),), recipes={A: recipe}).pack()
    allowance = Allowance(items=300_000)
    Manifest.unpack(many, allowance)
    Manifest.unpack(MANIFEST.pack(), allowance)
    with pytest.raises(IntegrityError, match=r"more items than there can be|exceeds max_array_len"):
        Manifest.unpack(many, allowance)
    Manifest.unpack(many)
    wordy = dataclasses.replace(MANIFEST, newer_fields={"later": "x" * (40 << 20)}).pack()
    allowance = Allowance()
    Manifest.unpack(wordy, allowance)
    with pytest.raises(IntegrityError, match="impossible size"):
        Manifest.unpack(wordy, allowance)
    description = Description(metadata={"a": [[]] * 400_000})
    said = dataclasses.replace(MANIFEST, description=description).pack()
    allowance = Allowance()
    Manifest.unpack(said, allowance)
    with pytest.raises(IntegrityError, match="more values"):
        Manifest.unpack(said, allowance)
