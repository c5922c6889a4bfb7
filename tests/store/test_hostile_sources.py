"""Sources and files made to take all memory or all time: each is refused at once, by an error that says what it is."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

import casstore
from casstore.storage.manifest import Manifest
from tests.kit import Picture, Save, plant, script

pytestmark = pytest.mark.crash

# In a process of its own, which is killed where it reads on: nothing of the test's own could stop it.
SAVE = """
import resource, signal, sys
import casstore
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
signal.alarm(60)
home, source = sys.argv[1:]
with casstore.Store(home) as store:
    try:
        store.save("m:1", source)
    except casstore.InvalidSource as error:
        print(error)
"""


@pytest.fixture
def refused(home: Path, tmp_path: Path):
    """refused(): what a save of tmp_path / "source" says against it."""

    def run():
        done = script(SAVE, home, tmp_path / "source")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.mark.parametrize("name", ["model.yaml", "w.bin", "sub/model.yaml"])
@pytest.mark.parametrize("kind", ["zero", "fifo", "linked fifo", "directory"])
def test_what_is_no_file_is_not_read(refused, tmp_path: Path, kind, name) -> None:
    source = plant(tmp_path / "source", {"x": b"x", "sub/y": b"y"})
    if kind == "zero":
        (source / name).symlink_to("/dev/zero")
        assert f"{source / name} is a character device" in refused()
    elif kind == "fifo":
        os.mkfifo(source / name)
        assert f"{source / name} is a named pipe" in refused()
    elif kind == "linked fifo":
        os.mkfifo(tmp_path / "fifo")
        (source / name).symlink_to(tmp_path / "fifo")
        assert f"{source / name} is a named pipe" in refused()
    else:
        name = name.replace("model.yaml", "models")  # a directory by that name is refused as such
        (source / name).symlink_to(".")
        assert f"{source / name} is a link to a directory that contains it" in refused()


def linked_levels(source, levels, ways):
    """Each of these directories has links to the next: there are ways ** (levels - 1) paths to the last."""
    for level in range(levels):
        directory = source / f"{level}"
        directory.mkdir(parents=True)
        for way in range(ways if level + 1 < levels else 0):
            (directory / f"to-{way}").symlink_to(f"../{level + 1}")
    (source / f"{levels - 1}" / "f").write_bytes(b"x")


@pytest.mark.parametrize(("levels", "ways"), [(30, 2), (9, 5)])
def test_directories_that_are_linked_in_very_many_ways(refused, tmp_path: Path, levels, ways) -> None:
    linked_levels(tmp_path / "source", levels, ways)
    assert "links lead to" in refused()


def test_directories_that_are_linked_in_some_ways_are_saved(store: casstore.Store, tmp_path: Path) -> None:
    linked_levels(tmp_path / "source", 5, 2)
    model = store.save("m:1", tmp_path / "source")
    assert sum(file.path.endswith("/f") for file in model.files) == 2**5 - 1
    assert {file.digest for file in model.files} == {casstore.Digest.of(b"x")}


def row_of(item, count):
    return b"\xdd" + count.to_bytes(4, "big") + msgpack.packb(item) * count


@pytest.mark.parametrize(
    "packed",
    [
        row_of([[]] * 15, 1_000_000),
        row_of([{}] * 15, 1_000_000),
        row_of(["ab"] * 15, 300_000),
        row_of([1 << 40] * 15, 200_000),
    ],
    ids=["lists", "maps", "words", "numbers"],
)
@pytest.mark.parametrize("where", ["document", "field", "recipe"])
def test_small_things_in_a_manifest_are_counted(packed, where) -> None:
    """Each takes a byte or some in the manifest, and some sixty in memory."""
    if where == "field":
        packed = b"\x81" + msgpack.packb("a") + packed
    elif where == "recipe":
        fields = {"format": 1, "requires": [], "hash": "blake3-256", "base": None, "name": "m", "version": "1"}
        fields |= {"created_at": 1, "files": [], "directories": [], "recipes": [[b"d" * 32, packed]]}
        packed = msgpack.packb(fields)
    bomb = zstandard.compress(packed)
    assert len(bomb) < 32 << 10
    with pytest.raises(casstore.IntegrityError, match="more items"):
        Manifest.unpack(bomb)


def test_a_manifest_of_a_few_kilobytes_takes_no_hundreds_of_megabytes(
    store: casstore.Store, home: Path, save: Save
) -> None:
    save("m:0", {"f": b"f"})
    save("m:1", {"f": b"x"})
    (path,) = (home / "manifests/m").glob("1.*")
    bomb = zstandard.compress(row_of(None, (64 << 20) - 5))
    path.chmod(0o644)
    path.write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(casstore.IntegrityError):
            Manifest.unpack(bomb)
        assert len(store.verify(quick=True).damaged_copies) == 1
        store.close()
        report = casstore.Store.rebuild_catalog(home)
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()
    assert report.tags == ("m:0",)
    assert len(report.unreadable) == 1


def test_a_manifest_that_claims_to_have_shrunk_a_thousandfold_is_not_decompressed(
    store: casstore.Store, home: Path, save: Save
) -> None:
    save("m:1", {"f": b"x"})
    (path,) = (home / "manifests/m").glob("1.*")
    size = 400 << 20
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj(size=size)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)) + compressor.flush()
    path.chmod(0o644)
    path.write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(casstore.IntegrityError):
            Manifest.unpack(bomb)
        assert len(store.verify(quick=True).damaged_copies) == 1
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["labels", "metadata", "options", "context", "signatures"])
def test_what_is_said_of_a_version_has_a_limit(store: casstore.Store, save: Save, picture: Picture, field) -> None:
    """Of 16 MB of text, which is no place for data: a manifest is read whole wherever its version is looked at."""
    before = picture()
    values: dict[str, Any] = {"a": "x" * 16_000_000}
    if field == "signatures":
        values = {"predict": {"input_spec": values}}
    with pytest.raises(casstore.InvalidMetadata, match="16 MB at most"):
        save("m:1", {"f": b"x"}, **{field: values})
    assert picture() == before


def test_what_stays_within_the_limit_comes_back(store: casstore.Store, save: Save) -> None:
    save("m:1", {"f": b"x"}, metadata={"a": "x" * 15_000_000})
    assert store.get("m:1").metadata == {"a": "x" * 15_000_000}
