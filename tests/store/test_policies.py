"""Policies: stored for names, applied after each save and by gc, and found again by who makes a new catalog."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

import casstore
from casstore.actions.registry import forgetting, policies, policy_log
from casstore.storage import append_log
from casstore.storage import files as storage_files
from casstore.storage.locks import Lock
from tests.kit import Reader, Save, Sql, counts, plant


@pytest.fixture
def versions(store: casstore.Store):
    """versions(name): the versions of a name, newest first."""
    return lambda name: "".join(model.tag.version for model in store.list(name))


def fill(save: Save, name: str, numbers: range) -> None:
    for number in numbers:
        save(f"{name}:{number}", {"x": b"%d" % number}, durability="relaxed", metadata={"loss": 10 - number})


def test_a_policy_is_kept_and_replaced(store: casstore.Store) -> None:
    assert store.policies() == {}
    assert store.set_policy("Run-*", keep_last=3) == "run-*"
    store.set_policy("run-*", keep_last=5, keep_best="metrics.loss:min:1")
    store.set_policy("bert", keep_daily=7)
    assert {pattern: str(rules) for pattern, rules in store.policies().items()} == {
        "bert": "--keep-daily 7", "run-*": "--keep-last 5 --keep-best metrics.loss:min:1",
    }  # fmt: skip
    assert [*store.policies("run-7")] == ["run-*"]
    assert store.unset_policy("RUN-*") == "run-*"
    assert [*store.policies()] == ["bert"]
    with pytest.raises(casstore.InvalidPolicy, match="did you mean 'bert'"):
        store.unset_policy("bart")


def test_a_policy_is_checked(store: casstore.Store, save: Save) -> None:
    fill(save, "m", range(2))
    for wrong, what in (
        ({}, "no rule says"), ({"keep_label": "a=b"}, "keeps no version of m"),
        ({"keep_best": "f1:max:1"}, "metrics.f1"),
    ):  # fmt: skip
        with pytest.raises(casstore.InvalidPolicy, match=what):
            store.set_policy("*", **wrong)  # type: ignore[arg-type]
    with pytest.raises(casstore.InvalidPolicy, match="match no name"):
        store.set_policy("a*/b", keep_last=1)
    with pytest.raises(casstore.InvalidTag):
        store.set_policy("a b", keep_last=1)
    assert store.policies() == {}
    assert not (store.home / "policies.log").exists()


def test_it_is_applied_after_each_save(store: casstore.Store, save: Save, versions) -> None:
    fill(save, "run-1", range(3))
    store.set_policy("run-*", keep_last=2, keep_best="metadata.loss:max:1")
    assert versions("run-1") == "210", "not by storing it"
    store.set_policy("*-1", keep_last=1)
    fill(save, "run-1", range(3, 6))
    assert versions("run-1") == "540"
    told = [event.details["why"] for event in store.events() if event.kind == "deleted"]
    rules = "--keep-last 1 --keep-last 2 --keep-best metadata.loss:max:1"
    assert told == [f"kept by none of {rules} (the policies for *-1, run-*)"] * 3
    store.unset_policy("*-1")
    fill(save, "other", range(4))
    assert versions("other") == "3210"


def test_the_version_just_saved_stays(store: casstore.Store, save: Save, versions, sql: Sql) -> None:
    """Even where another is newer, as one that was saved at the same moment."""
    store.set_policy("m", keep_last=1)
    save("m:0", {"x": b"0"})
    sql("UPDATE version SET ordered_at = ordered_at + 1000000")
    judged = forgetting.judged(store._workspace, "m", (casstore.KeepRules(keep_last=1),), 0)
    assert not judged.doomed
    save("m:1", {"x": b"1"})
    sql("UPDATE version SET ordered_at = ordered_at - 2000000 WHERE version = '1'")
    save("m:2", {"x": b"2"})
    assert versions("m") == "2"
    policies.apply_after_save(store._workspace, casstore.Tag("m", "2"))
    assert versions("m") == "2"


def test_several_policies_keep_what_any_of_them_keeps(store: casstore.Store, save: Save, versions) -> None:
    store.set_policy("*", keep_last=1)
    store.set_policy("m*", keep_last=3)
    fill(save, "m", range(5))
    fill(save, "n", range(5))
    assert (versions("m"), versions("n")) == ("432", "4")


def test_a_save_forgets_no_more_than_some(
    store: casstore.Store, save: Save, versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest first; gc does the rest."""
    monkeypatch.setattr(policies, "MOST_AFTER_SAVE", 2)
    fill(save, "m", range(6))
    store.set_policy("m", keep_last=1)
    fill(save, "m", range(6, 7))
    assert versions("m") == "65432"
    assert counts(store.gc(dry_run=True))["policies"] == 4
    assert versions("m") == "65432"
    assert counts(store.gc())["policies"] == 4
    assert versions("m") == "6"
    assert counts(store.gc())["policies"] == 0


def test_gc_has_no_such_step_without_policies(store: casstore.Store, save: Save) -> None:
    fill(save, "m", range(2))
    assert "policies" not in counts(store.gc())


def test_nothing_is_forgotten_by_an_old_catalog(home: Path, sql: Sql, tmp_path: Path) -> None:
    """One that was put back, of which gc takes nothing on trust."""

    def save(number: int) -> None:
        with store.create(f"m:{number}") as draft:
            plant(draft.path, {"x": b"%d" % number})

    with casstore.Store(home) as store:
        store.set_policy("m", keep_last=2)
        save(0)
        save(1)
    shutil.copy(home / "catalog.db", tmp_path / "old.db")
    with casstore.Store(home) as store:
        save(2)
    shutil.copy(tmp_path / "old.db", home / "catalog.db")
    sql("UPDATE policy SET rules = ?", ('{"keep_last":1}',))
    with casstore.Store(home) as store:
        with pytest.raises(casstore.StoreError, match="older than the store"):
            store.gc()
        assert store.tags() == ["m:1", "m:0"]


def test_forget_by_policies(store: casstore.Store, save: Save, versions) -> None:
    with pytest.raises(casstore.InvalidPolicy, match="no policy is stored"):
        store.forget(policies=True)
    for name in ("m", "n", "o"):
        fill(save, name, range(3))
    store.set_policy("m", keep_last=1)
    store.set_policy("n", keep_last=2)
    assert [str(tag) for tag in store.forget(policies=True).forgotten] == ["m:1", "m:0", "n:0"]
    store.forget("n", policies=True, dry_run=False)
    assert (versions("m"), versions("n"), versions("o")) == ("210", "21", "210")
    with pytest.raises(casstore.InvalidPolicy, match="no policy matches o"):
        store.forget("o", policies=True)
    with pytest.raises(casstore.InvalidPolicy, match="either rules or"):
        store.forget(policies=True, keep_last=1)


def test_a_policy_that_keeps_nothing_is_not_applied(
    store: casstore.Store, save: Save, versions, caplog: pytest.LogCaptureFixture
) -> None:
    store.set_policy("*", keep_label="keep=yes")
    fill(save, "m", range(3))
    assert versions("m") == "210"
    assert "the policy of m could not be applied, and its versions stay" in caplog.text
    assert "keeps no version of m" in caplog.text
    plan = store.forget(policies=True)
    assert plan.forgotten == ()
    assert "keeps no version of m" in plan.notes[-1]
    assert plan.versions[-1].reasons == ("its policies keep nothing, and are refused",)
    store.set_policy("m", keep_last=2)
    assert counts(store.gc())["policies"] == 1


def test_a_policy_of_a_newer_release_forgets_nothing(
    store: casstore.Store, save: Save, versions, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    store.set_policy("m", keep_last=1)
    sql("UPDATE policy SET rules = ?", ('{"keep_last":1,"keep_starred":true}',))
    fill(save, "m", range(3))
    store.gc()
    assert versions("m") == "210"
    assert "the policy for 'm' cannot be read" in caplog.text


@pytest.mark.parametrize("error", [OSError(28, "no room"), casstore.StoreLocked("it is locked")])
def test_an_error_is_a_warning(
    store: casstore.Store, save: Save, versions, error: Exception, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    store.set_policy("m", keep_last=1)

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(forgetting, "forget", failing)
    fill(save, "m", range(2))
    assert versions("m") == "10"
    assert [each.levelno for each in caplog.records] == [logging.WARNING]
    assert counts(store.gc())["policies"] == 0
    assert "casstore forget --policies m --dry-run" in caplog.text


def test_a_save_waits_for_nobody(store: casstore.Store, save: Save, versions) -> None:
    """Where another has the name, the next save or gc does it."""
    store.set_policy("m", keep_last=1)
    fill(save, "m", range(1))
    with casstore.Store(store.home, auto_gc=False) as other:
        workspace = other._workspace
        with Lock(workspace.layout.name_lock("m")) as lock:
            assert lock.try_acquire()
            assert not policies._is_free(workspace, "m")
            policies.apply_after_save(workspace, casstore.Tag("m", "0"))
    fill(save, "m", range(1, 2))
    assert versions("m") == "1"


def test_what_another_process_uses_stays_for_now(store: casstore.Store, save: Save, versions) -> None:
    fill(save, "m", range(2))
    store.set_policy("m", keep_last=1)
    reader = Reader(store.home, "m:0", {"x": b"0"})
    reader.wait_for_path()
    fill(save, "m", range(2, 3))
    assert versions("m") == "20"
    assert counts(store.gc())["policies"] == 0
    reader.end()
    store.gc()
    assert versions("m") == "2"


class TestTheLog:
    """policies.log, from which a new catalog knows them."""

    def lines(self, home: Path) -> list[bytes]:
        return (home / "policies.log").read_bytes().splitlines()

    def rebuilt(self, home: Path) -> tuple[casstore.RebuildReport, list[str]]:
        report = casstore.Store.rebuild_catalog(home)
        with casstore.Store(home) as store:
            return report, [*store.policies()]

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        home = tmp_path / "store"
        with casstore.Store(home) as store:
            store.set_policy("a", keep_last=1)
            store.set_policy("b", keep_last=2)
            store.unset_policy("a")
            store.set_policy("b", keep_last=2)  # which changes nothing
        return home

    def test_a_new_catalog_knows_the_policies(self, home: Path) -> None:
        assert len(self.lines(home)) == 3
        report, found = self.rebuilt(home)
        assert found == ["b"]
        assert report.unreadable == ()

    @pytest.mark.parametrize("line", [0, 1, 2])
    def test_a_damaged_line_brings_no_policy_back(self, home: Path, line: int) -> None:
        lines = self.lines(home)
        lines[line] = lines[line].replace(b"keep_last", b"keep_lost")
        (home / "policies.log").write_bytes(b"\n".join(lines) + b"\n")
        with casstore.Store(home) as store:
            report = store.verify()
            assert report.damaged_copies == (str(home / "policies.log"),)
            assert "has 1 damaged lines" in report.reasons[0]
        rebuilt, found = self.rebuilt(home)
        assert found == ([] if line == 2 else ["b"])
        assert len(rebuilt.unreadable) == (line == 2)

    def test_repair_writes_it_again(self, home: Path) -> None:
        (home / "policies.log").write_bytes(b"nonsense\n")
        with casstore.Store(home) as store:
            (kept,) = store.repair().quarantined
            assert Path(kept).read_bytes() == b"nonsense\n"
            assert store.verify().is_sound
            assert store.repair().quarantined == ()
        assert self.rebuilt(home)[1] == ["b"]

    @pytest.mark.parametrize("cut", [1, 30])
    def test_what_a_crash_has_cut_off_is_added_by_gc(self, home: Path, cut: int) -> None:
        """In an older log, as from a copy, too."""
        for text in ((home / "policies.log").read_bytes()[:-cut], self.lines(home)[0] + b"\n", None):
            (home / "policies.log").unlink()
            if text is not None:
                (home / "policies.log").write_bytes(text)
            with casstore.Store(home) as store:
                store.gc()
            assert self.rebuilt(home)[1] == ["b"]

    def test_a_log_that_cannot_be_written_is_a_warning(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def failing(*_: object) -> None:
            raise OSError(28, "no room")

        with casstore.Store(home) as store:
            with monkeypatch.context() as full:
                full.setattr(storage_files, "append", failing)
                store.set_policy("c", keep_last=3)
            assert "the policies are changed, but" in caplog.text
            assert "does not say what the policies are" in store.verify().reasons[0]
            assert store.repair().quarantined == ()
            assert store.verify().is_sound
        assert self.rebuilt(home)[1] == ["b", "c"]

    def test_a_backup_has_it(self, home: Path, tmp_path: Path) -> None:
        with casstore.Store(home) as store:
            store.backup(tmp_path / "backup")
            assert self.rebuilt(tmp_path / "backup")[1] == ["b"]
            (home / "policies.log").unlink()
            store.backup(tmp_path / "backup")
        assert not (tmp_path / "backup/policies.log").exists()

    def test_documents_of_other_kinds_are_damage(self, home: Path) -> None:
        append_log.append(home / "policies.log", [{"policies": [1]}])
        with casstore.Store(home) as store:
            assert policy_log.read(store._workspace.layout) == policy_log.Told(None, 1)


def test_who_changed_a_policy_is_noted(store: casstore.Store, sql: Sql) -> None:
    store.set_policy("m", keep_last=3)
    store.unset_policy("m")
    (first, second) = sql("SELECT kind, details FROM event WHERE kind LIKE 'policy%' ORDER BY number")
    assert (first[0], json.loads(first[1])) == ("policy set", {"pattern": "m", "rules": {"keep_last": 3}})
    assert (second[0], json.loads(second[1])) == ("policy unset", {"pattern": "m"})
