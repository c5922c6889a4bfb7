"""Opening: which version a tag means, the directory that is handed out, and reading straight from the chunks."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from tests.kit import Sql, contents, noise, plant, script

BIG = 2_500_000
FILES = ("w.bin", "mid", "small", "run")


@pytest.fixture
def files():
    return {"w.bin": noise(BIG), "mid": noise(100_000, 1), "sub/small": b"s", "run!": b"#!/bin/sh", "empty": b""}


@pytest.fixture
def model(store: casstore.Store, files):
    with store.create("m:v1") as draft:
        plant(draft.path, {**files, "hollow": None})
    return draft.model


@pytest.fixture
def expected(files):
    return {name.removesuffix("!"): content for name, content in files.items()}


def make(store, *tags):
    for tag in tags:
        with store.create(tag):
            pass


def test_which_version_a_tag_means(store: casstore.Store) -> None:
    make(store, "bert:alpha", "bert:alpha2", "bert:beta", "bertha:x")
    found = {query: str(store.get(query).tag) for query in ("bert", "bert:latest", "bert:b", "bert:alpha2", "bertha")}
    assert found == {
        "bert": "bert:beta",
        "bert:latest": "bert:beta",
        "bert:b": "bert:beta",
        "bert:alpha2": "bert:alpha2",
        "bertha": "bertha:x",
    }
    assert str(store.get("bert:alpha").tag) == "bert:alpha", "an exact match wins over prefixes"
    assert store.get(store.get("bert").tag) == store.get("bert")
    with pytest.raises(casstore.AmbiguousTag, match="bert:alpha2") as caught:
        store.get("bert:al")
    assert sorted(caught.value.candidates) == ["bert:alpha", "bert:alpha2"]


def test_what_is_not_there_is_suggested(store: casstore.Store) -> None:
    with pytest.raises(casstore.TagNotFound, match="empty"):
        store.get("bert")
    make(store, "bert:v1", "gpt:v1")
    for query, suggestion in (("brt", "bert"), ("bert:w1", "bert:v1"), ("gpd:v1", "gpt")):
        with pytest.raises(casstore.TagNotFound) as caught:
            store.get(query)
        assert caught.value.suggestion == suggestion
    with pytest.raises(casstore.TagNotFound):
        store.stats("nothing-like-it")


def test_lists(store: casstore.Store) -> None:
    make(store, "b:1", "a:1", "b:2", "a:0")
    assert [str(model.tag) for model in store.list()] == ["a:0", "a:1", "b:2", "b:1"]
    assert [str(model.tag) for model in store.list("b")] == ["b:2", "b:1"]
    assert store.list("c") == []
    assert store.names() == ["a", "b"]
    assert store.tags() == ["a:0", "b:2", "a:1", "b:1"]
    with pytest.raises(casstore.InvalidTag):
        store.list("b:1")


def test_latest_is_a_plain_file_that_follows_saves_and_deletions(store: casstore.Store, home: Path) -> None:
    make(store, "m:1", "m:2")
    latest = home / "models/m/latest"
    assert latest.read_text() == "2"
    assert not latest.is_symlink()
    store.delete("m:2")
    assert latest.read_text() == "1"
    store.delete("m:1")
    assert not (home / "models/m").exists()


def test_deleting_takes_an_exact_tag(store: casstore.Store, model) -> None:
    for query in ("m", "m:latest"):
        with pytest.raises(casstore.InvalidTag):
            store.delete(query)
    for query in ("m:v", "n:v1"):
        with pytest.raises(casstore.TagNotFound):
            store.delete(query)
    assert store.tags() == ["m:v1"]


def test_a_deleted_version_is_gone_and_its_tag_free(store: casstore.Store, model, home: Path) -> None:
    path = model.path
    store.delete("m:v1")
    assert not os.path.exists(path)
    assert store.list() == []
    for use in (lambda: model.path, lambda: model.files, lambda: model.open("mid"), lambda: store.delete("m:v1")):
        with pytest.raises(casstore.TagNotFound):
            use()
    for round_ in range(5):
        with store.create("m:v1") as draft:
            plant(draft.path, {"other": b"o" * round_})
        with pytest.raises(casstore.TagNotFound, match="deleted"):
            _ = model.path
        assert contents(store.get("m:v1")) == {"other": b"o" * round_}
        store.delete("m:v1")
        store.gc()


def _remove_everything(root):
    shutil.rmtree(root)


def _remove_a_file(root):
    (root / "w.bin").unlink()


def _remove_the_descriptor(root):
    (root / "model.yaml").unlink()


def _replace_a_file(root):
    (root / "mid").unlink()
    (root / "mid").write_bytes(b"another")


def _replace_a_file_with_a_directory(root):
    (root / "w.bin").unlink()
    (root / "w.bin/full").mkdir(parents=True)


def _replace_a_file_with_a_link(root):
    (root / "mid").unlink()
    (root / "mid").symlink_to("/etc/hostname")


def _replace_a_directory_with_a_file(root):
    shutil.rmtree(root / "sub")
    (root / "sub").write_bytes(b"a file")


def _replace_a_directory_with_a_link(root):
    elsewhere = root.parent.parent.parent.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    shutil.rmtree(root / "sub")
    (root / "sub").symlink_to(elsewhere)


def _alter_a_small_file(root):
    (root / "sub/small").chmod(0o644)
    (root / "sub/small").write_bytes(b"altered")


def _alter_the_descriptor(root):
    (root / "model.yaml").chmod(0o644)
    (root / "model.yaml").write_bytes(b"name: other")


@pytest.mark.parametrize(
    "harm",
    [
        _remove_everything, _remove_a_file, _remove_the_descriptor, _replace_a_file, _replace_a_file_with_a_directory,
        _replace_a_file_with_a_link, _replace_a_directory_with_a_file, _replace_a_directory_with_a_link,
        _alter_a_small_file, _alter_the_descriptor,
    ],
)  # fmt: skip
def test_a_directory_that_was_harmed_is_mended(store: casstore.Store, model, expected, tmp_path: Path, harm) -> None:
    described = Path(model.path, "model.yaml").read_bytes()
    harm(Path(model.path))
    got = store.get("m:v1")
    assert contents(got) == expected
    root = Path(got.path)
    assert (root / "model.yaml").read_bytes() == described
    assert (root / "hollow").is_dir()
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert os.access(root / "run", os.X_OK)
    assert store.verify().is_sound
    assert not (tmp_path / "elsewhere").exists() or not any((tmp_path / "elsewhere").iterdir())
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert store.get("m:v1").path
    assert stamps == {path: path.stat().st_mtime_ns for path in root.rglob("*")}, "mended once"


def test_files_that_somebody_added_are_kept_in_quarantine(store: casstore.Store, model) -> None:
    root = Path(model.path)
    (root / "notes.txt").write_bytes(b"mine")
    (root / "mid").unlink()
    assert not (Path(store.get("m:v1").path) / "notes.txt").exists()
    assert [path.read_bytes() for path in (store.home / "quarantine").rglob("notes.txt")] == [b"mine"]
    assert (root / "mid").exists()


def test_a_foreign_directory_in_the_place_of_a_version(store: casstore.Store, model) -> None:
    root = Path(model.path)
    root.rename(root.with_name("moved"))
    root.mkdir()
    (root / "mine").write_bytes(b"mine")
    with pytest.raises(casstore.StoreError, match="in the way"):
        assert store.get("m:v1").path
    with model.open("mid") as file:
        assert file.read()
    (root / "mine").unlink()
    assert store.get("m:v1").path == str(root)  # one that is empty is nobody's


def test_deleting_a_version_leaves_a_foreign_directory(store: casstore.Store, model) -> None:
    root = Path(model.path)
    root.rename(root.parent.parent / "moved")  # kept, so that its inode number is not given to the next
    plant(root, {"mine": b"mine"})
    store.delete("m:v1")
    store.gc()
    assert (root / "mine").read_bytes() == b"mine"


def loose_of(home, digest):
    return next((home / "objects/loose").rglob(f"{digest}.*"))


def digest_of(model, path):
    return next(file.digest for file in model.files if file.path == path)


@pytest.mark.parametrize("harm", ["alter", "cut", "remove"])
def test_an_object_that_is_the_only_copy_and_is_harmed(store: casstore.Store, model, home: Path, harm) -> None:
    loose = loose_of(home, digest_of(model, "w.bin"))
    loose.chmod(0o644)
    if harm == "alter":
        with open(loose, "r+b") as file:
            file.seek(BIG // 2)
            file.write(b"!!!!")
    elif harm == "cut":
        os.truncate(loose, BIG // 2)
    else:
        loose.unlink()
        Path(model.path, "w.bin").unlink()
    with pytest.raises(casstore.IntegrityError, match="damaged or missing"):
        assert store.get("m:v1").path
    with pytest.raises(casstore.IntegrityError), model.open("w.bin") as file:
        file.read()
    report = store.verify()
    assert [(damage.tag, damage.path) for damage in report.damage] == [("m:v1", "w.bin")]
    assert report.damaged_tags == ["m:v1"]
    with model.open("mid") as file:
        assert file.read() == noise(100_000, 1)


@pytest.mark.parametrize("harm", ["alter", "remove"])
def test_a_redundant_object_that_is_harmed_is_rebuilt(store: casstore.Store, model, home: Path, expected, harm) -> None:
    """`mid` lives in a pack; its loose file is a copy that directories link to."""
    loose = loose_of(home, digest_of(model, "mid"))
    if harm == "alter":
        loose.chmod(0o644)
        loose.write_bytes(b"altered")
    else:
        loose.unlink()
        Path(model.path, "mid").unlink()
    assert contents(store.get("m:v1")) == expected
    assert not store.verify().damage


def test_reading_after_the_directory_is_gone(store: casstore.Store, model, expected) -> None:
    shutil.rmtree(store.home / "models")
    (store.home / "models").mkdir()
    with model.open("w.bin") as file:
        assert file.seekable()
        assert file.readable()
        assert not file.writable()
        assert file.seek(-10, os.SEEK_END) == BIG - 10
        assert file.read() == noise(BIG)[-10:]
        assert file.read(1) == b""
        assert file.seek(1_048_570) == 1_048_570
        assert file.read(20) == noise(BIG)[1_048_570:1_048_590]
        assert file.seek(BIG + 5) == BIG + 5
        assert file.read() == b""
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)
    assert not (store.home / "models/m").exists(), "nothing was materialized"
    for path in ("nothing", "", "/", "../w.bin", "sub"):
        with pytest.raises(FileNotFoundError, match="m:v1"):
            model.open(path)
    with model.open("empty") as file:
        assert file.read() == b""


def test_the_descriptor_reads_the_same_from_the_catalog(store: casstore.Store, model) -> None:
    with model.open("model.yaml") as file:
        assert file.read() == Path(model.path, "model.yaml").read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, BIG + 10), st.integers(-1, 300_000)), max_size=6))
def test_any_seeks_and_reads_give_what_a_file_would(model, moves) -> None:
    content = noise(BIG)
    with model.open("w.bin") as file:
        for offset, size in moves:
            file.seek(offset)
            assert file.read(size) == (content[offset:] if size < 0 else content[offset : offset + size])


def test_after_another_boot_what_was_not_synced_is_checked(
    store: casstore.Store, home: Path, sql: Sql, files, expected
) -> None:
    with store.create("m:v1", durability="relaxed") as draft:
        plant(draft.path, files)
    root = Path(draft.model.path)
    reboot(sql)
    assert contents(store.get("m:v1")) == expected
    assert sql("SELECT DISTINCT boot_id FROM directory") != [("another boot",)], "checked once a boot"
    status = (root / "mid").stat()
    (root / "mid").chmod(0o644)
    (root / "mid").write_bytes(bytes(100_000))
    os.utime(root / "mid", ns=(status.st_atime_ns, status.st_mtime_ns))  # what a power cut leaves
    reboot(sql)
    assert contents(store.get("m:v1")) == expected


def test_after_another_boot_a_full_save_relies_on_nothing_that_may_be_lost(
    store: casstore.Store, home: Path, sql: Sql
) -> None:
    with store.create("m:v1", durability="relaxed") as draft:
        Path(draft.path, "w.bin").write_bytes(noise(BIG))
    reboot(sql)
    for loose in (home / "objects/loose").rglob("*.*"):
        loose.chmod(0o644)
        loose.write_bytes(bytes(BIG))
    with store.create("m:v2") as draft:
        Path(draft.path, "w.bin").write_bytes(noise(BIG))
    assert contents(store.get("m:v2")) == {"w.bin": noise(BIG)}
    assert not store.verify().damage


def test_a_descriptor_that_a_power_cut_emptied(store: casstore.Store, model, sql: Sql, expected) -> None:
    path = Path(model.path, "model.yaml")
    status, text = path.stat(), path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes(len(text)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    reboot(sql)
    assert contents(store.get("m:v1")) == expected
    assert path.read_bytes() == text


def test_a_power_cut_that_shortened_one_file_and_emptied_another(
    store: casstore.Store, model, sql: Sql, expected
) -> None:
    path = Path(model.path, "model.yaml")
    status, size = path.stat(), path.stat().st_size
    path.chmod(0o644)
    path.write_bytes(bytes(size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    short = Path(model.path, "mid")
    short.unlink()
    short.write_bytes(b"")
    reboot(sql)
    assert contents(store.get("m:v1")) == expected
    assert path.read_bytes().startswith(b"name: m\n")


def reboot(sql):
    for table in ("directory", "container"):
        sql(f"UPDATE {table} SET boot_id = 'another boot' WHERE boot_id IS NOT NULL")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP])
def test_where_hardlinks_fail_files_are_copied(
    store: casstore.Store, monkeypatch: pytest.MonkeyPatch, files, expected, tmp_path: Path, code
) -> None:
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with store.create("m:v1") as draft:
        plant(draft.path, files)
    assert contents(draft.model) == expected
    source = plant(tmp_path / "out", files)
    assert contents(store.save("m:v2", source, move=True)) == expected
    assert not source.exists()
    assert not any(path.stat().st_mode & 0o222 for path in Path(draft.model.path).rglob("*") if path.is_file())
    shutil.rmtree(draft.model.path)
    assert contents(store.get("m:v1")) == expected
    assert store.verify().is_sound
    store.delete("m:v1")
    store.gc()
    assert contents(store.get("m:v2")) == expected


def test_a_link_limit_is_no_error(store: casstore.Store, monkeypatch: pytest.MonkeyPatch, files, expected) -> None:
    real, count = os.link, [0]

    def limited(source, target, **options):
        count[0] += 1
        if os.stat(source).st_nlink >= 3:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        return real(source, target, **options)

    monkeypatch.setattr(os, "link", limited)
    for number in range(6):
        with store.create(f"m:{number}") as draft:
            plant(draft.path, files)
        assert contents(draft.model) == expected
    for model in store.list():
        shutil.rmtree(model.path)
        assert contents(store.get(model.tag)) == expected
    assert store.verify().is_sound


def test_link_mode_copy_links_nothing(store: casstore.Store, home: Path, files, expected) -> None:
    store.set_setting("link_mode", "copy")
    for tag in ("m:v1", "m:v2"):
        with store.create(tag) as draft:
            plant(draft.path, files)
        assert contents(draft.model) == expected
    for path in home.rglob("*"):
        assert not path.is_file() or path.stat().st_nlink == 1, path
    path = Path(draft.model.path, "w.bin")
    path.chmod(0o644)
    path.write_bytes(b"a copy may be spoiled without harm")
    assert contents(store.get("m:v2")) == expected
    assert store.verify().is_sound


VFAT = """
import pathlib, shutil, subprocess, sys
import casstore
image, mount = sys.argv[1:]
subprocess.run(["mount", "-o", "loop", image, mount], check=True)
try:
    with casstore.Store(pathlib.Path(mount, "store")) as store:
        files = {"w.bin": bytes(range(256)) * 8000, "small": b"s"}
        for tag in ("m:1", "m:2"):
            with store.create(tag) as draft:
                for name, content in files.items():
                    pathlib.Path(draft.path, name).write_bytes(content)
        shutil.rmtree(store.get("m:1").path)
        for tag in ("m:1", "m:2"):
            assert {name: pathlib.Path(store.get(tag).path, name).read_bytes() for name in files} == files
        assert store.verify().is_sound
        store.delete("m:1")
        store.gc()
        assert store.get("m:2").open("w.bin").read() == files["w.bin"]
finally:
    subprocess.run(["umount", mount], check=True)
print("done")
"""


def test_a_real_file_system_without_hardlinks(tmp_path: Path) -> None:
    import subprocess

    if os.geteuid() or not shutil.which("mkfs.vfat") or not shutil.which("unshare"):
        pytest.skip("needs root and mkfs.vfat")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
    before = ["unshare", "-m", "--propagation", "private"]
    if subprocess.run([*before, "mount", "-o", "loop", image, mount], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount vfat here")
    result = script(VFAT, image, mount, before=before)
    assert result.returncode == 0, result.stderr


def test_a_home_of_bentoml_becomes_a_store(home: Path) -> None:
    """What BentoML keeps in its home stays, and so do the modes; anything else is a stranger."""
    for name in ("bentos", "models", "envs", "tmp"):
        (home / name).mkdir(parents=True)
    for name in (".yatai.yaml", "client_id", "task_result.db", "task_result.db-wal"):
        (home / name).write_bytes(b"x")
    home.chmod(0o755)
    (home / "models").chmod(0o751)
    (home / "notes").write_bytes(b"x")
    with pytest.raises(casstore.StoreError, match="'notes'"):
        casstore.Store(home)
    (home / "notes").unlink()
    before = {path: path.stat().st_mode for path in [home, *home.iterdir()]}
    with casstore.Store(home) as store:
        assert store.tags() == []
        assert store.verify().is_sound
    assert {path: path.stat().st_mode for path in before} == before
