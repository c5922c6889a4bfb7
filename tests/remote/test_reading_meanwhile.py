"""A version is read where it is, while others repack the remote, delete the version, and collect what is left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import push
from casstore.errors import IntegrityError, TagNotFound
from casstore.progress import SILENT
from casstore.remote import collect, deleting, keys, reading, repacking
from casstore.remote.bucket import Bucket
from casstore.remote.reading import RemoteVersion
from casstore.tag import Tag
from tests.remote.memory import MemoryBackend
from tests.remote.scheduler import AtOnce
from tests.remote.stage import FILES, Stage, push_tag

C = Tag("m", "c")


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    built = Stage.build(tmp_path_factory.mktemp("stage"))
    yield built
    built.close()


@pytest.fixture
def bucket(stage, monkeypatch) -> Bucket:
    """Has `m:c`, which needs half of the pack of `m:b`, which is deleted."""
    monkeypatch.setattr(reading, "_FIRST_WINDOW_BYTES", 16)
    bucket = Bucket.make(MemoryBackend())
    monkeypatch.setattr(push, "pause", lambda _: None)
    for tag in ("m:a", "m:b", "m:c"):
        push_tag(stage.stores[0], bucket, tag)
    deleting.delete(bucket, Tag("m", "a"))
    deleting.delete(bucket, Tag("m", "b"))
    return bucket


def clean(bucket: Bucket) -> None:
    assert collect.collect(bucket, AtOnce()).packs > 0


def test_a_reader_goes_on_where_the_version_has_been_repacked_to(bucket) -> None:
    version = RemoteVersion.find(bucket, C)
    with version.open("2") as begun:
        first = begun.read(10)
        assert repacking.repack(bucket, AtOnce(), SILENT).packs > 0
        clean(bucket)
        assert first + begun.read() == FILES["m:c"]["2"]
    assert {file.path: version.open(file.path).read() for file in version.manifest.files} == FILES["m:c"]


def test_a_reader_is_told_that_the_version_has_been_deleted(bucket) -> None:
    version = RemoteVersion.find(bucket, C)
    deleting.delete(bucket, C)
    clean(bucket)
    with version.open("2") as reader, pytest.raises(TagNotFound, match="m:c has been deleted from memory"):
        reader.read()


def test_a_reader_takes_no_other_version_for_this_one(bucket, tmp_path) -> None:
    version = RemoteVersion.find(bucket, C)
    deleting.delete(bucket, C)
    with casstore.Store(tmp_path / "other") as other:
        with other.create("m:c") as draft:
            Path(draft.path, "2").write_bytes(b"another")
        push_tag(other, bucket, "m:c")
    clean(bucket)
    with version.open("2") as reader, pytest.raises(TagNotFound, match="another pushed under its name"):
        reader.read()
    shutil.rmtree(tmp_path / "other")


def test_a_reader_goes_on_where_the_same_has_been_pushed_again(bucket, stage) -> None:
    version = RemoteVersion.find(bucket, C)
    deleting.delete(bucket, C)
    clean(bucket)
    push_tag(stage.stores[1], bucket, "m:c")
    assert version.open("2").read() == FILES["m:c"]["2"]


def test_a_pack_that_was_removed_by_hand_is_damage(bucket) -> None:
    version = RemoteVersion.find(bucket, C)
    bucket.backend.delete([entry.key for entry in bucket.backend.list(keys.PACKS)])
    with version.open("2") as reader, pytest.raises(IntegrityError, match="cannot be read"):
        reader.read()
