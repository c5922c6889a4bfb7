"""What is written comes back, in every format, from files and from pipes."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.archive.formats import Format
from casstore.archive.limits import Budget
from casstore.archive.names import fold
from casstore.archive.writing import open_writer
from casstore.errors import InvalidSource, UnsafeArchive
from tests.kit import Pipe, noise

ARCHIVES = [form for form in Format if form not in (Format.FOLDER, Format.CASMODEL)]
Tree = dict[str, "bytes | None"]


def write(form: Format, tree: Tree, sink: Any = None) -> bytes:
    """An archive of files, whose names end in ! where they are executable, and of directories (None)."""
    buffer = sink or io.BytesIO()
    with open_writer(form, buffer) as writer:
        for name, content in tree.items():
            if content is None:
                writer.add_directory(name)
            else:
                writer.add_file(name.removesuffix("!"), len(content), name.endswith("!"), io.BytesIO(content))
    return buffer.getvalue()


class WriteOnly:
    """All that a sink needs."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        """At most so many at a time, as a raw stream may."""
        self.data += data[:100_003]
        return min(len(data), 100_003)

    def getvalue(self) -> bytes:
        return self.data


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\0:!", exclude_categories=["Cc"]), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 250)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Paths of which none is a directory of another, or the same to a file system that knows no case."""
    tree: Tree = {}
    taken: dict[str, str] = {"model.yaml": ""}
    for parts in draw(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=8)):
        path = "/".join(parts)
        above = list(itertools.accumulate(parts[:-1], lambda a, b: f"{a}/{b}"))
        if fold(path) in taken or any(taken.get(fold(each), f"d{each}") != f"d{each}" for each in above):
            continue
        taken.update({fold(each): f"d{each}" for each in above})
        taken[fold(path)] = "f"
        content = draw(st.none() | st.binary(max_size=2000))
        executable = "!" if content is not None and draw(st.booleans()) else ""
        tree[path + executable] = content
    return tree


@pytest.mark.parametrize("form", ARCHIVES)
@settings(max_examples=15)
@given(data=st.data())
def test_any_tree_comes_back(read: Callable[..., Any], form: Format, data: st.DataObject) -> None:
    tree = data.draw(trees())
    archive = write(form, tree)
    assert write(form, tree, WriteOnly()) == archive
    unpacked, found = read(archive, format=form)
    assert found == tree
    assert unpacked.descriptor is None
    assert read(Pipe(archive, data.draw(st.integers(1, 3000))), spool=tempfile.TemporaryFile)[1] == tree


@pytest.mark.parametrize("form", ARCHIVES)
def test_large_files_come_back(read: Callable[..., Any], form: Format) -> None:
    """Larger than a block that is compressed, and than a piece that is read."""
    tree: Tree = {"weights": noise((4 << 20) + 1), "zeros": bytes(1_100_001), "empty": b"", "run!": b"#!/bin/sh"}
    archive = write(form, tree, WriteOnly())
    assert read(archive)[1] == tree
    counts: list[int] = []
    assert read(Pipe(archive, 1 << 17), spool=tempfile.TemporaryFile, budget=Budget(advance=counts.append))[1] == tree
    assert sum(counts) == len(archive)
    assert len(counts) > 3


@pytest.mark.parametrize("form", ARCHIVES)
def test_every_byte_of_a_seekable_source_is_reported_once(read: Callable[..., Any], form: Format) -> None:
    archive = write(form, {f"{number}": bytes(number) for number in range(50)})
    counts: list[int] = []
    read(archive, budget=Budget(advance=counts.append))
    assert sum(counts) == len(archive)


@pytest.mark.parametrize("form", ARCHIVES)
def test_the_descriptor_is_returned_and_not_written(read: Callable[..., Any], form: Format) -> None:
    archive = write(form, {"a/model.yaml": b"a file", "model.yaml": b"name: bert", "b": b""})
    unpacked, tree = read(archive)
    assert unpacked.descriptor == b"name: bert"
    assert tree == {"a/model.yaml": b"a file", "b": b""}


@pytest.mark.parametrize("form", ARCHIVES)
def test_a_source_is_read_from_where_it_stands(read: Callable[..., Any], form: Format) -> None:
    archive = write(form, {"a": b"1"})
    source = io.BytesIO(b"before" + archive)
    source.seek(6)
    assert read(source)[1] == {"a": b"1"}


def test_a_zip_from_a_pipe_needs_a_place(read: Callable[..., Any]) -> None:
    archive = write(Format.ZIP, {"a": b"1"})
    with pytest.raises(InvalidSource, match="cannot be read from a pipe; save it to a file first"):
        read(Pipe(archive))
    spools = []

    def spool() -> Any:
        spools.append(io.BytesIO())
        return spools[-1]

    assert read(Pipe(archive), spool=spool)[1] == {"a": b"1"}
    assert spools[0].closed
    read(io.BytesIO(archive), spool=spool)
    read(Pipe(write(Format.TAR, {})), spool=spool)
    assert len(spools) == 1


@pytest.mark.parametrize(
    ("written", "said", "message"),
    [
        (Format.GZ, Format.TAR, "the source is gz, not tar as was said; leave the format out"),
        (Format.XZ, Format.ZIP, "the source is xz, not zip as was said"),
        (Format.ZIP, Format.BENTOMODEL, "the source is zip, not bentomodel as was said"),
        (Format.TAR, Format.FOLDER, "a folder is not an archive to unpack"),
        (Format.TAR, Format.CASMODEL, "a casmodel is not an archive to unpack"),
    ],
)
def test_the_content_decides(read: Callable[..., Any], written: Format, said: Format, message: str) -> None:
    with pytest.raises(InvalidSource, match=message):
        read(write(written, {"a": b"1"}), format=said)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the source is nothing$"),
        (b"casmodel", "the source is casmodel$"),
        (b"tar? no.", "the source is not an archive of a known format$"),
        (bytes(511), "the source is not an archive of a known format"),
    ],
)
def test_other_sources_are_named(read: Callable[..., Any], data: bytes, message: str) -> None:
    with pytest.raises(InvalidSource, match=message):
        read(data)
    with pytest.raises(InvalidSource, match=", and not tar"):
        read(data, format=Format.TAR)


@pytest.mark.parametrize("form", [form for form in ARCHIVES if form is not Format.TAR])
def test_every_byte_that_changed_is_noticed(read: Callable[..., Any], form: Format) -> None:
    """By check sums of the format, also where bytes do not compress and stand there as they are."""
    archive = bytearray(write(form, {"f": noise(20_000)}))
    for position in range(3000, 18_000, 500):
        archive[position] ^= 1
        with pytest.raises(UnsafeArchive, match="is damaged"):
            read(bytes(archive))
        archive[position] ^= 1
