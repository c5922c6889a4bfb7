"""One way by which packs come to be, for all who fill them: saves, imports, gc and repair."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import casstore
from casstore.actions.packs.builder import PackBuilder
from casstore.catalog.versions import NewContainer
from casstore.digest import Digest
from casstore.storage import files
from casstore.storage.coding.encodings import Encoding
from casstore.storage.pack import EncodedChunk, read_entries
from tests.kit import noise


@pytest.fixture
def packs(home: Path) -> Path:
    return home / "objects/packs"


@pytest.fixture
def build(store: casstore.Store):
    """A builder in a session of the store's."""
    with store._workspace.session() as session:
        yield lambda done, **options: PackBuilder(store._workspace, session, done, **options)


def chunk(seed: int) -> EncodedChunk:
    raw = noise(1000, seed)
    return EncodedChunk(Digest.of(raw), len(raw), Encoding.RAW, raw)


def digests(new: NewContainer) -> list[Digest]:
    return [chunk.digest for chunk in new.chunks]


@pytest.mark.parametrize("durable", [True, False])
def test_a_row_is_given_out_when_the_pack_and_its_name_are_on_disk(
    build, packs: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    calls: list[str] = []
    real, real_directory = files.sync_descriptor, files.sync_directory

    def sync(descriptor: int) -> None:
        calls.append(os.path.dirname(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    def sync_directory(path: files.StrPath) -> None:
        calls.append(f"the names in {path}")
        real_directory(path)

    monkeypatch.setattr(files, "sync_descriptor", sync)
    monkeypatch.setattr(files, "sync_directory", sync_directory)
    with build(lambda new: calls.append(f"{new.file_id} {new.synced}"), durable=durable) as builder:
        builder.add(chunk(1))
    (path,) = packs.iterdir()
    synced = [str(packs), f"the names in {packs}"] if durable else []
    assert calls == [*synced, f"{path.stem} {durable}"]


def test_a_full_pack_is_followed_by_another(build, packs: Path) -> None:
    done: list[NewContainer] = []
    announced: list[files.StrPath] = []
    with build(done.append, durable=False, announce=announced.append, most_bytes=2500) as builder:
        for seed in range(5):
            builder.add(chunk(seed))
        assert len(done) == 1, "the second is not full yet"
    assert [len(new.chunks) for new in done] == [3, 2]
    written = [packs / f"{new.file_id}.pack" for new in done]
    assert list(map(Path, announced)) == written
    for new, path in zip(done, written, strict=True):
        assert digests(new) == [entry.digest for entry in read_entries(path)]
        assert new.size == path.stat().st_size


def test_what_was_finished_on_the_way_is_not_given_out_twice(build) -> None:
    done: list[NewContainer] = []
    with build(done.append, durable=False) as builder:
        builder.finish()
        builder.add(chunk(1))
        builder.finish()
        builder.finish()
    assert [digests(new) for new in done] == [[chunk(1).digest]]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_removes_the_pack_that_is_being_written_and_no_other(
    build, packs: Path, error: type[BaseException]
) -> None:
    done: list[NewContainer] = []

    def break_off() -> None:
        with build(done.append, durable=False, most_bytes=1500) as builder:
            for seed in range(3):
                builder.add(chunk(seed))
            raise error

    with pytest.raises(error):
        break_off()
    assert [path.stem for path in packs.iterdir()] == [new.file_id for new in done] != []


@pytest.mark.parametrize("name", ["set_mode", "sync_descriptor"])
def test_a_pack_that_cannot_be_finished_is_removed(
    build, packs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, name, fail)
    done: list[NewContainer] = []
    with pytest.raises(OSError, match="Input/output error"), build(done.append, durable=True) as builder:
        builder.add(chunk(1))
    assert [*packs.iterdir(), *done] == []


def test_a_pack_whose_name_cannot_be_synced_is_not_given_out(build, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync_directory", fail)
    done: list[NewContainer] = []
    with pytest.raises(OSError, match="Input/output error"), build(done.append, durable=True) as builder:
        builder.add(chunk(1))
    assert done == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_first_chunks_of_a_pack_may_be_kept_alone(build, packs: Path, count: int) -> None:
    done: list[NewContainer] = []
    with build(done.append, durable=False) as builder:
        for seed in range(3):
            builder.add(chunk(seed))
        assert builder.on_disk == 0
        assert len(builder.unfinished[1]) == builder.on_disk == 3
        builder.keep(count)
        builder.add(chunk(7))
    wanted = [chunk(seed).digest for seed in (*range(count), 7)]
    assert digests(done[0]) == wanted
    (path,) = packs.iterdir()
    assert [entry.digest for entry in read_entries(path)] == wanted


def test_what_a_write_that_failed_has_left_of_a_pack(build, packs: Path) -> None:
    done: list[NewContainer] = []
    with build(done.append, durable=False) as builder:
        for seed in range(3):
            builder.add(chunk(seed))
        assert builder.unfinished is not None
        (path,) = packs.iterdir()
        os.truncate(path, path.stat().st_size - 1)
        assert builder.on_disk == 2
        builder.keep(builder.on_disk)
    assert [entry.digest for entry in read_entries(path)] == digests(done[0]) == [chunk(seed).digest for seed in (0, 1)]
