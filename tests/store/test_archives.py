"""Export and import through the store: what leaves comes back the same, and what fails leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import stat
import sys
import tarfile
import threading
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from casstore.catalog.versions import Versions
from tests.kit import Age, Check, Child, Picture, Save, Sql, contents, noise, streamed
from tests.store.test_full_disk import _fail_at as fail_at

SINGLE = ["bentomodel", "tar", "gz", "xz", "bz2", "zst", "zip", "folder", "casmodel"]
ARCHIVES = [name for name in SINGLE if name not in ("folder", "casmodel")]
EXTENSIONS = {"gz": "tar.gz", "xz": "tar.xz", "bz2": "tar.bz2", "zst": "tar.zst"}


@pytest.fixture
def other(tmp_path: Path):
    """A store on another machine."""
    with casstore.Store(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def rich(store: casstore.Store, save: Save):
    """rich(tag): a version with all that one can have."""

    def make(tag="bert:v1", into=store):
        return save(
            tag,
            {
                "w.bin": noise(1_300_000), "sub/deep/small.txt": b"small", "run.sh!": b"#!/bin/sh\n", "empty": b"",
                "hollow": None, "sub/hollow too": None, "na\u00efve \u6a21\u578b.bin": noise(70_000, 1),
                "sub/empty!": b"", "x" * 200: b"long", "/".join(["d" * 60] * 4): b"longer",
            },
            into=into,
            labels={"stage": "dev", "\u00e4": "\u00f6 : # '", "empty": ""},
            metadata={"acc": 0.93, "none": None, "nested": {"a": [1, None, {"b": None}], "big": 1 << 70}, "t": "1:20"},
            signatures={"predict": {"batchable": True, "batch_dim": [0, 1]}, "two": {"batchable": False}},
            options={"o": [1, {"n": None}]}, module="mine.loader", api_version="v2",
            context={"framework_name": "torch", "framework_versions": {"torch": "2.4.0"}, "python_version": "3.11.9"},
        )  # fmt: skip

    return make


def described(model):
    """All that is said of a version; equal in two stores when nothing was lost on the way."""
    return {
        "tag": model.tag, "digest": model.digest, "size": model.size, "files": model.files, "labels": model.labels,
        "metadata": model.metadata, "module": model.module, "api_version": model.api_version,
        "signatures": model.signatures, "options": model.options, "context": model.context,
        "created_at": model.created_at,
    }  # fmt: skip


def test_every_format_there_and_back(store: casstore.Store, other, rich, tmp_path: Path, settled: Check) -> None:
    model = rich()
    expected = contents(model)
    for number, name in enumerate(SINGLE):
        target = store.export("bert:v1", tmp_path / f"out-{name}", format=name)
        with casstore.Store(tmp_path / f"other-{number}") as fresh:
            (imported,) = fresh.import_archive(target)
            assert imported.is_new
            assert described(imported.model) == described(model), name
            assert contents(imported.model) == expected
            root = Path(imported.model.path)
            assert (root / "hollow").is_dir()
            assert (root / "sub/hollow too").is_dir()
            assert os.access(root / "run.sh", os.X_OK)
            assert not os.access(root / "w.bin", os.X_OK) or os.stat(root / "w.bin").st_mode & 0o111 == 0
            assert (root / "model.yaml").read_bytes() == Path(model.path, "model.yaml").read_bytes()
            assert fresh.get("bert") == imported.model
            (again,) = fresh.import_archive(target)
            assert not again.is_new
            assert again.model == imported.model
            assert fresh.verify().is_sound
        # And in the store that it came from.
        (same,) = store.import_archive(target)
        assert not same.is_new
        assert same.model == model
    settled()


@pytest.mark.parametrize("name", SINGLE)
def test_a_version_that_differs_is_refused_and_changes_nothing(
    store: casstore.Store, save: Save, tmp_path: Path, picture: Picture, name
) -> None:
    files = {"w.bin": b"one", "hollow": None, "run!": b"#!"}
    options = {"labels": {"a": "b"}, "metadata": {"n": 1}}
    save("m:1", files, **options)
    target = store.export("m:1", tmp_path / "out", format=name)
    differing: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({**files, "w.bin": b"two"}, options), ({**files, "more": b""}, options),
        ({"w.bin": b"one", "run!": b"#!"}, options), ({"w.bin": b"one", "hollow": None, "run": b"#!"}, options),
        (files, {**options, "labels": {}}), (files, {**options, "metadata": {"n": 2}}),
        (files, {**options, "module": "x"}), (files, {**options, "options": {"x": 1}}),
    ]  # fmt: skip
    for number, (other_files, other_options) in enumerate(differing):
        with casstore.Store(tmp_path / f"other{number}") as there:
            save("m:1", other_files, into=there, **other_options)
            before = described(there.get("m:1"))
            with pytest.raises(casstore.TagExists, match="another m:1 is saved already"):
                there.import_archive(target)
            assert described(there.get("m:1")) == before
            assert there.tags() == ["m:1"]
            (imported,) = there.import_archive(target, as_tag="m:imported")
            assert imported.is_new
            assert imported.model.digest == store.get("m:1").digest


@pytest.mark.parametrize("name", ["tar", "casmodel"])
def test_under_another_tag(store: casstore.Store, other, save: Save, tmp_path: Path, name) -> None:
    save("m:1", {"w": b"w"}, labels={"a": "b"})
    target = store.export("m:1", tmp_path / "out", format=name)
    (imported,) = other.import_archive(target, as_tag="n:2")
    assert str(imported.model.tag) == "n:2"
    assert imported.model.created_at == store.get("m:1").created_at
    assert imported.model.labels == {"a": "b"}
    assert "name: n\nversion: '2'" in Path(imported.model.path, "model.yaml").read_text()
    (again,) = other.import_archive(target, as_tag="n:2")
    assert not again.is_new
    (generated,) = other.import_archive(target, as_tag="alone")
    assert generated.model.tag.name == "alone"
    assert len(generated.model.tag.version) == 16
    with pytest.raises(casstore.InvalidTag):
        other.import_archive(target, as_tag="n:latest")
    assert sorted(other.names()) == ["alone", "n"]


@pytest.mark.parametrize("name", ["tar", "casmodel", "folder"])
def test_the_latest_is_by_creation_time(store: casstore.Store, other, save: Save, name, age: Age) -> None:
    """An archive of old does not become the latest; of two imported, in whatever order, the newer one does."""
    targets = {}
    for version in ("old", "middle", "new"):
        save(f"m:{version}", {"w": version.encode()})
        targets[version] = store.export(f"m:{version}", store.home.parent / f"out-{version}", format=name)

    def latest(there):
        text = (there.home / "models/m/latest").read_text()
        assert str(there.get("m").tag) == f"m:{text}"
        assert str(there.list("m")[0].tag) == f"m:{text}"
        return text

    other.import_archive(targets["middle"])
    assert latest(other) == "middle"
    other.import_archive(targets["old"])
    assert latest(other) == "middle"
    other.import_archive(targets["new"])
    assert latest(other) == "new"
    save("m:local", {"w": b"local"}, into=other)
    assert latest(other) == "local"
    order = [str(model.tag) for model in other.list("m")]
    assert order == ["m:local", "m:new", "m:middle", "m:old"]
    other.close()
    (other.home / "catalog.db").unlink()
    casstore.Store.rebuild_catalog(other.home)
    with casstore.Store(other.home) as there:
        assert latest(there) == "local"
        assert [str(model.tag) for model in there.list("m")] == order


@pytest.mark.parametrize("name", ["tar", "casmodel"])
def test_gc_leaves_the_directory_of_an_old_version_that_has_just_come(
    store: casstore.Store, other, save: Save, tmp_path: Path, name
) -> None:
    save("m:1", {"w": b"one"})
    target = store.export("m:1", tmp_path / "out", format=name)
    save("m:2", {"w": b"two"}, into=other)
    (imported,) = other.import_archive(target)
    if name == "tar":
        assert (other.home / "models/m/1/w").read_bytes() == b"one"
    other.gc()
    if name == "tar":
        assert (other.home / "models/m/1/w").read_bytes() == b"one"
    other.gc(evict_all=True)
    assert not (other.home / "models/m/1").exists()
    assert Path(imported.model.path, "w").read_bytes() == b"one"


def test_without_a_directory(store: casstore.Store, other, save: Save, tmp_path: Path) -> None:
    save("m:1", {"w": b"one"})
    for name in ("zip", "casmodel"):
        target = store.export("m:1", tmp_path / "out", format=name)
        (imported,) = other.import_archive(target, as_tag=f"{name}:1", materialize=False)
        assert not (other.home / f"models/{name}").exists()
        assert streamed(imported.model) == {"w": b"one"}


@pytest.mark.parametrize("name", ["tar", "casmodel", "folder"])
def test_python_objects_from_elsewhere_are_not_unpickled_unasked(
    store: casstore.Store, other, save: Save, tmp_path: Path, name
) -> None:
    save("m:1", {"w": b"w"}, custom_objects={"answer": 42})
    assert not store.get("m:1").is_untrusted
    target = store.export("m:1", tmp_path / "out", format=name)
    (imported,) = other.import_archive(target)

    def is_guarded(model):
        assert model.is_untrusted
        with pytest.raises(casstore.UntrustedObjects, match="trust=True"):
            _ = model.custom_objects
        with pytest.raises(casstore.UntrustedObjects):
            model.load_custom_objects()
        return model.load_custom_objects(trust=True) == {"answer": 42}

    assert is_guarded(imported.model)
    # Whoever has not said so yet finds it as it was: also in the directory's descriptor, out again and elsewhere.
    assert "untrusted" not in Path(imported.model.path, "model.yaml").read_text()
    for number, again in enumerate(("tar", "casmodel")):
        second = other.export("m:1", tmp_path / f"second-{number}", format=again)
        with casstore.Store(tmp_path / f"third-{number}") as third:
            (there,) = third.import_archive(second)
            assert is_guarded(there.model)
        assert not store.import_archive(second)[0].is_new
        assert not store.get("m:1").is_untrusted
    other.close()
    (other.home / "catalog.db").unlink()
    casstore.Store.rebuild_catalog(other.home)
    with casstore.Store(other.home) as rebuilt:
        assert is_guarded(rebuilt.get("m:1"))
        (trusted,) = rebuilt.import_archive(target, as_tag="trusted:1", trust=True)
        assert not trusted.model.is_untrusted
        assert trusted.model.custom_objects == {"answer": 42}


class Unseekable(io.RawIOBase):
    """A stream as sockets and decompressors give it: in pieces, and only forwards."""

    def __init__(self, data, piece=1000):
        self._data = memoryview(data)
        self._piece = piece

    def readable(self):
        return True

    def read(self, size=-1):
        size = min(self._piece, len(self._data) if size < 0 else size)
        data, self._data = bytes(self._data[:size]), self._data[size:]
        return data


@pytest.mark.parametrize("name", [*ARCHIVES, "casmodel"])
def test_through_streams(store: casstore.Store, other, rich, name) -> None:
    """Into one that can only be written to, out of one that can only be read from, and out of the middle of a file."""
    model = rich()

    class Written(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, data):
            taken = bytes(data[:100_000])  # as raw streams may
            self.data += taken
            return len(taken)

    sink = Written()
    assert store.export("bert:v1", io.BufferedWriter(sink), format=name)
    (piped,) = other.import_archive(Unseekable(sink.data), as_tag="piped:1")
    assert contents(piped.model) == contents(model)
    if name != "zip":  # which ends where the stream does
        shifted = io.BytesIO(b"before" + sink.data)
        shifted.seek(6)
        (middle,) = other.import_archive(shifted, as_tag="middle:1")
        assert middle.model.digest == model.digest


@pytest.mark.parametrize("name", ["tar", "zst", "zip", "casmodel"])
def test_through_a_pipe(store: casstore.Store, other, rich, name) -> None:
    model = rich()
    read_end, write_end = os.pipe()

    def write():
        with open(write_end, "wb") as sink:
            store.export("bert:v1", sink, format=name)

    writing = threading.Thread(target=write)
    writing.start()
    with open(read_end, "rb") as source:
        (imported,) = other.import_archive(source)
    writing.join()
    assert described(imported.model) == described(model)
    assert contents(imported.model) == contents(model)


def test_a_reader_that_goes_away(store: casstore.Store, rich) -> None:
    rich()
    read_end, write_end = os.pipe()
    os.close(read_end)
    for name in ("tar", "casmodel", "zip", "xz"):
        with open(os.dup(write_end), "wb", buffering=0) as sink, pytest.raises(BrokenPipeError):
            store.export("bert:v1", sink, format=name)
    os.close(write_end)


@pytest.mark.parametrize("name", ["tar", "casmodel", "zip", "folder"])
def test_named_pipes_and_devices_are_written_to_not_replaced(
    store: casstore.Store, save: Save, tmp_path: Path, name
) -> None:
    save("m:1", {"w": b"w" * 1000})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if name == "folder":
        with pytest.raises(OSError, match="pipe"):
            store.export("m:1", pipe, format=name)
        assert stat.S_ISFIFO(pipe.lstat().st_mode)
        return
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    store.export("m:1", pipe, format=name)
    data = os.read(reader, 1 << 20)
    os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert data == Path(store.export("m:1", tmp_path / "file", format=name)).read_bytes()
    writing = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    writing.start()
    (imported,) = store.import_archive(pipe)
    writing.join()
    assert not imported.is_new


def test_a_link_to_a_file_is_followed(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    save("m:1", {"w": b"w"})
    (tmp_path / "there").mkdir()
    (tmp_path / "there/real.tar").write_bytes(b"old")
    (tmp_path / "link.tar").symlink_to("there/real.tar")
    store.export("m:1", tmp_path / "link.tar")
    assert (tmp_path / "link.tar").is_symlink()
    assert tarfile.is_tarfile(tmp_path / "there/real.tar")


def test_where_an_export_goes(
    store: casstore.Store, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("m:1", {"w": b"w"})
    save("m:2", {"w": b"v"})
    (tmp_path / "to").mkdir()
    to = tmp_path / "to"
    assert store.export("m:1", to) == f"{to}/m-1.casmodel"
    assert store.export("m:1", f"{to}/") == f"{to}/m-1.casmodel"
    assert store.export("m:1", to, default="bentomodel") == f"{to}/m-1.bentomodel"
    assert store.export("m:1", to / "named.zip", default="bentomodel") == f"{to}/named.zip"
    for name in ARCHIVES:
        assert store.export("m:1", to, format=name) == f"{to}/m-1.{EXTENSIONS.get(name, name)}"
    assert store.export("m:1", to, format="casmodel") == f"{to}/m-1.casmodel"
    assert store.export(["m:1", "m:2"], to / "both") == f"{to}/both.casmodel"
    assert store.export(["m:1", "m:1", "m"], to / "both") == f"{to}/both.casmodel"
    assert store.export("m:1", to / "plain") == f"{to}/plain.casmodel"
    assert store.export("m:1", to / "v1.5") == f"{to}/v1.5.casmodel"
    for name, magic in {"a.tar": b"m", "a.tgz": b"\x1f\x8b", "a.tar.zst": b"\x28\xb5", "a.ZIP": b"PK"}.items():
        written = store.export("m:1", to / name)
        assert written == f"{to}/{name}"
        assert Path(written).read_bytes().startswith(magic)
    assert store.export("m:1", to / "folder", format="folder") == f"{to}/folder"
    assert {path.name for path in (to / "folder").iterdir()} == {"model.yaml", "w"}
    (to / "hollow").mkdir()
    assert store.export("m:1", to / "hollow", format="folder") == f"{to}/hollow"
    assert store.export("m:1", f"file://{to}/url.tar") == f"file://{to}/url.tar"
    assert tarfile.is_tarfile(to / "url.tar")
    monkeypatch.chdir(to)
    assert store.export("m:2") == "m-2.casmodel"
    assert (to / "m-2.casmodel").exists()
    assert not [path.name for path in to.iterdir() if path.name.startswith(".")]
    assert (to / "plain.casmodel").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def test_exports_that_cannot_be(store: casstore.Store, save: Save, tmp_path: Path) -> None:
    save("m:1", {"w": b"w"})
    save("m:2", {"w": b"v"})
    with pytest.raises(casstore.InvalidSource, match=r"only a \.casmodel holds more than one version"):
        store.export(["m:1", "m:2"], tmp_path / "x.tar")
    with pytest.raises(casstore.InvalidSource, match="name a version"):
        store.export([], tmp_path / "x")
    with pytest.raises(casstore.InvalidSource, match="'rar' is not an archive format; known are"):
        store.export("m:1", tmp_path / "x", format="rar")
    with pytest.raises(casstore.TagNotFound):
        store.export("m:3", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/other").write_bytes(b"keep")
    with pytest.raises(FileExistsError, match="is not empty"):
        store.export("m:1", tmp_path / "full", format="folder")
    assert (tmp_path / "full/other").read_bytes() == b"keep"
    (tmp_path / "file").write_bytes(b"keep")
    with pytest.raises(OSError, match="file"):
        store.export("m:1", tmp_path / "file", format="folder")
    assert (tmp_path / "file").read_bytes() == b"keep"
    for name in ("tar", "casmodel"):
        # The message names what is missing, not some file that only exists while it is being written.
        with pytest.raises(OSError, match=r"no such directory: '.*/missing'"):
            store.export("m:1", tmp_path / "missing/x", format=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "store"]


@pytest.mark.crash
@pytest.mark.parametrize("name", SINGLE)
def test_a_failing_export_leaves_no_file(store: casstore.Store, save: Save, tmp_path: Path, name, sql: Sql) -> None:
    save("m:1", {"a": b"a", "w.bin": noise(1_500_000), "z": b"z"}, materialize=False)
    to = tmp_path / "to"
    to.mkdir()
    target = to / "out.x"
    written = store.export("m:1", target, format=name)
    before = Path(written).read_bytes() if name != "folder" else b""
    if name == "folder":
        target = to / "second"
    file_id, offset, length = sql(
        "SELECT file_id, offset, length FROM chunk JOIN container ON id = container ORDER BY raw_bytes DESC LIMIT 1"
    )[0]
    pack = store.home / f"objects/packs/{file_id}.pack"
    sound = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(sound[: offset + length - 1000] + bytes(1000) + sound[offset + length :])
    with pytest.raises(casstore.IntegrityError, match="damaged"):
        store.export("m:1", target, format=name)
    assert os.listdir(to) == [Path(written).name]
    pack.write_bytes(sound)
    failures = 0
    for stop in range(1, 60):
        with pytest.MonkeyPatch.context() as patch:
            count = fail_at(patch, stop)
            try:
                store.export("m:1", target, format=name)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failures += 1
            else:
                assert count[0] < stop, "an error was passed over"
                break
        assert os.listdir(to) == [Path(written).name]
        if name != "folder":
            assert Path(written).read_bytes() == before, "an existing file stays until the new one is complete"
    assert failures > 2


def test_a_version_that_is_deleted_meanwhile_is_not_exported_as_an_empty_one(
    store: casstore.Store, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Versions.checked_files
    for name in SINGLE:
        save("m:1", {"w": b"w"})

        def delete_first(self, row):
            with contextlib.suppress(casstore.TagNotFound):
                monkeypatch.setattr(Versions, "checked_files", real)
                store.delete("m:1")
            return real(self, row)

        monkeypatch.setattr(Versions, "checked_files", delete_first)
        with pytest.raises(casstore.TagNotFound):
            store.export("m:1", tmp_path / f"out-{name}", format=name)
    assert os.listdir(tmp_path) == ["store"]


def test_what_is_exported_is_on_disk_before_it_replaces(
    store: casstore.Store, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that goes may be the only other copy."""
    save("m:1", {"w": b"w" * 5000})
    events = []
    real_sync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(("sync", os.fstat(fd).st_ino)), real_sync(fd))[1])
    monkeypatch.setattr(
        os, "rename", lambda a, b, **k: (events.append(("rename", os.lstat(a).st_ino)), real_rename(a, b, **k))[1]
    )
    for name in ("tar", "casmodel"):
        events.clear()
        written = store.export("m:1", tmp_path / "out", format=name)
        inode = os.stat(written).st_ino
        assert events.index(("sync", inode)) < events.index(("rename", inode))


def test_sources_that_are_no_archives(store: casstore.Store, save: Save, tmp_path: Path, picture: Picture) -> None:
    save("m:1", {"w": b"w"})
    (tmp_path / "hollow").mkdir()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/w").write_bytes(b"w")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"no archive " * 100)
    (tmp_path / "short").write_bytes(b"x")
    tar = Path(store.export("m:1", tmp_path / "m.tar"))
    casmodel = Path(store.export("m:1", tmp_path / "m.casmodel"))
    with tarfile.open(tmp_path / "bare.tar", "w") as archive:
        archive.add(tmp_path / "text", "w")
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as archive:
        archive.writestr("deeper/model.yaml", "name: m")
    cases: list[tuple[str | Path, str | None, str]] = [
        (tmp_path / "missing", None, "missing does not exist"), (tmp_path / "missing", "folder", "does not exist"),
        (tmp_path / "hollow", None, "has no model.yaml"), (tmp_path / "plain", None, "has no model.yaml"),
        (tmp_path / "empty", None, "nothing"), (tmp_path / "text", None, "not an archive of a known format"),
        (tmp_path / "short", None, "not an archive of a known format"), (tmp_path / "text", "tar", "not tar"),
        (tar, "zip", "is tar, not zip"), (tar, "casmodel", r"m\.tar is not a \.casmodel"),
        (tmp_path / "empty", "casmodel", r"empty is not a \.casmodel"), (casmodel, "tar", "casmodel, and not tar"),
        (tar, "folder", "no directory|has no model.yaml"), (tmp_path / "bare.tar", None, "no model.yaml at its top"),
        (tmp_path / "bare.zip", None, "no model.yaml at its top"), (tar, "rar", "not an archive format"),
        ("~nobody-of-that-name/x.tar", None, "does not exist"), (tmp_path / "text/below", None, "(?i)not a directory"),
    ]  # fmt: skip
    before = picture()
    for source, name, message in cases:
        with pytest.raises((casstore.InvalidSource, NotADirectoryError), match=message):
            store.import_archive(source, format=name)
        assert picture() == before, source
    with pytest.raises(casstore.InvalidSource, match="not a directory on this machine"):
        store.import_archive(io.BytesIO(b""), format="folder")


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_format_that_is_given_is_checked(store: casstore.Store, save: Save, tmp_path: Path, name) -> None:
    save("m:1", {"w": b"w"})
    target = store.export("m:1", tmp_path / "out", format=name)
    assert not store.import_archive(target, format=name)[0].is_new
    wrong = "zip" if name != "zip" else "tar"
    with pytest.raises(casstore.InvalidSource, match=f"not {wrong}"):
        store.import_archive(target, format=wrong)


def test_a_creation_time_that_has_not_come(store: casstore.Store, other, save: Save, tmp_path: Path, age: Age) -> None:
    save("m:1", {"w": b"w"})
    archives = {}
    for name in ("folder", "casmodel"):
        archives[name] = store.export("m:1", tmp_path / name, format=name)
    descriptor = tmp_path / "folder/model.yaml"
    text = descriptor.read_text()
    created = store.get("m:1").created_at
    descriptor.write_text(text.replace(created.isoformat(), (created + timedelta(days=900)).isoformat()))
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    (imported,) = other.import_archive(archives["folder"])
    assert "in the future" in imported.notes[0]
    assert before < imported.model.created_at <= datetime.now(timezone.utc)
    save("m:2", {"w": b"v"}, into=other)
    assert str(other.get("m").tag) == "m:2"
    (again,) = other.import_archive(archives["folder"])
    assert not again.is_new


@settings(max_examples=25, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(
    labels=st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3),
    metadata=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=3,
    ),
)  # fmt: skip
def test_any_description_survives(tmp_path_factory: pytest.TempPathFactory, labels, metadata) -> None:
    root = tmp_path_factory.mktemp("any")
    with casstore.Store(root / "store") as store, casstore.Store(root / "other") as other:
        with store.create("m:1", labels=labels, metadata=metadata, durability="relaxed") as draft:
            Path(draft.path, "w").write_bytes(b"w")
        for name in ("tar", "casmodel"):
            target = store.export("m:1", root / "out", format=name)
            assert not store.import_archive(target)[0].is_new
            (imported,) = other.import_archive(target, as_tag=f"{name}:1", durability="relaxed")
            assert imported.model.labels == labels
            assert imported.model.metadata == metadata


def test_what_was_saved_by_an_earlier_release_is_the_same_when_it_comes_back(
    store: casstore.Store, save: Save, tmp_path: Path, sql: Sql
) -> None:
    """Its context has no version of BentoML."""
    save("m:1", {"w": b"w"})
    ((text,),) = sql("SELECT description FROM version")
    description = json.loads(text)
    del description["context"]["bentoml_version"]
    sql("UPDATE version SET description = ?", (json.dumps(description),))
    with casstore.Store(store.home) as reopened:
        for name in ("tar", "casmodel"):
            target = reopened.export("m:1", tmp_path / "out", format=name)
            assert not reopened.import_archive(target)[0].is_new, name


def test_two_at_once_import_the_same(store: casstore.Store, home: Path, save: Save, tmp_path: Path) -> None:
    save("m:1", {"w": noise(1_200_000), "s": b"s"}, into=store)
    for name in ("tar", "casmodel"):
        target = store.export("m:1", tmp_path / "out", format=name)

        def run(target=target, name=name):
            with casstore.Store(tmp_path / f"other-{name}") as there:
                (imported,) = there.import_archive(target)
                assert str(imported.model.tag) == "m:1"

        children = [Child(run) for _ in range(3)]
        assert [each.wait() for each in children] == [0, 0, 0]
        with casstore.Store(tmp_path / f"other-{name}") as there:
            assert there.verify().is_sound
            there.gc(evict_all=True)
            assert there.get("m:1").digest == store.get("m:1").digest


def test_through_fsspec(store: casstore.Store, other, rich, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    model = rich()
    for name in ("tar", "zip", "casmodel", "xz"):
        url = f"memory://casstore-tests/out.{name}"
        assert store.export("bert:v1", url, format=name) == url
        (imported,) = other.import_archive(url, as_tag=f"m:{name}")
        assert contents(imported.model) == contents(model)
    assert store.export("bert:v1", "memory://casstore-tests/") == "memory://casstore-tests/bert-v1.casmodel"
    assert store.export("bert:v1", "memory://casstore-tests/no-extension").endswith("no-extension.casmodel")
    with pytest.raises(casstore.InvalidSource, match="to this machine only"):
        store.export("bert:v1", "memory://casstore-tests/folder", format="folder")
    with pytest.raises(casstore.InvalidSource, match="memory://casstore-tests/missing does not exist"):
        other.import_archive("memory://casstore-tests/missing")
    with pytest.raises(casstore.InvalidSource, match="nosuch://x cannot be opened"):
        other.import_archive("nosuch://x")
    with pytest.raises(casstore.InvalidSource, match=r"nosuch://x\.tar cannot be opened"):
        store.export("bert:v1", "nosuch://x.tar")
    memory.rm("/casstore-tests", recursive=True)


def test_a_failing_export_to_a_url(store: casstore.Store, save: Save, sql: Sql) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    save("m:1", {"w.bin": noise(1_500_000)}, materialize=False)
    for pack in (store.home / "objects/packs").iterdir():
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes()[:1000])
    for name in ("tar", "casmodel", "xz"):
        with pytest.raises(casstore.IntegrityError):
            store.export("m:1", f"memory://casstore-tests/failed.{name}", format=name)
        assert not memory.exists(f"/casstore-tests/failed.{name}")


def test_errors_of_an_archive_behind_a_url_are_its_own(other) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/casstore-tests/text", b"no archive " * 100)
    with pytest.raises(casstore.InvalidSource, match="not an archive of a known format"):
        other.import_archive("memory://casstore-tests/text")


def test_urls_need_fsspec(store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save("m:1", {"w": b"w"})
    monkeypatch.setitem(sys.modules, "fsspec", None)
    for action in (lambda: store.export("m:1", "s3://bucket/x.tar"), lambda: store.import_archive("s3://bucket/x")):
        with pytest.raises(casstore.InvalidSource, match="pip install fsspec"):
            action()


def test_an_import_of_what_is_damaged_in_the_store_says_so(
    store: casstore.Store, other, save: Save, tmp_path: Path
) -> None:
    """The version's directory is another copy; what the archive brings mends the rest once repair has looked."""
    files = {"small": b"small" * 100}
    save("m:1", files)
    target = store.export("m:1", tmp_path / "out.casmodel")
    other.import_archive(target)
    for pack in (other.home / "objects/packs").iterdir():
        pack.unlink()
    (again,) = other.import_archive(target, as_tag="n:1")
    assert again.model.open("small").read() == files["small"]
    assert other.get("m:1").open("small").read() == files["small"]
    assert other.verify().is_sound


def test_equal_versions_give_equal_archives(store: casstore.Store, other, rich, tmp_path: Path) -> None:
    rich()
    for name in ("tar", "zip", "xz"):
        first = Path(store.export("bert:v1", tmp_path / "first", format=name)).read_bytes()
        other.import_archive(tmp_path / ("first" if name != "bentomodel" else "first.bentomodel"))
        second = Path(other.export("bert:v1", tmp_path / "second", format=name)).read_bytes()
        assert first == second
        other.delete("bert:v1")


@pytest.mark.parametrize("error", [NotImplementedError("no lists"), RuntimeError(), KeyError("bucket")])
def test_whatever_a_file_system_raises_is_said_with_its_url(
    store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem
    save("bert:v1", {"w": b"1"})

    def failing(*_: Any, **__: Any) -> None:
        raise error

    for method in ("open", "_strip_protocol"):
        with monkeypatch.context() as patched:
            patched.setattr(memory, method, failing)
            for call in (store.import_archive, lambda url: store.export("bert:v1", url, format="tar")):
                with pytest.raises(casstore.InvalidSource, match=r"memory://x/y.tar cannot be opened: \S"):
                    call("memory://x/y.tar")


def test_a_url_that_nothing_answers(store: casstore.Store) -> None:
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/x.tar"
    with pytest.raises(casstore.InvalidSource, match=f"{url} cannot be opened: Cannot connect"):
        store.import_archive(url)
