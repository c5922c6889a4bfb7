"""`.casmodel` archives that somebody made to do harm: refused with a clear word, or harmless; nothing half done."""

from __future__ import annotations

import io
import os
import struct
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casstore
from casstore.digest import Digest
from casstore.storage.coding.encodings import Encoding
from casstore.storage.manifest import Base
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.tag import Tag
from tests.kit import EVERY, Check, Save, contents, noise, script, streamed
from tests.store.casmodels import DESCRIPTION, against, build, manifest, recipe, steps, whole

pytestmark = pytest.mark.crash

A, B, C = steps(3)
HELLO = b"hello"
UNSAFE = (casstore.IntegrityError, casstore.InvalidSource)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


def one(tag="m:1", files=None, chunks=None, **changes):
    """An archive of one version, sound but for what is changed."""
    files = {"w": HELLO} if files is None else files
    chunks = [whole(HELLO)] if chunks is None else chunks
    return build([manifest(tag, files, **changes)], chunks)


def described(**changes):
    return one(description={**DESCRIPTION, **changes})


def without(key):
    return one(description={name: value for name, value in DESCRIPTION.items() if name != key})


def repacked(**changes):
    """A manifest whose document is changed behind the back of what writes manifests."""
    document = msgpack.unpackb(zstandard.decompress(manifest("m:1", {"w": HELLO}).pack()))
    document.update(changes)
    packed = msgpack.packb({key: value for key, value in document.items() if value is not ...})
    return build([zstandard.ZstdCompressor(write_checksum=True).compress(packed)], [whole(HELLO)])


def path(text):
    return repacked(files=[[text, False, 5, Digest.of(HELLO)]])


def patched(data, offset, new):
    return data[:offset] + new + data[offset + len(new) :]


def index_of(data, entries):
    """Another index, and a trailer that fits it."""
    offset, _ = struct.unpack_from("<QI", data, len(data) - 52)
    start = data.index(b"casspack")
    index = zstandard.ZstdCompressor().compress(msgpack.packb(entries))
    trailer = struct.pack("<QI32s8s", offset, len(index), Digest.of(index), b"packtail")
    return data[: start + offset] + index + trailer


def zeros(count):
    """A version that claims to be so many chunks of a mebibyte of nothing."""
    chunk = bytes(1 << 20)
    digest = Digest.of(chunk)
    claimed = Recipe(Digest.of(b"zeros"), count << 20, "by hand", (RecipeSegment(((digest, 1 << 20),) * count),))
    return one(
        files={"w": claimed},
        chunks=[whole(chunk, encoding=Encoding.ZSTD, data=zstandard.compress(chunk))],
    )


REVERSED = recipe([B, A], Digest.of(A + B))
CASES = {
    "the wrong order": (lambda: one(files={"w": REVERSED}, chunks=[whole(A), whole(B)]), "not what its digest says"),
    "of another file": (
        lambda: one(files={"w": recipe([A, B], Digest.of(b"x"))}, chunks=[whole(A), whole(B)]),
        "not what its digest says",
    ),
    "one chunk of another digest": (
        lambda: one(files={"w": recipe([A], Digest.of(B))}, chunks=[whole(A)]), "not what its digest says",
    ),
    "nothing of another digest": (lambda: one(files={"w": (Digest.of(A), 0)}, chunks=[]), "not what its digest says"),
    "longer than it is": (lambda: one(files={"w": (Digest.of(HELLO), 6)}), "has 5 bytes, not 6"),
    "shorter than it is": (lambda: one(files={"w": (Digest.of(HELLO), 1)}), "has 5 bytes, not 1"),
    "of petabytes in one chunk": (lambda: one(files={"w": (Digest.of(HELLO), 1 << 52)}), "would take 4,503,599"),
    "two recipes, the right one last": (
        lambda: build(
            [manifest("m:1", {"w": REVERSED}), manifest("m:2", {"w": recipe([A, B])})], [whole(A), whole(B)]
        ),
        "in two ways",
    ),
    "two recipes, the right one first": (
        lambda: build(
            [manifest("m:1", {"w": recipe([A, B])}), manifest("m:2", {"w": REVERSED})], [whole(A), whole(B)]
        ),
        "in two ways",
    ),
    "two sizes of one digest": (
        lambda: one(files={"v": HELLO, "w": (Digest.of(HELLO), 9)}), "in two ways",
    ),
    "lengths that do not fit the chunks": (
        lambda: one(
            files={"w": Recipe(Digest.of(A + B), len(A + B), "", (RecipeSegment(
                ((Digest.of(A), len(A) - 1), (Digest.of(B), len(B) + 1))
            ),))},
            chunks=[whole(A), whole(B)],
        ),
        "bytes where the recipe says",
    ),
    "a mebibyte that is many": (lambda: zeros(1 << 15), "would take 34,359,738,368 bytes"),
    "a hundred names of a gibibyte": (
        lambda: build(
            [manifest(f"m{n}:1", {"w": Recipe(Digest.of(b"%d" % n), 1 << 30, "", (RecipeSegment(
                ((Digest.of(bytes(1 << 20)), 1 << 20),) * 1024
            ),))}) for n in range(100)],
            [whole(bytes(1 << 20), encoding=Encoding.ZSTD, data=zstandard.compress(bytes(1 << 20)))],
        ),
        "the newest versions of 100 names would take 107,374,182,400 bytes",
    ),
    "a chunk that is missing": (lambda: one(chunks=[]), "lacks 1 chunks that its versions need"),
    "a chunk that nobody needs": (lambda: one(chunks=[whole(HELLO), whole(b"more")]), "no version in it needs"),
    "a chunk twice": (lambda: one(chunks=[whole(HELLO), whole(HELLO)]), "twice"),
    "a chunk of other bytes": (
        lambda: one(chunks=[whole(b"hallo", digest=Digest.of(HELLO))]), "not what its digest says; fetch",
    ),
    "a chunk of another length": (lambda: one(chunks=[whole(HELLO, raw_bytes=6)]), "is damaged"),
    "a delta of another length": (
        lambda: one(files={"a": A, "b": B}, chunks=[whole(A), against(B, A, raw_bytes=5)]), "is damaged",
    ),
    "a bomb of a chunk": (
        lambda: one(chunks=[whole(HELLO, encoding=Encoding.ZSTD, data=zstandard.compress(bytes(100 << 20)))]),
        "is damaged",
    ),
    "an unknown encoding": (lambda: one(chunks=[whole(HELLO, encoding=9)]), "newer casstore|is damaged|upgrade it"),
    "a delta before its base": (
        lambda: one(files={"a": A, "b": B}, chunks=[against(B, A), whole(A)]), "has not come before it",
    ),
    "a delta against nobody's chunk": (
        lambda: one(files={"b": B}, chunks=[against(B, A)]), "has not come before it",
    ),
    "a delta against itself": (
        lambda: one(files={"b": B}, chunks=[against(B, A)._replace(base=Digest.of(B), grouping=Digest.of(B))]),
        "has not come before it",
    ),
    "deltas in a circle": (
        lambda: one(
            files={"a": A, "b": B}, chunks=[against(A, B), against(B, A)],
        ),
        "has not come before it",
    ),
    "a grouping that is missing": (
        lambda: one(files={"a": A, "b": B}, chunks=[whole(A), against(B, A)._replace(grouping=Digest.of(C))]),
        "has not come before it",
    ),
    "another grouping than it was made with": (
        lambda: one(
            files={"a": A, "b": B, "c": C}, chunks=[whole(A), whole(C[::-1], digest=Digest.of(C)),
            against(B, A)._replace(grouping=Digest.of(C))],
        ),
        "is damaged",
    ),
    "a delta without a base": (
        lambda: one(files={"b": B}, chunks=[against(B, A)._replace(base=None, grouping=None)]),
        "a delta without a base",
    ),
    "a base without a delta": (
        lambda: one(files={"a": A, "b": B}, chunks=[whole(A), whole(B, base=Digest.of(A), grouping=Digest.of(A))]),
        "or none with one",
    ),
    "a delta of noise": (
        lambda: one(files={"a": A, "b": B}, chunks=[whole(A), against(B, A, data=os.urandom(500))]), "is damaged",
    ),
    "an absolute path": (lambda: path("/etc/passwd"), "nothing in a version can be called"),
    "a path that leads out": (lambda: path("a/../../x"), "nothing in a version can be called"),
    "an empty path": (lambda: path(""), "nothing in a version can be called"),
    "a NUL in a path": (lambda: path("a\0b"), "nothing in a version can be called"),
    "a path that is bytes": (lambda: path(b"a"), "cannot be read"),
    "the descriptor as a file": (lambda: one(files={"model.yaml": HELLO}), "model.yaml"),
    "a component of 256 bytes": (lambda: one(files={"a" * 256: HELLO}), "name is too long"),
    "300 directories": (lambda: one(files={"a/" * 300 + "w": HELLO}), "name is too long"),
    "a path of 5000 bytes": (lambda: one(files={"/".join(["a" * 200] * 25): HELLO}), "name is too long"),
    "names that differ by case": (lambda: one(files={"W": HELLO, "w": HELLO}), "differ only by case"),
    "directories that differ by case": (lambda: one(files={"A/x": HELLO, "a/y": HELLO}), "differ only by case"),
    "names that differ by Unicode form": (
        lambda: one(files={"e\u0301": HELLO, "\u00e9": HELLO}), "differ only by case or Unicode form",
    ),
    "the descriptor in capitals": (lambda: one(files={"Model.YAML": HELLO}), "differ only by case"),
    "a file twice": (
        lambda: repacked(files=[["w", False, 5, Digest.of(HELLO)]] * 2), "stands twice",
    ),
    "a file and a directory": (lambda: one(files={"a": HELLO, "a/b": HELLO}), "a file and a directory"),
    "files out of order": (lambda: one(files={"b": HELLO, "a": HELLO}), "not in order"),
    "directories out of order": (lambda: one(directories=["b", "a"]), "not in order"),
    "a directory twice": (lambda: one(directories=["a", "a"]), "not in order"),
    "an empty directory that is not": (lambda: one(files={"a/b": HELLO}, directories=["a"]), "is not empty"),
    "nested empty directories": (lambda: one(directories=["a", "a/b"]), "is not empty"),
    "far down in an empty directory": (lambda: one(files={"a/b/c": HELLO}, directories=["a"]), "is not empty"),
    "a tag twice": (
        lambda: build([manifest("m:1", {"w": HELLO}), manifest("m:1", {"v": HELLO, "w": HELLO})], [whole(HELLO)]),
        "two versions of the tag m:1",
    ),
    "a name in capitals": (lambda: repacked(name="M"), "not in lower case"),
    "a name that leads out": (lambda: repacked(name="../m"), "cannot be read"),
    "a version that is latest": (lambda: repacked(version="latest"), "cannot be read"),
    "a version that is a number": (lambda: repacked(version=1), "cannot be read"),
    "an unknown requirement": (lambda: repacked(requires=["time travel"]), "newer casstore"),
    "another hash": (lambda: repacked(hash="md5"), "newer casstore"),
    "another format of manifest": (lambda: repacked(format=2), "newer casstore"),
    "a creation time out of range": (lambda: repacked(created_at=(1 << 64) - 1), "cannot be read"),
    "a negative size": (lambda: repacked(files=[["w", False, -5, Digest.of(HELLO)]]), "negative size"),
    "a short digest": (lambda: repacked(files=[["w", False, 5, b"short"]]), "cannot be read"),
    "labels that are no text": (lambda: described(labels={"a": 1}), "cannot be read"),
    "metadata that is a list": (lambda: described(metadata=[1]), "cannot be read"),
    "metadata 70 deep": (
        lambda: described(metadata={"a": nested(70)}),
        "nested more than 64 deep",
    ),
    "signatures with unknown fields": (lambda: described(signatures={"f": {"evil": 1}}), "unknown field 'evil'"),
    "signatures that are text": (lambda: described(signatures={"f": "text"}), "signatures"),
    "a batch_dim that is text": (
        lambda: described(signatures={"f": {"batchable": True, "batch_dim": "x"}}), "batch_dim",
    ),
    "a context that is wrong": (lambda: described(context={"framework_versions": 1}), "framework_versions"),
    "no context": (lambda: without("context"), "cannot be read"),
    "no labels": (lambda: without("labels"), "cannot be read"),
    "a release of a megabyte": (lambda: one(casstore_version="9" * (1 << 20)), "too long"),
    "an unknown format": (lambda: patched(one(), 8, b"\2"), "newer casstore"),
    "an unknown requirement of the file": (lambda: patched(one(), 10, b"\4"), "newer casstore"),
    "another hash of the file": (lambda: patched(one(), 12, b"\2"), "newer casstore"),
    "four billion versions": (lambda: patched(one(), 16, b"\xff" * 4), "which is too many"),
    "one version too many": (lambda: patched(one(), 16, b"\2"), "cut short|damaged|too long"),
    "one version too few": (lambda: patched(one(), 16, b"\0"), "not a pack"),
    "a manifest of four gibibytes": (lambda: patched(one(), 20, b"\xff" * 4), "too long"),
    "a manifest of a gibibyte": (lambda: patched(one(), 20, b"\0\0\0\x3f"), "cut short"),
    "a manifest that is noise": (lambda: build([os.urandom(200)], [whole(HELLO)]), "zstd"),
    "trailing bytes": (lambda: one() + b"\0", "damaged"),
    "a trailing archive": (lambda: one() + one(), "damaged"),
    "no trailer": (lambda: one()[:-52], "damaged"),
    "an index of other chunks": (
        lambda: index_of(one(), [[Digest.of(A), 16, 53, 5, 0, None, None]]), "says something else",
    ),
    "an index of nothing": (lambda: index_of(one(), []), "says something else"),
    "an index that is endless": (lambda: one()[:-52] + bytes(1 << 20), "damaged"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared_victim(tmp_path_factory: pytest.TempPathFactory):
    with casstore.Store(tmp_path_factory.mktemp("victim") / "store", auto_gc=False) as store:
        with store.create("kept:1") as draft:
            Path(draft.path, "kept").write_bytes(b"kept")
        yield store


@pytest.fixture
def victim(shared_victim):
    """One store for all cases, in which something is saved."""
    yield shared_victim
    for tag in shared_victim.tags():
        if tag != "kept:1":
            shared_victim.delete(tag)
    shared_victim.gc()  # what was sound of the refused waits for the next try


def take(store, data, **options):
    options = {"durability": "relaxed", **options}
    return store.import_archive(io.BytesIO(data), **options)


def check_untouched(store):
    assert store.tags() == ["kept:1"]
    assert os.listdir(store.home / "sessions") == []
    assert os.listdir(store.home / "models") == ["kept"]
    assert sorted(os.listdir(store.home / "manifests")) == [".deleted", ".pending", ".trash", "kept"]
    assert os.listdir(store.home / "manifests/.pending") == []


@pytest.mark.parametrize("name", CASES)
def test_refused(victim, name) -> None:
    make, message = CASES[name]
    data = make()
    with pytest.raises(UNSAFE, match=message) as caught:
        take(victim, data)
    check_untouched(victim)
    print(f"{name}: {caught.value}")


def test_nothing_of_the_refused_stays_for_long(victim) -> None:
    victim.gc()
    names = {"stray files", "unneeded objects"}
    assert {step for step in victim.gc().steps if step.name in names} == {casstore.GcStep(name, 0) for name in names}
    assert victim.verify().is_sound


def test_sound_ones_pass(store: casstore.Store, settled: Check) -> None:
    """What the cases above are made of is refused for what is changed, and for nothing else."""
    take(store, one())
    take(store, one("m:2", files={"w": recipe([A, B])}, chunks=[whole(A), whole(B)]))
    take(store, one("m:3", files={"a": A, "b": B, "c": C}, chunks=[whole(A), against(B, A), against(C, B, A)]))
    take(store, repacked(version="4"))
    take(store, repacked(version="5", newer_field={"of": "tomorrow"}))
    assert streamed(store.get("m:3")) == {"a": A, "b": B, "c": C}
    store.gc(evict_all=True)
    settled()


@pytest.mark.parametrize("name", [name for name in CASES if "order" in name or "two recipes" in name])
def test_the_right_file_is_right_after_a_wrong_recipe_of_it(
    store: casstore.Store, save: Save, settled: Check, name
) -> None:
    """The catalog keeps one recipe of each blob. Were a wrong one to get there, every save of it would be lost."""
    with pytest.raises(UNSAFE):
        take(store, CASES[name][0]())
    save("right:1", {"w": A + B})
    save("right:2", {"w": A + B, "other": b"x"}, materialize=False)
    assert contents(store.get("right:1")) == {"w": A + B}
    store.gc(evict_all=True)
    assert contents(store.get("right:2")) == {"w": A + B, "other": b"x"}
    store.gc(evict_all=True)
    settled()


@pytest.mark.parametrize("first", ["import", "save"])
@pytest.mark.parametrize("size", [700_000, 2_000_000])
@pytest.mark.parametrize("count", [1, 3])
def test_a_file_that_is_cut_into_other_chunks_elsewhere(
    store: casstore.Store, save: Save, settled: Check, first, size, count
) -> None:
    """As by another release: it is one blob all the same, and has one recipe here, whichever came first."""
    raw = noise(size)
    parts = [raw[:1000], raw[1000:300_000], raw[300_000:]] if count == 3 else [raw]
    data = build([manifest("far:1", {"w": recipe(parts)})], map(whole, parts))

    def bring():
        take(store, data)

    def keep():
        save("near:1", {"w": raw, "more": b"more"})
        save("near:2", {"w": raw}, materialize=False)

    for action in (bring, keep) if first == "import" else (keep, bring):
        action()
    store.gc(evict_all=True)
    for tag in store.tags():
        assert streamed(store.get(tag))["w"] == raw
    assert store.verify().is_sound
    store.delete("far:1" if first == "import" else "near:1")
    if first == "save":
        store.delete("near:2")
    store.gc(evict_all=True)
    for tag in store.tags():
        assert contents(store.get(tag))["w"] == raw
    store.gc(evict_all=True)
    settled()
    tags = store.tags()
    store.close()
    (store.home / "catalog.db").unlink()
    casstore.Store.rebuild_catalog(store.home)
    with casstore.Store(store.home) as rebuilt:
        for tag in tags:
            assert streamed(rebuilt.get(tag))["w"] == raw
        assert rebuilt.verify().is_sound


def test_untrusted_is_not_for_the_archive_to_say(store: casstore.Store) -> None:
    """It may claim what it likes: Python objects that come in one are not unpickled unasked."""
    claims: list[dict[str, Any]] = [{}, {"untrusted": False}, {"untrusted": None}, {"untrusted": True}]
    for number, claim in enumerate(claims):
        data = one(
            f"m:{number}", files={"custom_objects.pkl": b"\x80\x04}."}, chunks=[whole(b"\x80\x04}.")],
            description={**DESCRIPTION, **claim},
        )  # fmt: skip
        (imported,) = take(store, data)
        assert imported.model.is_untrusted
        with pytest.raises(casstore.UntrustedObjects):
            _ = imported.model.custom_objects
    (imported,) = take(store, data, as_tag="trusted:1", trust=True)
    assert imported.model.custom_objects == {}
    (imported,) = take(store, one("plain:1", description={**DESCRIPTION, "untrusted": True, "evil": [1] * 99}))
    assert not imported.model.is_untrusted


def test_a_time_that_has_not_come(store: casstore.Store, save: Save) -> None:
    before = time.time_ns()
    (imported,) = take(store, one(created_at_ns=(1 << 62)))
    assert before / 1e9 - 1 < imported.model.created_at.timestamp() < time.time() + 1
    save("m:2", {"w": b"later"})
    assert str(store.get("m").tag) == "m:2"
    (old,) = take(store, one("m:0", created_at_ns=-(1 << 62)))
    assert Path(old.model.path, "w").read_bytes() == HELLO
    assert str(store.get("m").tag) == "m:2"
    assert not take(store, one(created_at_ns=(1 << 61)))[0].is_new


def test_a_base_that_is_no_such_version(store: casstore.Store, settled: Check) -> None:
    """Itself, one that came after it, one that was never here."""
    chunks = [whole(A), against(B, A)]
    for number, base in enumerate(["m:0", "m:2", "never:1"]):
        told = manifest(f"m:{number}", {"a": A, "b": B}, base=Base(Tag(*base.split(":")), Digest.of(b"x")))
        take(store, build([told], chunks))
    store.gc(evict_all=True)
    for number in range(3):
        assert streamed(store.get(f"m:{number}")) == {"a": A, "b": B}
    exported = io.BytesIO()
    store.export(store.tags(), exported, format="casmodel")
    store.gc(evict_all=True)
    settled()


def test_every_prefix_is_refused(victim) -> None:
    data = one(files={"a": A[:400], "b": B[:400], "e": b""}, chunks=[whole(A[:400]), whole(B[:400])])
    for length in range(0, len(data), 1 if EVERY else 23):
        with pytest.raises(UNSAFE):
            take(victim, data[:length])
        check_untouched(victim)
    victim.gc()


@settings(max_examples=5000 if EVERY else 120, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(st.data())
def test_flipped(victim, data) -> None:
    """Any byte, in the head, a manifest, a record, the index or the trailer: refused, or the same all the same."""
    sound = one(
        "flip:1", files={"a": A, "b": B, "e": b""}, chunks=[whole(A), against(B, A)], created_at_ns=time.time_ns()
    )
    # Half of them where the structure is, and not the chunks.
    pack = sound.index(b"casspack")
    at = data.draw(
        st.one_of(
            st.integers(0, pack + 100), st.integers(pack, len(sound) - 1), st.integers(len(sound) - 200, len(sound) - 1)
        )
    )
    broken = patched(sound, at, bytes([sound[at] ^ (1 << data.draw(st.integers(0, 7)))]))
    try:
        (imported,) = take(victim, broken, materialize=False)
    except UNSAFE:
        pass
    else:
        assert {file.path: imported.model.open(file.path).read() for file in imported.model.files} == {
            "a": A, "b": B, "e": b""
        }  # fmt: skip
        victim.delete(imported.model.tag)
    check_untouched(victim)
    victim.gc()


BOUNDED = """
import io, json, os, resource, struct, sys, time
import msgpack, zstandard
import casstore
from casstore.archive import casmodel
from casstore.digest import Digest
from casstore.storage.pack import EncodedChunk, PackStream
from tests.store.casmodels import DESCRIPTION, manifest, whole

home, case = sys.argv[1:]
store = casstore.Store(home, auto_gc=False)

def compressed(document):
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(msgpack.packb(document))

def document(n, **changes):
    made = msgpack.unpackb(zstandard.decompress(manifest(f"m:{n}", {"w": b"hello"}).pack()))
    return {**made, **changes}

def heads(manifests, tail=b""):
    made = bytearray()
    casmodel.write_head(made.extend, manifests)
    return io.BytesIO(bytes(made) + tail)

class Endless(io.RawIOBase):
    # A head, and then the same record for ever, of chunks that nobody needs or everybody.
    def __init__(self, head, record):
        self.pending, self.record, self.given = head, record, 0
    def readable(self):
        return True
    def read(self, size=-1):
        if len(self.pending) < size:
            self.pending += self.record * (size // len(self.record) + 1)
        data, self.pending = self.pending[:size], self.pending[size:]
        self.given += len(data)
        assert self.given < 1 << 30
        return data

def record(raw):
    parts = bytearray()
    stream = PackStream(parts.extend)
    stream.add(whole(raw))
    stream.flush()
    return bytes(parts[:16]), bytes(parts[16:])

# The same manifest as often as one likes: that a tag comes twice is found when all have been read.
if case == "recipes":
    digest, count = Digest.of(b"\\0"), 900_000
    recipe = msgpack.packb(["", count, [[None, None, None, digest * count, [1] * count]]])
    changes = {"files": [["w", False, count, digest]], "recipes": [[digest, recipe]]}
elif case == "newer fields":
    changes = {"newer": "x" * (60 << 20)}
elif case == "descriptions":
    changes = {"description": json.dumps({**DESCRIPTION, "metadata": {"a": [[]] * 4_000_000}}, separators=(",", ":"))}
elif case == "files":
    changes = {"files": [[f"{n:06}", False, 0, Digest.of(b"")] for n in range(300_000)]}
else:
    changes = {}
if changes:
    stream = heads([compressed(document(0, **changes))] * 60)
elif case == "records":
    head = heads([manifest("m:1", {"w": b"hello"}).pack()]).getvalue()
    stream = Endless(head + record(b"x")[0], record(b"x")[1])
elif case == "index":
    made = bytearray()
    head = heads([manifest("m:1", {"w": b"hello"}).pack()]).getvalue()
    stream = Endless(head + b"".join(record(b"hello")), b"\\x28\\xb5\\x2f\\xfd" + bytes(1000))
elif case == "chunks":
    raw = bytes(16 << 20)
    made = bytearray()
    files = {}
    chunks = []
    for n in range(60):
        raw = bytes([n]) * (16 << 20)
        files[f"{n:03}"] = (Digest.of(raw), len(raw))
        chunks.append(EncodedChunk(Digest.of(raw), len(raw), 1, zstandard.compress(raw)))
    casmodel.write_head(made.extend, [manifest("m:1", files).pack()])
    pack = PackStream(made.extend)
    for chunk in chunks:
        pack.add(chunk)
    pack.end()
    stream = io.BytesIO(bytes(made))

def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = resident()
started = time.process_time()
try:
    store.import_archive(stream, materialize=False, durability="relaxed")
except (casstore.IntegrityError, casstore.InvalidSource) as error:
    print(type(error).__name__, str(error)[:150])
else:
    print("imported")
print(f"{case}: {(resident() - before) >> 10} MiB more, {time.process_time() - started:.1f} s")
assert resident() - before < 900 << 10, (resident() - before) >> 10
assert os.listdir(f"{home}/sessions") == []
"""


@pytest.mark.parametrize(
    "case", ["descriptions", "records", *(["recipes", "newer fields", "files", "index", "chunks"] if EVERY else [])]
)
def test_memory_is_bounded(home: Path, case) -> None:
    """However much a small archive says that it holds."""
    result = script(BOUNDED, home, case, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
