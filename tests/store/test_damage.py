"""Damage under deltas: readers are told which file of which version is lost, and gc neither loses nor spreads any."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import pytest

import casstore
from casstore.storage.objects import Objects
from tests.kit import Check, Leftovers, Save, Sql, counts, flip, noise, safetensors, streamed, weights

pytestmark = pytest.mark.crash


@pytest.fixture
def run(store: casstore.Store, save: Save):
    """run(count): versions m:0, m:1 ... of one file of two tensors of one chunk each, and one that never changes."""

    def make(count, **options):
        expected = {}
        for step in range(count):
            tensors = {name: ("F32", weights("F32", 40 + n, step, 200_000)) for n, name in enumerate("ab")}
            expected[f"m:{step}"] = {
                "w.safetensors": safetensors(tensors),
                "fixed.safetensors": safetensors({"f": ("F32", weights("F32", 50, 0, 200_000))}),
            }
            save(f"m:{step}", expected[f"m:{step}"], **options)
        return expected

    return make


@pytest.fixture
def locations(store: casstore.Store, sql: Sql):
    """locations(tag, path): where the file's tensors stand, by name: (path of the container, offset, length, base)."""

    def find(tag, path):
        file = next(file for file in store.get(tag).files if file.path == path)
        recipe = store._workspace.catalog.index.recipes([file.digest])[file.digest]
        found = {}
        for segment in recipe.segments:
            if segment.name is not None:
                for digest, _ in segment.chunks:
                    location = store._workspace.catalog.index.locate([digest])[digest]
                    found[segment.name] = (Path(location.container.path(store._workspace.layout)), location, digest)
        return found

    return find


def named(report):
    return [(damage.tag, damage.path) for damage in report.damage]


def harm_record(place, how):
    path, location, _ = place
    if how == "delete":
        path.unlink()
    elif how == "header":
        flip(path, location.offset + 20)
    else:
        flip(path, location.offset + location.length - 5)


@pytest.mark.parametrize("how", ["payload", "header"])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_damaged_link_loses_what_stands_on_it_and_nothing_else(
    store: casstore.Store, run, locations, how, step
) -> None:
    expected = run(4, materialize=False)
    chain = {tag: locations(tag, "w.safetensors")["a"][1].base for tag in expected}
    assert None not in [chain[f"m:{n}"] for n in (1, 2, 3)]
    place = locations(f"m:{step}", "w.safetensors")["a"]
    harm_record(place, how)
    lost = [(f"m:{n}", "w.safetensors") for n in range(step, 4)]
    report = store.verify()
    assert named(report) == lost
    assert all(str(place[2]) in reason for reason in report.reasons), "each names the chunk that is damaged"
    for tag, files in expected.items():
        for path, content in files.items():
            if (tag, path) not in lost:
                assert store.get(tag).open(path).read() == content
                continue
            with pytest.raises(casstore.IntegrityError) as caught, store.get(tag).open(path) as file:
                file.read()
            assert f"{path} of {tag} cannot be read" in str(caught.value)
            assert str(place[2]) in str(caught.value)
            assert "casstore verify" in str(caught.value)
            with pytest.raises(casstore.IntegrityError, match=rf"w\.safetensors of {tag} cannot be read"):
                _ = store.get(tag).path
    assert not any((store.home / "models").glob("*/*/")), "nothing of them is left"
    assert [p for p in (store.home / "sessions").rglob("*") if p.is_file() and p.suffix != ".lock"] == []


@pytest.mark.parametrize("how", ["payload", "delete"])
def test_a_damaged_grouping_that_is_no_link_of_the_chain(
    store: casstore.Store, save: Save, run, locations, sql: Sql, how
) -> None:
    """The middle of a chain has been stored whole since, so the start only groups what stands on it."""
    expected = run(3, materialize=False)
    first, middle, last = (locations(f"m:{n}", "w.safetensors")["a"] for n in range(3))
    assert last[1].grouping == first[2]
    assert last[1].base == middle[2]
    middle[0].unlink()  # lost, and saved again by a version that has nothing to stand on
    save("again:1", expected["m:1"], materialize=False)
    middle = locations("m:1", "w.safetensors")["a"]
    assert middle[1].base is None
    assert {tag: streamed(store.get(tag)) for tag in expected} == expected
    harm_record(first, how)
    report = store.verify()
    fixed = [("m:0", "fixed.safetensors"), ("m:1", "fixed.safetensors"), ("m:2", "fixed.safetensors")]
    lost = [("m:0", "w.safetensors"), ("m:2", "w.safetensors")]
    if how == "delete":  # the pack held what never changes too
        assert (
            set(lost)
            <= set(named(report))
            <= {*lost, *fixed, ("again:1", "fixed.safetensors")}
            | {(tag, "w.safetensors") for tag in ("m:1", "again:1")}
        )
    else:
        assert named(report) == lost
        assert store.get("m:1").open("w.safetensors").read() == expected["m:1"]["w.safetensors"]
    with pytest.raises(casstore.IntegrityError, match=r"w\.safetensors of m:2"):
        store.get("m:2").open("w.safetensors").read()


@pytest.mark.parametrize("how", ["flip", "delete"])
def test_a_damaged_loose_file_that_holds_a_base(store: casstore.Store, save: Save, home: Path, how, deltas) -> None:
    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 60, step, 400_000))}), "n": b"%d" % step}

    save("m:0", files(0))
    save("m:1", files(1), materialize=False)
    assert deltas() == 2
    (loose,) = [path for path in (home / "objects/loose").rglob("*") if path.is_file()]
    shutil.rmtree(store.get("m:0").path)
    store._workspace.objects.close()
    if how == "flip":
        flip(loose, 1_000_000)
    else:
        loose.unlink()
    assert named(store.verify()) == [("m:0", "w.safetensors"), ("m:1", "w.safetensors")]
    for tag in ("m:0", "m:1"):
        assert store.get(tag).open("n").read() == b"%d" % int(tag[2:])
        with pytest.raises(casstore.IntegrityError, match=rf"w\.safetensors of {tag} cannot be read"):
            _ = store.list("m")[1 - int(tag[2:])].path


@pytest.mark.parametrize("how", ["payload", "header"])
def test_a_damaged_base_is_none(store: casstore.Store, run, locations, save: Save, how) -> None:
    """What is saved next stands alone, and reads back."""
    expected = run(1, materialize=False)
    harm_record(locations("m:0", "w.safetensors")["a"], how)
    tensors = {name: ("F32", weights("F32", 40 + n, 1, 200_000)) for n, name in enumerate("ab")}
    files = {"w.safetensors": safetensors(tensors)}
    save("m:1", files, materialize=False)
    found = locations("m:1", "w.safetensors")
    assert found["a"][1].base is None
    assert found["b"][1].base is not None
    assert streamed(store.get("m:1")) == files
    assert named(store.verify()) == [("m:0", "w.safetensors")]
    assert len(expected) == 1


def test_gc_packs_around_a_damaged_chunk(store: casstore.Store, save: Save, home: Path, leftovers: Leftovers) -> None:
    """It stays where it is, is reported, and neither it nor what is sound is lost."""

    def files(step):
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 61, step, 600_000))}), "n": b"%d" % step}

    for step in range(3):
        save(f"m:{step}", files(step))
    digest = next(file.digest for file in store.get("m:1").files if file.path == "w.safetensors")
    loose = next((home / "objects/loose").rglob(f"{digest}.*"))
    flip(loose, 1_500_000)  # in the second of three chunks
    report = store.gc(evict_all=True)
    assert report.damaged == 1
    assert {step.name: step.damaged for step in report.steps if step.damaged} == {"packed": 1}
    assert [path for path in (home / "objects/loose").rglob("*") if path.is_file()] == [loose]
    assert leftovers() == []
    for step in (0, 2):
        assert streamed(store.get(f"m:{step}")) == files(step)
    assert named(store.verify()) == [("m:1", "w.safetensors")]
    again = store.gc(evict_all=True)
    assert again.damaged == 1
    assert set(counts(again).values()) == {0}, "nothing is moved any more"
    with store.get("m:1").open("w.safetensors") as file:
        assert file.read(900_000) == files(1)["w.safetensors"][:900_000]
    flip(loose, 1_500_000)
    store._workspace.objects.close()
    assert streamed(store.get("m:1")) == files(1), "what comes back is as it was"
    assert store.gc(evict_all=True).damaged == 0
    assert [path for path in (home / "objects/loose").rglob("*") if path.is_file()] == []
    assert streamed(store.get("m:1")) == files(1)


@pytest.mark.usefixtures("no_trash")
@pytest.mark.parametrize("how", ["payload", "header"])
def test_gc_rewrites_around_a_damaged_record(
    store: casstore.Store, save: Save, home: Path, sql: Sql, leftovers: Leftovers, how
) -> None:
    part = {f"{n}.bin": noise(100_000, n) for n in range(9)}
    save("m:1", part, materialize=False)
    kept = {name: part[name] for name in ("1.bin", "2.bin")}
    save("m:2", kept, materialize=False)
    (pack,) = (home / "objects/packs").iterdir()
    digest = next(file.digest for file in store.get("m:2").files if file.path == "1.bin")
    ((offset, length),) = sql("SELECT offset, length FROM chunk WHERE digest = ?", (bytes(digest),))
    spot = offset + (20 if how == "header" else length - 5)
    flip(pack, spot)
    store.delete("m:1")
    report = store.gc()
    assert {step.name: step.damaged for step in report.steps if step.damaged} == {"rewritten": 1}
    assert pack.exists(), "it is the container of the damaged chunk"
    assert leftovers() == []
    assert store.get("m:2").open("2.bin").read() == kept["2.bin"]
    assert named(store.verify()) == [("m:2", "1.bin")]
    again = store.gc()
    assert again.damaged == 1
    assert set(counts(again).values()) == {0}
    flip(pack, spot)
    store._workspace.objects.close()
    assert store.gc().damaged == 0
    assert not pack.exists()
    assert streamed(store.get("m:2")) == kept


def test_gc_packs_what_was_to_be_a_delta_against_a_damaged_chunk(store: casstore.Store, save: Save, home: Path) -> None:
    def files(step):
        own = {f"of step {step}": ("F32", weights("F32", 4, step, 10))}  # so that m:1 has no chunk of m:0
        return {"w.safetensors": safetensors({"w": ("F32", weights("F32", 62, step, 400_000)), **own})}

    save("m:0", files(0), materialize=False)
    save("m:1", files(1))
    for pack in (home / "objects/packs").iterdir():
        for offset in range(100, pack.stat().st_size - 100, 100_000):
            flip(pack, offset)
    store._workspace.objects.close()
    report = store.gc(evict_all=True)
    assert report.damaged == 0, "m:1 is sound, and needs no base"
    assert streamed(store.get("m:1")) == files(1)
    assert named(store.verify()) == [("m:0", "w.safetensors")]


def test_saving_a_lost_base_again_mends_all_that_stands_on_it(
    store: casstore.Store, run, locations, save: Save, check_catalog: Check
) -> None:
    expected = run(4, materialize=False)
    locations("m:1", "w.safetensors")["a"][0].unlink()
    store._workspace.objects.close()
    assert [tag for tag, _ in named(store.verify())] == ["m:1", "m:2", "m:3"]
    save("x:1", expected["m:1"], base="m:0", materialize=False)
    check_catalog()
    assert store.verify().is_sound
    assert {tag: streamed(store.get(tag)) for tag in expected} == expected


def test_a_read_that_fails_otherwise_stops_gc(
    store: casstore.Store, run, monkeypatch: pytest.MonkeyPatch, settled: Check, save: Save
) -> None:
    """A disk that answers with an error is no reason to take anything away; the next gc goes on."""
    expected = run(2)
    expected["o:1"] = {"o.bin": noise(2_000_000)}
    save("o:1", expected["o:1"])
    real = Objects.read_chunk

    def read_chunk(self, digest):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Objects, "read_chunk", read_chunk)
    with pytest.raises(OSError, match="Input/output"):
        store.gc(evict_all=True)
    monkeypatch.setattr(Objects, "read_chunk", real)
    assert {tag: streamed(store.get(tag)) for tag in expected} == expected
    store.gc(evict_all=True)
    assert {tag: streamed(store.get(tag)) for tag in expected} == expected
    settled()


@pytest.mark.parametrize("saved", list(product([1, 2], [True, False])))
def test_what_stands_on_a_lost_base_is_not_taken_for_stored(
    store: casstore.Store, run, locations, save: Save, check_catalog: Check, saved
) -> None:
    """Its bytes are at hand: they are stored anew, which also mends the older version that has them."""
    which, materialize = saved
    expected = run(4, materialize=False)
    locations("m:0", "w.safetensors")["a"][0].unlink()
    store._workspace.objects.close()
    assert [tag for tag, path in named(store.verify()) if path[0] == "w"] == list(expected)
    save("x:1", expected[f"m:{which}"], materialize=materialize)
    check_catalog()
    assert streamed(store.get("x:1")) == expected[f"m:{which}"]
    assert streamed(store.get(f"m:{which}")) == expected[f"m:{which}"]
    assert "m:0" in store.verify().damaged_tags
    with pytest.raises(casstore.StoreError, match=r"is missing.*gc removed nothing.*casstore repair"):
        store.gc(evict_all=True)
    assert {damage.tag for damage in store.repair().damage} >= {"m:0"}
    store.gc(evict_all=True)
    check_catalog()
    assert streamed(store.get("x:1")) == expected[f"m:{which}"]
