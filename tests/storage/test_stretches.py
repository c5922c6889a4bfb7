"""A whole blob is read in a few large reads of its packs, and what goes wrong in one of them is told as ever."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage import machine
from casstore.storage.container import Container, Kind, Location
from casstore.storage.layout import Layout, new_id
from casstore.storage.objects import Objects
from casstore.storage.pack import EncodedChunk, PackWriter
from casstore.storage.readable import Readable
from casstore.storage.recipe import Chunk, Recipe, RecipeSegment
from casstore.storage.stretches import parts, stretches

LENGTH = 100_000
CHUNKS = [random.Random(number).randbytes(LENGTH) for number in range(40)]
DIGESTS = [Digest.of(raw) for raw in CHUNKS]
BLOB = b"".join(CHUNKS)
RECIPE = Recipe(Digest.of(BLOB), len(BLOB), "test/1", (RecipeSegment(tuple((each, LENGTH) for each in DIGESTS)),))


class Counted:
    """An open file that counts what is read of it."""

    def __init__(self, path: Path, reads: list[int]) -> None:
        self.path = path
        self.reads = reads

    def pread(self, offset: int, length: int) -> bytes:
        self.reads.append(length)
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    @property
    def size(self) -> int:
        return self.path.stat().st_size


class Packed:
    """The chunks in two packs, and the objects that read them."""

    def __init__(self, home: Path) -> None:
        self.layout = Layout(home)
        for directory in self.layout.directories():
            directory.mkdir(parents=True, exist_ok=True)
        self.reads: list[int] = []
        self.locations: dict[Digest, Location] = {}
        self.packs = [self.add(CHUNKS[:20]), self.add(CHUNKS[20:])]
        self.objects = Objects(self.layout, self.locate, open_container=self.open)

    def add(self, chunks: Collection[bytes]) -> Path:
        container = Container(len(self.locations), new_id(), Kind.PACK)
        writer = PackWriter(container.path(self.layout))
        for raw in chunks:
            writer.add(EncodedChunk(Digest.of(raw), len(raw), 0, raw))
        writer.finish(0o644, durable=False)
        for entry in writer.entries:
            self.locations[entry.digest] = Location(container, entry.offset, entry.length, entry.raw_bytes)
        return Path(container.path(self.layout))

    def locate(self, digests: Collection[Digest]) -> dict[Digest, Location]:
        return {digest: self.locations[digest] for digest in digests if digest in self.locations}

    def open(self, container: Container) -> Readable:
        return Counted(Path(container.path(self.layout)), self.reads)

    def read(self) -> bytes:
        return b"".join(self.objects.read_blob(RECIPE))


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[Packed]:
    made = Packed(tmp_path)
    yield made
    made.objects.close()


def test_neighbouring_records_are_read_at_once(packed: Packed, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        packed.objects.write_blob(RECIPE, file.fileno())
    assert (tmp_path / "out").read_bytes() == BLOB
    assert len(packed.reads) <= 4  # of 40 records
    assert packed.read() == BLOB
    target = bytearray(len(BLOB))
    packed.objects.read_blob_into(RECIPE, memoryview(target))
    assert target == BLOB
    assert len(packed.reads) <= 3 * 4


def test_a_damaged_record_is_told_and_its_neighbours_are_read(packed: Packed) -> None:
    location = packed.locations[DIGESTS[5]]
    data = bytearray(packed.packs[0].read_bytes())
    data[location.offset + location.length - 1] ^= 1
    packed.packs[0].write_bytes(data)
    reading = packed.objects.read_blob(RECIPE)
    with pytest.raises(IntegrityError, match=f"chunk {DIGESTS[5]} in .* is damaged"):
        list(reading)
    rescued = Objects(packed.layout, packed.locate, lambda digest, _: CHUNKS[DIGESTS.index(digest)], packed.open)
    assert b"".join(rescued.read_blob(RECIPE)) == BLOB


@pytest.mark.parametrize("size", [0, 30, 5 * LENGTH])
def test_a_pack_that_is_cut_short(packed: Packed, size: int) -> None:
    with packed.packs[1].open("r+b") as file:
        file.truncate(size)
    before = threading.active_count()
    with pytest.raises(IntegrityError, match=str(packed.packs[1])):
        packed.read()
    assert threading.active_count() == before


def test_chunks_that_moved_since_they_were_looked_up(packed: Packed) -> None:
    """gc writes what a pack holds to another, and takes that away, before it is opened."""

    def open_late(container: Container) -> Readable:
        if packed.packs[0].exists():
            packed.add(CHUNKS[:20])
            packed.packs[0].unlink()
        path = Path(container.path(packed.layout))
        if not path.exists():
            raise FileNotFoundError(path)
        return packed.open(container)

    objects = Objects(packed.layout, packed.locate, open_container=open_late)
    assert b"".join(objects.read_blob(RECIPE)) == BLOB


@pytest.mark.parametrize("length", [0, len(BLOB) - 1, len(BLOB) + 1])
def test_memory_of_another_size_is_not_written_to(packed: Packed, length: int) -> None:
    """A catalog may be damaged, so that a file and its recipe differ."""
    target = bytearray(length)
    with pytest.raises(IntegrityError, match="another size"):
        packed.objects.read_blob_into(RECIPE, memoryview(target))
    assert not any(target)
    assert packed.reads == []


@pytest.mark.parametrize("cores", [1, 3, 4])
def test_all_cores_decode(packed: Packed, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    """Each read waits until as many threads are reading as there are cores, and at least two."""
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    meeting = threading.Barrier(max(2, cores))

    class Met(Counted):
        def pread(self, offset: int, length: int) -> bytes:
            meeting.wait(60)
            return super().pread(offset, length)

    blob = b"".join(CHUNKS[:20]) * 12
    chunks = tuple((digest, LENGTH) for digest in DIGESTS[:20] * 12)
    recipe = Recipe(Digest.of(blob), len(blob), "test/1", (RecipeSegment(chunks),))
    objects = Objects(packed.layout, packed.locate, open_container=lambda c: Met(Path(c.path(packed.layout)), []))
    assert b"".join(objects.read_blob(recipe)) == blob


def test_what_raises_in_a_thread_ends_them_all(packed: Packed, tmp_path: Path) -> None:
    before = threading.active_count()
    out = tmp_path / "out"
    out.write_bytes(b"")
    with out.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        packed.objects.write_blob(RECIPE, file.fileno())
    assert threading.active_count() == before


records = st.builds(
    Location,
    st.builds(Container, st.just(1), st.sampled_from("ab"), st.just(Kind.PACK)),
    st.integers(-5, 1 << 62),
    st.integers(-5, 1 << 34),
    st.just(10),
    st.just(0),
    st.none() | st.sampled_from(DIGESTS[:12]),
    st.none() | st.sampled_from(DIGESTS[:12]),
)
near = st.builds(
    Location,
    st.builds(Container, st.just(1), st.sampled_from("ab"), st.just(Kind.PACK)),
    st.integers(0, 1 << 20),
    st.integers(1, 1 << 18),
    st.just(10),
    st.just(0),
    st.none() | st.sampled_from(DIGESTS[:12]),
)


@given(st.dictionaries(st.sampled_from(DIGESTS[:12]), records | near))
def test_each_record_is_in_the_part_that_names_it(locations: dict[Digest, Location]) -> None:
    chunks = [Chunk(digest, 0, 10) for digest in DIGESTS[:3]]
    found = parts(chunks, locations)
    for part in found:
        assert part.start >= 0
        for digest, offset, length in part.records:
            location = locations[digest]
            assert (location.container.file_id, location.offset) == (part.container.file_id, offset)
            assert part.start <= offset
            assert offset + length <= part.start + part.length
        assert len(part.records) == 1 or part.length <= 4 << 20
    assert sum(part.length for part in found) <= 16 << 20


@given(st.lists(st.integers(1, 3 << 20), max_size=50))
def test_stretches_are_all_chunks_in_order(lengths: list[int]) -> None:
    chunks = [Chunk(DIGESTS[0], number, length) for number, length in enumerate(lengths)]
    found = list(stretches(chunks))
    assert [chunk for stretch in found for chunk in stretch] == chunks
    assert all(len(stretch) == 1 or sum(chunk.length for chunk in stretch) <= 2 << 20 for stretch in found)
