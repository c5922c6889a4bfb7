"""Remotes from Python: what a store pushes, pulls, reads from afar, and gives up."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import pytest

import casstore
from tests.kit import Child, noise, streamed

BIG = 1_500_000
STEPS = 4


def step(number: int) -> bytes:
    """Weights of which each step changes some."""
    data = bytearray(noise(BIG))
    data[number * 9_000 : number * 9_000 + 3_000] = noise(3_000, number + 1)
    return bytes(data)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def run(store: casstore.Store) -> casstore.Store:
    """A store with a run of four versions, each packed as the difference from the one before."""
    for number in range(STEPS):
        with store.create(f"run:{number}", labels={"step": str(number)}, materialize=False) as draft:
            Path(draft.path, "w.bin").write_bytes(step(number))
            Path(draft.path, "step").write_text(str(number))
    return store


@pytest.fixture
def there(run: casstore.Store, place: Path) -> casstore.Remote:
    return run.add_remote("origin", str(place))


@pytest.fixture
def other(there: casstore.Remote, place: Path, tmp_path: Path) -> casstore.Store:
    """Another store with the same remote, and nothing in it yet."""
    opened = casstore.Store(tmp_path / "other", auto_gc=False)
    opened.add_remote("origin", str(place), make=False)
    return opened


def packs(place: Path) -> set[Path]:
    return set(place.glob("packs/*/*.pack"))


def check(model: casstore.Model) -> None:
    number = int(model.labels["step"])
    assert streamed(model) == {"w.bin": step(number), "step": str(number).encode()}


def test_what_is_pushed_is_pulled(run: casstore.Store, there: casstore.Remote, other: casstore.Store) -> None:
    pushed = there.push("run:1")
    assert [(str(each.tag), each.is_new, each.packs) for each in pushed] == [("run:1", True, 1)]
    pushed = there.push()
    assert [(str(each.tag), each.is_new) for each in pushed] == [
        ("run:0", True), ("run:1", False), ("run:2", True), ("run:3", True),
    ]  # fmt: skip
    assert all(each.sent_bytes < 0.2 * BIG for each in pushed)
    assert [str(ref.tag) for ref in there.list()] == ["run:3", "run:2", "run:1", "run:0"]
    assert [ref.labels for ref in there.list("run")][-1] == {"step": "0"}
    with other.remote() as again:
        first, *rest = again.pull("run")
        assert first.received_bytes > 0.5 * BIG
        assert all(each.received_bytes < 0.2 * BIG for each in rest)
        assert [each.is_new for each in again.pull()] == [False] * STEPS
        assert again.status().same == STEPS
    for model in other.list("run"):
        ours = run.get(model.tag)
        assert (model.digest, model.created_at, model.metadata) == (ours.digest, ours.created_at, ours.metadata)
        check(model)
    assert other.verify().is_sound
    assert Path(other.get("run").path, "step").read_text() == "3"


def test_patterns_and_dry_runs(run: casstore.Store, there: casstore.Remote, other: casstore.Store) -> None:
    assert [each.is_new for each in there.push("run:[01]", dry_run=True)] == [True, True]
    assert there.list() == []
    there.push(["run:0", casstore.Tag("run", "2")])
    assert (there.status().here, there.status().same) == (["run:1", "run:3"], 2)
    with other.remote() as again:
        assert again.pull(dry_run=True) == []
        assert [str(each.model.tag) for each in again.pull("r*")] == ["run:0", "run:2"]
        assert str(again.pull("run:latest")[0].model.tag) == "run:2"
        with pytest.raises(casstore.TagNotFound):
            again.pull("run:9")
        with pytest.raises(casstore.TagNotFound):
            again.pull("other*")
    with pytest.raises(casstore.TagNotFound, match="in this store"):
        there.push("run:9")


def test_a_version_is_read_from_where_it_is(there: casstore.Remote, place: Path) -> None:
    there.push()
    with casstore.Remote(str(place)) as alone:
        model = alone.get("run")
        assert (str(model.tag), model.labels["step"], model.size) == ("run:3", "3", BIG + 1)
        assert {file.path for file in model.files} == {"w.bin", "step"}
        assert model.created_at <= datetime.datetime.now(datetime.timezone.utc)
        with model.open("w.bin") as file:
            file.seek(BIG // 2)
            assert file.read(1000) == step(3)[BIG // 2 :][:1000]
        with pytest.raises(FileNotFoundError, match="has no file"):
            model.open("other")
        with pytest.raises(casstore.TagNotFound, match="casstore list --remote"):
            alone.get("run:9")
        for call in (alone.push, alone.pull, alone.status):
            with pytest.raises(casstore.NoRemote, match="without a store"):
                call()


def test_a_wrong_name_for_a_version_is_no_path(there: casstore.Remote, place: Path) -> None:
    with pytest.raises(casstore.InvalidTag):
        there.list("../..")


def test_another_version_under_a_tag_is_refused(there: casstore.Remote, other: casstore.Store, tmp_path: Path) -> None:
    there.push("run:0")
    (tmp_path / "w").write_bytes(b"other")
    other.save("run:0", tmp_path / "w")
    with other.remote() as again:
        with pytest.raises(casstore.TagExists, match=r"files.* differ"):
            again.push("run:0")
        with pytest.raises(casstore.TagExists, match="saved here already"):
            again.pull("run:0")
        assert again.status().different == ["run:0"]
        (pulled,) = again.pull("run:0", as_tag="theirs:0")
    assert str(pulled.model.tag) == "theirs:0"
    check(pulled.model)


def test_labels_that_differ_are_another_version(
    there: casstore.Remote, other: casstore.Store, run: casstore.Store
) -> None:
    there.push("run:0")
    directory = run.get("run:0").path
    other.save("run:0", directory, labels={"step": "none"})
    with other.remote() as again, pytest.raises(casstore.TagExists, match=r"labels.* differ"):
        again.push("run:0")


def test_python_objects_that_come_are_not_trusted(store: casstore.Store, place: Path, tmp_path: Path) -> None:
    with store.create("m:1", custom_objects={"a": [1]}) as draft:
        Path(draft.path, "w").write_bytes(b"w")
    with store.add_remote("origin", str(place)) as there:
        there.push()
    with casstore.Store(tmp_path / "other") as other, other.add_remote("o", str(place), make=False) as again:
        again.pull("m:1")
        assert other.get("m:1").is_untrusted
        again.pull("m:1", as_tag="m:2", trust=True)
        assert other.get("m:2").custom_objects == {"a": [1]}


def test_deleted_versions_go_with_gc_and_may_come_back(there: casstore.Remote, place: Path) -> None:
    there.push()
    assert there.delete(["run:0", "run:3"]) == ["run:0", "run:3"]
    with pytest.raises(casstore.TagNotFound):
        there.delete("run:3")
    before = packs(place)
    planned = there.gc(dry_run=True)
    assert packs(place) == before
    done = there.gc()
    assert (done.packs, done.freed_bytes) == (planned.packs, planned.freed_bytes)
    assert len(packs(place)) == len(before) - done.packs
    assert done.packs == 1  # the last; what the first brought, the others stand on
    assert there.verify(deep=True).ok
    assert [each.is_new for each in there.push()] == [True, False, False, True]
    assert there.verify(deep=True).ok


def test_a_damaged_remote_gives_nothing_wrong(there: casstore.Remote, other: casstore.Store, place: Path) -> None:
    there.push()
    largest = max(packs(place), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.chmod(0o644)
    largest.write_bytes(data)
    assert there.verify().ok
    report = there.verify(deep=True)
    assert (report.ok, list(report.tags)) == (False, [f"run:{number}" for number in range(STEPS)])
    with other.remote() as again, pytest.raises(casstore.IntegrityError):
        again.pull()
    assert other.list() == []
    alone = casstore.Remote(str(place)).get("run:0")
    with alone.open("w.bin") as file, pytest.raises(casstore.IntegrityError):
        file.read()
    with there.get("run:0").open("w.bin") as file:  # the store has all of it
        assert file.read() == step(0)


def test_where_remotes_are_is_kept_without_secrets(store: casstore.Store, place: Path, home: Path) -> None:
    store.add_remote("origin", str(place), profile="mine").close()
    store.add_remote("nas", str(place), make=False).close()
    assert store.remotes() == {"origin": str(place), "nas": str(place)}
    assert store.default_remote() == "origin"
    with casstore.Store(home) as again:
        assert again.remote("nas").url == str(place)
    store.set_default_remote("nas")
    store.remove_remote("nas")
    assert store.default_remote() == "origin"
    with pytest.raises(casstore.NoRemote):
        store.remote("nas")
    with pytest.raises(casstore.RemoteError, match="credentials in it"):
        store.add_remote("bucket", "https://me:secret@host/bucket")
    assert "secret" not in (home / "remotes.toml").read_text()
    (home / "remotes.toml").write_text("default = 7\n")
    with pytest.raises(casstore.RemoteError, match="mend it"):
        store.remotes()


def test_a_forked_child_uses_a_directory(there: casstore.Remote) -> None:
    there.push("run:0")

    def work() -> None:
        assert [str(ref.tag) for ref in there.list()] == ["run:0"]

    assert Child(work).wait() == 0


def test_a_backup_knows_the_remotes_of_its_store(run: casstore.Store, there: casstore.Remote, tmp_path: Path) -> None:
    there.push()
    run.evict("run:0")
    for _ in range(2):
        run.backup(tmp_path / "backup")
    with casstore.Store(tmp_path / "backup", auto_gc=False) as backup:
        assert backup.remotes() == run.remotes()
        check(backup.get("run:0"))
    run.remove_remote("origin", force=True)
    (run.home / "remotes.toml").unlink()
    run.backup(tmp_path / "another")
    assert not (tmp_path / "another/remotes.toml").exists()


# A store as a cache.


def test_what_is_given_up_is_fetched_when_it_is_asked_for(run: casstore.Store, there: casstore.Remote) -> None:
    there.push()
    digest = run.get("run:1").digest
    assert run.evict(["run:0", "run:1"]) == ["run:0", "run:1"]
    assert [str(each.tag) for each in run.elsewhere()] == ["run:0", "run:1"]
    assert run.elsewhere("run")[1].digest == digest
    assert run.tags() == ["run:3", "run:2"]
    assert run.deleted() == [], "they are not deleted, but elsewhere"
    run.gc(evict_all=True, rewrite=True)
    assert run.verify().is_sound
    for number in (2, 3):  # which stood on what was given up
        check(run.get(f"run:{number}"))
    model = run.get("run:1")
    check(model)
    assert model.digest == digest
    assert Path(model.path, "step").read_text() == "1"
    assert [str(each.tag) for each in run.elsewhere()] == ["run:0"]
    assert run.tags() == ["run:3", "run:2", "run:1"]


def rebuilt(store: casstore.Store) -> tuple[casstore.Store, casstore.RebuildReport]:
    """The store with a catalog that was made again."""
    home = store.home
    store.close()
    (home / "catalog.db").unlink()
    report = casstore.Store.rebuild_catalog(home)
    return casstore.Store(home, auto_gc=False), report


def test_what_was_given_up_is_known_when_the_catalog_was_made_again(
    run: casstore.Store, there: casstore.Remote
) -> None:
    there.push()
    run.evict(["run:0", "run:1", "run:2"])
    check(run.get("run:1"))
    run.delete("run:2")
    before = run.elsewhere()
    run, report = rebuilt(run)
    with run:
        assert run.elsewhere() == before
        assert report.unreadable == ()
        assert run.tags() == ["run:3", "run:1"]
        check(run.get("run:0"))


def test_a_backup_names_what_was_given_up_too(run: casstore.Store, there: casstore.Remote, tmp_path: Path) -> None:
    there.push()
    run.evict("run:0")
    run.backup(tmp_path / "backup")
    backup, _ = rebuilt(casstore.Store(tmp_path / "backup", auto_gc=False))
    with backup:
        assert backup.elsewhere() == run.elsewhere()
    (run.home / "elsewhere.json").unlink()
    run.backup(tmp_path / "backup")
    assert not (tmp_path / "backup/elsewhere.json").exists()


@pytest.mark.parametrize("change", [b"", b"[]", b'{"versions":[]}', b"{"])
def test_what_names_it_is_damaged(change: bytes, run: casstore.Store, there: casstore.Remote) -> None:
    there.push()
    run.evict("run:0")
    (run.home / "elsewhere.json").write_bytes(change)
    run, report = rebuilt(run)
    with run:
        assert "casstore list --remote" in report.unreadable[0]
        assert run.elsewhere() == []
        check(run.get("run:1"))


def test_what_is_to_stay_stays(run: casstore.Store, there: casstore.Remote) -> None:
    there.push(["run:0", "run:1", "run:3"])
    run.pin("run:0")
    for tag, why in (("run:3", "newest"), ("run:0", "pinned"), ("run:2", "push run:2` first")):
        with pytest.raises(casstore.CasstoreError, match=why):
            run.evict(tag)
    path = run.get("run:1").path
    with pytest.raises(casstore.StoreError, match="in use by a process"):
        run.evict("run:1")
    assert Path(path, "step").is_file()
    with pytest.raises(casstore.InvalidTag):
        run.evict("run")
    with pytest.raises(casstore.NoRemote):
        run.evict("run:0", to_remote="nas")
    assert run.elsewhere() == []
    assert len(run.tags()) == STEPS


def test_nothing_is_given_up_that_the_remote_lacks(run: casstore.Store, there: casstore.Remote, place: Path) -> None:
    there.push()
    gone = max(packs(place), key=lambda path: path.stat().st_size)
    kept = gone.read_bytes()
    gone.unlink()
    with pytest.raises(casstore.RemoteError, match="not whole"):
        run.evict("run:0")
    gone.write_bytes(kept[:-1])
    with pytest.raises(casstore.RemoteError, match="not whole"):
        run.evict("run:0")
    shutil.rmtree(place)
    with pytest.raises(casstore.RemoteNotFound):
        run.evict("run:0")
    assert run.elsewhere() == []
    check(run.get("run:0"))


def test_a_name_that_is_given_up_is_taken(run: casstore.Store, there: casstore.Remote, tmp_path: Path) -> None:
    there.push()
    run.evict("run:0")
    (tmp_path / "w").write_bytes(b"other")
    with pytest.raises(casstore.TagExists, match="its bytes are in a remote"):
        run.save("run:0", tmp_path / "w")
    run.delete("run:0")
    assert run.elsewhere() == []
    run.save("run:0", tmp_path / "w")
    assert [str(ref.tag) for ref in there.list()][-1] == "run:0"  # there it stays


def test_an_evicted_version_that_changed_there_is_not_passed_off(
    run: casstore.Store, there: casstore.Remote, other: casstore.Store, tmp_path: Path
) -> None:
    there.push()
    run.evict("run:0")
    there.delete("run:0")
    with pytest.raises(casstore.TagNotFound):
        run.get("run:0")
    (tmp_path / "w").write_bytes(b"other")
    other.save("run:0", tmp_path / "w")
    with other.remote() as again:
        again.push("run:0")
    with pytest.raises(casstore.TagExists, match="another version has its tag there now"):
        run.get("run:0")
    with pytest.raises(casstore.TagExists, match="another version has its tag there now"), run.look("run:0"):
        pass
    assert str(run.remote().pull("run:0", as_tag="theirs:0")[0].model.tag) == "theirs:0"
    run.delete("run:0")
    assert run.remote().pull("run:0")[0].is_new


def test_what_is_missing_is_pulled_where_the_store_says_so(there: casstore.Remote, other: casstore.Store) -> None:
    there.push()
    with pytest.raises(casstore.TagNotFound):
        other.get("run")
    other.set_setting("pull_missing", "origin")
    check(other.get("run:1"))
    check(other.get("run:3"))
    assert other.tags() == ["run:3", "run:1"]
    for tag in ("run:9", "other"):
        with pytest.raises(casstore.TagNotFound, match="casstore list --remote"):
            other.get(tag)
    other.set_setting("pull_missing", "nas")
    with pytest.raises(casstore.NoRemote):
        other.get("run:2")
    assert str(other.get("run:1").tag) == "run:1"
