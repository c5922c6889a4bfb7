"""What a push leaves when it is cut short, who goes on with it, and for whom gc waits."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import pack_size, push
from casstore.catalog.remotes import PushedPack
from casstore.digest import Digest
from casstore.errors import RemoteError, TagExists
from casstore.remote import collect, deleting, keys, pushing
from casstore.remote.bucket import Bucket
from casstore.remote.directory import DirectoryBackend
from casstore.remote.documents import Epoch
from casstore.remote.pushing import Push
from casstore.remote.segment import HEADER_BYTES, Segment
from casstore.remote.unconditional import Unconditional
from casstore.storage.pack import PackEntry
from casstore.tag import Tag
from tests.kit import known, noise
from tests.remote.memory import MemoryBackend, NoHook
from tests.remote.scheduler import AtOnce
from tests.remote.stage import SMALL_PACK_BYTES, Stage, leftovers, needs, push_tag, read_remote

HOUR = 3600 * 10**9


class Killed(BaseException):
    """Ends a push at a call."""


class At(NoHook):
    """Does something before the n-th call that begins so, and counts what is put."""

    def __init__(self, call: str, work: Callable[[], object], number: int = 1) -> None:
        self._call, self._work, self._left = call, work, number
        self.put: list[str] = []

    def before(self, method: str, key: str) -> None:
        if f"{method} {key}".startswith(self._call):
            self._left -= 1
            if not self._left:
                self._work()

    def after(self, method: str, key: str) -> None:
        if method == "put" and key.startswith(keys.PACKS):
            self.put.append(key)


def die() -> None:
    raise Killed


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Iterator[Stage]:
    stage = Stage.build(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.fixture
def stage(built, monkeypatch) -> Stage:
    monkeypatch.setattr(push, "PACK_BYTES", SMALL_PACK_BYTES)
    monkeypatch.setattr(push, "_AT_ONCE", 1)
    monkeypatch.setattr(push, "pause", lambda _: None)
    return built


@pytest.fixture
def backend(stage) -> MemoryBackend:
    """An empty remote."""
    backend = MemoryBackend()
    Bucket.make(backend)
    return backend


def cut_short(stage: Stage, backend: MemoryBackend, call: str, number: int = 1, tag: str = "m:c") -> None:
    """Push until just before a call."""
    backend.hook = At(call, die, number)
    with pytest.raises(Killed):
        push_tag(stage.stores[0], Bucket.open(backend), tag)
    backend.hook = NoHook()


def gc(backend: MemoryBackend, after_ns: int = 1 << 62) -> collect.RemoteGcReport:
    return collect.collect(Bucket.open(backend), AtOnce(), revoke_after_ns=after_ns)


def put_by(backend: MemoryBackend, work: Callable[[], object]) -> list[str]:
    """The packs that this writes."""
    backend.hook = hook = At("none", die)
    work()
    backend.hook = NoHook()
    return hook.put


def records(backend: MemoryBackend, push_id: str) -> set[str]:
    return {key.rpartition("/")[2] for key in backend.objects if key.startswith(keys.push_prefix(push_id))}


def pushes(backend: MemoryBackend) -> dict[str, keys.PushState]:
    return collect.list_pushes(Bucket.open(backend))


def test_what_has_arrived_is_not_sent_again(stage, backend) -> None:
    cut_short(stage, backend, "put packs/", 2)
    (first,) = pushes(backend)
    assert len(put_by(backend, lambda: push_tag(stage.stores[0], Bucket.open(backend), "m:c"))) == 1
    assert all(state.has_ended for state in pushes(backend).values())
    gc(backend)
    assert any(key.startswith(f"{keys.PACKS}{first}/") for key in needs(backend.objects))
    read_remote(Bucket.open(backend), "m:c")


def test_a_push_that_was_sealed_is_committed_by_the_next(stage, backend) -> None:
    cut_short(stage, backend, "create refs/")
    assert put_by(backend, lambda: push_tag(stage.stores[0], Bucket.open(backend), "m:c")) == []
    read_remote(Bucket.open(backend), "m:c")


def test_a_push_that_was_sealed_on_another_machine_is_committed_by_who_waited(stage, backend) -> None:
    cut_short(stage, backend, "create pushes/", 2)
    (push_id,) = pushes(backend)

    def seal_it() -> None:
        bucket = Bucket.open(quiet(backend))
        (key,) = (each for each in backend.objects if each.startswith(f"{keys.SEGMENTS}{push_id}/"))
        body = backend.objects[key].body
        sealed = Push(bucket, push_id, 0, frozenset())
        ref = sealed.put_segment(Segment.unpack(body, Digest.of(body[:HEADER_BYTES]), key))
        sealed.seal([(keys.ref(ref.tag, 0), ref)])

    backend.hook = At("list packs/", seal_it)
    pushed = push_tag(stage.stores[1], Bucket.open(backend), "m:c")
    assert not pushed.is_new
    assert pushed.packs == 0
    read_remote(Bucket.open(backend), "m:c")


def row(store: casstore.Store, tag: str):
    return known(store._workspace.catalog.versions.find(Tag.parse(tag)))


def test_a_sealed_push_does_not_bring_back_what_was_deleted_since(stage, backend) -> None:
    cut_short(stage, backend, "create refs/")
    bucket = Bucket.open(backend)
    (end,) = bucket.ends(pushes(backend), AtOnce())
    pushing.roll_forward(bucket, end)
    deleting.delete(bucket, Tag("m", "c"))
    pushing.roll_forward(bucket, end)
    gc(backend)
    pushing.roll_forward(bucket, end)
    assert not bucket.state(Tag("m", "c")).is_live
    assert leftovers(backend.objects, bucket) == []


def test_packs_of_a_push_that_was_revoked_are_not_relied_on(stage, backend) -> None:
    """They may have been condemned, have gone, and been written again by a writer that was asleep."""
    cut_short(stage, backend, "put packs/", 2)
    (push_id,) = pushes(backend)
    pushing.revoke(Bucket.open(backend), push_id)
    assert len(put_by(backend, lambda: push_tag(stage.stores[0], Bucket.open(backend), "m:c"))) == 2
    assert not any(key.startswith(f"{keys.PACKS}{push_id}/") for key in needs(backend.objects))


def test_a_store_that_was_copied_while_it_pushed_pushes_the_same(stage, backend, tmp_path) -> None:
    cut_short(stage, backend, "put packs/", 2)
    shutil.copytree(stage.root / "0", tmp_path / "copy")
    with casstore.Store(tmp_path / "copy") as copy:
        bucket = Bucket.open(backend)
        backend.hook = At("put segments/", lambda: push_tag(copy, Bucket.open(quiet(backend)), "m:c"))
        assert not push_tag(stage.stores[0], bucket, "m:c").is_new
        backend.hook = NoHook()
    gc(backend)
    assert leftovers(backend.objects, bucket) == []
    read_remote(bucket, "m:c")


def quiet(backend: MemoryBackend) -> MemoryBackend:
    """The same objects, without the hook."""
    other = MemoryBackend()
    other.objects = backend.objects
    return other


def condemn(backend: MemoryBackend) -> None:
    """Publish an epoch while a push is open."""
    other = quiet(backend)
    other.put(keys.pack("0" * 32, 1), b"of no push")
    assert len(gc(other).waiting) == 1


def test_gc_frees_what_a_push_left_that_is_silent(stage, backend) -> None:
    """Also where it has nothing else to remove."""
    cut_short(stage, backend, "put segments/")
    (push_id,) = pushes(backend)
    assert gc(backend, HOUR).packs == 0
    report = gc(backend, 0)
    assert (report.packs, list(report.revoked)) == (2, [push_id])
    assert records(backend, push_id) == {"end"}
    assert leftovers(backend.objects, Bucket.open(backend)) == []


def test_a_push_that_still_writes_packs_is_not_silent(stage, backend) -> None:
    bucket = Bucket.open(backend)
    slow = Push.begin(bucket, [Tag("m", "a")], Digest.of(b"slow"))
    for number in range(20):
        backend.put(f"{keys.PROBE}/{number}", b"")  # its clock counts what is written
    backend.put(slow.new_pack(b"pack").key, b"pack")
    assert list(gc(backend, 10).revoked) == []
    assert list(gc(backend, 0).revoked) == [slow.id]


def test_a_long_push_takes_note_of_epochs_between_packs(stage, backend, monkeypatch) -> None:
    """Else gc would have to wait until all has been sent."""
    monkeypatch.setattr(push, "_NOTE_SECONDS", 0.0)

    backend.hook = At("put packs/", lambda: condemn(backend))
    seen: list[set[str]] = []
    real = pushing.Push.put_segment
    monkeypatch.setattr(
        pushing.Push, "put_segment", lambda self, each: seen.append(records(backend, self.id)) or real(self, each)
    )
    push_tag(stage.stores[0], Bucket.open(backend), "m:c")
    assert seen == [{"open", "v1"}]


def test_a_long_push_that_is_revoked_stops_sending(stage, backend, monkeypatch) -> None:
    monkeypatch.setattr(push, "_NOTE_SECONDS", 0.0)

    def revoke_it() -> None:
        (push_id,) = pushes(quiet(backend))
        pushing.revoke(Bucket.open(quiet(backend)), push_id)

    backend.hook = hook = At("put packs/", revoke_it)
    assert push_tag(stage.stores[0], Bucket.open(backend), "m:c").packs == 1
    assert len(hook.put) == 2  # one before it looked, and the other by the next try


def revoked_with_its_packs(stage: Stage, backend: MemoryBackend, work: Callable[[str], object]) -> int:
    """Revoke a push when all its packs are there, and do something with it; returns how many packs it sends then."""
    backend.hook = At("put segments/", lambda: interfere(quiet(backend), work))
    pushed = push_tag(stage.stores[0], Bucket.open(backend), "m:c")
    backend.hook = NoHook()
    needs(backend.objects)
    read_remote(Bucket.open(backend), "m:c")
    return pushed.packs


def interfere(backend: MemoryBackend, work: Callable[[str], object]) -> None:
    (push_id,) = pushes(backend)
    pushing.revoke(Bucket.open(backend), push_id)
    work(push_id)


def publish(backend: MemoryBackend, number: int, condemned: list[str]) -> None:
    backend.create(keys.epoch(number), Epoch(number, "run", condemned).pack())


def test_a_push_that_is_revoked_does_not_send_its_packs_again(stage, backend) -> None:
    assert revoked_with_its_packs(stage, backend, lambda _: None) == 0
    gc(backend)
    assert leftovers(backend.objects, Bucket.open(backend)) == []


def packs_of(backend: MemoryBackend, push_id: str) -> list[str]:
    return [key for key in backend.objects if key.startswith(f"{keys.PACKS}{push_id}/")]


def test_a_pack_of_a_revoked_push_that_has_gone_is_sent_again(stage, backend) -> None:
    def remove(push_id: str) -> None:
        publish(backend, 1, condemned := packs_of(backend, push_id)[:1])
        quiet(backend).delete(condemned)

    assert revoked_with_its_packs(stage, backend, remove) == 1


@pytest.mark.parametrize("later", [0, 1, 2])
def test_a_pack_of_a_revoked_push_that_any_epoch_condemned_is_not_relied_on(later: int, stage, backend) -> None:
    """It has gone, so that later epochs do not name it, and stands there again."""

    def condemn_it(push_id: str) -> None:
        publish(backend, 1, packs_of(backend, push_id)[:1])
        for number in range(later):
            publish(backend, number + 2, [])

    assert revoked_with_its_packs(stage, backend, condemn_it) == 1


@pytest.mark.parametrize(("rate", "largest"), [(10_000_000, 64_000), (2_000, 60_000), (500, 15_000), (1, 2_000)])
def test_packs_are_as_large_as_the_line_is_fast(rate: int, largest: int, backend, tmp_path, monkeypatch) -> None:
    """The line is one by a clock of its own; each record is of some 2 kB."""
    now = [0.0]
    monkeypatch.setattr(pack_size, "clock", lambda: now[0])
    for name, size in (("_FIRST_BYTES", 8_000), ("_LEAST_BYTES", 2_000)):
        monkeypatch.setattr(pack_size, name, size)
    monkeypatch.setattr(push, "PACK_BYTES", 64_000)
    monkeypatch.setattr(push, "workers", lambda _: nullcontext(AtOnce()))
    real = backend.put

    def put(key: str, body: bytes) -> None:
        now[0] += len(body) / rate
        real(key, body)

    monkeypatch.setattr(backend, "put", put)
    with casstore.Store(tmp_path / "store") as store:
        with store.create("m:x") as draft:
            for number in range(150):
                Path(draft.path, f"{number}").write_bytes(noise(2_000, number))
        push_tag(store, Bucket.open(backend), "m:x")
    sizes = [len(each.body) for key, each in backend.objects.items() if key.startswith(keys.PACKS)]
    assert 8_000 <= sizes[0] < 12_000
    assert all(largest <= size < largest * 1.1 + 4_000 for size in sizes[2:-1])  # with a record, and the index


def diverged(stage: Stage, backend: MemoryBackend) -> MemoryBackend:
    """A copy of the remote, as `cp -r` makes it, to which another has pushed `m:b` than to this one."""
    copy = MemoryBackend(backend.objects)
    for each, store in ((backend, 0), (copy, 1)):
        bucket = Bucket.open(each)
        push_tag(stage.stores[store], bucket, "m:b")
    return copy


def test_a_push_relies_on_nothing_that_only_a_copy_of_the_remote_has(stage, backend) -> None:
    """Both have the same id, and other documents under the same keys: the store knows those of the first."""
    copy = diverged(stage, backend)
    push_tag(stage.stores[0], Bucket.open(backend), "m:d")  # reads where m:b is there
    push_tag(stage.stores[0], Bucket.open(copy), "m:c")
    needs(copy.objects)
    read_remote(Bucket.open(copy), "m:c")


def test_what_a_copy_has_under_a_tag_is_not_what_this_one_has(stage, backend, tmp_path) -> None:
    copy = MemoryBackend(backend.objects)
    with casstore.Store(tmp_path / "other") as other:
        with other.create("m:b") as draft:
            Path(draft.path, "1").write_bytes(b"another")
        push_tag(other, Bucket.open(copy), "m:b")
        with pytest.raises(TagExists):
            push_tag(stage.stores[0], Bucket.open(copy), "m:b")  # keeps what it says
    push_tag(stage.stores[1], Bucket.open(backend), "m:b")
    assert not push_tag(stage.stores[0], Bucket.open(backend), "m:b").is_new


def test_a_copy_that_stands_elsewhere_is_another_remote(tmp_path) -> None:
    """What is kept of one says nothing of the other."""
    first = Bucket.make(DirectoryBackend(tmp_path / "remote"))
    shutil.copytree(tmp_path / "remote", tmp_path / "copy")
    assert Bucket.open(DirectoryBackend(tmp_path / "copy")).id != first.id
    assert Bucket.open(DirectoryBackend(tmp_path / "remote")).id == first.id


def test_an_epoch_condemns_no_more_than_can_be_read(stage, backend, monkeypatch) -> None:
    monkeypatch.setattr(collect, "_MOST_CONDEMNED", 3)
    for number in range(8):
        backend.put(keys.pack("0" * 32, number), b"of no push")
    assert [gc(backend).packs for _ in range(4)] == [3, 3, 2, 0]


@pytest.mark.parametrize("call", ["put segments/", "create pushes/", "create refs/"])
def test_a_tag_that_another_version_takes_meanwhile(call: str, stage, backend, tmp_path) -> None:
    with casstore.Store(tmp_path / "other") as other:
        with other.create("m:b") as draft:
            Path(draft.path, "1").write_bytes(b"another")
        backend.hook = At(call, lambda: push_tag(other, Bucket.open(quiet(backend)), "m:b"))
        bucket = Bucket.open(backend)
        with pytest.raises(TagExists, match="files differ"):
            push_tag(stage.stores[0], bucket, "m:b")
    backend.hook = NoHook()
    assert not any(state.is_open and not state.has_ended for state in pushes(backend).values())
    gc(backend)
    assert leftovers(backend.objects, bucket) == []
    deleting.delete(bucket, Tag("m", "b"))
    assert push_tag(stage.stores[0], bucket, "m:b").is_new
    read_remote(bucket, "m:b")


@pytest.mark.parametrize("call", ["put segments/", "create pushes/", "create refs/"])
def test_a_tag_that_the_same_version_takes_meanwhile(call: str, stage, backend) -> None:
    bucket = Bucket.open(backend)
    backend.hook = At(call, lambda: push_tag(stage.stores[1], Bucket.open(quiet(backend)), "m:b"))
    assert not push_tag(stage.stores[0], bucket, "m:b").is_new
    backend.hook = NoHook()
    gc(backend)
    assert leftovers(backend.objects, bucket) == []
    read_remote(bucket, "m:b")


def test_two_processes_of_a_store_push_the_same(stage, backend) -> None:
    """The first to commit ends the other, which has packs to note still."""
    bucket = Bucket.open(backend)
    backend.hook = At("put packs/", lambda: push_tag(stage.stores[0], Bucket.open(quiet(backend)), "m:c"))
    assert not push_tag(stage.stores[0], bucket, "m:c").is_new
    backend.hook = NoHook()
    gc(backend)
    assert leftovers(backend.objects, bucket) == []


def test_a_push_ends_none_of_another_tag(stage, backend, tmp_path) -> None:
    """Another process of the store may be pushing the same files under that."""
    with casstore.Store(tmp_path / "store") as store:
        for tag in ("m:x", "m:y"):
            with store.create(tag) as draft:
                Path(draft.path, "1").write_bytes(b"the same")
        bucket = Bucket.open(backend)
        backend.hook = At("put segments/", die)
        with pytest.raises(Killed):
            push_tag(store, bucket, "m:x")
        backend.hook = NoHook()
        (first,) = pushes(backend)
        push_tag(store, bucket, "m:y")
        assert not pushes(backend)[first].has_ended
        assert push_tag(store, bucket, "m:x").packs == 0
        assert pushes(backend)[first].has_ended


def test_a_push_whose_records_go_while_it_is_looked_at_is_not_waited_for(stage, backend) -> None:
    cut_short(stage, backend, "put packs/")
    (push_id,) = pushes(backend)

    def end() -> None:
        backend.objects.pop(keys.push_open(push_id), None)

    backend.hook = At(f"get {keys.push_open(push_id)}", end)
    assert push_tag(stage.stores[1], Bucket.open(backend), "m:c").is_new


def test_who_brings_the_same_is_waited_for_while_it_goes_on(stage, backend, monkeypatch) -> None:
    bucket = Bucket.open(backend)
    manifest = push._manifest(stage.stores[0]._workspace, row(stage.stores[0], "m:c"))
    content = Digest.of(manifest.digest + pushing.described(manifest))
    other = Push.begin(bucket, [manifest.tag], content)
    pauses = itertools.count()

    def go_on(_: float) -> None:
        if next(pauses) < 50:
            backend.put(other.new_pack(b"pack").key, b"pack")

    monkeypatch.setattr(push, "pause", go_on)
    assert push_tag(stage.stores[1], bucket, "m:c").is_new
    assert next(pauses) == 50 + push._PATIENCE_SECONDS // push._POLL_SECONDS


@pytest.mark.parametrize("backwards", [False, True])
def test_packs_are_taken_up_in_any_order(backwards: bool) -> None:
    """A delta of one stands on a chunk of another, and the catalog has them in no order."""
    names = [Digest.of(b"%d" % number) for number in range(6)]
    packs = [
        PushedPack(
            keys.pack("0" * 32, number),
            100,
            names[0],
            [PackEntry(name, 16, 50, 60, 1, names[number - 1] if number else None, names[0] if number else None)],
        )
        for number, name in enumerate(names)
    ]
    there = push._There(frozenset())
    there.add_packs(packs[::-1] if backwards else packs)
    assert set(there.places) == set(names)


def test_a_store_that_cannot_be_written_to_pushes(stage, backend, tmp_path) -> None:
    """Nothing can be noted there, also while gc condemns."""
    shutil.copytree(stage.root / "0", tmp_path / "copy")
    with casstore.Store(tmp_path / "copy") as copy:
        catalog = copy._workspace.catalog.remotes
        catalog._connections.read_only = True
        backend.hook = hook = At("put packs/", lambda: condemn(backend))
        push_tag(copy, Bucket.open(backend), "m:c")
        assert len(hook.put) == 2
        catalog._connections.read_only = False
    read_remote(Bucket.open(backend), "m:c")


def test_gc_of_a_remote_with_one_writer(stage) -> None:
    backend = MemoryBackend()
    bucket = Bucket.make(backend, single_writer=True)
    assert isinstance(bucket.backend, Unconditional)
    push_tag(stage.stores[0], bucket, "m:c")
    cut_short(stage, backend, "put segments/", tag="m:b")
    deleting.delete(bucket, Tag("m", "c"))
    assert gc(backend, 0).packs == 3
    assert leftovers(backend.objects, bucket) == []
    assert push_tag(stage.stores[0], bucket, "m:c").is_new
    read_remote(bucket, "m:c")


def test_what_probes_left_goes_after_a_day(stage, backend, monkeypatch) -> None:
    monkeypatch.setattr(collect, "_PROBE_NS", 10)
    backend.put(f"{keys.PROBE}/old/race", b"")
    for number in range(10):
        backend.put(f"{keys.PROBE}/{number}", b"")
    backend.put(f"{keys.PROBE}/new", b"")
    gc(backend)
    left = [key for key in backend.objects if key.startswith(f"{keys.PROBE}/")]
    assert f"{keys.PROBE}/old/race" not in left
    assert f"{keys.PROBE}/new" in left


def test_a_push_that_is_revoked_again_and_again_says_so(stage, backend) -> None:
    def revoke_all() -> None:
        for push_id, state in pushes(quiet(backend)).items():
            if not state.has_ended:
                pushing.revoke(Bucket.open(quiet(backend)), push_id)

    class Revoking(NoHook):
        def before(self, method: str, key: str) -> None:
            if method == "put" and key.startswith(keys.SEGMENTS):
                revoke_all()

    backend.hook = Revoking()
    with pytest.raises(RemoteError, match="has revoked the push of m:c 3 times"):
        push_tag(stage.stores[0], Bucket.open(backend), "m:c")
    backend.hook = NoHook()
    gc(backend)
    assert leftovers(backend.objects, Bucket.open(backend)) == []
