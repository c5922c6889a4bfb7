"""Bad input: a clear error, and nothing changed; every test compares the whole store before and after."""

# ruff: noqa: PT012, SIM117 - what is refused is refused at the end of a with block
from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest

import casstore
from tests.kit import Picture, Sql, contents, noise, plant

BIG = 2_500_000


@pytest.fixture
def unchanged(store: casstore.Store, picture: Picture):
    """A context in which the store, which holds one version, must stay what it is, but for drafts that are kept."""
    import contextlib

    with store.create("kept:v1", labels={"a": "b"}) as draft:
        plant(draft.path, {"w.bin": noise(BIG), "mid": noise(100_000, 1), "small": b"s"})

    @contextlib.contextmanager
    def check():
        before = picture()
        yield
        for draft in store.drafts():
            store.remove_draft(draft)
        if (store.home / "drafts").exists():
            (store.home / "drafts").rmdir()
        assert picture() == before

    return check


INVALID = [
    "", ":", "m:", ":v", "m\n", "m:v\n", "../x", "m:../x", "a/b", "m:a/b", "m" * 64, "m:" + "v" * 64, "m:latest",
    "m:LATEST", "-m", "m-", ".m", "m:.", "m v", "m:v:w", "mé", "m\0", "con", "m:nul", "com1.x", "m:aux", "İ", "㎏",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*lower case")
@pytest.mark.parametrize("tag", INVALID)
def test_invalid_and_reserved_tags(store: casstore.Store, unchanged, tmp_path: Path, tag) -> None:
    source = plant(tmp_path / "out", {"a": b"a"})
    with unchanged():
        with pytest.raises(casstore.InvalidTag):
            store.create(tag)
        with pytest.raises(casstore.InvalidTag):
            store.save(tag, source, move=True)
        with pytest.raises((casstore.InvalidTag, casstore.TagNotFound)):
            store.delete(tag)
    assert (source / "a").exists()


@pytest.mark.parametrize("tag", [None, 5, b"m:1", ["m"], Path("m")])
def test_a_tag_is_text(store: casstore.Store, unchanged, tag) -> None:
    with unchanged(), pytest.raises(casstore.InvalidTag, match="text"):
        store.create(tag)


def test_upper_case_is_lowered_with_a_warning(store: casstore.Store) -> None:
    with pytest.warns(UserWarning, match="lower case"):
        draft = store.create("BERT:V1")
    with draft:
        pass
    assert str(draft.model.tag) == "bert:v1"
    with pytest.raises(casstore.TagExists):
        store.create("bert:v1")


def test_an_existing_tag(store: casstore.Store, unchanged, tmp_path: Path) -> None:
    source = plant(tmp_path / "out", {"a": b"other"})
    with unchanged():
        with pytest.raises(casstore.TagExists, match="never change"):
            store.create("kept:v1")
        with pytest.raises(casstore.TagExists):
            store.save("kept:v1", source, move=True)
    assert (source / "a").read_bytes() == b"other"


def test_a_tag_that_is_taken_while_the_draft_is_written(store: casstore.Store) -> None:
    """The loser's draft may hold hardlinks of stored files by then; their modes must stay as they are."""
    files = {"w.bin": noise(BIG), "mid": noise(100_000, 1), "small": b"s"}
    with store.create("m:v1") as draft:
        plant(draft.path, files)
    with pytest.raises(casstore.TagExists), store.create("m:v2") as loser:
        plant(loser.path, files)
        with store.create("m:v2") as winner:
            plant(winner.path, {"other": b"winner"})
    model = store.get("m:v2")
    assert sorted(os.listdir(model.path)) == ["model.yaml", "other"]
    for name in files:
        assert Path(store.get("m:v1").path, name).stat().st_mode & 0o222 == 0, name
    assert store.verify().is_sound
    store.close()
    assert os.listdir(store.home / "sessions") == []


def test_an_empty_or_missing_source(store: casstore.Store, unchanged, tmp_path: Path) -> None:
    (tmp_path / "empty/inner").mkdir(parents=True)
    with unchanged():
        with pytest.raises(casstore.InvalidSource, match="no files"):
            store.save("m:1", tmp_path / "empty")
        with pytest.raises(casstore.InvalidSource, match="does not exist"):
            store.save("m:1", tmp_path / "missing")
    model = store.save("m:1", tmp_path / "empty", allow_empty=True)
    assert Path(model.path, "inner").is_dir()


def _make_loop(root: Path) -> None:
    os.symlink("loop", root / "loop")


def _make_parent_loop(root: Path) -> None:
    (root / "sub").mkdir()
    os.symlink("..", root / "sub/up")


def _make_dangling(root: Path) -> None:
    os.symlink("/nowhere/at/all", root / "dangling")


def _make_socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(root)  # a socket's path is short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)


def _make_not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).write_bytes(b"x")


def _make_not_utf8_directory(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9")).mkdir()


def _make_case_twins(root: Path) -> None:
    (root / "Weights.bin").write_bytes(b"1")
    (root / "weights.BIN").write_bytes(b"2")


def _make_case_twin_directories(root: Path) -> None:
    for name in ("sub", "SUB"):
        (root / name).mkdir()
        (root / name / name).write_bytes(b"1")


def _make_unicode_twins(root: Path) -> None:
    (root / "caf\u00e9").write_bytes(b"1")
    (root / "cafe\u0301").write_bytes(b"2")


def _make_deep(root: Path) -> None:
    (root / "/".join("d" * 250)).mkdir(parents=True)


def _make_descriptor_twin(root: Path) -> None:
    (root / "Model.YAML").write_bytes(b"1")


def _make_descriptor_directory(root: Path) -> None:
    (root / "model.yaml").mkdir()
    (root / "model.yaml/x").write_bytes(b"1")


def _make_foreign_descriptor(root: Path) -> None:
    (root / "model.yaml").write_bytes(b"layers: [1, 2]")


def _make_own_descriptor(root: Path) -> None:
    (root / "model.yaml").write_bytes(b"name: mine\nversion: 3\ncreation_time: yesterday\nlayers: [1, 2]")


def _make_custom_objects(root: Path) -> None:
    (root / "custom_objects.pkl").write_bytes(b"mine")


BAD_SOURCES = {
    _make_loop: "back to itself",
    _make_parent_loop: "contains it",
    _make_dangling: "does not exist",
    _make_socket: "a socket",
    lambda root: os.mkfifo(root / "pipe"): "named pipe",
    lambda root: os.symlink("/dev/null", root / "null"): "character device",
    _make_not_utf8: "UTF-8",
    _make_not_utf8_directory: "UTF-8",
    _make_case_twins: "differ only by case",
    _make_case_twin_directories: "differ only by case",
    _make_unicode_twins: "Unicode form",
    _make_deep: "nested",
    _make_descriptor_twin: "differ only by case",
    _make_descriptor_directory: "rename",
    _make_foreign_descriptor: "rename",
    _make_own_descriptor: "what it says would be lost; rename",
    _make_custom_objects: "not both",
}


@pytest.mark.parametrize(("make", "message"), BAD_SOURCES.items())
def test_sources_that_cannot_be_saved(store: casstore.Store, unchanged, tmp_path: Path, make, message) -> None:
    source = plant(tmp_path / "out", {"new.bin": noise(BIG, 7), "small": b"new"})
    make(source)
    described: dict[str, Any] = {"custom_objects": {"a": 1}} if make is _make_custom_objects else {}
    before = {path: (path.lstat().st_mode, path.lstat().st_ino) for path in source.rglob("*")}
    with unchanged():
        for move in (False, True):
            with pytest.raises(casstore.InvalidSource, match=message):
                store.save("m:1", source, move=move, **described)
            assert before == {path: (path.lstat().st_mode, path.lstat().st_ino) for path in source.rglob("*")}
        with pytest.raises(casstore.InvalidSource, match=message), store.create("m:1", **described) as draft:
            plant(draft.path, {"new.bin": noise(BIG, 7)})
            make(Path(draft.path))


def test_a_single_file_that_is_named_as_the_descriptor(store: casstore.Store, unchanged, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(b"layers: 3")
    with unchanged(), pytest.raises(casstore.InvalidSource, match=r"model\.yaml"):
        store.save("m:1", path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device")
def test_a_device_as_the_source_itself(store: casstore.Store, unchanged) -> None:
    with unchanged(), pytest.raises(casstore.InvalidSource, match="character device"):
        store.save("m:1", "/dev/zero")


def test_names_that_only_windows_cannot_hold_warn(store: casstore.Store) -> None:
    with pytest.warns(UserWarning, match="Windows"), store.create("m:1") as draft:
        plant(draft.path, {"a:b": b"1", "line\nbreak": b"2", "dot.": b"3"})
    assert contents(draft.model) == {"a:b": b"1", "line\nbreak": b"2", "dot.": b"3"}


class _As:
    """Run as a user without privileges, if we have any."""

    def __enter__(self):
        self.was = os.geteuid()
        if self.was == 0:
            os.seteuid(65534)

    def __exit__(self, *_):
        os.seteuid(self.was)


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        for parent in [path, *path.parents]:
            if os.stat(parent).st_mode & 0o001 == 0:
                os.chmod(parent, os.stat(parent).st_mode | 0o055)
        os.chown(path, 65534, 65534)


def test_unreadable_files_and_directories(tmp_path: Path, home: Path) -> None:
    _give(tmp_path)
    with _As(), casstore.Store(home) as store:
        source = plant(tmp_path / "out", {"a": b"a", "sub/b": b"b"})
        for doomed in (source / "a", source / "sub"):
            mode = doomed.stat().st_mode
            doomed.chmod(0)
            for move in (False, True):
                with pytest.raises(casstore.InvalidSource, match="cannot be read"):
                    store.save("m:1", source, move=move)
            doomed.chmod(mode)
        assert store.list() == []
        assert os.listdir(home / "sessions") == []
        store.save("m:1", source, move=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_files_of_another_user_are_copied(tmp_path: Path, home: Path) -> None:
    _give(tmp_path)
    source = plant(tmp_path / "out", {"w.bin": noise(BIG), "mid": noise(100_000)})
    os.chmod(source, 0o777)
    with _As(), casstore.Store(home) as store:
        model = store.save("m:1", source)
        assert Path(model.path, "w.bin").stat().st_uid == os.geteuid()
        assert Path(model.path, "w.bin").read_bytes() == noise(BIG)
    assert (source / "w.bin").stat().st_uid == 0
    assert (source / "w.bin").stat().st_mode & 0o200


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    _give(tmp_path)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o555)
    (tmp_path / "file").write_bytes(b"a file")
    with _As():
        with pytest.raises(casstore.StoreUnwritable, match="locked"):
            casstore.Store(tmp_path / "locked/store")
        with pytest.raises(casstore.StoreUnwritable):
            casstore.Store(tmp_path / "locked")
    for inside in ("file", "file/store"):
        with pytest.raises(casstore.StoreUnwritable):
            casstore.Store(tmp_path / inside)
    assert (tmp_path / "file").read_bytes() == b"a file"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a store of another user")
def test_a_store_of_another_user(tmp_path: Path, home: Path, store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        plant(draft.path, {"a": b"a"})
    store.close()
    for parent in [home, *home.parents]:
        os.chmod(parent, os.stat(parent).st_mode | 0o055)
    with _As(), pytest.raises(casstore.StoreUnwritable):
        casstore.Store(home).create("m:2").__enter__()
    assert os.listdir(home / "sessions") == []


def test_a_home_that_is_full_of_other_things(tmp_path: Path) -> None:
    plant(tmp_path / "projects", {"thesis.tex": b"42"})
    with pytest.raises(casstore.StoreError, match=r"thesis\.tex"):
        casstore.Store(tmp_path / "projects")
    assert os.listdir(tmp_path / "projects") == ["thesis.tex"]


def test_a_catalog_that_is_none(home: Path) -> None:
    home.mkdir()
    (home / "catalog.db").write_bytes(b"not a database " * 100)
    with pytest.raises(casstore.StoreError, match=r"catalog\.db"):
        casstore.Store(home)
    assert (home / "catalog.db").read_bytes() == b"not a database " * 100


def test_a_store_that_is_newer(home: Path, store: casstore.Store, sql: Sql) -> None:
    store.close()
    (version,) = sql("PRAGMA user_version")[0]
    sql(f"PRAGMA user_version = {version + 1}")
    with pytest.raises(casstore.StoreTooNew, match="upgrade"):
        casstore.Store(home)


def test_an_sqlite_that_is_too_old(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import apsw

    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(casstore.SQLiteTooOld, match=r"3\.51\.2.*pip install --upgrade apsw"):
        casstore.Store(home)
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.3")
    casstore.Store(home).close()


class Opaque:
    pass


def _cycle() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    return loop


BAD_DESCRIPTIONS = [
    ({"options": {"a": float("nan")}}, r"options\.a is nan"),
    ({"options": {"a": {"b": [1, float("inf")]}}}, r"options\.a\.b\[1\]"),
    ({"options": {"a": numpy.array([1.0, numpy.nan])}}, r"options\.a"),
    ({"metadata": {"a": numpy.complex64(1)}}, r"metadata\.a"),
    ({"metadata": {"a": Opaque()}}, r"metadata\.a is of type Opaque"),
    ({"metadata": {"a": b"bytes"}}, r"metadata\.a is of type bytes"),
    ({"metadata": {1: "a"}}, "keys are text"),
    ({"metadata": {"a": {(1, 2): "a"}}}, "keys are text"),
    ({"metadata": {"a": "\ud800"}}, "not Unicode"),
    ({"metadata": {"\ud800": 1}}, "not Unicode"),
    ({"metadata": _cycle()}, "contains itself"),
    ({"metadata": [1, 2]}, "metadata is a dict"),
    ({"metadata": 5}, "metadata is a dict"),
    ({"labels": {"a": [1]}}, "labels map text to text"),
    ({"labels": {1: "a"}}, "labels map text to text"),
    ({"labels": {"a": None}}, "labels map text to text"),
    ({"labels": {"a": "\udfff"}}, "not Unicode"),
    ({"labels": "stage=dev"}, "labels is a dict"),
    ({"module": 5}, "module is text"),
    ({"api_version": None}, "api_version is text"),
    ({"signatures": {"f": {"batchable": "yes"}}}, "True or False"),
    ({"signatures": {"f": {"batchable": True, "batch_dim": "0"}}}, "batch_dim"),
    ({"signatures": {"f": {"speed": 1}}}, "unknown field 'speed'"),
    ({"signatures": {"f": 5}}, "is a dict"),
    ({"signatures": {5: {}}}, "is text"),
    ({"signatures": ["f"]}, "signatures is a dict"),
    ({"options": {"a": Opaque()}}, r"options\.a"),
    ({"options": "fast"}, "options is a dict"),
    ({"context": {"framework_versions": ["torch"]}}, "framework_versions"),
    ({"context": {"framework_name": 1}}, "framework_name"),
    ({"custom_objects": {"lock": threading.Lock()}}, "custom_objects cannot be pickled"),
    ({"custom_objects": 5}, "custom_objects is a dict"),
]


@pytest.mark.parametrize(("described", "message"), BAD_DESCRIPTIONS, ids=[message for _, message in BAD_DESCRIPTIONS])
def test_what_cannot_be_recorded(store: casstore.Store, unchanged, described, message) -> None:
    with unchanged(), pytest.raises(casstore.InvalidMetadata, match=message):
        with store.create("m:1", **described) as draft:
            plant(draft.path, {"w.bin": noise(BIG, 5)})


def test_descriptions_that_go_bad_in_the_draft(store: casstore.Store, unchanged) -> None:
    for field, value in (("labels", 5), ("metadata", [1]), ("module", 1), ("custom_objects", 4), ("signatures", 3)):
        with unchanged(), pytest.raises(casstore.InvalidMetadata), store.create("m:1") as draft:
            setattr(draft, field, value)


@pytest.mark.parametrize("header", [b"\xff" * 8, (100).to_bytes(8, "little") + b"{" * 100, b"GGUF\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf", "m.npz", "m.pt"])
def test_malformed_headers_are_saved_as_plain_bytes(store: casstore.Store, name, header) -> None:
    content = header + noise(BIG, 3)
    with store.create("m:1") as draft:
        plant(draft.path, {name: content, "zip.pt": b"PK\x03\x04" + content, "cut.npz": b"PK\x05\x06"})
    assert contents(draft.model)[name] == content
    assert store.verify().is_sound


@pytest.mark.parametrize("move", [False, True])
def test_a_file_that_changes_while_it_is_saved(store: casstore.Store, unchanged, tmp_path: Path, move) -> None:
    path = tmp_path / "out" / "growing.bin"
    path.parent.mkdir()
    path.write_bytes(noise(30_000_000))
    stop = threading.Event()

    def append():
        with open(path, "ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more" * 100)
                time.sleep(0.0005)

    writer = threading.Thread(target=append)
    writer.start()
    try:
        with unchanged(), pytest.raises(casstore.FileChanged, match=r"growing\.bin"):
            store.save("m:1", path.parent, move=move)
    finally:
        stop.set()
        writer.join()
    assert path.exists()
    assert path.stat().st_mode & 0o200, "still the caller's to write to"


def test_a_file_that_shrinks_while_it_is_saved(
    store: casstore.Store, unchanged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shrinking.bin"
    path.write_bytes(noise(20_000_000))
    real = os.preadv

    def shrink_then_read(descriptor, buffers, offset):
        if offset > 5_000_000:
            os.truncate(path, 6_000_000)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", shrink_then_read)
    with unchanged(), pytest.raises(casstore.FileChanged):
        store.save("m:1", path)


def test_a_source_that_holds_the_store_itself(store: casstore.Store, unchanged, tmp_path: Path) -> None:
    with unchanged():
        for source in (tmp_path, store.home, store.home / "objects"):
            for move in (False, True):
                with pytest.raises(casstore.InvalidSource, match="store"):
                    store.save("m:1", source, move=move)


def test_a_foreign_directory_where_the_version_would_stand(store: casstore.Store, unchanged) -> None:
    plant(store.home / "models/m/1", {"mine": b"mine"})
    plant(store.home / "models", {"file": b"a file where a model's directory would stand"})
    with unchanged():
        for tag in ("m:1", "file:1"):
            with pytest.raises(casstore.TagExists, match="in the way"), store.create(tag) as draft:
                plant(draft.path, {"w.bin": noise(BIG, 5)})


def test_unknown_settings_and_durabilities(store: casstore.Store, unchanged) -> None:
    with unchanged():
        with pytest.raises(casstore.InvalidSetting):
            store.create("m:1", durability="fast")
        with pytest.raises(casstore.InvalidSetting, match="durability"):
            store.set_setting("durabilty", "full")
        with pytest.raises(casstore.InvalidSetting):
            store.set_setting("link_mode", "hard")
