"""The logs of aliases: what a new catalog is made from, and what becomes of one that is damaged, short, or ahead."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.actions.consistency import alias_log
from casstore.storage import append_log
from casstore.storage.layout import Layout
from tests.kit import Save, counts


@pytest.fixture
def filled(store: casstore.Store, save: Save) -> casstore.Store:
    for number in range(1, 5):
        save(f"m:r{number}", {"a": str(number).encode()}, durability="relaxed")
    save("n:x", {"a": b"x"}, durability="relaxed")
    for version in ("r1", "r2", "r3"):
        store.set_alias("m@prod", f"m:{version}", reason=f"for {version}")
    store.set_alias("m@old", "m:r1")
    store.set_alias("n@prod", "n:x")
    store.protect_alias("n@prod")
    store.set_alias("m@gone", "m:r2")
    store.delete_alias("m@gone")
    return store


def told(store: casstore.Store) -> object:
    words = ("m@prod", "m@old", "n@prod", "m@gone")
    return store.aliases(), [store.alias_history(word) for word in words]


def rebuilt(store: casstore.Store) -> casstore.RebuildReport:
    store.close()
    return casstore.Store.rebuild_catalog(store.home)


def test_a_new_catalog_has_them_all(filled) -> None:
    before = told(filled)
    assert rebuilt(filled).lost_aliases == ()
    assert told(filled) == before
    filled.set_alias("m@prod", "m:r4", expected="m:r3")
    assert filled.get("m@prod~3").version == "r1"
    assert filled.verify().is_sound
    assert counts(filled.gc(dry_run=True))["unfinished work"] == 0


def test_one_whose_version_is_gone_is_not_made(filled, home: Path) -> None:
    (manifest,) = (home / "manifests/m").glob("r3.*")
    kept = home.parent / manifest.name
    manifest.rename(kept)
    assert rebuilt(filled).lost_aliases == ("m@prod was not made: it meant m:r3, which is gone",)
    assert [str(each) for each in filled.aliases()] == ["m@old", "n@prod"]
    with pytest.raises(casstore.TagNotFound, match="m@prod meant m:r3, which is gone; `casstore alias set m@prod TAG`"):
        filled.get("m@prod")
    with pytest.raises(casstore.TagNotFound, match="which is gone"):
        filled.rollback_alias("m@prod")
    assert filled.verify().is_sound
    kept.rename(manifest)  # once it is back, so is the alias
    assert rebuilt(filled).lost_aliases == ()
    assert filled.get("m@prod").version == "r3"


def test_a_damaged_line_costs_a_line(filled, home: Path) -> None:
    log = home / "aliases/m.log"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1].replace("for r2", "for rX") + "nonsense\n" + "".join(lines[2:]))
    report = filled.verify()
    assert report.damaged_copies == (str(log),)
    assert "has 2 damaged lines and lacks 1 of what was done" in report.reasons[0]
    assert filled.verify("n").is_sound
    assert not filled.verify("m").is_sound
    assert filled.get("m@prod~1").version == "r2"
    unreadable = rebuilt(filled).unreadable
    assert [f"{log}: 2 damaged lines were passed over" in line for line in unreadable] == [True]
    assert filled.get("m@prod~1").version == "r1"  # what was sound is kept
    assert not filled.verify().is_sound
    repaired = filled.repair()
    assert repaired.alias_logs == ("m",)
    assert Path(repaired.quarantined[0]).read_text().count("\n") == len(lines) + 1
    assert filled.verify().is_sound


def test_repair_writes_from_the_catalog_what_a_log_lacks(filled, home: Path) -> None:
    before = told(filled)
    whole = {path: path.read_bytes() for path in (home / "aliases").iterdir()}
    shutil.rmtree(home / "aliases")
    assert len(filled.verify().damaged_copies) == 2
    assert filled.repair().alias_logs == ("m", "n")
    assert (filled.events()[-1].kind, filled.events()[-1].details) == ("repaired", {"logs of aliases": 2})
    assert {path: path.read_bytes() for path in (home / "aliases").iterdir()} == whole
    assert filled.verify().is_sound
    rebuilt(filled)
    assert told(filled) == before


def test_the_next_change_or_gc_adds_what_a_crash_has_left_out(filled, home: Path) -> None:
    log = home / "aliases/m.log"
    whole = log.read_bytes()
    log.write_bytes(whole[: whole.rindex(b'{"action":"set"') + 20])  # and a line that was cut
    filled.set_alias("m@old", "m:r2")
    assert append_log.read(log).documents[-1]["alias"] == "old"
    after = [line for line in append_log.read(log).documents if line["number"] < 7]
    assert after == [json.loads(line) for line in map(_unchecked, whole.splitlines())]
    log.write_bytes(whole)
    assert counts(filled.gc(dry_run=True))["unfinished work"] == 1
    assert counts(filled.gc())["unfinished work"] == 1
    assert counts(filled.gc())["unfinished work"] == 0
    assert filled.verify().is_sound


def _unchecked(line: bytes) -> str:
    document = json.loads(line)
    del document["check"]
    return json.dumps(document)


def test_where_the_log_cannot_be_written_the_move_stands(
    filled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "casstore"):
        patch.setattr(append_log, "append", full)
        filled.set_alias("m@prod", "m:r4")
        filled.delete("m:r1", drop_aliases=True)
    assert "could not be added to" in caplog.text
    assert filled.get("m@prod").version == "r4"
    filled.gc()
    assert filled.verify().is_sound
    before = filled.aliases()
    rebuilt(filled)
    assert filled.aliases() == before


def test_an_older_catalog_beside_a_newer_log(filled, home: Path) -> None:
    filled.close()
    older = home.parent / "catalog.db"
    shutil.copy(home / "catalog.db", older)
    filled.set_alias("m@prod", "m:r4", reason="newer")
    filled.close()
    shutil.copy(older, home / "catalog.db")
    report = filled.verify()
    assert "1 lines that the catalog does not know" in report.reasons[0]
    assert filled.repair().alias_logs == ()  # what it says more is not thrown away
    filled.set_alias("m@prod", "m:r2", reason="since then")
    filled.set_alias("m@prod", "m:r3", reason="and again")
    rebuilt(filled)
    assert [move.reason for move in filled.alias_history("m@prod")][:3] == ["and again", "since then", "newer"]
    assert filled.get("m@prod").version == "r3"
    assert filled.verify().is_sound


def test_a_backup_has_them(filled, tmp_path: Path) -> None:
    filled.backup(tmp_path / "backup")
    filled.set_alias("m@prod", "m:r4")
    filled.delete_alias("n@prod", force=True)
    filled.backup(tmp_path / "backup")
    with casstore.Store(tmp_path / "backup", auto_gc=False) as copy:
        assert copy.get("m@prod").version == "r4"
        assert copy.verify().is_sound
        before = told(copy)
        rebuilt(copy)
        assert told(copy) == before == told(filled)


def test_a_store_that_can_only_be_read(filled, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.close()
    with casstore.Store(home) as opened:
        monkeypatch.setattr(type(opened._workspace.catalog), "read_only", property(lambda _: True))
        assert opened.get("m@prod~1").version == "r2"
        assert alias_log.faults(opened._workspace) == {}
        with pytest.raises(casstore.StoreUnwritable):
            opened.set_alias("m@prod", "m:r1")


LINES = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.integers(-2, 9) | st.just("1") | st.just(1 << 70),
            "alias": st.sampled_from(["prod", "a b", "", "PROD", 3]),
            "action": st.sampled_from(["set", "delete", "other", None]),
            "version": st.sampled_from(["v1", None, "../x", 7]),
            "digest": st.sampled_from(["ab" * 32, None, "zz", 5]),
            "protected": st.booleans() | st.just(1),
            "moved_at": st.integers(-(1 << 70), 1 << 70) | st.just(1.5),
            "actor": st.text(max_size=3) | st.none(),
            "reason": st.text(max_size=3),
        }
    )
    | st.dictionaries(st.text(max_size=4).filter(lambda key: key != "check"), st.integers(), max_size=2),
    max_size=4,
)


@given(LINES)
def test_a_line_that_says_what_cannot_be_is_damaged(lines) -> None:
    with TemporaryDirectory() as place:
        layout = Layout(Path(place))
        append_log.append(layout.alias_log("m"), lines)
        found = alias_log.read(layout, "m")
        assert len(found.moves) + found.damaged <= len(lines)
        for move in found.moves:
            assert move.alias == "prod"
            assert (move.version, move.digest is None) in (("v1", False), (None, True))
            assert str(move.moved_at)
