"""The power goes: whatever of the unsynced the disk then has, what was promised is there, and nothing torn is served.

Every change of a run is recorded. After each, the states that a disk may be in (tests/crash/power.py) are mounted as
directories, opened as after a reboot, and checked. By default a sample is checked; CASSTORE_TEST_EVERY=1 checks after
every change, and more states of each.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.catalog.commits import Commits
from casstore.catalog.marks import Marks
from casstore.catalog.repacking import Repacking
from casstore.storage import annotation_log, append_log, machine
from tests.crash.mutants import INTERLEAVED, POWER
from tests.crash.power import Disk, Image, Mark, Name, Operation, Recorder, Sync
from tests.crash.scenarios import leftovers, sql
from tests.kit import EVERY, bento, noise, safetensors, weights

pytestmark = pytest.mark.crash

SAMPLES = 8 if EVERY else 1  # states of a crash point besides the extremes
POINTS = 2  # crash points of a scenario by default
PARTS = 4 if EVERY else 1  # of a scenario, each a test
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Version:
    """What has been promised of a version. `acknowledged`: its save has returned; `leaving`: its deletion has begun, or
    of one in the trash, its return; `kept`: if it is not here, it is in the trash. `said`: the last that was said of it
    after that, and `saying`: what is being said."""

    files: Files
    durable: bool
    acknowledged: bool = False
    leaving: bool = False
    pinned: bool = False
    kept: bool = False
    said: int = 0
    saying: int = 0


@dataclass
class Promises:
    versions: dict[str, Version] = field(default_factory=dict)
    trashed: dict[str, Version] = field(default_factory=dict)
    deleted: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    """Where each may stand: where it was acknowledged last, and where it was being moved to."""

    def note(self, event: Any) -> None:
        kind, tag, *rest = event
        if kind == "moving":
            self.aliases.setdefault(tag, [""]).append(*rest)
        elif kind == "moved":
            self.aliases[tag] = rest
        if kind == "saving":
            self.versions[tag] = Version(*rest)
        elif kind == "saved":
            self.versions[tag] = replace(self.versions[tag], acknowledged=True)
        elif kind == "pinned":
            self.versions[tag] = replace(self.versions[tag], pinned=True)
        elif kind in ("saying", "said"):
            number: dict[str, Any] = {kind: rest[0]}
            self.versions[tag] = replace(self.versions[tag], **number)
        elif kind == "deleting":
            self.versions[tag] = replace(self.versions[tag], leaving=True)
        elif kind == "deleted":
            self.deleted[tag] = self.versions.pop(tag)
        elif kind == "trashing":
            self.versions[tag] = replace(self.versions[tag], leaving=True, kept=True)
        elif kind == "trashed":
            self.trashed[tag] = replace(self.versions.pop(tag), leaving=False, acknowledged=True)
        elif kind == "returning":
            self.trashed[rest[0]] = replace(self.trashed[rest[0]], leaving=True)
            self.versions[tag] = replace(self.trashed[rest[0]], acknowledged=False)
        elif kind == "returned":
            del self.trashed[rest[0]]
            self.versions[tag] = replace(self.versions[tag], acknowledged=True, leaving=False, kept=False)
        elif kind == "emptying":
            self.trashed = {each: replace(version, leaving=True, kept=False) for each, version in self.trashed.items()}
        elif kind == "emptied":
            self.deleted.update(self.trashed)
            self.trashed = {}


class Play:
    """Does things with a store, and marks in the record what is promised."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.home = Path(recorder.root) / "store"
        self.store = casstore.Store(self.home, auto_gc=False)

    def reopen(self) -> None:
        self.store.close()
        self.store = casstore.Store(self.home, auto_gc=False)

    def begin(self) -> None:
        self.recorder.mark(("begin", ""))

    def save(self, tag: str, files: Files, **options: Any) -> None:
        self._saving(tag, files, options)
        with self.store.create(tag, **options) as draft:
            write(Path(draft.path), files)
        self.recorder.mark(("saved", tag))

    def save_copy(self, tag: str, source: Path, files: Files, **options: Any) -> None:
        self._saving(tag, files, options)
        self.store.save(tag, source, **options)
        self.recorder.mark(("saved", tag))

    def take(self, archive: Path, versions: Mapping[str, Files], **options: Any) -> None:
        for tag, files in versions.items():
            self._saving(tag, files, options)
        self.store.import_archive(archive, **options)
        for tag in versions:
            self.recorder.mark(("saved", tag))

    def adopt(self, tree: Path, versions: Mapping[str, Files]) -> None:
        for tag, files in versions.items():
            self._saving(tag, files, {})
        assert set(self.store.adopt(tree).adopted) == set(versions)
        for tag in versions:
            self.recorder.mark(("saved", tag))

    def _saving(self, tag: str, files: Files, options: Mapping[str, Any]) -> None:
        durable = options.get("durability", "full") == "full"
        self.recorder.mark(("saving", tag, {name.removesuffix("!"): data for name, data in files.items()}, durable))

    def delete(self, tag: str) -> None:
        self.recorder.mark(("deleting", tag))
        self.store.delete(tag, now=True)
        self.recorder.mark(("deleted", tag))

    def forget(self, name: str, tags: Collection[str], **rules: Any) -> None:
        for tag in tags:
            self.recorder.mark(("deleting", tag))
        assert {str(tag) for tag in self.store.forget(name, dry_run=False, **rules).forgotten} == set(tags)
        for tag in tags:
            self.recorder.mark(("deleted", tag))

    def trash(self, tag: str) -> None:
        self.recorder.mark(("trashing", tag))
        self.store.delete(tag)
        self.recorder.mark(("trashed", tag))

    def undelete(self, tag: str, target: str) -> None:
        self.recorder.mark(("returning", target, tag))
        self.store.undelete(tag, as_=None if tag == target else target)
        self.recorder.mark(("returned", target, tag))

    def empty_trash(self) -> None:
        self.recorder.mark(("emptying", ""))
        self.store.gc(evict_all=True, empty_trash=True)
        self.recorder.mark(("emptied", ""))

    def move(self, alias: str, version: str) -> None:
        self.recorder.mark(("moving", alias, version))
        self.store.set_alias(alias, f"{alias.partition('@')[0]}:{version}")
        self.recorder.mark(("moved", alias, version))

    def gc(self) -> None:
        self.store.gc(evict_all=True)
        self.recorder.mark(("collected", ""))

    def annotate(self, tag: str, number: int) -> None:
        self.recorder.mark(("saying", tag, number))
        self.store.annotate(tag, metrics={"n": number}, labels={"long": str(number) * 5000})
        self.recorder.mark(("said", tag, number))

    def pin(self, tag: str) -> None:
        self.store.pin(tag)
        self.recorder.mark(("pinned", tag))


def write(root: Path, files: Files) -> None:
    """Write as a program does that never syncs, in pieces."""
    for name, data in files.items():
        path = root / name.removesuffix("!")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755 if name.endswith("!") else 0o644)
        for start in range(0, len(data), 100_000):
            os.write(descriptor, data[start : start + 100_000])
        os.close(descriptor)


Scenario = Callable[[Play], None]


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch):
    """Everything happens with small files too."""
    monkeypatch.setattr("casstore.actions.saving.plan.SMALL_FILE_BYTES", 96 << 10)
    monkeypatch.setattr("casstore.actions.packs.builder.MAX_PACK_BYTES", 200_000)
    monkeypatch.setattr("casstore.actions.packs.repack._SMALL_PACK_BYTES", 30_000)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: no sync is waited for."""
    shared = Path("/dev/shm")
    where = tempfile.mkdtemp(prefix="power-", dir=shared if os.access(shared, os.W_OK) else None)
    yield Path(where)
    shutil.rmtree(where)


@pytest.fixture
def step_files() -> Callable[..., Files]:
    """A step of a training run: tensors that change a little, and one that does not."""

    def files(step: int, seed: int = 0) -> Files:
        tensors = {
            "changes": ("BF16", weights("BF16", seed, step, 40_000)),
            "frozen": ("BF16", weights("BF16", seed + 1, 0, 40_000)),
        }
        return {"w.safetensors": safetensors(tensors), "step.txt": b"%d of %d" % (step, seed)}

    return files


@pytest.fixture
def scenarios(step_files, tmp_path: Path) -> dict[str, Scenario]:
    def mixed(seed: int) -> Files:
        return {
            "adopted.bin": noise(150_000, seed),
            "known.bin": noise(120_000, 1),
            "middle.bin": noise(70_000, seed + 1),
            "deep/er/small.txt": b"small %d" % seed,
            "run!": b"#!%d" % seed,
            "empty": b"",
        }

    def make(play: Play) -> None:
        play.store.set_setting("keep_days", "3")

    def saves(durability: str) -> Scenario:
        def run(play: Play) -> None:
            outside = tmp_path / f"outside-{durability}"
            if not outside.exists():
                write(outside, {"copied.bin": noise(110_000, 7), "few": b"few"})
            play.save("run:0", step_files(0), durability="relaxed", materialize=False)
            play.save("old:1", {"known.bin": noise(120_000, 1)}, durability="relaxed")
            play.begin()
            play.save("m:1", mixed(10), durability=durability)
            play.save("m:2", {**mixed(10), "another": b"one"}, durability=durability)
            play.reopen()
            files = {"copied.bin": noise(110_000, 7), "few": b"few"}
            play.save_copy("copy:1", outside, files, durability=durability)
            play.save("run:1", step_files(1), durability=durability, materialize=False)
            play.save("run:2", step_files(2), durability=durability)

        return run

    def gc(play: Play) -> None:
        # No chunk of it is in base:1 too, whose save would sync its pack.
        alone = safetensors({"changes": ("BF16", weights("BF16", 0, 0, 40_000))})
        play.save("base:0", {"w.safetensors": alone}, durability="relaxed", materialize=False)
        play.save("base:1", step_files(1))
        for step in range(3):
            play.save(f"run:{step}", step_files(step, 30))
        part = {f"{number}.bin": noise(20_000, number) for number in range(5)}
        play.save("dead:1", part, materialize=False)
        play.save("dead:2", {"4.bin": part["4.bin"]}, materialize=False)
        play.save("gone:1", {"gone.bin": noise(100_000, 300)})
        play.begin()
        play.delete("dead:1")
        play.delete("gone:1")
        play.gc()
        play.save("gone:2", {"gone.bin": noise(100_000, 300)})
        play.save("run:3", step_files(3, 30), materialize=False)
        play.delete("run:1")
        play.gc()

    def verbs(play: Play) -> None:
        for step in range(2):
            play.save(f"run:{step}", step_files(step))
        play.save("m:1", mixed(20))
        play.save("m:2", mixed(30))
        play.gc()
        play.begin()
        play.pin("run:1")
        assert os.listdir(play.store.get("run:1").path)
        assert os.listdir(play.store.get("m:1").path)
        (play.home / "models/m/1/run").unlink()
        assert os.listdir(play.store.get("m:1").path)
        play.delete("m:1")
        play.delete("m:2")
        play.save("m:2", mixed(30))

    def forgets(play: Play) -> None:
        for step in range(4):
            play.save(f"run:{step}", step_files(step), materialize=step % 2 == 0)
        play.begin()
        play.store.set_policy("other-*", keep_last=3)
        play.forget("run", ["run:0", "run:1"], keep_last=2)
        play.gc()

    def trash(play: Play) -> None:
        play.save("m:1", mixed(20))
        play.save("run:0", step_files(0), materialize=False)
        play.save("run:1", step_files(1), materialize=False)
        play.begin()
        play.trash("m:1")
        play.undelete("m:1", "m:1")
        play.trash("m:1")
        play.save("m:1", mixed(30))
        play.undelete("m:1", "n:1")
        play.trash("run:0")
        play.gc()
        play.undelete("run:0", "run:0")
        play.trash("run:0")
        play.trash("n:1")
        play.empty_trash()

    def aliases(play: Play) -> None:
        for number in range(3):
            play.save(f"m:r{number}", {"few": b"%d" % number})
        play.begin()
        for number in range(3):
            play.move("m@prod", f"r{number}")
        play.move("m@best", "r1")

    def imports(play: Play) -> None:
        run = {f"run:{step}": step_files(step) for step in range(4)}
        first, second, whole, tar = (tmp_path / name for name in ("1.casmodel", "2.casmodel", "3.casmodel", "m.tar"))
        with casstore.Store(tmp_path / "elsewhere") as elsewhere:
            for tag, files in [*run.items(), ("m:1", mixed(40))]:
                _save(elsewhere, tag, files, materialize=False)
            elsewhere.export(["run:0", "run:1"], first)
            elsewhere.export("run:2", second)
            elsewhere.export(list(run), whole)
            elsewhere.export("m:1", tar)
        play.begin()
        play.take(first, {tag: run[tag] for tag in ("run:0", "run:1")}, materialize=False)
        play.take(second, {"run:2": run["run:2"]}, durability="relaxed", materialize=False)
        play.take(whole, {"run:3": run["run:3"]})
        play.take(tar, {"m:1": mixed(40)})

    def adopts(play: Play) -> None:
        versions = {f"{name}:{number}": mixed(50 + 9 * number + ord(name)) for number in (1, 2) for name in "xy"}
        for number, (tag, files) in enumerate(versions.items(), 1):
            bento(tmp_path / "bento/models", tag, files, created=number)
        play.save("m:1", {"few": b"few"})
        play.begin()
        play.adopt(tmp_path / "bento", versions)

    def annotate(play: Play) -> None:
        play.save("m:1", {"few": b"few"})
        play.begin()
        for number in (1, 2, 3):
            play.annotate("m:1", number)

    return {
        "make": make,
        "annotate": annotate,
        "imports": imports,
        "adopts": adopts,
        "full": saves("full"),
        "relaxed": saves("relaxed"),
        "gc": gc,
        "verbs": verbs,
        "trash": trash,
        "aliases": aliases,
        "forgets": forgets,
    }


NAMES = ["make", "full", "relaxed", "gc", "verbs", "trash", "aliases", "imports", "adopts", "forgets", "annotate"]


def record(scenario: Scenario, root: Path) -> list[Operation]:
    """What the scenario does to the disk; checked to be all that it does."""
    root.mkdir()
    recorder = Recorder(root)
    with recorder.install():
        play = Play(recorder)
        scenario(play)
        play.store.close()
    disk = Disk()
    for operation in recorder.log:
        disk.apply(operation)
    _, everything, *_ = disk.choices(random.Random(), 0)
    assert disk.image(everything).differences(root) == []
    return recorder.log


def check(home: Path, image: Image, promises: Promises) -> None:
    """Mount the disk after a reboot, and hold the store to its promises."""
    home.mkdir()
    stamps = image.mount(home)
    with pytest.MonkeyPatch.context() as patch:
        stamps.install(patch)
        patch.setattr(machine, "boot_id", lambda: "the boot after")
        if (home / "store").exists() or promises.versions:
            number = int(image.digest, 16)
            _check_store(home / "store", promises, gc_first=number % 2 == 0, prune_first=number % 3 == 0)


def _check_store(home: Path, promises: Promises, *, gc_first: bool, prune_first: bool) -> None:
    versions = dict(promises.versions)
    may_be_lost = {tag for tag, version in versions.items() if not version.durable}
    with casstore.Store(home, auto_gc=False) as store:
        _check_aliases(store, promises)
        # Nobody has removed a directory: what is not there was not on disk.
        foreseen = store.sync_tree(prune=True, dry_run=True)
        assert foreseen.deleted == (), f"sync-tree --prune deletes {foreseen.deleted}"
        if prune_first:
            assert store.sync_tree(prune=True).deleted == ()
        if gc_first:
            _gc(store, may_be_lost)
        _check_catalog(home)
        tags = set(store.tags())
        missing = {
            tag for tag, version in versions.items() if version.acknowledged and not version.leaving and tag not in tags
        }
        assert not missing, f"{missing} are lost"
        assert tags <= versions.keys(), f"{tags - versions.keys()} came back"
        known = {tag: version for tag, version in versions.items() if version.kept} | promises.trashed
        _check_trash(store, {tag for tag, version in known.items() if not (version.leaving and tag in tags)}, promises)
        for tag in tags:
            _check_version(store, tag, versions[tag])
    with casstore.Store(home, auto_gc=False) as store:
        for each in store.deleted():
            version = (promises.trashed | promises.deleted | versions)[str(each.tag)]
            back = str(store.undelete(each.tag, as_=f"back:{each.id}").tag)
            versions[back] = replace(version, durable=True)
            tags.add(back)
        # The next saves: what is not there, and new versions of everything.
        for tag, version in {**promises.deleted, **versions}.items():
            if tag not in tags and tag not in store.tags():
                _save(store, tag, version.files)
                versions[tag] = replace(version, durable=True)
                may_be_lost.discard(tag)
        everything = {casstore.Digest.of(data).hex(): data for v in versions.values() for data in v.files.values()}
        versions["after:1"] = Version(everything, durable=True)
        _save(store, "after:1", everything)
        # Its save has stored anew what was lost of relaxed ones.
        for tag in versions.keys() - (tags - may_be_lost):
            _check_version(store, tag, replace(versions[tag], durable=True))
    with casstore.Store(home, auto_gc=False) as store:
        store.gc(evict_all=True)
        second = store.gc(evict_all=True)
        assert not any(step.count or step.skipped for step in second.steps), second
        report = store.verify()
        if may_be_lost and not report.is_sound:  # their manifests
            assert not report.damage
            manifests = [Path(path) for path in report.damaged_copies if home / "manifests" in Path(path).parents]
            assert {f"{path.parent.name}:{path.stem}" for path in manifests} <= may_be_lost
            store.repair()
            report = store.verify()
        assert report.is_sound, report.reasons
        assert leftovers(home) == []
        _check_catalog(home)
        # It has the content of every version.
        _check_version(store, "after:1", versions["after:1"], with_directory=False)


def _check_trash(store: casstore.Store, expected: set[str], promises: Promises) -> None:
    """That what has been deleted is in the trash, or where it has begun to leave that, may be elsewhere."""
    there = {str(each.tag) for each in store.deleted()}
    may_have_left = {tag for tag, version in promises.trashed.items() if version.leaving}
    missing = expected - there - may_have_left
    assert not missing, f"{missing} are lost from the trash"


def _check_aliases(store: casstore.Store, promises: Promises) -> None:
    """That each stands where it may, for the catalog and for one that would be made from its log."""
    standing = {str(each): each.tag.version for each in store.aliases()}
    assert standing.keys() <= promises.aliases.keys()
    for alias, may_be in promises.aliases.items():
        assert standing.get(alias, "") in may_be
        log = append_log.read(store.home / "aliases" / f"{alias.partition('@')[0]}.log")
        logged = [line["version"] for line in log.documents if alias.endswith(f"@{line['alias']}")]
        assert ["", *logged][-1] in may_be


def _gc(store: casstore.Store, may_be_lost: set[str]) -> None:
    """gc, which waits for repair where bytes of relaxed versions are lost."""
    try:
        store.gc(evict_all=True)
    except casstore.StoreError as error:
        assert "gc removed nothing" in str(error)
        assert may_be_lost


def _check_catalog(home: Path) -> None:
    assert sql(home, "PRAGMA integrity_check") == [("ok",)]
    assert sql(home, "PRAGMA foreign_key_check") == []


def _save(store: casstore.Store, tag: str, files: Files, **options: Any) -> None:
    with store.create(tag, **options) as draft:
        write(Path(draft.path), files)


def _check_version(store: casstore.Store, tag: str, version: Version, *, with_directory: bool = True) -> None:
    try:
        model = store.get(tag)
        assert {file.path for file in model.files} == version.files.keys(), f"{tag} is another"
        for name, data in version.files.items():
            with model.open(name) as file:
                assert file.read() == data, f"{name} of {tag} reads wrong"
        if with_directory:
            root = model.path
            for name, data in version.files.items():
                assert Path(root, name).read_bytes() == data, f"{name} in the directory of {tag} is wrong"
            assert Path(root, "model.yaml").read_bytes() == model.open("model.yaml").read()
        assert model.is_pinned or not version.pinned, f"{tag} has lost its pin"
        if version.saying:
            number = model.metadata.get("metrics", {}).get("n", 0)
            assert version.said <= number <= version.saying, f"of {tag} {number} is said, not {version.said}"
            assert model.labels == ({"long": str(number) * 5000} if number else {})
            log = annotation_log.read(store.home / f"annotations/{model.name}.log")
            numbers = {said.value for several in log.said.values() for said in several.values() if said.key == "n"}
            assert not version.said or version.said in numbers, f"the log of {tag} has {numbers}, not {version.said}"
    except casstore.IntegrityError:
        if version.durable:
            raise


@dataclass
class Counts:
    points: int = 0
    states: int = 0
    distinct: int = 0
    violations: list[str] = field(default_factory=list)


def crash(
    log: list[Operation],
    root: Path,
    points: list[int],
    samples: int,
    *,
    stop_at: int = 10,
    part: int = 0,
    parts: int = 1,
) -> Counts:
    """Cut the power after each of these numbers of operations, and check the states of which this is the part."""
    disk, promises, counts = Disk(), Promises(), Counts()
    seen: set[tuple[str, int]] = set()
    wanted, marks = set(points), 0
    for number, operation in enumerate(log, 1):
        disk.apply(operation)
        if isinstance(operation, Mark):
            promises.note(operation.event)
            marks += 1
        if number not in wanted:
            continue
        counts.points += 1
        for choice in disk.choices(random.Random(number), samples):
            image = disk.image(choice)
            counts.states += 1
            if (image.digest, marks) in seen or int(image.digest[-4:], 16) % parts != part:
                continue
            seen.add((image.digest, marks))
            counts.distinct += 1
            home = root / "mounted"
            try:
                check(home, image, promises)
            except Exception:  # noqa: BLE001 - whatever goes wrong is a promise broken
                counts.violations.append(f"after {number}, {operation!r:.200}:\n{traceback.format_exc(limit=-6)}")
                if len(counts.violations) == stop_at:
                    return counts
            finally:
                shutil.rmtree(home, ignore_errors=True)
    return counts


def points_of(log: list[Operation], count: int | None) -> list[int]:
    """The numbers of operations after which the power goes: all since the beginning, or some of them."""
    begin = next((number for number, each in enumerate(log) if isinstance(each, Mark) and each.event[0] == "begin"), 0)
    every = list(range(begin + 1, len(log) + 1))
    if count is None or count >= len(every):
        return every
    marks = [number for number in every if isinstance(log[number - 1], Mark)]
    return sorted(
        {*random.Random(1).sample(marks, min(count // 3, len(marks))), *random.Random(1).sample(every, count)}
    )


def adverse_points(log: list[Operation]) -> Iterator[list[int]]:
    """Where most is unsynced: when something is done, then around each commit, then before every other sync."""
    every = points_of(log, None)
    yield [number for number in every if isinstance(log[number - 1], Mark)]
    catalog = {each.made for each in log if isinstance(each, Name) and each.changes[0][1].startswith("catalog.db")}
    syncs = [number for number in every if isinstance(log[number - 1], Sync)]
    commits = {number for number in syncs if isinstance(sync := log[number - 1], Sync) and sync.inode in catalog}
    yield sorted({*commits, *(number - 1 for number in commits)})
    yield [number - 1 for number in syncs if number not in commits]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", NAMES)
def test_the_power_goes(name, part, scenarios, memory) -> None:
    log = record(scenarios[name], memory / "recorded")
    points = points_of(log, None if EVERY else POINTS)
    counts = crash(log, memory, points, SAMPLES, part=part, parts=PARTS)
    print(
        f"power cut, {name}, part {part + 1} of {PARTS}: {counts.points} of {len(points_of(log, None))} crash points, "
        f"{counts.states} states, {counts.distinct} distinct ones checked"
    )
    assert not counts.violations, "\n\n".join(counts.violations)
    assert counts.points == len(points)


@pytest.mark.parametrize("mutant", POWER, ids=lambda mutant: mutant.name)
def test_what_a_power_cut_needs_is_missed(mutant, scenarios, memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states and the checks above find each of these; by default those are tried that are found soon."""
    if mutant.is_slow and not EVERY:
        pytest.skip("CASSTORE_TEST_EVERY=1 tries it")
    mutant.apply(monkeypatch)
    log = record(scenarios[mutant.scenario], memory / "recorded")
    states, violations = 0, []
    for points in adverse_points(log):
        counts = crash(log, memory, points, 0, stop_at=1)
        states, violations = states + counts.distinct, counts.violations
        if violations:
            break
    assert violations
    print(f"caught: {mutant.name}, after {states} distinct states: {violations[0].splitlines()[-1]}")


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch):
    """once(method, action): run the action when the method is next called, before it."""

    def arrange(owner, name, action):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            monkeypatch.setattr(owner, name, real)
            action()
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    return arrange


def gc_before_a_commit(store, other, once, step_files):
    old, new = {"w.bin": noise(150_000, 1)}, {"w.bin": noise(150_000, 1), "new.bin": noise(150_000, 2), "few": b"few"}
    _save(store, "old:1", old)
    store.delete("old:1", now=True)
    once(Commits, "commit", other.gc)
    _save(store, "m:1", new)
    return {"m:1": new}


def gc_before_a_commit_of_what_is_new(store, other, once, step_files):
    new = {"new.bin": noise(150_000, 2), "few": b"few"}
    once(Commits, "commit", other.gc)
    _save(store, "m:1", new)
    return {"m:1": new}


def a_commit_before_gc_condemns(store, other, once, step_files):
    files = {"w.bin": noise(150_000, 1)}
    _save(store, "old:1", files, materialize=False)
    store.delete("old:1", now=True)
    looked_up, may_commit = threading.Event(), threading.Event()

    def wait():
        looked_up.set()
        assert may_commit.wait(60)

    saving = threading.Thread(target=_save, args=(other, "m:1", files), kwargs={"materialize": False})

    def let_it():
        may_commit.set()
        saving.join()

    once(Commits, "commit", wait)
    saving.start()
    assert looked_up.wait(60)
    once(Marks, "condemn", let_it)
    store.gc()
    return {"m:1": files}


def gc_takes_a_base_before_a_commit(store, other, once, step_files):
    _save(store, "base:0", step_files(0))

    def take():
        other.delete("base:0", now=True)
        other.gc()

    once(Commits, "commit", take)
    _save(store, "m:1", step_files(1), base="base:0", materialize=False)
    return {"m:1": step_files(1)}


def a_delta_upon_the_same_chunk_before_a_commit(store, other, once, step_files):
    _save(store, "m:0", step_files(0))

    def stack():
        _save(other, "n:1", step_files(1), materialize=False, durability="relaxed")
        _save(other, "n:2", step_files(2), materialize=False, durability="relaxed")

    once(Commits, "commit", stack)
    _save(store, "m:1", step_files(1), materialize=False)
    return {"m:0": step_files(0), "m:1": step_files(1), "n:1": step_files(1), "n:2": step_files(2)}


def a_delta_upon_a_chunk_before_gc_moves_it(store, other, once, step_files):
    for step in range(2):
        _save(store, f"m:{step}", step_files(step))
    once(Repacking, "move", lambda: _save(other, "n:2", step_files(2), base="m:1", materialize=False))
    store.gc(evict_all=True)
    return {"m:0": step_files(0), "m:1": step_files(1), "n:2": step_files(2)}


INTERLEAVINGS = {
    function.__name__.replace("_", " "): function
    for function in (
        gc_before_a_commit,
        gc_before_a_commit_of_what_is_new,
        a_commit_before_gc_condemns,
        gc_takes_a_base_before_a_commit,
        a_delta_upon_the_same_chunk_before_a_commit,
        a_delta_upon_a_chunk_before_gc_moves_it,
    )
}


def interleave(name, home, once, step_files):
    """Two stores at once, one stopped in the middle of what it does; then all must be there and read right."""
    with casstore.Store(home, auto_gc=False) as store, casstore.Store(home, auto_gc=False) as other:
        expected = INTERLEAVINGS[name](store, other, once, step_files)
    with casstore.Store(home, auto_gc=False) as store:
        for tag, files in expected.items():
            _check_version(store, tag, Version(files, durable=True), with_directory=False)
        assert store.verify().is_sound
        store.gc(evict_all=True)
        for tag, files in expected.items():
            _check_version(store, tag, Version(files, durable=True))


@pytest.mark.parametrize("name", INTERLEAVINGS)
def test_one_stopped_where_another_might_harm_it(name, home: Path, once, step_files) -> None:
    interleave(name, home, once, step_files)


@pytest.mark.parametrize("mutant", INTERLEAVED, ids=lambda mutant: mutant.name)
def test_what_working_at_once_needs_is_missed(
    mutant, home: Path, once, step_files, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant.apply(monkeypatch)
    with pytest.raises((casstore.CasstoreError, AssertionError)) as caught:
        interleave(mutant.scenario, home, once, step_files)
    print(f"caught: {mutant.name}: {str(caught.value).splitlines()[0]}")
