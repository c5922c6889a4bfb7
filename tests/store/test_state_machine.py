"""The store against a plain model of it: hypothesis looks for a run of calls after which the two differ.

CASSTORE_TEST_EVERY=1 tries fifty times as many runs.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import casstore
from casstore.storage.layout import DESCRIPTOR_NAME
from tests.crash.scenarios import leftovers, sql
from tests.kit import EVERY, safetensors, weights

pytestmark = pytest.mark.crash

Files = Mapping[str, bytes]
NAMES = st.sampled_from(["a", "b"])
# A handful, so that versions share files and chunks, and so that what is lost is saved again.
STEPS = st.integers(0, 4)
NUMBER = st.integers(0, 2**32)


def step_files(step: int, *, few: bool) -> Files:
    """Step of a run: one tensor changes a little, one never does; now and then small files too."""
    arrays = {"changes": ("BF16", weights("BF16", 1, step, 30_000)), "fixed": ("BF16", weights("BF16", 2, 0, 20_000))}
    files = {"w.safetensors": safetensors(arrays)}
    if few:
        files |= {"few/step.txt": b"%d" % step, "few/always.txt": b"always", "empty": b""}
    if step % 2:
        files["noise.bin"] = random.Random(step // 2).randbytes(130_000)
    return files


class StoreMachine(RuleBasedStateMachine):
    """`suspects`: tags whose bytes may have been harmed since the last repair; `lost`: (tag, path) that it named."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
        self.home = self.root / "store"
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("casstore.actions.saving.plan.SMALL_FILE_BYTES", 96 << 10)
        self.patch.setattr("casstore.actions.packs.builder.MAX_PACK_BYTES", 150_000)
        self.patch.setattr("casstore.actions.packs.repack._SMALL_PACK_BYTES", 30_000)
        self.store = casstore.Store(self.home, auto_gc=False)
        self.versions: dict[str, Files] = {}
        self.pinned: set[str] = set()
        self.suspects: set[str] = set()
        self.is_flipped = False
        self.is_altered = False
        self.lost: set[tuple[str, str]] = set()
        self.trash: dict[str, tuple[Files, bool]] = {}  # by id, with whether it is pinned
        self.was_harmed = False

    def pick(self, number: int) -> str:
        return sorted(self.versions)[number % len(self.versions)]

    @contextlib.contextmanager
    def damage_allowed(self, tag: str, *paths: str) -> Iterator[None]:
        """What is damaged is refused; whatever else happens must not."""
        try:
            yield
        except casstore.IntegrityError as error:
            assert tag in str(error)
            is_lost = any((tag, path) in self.lost for path in paths or self.versions[tag])
            assert is_lost or tag in self.suspects, error

    @rule(
        name=NAMES, number=st.integers(0, 3), step=STEPS, few=st.booleans(), materialize=st.booleans(),
        durability=st.sampled_from(["full", "relaxed"]), base=st.none() | NUMBER, is_copied=st.booleans(),
    )  # fmt: skip
    def save(self, name, number, step, few, materialize, durability, base, is_copied):
        tag, files = f"{name}:{number}", step_files(step, few=few)
        options: dict[str, Any] = {"materialize": materialize, "durability": durability, "labels": {"step": str(step)}}
        if base is not None and self.versions:
            options["base"] = self.pick(base)
        try:
            if is_copied:
                source = self.root / "source"
                shutil.rmtree(source, ignore_errors=True)
                write(source, files)
                self.store.save(tag, source, **options)
            else:
                with self.store.create(tag, **options) as draft:
                    write(Path(draft.path), files)
        except casstore.TagExists:
            assert tag in self.versions
            return
        assert tag not in self.versions
        self.versions[tag] = files
        if self.is_flipped:
            self.suspects.add(tag)

    @precondition(lambda self: self.versions)
    @rule(number=NUMBER, now=st.booleans())
    def delete(self, number, now):
        tag = self.pick(number)
        self.store.delete(tag, now=now)
        files, is_pinned = self.versions.pop(tag), tag in self.pinned
        if not now:
            self.trash[self.store.deleted()[0].id] = files, is_pinned
        self.pinned.discard(tag)
        self.suspects.discard(tag)
        self.lost = {each for each in self.lost if each[0] != tag}
        with pytest.raises(casstore.TagNotFound):
            self.store.get(tag)

    @precondition(lambda self: self.trash and not self.was_harmed)
    @rule(number=NUMBER, name=NAMES, is_renamed=st.booleans())
    def undelete(self, number, name, is_renamed):
        found = {each.id: each for each in self.store.deleted()}
        assert found.keys() == self.trash.keys()
        which = sorted(found)[number % len(found)]
        tag = f"{name}:back" if is_renamed else str(found[which].tag)
        if tag in self.versions:
            with pytest.raises(casstore.TagExists):
                self.store.undelete(found[which].tag, as_=tag, which=which)
            return
        assert str(self.store.undelete(found[which].tag, as_=tag, which=which).tag) == tag
        self.versions[tag], is_pinned = self.trash.pop(which)
        self.pinned |= {tag} if is_pinned else set()
        self.check_bytes(tag)

    @rule()
    def empty_trash(self):
        try:
            self.store.gc(empty_trash=True)
        except casstore.StoreError as error:
            assert "gc removed nothing" in str(error)
            assert self.is_flipped or self.is_altered
            return
        self.trash.clear()

    @rule(evict_all=st.booleans(), dry_run=st.booleans())
    def gc(self, evict_all, dry_run):
        try:
            self.store.gc(evict_all=evict_all, dry_run=dry_run)
        except casstore.StoreError as error:  # before repair has given up what is missing
            assert "gc removed nothing" in str(error)
            assert self.is_flipped or self.is_altered

    @precondition(lambda self: self.versions)
    @rule(number=NUMBER, is_on=st.booleans())
    def pin(self, number, is_on):
        tag = self.pick(number)
        (self.store.pin if is_on else self.store.unpin)(tag)
        (self.pinned.add if is_on else self.pinned.discard)(tag)

    @rule()
    def reopen(self):
        self.store.close()
        self.store = casstore.Store(self.home, auto_gc=False)

    @precondition(lambda self: self.versions)
    @rule(number=NUMBER)
    def read(self, number):
        self.check_bytes(self.pick(number))

    @precondition(lambda self: self.versions)
    @rule(number=NUMBER, offset=st.integers(0, 200_000), length=st.integers(0, 90_000))
    def read_part(self, number, offset, length):
        tag = self.pick(number)
        for path, data in self.versions[tag].items():
            with self.damage_allowed(tag), self.store.get(tag).open(path) as file:
                file.seek(offset)
                assert file.read(length) == data[offset : offset + length]

    @precondition(lambda self: self.versions)
    @rule(number=NUMBER)
    def path(self, number):
        tag = self.pick(number)
        with self.damage_allowed(tag):
            root = Path(self.store.get(tag).path)
            found = {str(each.relative_to(root)): each.read_bytes() for each in root.rglob("*") if each.is_file()}
            found.pop(DESCRIPTOR_NAME)
            # A flipped bit of a hardlinked file tells nobody until it is read through the store.
            assert found == self.versions[tag] or self.is_flipped

    @precondition(lambda self: self.versions)
    @rule(number=NUMBER, which=NUMBER, how=st.sampled_from(["write", "cut", "remove"]))
    def user_alters(self, number, which, how):
        """Somebody changes a file of a directory, through which it may be the store's own bytes that change."""
        tag = self.pick(number)
        root = self.home / "models" / tag.replace(":", "/")
        standing = sorted(path for path in root.rglob("*") if path.is_file())
        if not standing:
            return
        self.is_altered = True
        path = standing[which % len(standing)]
        if how == "remove":
            path.parent.chmod(0o755)
            path.unlink()
            return
        path.chmod(0o644)
        with open(path, "r+b") as file:
            if how == "cut":
                file.truncate(path.stat().st_size // 2)
            else:
                file.write(b"altered")
        self.suspects |= self.versions.keys()

    @precondition(lambda self: self.versions)
    @rule(which=NUMBER, offset=NUMBER, how=st.sampled_from(["flip", "flip", "cut", "remove"]))
    def disk_harms(self, which, offset, how):
        """A bit of a container flips and no time stamp tells, or it is cut short, or gone."""
        containers = sorted(path for path in (self.home / "objects").rglob("*") if path.is_file())
        if not containers:
            return
        path = containers[which % len(containers)]
        status = path.stat()
        if how == "remove":
            path.unlink()
        elif status.st_size:
            if how == "flip":
                flip(path, offset % status.st_size, offset)
            else:
                path.chmod(0o644)
                os.truncate(path, offset % status.st_size)
                path.chmod(status.st_mode & 0o777)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.is_flipped = self.was_harmed = True
        self.suspects |= self.versions.keys()

    @precondition(lambda self: self.versions and not (self.suspects or self.lost or self.is_flipped or self.is_altered))
    @rule(number=NUMBER, which=NUMBER, name=NAMES, evict_all=st.booleans())
    def disk_harms_what_is_saved_again(self, number, which, name, evict_all):
        """A bit of a record in a pack flips; the same content is saved from good bytes; gc loses no version."""
        tag, again = self.pick(number), f"{name}:again"
        query = "SELECT chunk.digest FROM chunk JOIN container ON id = container WHERE container.digest IS NULL"
        packed = {row[0] for row in sql(self.home, query)}
        index = self.store._workspace.catalog.index
        blobs = [file.digest for file in self.store.get(tag).files]
        recipes = index.recipes(blobs)
        own = {chunk for blob in blobs for chunk in (recipes[blob].digests if blob in recipes else [blob])}
        chunks = sorted(own & packed)
        if again in self.versions or not chunks:
            return
        chunk = chunks[which % len(chunks)]
        home = index.locate([chunk])[chunk]
        flip(Path(home.container.path(self.store._workspace.layout)), home.offset + home.length - 1 - which % 9, which)
        with self.store.create(again) as draft:
            write(Path(draft.path), self.versions[tag])
        self.versions[again] = self.versions[tag]
        for _ in range(2):
            for each in (tag, again):
                self.check_bytes(each)
            self.store.gc(evict_all=evict_all)
        # Until gc has taken every copy away, the home may be as it was; a deletion takes copies unasked.
        self.is_flipped = self.was_harmed = True
        self.suspects |= self.versions.keys()

    @precondition(lambda self: self.versions and not (self.is_flipped or self.is_altered or self.lost or self.suspects))
    @rule(evict_all=st.booleans())
    def mix_moments(self, evict_all):
        """The catalog of before a gc under the files of after it: repair makes every version whole, and loses none."""
        self.store.close()
        old = self.root / "old.db"
        shutil.copy(self.home / "catalog.db", old)  # closed by all, it has no log
        with casstore.Store(self.home, auto_gc=False) as store:
            store.gc(evict_all=evict_all)
        shutil.copy(old, self.home / "catalog.db")
        self.store = casstore.Store(self.home, auto_gc=False)
        with contextlib.suppress(casstore.StoreError):
            self.store.gc()
        report = self.store.repair()
        assert (report.damage, self.store.repair().damage) == ((), ())
        for tag in self.versions:
            self.check_bytes(tag)
        self.store.gc()
        for tag in self.versions:
            self.check_bytes(tag)

    @rule(how=st.sampled_from([("-a",), ("-r",), ("-a", "--no-preserve=timestamps,links")]))
    def copied(self, how):
        """The store is copied by a tool that keeps hardlinks and times, or does not, and goes on from the copy."""
        self.store.close()
        copy = self.root / "copy"
        subprocess.run(["cp", *how, "--", str(self.home), str(copy)], check=True)
        shutil.rmtree(self.home)
        copy.rename(self.home)
        self.store = casstore.Store(self.home, auto_gc=False)

    @rule(which=st.sampled_from(["models", "sessions", "locks", "manifests/.pending"]))
    def derived_goes(self, which):
        """What is derived or empty is lost with a copy, or removed by hand."""
        self.store.close()
        shutil.rmtree(self.home / which)
        self.store = casstore.Store(self.home, auto_gc=False)

    @precondition(lambda self: not (self.is_flipped or self.is_altered or self.lost or self.suspects))
    @rule(is_restored=st.booleans(), copy=st.booleans())
    def backed_up(self, is_restored, copy):
        """A backup, new or brought up to date, holds what the store holds; the work may go on in a copy of it."""
        place = self.root / "backup"
        assert self.store.backup(place, copy=copy).damaged == ()
        if is_restored:
            self.store.close()
            shutil.rmtree(self.home)
            subprocess.run(["cp", "-a", "--", str(place), str(self.home)], check=True)
            shutil.rmtree(place)  # of another instance from now on
            self.store = casstore.Store(self.home, auto_gc=False)

    @rule()
    def verify(self):
        """It names all that cannot be read, and nothing of which the home is sound."""
        report = self.store.verify()
        named = {(each.tag, each.path) for each in report.damage}
        self.check_named(named, may_have_copies=True)
        assert report.damaged_records == ()
        if not (self.suspects or self.is_flipped or self.is_altered):
            assert named <= self.lost
            assert report.damaged_copies == ()

    @rule(is_given=st.booleans())
    def repair(self, is_given):
        """Nothing is worse than before; with everything given, all is healed."""
        before = {(each.tag, each.path) for each in self.store.verify().damage}
        given = self.root / "given"
        shutil.rmtree(given, ignore_errors=True)
        given.mkdir()
        for tag, files in self.versions.items():
            write(given / tag, files)
        report = self.store.repair([given] if is_given else [])
        self.lost = {(each.tag, each.path) for each in report.damage}
        self.suspects, self.is_flipped, self.is_altered = set(), False, False
        assert self.lost <= before
        self.check_named(self.lost)
        if is_given:
            assert not self.lost
        verified = self.store.verify()
        assert {(each.tag, each.path) for each in verified.damage} == self.lost
        assert (verified.damaged_copies, verified.damaged_records) == ((), ())

    @invariant()
    def same_tags(self):
        assert set(self.store.tags()) == self.versions.keys()

    def check_named(self, named: set[tuple[str, str]], *, may_have_copies: bool = False) -> None:
        """That these (tag, path) are what cannot be read, by a store that holds no file open from before; or, where
        they may have copies, what could not be read without.
        """
        with casstore.Store(self.home, auto_gc=False) as store:
            for tag, files in self.versions.items():
                try:
                    model = store.get(tag)
                except casstore.IntegrityError:  # its directory was altered, and cannot be mended
                    assert any(each == tag for each, _ in named)
                    continue
                for path, data in files.items():
                    try:
                        with model.open(path) as file:
                            assert file.read() == data
                    except casstore.IntegrityError:
                        assert (tag, path) in named
                    else:
                        assert (tag, path) not in named or may_have_copies

    def check_bytes(self, tag: str) -> None:
        with self.damage_allowed(tag):
            model = self.store.get(tag)
            assert {file.path for file in model.files} == self.versions[tag].keys()
            assert model.is_pinned == (tag in self.pinned)
            for path, data in self.versions[tag].items():
                with self.damage_allowed(tag, path), model.open(path) as file:
                    assert file.read() == data

    def teardown(self) -> None:
        try:
            self.repair(is_given=True)
            for tag in self.versions:
                self.check_bytes(tag)
                self.path(sorted(self.versions).index(tag))
            self.store.gc(empty_trash=True)
            assert {step.count for step in self.store.gc().steps} == {0}
            assert self.store.verify().is_sound
            self.store.close()
            assert leftovers(self.home) == []
            assert sql(self.home, "PRAGMA integrity_check") == [("ok",)]
            assert sql(self.home, "PRAGMA foreign_key_check") == []
        finally:
            self.store.close()
            self.patch.undo()
            shutil.rmtree(self.root, onerror=None, ignore_errors=True)


def flip(path: Path, offset: int, bit: int) -> None:
    status = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit % 8)]))
    path.chmod(status.st_mode & 0o777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def write(root: Path, files: Files) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


TestStateMachine = StoreMachine.TestCase
TestStateMachine.settings = settings(
    max_examples=2000 if EVERY else 20,
    derandomize=not EVERY,  # a short run tells whether a change broke something, a long one looks for what nobody knows
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
