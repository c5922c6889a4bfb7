"""Reading versions where they are: as a file would read, in few requests and little memory; and what a push brings."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from casstore.remote import reading
from casstore.remote.address import RemoteAddress
from casstore.remote.bucket import Bucket
from casstore.remote.directory import DirectoryBackend
from casstore.remote.pushing import Push
from tests.kit import checkpoint, noise, plant, safetensors, weights
from tests.remote.rewriting import Rewriting, pushed, step
from tests.test_format import Packs, chunks_of

MIB = 1 << 20
BIG = 24 * MIB


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pushed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def remote(template: Path, tmp_path: Path) -> Rewriting:
    shutil.copytree(template, tmp_path / "remote")
    return Rewriting(tmp_path / "remote")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A remote with a version of one file of noise, and another that differs a little from the first in each chunk."""
    root = tmp_path_factory.mktemp("big")
    with casstore.Store(root / "origin") as store:
        store.add_remote("origin", str(root / "remote"))
        with store.create("big:1") as draft:
            plant(draft.path, {"w.bin": noise(BIG)})
        for number in (1, 2):
            with store.create(f"run:{number}") as draft:
                plant(draft.path, {"w": safetensors({"w": ("F32", weights("F32", 3, number, 2_500_000))})})
        store.remote("origin").push()
    return root / "remote"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What is asked for of packs: key, start and length of each range."""
    asked: list[tuple[str, int, int]] = []
    real = DirectoryBackend.get_range

    def get_range(backend: DirectoryBackend, key: str, start: int, length: int) -> bytes:
        if key.startswith("packs/"):
            asked.append((key, start, length))
        return real(backend, key, start, length)

    monkeypatch.setattr(DirectoryBackend, "get_range", get_range)
    return asked


def opened(root: Path, tag: str) -> casstore.RemoteModel:
    return casstore.Remote(str(root)).get(tag)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 620_000), st.integers(-1, 300_000)), max_size=6), st.sampled_from("123"))
def test_any_seeks_and_reads_give_what_a_file_would(template: Path, moves: list[tuple[int, int]], number: str) -> None:
    content = step(int(number))["w.safetensors"]
    with opened(template, f"run:{number}").open("w.safetensors") as file:
        for offset, size in moves:
            assert file.seek(offset) == offset
            assert file.read(size) == (content[offset:] if size < 0 else content[offset : offset + size])
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]


def test_every_file_of_every_version(template: Path) -> None:
    for number in (1, 2, 3):
        model = opened(template, f"run:{number}")
        assert {file.path: model.open(file.path).read() for file in model.files} == step(number)
        with pytest.raises(FileNotFoundError, match=f"run:{number} has no file"):
            model.open("../w.safetensors")


def test_reading_on_takes_few_requests_and_each_byte_once(big: Path, requests: list[tuple[str, int, int]]) -> None:
    pieces = []
    with opened(big, "big:1").open("w.bin") as file:
        while piece := file.read(100_000):
            pieces.append(piece)
    assert b"".join(pieces) == noise(BIG)
    assert len(requests) <= 16
    assert sum(length for _, _, length in requests) <= BIG + 2 * MIB


def test_reading_deltas_takes_few_requests(big: Path, requests: list[tuple[str, int, int]]) -> None:
    """They are two readers, of what they are made of and of what they differ by."""
    with opened(big, "run:2").open("w") as file:
        assert file.read() == safetensors({"w": ("F32", weights("F32", 3, 2, 2_500_000))})
    assert len(requests) <= 24
    packs = {key: (big / key).stat().st_size for key, _, _ in requests}
    assert len(packs) == 2
    assert sum(length for _, _, length in requests) <= 1.1 * sum(packs.values())


def test_weights_take_few_requests(big: Path, requests: list[tuple[str, int, int]]) -> None:
    """As a file that is read from its beginning to its end."""
    (array,) = opened(big, "run:2").state_dict(framework="numpy").values()
    assert np.array_equal(array, weights("F32", 3, 2, 2_500_000))
    assert len(requests) <= 24
    assert sum(length for _, _, length in requests) <= 1.1 * sum((big / key).stat().st_size for key, _, _ in requests)


def test_some_weights_take_their_ranges_alone(tmp_path: Path, requests: list[tuple[str, int, int]]) -> None:
    with casstore.Store(tmp_path / "origin") as store:
        store.add_remote("origin", str(tmp_path / "remote"))
        store.save("run:1", plant(tmp_path / "out", checkpoint(1, size=1_500_000)))
        store.remote("origin").push()
        here = store.get("run:1")
        there = opened(tmp_path / "remote", "run:1")
        found = there.state_dict("layer.1", framework="numpy")
        assert list(found) == ["layer.1"]
        assert sum(length for _, _, length in requests) < 0.7 * here.size
        whole = there.state_dict(framework="numpy")
        assert {name: array.tobytes() for name, array in whole.items()} == {
            each.name: here.tensor(each.name).tobytes() for each in here.tensors()
        }
        with pytest.raises(KeyError, match="no tensor that matches 'none'"):
            there.state_dict("none", framework="numpy")
        with pytest.raises(ValueError, match="framework"):
            there.state_dict(framework="jax")


def test_one_byte_takes_a_chunk_and_no_more(big: Path, requests: list[tuple[str, int, int]]) -> None:
    with opened(big, "big:1").open("w.bin") as file:
        file.seek(BIG // 2)
        assert file.read(1) == noise(BIG)[BIG // 2 : BIG // 2 + 1]
        assert len(requests) == 1
        assert requests[0][2] <= 1_100_000
        file.seek(-1, os.SEEK_CUR)
        file.read(1)
        assert len(requests) == 1
    assert opened(big, "big:1").size == BIG
    assert len(requests) == 1, "to look at a version asks for no chunk"


def test_memory_is_bounded(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_KEPT_BYTES", 6 * MIB)
    model = opened(big, "big:1")
    tracemalloc.start()
    try:
        for _ in range(2):
            with model.open("w.bin") as file:
                while file.read(MIB):
                    pass
        # What is kept, a window that comes, and the chunks that are read ahead.
        assert tracemalloc.get_traced_memory()[1] < (6 + 9 + 10) * MIB
        windows = model._version._windows
        assert sum(len(each.data) for each in windows._kept.values()) == windows._bytes <= 6 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_record_is_named_and_the_others_are_read(remote: Rewriting, place: int) -> None:
    (key,) = {*remote.packs("run:2")} - {*remote.packs("run:1")}
    entry, _ = remote.records(key)[place]
    remote.flip(key, entry.offset + entry.length - 1)
    model = opened(remote.root, "run:2")
    failures = 0
    for path, content in step(2).items():
        try:
            with model.open(path) as file:
                assert file.read() == content
        except casstore.IntegrityError as error:
            failures += 1
            assert f"{path} of run:2 cannot be read" in str(error)
            assert f"chunk {entry.digest} in {key}" in str(error)
            assert "`casstore remote verify --deep`" in str(error)
    assert failures == 1


def test_a_pack_that_was_cut_short_is_read_up_to_there(remote: Rewriting) -> None:
    (key,) = remote.packs("run:1")
    (before,) = (entry for entry, _ in remote.records(key) if entry.raw_bytes == 3000)
    os.truncate(remote.root / key, before.offset + before.length)
    model = opened(remote.root, "run:1")
    assert model.open("own.bin").read() == step(1)["own.bin"]
    with pytest.raises(casstore.IntegrityError, match=f"in {key}.*cut short"):
        model.open("w.safetensors").read()


def repack(remote: Rewriting, tag: str) -> None:
    """Move the packs of a version, as a gc may that packs anew; what names them from now on is another segment."""
    bucket = Bucket.open(RemoteAddress(str(remote.root)).open())
    ref, segment = bucket.version(casstore.Tag.parse(tag))
    moved = []
    for info in segment.packs:
        push, number = f"{int(info.key.split('/')[1], 16) ^ 1:032x}", info.key.split("/")[2]
        moved.append(info._replace(key=f"packs/{push}/{number}"))
        remote.put(moved[-1].key, remote.body(info.key))
    pushing = Push.begin(bucket, [ref.tag], ref.digest)
    again = pushing.put_segment(type(segment)(segment.manifest, moved, segment.chunks))
    bucket.backend.create(bucket.state(ref.tag).next_repacked(ref.tag), again.pack())
    for info in segment.packs:
        (remote.root / info.key).unlink()


@pytest.mark.parametrize("has_read", [False, True])
def test_a_version_that_is_packed_anew_while_it_is_read(remote: Rewriting, has_read: bool) -> None:
    model = opened(remote.root, "run:2")
    with model.open("w.safetensors") as file:
        before = file.read(10) if has_read else b""
        repack(remote, "run:2")
        assert before + file.read() == step(2)["w.safetensors"]
    for path, content in step(2).items():
        assert model.open(path).read() == content


def test_a_version_that_is_deleted_while_it_is_read(remote: Rewriting) -> None:
    model = opened(remote.root, "run:2")
    casstore.Remote(str(remote.root)).delete("run:2")
    assert model.open("own.bin").read() == step(2)["own.bin"]  # its bytes go with a gc
    model = opened(remote.root, "run:3")
    casstore.Remote(str(remote.root)).delete(["run:1", "run:3"])
    casstore.Remote(str(remote.root)).gc()
    with pytest.raises(casstore.TagNotFound, match="run:3 has been deleted from"):
        model.open("own.bin").read()


def test_a_pack_that_is_gone_and_named_still(remote: Rewriting) -> None:
    model = opened(remote.root, "run:2")
    (key,) = {*remote.packs("run:2")} - {*remote.packs("run:1")}
    (remote.root / key).unlink()
    with pytest.raises(casstore.IntegrityError, match=f"{key}.*is gone from.*remote verify"):
        model.open("own.bin").read()


def test_a_line_that_is_cut_for_a_while(remote: Rewriting, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(remote.root, "run:2")
    with monkeypatch.context() as patch:

        def cut(*_: object) -> bytes:
            raise casstore.RemoteError("the line was cut")

        patch.setattr(DirectoryBackend, "get_range", cut)
        file = model.open("w.safetensors")
        with pytest.raises(casstore.RemoteError, match="the line was cut"):
            file.read()
    file.seek(0)
    assert file.read() == step(2)["w.safetensors"]


def chunks_in(root: Path, tags: list[str]) -> set[bytes]:
    """The digests of the chunks that these versions are made of."""
    remote = Rewriting(root)
    found: set[bytes] = set()
    for tag in tags:
        manifest = remote.segment(tag)[1]
        recipes = dict(manifest["recipes"])
        for _, _, size, blob in manifest["files"]:
            named = [digest for digest, _, _ in chunks_of(recipes[blob])] if blob in recipes else [blob] * bool(size)
            found.update(named)
    return found


def prepare_nothing(_: casstore.Store) -> None:
    pass


@pytest.mark.parametrize(
    "prepare",
    [prepare_nothing, lambda store: store.gc(evict_all=True), lambda store: store.remote("origin").push("run:0")],
    ids=["as saved", "as packed", "after another push"],
)
def test_what_is_not_pushed_does_not_go_along(tmp_path: Path, prepare: Callable[[casstore.Store], object]) -> None:
    """Neither as the base of a delta nor beside it in a pack. Every pack is decoded by the reader of the document."""
    secret = noise(9000, 77)
    with casstore.Store(tmp_path / "store") as store:
        store.add_remote("origin", str(tmp_path / "remote"))
        for number in range(5):
            with store.create(f"run:{number}") as draft:
                own = {"secret": secret} if number in (1, 3) else {}
                plant(draft.path, {"w": step(number)["w.safetensors"], **own})
        prepare(store)
        store.remote("origin").push(["run:2", "run:4"])
        remote = Rewriting(tmp_path / "remote")
        tags = [str(ref.tag) for ref in store.remote("origin").list()]
        packs = Packs([remote.root / key for key in remote.keys("packs/")], {})
        assert packs.chunks.keys() == chunks_in(remote.root, tags)
        assert any(row.base for row in packs.rows.values()), "it was no idle exercise"
        private = {file.digest for number in (1, 3) for file in store.get(f"run:{number}").files}
        public = {file.digest for tag in tags for file in store.get(tag).files}
        for body in map(remote.body, remote.keys()):
            assert secret[:64] not in body
            assert not any(bytes(digest) in body for digest in private - public)
    for tag in tags:
        model = opened(remote.root, tag)
        assert model.open("w").read() == step(int(tag[-1]))["w.safetensors"]
