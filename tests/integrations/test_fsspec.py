"""`casstore://` in fsspec: what is read, by which names, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import timezone
from pathlib import Path

import pytest

import casstore
from tests.kit import Child, noise, plant, script

fsspec = pytest.importorskip("fsspec", reason="needs casstore[fsspec]")
abstract = pytest.importorskip("fsspec.tests.abstract", reason="needs casstore[fsspec]")

FILES = {
    "config.json": b'{"hidden": 4}',
    "sub/deep/er.txt": b"one\ntwo\n",
    "sub/odd #1 100%20?.txt": b"odd",
    "sub/größe.txt": b"unicode",
    "sub/a::b": b"colons",
    "w.bin": noise(2_500_000),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a store that no test changes: bert:v1 and bert:v2, with bert@prod at v1."""
    root = tmp_path_factory.mktemp("fsspec")
    with casstore.Store(root / "home") as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Windows cannot hold")
        store.save("bert:v1", plant(root / "out", FILES))
        store.save("bert:v2", plant(root / "out", {"config.json": b'{"hidden": 8}'}))
        store.set_alias("bert@prod", "bert:v2")
        store.set_alias("bert@prod", "bert:v1")
    return root / "home"


@pytest.fixture
def fs(place: Path):
    return fsspec.filesystem("casstore", home=str(place))


def test_the_root_lists_versions(fs) -> None:
    assert fs.ls("", detail=False) == fs.ls("casstore://", detail=False) == ["bert:v2", "bert:v1"]
    first = fs.ls("")[0]
    assert first == fs.info("bert:v2")
    assert (first["name"], first["type"], first["size"], first["tag"]) == ("bert:v2", "directory", 0, "bert:v2")
    assert fs.isdir("")
    assert fs.isdir("casstore://bert:v1/")


def test_a_version_is_a_tree(fs, place: Path) -> None:
    assert fs.ls("bert:v1", detail=False) == ["bert:v1/config.json", "bert:v1/sub", "bert:v1/w.bin"]
    assert fs.ls("casstore://bert:v1/sub/deep/", detail=False) == ["bert:v1/sub/deep/er.txt"]
    assert fs.ls("bert:v1/w.bin") == [fs.info("bert:v1/w.bin")]
    assert sorted(fs.find("bert:v1")) == sorted(f"bert:v1/{path}" for path in FILES)
    assert fs.du("bert:v1") == sum(map(len, FILES.values()))
    info = fs.info("bert:v1/config.json")
    model = casstore.store_at(place).get("bert:v1")
    assert info == {
        "name": "bert:v1/config.json", "size": 13, "type": "file", "mode": 0o444, "tag": "bert:v1",
        "created": model.created_at.timestamp(), "mtime": model.created_at.timestamp(),
        "blake3": str(model.files[0].digest),
    }  # fmt: skip
    assert fs.info("bert:v1/sub")["type"] == "directory"
    assert fs.created("bert:v1/sub") == fs.modified("bert:v1") == model.created_at
    assert fs.created("bert:v1").tzinfo is timezone.utc


def test_empty_directories_are_there(store: casstore.Store, tmp_path: Path) -> None:
    source = plant(tmp_path / "out", {"w": b"1", "logs": None, "sub/also/empty": None, "sub/a": b"1"})
    assert store.save("m:1", source).empty_directories == ("logs", "sub/also/empty")
    fs = fsspec.filesystem("casstore", home=str(store.home))
    assert fs.ls("m:1", detail=False) == ["m:1/logs", "m:1/sub", "m:1/w"]
    assert fs.ls("m:1/sub", detail=False) == ["m:1/sub/a", "m:1/sub/also"]
    assert fs.ls("m:1/logs") == fs.ls("m:1/sub/also/empty") == []
    assert fs.find("m:1") == ["m:1/sub/a", "m:1/w"]
    fs.get("m:1/", str(tmp_path / "got/"), recursive=True)
    assert sorted(os.listdir(tmp_path / "got")) == ["logs", "sub", "w"]


@pytest.mark.filterwarnings("ignore:Windows cannot hold")
def test_no_directory_is_made(store: casstore.Store, tmp_path: Path) -> None:
    store.save("m:1", plant(tmp_path / "out", FILES), materialize=False)
    ours = fsspec.filesystem("casstore")
    assert ours.cat("m:1", recursive=True) == {f"m:1/{path}": raw for path, raw in FILES.items()}
    assert ours.open("m:1/w.bin").read() == FILES["w.bin"]
    assert not (store.home / "models/m").exists()


def test_the_descriptor_is_read_and_not_listed(fs) -> None:
    assert not fs.glob("bert:v1/*.yaml")
    raw = fs.cat("bert:v1/model.yaml")
    assert b"version: v1" in raw
    assert fs.info("bert:v1/model.yaml")["size"] == len(raw)
    assert fs.ukey("bert:v1/model.yaml") == str(casstore.Digest.of(raw))


@pytest.mark.parametrize(
    ("reference", "tag"),
    [("bert", "v2"), ("bert:latest", "v2"), ("bert@prod", "v1"), ("bert@prod~1", "v2"), ("bert:v1", "v1")],
)
def test_versions_have_the_names_that_they_have_elsewhere(fs, reference: str, tag: str) -> None:
    assert fs.info(f"casstore://{reference}/config.json")["tag"] == f"bert:{tag}"
    assert fs.cat(f"casstore://{reference}/config.json") == {"v1": b'{"hidden": 4}', "v2": b'{"hidden": 8}'}[tag]
    assert fs.ls(reference, detail=False)[0] == f"{reference}/config.json"


def test_glob_over_versions(fs) -> None:
    assert fs.glob("casstore://bert:*/config.json") == ["bert:v1/config.json", "bert:v2/config.json"]
    assert fs.glob("bert:v1/**/*.txt", maxdepth=2) == ["bert:v1/sub/größe.txt", "bert:v1/sub/odd #1 100%20?.txt"]
    opened = fsspec.open_files("casstore://bert:*/config.json", home=fs.storage_options["home"])
    assert [json.load(file)["hidden"] for file in (each.open() for each in opened)] == [4, 8]


@pytest.mark.parametrize("path", FILES)
def test_files_are_read(fs, path: str) -> None:
    whole = FILES[path]
    with fs.open(f"bert:v1/{path}") as file:
        assert file.read() == whole
        assert file.seek(-2, os.SEEK_END) == len(whole) - 2
        assert file.read() == whole[-2:]
    if path != "sub/a::b":  # where a URL would be a chain
        with fsspec.open(f"casstore://bert:v1/{path}", home=fs.storage_options["home"]) as file:
            assert file.read() == whole
    for start, end in [(None, None), (0, 2), (2, None), (-3, None), (None, -1), (1, 10**9), (5, 2), (-(10**9), 1)]:
        assert fs.cat_file(f"bert:v1/{path}", start, end) == whole[start:end], (start, end)


def test_text_and_compression_are_as_everywhere(fs, store: casstore.Store, tmp_path: Path) -> None:
    with fs.open("bert:v1/sub/deep/er.txt", "r") as file:
        assert list(file) == ["one\n", "two\n"]
    with fsspec.open(tmp_path / "t.csv.gz", "wb", compression="gzip") as file:
        file.write(b"a,b")
    store.save("table:v1", tmp_path / "t.csv.gz")
    with fsspec.open("casstore://table/t.csv.gz", "r", compression="infer") as file:
        assert file.read() == "a,b"


def test_many_are_read_together(fs) -> None:
    assert fs.cat("bert:v1", recursive=True) == {f"bert:v1/{path}": raw for path, raw in FILES.items()}
    assert fs.cat(["bert:v2/config.json", "bert@prod/config.json"]) == {
        "bert:v2/config.json": b'{"hidden": 8}', "bert@prod/config.json": b'{"hidden": 4}',
    }  # fmt: skip
    paths = ["bert:v1/config.json", "bert:v1/nothing", "none:v1/x", "bert:v1/model.yaml"]
    with pytest.raises(FileNotFoundError):
        fs.cat(paths)
    assert sorted(fs.cat(paths, on_error="omit")) == ["bert:v1/config.json", "bert:v1/model.yaml"]
    returned = fs.cat(paths, on_error="return")
    assert [type(returned[path]) for path in paths] == [bytes, FileNotFoundError, FileNotFoundError, bytes]


def test_ranges_of_files(fs) -> None:
    paths = ["bert:v1/w.bin", "bert:v1/config.json", "casstore://bert:v1/w.bin", "bert:v1/nothing"]
    whole = FILES["w.bin"]
    found = fs.cat_ranges(paths, [2_000_000, 0, None, 0], [2_000_100, 3, 10, 1])
    assert found[:3] == [whole[2_000_000:2_000_100], b'{"h', whole[:10]]
    assert isinstance(found[3], FileNotFoundError)
    assert fs.cat_ranges(paths[:2], 1, 3) == [whole[1:3], b'"h']
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, 0, 1, on_error="raise")
    with pytest.raises(ValueError, match="4 paths need as many starts and ends, not 4 and 3"):
        fs.cat_ranges(paths, 0, [1, 2, 3])


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("bert:v9/config.json", FileNotFoundError, "there is no bert:v9 in this store; did you mean bert:v"),
        ("bert:99999/config.json", FileNotFoundError, "there is no bert:99999"),
        ("bert@gone/config.json", FileNotFoundError, "there is no alias bert@gone"),
        ("bert:/config.json", FileNotFoundError, "ends in ':'"),
        ("bert:v/config.json", FileNotFoundError, "bert:v could be bert:v2, bert:v1"),
        ("be rt/config.json", FileNotFoundError, "'be-rt' would do"),
        ("me:secret@bert/config.json", FileNotFoundError, "cannot be a version"),
        ("größe/x", FileNotFoundError, "cannot be a name"),
        ("bert:v1/nothing", FileNotFoundError, "bert:v1 has no file 'nothing'"),
        ("bert:v1/config.json/more", FileNotFoundError, "has no file 'config.json/more'"),
        ("bert:v1/sub/../config.json", FileNotFoundError, "has no file 'sub/../config.json'"),
        ("bert:v1/config%2Ejson", FileNotFoundError, "did you mean 'config.json'. .*nothing is percent-encoded"),
        ("bert:v1/config.json#part", FileNotFoundError, "did you mean 'config.json'. .*'#' are letters like others"),
        ("bert:v1/config.json?download=1", FileNotFoundError, "did you mean 'config.json'. .*'.' and"),
        ("bert:v1/\0", FileNotFoundError, "has no file"),
        ("", IsADirectoryError, "name a version and a file in it"),
        ("bert:v1", IsADirectoryError, "a directory of bert:v1"),
        ("bert:v1/sub/", IsADirectoryError, "a directory of bert:v1"),
    ],
)
def test_urls_with_odd_parts_are_told_what_is_wrong(fs, url: str, error: type[OSError], text: str) -> None:
    for read in (fs.open, fs.cat_file):
        with pytest.raises(error, match=text) as caught:
            read(f"casstore://{url}")
        assert caught.value.errno == {FileNotFoundError: errno.ENOENT, IsADirectoryError: errno.EISDIR}[error]
    assert fs.exists(url) is (error is IsADirectoryError)
    assert not fs.isfile(url)


@pytest.mark.parametrize(
    "url", ["casstore:///bert:v1/config.json", "casstore://bert:v1//config.json/", "/bert:v1/config.json"]
)
def test_slashes_too_many_are_passed_over(fs, url: str) -> None:
    assert fs.cat(url) == FILES["config.json"]


def test_nothing_follows_in_a_chain(fs) -> None:
    with pytest.raises(ValueError, match="'::' stands before what casstore:// is read through"):
        fsspec.open("casstore://bert:v1/sub/a::b", home=fs.storage_options["home"])


@pytest.mark.parametrize(
    "write",
    [
        lambda fs: fs.open("bert:v1/new", "wb"),
        lambda fs: fs.open("bert:v1/config.json", "a"),
        lambda fs: fs.open("bert:v1/config.json", "r+b"),
        lambda fs: fs.open("bert:v1/new", "xb"),
        lambda fs: fs.pipe("bert:v1/new", b"x"),
        lambda fs: fs.put(__file__, "bert:v1/new"),
        lambda fs: fs.touch("bert:v1/new"),
        lambda fs: fs.mkdir("new:v1"),
        lambda fs: fs.makedirs("new:v1/sub", exist_ok=True),
        lambda fs: fs.rm("bert:v1", recursive=True),
        lambda fs: fs.rm_file("bert:v1/config.json"),
        lambda fs: fs.rmdir("bert:v1"),
        lambda fs: fs.mv("bert:v1/config.json", "bert:v1/x"),
        lambda fs: fs.cp("bert:v1/config.json", "bert:v1/x"),
        lambda fs: fs.get_mapper("bert:v1").update(x=b"x"),
    ],
)
def test_nothing_is_written(fs, place: Path, write) -> None:
    with pytest.raises(OSError, match=r"read-only, and saved versions never change: .*store\.create") as caught:
        write(fs)
    assert caught.value.errno == errno.EROFS
    assert casstore.store_at(place).get("bert:v1").file_count == len(FILES)


def test_damage_is_never_handed_out(fs, store: casstore.Store, tmp_path: Path) -> None:
    store.save("m:1", plant(tmp_path / "out", {"a": noise(50_000, 1), "b": noise(50_000, 2)}))
    store.gc(evict_all=True)
    for path in (store.home / "objects/packs").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes().replace(noise(50_000, 1)[20_000:21_000], bytes(1000)))
    ours = fsspec.filesystem("casstore")
    for read in (lambda: ours.cat("m:1/a"), lambda: ours.cat("m:1", recursive=True), lambda: ours.open("m:1/a").read()):
        with pytest.raises(casstore.IntegrityError, match="a of m:1 cannot be read"):
            read()
    found = ours.cat("m:1", recursive=True, on_error="return")
    assert found["m:1/b"] == noise(50_000, 2)
    assert isinstance(found["m:1/a"], casstore.IntegrityError)


def test_the_home_is_that_of_the_moment(fs, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fsspec.filesystem("casstore")
    with pytest.raises(casstore.StoreNotFound):
        ours.ls("")
    assert not home.exists()
    monkeypatch.setenv("CASSTORE_HOME", str(place))
    assert ours.ls("", detail=False) == fs.ls("", detail=False)
    assert ours.fsid == fs.fsid == f"casstore:{place}"


def test_new_versions_are_seen_at_once(store: casstore.Store, tmp_path: Path) -> None:
    ours = fsspec.filesystem("casstore")
    for number in (1, 2):
        store.save(f"m:{number}", plant(tmp_path / "out", {"w": b"weights %d" % number}))
        assert ours.cat("casstore://m/w") == b"weights %d" % number
    store.delete("m:2")
    assert ours.cat("casstore://m/w") == b"weights 1"
    assert not ours.exists("m:2/w")
    store.save("m:2", plant(tmp_path / "out", {"w": b"others"}))
    assert ours.cat("m:2/w") == b"others"


def test_a_store_that_was_put_back_is_read(home: Path, tmp_path: Path) -> None:
    """From a copy: its versions are the same, and the files that this process has open are not."""
    with casstore.Store(home) as store:
        store.save("m:1", plant(tmp_path / "out", {"w": b"weights"}))
    ours = fsspec.filesystem("casstore")
    assert ours.cat("m:1/w") == b"weights"
    shutil.copytree(home, tmp_path / "copy")
    shutil.rmtree(home)
    (tmp_path / "copy").rename(home)
    assert ours.cat("m:1/w") == b"weights"
    assert ours.info("m:1/w")["size"] == 7


def test_it_can_be_sent(fs, place: Path) -> None:
    for sent in (
        pickle.loads(pickle.dumps(fs)), fsspec.AbstractFileSystem.from_json(fs.to_json()),
        pickle.loads(pickle.dumps(fsspec.filesystem("casstore", home=place))),
    ):  # fmt: skip
        assert sent.cat("bert:v1/config.json") == FILES["config.json"]
    opened = pickle.loads(pickle.dumps(fsspec.open("casstore://bert:v1/config.json", home=str(place))))
    with opened as file:
        assert file.read() == FILES["config.json"]


def test_threads_and_forks_read_from_one_store(fs, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.cat("bert:v1/config.json")
    monkeypatch.setattr("casstore.opening.Store", None)  # it is open

    def read(number: int) -> bytes:
        own = fsspec.filesystem("casstore", home=str(place))
        return own.cat(f"bert:v{number % 2 + 1}/config.json") + fs.cat("bert:v1/w.bin")

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, range(16))) == {b'{"hidden": %d}' % n + FILES["w.bin"] for n in (4, 8)}
    assert Child(lambda: read(0) != FILES["config.json"] + FILES["w.bin"]).wait() == 0


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of fsspec's own caches
def test_caches_compare_content(store: casstore.Store, tmp_path: Path) -> None:
    options = {"filecache": {"cache_storage": str(tmp_path / "cache"), "check_files": True}}
    for content in (b"one", b"two"):
        store.save("m:1", plant(tmp_path / "out", {"w": content}))
        assert Path(fsspec.open_local("filecache::casstore://m:1/w", **options)).read_bytes() == content
        with fsspec.open(
            "simplecache::casstore://m:1/w", simplecache={"cache_storage": str(tmp_path / "c" / content.decode())}
        ) as file:
            assert file.read() == content
        kept = fsspec.filesystem("casstore").ukey("m:1/w")
        assert kept == str(casstore.Digest.of(content))
        assert fsspec.filesystem("casstore").checksum("m:1/w") == int(kept, 16)
        store.delete("m:1")


def test_versions_of_remotes(store: casstore.Store, tmp_path: Path) -> None:
    store.add_remote("nas", str(tmp_path / "nas"))
    store.save("m:1", plant(tmp_path / "out", {"w": b"weights"}))
    store.save("m:2", tmp_path / "out")
    with store.remote() as remote:
        remote.push("m:1")
    store.evict("m:1", to_remote="nas")
    assert not fsspec.filesystem("casstore", pull=False).exists("m:1/w")
    assert fsspec.filesystem("casstore").ls("", detail=False) == ["m:2"]
    assert fsspec.filesystem("casstore").cat("m:1/w") == b"weights"
    assert sorted(store.tags()) == ["m:1", "m:2"]


class TestGet(abstract.AbstractFixtures, abstract.AbstractGetTests):  # type: ignore[misc, name-defined]
    """fsspec's own tests of reading; its others write."""

    test_get_directory_recursive = None  # makes its source by writing

    @pytest.fixture
    def fs(self, store: casstore.Store):
        return fsspec.filesystem("casstore", home=str(store.home))

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self) -> str:
        return "scenario:v1"

    @pytest.fixture
    def fs_target(self) -> str:
        return "scenario:v1/target"

    def _saved(self, store: casstore.Store, tmp_path: Path, plan) -> str:
        plan(fsspec.filesystem("file", auto_mkdir=True), os.path.join, str(tmp_path / "scenario"))
        store.save("scenario:v1", tmp_path / "scenario")
        return "scenario:v1/source"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, store, tmp_path) -> str:
        return self._saved(store, tmp_path, self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, store, tmp_path) -> str:
        return self._saved(store, tmp_path, self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, store, tmp_path) -> str:
        return self._saved(store, tmp_path, self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, store, tmp_path) -> str:
        return self._saved(store, tmp_path, self._10_files_with_hashed_names)


def test_fsspec_finds_it_by_its_entry_point() -> None:
    done = script("import sys, fsspec; print([each for each in sys.modules if each.startswith('casstore')])")
    assert done.stdout == "[]\n", done.stderr  # it is imported when it is used
    assert fsspec.get_filesystem_class("casstore").__module__ == "casstore.integrations.fsspec"
