"""Damage anywhere in any file: the right bytes come out, or an error that names what is lost; never others.

CASSTORE_TEST_EVERY=1 flips every bit of headers, footers and manifests and cuts at every boundary; by default a sample.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.storage import pack
from tests.crash.scenarios import copy_store, write
from tests.kit import EVERY, checkpoint, noise

pytestmark = pytest.mark.crash

EDGE = 64  # bytes at both ends of a file, and of each record, where headers and footers are
PAYLOAD_FLIPS = 400 if EVERY else 1
FLIPS = None if EVERY else 4  # of a file's headers and footers
CUTS = None if EVERY else 3
PAGE = 4096


@pytest.fixture
def versions():
    """tag: files, of which some are shared, some deltas of others, some small."""
    steps = {f"run:{step}": checkpoint(step) for step in range(3)}
    return {**steps, "a:1": {"w.bin": noise(300_000, 1), "few/x.txt": b"x", "empty": b""}, "b:1": {"x": b"x"}}


@pytest.fixture
def template(versions, ground: Path):
    """A store with packs of whole chunks and of deltas, a loose file, and directories."""
    home = ground / "template"
    with casstore.Store(home, auto_gc=False) as store:
        for tag, files in versions.items():
            with store.create(tag, labels={"tag": tag}, materialize=not tag.startswith("run")) as draft:
                write(Path(draft.path), files)
    return home


@pytest.fixture
def trial(template, versions, ground: Path):
    """trial(path, change): what becomes of a copy of the store whose file's bytes were changed so."""
    home = ground / "store"

    def run(path, change):
        shutil.rmtree(home, ignore_errors=True)
        copy_store(template, home)
        target = home / path
        data = target.read_bytes()
        target.chmod(0o644)
        status = target.stat()
        target.write_bytes(change(data))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        return outcome(home, versions)

    return run


def outcome(home, versions):
    """Open it, read all, verify, repair, read again; returns what was met, in a word."""
    try:
        store = casstore.Store(home, auto_gc=False)
    except casstore.CasstoreError as error:
        assert str(error)
        return "refused"
    with store:
        try:
            assert set(store.tags()) <= versions.keys()
            lost = unreadable(store, versions)
            report = store.verify()
        except casstore.CasstoreError as error:
            assert str(error)
            return "refused"
        named = {(each.tag, each.path) for each in report.damage}
        assert lost <= named, report.reasons  # of the others some copy stands, from which they are read
        repaired = store.repair()
        assert {(each.tag, each.path) for each in repaired.damage} == named - {
            (each.tag, each.path) for each in repaired.healed
        }
        assert unreadable(store, versions) == {(each.tag, each.path) for each in repaired.damage}
        after = store.verify()
        assert (after.damaged_copies, after.damaged_records) == ((), ())
        if named:
            return "lost" if repaired.damage else "healed"
        return "harmless" if report.is_sound else "found"


def unreadable(store, versions):
    found = set()
    for tag, files in versions.items():
        for path, data in files.items():
            try:
                with store.get(tag).open(path) as file:
                    assert file.read() == data
            except casstore.IntegrityError as error:
                assert tag in str(error)
                assert path in str(error)
                found.add((tag, path))
    return found


def sample(rng, population, count):
    return population if count is None or count >= len(population) else sorted(rng.sample(population, count))


def flip(bit):
    return lambda data: data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]


def files_of(template):
    """Each kind of file: (path below the home, offsets where something begins)."""
    found: dict[str, list[Any]] = {"pack": [], "loose": [], "manifest": []}
    for path in sorted((template / "objects/packs").iterdir()):
        found["pack"].append((path.relative_to(template), [entry.offset for entry in pack.read_entries(path)]))
    found["loose"] = [(p.relative_to(template), [0]) for p in sorted((template / "objects/loose").glob("*/*.*"))]
    found["manifest"] = [(p.relative_to(template), [0]) for p in sorted((template / "manifests").glob("[!.]*/*"))]
    return found


@pytest.mark.parametrize("kind", ["pack", "loose", "manifest"])
def test_flipped_bits(kind, template, trial) -> None:
    rng = random.Random(kind)
    outcomes: Counter[str] = Counter()
    for path, starts in files_of(template)[kind]:
        size = (template / path).stat().st_size
        edges = {0, size, *starts}
        near = {each for edge in edges for each in range(edge - EDGE, edge + EDGE) if 0 <= each < size}
        if kind == "manifest":
            near = set(range(size))
        bits = sample(rng, sorted(8 * each + bit for each in near for bit in range(8)), FLIPS)
        bits += [rng.randrange(8 * size) for _ in range(PAYLOAD_FLIPS)]
        outcomes.update(trial(path, flip(bit)) for bit in bits)
    print(f"flipped bits, {kind}: {sum(outcomes.values())} flips, {dict(outcomes)}")
    assert outcomes


@pytest.mark.parametrize("kind", ["pack", "loose", "manifest"])
def test_cut_short(kind, template, trial) -> None:
    rng = random.Random(kind)
    outcomes: Counter[str] = Counter()
    for path, starts in files_of(template)[kind]:
        size = (template / path).stat().st_size
        cuts = {each + beside for each in (0, size, *starts) for beside in (-1, 0, 1)}
        if kind == "manifest":
            cuts = set(range(size))
        inside = sorted(each for each in cuts if 0 <= each < size)
        outcomes.update(trial(path, lambda data, end=cut: data[:end]) for cut in sample(rng, inside, CUTS))
    print(f"cut short, {kind}: {sum(outcomes.values())} cuts, {dict(outcomes)}")
    assert outcomes


@pytest.mark.filterwarnings("ignore:the (name|version)")  # one that is damaged may have capitals
@pytest.mark.parametrize("change", ["flip", "cut", "zero"])
def test_a_damaged_catalog(change, template, versions, ground: Path) -> None:
    """Bytes are right or refused; verify tells; a catalog that is made anew has every version whole."""
    rng = random.Random(change)
    size = (template / "catalog.db").stat().st_size
    headers = [8 * each + bit for page in range(0, size, PAGE) for each in range(page, page + 12) for bit in range(8)]
    bits = sample(rng, [*range(800), *headers], 1500 if EVERY else 12) + [
        rng.randrange(8 * size) for _ in range(1500 if EVERY else 12)
    ]
    changes = {
        "flip": [flip(bit) for bit in bits],
        "cut": [lambda data, end=end: data[:end] for end in sample(rng, range(0, size, PAGE // 2), CUTS)],
        "zero": [
            lambda data, page=page: data[:page] + bytes(PAGE) + data[page + PAGE :]
            for page in sample(rng, range(0, size, PAGE), CUTS)
        ],
    }[change]
    outcomes: Counter[str] = Counter()
    home = ground / "store"
    for make in changes:
        shutil.rmtree(home, ignore_errors=True)
        copy_store(template, home)
        (home / "catalog.db").write_bytes(make((home / "catalog.db").read_bytes()))
        outcomes[catalog_outcome(home, versions)] += 1
        assert casstore.Store.rebuild_catalog(home).unreadable == ()
        with casstore.Store(home, auto_gc=False) as store:
            assert set(store.tags()) == versions.keys()
            assert unreadable(store, versions) == set()
            assert [model.labels for model in store.list()] == [{"tag": str(model.tag)} for model in store.list()]
            assert store.verify().is_sound
    print(f"catalog, {change}: {sum(outcomes.values())} changes, {dict(outcomes)}")
    assert outcomes


def catalog_outcome(home, versions):
    """Read everything, then verify; returns what was met, in a word."""
    try:
        with casstore.Store(home, auto_gc=False) as store:
            is_same = set(store.tags()) == versions.keys()
            for tag in store.tags():
                try:
                    model = store.get(tag)
                    is_same &= model.labels == {"tag": tag} and tag in versions
                    for file in model.files:
                        with model.open(file.path) as reader:
                            data = reader.read()
                        is_same &= versions.get(tag, {}).get(file.path) == data
                        assert casstore.Digest.of(data) == file.digest
                except casstore.CasstoreError as error:
                    assert str(error)
                    is_same = False
            report = store.verify()
            assert is_same or not report.is_sound
            return "harmless" if report.is_sound else "found"
    except casstore.CasstoreError as error:
        assert str(error)
        return "refused"
