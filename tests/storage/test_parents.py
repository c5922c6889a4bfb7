"""What a manifest says that a version came from."""

from __future__ import annotations

import string
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.description import Description
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.manifest import Base, Manifest, said_parents
from casstore.storage.parents import MOST_PARENTS, Parent, packed
from casstore.tag import Tag

ONE = Parent("finetune", Tag("chat", "v1"), Digest.of(b"1"))
PARTS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20).filter(lambda part: part != "latest")
TAGS = st.builds(Tag, PARTS.filter(lambda part: part not in ("con", "prn", "aux", "nul")), PARTS.map(lambda v: f"v{v}"))
DIGESTS = st.binary(max_size=8).map(Digest.of)
WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=63)
PARENTS = st.one_of(
    st.builds(Parent, WORDS, TAGS, DIGESTS),
    st.builds(lambda word, uri: Parent(word, uri=uri), WORDS, st.text(min_size=1, max_size=50).filter(str.isprintable)),
)
BASES = st.one_of(st.none(), st.builds(Base, TAGS, DIGESTS))


def manifest(base: Base | None = None, parents: tuple[Parent, ...] | None = None) -> Manifest:
    return Manifest(Tag("m", "1"), 0, (), (), {}, Description(), base, "0", parents=parents)


def with_parents(parents: Any) -> bytes:
    """The manifest with anything in the place of its parents."""
    packed = zstandard.ZstdDecompressor().decompress(manifest().pack())
    document = {**msgpack.unpackb(packed), "parents": parents}
    return zstandard.ZstdCompressor().compress(msgpack.packb(dict(sorted(document.items()))))


@settings(max_examples=50)
@given(BASES, st.lists(PARENTS, max_size=5).map(tuple))
def test_what_is_written_is_read(base: Base | None, parents: tuple[Parent, ...]) -> None:
    written = manifest(base, said_parents(base, parents))
    read = Manifest.unpack(written.pack())
    assert read == written
    assert read.came_from == parents
    assert read.pack() == written.pack()
    assert read.digest == manifest().digest


def test_what_follows_from_the_base_is_not_written() -> None:
    """So that manifests are what they were before there were parents, and each has one form."""
    base = Base(Tag("m", "0"), Digest.of(b"0"))
    from_base = (Parent("base", base.tag, base.digest),)
    assert said_parents(base, from_base) is None
    assert said_parents(None, ()) is None
    assert said_parents(base, ()) == ()
    packed = manifest(base).pack()
    assert b"parents" not in zstandard.ZstdDecompressor().decompress(packed)
    assert Manifest.unpack(packed).came_from == from_base
    # Written out all the same, it is read as what it means.
    said = with_parents([])
    assert Manifest.unpack(said) == manifest()
    assert Manifest.unpack(said).pack() == manifest().pack()


def test_more_items_are_for_later_releases() -> None:
    row = [*packed(ONE), "more"]
    assert Manifest.unpack(with_parents([row])).parents == (ONE,)


@pytest.mark.parametrize(
    "parents",
    [
        *(None, 1, "text", {"a": 1}, [1], [[]], [["finetune"]], [["finetune", None]], [["finetune", 1]]),
        *([["", "hf://a"]], [["x" * 64, "hf://a"]], [[None, "hf://a"]], [["finetune", ""]], [["finetune", "x" * 4097]]),
        *([["finetune", ["Chat", "v1", bytes(32)]]], [["finetune", ["chat", "latest", bytes(32)]]]),
        *(
            [["finetune", ["chat", "v1"]]],
            [["finetune", ["chat", "v1", bytes(31)]]],
            [["finetune", ["a/b", "v1", bytes(32)]]],
        ),
        [["finetune", "hf://a"]] * (MOST_PARENTS + 1),
    ],
)
def test_what_cannot_be_is_refused(parents: Any) -> None:
    with pytest.raises(IntegrityError, match="a manifest cannot be read"):
        Manifest.unpack(with_parents(parents))


JUNK = st.recursive(
    st.none() | st.integers(0, 9) | st.text(max_size=5) | st.binary(max_size=33), st.lists, max_leaves=9
)


@settings(max_examples=50)
@given(JUNK)
def test_junk_is_refused_or_read(parents: Any) -> None:
    try:
        read = Manifest.unpack(with_parents(parents))
    except IntegrityError:
        return
    assert Manifest.unpack(read.pack()) == read
