"""Python objects that came in an archive are not unpickled unasked, whatever version the same bytes are saved in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import casstore
from tests.kit import Save, Sql

OBJECTS = {"answer": 42}


@pytest.fixture
def other(tmp_path: Path):
    with casstore.Store(tmp_path / "other") as opened:
        yield opened


@pytest.fixture(params=["tar", "casmodel", "folder"])
def archive(request: pytest.FixtureRequest, other, save: Save, tmp_path: Path):
    """An archive of a version with Python objects."""
    save("x:1", {"w": b"w"}, into=other, custom_objects=OBJECTS)
    return Path(other.export("x:1", tmp_path / "archive", format=request.param))


def is_guarded(model):
    if model.is_untrusted:
        with pytest.raises(casstore.UntrustedObjects, match="trust=True"):
            _ = model.custom_objects
        assert model.load_custom_objects(trust=True) == OBJECTS
    else:
        assert model.custom_objects == OBJECTS
    return model.is_untrusted


def copied(store, how, source, tmp_path, tag="copy:1"):
    """A version with the files that stand at `source`."""
    mine = tmp_path / f"mine-{tag.replace(':', '-')}"
    if how == "save":
        return store.save(tag, source)
    if how == "streamed":
        return store.save(tag, source, materialize=False)
    if how == "draft":
        with store.create(tag) as draft:
            shutil.copytree(source, draft.path, dirs_exist_ok=True)
            Path(draft.path, "model.yaml").unlink()
        return draft.model
    if how == "renamed":
        shutil.copytree(source, mine)
        (mine / "custom_objects.pkl").rename(mine / "harmless")
        store.save("renamed:1", mine)
        again = Path(store.get("renamed:1").path)
        with store.create(tag) as draft:
            shutil.copy(again / "harmless", Path(draft.path, "custom_objects.pkl"))
        return draft.model
    if how == "move":
        shutil.copytree(source, mine)
        return store.save(tag, mine, move=True)
    name, version = tag.split(":")
    if how == "adopt":
        shutil.copytree(source, mine / name / version)
        assert store.adopt(mine).adopted == (tag,)
    else:
        assert how == "sync-tree"
        shutil.copytree(source, store.home / "models" / name / version)
        assert store.sync_tree().adopted == (tag,)
    return store.get(tag)


HOW = ["save", "streamed", "draft", "renamed", "move", "adopt", "sync-tree"]


@pytest.mark.crash
@pytest.mark.parametrize("how", HOW)
def test_the_mark_follows_the_bytes(store: casstore.Store, archive, tmp_path: Path, how) -> None:
    (imported,) = store.import_archive(archive)
    assert is_guarded(imported.model)
    copy = copied(store, how, imported.model.path, tmp_path)
    assert is_guarded(copy)
    # And on, also when the version that brought them is gone, and after the catalog is made anew.
    store.delete("x:1")
    store.gc()
    assert is_guarded(store.get("copy:1"))
    assert is_guarded(store.save("second:1", copy.path))
    store.close()
    casstore.Store.rebuild_catalog(store.home)
    with casstore.Store(store.home) as rebuilt:
        assert is_guarded(rebuilt.get("copy:1"))
        source = Path(rebuilt.get("copy:1").path)
        rebuilt.delete("copy:1")
        rebuilt.delete("second:1")
        (tmp_path / "kept").mkdir()
    assert not source.exists()


def test_bytes_that_no_version_has_any_more_stay_untrusted(store: casstore.Store, archive, tmp_path: Path) -> None:
    (imported,) = store.import_archive(archive)
    shutil.copytree(imported.model.path, tmp_path / "kept")
    store.delete("x:1")
    store.gc()
    assert is_guarded(store.save("m:1", tmp_path / "kept"))


def test_a_store_that_was_written_before_this_was_kept(
    store: casstore.Store, archive, tmp_path: Path, sql: Sql
) -> None:
    (imported,) = store.import_archive(archive)
    shutil.copytree(imported.model.path, tmp_path / "kept")
    sql("DELETE FROM untrusted")
    sql("DELETE FROM store WHERE key = 'untrusted_filled'")
    assert is_guarded(store.get("x:1"))
    sql("DELETE FROM untrusted")
    sql("DELETE FROM store WHERE key = 'untrusted_filled'")
    store.delete("x:1")
    assert is_guarded(store.save("m:1", tmp_path / "kept"))


@pytest.mark.crash
@pytest.mark.parametrize("way", ["save", "adopt", "import"])
def test_the_directory_of_a_version_in_another_store(store: casstore.Store, archive, tmp_path: Path, way) -> None:
    with casstore.Store(tmp_path / "theirs") as theirs:
        (imported,) = theirs.import_archive(archive)
        source = Path(imported.model.path)
    if way == "save":
        copy = store.save("x:1", source)
    elif way == "adopt":
        store.adopt(source.parent.parent)
        copy = store.get("x:1")
    else:
        copy = store.import_archive(source)[0].model
    assert is_guarded(copy)
    assert is_guarded(store.save("again:1", copy.path))


@pytest.mark.parametrize("as_tag", [None, "other:1"])
def test_trust_is_given_to_the_bytes(store: casstore.Store, archive, as_tag) -> None:
    (imported,) = store.import_archive(archive)
    copy = store.save("copy:1", imported.model.path)
    (trusted,) = store.import_archive(archive, as_tag=as_tag, trust=True)
    assert trusted.is_new == (as_tag is not None)
    for model in (trusted.model, imported.model, copy, store.save("new:1", copy.path)):
        assert not is_guarded(model)
    (again,) = store.import_archive(archive, as_tag="again:1")
    assert is_guarded(again.model)


@pytest.mark.crash
@pytest.mark.parametrize("how", ["save", "draft", "adopt", "sync-tree"])
def test_what_is_the_user_s_own_is_not_marked(store: casstore.Store, save: Save, tmp_path: Path, how) -> None:
    save("m:1", {"w": b"w"}, custom_objects=OBJECTS)
    assert not is_guarded(store.get("m:1"))
    assert not is_guarded(copied(store, how, store.get("m:1").path, tmp_path))


def test_what_is_pickled_now_is_the_caller_s_own(store: casstore.Store, archive) -> None:
    (imported,) = store.import_archive(archive)
    with store.create("m:1", custom_objects=OBJECTS) as draft:
        Path(draft.path, "w").write_bytes(b"w")
    assert {file.digest for file in draft.model.files} == {file.digest for file in imported.model.files}
    assert not is_guarded(draft.model)
    assert is_guarded(imported.model)


def test_other_bytes_and_other_names_are_not_marked(store: casstore.Store, archive, tmp_path: Path) -> None:
    (imported,) = store.import_archive(archive)
    source = shutil.copytree(imported.model.path, tmp_path / "mine")
    (source / "custom_objects.pkl").rename(source / "sub.pkl")
    assert not store.save("m:1", source).is_untrusted
    (source / "custom_objects.pkl").write_bytes(b"not the same")
    assert not store.save("m:2", source).is_untrusted


def test_a_store_that_can_only_be_read(
    store: casstore.Store, archive, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_archive(archive)
    sql("DELETE FROM store WHERE key = 'untrusted_filled'")
    store.close()
    with casstore.Store(store.home) as again:
        monkeypatch.setattr(again._workspace.catalog._connections, "read_only", True)
        assert again.get("x:1").is_untrusted
