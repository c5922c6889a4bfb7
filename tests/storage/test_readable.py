"""Containers may be anywhere: what every `Readable` must do, and that `Objects` reads through nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from casstore.errors import IntegrityError
from casstore.storage.container import Container
from casstore.storage.objects import Objects
from casstore.storage.readable import OpenFile, Readable
from tests.kit import noise
from tests.storage.test_objects import BLOB, CHUNKS, DIGESTS, KINDS, Shelf, fill

CONTENT = noise(5000)


class Memory:
    """A container whose bytes were fetched from somewhere."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def pread(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    @property
    def size(self) -> int:
        return len(self._data)


@pytest.fixture(params=["file", "memory"])
def readable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Readable]:
    if request.param == "memory":
        yield Memory(CONTENT)
        return
    (tmp_path / "container").write_bytes(CONTENT)
    with (tmp_path / "container").open("rb") as file:
        yield OpenFile(file.fileno())


def test_it_gives_what_stands_there_as_far_as_it_goes(readable: Readable) -> None:
    assert readable.size == len(CONTENT)
    for offset, length in ((0, 0), (0, 5000), (17, 100), (4990, 100), (5000, 1), (9000, 10)):
        assert readable.pread(offset, length) == CONTENT[offset : offset + length]


def test_threads_read_it_at_once(readable: Readable) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda at: readable.pread(at, 100) == CONTENT[at : at + 100], list(range(0, 4900, 7)) * 5)
        assert all(found)


class Elsewhere:
    """Takes the files of a shelf away into memory, and opens containers there."""

    def __init__(self, shelf: Shelf) -> None:
        self.data: dict[str, bytes] = {}
        for location in {location.container.file_id: location for location in shelf.locations.values()}.values():
            path = Path(location.container.path(shelf.layout))
            self.data[location.container.file_id] = path.read_bytes()
            path.unlink()
        self.trouble: Callable[[], None] = lambda: None
        self.objects = Objects(shelf.layout, shelf.locate, open_container=self._open)

    def _open(self, container: Container) -> Readable:
        self.trouble()
        if container.file_id not in self.data:
            raise FileNotFoundError(container.file_id)
        return Memory(self.data[container.file_id])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_elsewhere_is_read_in_every_way(shelf: Shelf, kind: str, tmp_path: Path) -> None:
    recipe = fill(shelf, kind)
    objects = Elsewhere(shelf).objects
    assert [objects.read_chunk(digest) for digest in DIGESTS] == CHUNKS
    assert b"".join(objects.read_blob(recipe)) == BLOB
    assert objects.open_blob(recipe).read() == BLOB
    with (tmp_path / "out").open("w+b") as file:
        objects.write_blob(recipe, file.fileno())
        assert (file.seek(0), file.read()) == (0, BLOB)
    if kind == "pack":
        location = shelf.locations[DIGESTS[0]]
        assert len(objects.copy_record(DIGESTS[0], location)) == location.length


def test_what_is_gone_from_elsewhere_is_looked_up_again(shelf: Shelf) -> None:
    fill(shelf, "pack")
    elsewhere = Elsewhere(shelf)
    stale = dict(shelf.locations)
    fill(shelf, "pack")
    elsewhere.data = Elsewhere(shelf).data
    moved, shelf.locations = shelf.locations, stale

    def look() -> None:
        if shelf.asked > 1:
            shelf.locations = moved

    shelf.when_asked = look
    assert elsewhere.objects.read_chunk(DIGESTS[0]) == CHUNKS[0]


def test_trouble_on_the_way_is_no_damage(shelf: Shelf) -> None:
    fill(shelf, "pack")
    elsewhere = Elsewhere(shelf)

    def fail() -> None:
        raise TimeoutError("the network")

    elsewhere.trouble = fail
    with pytest.raises(TimeoutError):
        elsewhere.objects.read_chunk(DIGESTS[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_short_elsewhere_is_damage(shelf: Shelf, kind: str) -> None:
    fill(shelf, kind)
    elsewhere = Elsewhere(shelf)
    elsewhere.data = {file_id: data[:10] for file_id, data in elsewhere.data.items()}
    with pytest.raises(IntegrityError):
        elsewhere.objects.read_chunk(DIGESTS[1])
