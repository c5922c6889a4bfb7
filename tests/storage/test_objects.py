from __future__ import annotations

import io
import os
import random
import shutil
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage import objects as objects_module
from casstore.storage.coding.codec import encode
from casstore.storage.coding.delta import Grouping, encode_delta
from casstore.storage.coding.encodings import Encoding
from casstore.storage.container import MAX_DELTA_LINKS, Container, FileStamp, Kind, Location
from casstore.storage.layout import Layout, new_id
from casstore.storage.objects import Objects
from casstore.storage.pack import EncodedChunk, PackWriter
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.storage.tensors.segments import Element, element_of


def whole(raw: bytes) -> EncodedChunk:
    return EncodedChunk(Digest.of(raw), len(raw), *encode(raw, Element(2)))


class Shelf:
    """A store's objects without a catalog: `locations` says where chunks are, `asked` how often that was looked up."""

    def __init__(self, home: Path) -> None:
        self.layout = Layout(home)
        for directory in self.layout.directories():
            directory.mkdir(parents=True, exist_ok=True)
        self.locations: dict[Digest, Location] = {}
        self.asked = 0
        self.when_asked: Callable[[], object] = lambda: None
        self.objects = Objects(self.layout, self.locate)
        self._containers = 0

    def locate(self, digests: Collection[Digest]) -> dict[Digest, Location]:
        self.asked += 1
        self.when_asked()
        return {digest: self.locations[digest] for digest in digests if digest in self.locations}

    def add_loose(self, blob: bytes, lengths: list[int]) -> Recipe:
        self._containers += 1
        container = Container(self._containers, new_id(), Kind.LOOSE, Digest.of(blob))
        Path(container.path(self.layout)).write_bytes(blob)
        chunks = []
        offset = 0
        for length in lengths:
            digest = Digest.of(blob[offset : offset + length])
            self.locations[digest] = Location(container, offset, length, length)
            chunks.append((digest, length))
            offset += length
        assert offset == len(blob)
        return Recipe(Digest.of(blob), len(blob), "test/1", (RecipeSegment(tuple(chunks)),) if chunks else ())

    def add_pack(self, chunks: Sequence[bytes | EncodedChunk]) -> Container:
        self._containers += 1
        container = Container(self._containers, new_id(), Kind.PACK)
        writer = PackWriter(container.path(self.layout))
        for chunk in chunks:
            writer.add(chunk if isinstance(chunk, EncodedChunk) else whole(chunk))
        writer.finish(0o444, durable=False)
        for entry in writer.entries:
            self.locations[entry.digest] = Location(
                container, entry.offset, entry.length, entry.raw_bytes, entry.encoding, entry.base, entry.grouping
            )
        return container

    def path_of(self, digest: Digest) -> Path:
        return Path(self.locations[digest].container.path(self.layout))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.objects.close()


CHUNKS = [random.Random(n).randbytes(40) * (n * 3 + 1) for n in range(5)]
DIGESTS = [Digest.of(raw) for raw in CHUNKS]
BLOB = b"".join(CHUNKS)
KINDS = ["loose", "pack"]


def fill(shelf: Shelf, kind: str) -> Recipe:
    recipe = shelf.add_loose(BLOB, [len(raw) for raw in CHUNKS])
    if kind == "pack":
        shelf.path_of(DIGESTS[0]).unlink()
        shelf.add_pack(CHUNKS)
    return recipe


def damage(path: Path, offset: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_and_blobs_come_back(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    recipe = fill(shelf, kind)
    assert [shelf.objects.read_chunk(digest) for digest in DIGESTS] == CHUNKS
    assert list(shelf.objects.read_blob(recipe)) == CHUNKS
    with shelf.objects.open_blob(recipe) as reader:
        assert reader.read() == BLOB
    told: list[int] = []
    with (tmp_path / "out").open("wb") as file:
        shelf.objects.write_blob(recipe, file.fileno(), told.append)
    assert (tmp_path / "out").read_bytes() == BLOB
    assert sum(told) == len(BLOB)


def test_a_large_blob_is_written_by_threads(shelf: Shelf, tmp_path: Path) -> None:
    blob = random.Random(1).randbytes(3 << 20)
    recipe = shelf.add_loose(blob, [1 << 16] * 48)
    told: list[int] = []
    before = threading.active_count()
    with (tmp_path / "out").open("wb") as file:
        shelf.objects.write_blob(recipe, file.fileno(), told.append)
    assert (tmp_path / "out").read_bytes() == blob
    assert told == [1 << 16] * 48
    assert threading.active_count() == before


def test_the_empty_blob(shelf: Shelf) -> None:
    recipe = Recipe.of_one_chunk(Digest.of(b""), 0)
    assert list(shelf.objects.read_blob(recipe)) == []
    assert shelf.objects.open_blob(recipe).read() == b""
    assert shelf.asked == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_byte_is_noticed(shelf: Shelf, kind: str) -> None:
    fill(shelf, kind)
    location = shelf.locations[DIGESTS[0]]
    path = shelf.path_of(DIGESTS[0])
    for offset in range(location.offset, location.offset + location.length):
        damage(path, offset)
        with pytest.raises(IntegrityError, match=r"chunk [0-9a-f]{64} in .* is damaged or missing"):
            shelf.objects.read_chunk(DIGESTS[0])
        assert shelf.objects.read_chunk(DIGESTS[1]) == CHUNKS[1]
        damage(path, offset)
    assert shelf.objects.read_chunk(DIGESTS[0]) == CHUNKS[0]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_reaches_every_way_of_reading(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    recipe = fill(shelf, kind)
    location = shelf.locations[DIGESTS[2]]
    damage(shelf.path_of(DIGESTS[2]), location.offset + location.length - 1)
    with pytest.raises(IntegrityError):
        list(shelf.objects.read_blob(recipe))
    with pytest.raises(IntegrityError), (tmp_path / "out").open("wb") as file:
        shelf.objects.write_blob(recipe, file.fileno())
    with shelf.objects.open_blob(recipe) as reader:
        reader.seek(sum(map(len, CHUNKS[:2])))
        with pytest.raises(IntegrityError):
            reader.read(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["missing", "empty", "cut short"])
def test_a_container_that_is_gone(shelf: Shelf, kind: str, how: str) -> None:
    fill(shelf, kind)
    path = shelf.path_of(DIGESTS[-1])
    path.chmod(0o644)
    if how == "missing":
        path.unlink()
    else:
        os.truncate(path, 0 if how == "empty" else shelf.locations[DIGESTS[-1]].offset + 30)
    with pytest.raises(IntegrityError, match="damaged or missing") as caught:
        shelf.objects.read_chunk(DIGESTS[-1])
    assert str(path) in str(caught.value)
    # Once to find it, and once to see that it had not moved meanwhile.
    assert shelf.asked == 2


def test_a_chunk_without_a_location(shelf: Shelf) -> None:
    with pytest.raises(IntegrityError, match=f"chunk {DIGESTS[0]} is missing from the store"):
        shelf.objects.read_chunk(DIGESTS[0])


def test_another_chunk_at_the_place(shelf: Shelf) -> None:
    shelf.add_pack(CHUNKS)
    shelf.locations[DIGESTS[0]] = shelf.locations[DIGESTS[1]]
    with pytest.raises(IntegrityError, match="another chunk is in the place of"):
        shelf.objects.read_chunk(DIGESTS[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_chunk_that_moves_while_it_is_read(shelf: Shelf, kind: str, how: str) -> None:
    """gc packs it and unlinks its old container between the look-up and the open."""
    recipe = fill(shelf, kind)
    old = shelf.locations[DIGESTS[0]].container
    moved = False

    def move() -> None:
        nonlocal moved
        if not moved:
            moved = True
            return
        if shelf.locations[DIGESTS[0]].container == old:
            shelf.add_pack(CHUNKS)

    shelf.when_asked = move
    path = shelf.path_of(DIGESTS[0])
    if how == "missing":
        path.unlink()
    else:
        damage(path, shelf.locations[DIGESTS[0]].offset)
    assert shelf.objects.read_chunk(DIGESTS[0]) == CHUNKS[0]
    assert shelf.asked == 2
    assert b"".join(shelf.objects.read_blob(recipe)) == BLOB


def test_a_chunk_that_moves_again_and_again(shelf: Shelf) -> None:
    fill(shelf, "loose")
    containers = []
    for _ in range(4):
        containers.append(shelf.locations[DIGESTS[0]])
        shelf.path_of(DIGESTS[0]).unlink()
        shelf.add_pack(CHUNKS)
    last = shelf.locations[DIGESTS[0]]
    answers = [*containers, last]
    shelf.when_asked = lambda: shelf.locations.update({DIGESTS[0]: answers.pop(0)})
    assert shelf.objects.read_chunk(DIGESTS[0]) == CHUNKS[0]
    assert answers == []


def test_a_chunk_that_is_collected_while_it_is_read(shelf: Shelf) -> None:
    fill(shelf, "loose")
    shelf.path_of(DIGESTS[0]).unlink()
    shelf.when_asked = lambda: shelf.locations.pop(DIGESTS[0]) if shelf.asked > 1 else None
    with pytest.raises(IntegrityError, match="damaged or missing"):
        shelf.objects.read_chunk(DIGESTS[0])


def test_an_open_container_is_read_after_it_was_unlinked(shelf: Shelf) -> None:
    fill(shelf, "pack")
    shelf.objects.read_chunk(DIGESTS[0])
    shelf.path_of(DIGESTS[0]).unlink()
    assert shelf.objects.read_chunk(DIGESTS[1]) == CHUNKS[1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_back_from_a_copy_is_read_again(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    """Damage is not held on to by a descriptor of the file that had it."""
    fill(shelf, kind)
    path = shelf.path_of(DIGESTS[0])
    shutil.copyfile(path, tmp_path / "copy")
    damage(path, shelf.locations[DIGESTS[0]].offset)
    with pytest.raises(IntegrityError):
        shelf.objects.read_chunk(DIGESTS[0])
    (tmp_path / "copy").replace(path)
    assert shelf.objects.read_chunk(DIGESTS[0]) == CHUNKS[0]


def test_errors_of_the_disk_are_no_damage(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable disk must not lead to a version being called damaged, or moved to quarantine."""
    fill(shelf, "loose")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match="Input/output error"):
        shelf.objects.read_chunk(DIGESTS[0])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_open_containers_are_bounded_and_closed(shelf: Shelf) -> None:
    before = open_descriptors()
    for n in range(100):
        shelf.add_loose(b"%d" % n, [len(str(n))])
    assert shelf.objects.read_chunk(Digest.of(b"0")) == b"0"
    for digest in list(shelf.locations) * 2:
        shelf.objects.read_chunk(digest)
    assert open_descriptors() - before <= 64
    shelf.objects.close()
    assert open_descriptors() == before
    assert shelf.objects.read_chunk(Digest.of(b"7")) == b"7"


def test_threads_share_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers are closed under readers all the time, and no reader notices."""
    monkeypatch.setattr(objects_module, "_MAX_OPEN_CONTAINERS", 2)
    for n in range(20):
        shelf.add_loose(b"%d" % n, [len(str(n))])
    shelf.add_pack(CHUNKS)
    order = [*shelf.locations] * 20

    def read(seed: int) -> bool:
        mine = random.Random(seed).sample(order, len(order))
        return all(Digest.of(shelf.objects.read_chunk(digest)) == digest for digest in mine)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(6)))


def test_a_blob_that_is_read_in_part_leaves_no_thread(shelf: Shelf) -> None:
    recipe = shelf.add_loose(bytes(5000), [1] * 5000)
    before = threading.active_count()
    reading = shelf.objects.read_blob(recipe)
    assert next(reading) == b"\0"
    reading.close()
    assert threading.active_count() == before
    # Not all 5000 were read for one byte.
    assert shelf.asked <= 2


def test_look_ups_are_batched(shelf: Shelf) -> None:
    recipe = shelf.add_loose(bytes(4500), [1] * 4500)
    assert sum(len(raw) for raw in shelf.objects.read_blob(recipe)) == 4500
    assert shelf.asked == 3


operations = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 700), st.just(0)),
        st.tuples(st.just("read1"), st.integers(-1, 700), st.just(0)),
        st.tuples(st.just("readinto"), st.integers(0, 700), st.just(0)),
        st.tuples(st.just("readline"), st.integers(-1, 700), st.just(0)),
        st.tuples(st.just("peek"), st.just(0), st.just(0)),
        st.tuples(st.just("seek"), st.integers(0, 2 * len(BLOB)), st.just(os.SEEK_SET)),
        st.tuples(st.just("seek"), st.integers(-700, 700), st.just(os.SEEK_CUR)),
        st.tuples(st.just("seek"), st.integers(-len(BLOB), 300), st.just(os.SEEK_END)),
    ),
    max_size=30,
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Shelf, Recipe]]:
    shelves = {kind: Shelf(tmp_path_factory.mktemp(kind)) for kind in KINDS}
    return {kind: (shelf, fill(shelf, kind)) for kind, shelf in shelves.items()}


@settings(deadline=None)
@given(operations, st.sampled_from(KINDS), st.sampled_from([1, 7, 64 << 10]))
def test_the_reader_reads_as_bytesio_does(
    filled: dict[str, tuple[Shelf, Recipe]], steps: list[tuple[str, int, int]], kind: str, buffer_bytes: int
) -> None:
    shelf, recipe = filled[kind]
    expected = io.BytesIO(BLOB)
    reader = io.BufferedReader(objects_module.BlobReader(shelf.objects, recipe, "blob"), buffer_bytes)
    for name, number, whence in steps:
        if name == "seek":
            if whence == os.SEEK_CUR and expected.tell() + number < 0:
                continue
            assert reader.seek(number, whence) == expected.seek(number, whence)
        elif name == "readinto":
            mine, theirs = bytearray(number), bytearray(number)
            assert reader.readinto(mine) == expected.readinto(theirs)
            assert mine == theirs
        elif name == "read1":
            # As much as is at hand: fewer bytes are right, wrong ones and none are not.
            found = reader.read1(number)
            assert found == expected.read(len(found))
            assert found or number == 0 or expected.tell() >= len(BLOB)
        elif name == "peek":
            found = reader.peek()
            assert BLOB[expected.tell() :].startswith(found)
        else:
            assert getattr(reader, name)(number) == getattr(expected, name)(number)
        assert reader.tell() == expected.tell()


def test_the_reader_is_a_file_to_others(shelf: Shelf, tmp_path: Path) -> None:
    recipe = fill(shelf, "pack")
    reader = shelf.objects.open_blob(recipe)
    assert reader.readable()
    assert reader.seekable()
    assert not reader.writable()
    with (tmp_path / "out").open("wb") as file:
        shutil.copyfileobj(reader, file)
    assert (tmp_path / "out").read_bytes() == BLOB
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(1)


def test_the_raw_reader_fills_a_buffer_of_numbers(shelf: Shelf) -> None:
    numbers = array("i", [0, 0])
    raw = shelf.objects.open_blob(fill(shelf, "loose")).detach()
    assert raw.readinto(numbers) == 8
    assert numbers.tobytes() == BLOB[:8]


def test_the_reader_refuses_impossible_places(shelf: Shelf) -> None:
    reader = shelf.objects.open_blob(fill(shelf, "loose"))
    reader.seek(3)
    for offset, whence in ((-1, os.SEEK_SET), (-4, os.SEEK_CUR), (-len(BLOB) - 1, os.SEEK_END)):
        with pytest.raises((ValueError, OSError)):
            reader.seek(offset, whence)
        assert reader.tell() == 3
    for whence in (3, 4, 99):
        with pytest.raises((ValueError, OSError)):
            reader.seek(0, whence)
    assert reader.read(2) == BLOB[3:5]


def test_the_reader_looks_its_chunks_up_together(shelf: Shelf) -> None:
    reader = shelf.objects.open_blob(fill(shelf, "loose"))
    while reader.read(11):
        pass
    assert shelf.asked == 1


BF16 = element_of("BF16")


def a_run(count: int, size: int = 30_001) -> list[bytes]:
    """So many steps of training; of two groups, with one byte after the last element."""
    generator = np.random.default_rng(8)
    values = generator.normal(0, 0.02, size // 2).astype("<f4")
    run: list[Any] = []
    for _ in range(count):
        run.append(values.view("<u2")[1::2].tobytes() + bytes([len(run)]))
        values += generator.normal(0, 2e-5, size // 2).astype("<f4")
    return run


RUN = a_run(MAX_DELTA_LINKS + 2)
RUN_DIGESTS = [Digest.of(raw) for raw in RUN]
SPARE = a_run(MAX_DELTA_LINKS + 3)[-1]
GROUPING = bytes(reversed(RUN[0]))


def link(raw: bytes, base: bytes, grouping_raw: bytes, element: Element = BF16) -> EncodedChunk:
    encoded = encode_delta(raw, base, Grouping(grouping_raw, element))
    return EncodedChunk(
        Digest.of(raw), len(raw), Encoding.DELTA, encoded, base=Digest.of(base), grouping=Digest.of(grouping_raw)
    )


def a_chain(links: int, grouping_raw: bytes = RUN[0]) -> list[EncodedChunk]:
    """The start of the run, and so many steps from there, each against the one before."""
    assert len(Grouping(grouping_raw, BF16).group_sizes) > 1
    return [whole(RUN[0]), *(link(RUN[n], RUN[n - 1], grouping_raw) for n in range(1, links + 1))]


def add_apart(shelf: Shelf, chunks: list[EncodedChunk]) -> None:
    """Each in a pack of its own."""
    for chunk in chunks:
        shelf.add_pack([chunk])


@pytest.mark.parametrize("links", range(MAX_DELTA_LINKS + 1))
@pytest.mark.parametrize("is_apart", [False, True])
def test_chains_come_back(shelf: Shelf, tmp_path: Path, links: int, is_apart: bool) -> None:
    if is_apart:
        add_apart(shelf, a_chain(links))
    else:
        shelf.add_pack(a_chain(links))
    assert shelf.objects.read_chunk(RUN_DIGESTS[links]) == RUN[links]
    # The chunk, then its base and the start, by which it is grouped, and then one base after another.
    assert shelf.asked == (links + 1 if links < 2 else links)
    chunks = tuple((digest, len(RUN[0])) for digest in RUN_DIGESTS[: links + 1])
    blob = b"".join(RUN[: links + 1])
    recipe = Recipe(Digest.of(blob), len(blob), "test/1", (RecipeSegment(chunks),))
    assert b"".join(shelf.objects.read_blob(recipe)) == blob
    with shelf.objects.open_blob(recipe) as reader:
        reader.seek(-100, os.SEEK_END)
        assert reader.read() == blob[-100:]
    with (tmp_path / "out").open("wb") as file:
        shelf.objects.write_blob(recipe, file.fileno())
    assert (tmp_path / "out").read_bytes() == blob


def test_a_chain_that_starts_in_a_loose_file(shelf: Shelf) -> None:
    shelf.add_loose(b"before" + RUN[0] + b"after", [6, len(RUN[0]), 5])
    add_apart(shelf, a_chain(3)[1:])
    assert shelf.objects.read_chunk(RUN_DIGESTS[3]) == RUN[3]
    damage(shelf.path_of(RUN_DIGESTS[0]), 6)
    with pytest.raises(IntegrityError, match=f"delta that needs another, and chunk {RUN_DIGESTS[0]} in .* is damaged"):
        shelf.objects.read_chunk(RUN_DIGESTS[3])


def test_a_chain_that_is_grouped_by_a_chunk_outside_it(shelf: Shelf) -> None:
    shelf.add_loose(GROUPING, [len(GROUPING)])
    add_apart(shelf, a_chain(3, GROUPING))
    for raw, digest in zip(RUN[:4], RUN_DIGESTS, strict=False):
        assert shelf.objects.read_chunk(digest) == raw


def test_a_chain_whose_groupings_differ(shelf: Shelf) -> None:
    """What comes of a link being stored whole, once, and of dtypes that change: several runs in one chain."""
    shelf.add_pack([whole(GROUPING), whole(RUN[0]), whole(RUN[1])])
    for number, grouping_raw, element in [
        (2, RUN[0], BF16),
        (3, RUN[0], element_of("F16")),
        (4, RUN[1], BF16),
        (5, RUN[1], BF16),
        (6, GROUPING, element_of("F32")),
        (7, RUN[0], Element(1)),
        (8, RUN[1], BF16),
    ]:
        shelf.add_pack([link(RUN[number], RUN[number - 1], grouping_raw, element)])
        assert shelf.objects.read_chunk(RUN_DIGESTS[number]) == RUN[number]


def test_a_link_too_many(shelf: Shelf) -> None:
    """No casstore writes it. A reader that went on could be led on for as long as somebody likes."""
    add_apart(shelf, a_chain(MAX_DELTA_LINKS + 1))
    assert shelf.objects.read_chunk(RUN_DIGESTS[MAX_DELTA_LINKS]) == RUN[MAX_DELTA_LINKS]
    with pytest.raises(IntegrityError, match="its chain is too long"):
        shelf.objects.read_chunk(RUN_DIGESTS[MAX_DELTA_LINKS + 1])


def test_chains_that_lead_in_circles(shelf: Shelf) -> None:
    first, second, third = RUN[:3]
    shelf.add_pack([link(first, second, third), link(second, third, first), link(third, first, second)])
    shelf.add_pack([link(RUN[3], RUN[3], RUN[3])])
    for digest in RUN_DIGESTS[:4]:
        with pytest.raises(IntegrityError, match=f"chunk {digest} .* its chain is too long"):
            shelf.objects.read_chunk(digest)


def test_a_grouping_that_is_a_delta_itself(shelf: Shelf) -> None:
    shelf.add_pack([whole(RUN[0]), link(RUN[1], RUN[0], RUN[0]), link(RUN[2], RUN[0], RUN[1])])
    with pytest.raises(IntegrityError, match="a delta stands where a whole chunk should be"):
        shelf.objects.read_chunk(RUN_DIGESTS[2])


@pytest.mark.parametrize("victim", [0, 1, 4, 7, 8])
@pytest.mark.parametrize("how", ["missing", "damaged", "cut short", "without a location", "another"])
def test_damage_in_a_chain_is_told_by_the_chunk_that_has_it(shelf: Shelf, victim: int, how: str) -> None:
    add_apart(shelf, a_chain(MAX_DELTA_LINKS))
    location = shelf.locations[RUN_DIGESTS[victim]]
    path = shelf.path_of(RUN_DIGESTS[victim])
    match how:
        case "missing":
            path.unlink()
        case "damaged":
            # Not among the last bytes, the tail, which no link takes from its base.
            damage(path, location.offset + location.length - 100)
        case "cut short":
            path.chmod(0o644)
            os.truncate(path, location.offset + location.length - 1)
        case "without a location":
            del shelf.locations[RUN_DIGESTS[victim]]
        case "another":
            other = shelf.locations[RUN_DIGESTS[abs(victim - 1)]]
            shelf.locations[RUN_DIGESTS[victim]] = replace(other, base=location.base, grouping=location.grouping)
    for number, (raw, digest) in enumerate(zip(RUN[: MAX_DELTA_LINKS + 1], RUN_DIGESTS, strict=False)):
        if number < victim:
            assert shelf.objects.read_chunk(digest) == raw
            continue
        with pytest.raises(IntegrityError) as caught:
            shelf.objects.read_chunk(digest)
        message = str(caught.value)
        assert message.startswith(f"chunk {digest} ")
        assert str(RUN_DIGESTS[victim]) in message
        # Others that are as they should be are not called damaged.
        if how != "without a location":
            assert [d for d in RUN_DIGESTS if f"chunk {d} in " in message] == [RUN_DIGESTS[victim]]
            assert how == "another" or str(path) in message


@pytest.mark.parametrize("how", ["missing", "damaged", "without a location"])
def test_damage_of_a_grouping_is_told_by_its_chunk(shelf: Shelf, how: str) -> None:
    shelf.add_loose(GROUPING, [len(GROUPING)])
    add_apart(shelf, a_chain(3, GROUPING))
    digest = Digest.of(GROUPING)
    path = shelf.path_of(digest)
    if how == "missing":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(GROUPING[2000:] + GROUPING[:2000])
    else:
        del shelf.locations[digest]
    for number in range(1, 4):
        with pytest.raises(IntegrityError, match=f"^chunk {RUN_DIGESTS[number]} .*chunk {digest}"):
            shelf.objects.read_chunk(RUN_DIGESTS[number])
    assert shelf.objects.read_chunk(RUN_DIGESTS[0]) == RUN[0]


@pytest.mark.parametrize("grouping_raw", [RUN[0], GROUPING])
def test_what_a_delta_needs_is_read_again_once_put_back(shelf: Shelf, tmp_path: Path, grouping_raw: bytes) -> None:
    shelf.add_loose(grouping_raw, [len(grouping_raw)])
    add_apart(shelf, [chunk for chunk in a_chain(2, grouping_raw) if chunk.digest != Digest.of(grouping_raw)])
    for digest in (Digest.of(grouping_raw), *RUN_DIGESTS[:3]):
        path = shelf.path_of(digest)
        shutil.copyfile(path, tmp_path / "copy")
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        with pytest.raises(IntegrityError):
            shelf.objects.read_chunk(RUN_DIGESTS[2])
        (tmp_path / "copy").replace(path)
        assert shelf.objects.read_chunk(RUN_DIGESTS[2]) == RUN[2]


def test_a_record_of_another_base_than_the_catalog_says(shelf: Shelf) -> None:
    add_apart(shelf, a_chain(2))
    location = shelf.locations[RUN_DIGESTS[2]]
    shelf.locations[RUN_DIGESTS[2]] = replace(location, base=RUN_DIGESTS[0])
    with pytest.raises(IntegrityError, match=f"another chunk is in the place of {RUN_DIGESTS[2]}"):
        shelf.objects.read_chunk(RUN_DIGESTS[2])


@pytest.mark.parametrize("moved", [0, 1, 4, 5])
@pytest.mark.parametrize("as_what", ["verbatim", "whole", "loose"])
def test_a_chain_of_which_a_chunk_moves_while_it_is_read(shelf: Shelf, moved: int, as_what: str) -> None:
    """gc rewrites a pack, or stores a link whole, and unlinks its old container between the look-up and the open."""
    chain = a_chain(5)
    add_apart(shelf, chain)
    path = shelf.path_of(RUN_DIGESTS[moved])

    def move() -> None:
        # After the chain, and what it is grouped by, have been found.
        if shelf.asked == 6:
            assert not path.exists()
            if as_what == "loose":
                shelf.add_loose(b"!" + RUN[moved], [1, len(RUN[moved])])
            else:
                shelf.add_pack([whole(RUN[moved]) if as_what == "whole" else chain[moved]])

    shelf.when_asked = move
    path.unlink()
    assert shelf.objects.read_chunk(RUN_DIGESTS[5]) == RUN[5]
    assert shelf.asked >= 6
    asked = shelf.asked
    assert shelf.objects.read_chunk(RUN_DIGESTS[4]) == RUN[4]
    assert shelf.asked <= asked + 5


def test_a_grouping_that_moves_while_it_is_read(shelf: Shelf) -> None:
    add_apart(shelf, [whole(GROUPING), *a_chain(2, GROUPING)])
    path = shelf.path_of(Digest.of(GROUPING))
    path.unlink()
    shelf.when_asked = lambda: shelf.add_pack([whole(GROUPING)]) if shelf.asked == 4 else None
    assert shelf.objects.read_chunk(RUN_DIGESTS[2]) == RUN[2]
    assert shelf.asked > 4


def test_chains_are_read_by_threads_while_all_of_them_move(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "_MAX_OPEN_CONTAINERS", 2)
    chain = a_chain(MAX_DELTA_LINKS)
    other = [whole(GROUPING), link(SPARE, RUN[0], GROUPING)]
    add_apart(shelf, [*chain, *other])
    raws = dict(zip(RUN_DIGESTS, RUN[: MAX_DELTA_LINKS + 1], strict=False)) | {Digest.of(SPARE): SPARE}
    are_moving = threading.Event()

    def read(seed: int) -> bool:
        are_moving.wait()
        order = random.Random(seed).sample([*raws] * 6, len(raws) * 6)
        return all(shelf.objects.read_chunk(digest) == raws[digest] for digest in order)

    def move() -> None:
        for n in range(60):
            before = [shelf.path_of(chunk.digest) for chunk in [*chain, *other]]
            # Some stand whole for a while, so that chains are shorter, and grouped by what is not their start.
            now = [whole(raws[c.digest]) if number == n % 5 else c for number, c in enumerate(chain)]
            add_apart(shelf, [*other, *now])
            for path in before:
                path.unlink()
            are_moving.set()

    with ThreadPoolExecutor(6) as pool:
        reading = [pool.submit(read, seed) for seed in range(5)]
        moving = pool.submit(move)
        assert all(each.result() for each in reading)
        moving.result()


def test_records_are_copied_verbatim(shelf: Shelf) -> None:
    add_apart(shelf, a_chain(2))
    digest = RUN_DIGESTS[2]
    location = shelf.locations[digest]
    record = shelf.objects.copy_record(digest, location)
    assert record == shelf.path_of(digest).read_bytes()[location.offset : location.offset + location.length]
    os.truncate(shelf.path_of(digest), location.offset + location.length - 1)
    with pytest.raises(IntegrityError):
        shelf.objects.copy_record(digest, location)


def test_stamps() -> None:
    status = os.stat(__file__)
    assert FileStamp.of(status) == FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)
