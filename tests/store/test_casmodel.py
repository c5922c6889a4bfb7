"""`.casmodel` through the store: several versions in one file, cut short, resumed, beside gc, onto what is there."""

from __future__ import annotations

import io
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import casmodel_import
from casstore.actions.packs import receiving
from casstore.actions.saving.commit import commit_stored, commit_stored_together
from casstore.catalog.commits import Commits
from casstore.catalog.containers import ChunkVanished
from casstore.storage.container import MAX_DELTA_LINKS
from tests.kit import Check, Child, Leftovers, Save, Sql, checkpoint, contents, noise, streamed
from tests.store import casmodels
from tests.store.test_bases import reboot


@pytest.fixture
def source(tmp_path: Path):
    """The store that versions come from; `store` is the one that they go to."""
    with casstore.Store(tmp_path / "source") as opened:
        yield opened


@pytest.fixture
def run_of(source, save: Save):
    """run_of(steps, ...): a run of checkpoints in `source`, and their files by tag."""

    def make(steps=4, how="packed", size=60_000):
        files = {f"run:{step}": checkpoint(step, size=size) for step in range(steps)}
        for number, (tag, content) in enumerate(files.items()):
            is_loose = how == "loose" or (how == "mixed" and number % 2)
            save(tag, content, into=source, materialize=is_loose, durability="relaxed")
        return files

    return make


@pytest.fixture
def archive(source, tmp_path: Path):
    """archive(tags): the bytes of a `.casmodel` of these versions of `source`."""
    return lambda tags: Path(source.export(tags, tmp_path / "made.casmodel")).read_bytes()


@pytest.fixture
def pack_bytes(store: casstore.Store):
    return lambda: sum(path.stat().st_size for path in (store.home / "objects/packs").iterdir())


@pytest.fixture
def take(store: casstore.Store):
    """take(data, ...): import the bytes of an archive; the versions that are new."""

    def run(data, **options):
        options = {"durability": "relaxed", "materialize": False, **options}
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        return [str(each.model.tag) for each in store.import_archive(source, **options) if each.is_new]

    return run


@dataclass(frozen=True)
class Sent:
    """What goes from `source` to `store`: how a run is made and packed up there, and taken in and checked here."""

    run_of: Callable[..., dict[str, dict[str, bytes]]]
    archive: Callable[..., bytes]
    take: Callable[..., list[str]]
    pack_bytes: Callable[[], int]
    settled: Check


@pytest.fixture
def sent(run_of, archive, take, pack_bytes, settled: Check) -> Sent:
    return Sent(run_of, archive, take, pack_bytes, settled)


@pytest.mark.parametrize("how", ["loose", "packed", "mixed"])
def test_several_versions_there_and_back(source, store: casstore.Store, how, sql: Sql, sent: Sent) -> None:
    files = sent.run_of(how=how, size=150_000)
    data = sent.archive(files)
    alone = [len(sent.archive([tag])) for tag in files]
    assert len(data) < 0.65 * sum(alone)
    assert sent.take(data, materialize=True) == list(files)
    for tag, expected in files.items():
        model = store.get(tag)
        assert model.created_at == source.get(tag).created_at
        assert contents(model) == expected
    assert str(store.get("run").tag) == "run:3"
    assert sql("SELECT count(*) FROM chunk WHERE base IS NOT NULL") != [(0,)]
    assert sent.take(data) == []
    store.gc(evict_all=True)
    sent.settled()


def test_only_the_newest_has_a_directory(store: casstore.Store, source, save: Save, run_of, archive, take) -> None:
    """Also where the order in the archive is another than that of creation."""
    save("m:old", {"w": b"old"}, into=source)
    old = archive(["m:old"])
    with casstore.Store(source.home.parent / "between") as between:
        save("m:new", {"w": b"new"}, into=between)
        between.import_archive(io.BytesIO(old))
        data = Path(between.export(["m:new", "m:old"], between.home.parent / "both.casmodel")).read_bytes()
    take(data, materialize=True)
    assert sorted(path.name for path in (store.home / "models/m").iterdir()) == ["latest", "new"]
    assert (store.home / "models/m/latest").read_text() == "new"


def test_what_stands_on_versions_that_stay_behind(
    run_of, archive, take, store: casstore.Store, settled: Check, tmp_path: Path
) -> None:
    files = run_of(6)
    for number, tags in enumerate((["run:5"], ["run:1", "run:4"], ["run:0", "run:2", "run:3"])):
        with casstore.Store(tmp_path / f"alone-{number}") as fresh:
            fresh.import_archive(io.BytesIO(archive(tags)))
            assert {tag: streamed(fresh.get(tag)) for tag in fresh.tags()} == {tag: files[tag] for tag in tags}
            assert fresh.verify().is_sound
        take(archive(tags))
    assert {tag: streamed(store.get(tag)) for tag in store.tags()} == files
    settled()


@pytest.mark.crash
def test_long_runs_keep_to_the_limit_of_chains(
    run_of, archive, take, store: casstore.Store, settled: Check, sql: Sql
) -> None:
    files = run_of(30, size=9_000)
    take(archive(files))
    depths = [row[0] for row in sql("SELECT depth FROM chunk")]
    assert 4 < max(depths) <= MAX_DELTA_LINKS
    assert {tag: streamed(store.get(tag)) for tag in store.tags()} == files
    settled()


def test_onto_a_part_of_the_run(store: casstore.Store, source, sent: Sent) -> None:
    """What the store has is not written again, however it has it: packed, loose, or as a delta against something."""
    files = sent.run_of(6)
    sent.take(sent.archive(["run:0", "run:1"]))
    whole = sent.archive(files)
    with casstore.Store(store.home) as again, again.create("own:1") as draft:
        for name, content in files["run:2"].items():
            Path(draft.path, name).write_bytes(content)
    before = sent.pack_bytes()
    assert sent.take(whole) == ["run:2", "run:3", "run:4", "run:5"]
    assert sent.pack_bytes() - before < len(whole) * 0.6
    before = sent.pack_bytes()
    assert sent.take(sent.archive(["run:2"]), as_tag="other:1") == ["other:1"]
    assert sent.pack_bytes() == before
    assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc(evict_all=True)
    sent.settled()


def test_what_would_stand_too_deep_is_stored_whole(
    store: casstore.Store, take, settled: Check, check_catalog: Check, sql: Sql
) -> None:
    """A chain longer than the limit in the archive, and one that would get too long in this store."""
    steps = casmodels.steps(MAX_DELTA_LINKS + 3)
    versions = [casmodels.manifest(f"m:{n}", {"w": step}) for n, step in enumerate(steps)]
    chunks = [casmodels.whole(steps[0])]
    chunks += [casmodels.against(after, before, steps[0]) for before, after in itertools.pairwise(steps)]
    assert take(casmodels.build(versions, chunks)) == [f"m:{n}" for n in range(len(steps))]
    check_catalog()
    assert max(sql("SELECT depth FROM chunk"))[0] == MAX_DELTA_LINKS
    for number, step in enumerate(steps):
        assert streamed(store.get(f"m:{number}")) == {"w": step}
    deepest = steps[MAX_DELTA_LINKS]
    (later,) = casmodels.steps(1, seed=7, start=deepest)
    data = casmodels.build([casmodels.manifest("n:1", {"w": later})], [casmodels.against(later, deepest)])
    assert take(data) == ["n:1"]
    check_catalog()
    assert streamed(store.get("n:1")) == {"w": later}
    settled()


def test_a_delta_grouped_by_what_is_a_delta_here(
    store: casstore.Store, take, settled: Check, check_catalog: Check
) -> None:
    """The archive has the grouping whole, this store as a delta; then the delta cannot be kept as it is."""
    a, b, c = casmodels.steps(3)
    first = casmodels.build(
        [casmodels.manifest("m:1", {"a": a, "b": b})], [casmodels.whole(a), casmodels.against(b, a)]
    )
    second = casmodels.build(
        [casmodels.manifest("n:1", {"b": b, "c": c})], [casmodels.whole(b), casmodels.against(c, b)]
    )
    take(first)
    take(second)
    check_catalog()
    assert streamed(store.get("n:1")) == {"b": b, "c": c}
    settled()


def test_small_files_and_none(source, store: casstore.Store, save: Save, archive, take, settled: Check) -> None:
    files = {"empty": b"", "one": b"1", "hollow": None, "same": b"1", "kilo": b"k" * 1000}
    save("m:1", files, into=source)
    save("m:2", {"empty": b""}, into=source)
    with source.create("m:3"):
        pass
    data = archive(["m:1", "m:2", "m:3"])
    assert take(data, materialize=True) == ["m:1", "m:2", "m:3"]
    assert contents(store.get("m:1")) == {name: content for name, content in files.items() if content is not None}
    assert contents(store.get("m:2")) == {"empty": b""}
    assert contents(store.get("m:3")) == {}
    settled()


def test_a_full_import_is_on_disk_when_it_returns(
    run_of, archive, store: casstore.Store, monkeypatch: pytest.MonkeyPatch, sql: Sql
) -> None:
    """Each new pack, and the directory that has its name, before the catalog knows of it."""
    files = run_of(2)
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    store.import_archive(io.BytesIO(archive(files)), durability="full", materialize=False)
    packs = store.home / "objects/packs"
    (pack,) = packs.iterdir()
    assert synced.index(str(pack)) < len(synced) - 1 - synced[::-1].index(str(packs))
    assert sql("SELECT DISTINCT synced FROM container") == [(1,)]


def test_what_is_lost_in_the_store_comes_back(
    store: casstore.Store, run_of, archive, take, settled: Check, check_catalog: Check
) -> None:
    """Packs that are gone or cut short are stored anew, also for versions that are here already."""
    files = run_of(4)
    data = archive(files)
    take(data)
    for number, harm in enumerate((lambda path: path.unlink(), lambda path: os.truncate(path, 100))):
        for path in (store.home / "objects/packs").iterdir():
            path.chmod(0o644)
            harm(path)
        with casstore.Store(store.home) as fresh, pytest.raises(casstore.IntegrityError):
            streamed(fresh.get("run:3"))
        assert take(archive(["run:3"]), as_tag=f"again:{number}") != []
        assert streamed(store.get("run:3")) == files["run:3"]
        assert take(data) == []
        check_catalog()
        assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc(evict_all=True)
    settled()


def test_a_flipped_bit_in_the_store_is_told_from_one_in_the_archive(
    store: casstore.Store, source, save: Save, archive, take, sql: Sql
) -> None:
    save("m:1", {"w": noise(300_000)}, into=source)
    data = archive(["m:1"])
    take(data)
    (pack,) = (store.home / "objects/packs").iterdir()
    sound = pack.read_bytes()
    pack.chmod(0o644)
    pack.write_bytes(sound[:5000] + b"damaged" + sound[5007:])
    save("m:2", {"w": noise(300_000), "new": b"new"}, into=source)
    second = archive(["m:2"])
    at = second.rindex(b"new")
    with pytest.raises(casstore.IntegrityError, match=r"the stream is damaged: chunk .* fetch or copy it again"):
        take(second[:at] + b"neu" + second[at + 3 :])
    # What the store has of it already was never read, until somebody does.
    store.repair()
    assert take(data) == []
    with store.get("m:1").open("w") as file:
        assert file.read() == noise(300_000)


def test_after_a_reboot_relaxed_chunks_that_others_stand_on_are_stored_whole(
    store: casstore.Store, source, save: Save, sql: Sql, check_catalog: Check, sent: Sent
) -> None:
    """The archive has as a delta what this store has whole, with deltas upon it, and cannot rely on any more."""
    one, two, three = (checkpoint(step, size=30_000) for step in (1, 2, 3))
    save("m:2", two, materialize=False, durability="relaxed")
    save("m:3", three, materialize=False, durability="relaxed")
    reboot(sql)
    save("n:1", one, into=source, materialize=False)
    save("n:2", two, into=source, materialize=False)
    assert sent.take(sent.archive(["n:1", "n:2"]), durability="full") == ["n:1", "n:2"]
    check_catalog()
    assert streamed(store.get("n:2")) == two
    assert streamed(store.get("m:3")) == three


@pytest.mark.crash
@pytest.mark.parametrize("place", [0.15, 0.5, 0.8, 0.97, 0.999])
def test_cut_short_and_taken_up_again(
    store: casstore.Store, place, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    files = sent.run_of(3, size=100_000)
    data = sent.archive(files)
    monkeypatch.setattr(receiving, "_PACK_BYTES", 150_000)
    monkeypatch.setattr(receiving, "_BATCH_BYTES", 60_000)
    with pytest.raises(casstore.IntegrityError, match="cut short"):
        sent.take(data[: int(len(data) * place)])
    assert store.tags() == []
    came = sent.pack_bytes()
    assert came > len(data) * place - 450_000, "what came is kept, but for a record that was cut"
    assert store.verify().is_sound
    assert sent.take(data) == list(files)
    assert sent.pack_bytes() < len(data) + 30_000, "nothing was written twice"
    assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc(evict_all=True)
    sent.settled()


def test_leftovers_of_an_import_go_with_gc(store: casstore.Store, leftovers: Leftovers, sent: Sent) -> None:
    data = sent.archive(sent.run_of(2))
    with pytest.raises(casstore.IntegrityError):
        sent.take(data[:-60])
    assert sent.pack_bytes() > len(data) // 2
    report = store.gc()
    assert report.freed_bytes > len(data) // 2
    assert sent.pack_bytes() == 0
    sent.settled()
    assert len(sent.take(data)) == 2


def test_a_failing_stream(store: casstore.Store, run_of, archive, take, pack_bytes, settled: Check) -> None:
    """Not cut short, but broken: the error is the stream's own, what came is kept."""
    files = run_of(3)
    data = archive(files)

    class Broken(io.RawIOBase):
        position = 0

        def read(self, size=-1):
            if self.position > len(data) * 0.7:
                raise ConnectionResetError("the line is broken")
            piece = data[self.position : self.position + min(size, 5000)]
            self.position += len(piece)
            return piece

    with pytest.raises(ConnectionResetError, match="the line is broken"):
        take(Broken())
    assert pack_bytes() > len(data) // 2
    assert take(data) == list(files)
    assert pack_bytes() < len(data) * 1.1
    settled()


def test_killed_in_between(
    store: casstore.Store, home: Path, sql: Sql, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    files = sent.run_of(4, size=100_000)
    data = sent.archive(files)
    monkeypatch.setattr(receiving, "_PACK_BYTES", 150_000)
    read_end, write_end = os.pipe()

    def run():
        os.close(write_end)
        with casstore.Store(home) as there, open(read_end, "rb") as stream:
            there.import_archive(stream, durability="relaxed")

    importing = Child(run)
    os.close(read_end)
    with open(write_end, "wb") as sink:
        sink.write(data[: len(data) * 3 // 4])
        sink.flush()
        deadline = time.monotonic() + 60
        while sql("SELECT count(*) FROM container")[0][0] < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert importing.kill() == -9
    assert store.tags() == []
    kept = sum(row[0] for row in sql("SELECT size FROM container"))
    assert kept > 300_000
    before = sent.pack_bytes()
    assert sent.take(data) == list(files)
    assert sent.pack_bytes() - before < len(data) - kept + 30_000, "what had come is not written again"
    assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc(evict_all=True)
    store.gc(evict_all=True)
    sent.settled()


class Watched(io.BytesIO):
    """Does something at every few reads."""

    def __init__(self, data, action, every=40, *, seekable=True):
        super().__init__(data)
        self._action = action
        self._every = every
        self._count = 0
        self._seekable = seekable

    def seekable(self):
        return self._seekable

    def read(self, size=-1):
        self._count += 1
        if self._count % self._every == 0:
            self._action()
        return super().read(size)


@pytest.mark.crash
@pytest.mark.parametrize("seekable", [True, False])
def test_beside_gc_in_the_same_process(
    store: casstore.Store, home: Path, seekable, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    files = sent.run_of(4, size=100_000)
    data = sent.archive(files)
    monkeypatch.setattr(receiving, "_PACK_BYTES", 100_000)
    sent.take(sent.archive(["run:1"]), as_tag="here:1")
    with casstore.Store(home) as other:
        assert sent.take(Watched(data, lambda: other.gc(evict_all=True), every=4, seekable=seekable)) == list(files)
    assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc(evict_all=True)
    sent.settled()


@pytest.mark.crash
def test_beside_gc_in_another_process(
    store: casstore.Store, home: Path, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    files = sent.run_of(4, size=100_000)
    data = sent.archive(files)
    monkeypatch.setattr(receiving, "_PACK_BYTES", 100_000)
    stop, go_on = os.pipe()

    def collect():
        os.close(go_on)
        os.set_blocking(stop, False)
        with casstore.Store(home) as there:
            while True:
                there.gc(evict_all=True)
                try:
                    if os.read(stop, 1) == b"":
                        return
                except BlockingIOError:
                    pass

    collecting = Child(collect)
    os.close(stop)
    for number in range(4):
        pause = Watched(data, lambda: time.sleep(0.004), every=5)
        taken = sent.take(pause) if number == 0 else store.import_archive(pause, durability="relaxed")
        assert len(taken) == 4
        for tag in files:
            assert streamed(store.get(tag)) == files[tag]
            if number < 3:
                store.delete(tag)
        if number < 3:
            assert store.tags() == []
            with pytest.raises(casstore.IntegrityError):
                sent.take(data[: len(data) // 2])
    os.close(go_on)
    assert collecting.wait() == 0
    store.gc(evict_all=True)
    sent.settled()


@pytest.mark.usefixtures("no_trash")
@pytest.mark.parametrize("seekable", [True, False])
def test_gc_takes_what_an_import_had_counted_on(store: casstore.Store, home: Path, seekable, sent: Sent) -> None:
    """Another version that had it was deleted meanwhile: read again where that can be, otherwise the user is told."""
    files = sent.run_of(3)
    sent.take(sent.archive(["run:0"]), as_tag="here:1")
    data = sent.archive(files)

    def remove():
        with casstore.Store(home) as other:
            if "here:1" in other.tags():
                other.delete("here:1")
                other.gc(evict_all=True)

    stream = Watched(data, remove, every=6, seekable=seekable)
    if seekable:
        assert sent.take(stream) == list(files)
    else:
        with pytest.raises(casstore.StoreError, match="import it again"):
            sent.take(stream)
        assert store.tags() == []
        assert sent.take(data) == list(files)
    assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc(evict_all=True)
    sent.settled()


def test_what_is_new_is_told_also_when_it_took_two_tries(
    store: casstore.Store, run_of, archive, take, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = run_of(3)
    real, calls = commit_stored, []

    def commit(workspace, session, manifest, event, **options):
        calls.append(manifest.tag)
        if len(calls) == 2:
            raise ChunkVanished
        return real(workspace, session, manifest, event, **options)

    monkeypatch.setattr(casmodel_import, "commit_stored", commit)
    monkeypatch.setattr(casmodel_import, "_MOST_TOGETHER", 1)
    assert take(archive(files)) == list(files)


def test_many_versions_come_in_few_transactions(
    store: casstore.Store, run_of, archive, take, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = run_of(5)
    real, groups = Commits.commit_together, []

    def commit(self, versions):
        groups.append([str(each.manifest.tag) for each in versions])
        real(self, versions)

    monkeypatch.setattr(Commits, "commit_together", commit)
    monkeypatch.setattr(casmodel_import, "_MOST_TOGETHER", 2)
    assert take(archive(files)) == list(files)
    assert groups == [list(files)[:2], list(files)[2:4]]
    assert {tag: streamed(store.get(tag)) for tag in files} == files


def test_what_another_process_saves_meanwhile_is_no_failure(
    store: casstore.Store, home: Path, run_of, archive, take, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = run_of(3)
    real, data = commit_stored_together, archive(files)

    def commit(*arguments, **options):
        monkeypatch.setattr(casmodel_import, "commit_stored_together", real)
        with casstore.Store(home, auto_gc=False) as other:
            other.import_archive(io.BytesIO(data))
        real(*arguments, **options)

    monkeypatch.setattr(casmodel_import, "commit_stored_together", commit)
    assert take(data) == []
    assert {tag: streamed(store.get(tag)) for tag in files} == files
    store.gc()
    assert {step.count for step in store.gc().steps} == {0}


def test_a_directory_that_cannot_be_made_is_no_failure(
    store: casstore.Store, run_of, archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The versions are saved, and asking for the path tries again."""
    files = run_of(1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("casstore.actions.exchange.importing.materialize", fail)
        (imported,) = store.import_archive(io.BytesIO(archive(files)))
    assert imported.is_new
    assert "could not be made: [Errno 28] No space left" in imported.notes[0]
    assert Path(imported.model.path, "step.txt").read_bytes() == files["run:0"]["step.txt"]


def test_in_two_threads_at_once(store: casstore.Store, run_of, archive, settled: Check) -> None:
    files = run_of(3)
    data = archive(files)
    failures = []

    def run():
        try:
            store.import_archive(io.BytesIO(data), durability="relaxed")
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {tag: streamed(store.get(tag)) for tag in store.tags()} == files
    store.gc(evict_all=True)
    store.gc(evict_all=True)
    settled()


@pytest.mark.parametrize("size", [3, 3_000_000])
def test_a_file_that_cannot_be_sent_is_named(
    store: casstore.Store, save: Save, home: Path, tmp_path: Path, size: int
) -> None:
    save("m:1", {"lost.bin": noise(size), "w": b"sound"}, materialize=False)
    for path in (home / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(bytes(path.stat().st_size))
    remote = store.add_remote("there", str(tmp_path / "remote"))
    for send in (lambda: store.export("m:1", tmp_path / "x.casmodel"), lambda: remote.push("m:1")):
        with pytest.raises(
            casstore.IntegrityError, match=r"^lost\.bin cannot be read: .*; `casstore verify` names every file"
        ):
            send()
