"""A remote that somebody else has written by hand, each digest in it fitting what he wrote.

Whatever it says, nothing of it becomes visible in the store or is written elsewhere, the error names the object, what
else stands in the remote can be had, and gc removes nothing when it cannot tell.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

import casstore
from casstore.digest import Digest
from casstore.remote import keys
from casstore.remote.documents import PushEnd, PushOpen
from casstore.storage.pack import EncodedChunk
from tests.kit import contents, everything, plant
from tests.remote.rewriting import Rewriting, pack_of, pushed, step

pytestmark = pytest.mark.crash

TAG = "run:2"
TRILLION = 1 << 40
NOT_THERE = "0" * 32
BOMB = zstandard.compress(bytes(1 << 28))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pushed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def remote(template: Path, tmp_path: Path) -> Rewriting:
    shutil.copytree(template, tmp_path / "remote")
    return Rewriting(tmp_path / "remote")


@pytest.fixture
def store(tmp_path: Path, remote: Rewriting) -> Iterator[casstore.Store]:
    with casstore.Store(tmp_path / "store") as opened:
        opened.add_remote("origin", str(remote.root))
        yield opened


def read_all(there: casstore.Remote) -> None:
    model = there.get(TAG)
    for file in model.files:
        model.open(file.path).read()


def check_out(there: casstore.Remote) -> None:
    with tempfile.TemporaryDirectory() as root:
        try:
            there.get(TAG).checkout(f"{root}/out")
        except Exception:
            assert not list(Path(root).rglob(".casstore-*"))
            raise
        finally:
            assert {*os.listdir(root)} <= {"out"}


VERBS: dict[str, Callable[[casstore.Remote], Any]] = {
    "list": lambda there: there.list(),
    "status": lambda there: there.status(),
    "get": lambda there: there.get(TAG),
    "read": read_all,
    "checkout": check_out,
    "pull": lambda there: there.pull(TAG),
    "verify": lambda there: there.verify(deep=True),
    "gc": lambda there: there.gc(),
}
VERSION = {"get", "read", "checkout", "pull"}
REF = {*VERSION, "list", "status", "gc"}


def check(store: casstore.Store, remote: Rewriting, refusing: set[str], named: str, *, is_found: bool = True) -> None:
    """The verbs that refuse do so by that name, and `verify` finds the damage; the others do what they do."""
    before = remote.keys()
    others = {remote.ref(tag)["segment"] for tag in ("run:1", "run:3")}
    needed = {*others, *remote.packs("run:1"), *remote.packs("run:3"), *remote.keys("refs/"), keys.MARKER}
    for verb, run in VERBS.items():
        if verb in refusing:
            with pytest.raises(casstore.CasstoreError, match=named) as caught:
                run(store.remote("origin"))
            assert isinstance(caught.value, casstore.IntegrityError | casstore.InvalidSource), verb
        else:
            report = run(store.remote("origin"))
            if verb == "verify":
                assert report.ok == (not is_found), report
                assert not is_found or re.search(named, "\n".join(report.damage)), report
                assert report.tags == ((TAG,) if is_found else ())
    if "pull" in refusing:
        assert store.tags() == []
        assert not any((store.home / "models").iterdir())
        assert store.verify().is_sound
    assert contents(store.remote("origin").pull("run:3")[0].model) == step(3)
    left = {*remote.keys()}
    assert {key for key in needed if key in before} <= left
    assert "gc" not in refusing or {*before} <= left
    assert {path.name for path in remote.root.parent.iterdir()} <= {"store", "remote", "origin"}
    assert not Path("/tmp/evil").exists()


def rewrite_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Rewriting], None]:
    return lambda remote: remote.resegment(TAG, lambda sections: change(sections[1]))


def rename_file(path: str) -> Callable[[Rewriting], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][0][0] = path
        manifest["files"].sort(key=lambda row: row[0].encode())

    return rewrite_manifest(change)


def column(number: int, row: int, value: int) -> Callable[[Rewriting], None]:
    def change(sections: list[Any]) -> None:
        sections[2][number][row] = value

    return lambda remote: remote.resegment(TAG, change)


def lengthen_recipe(manifest: dict[str, Any]) -> None:
    (blob, packed) = manifest["recipes"][0]
    plan, size, segments = msgpack.unpackb(packed)
    segments[0][4][0] = 17 << 20
    manifest["recipes"][0] = [blob, msgpack.packb([plan, size + (17 << 20), segments])]


def add_recipe_of_nowhere(manifest: dict[str, Any]) -> None:
    manifest["files"][0][2:] = [7, Digest.of(b"nowhere")]


def grow_file(manifest: dict[str, Any]) -> None:
    manifest["files"][0][2] += 1


SEGMENT = r"segments/[0-9a-f]{32}/\d+"
OF_SEGMENT: dict[str, Callable[[Rewriting], None]] = {
    "a path that leads up": rename_file("../../evil"),
    "a path from the root": rename_file("/tmp/evil"),
    "a path within that leads up": rename_file("a/../../evil"),
    "a path with a NUL": rename_file("a\0b"),
    "the descriptor's path": rename_file("model.yaml"),
    "a file that is a directory": rename_file("own.bin/x"),
    "another tag": rewrite_manifest(lambda manifest: manifest.update(version="9")),
    "a tag that leads up": rewrite_manifest(lambda manifest: manifest.update(name="..")),
    "a recipe that does not add up": rewrite_manifest(lengthen_recipe),
    "a chunk that is nowhere": rewrite_manifest(add_recipe_of_nowhere),
    "a file of another size": rewrite_manifest(grow_file),
    "a newer manifest": rewrite_manifest(lambda manifest: manifest.update(requires=["sparse"])),
    "no manifest": lambda remote: remote.resegment(TAG, lambda sections: sections.__setitem__(1, [])),
    "a pack out of range": column(1, 0, 5),
    "a record before the pack": column(2, 0, -17),
    "a record behind the pack": column(2, 0, 1 << 30),
    "a record that is all of a large pack": column(3, 4, 1 << 39),
    "a chunk of another length": column(4, 0, 2),
    "a delta that is its own base": column(6, 4, 5),
    "a delta without a base": column(6, 4, 0),
    "a base out of range": column(6, 4, 100),
    "no columns": lambda remote: remote.resegment(TAG, lambda sections: sections.__setitem__(2, [b""])),
    "a bomb": lambda remote: remote.resegment(TAG, lambda sections: sections.__setitem__(2, BOMB)),
}  # fmt: skip


@pytest.mark.parametrize("attack", OF_SEGMENT)
def test_segments(store: casstore.Store, remote: Rewriting, attack: str) -> None:
    OF_SEGMENT[attack](remote)
    check(store, remote, VERSION, SEGMENT)


def test_packs_that_a_segment_cannot_name(store: casstore.Store, remote: Rewriting) -> None:
    """Then gc cannot tell what is needed."""
    remote.resegment(TAG, lambda sections: sections[0][0].__setitem__(1, -1))
    check(store, remote, {*VERSION, "gc"}, SEGMENT)


@pytest.mark.parametrize("path", ["a/" * 300 + "x", "a" * 256])
def test_paths_that_no_file_system_takes(store: casstore.Store, remote: Rewriting, path: str) -> None:
    """They can be read in the remote, and are refused where files would be made of them."""
    rename_file(path)(remote)
    check(store, remote, {"checkout", "pull"}, SEGMENT, is_found=False)


def swap_chunks(sections: list[Any]) -> None:
    """The chunks of the one file that has several, in another order: each is sound, and said to be where it is."""
    blob, packed = sections[1]["recipes"][0]
    plan, size, segments = msgpack.unpackb(packed)
    sections[1]["recipes"][0] = [blob, msgpack.packb([plan, size, segments[::-1]])]
    places, before = [], (None, 0)
    for pack, gap, length in zip(*sections[2][1:4], strict=True):
        start = (before[1] if pack == before[0] else 16) + gap
        before = (pack, start + length)
        places.append((pack, start, length))
    order = [0, 1, 2, 4, 3, 5]
    for column in sections[2][1:]:
        column[:] = [column[row] for row in order]
    before = (None, 0)
    for row, (pack, start, length) in enumerate(places[row] for row in order):
        sections[2][2][row] = start - (before[1] if pack == before[0] else 16)
        before = (pack, start + length)


def test_sound_chunks_that_make_another_file(store: casstore.Store, remote: Rewriting) -> None:
    """Where each chunk is checked, and not the whole, it is read; it must not be taken for the file of that digest."""
    remote.resegment(TAG, swap_chunks)
    check(store, remote, {"checkout", "pull"}, SEGMENT, is_found=False)


def point_to(tag: str) -> Callable[[Rewriting], None]:
    def change(remote: Rewriting) -> None:
        ref = remote.ref(tag)
        named = {name: ref[name] for name in ("segment", "segment_check", "segment_bytes", "push")}
        remote.say(remote.ref_key(TAG), **named)

    return change


REF_KEY = "refs/run/2/0"
OF_REF: dict[str, Callable[[Rewriting], None]] = {
    "another tag": lambda remote: remote.put(REF_KEY, remote.body("refs/run/1/0")),
    "a name that leads up": lambda remote: remote.say(REF_KEY, name=".."),
    "the segment of another push": lambda remote: remote.say(REF_KEY, segment=remote.ref("run:1")["segment"]),
    "a segment that leads up": lambda remote: remote.say(REF_KEY, segment="segments/../../../etc/passwd"),
    "a segment that is no segment": lambda remote: remote.say(REF_KEY, segment="casremote"),
    "no digest": lambda remote: remote.say(REF_KEY, digest="x"),
    "labels of numbers": lambda remote: remote.say(REF_KEY, labels={"a": 1}),
    "a newer release": lambda remote: remote.say(REF_KEY, requires=["sparse"]),
    "another check": lambda remote: remote.put(REF_KEY, remote.body(REF_KEY).replace(b'"size":', b'"size":1')),
    "nothing": lambda remote: remote.put(REF_KEY, b""),
    "deep": lambda remote: remote.put(REF_KEY, b"[" * 500_000),
    "a trillion bytes": lambda remote: os.truncate(remote.root / REF_KEY, TRILLION),
}


@pytest.mark.parametrize("attack", OF_REF)
def test_refs(store: casstore.Store, remote: Rewriting, attack: str) -> None:
    OF_REF[attack](remote)
    check(store, remote, REF, REF_KEY)


OF_BOTH: dict[str, Callable[[Rewriting], None]] = {
    "the segment of another version": point_to("run:1"),
    "another digest": lambda remote: remote.say(REF_KEY, digest=str(Digest.of(b""))),
    "another manifest": lambda remote: remote.say(REF_KEY, manifest=str(Digest.of(b""))),
    "another size of segment": lambda remote: remote.say(REF_KEY, segment_bytes=5),
}


@pytest.mark.parametrize("attack", OF_BOTH)
@pytest.mark.parametrize("is_known", [False, True], ids=["new", "known"])
def test_refs_and_segments_that_do_not_fit(
    store: casstore.Store, remote: Rewriting, attack: str, is_known: bool
) -> None:
    if is_known:  # then what it names need not be read again
        store.remote("origin").pull("run:1")
        store.delete("run:1")
    OF_BOTH[attack](remote)
    check(store, remote, VERSION, SEGMENT)


@pytest.mark.parametrize(
    "change",
    [
        {"segment_check": str(Digest.of(b""))},
        {"segment": f"segments/{NOT_THERE}/1", "push": NOT_THERE},
    ],
    ids=["another header", "one that is not there"],
)
def test_segments_that_gc_cannot_read(store: casstore.Store, remote: Rewriting, change: dict[str, Any]) -> None:
    remote.say(REF_KEY, **change)
    if "push" in change:
        with pytest.raises(casstore.IntegrityError, match=SEGMENT):
            store.remote("origin").gc()
        with pytest.raises(casstore.CasstoreError, match=r"run:2|segments/"):
            store.remote("origin").pull(TAG)
        with pytest.raises(casstore.IntegrityError, match=SEGMENT):
            store.remote("origin").get(TAG)
        assert store.remote("origin").verify().tags == (TAG,)
        assert store.tags() == []
        return
    check(store, remote, {*VERSION, "gc"}, SEGMENT)


def test_a_segment_of_a_trillion_bytes(store: casstore.Store, remote: Rewriting) -> None:
    key = remote.ref(TAG)["segment"]
    os.truncate(remote.root / key, TRILLION)
    remote.say(REF_KEY, segment_bytes=TRILLION)
    check(store, remote, VERSION, SEGMENT)


def say_of_pack(row: int, body: bytes, sections: list[Any]) -> None:
    sections[0][row][2:] = [len(body), Digest.of(body)]


def forge(remote: Rewriting, edit: Callable[[EncodedChunk], EncodedChunk]) -> str:
    """Change the record of `own.bin` in its pack, whose every digest then fits; returns the pack's key."""
    sections = remote.segment(TAG)
    (own,) = (row[3] for row in sections[1]["files"] if row[0] == "own.bin")
    key = next(key for key in remote.packs(TAG) if any(entry.digest == own for entry, _ in remote.records(key)))
    chunks = []
    for entry, record in remote.records(key):
        payload = record[-(len(record) - 48 - 32 * bool(entry.base)) :]
        if entry.base is not None and entry.grouping != entry.base:
            payload = payload[32:]
        grouping = None if entry.grouping == entry.base else entry.grouping
        chunk = EncodedChunk(entry.digest, entry.raw_bytes, entry.encoding, payload, entry.base, grouping)
        chunks.append(edit(chunk) if entry.digest == own else chunk)
    remote.put(key, pack_of(*chunks))
    body = remote.body(key)
    for tag in ("run:1", "run:2", "run:3"):
        if key in remote.packs(tag):
            row = remote.packs(tag).index(key)
            remote.resegment(tag, partial(say_of_pack, row, body))
    return key


FORGERIES: dict[str, Callable[[EncodedChunk], EncodedChunk]] = {
    "another chunk": lambda chunk: chunk._replace(digest=Digest.of(b"?")),
    "other bytes": lambda chunk: chunk._replace(data=bytes(len(chunk.data))),
    "another length": lambda chunk: chunk._replace(raw_bytes=chunk.raw_bytes + 1),
    "another encoding": lambda chunk: chunk._replace(encoding=1),
    "an encoding of a newer release": lambda chunk: chunk._replace(encoding=99),
    "a base": lambda chunk: chunk._replace(encoding=3, base=Digest.of(b"?"), data=bytes(chunk.data)[:-32]),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_packs_whose_records_lie(store: casstore.Store, remote: Rewriting, forgery: str) -> None:
    """The digest of the pack fits, so that only who reads the record can tell."""
    key = forge(remote, FORGERIES[forgery])
    check(store, remote, {"read", "checkout", "pull"}, f"{key}|^own.bin of run:2 .*newer|upgrade", is_found=False)


def test_a_pack_whose_index_lies_is_read_by_its_records(store: casstore.Store, remote: Rewriting) -> None:
    (key,) = remote.packs("run:1")
    remote.put(key, remote.body(key)[:-60] + bytes(60))
    assert contents(store.remote("origin").pull("run:1")[0].model) == step(1)


JUNK = f"""
refs/run/2/0.y refs/run/2/00 refs/RUN/2/0 refs/run/latest/0 refs/x refs/con/1/0 refs/a/b/c/d refs/run/2/0.s
refs/run/7/0.s1 refs/run/7/0.x packs/x packs/{NOT_THERE}/1.pack.gz packs/1.pack segments/{NOT_THERE} segments/x/y
pushes/x/open pushes/{NOT_THERE}/other gc/x gc/01 summaries/x README.txt
"""


@pytest.mark.parametrize("junk", JUNK.split())
def test_objects_of_no_meaning(store: casstore.Store, remote: Rewriting, junk: str) -> None:
    remote.put(junk, b"\0junk")
    check(store, remote, set(), "", is_found=False)
    assert remote.body(junk) == b"\0junk"


def test_numbers_without_end(store: casstore.Store, remote: Rewriting) -> None:
    """The next one is a number too: a version that is pushed is there, whatever stands in the bucket."""
    most = 10**18 - 1
    remote.put(f"refs/run/4/{most}", remote.body("refs/run/1/0"))
    remote.put(f"refs/run/4/{most}.x", b"")
    with store.create("run:4") as draft:
        plant(draft.path, step(4))
    assert store.remote("origin").push("run:4")[0].is_new
    assert str(store.remote("origin").list()[0].tag) == "run:4"
    store.remote("origin").gc()
    assert store.remote("origin").verify(deep=True).ok


OF_PROTOCOL = {
    "gc/7": b"{}",
    "gc/8": b"",
    f"pushes/{NOT_THERE}/end": b"{}",
}


@pytest.mark.parametrize("key", OF_PROTOCOL)
def test_gc_removes_nothing_when_it_cannot_tell(store: casstore.Store, remote: Rewriting, key: str) -> None:
    remote.put(key, OF_PROTOCOL[key])
    store.remote("origin").delete("run:3")
    before = remote.keys("packs/")
    with pytest.raises(casstore.IntegrityError, match=key):
        store.remote("origin").gc()
    assert remote.keys("packs/") == before
    assert contents(store.remote("origin").pull(TAG)[0].model) == step(2)


def test_gc_stops_at_a_push_that_cannot_be_read(store: casstore.Store, remote: Rewriting) -> None:
    remote.put(f"pushes/{NOT_THERE}/open", b"{}")
    store.remote("origin").delete("run:3")
    before = remote.keys("packs/")
    with pytest.raises(casstore.IntegrityError, match=f"pushes/{NOT_THERE}/open"):
        store.remote("origin").gc()
    assert remote.keys("packs/") == before


def test_an_end_that_would_make_what_nobody_can_read(store: casstore.Store, remote: Rewriting) -> None:
    for refs in ([("refs/run/8/0", "{}")], [("refs/run/1/0.x", remote.body("refs/run/1/0").decode())]):
        remote.put(f"pushes/{NOT_THERE}/open", PushOpen(0, ["run:8"], Digest.of(b""), "?").pack())
        remote.put(f"pushes/{NOT_THERE}/end", PushEnd(NOT_THERE, True, refs).pack())
        before = remote.keys()
        with pytest.raises(casstore.IntegrityError, match=f"pushes/{NOT_THERE}/end"):
            store.remote("origin").gc()
        assert remote.keys() == before


@pytest.mark.parametrize("link", ["refs", "refs/run", "packs", "segments", "pushes"])
def test_links_that_lead_elsewhere(store: casstore.Store, remote: Rewriting, tmp_path: Path, link: str) -> None:
    """What is written would stand elsewhere, and what is not listed would be removed."""
    (remote.root / link).rename(tmp_path / "elsewhere")
    (remote.root / link).symlink_to(tmp_path / "elsewhere")
    before = everything(tmp_path / "elsewhere"), remote.keys()
    with store.create("run:4") as draft:
        plant(draft.path, step(4))
    for run in (VERBS["gc"], lambda there: there.push("run:4")):
        with pytest.raises(casstore.RemoteError, match=f"{link} is a symbolic link"):
            run(store.remote("origin"))
    assert everything(tmp_path / "elsewhere") == before[0]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", casstore.IntegrityError),
        (b"x" * 100, casstore.IntegrityError),
        (b"[" * 100_000, casstore.IntegrityError),
    ],
)
def test_a_marker_of_anything(
    store: casstore.Store, remote: Rewriting, body: bytes, error: type[casstore.CasstoreError]
) -> None:
    remote.put(keys.MARKER, body)
    before = remote.keys()
    for run in VERBS.values():
        with pytest.raises(error, match=keys.MARKER):
            run(store.remote("origin"))
    assert remote.keys() == before


def test_a_marker_of_a_trillion_bytes_and_of_a_newer_release(store: casstore.Store, remote: Rewriting) -> None:
    remote.say(keys.MARKER, requires=["sparse"])
    with pytest.raises(casstore.UnsupportedFormat, match=f"{keys.MARKER}.*newer casstore"):
        store.remote("origin").list()
    os.truncate(remote.root / keys.MARKER, TRILLION)
    with pytest.raises(casstore.IntegrityError, match=keys.MARKER):
        store.remote("origin").list()


def test_a_remote_that_passes_for_another(store: casstore.Store, remote: Rewriting, tmp_path: Path) -> None:
    """It has the other's id; what is known of the other counts for nothing there, and the reverse."""
    shutil.copytree(remote.root, tmp_path / "other")
    other = Rewriting(tmp_path / "other")
    other.say(REF_KEY, labels={"forged": "yes"})
    store.add_remote("other", str(tmp_path / "other"))
    assert {"forged": "yes"} in [ref.labels for ref in store.remote("other").list()]
    assert {"forged": "yes"} not in [ref.labels for ref in store.remote("origin").list()]


def test_python_objects_of_a_stranger_are_not_unpickled(store: casstore.Store, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "origin") as origin:
        origin.add_remote("origin", str(tmp_path / "remote"))
        with origin.create("objects:1", custom_objects={"a": 1}):
            pass
        origin.remote("origin").push("objects:1")
    model = store.remote("origin").pull("objects:1")[0].model
    with pytest.raises(casstore.UntrustedObjects):
        assert model.custom_objects
