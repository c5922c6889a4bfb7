"""Aliases: names that move, who wins when several move one, and what they keep from being deleted."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

import casstore
from tests.kit import Age, Child, Save, Sql


@pytest.fixture
def filled(store: casstore.Store, save: Save) -> casstore.Store:
    for number in range(1, 6):
        save(f"m:r{number}", {"a": str(number).encode()}, durability="relaxed")
    save("other:x", {"a": b"x"}, durability="relaxed")
    return store


def moved(store: casstore.Store, *versions: str) -> None:
    for version in versions:
        store.set_alias("m@prod", f"m:{version}")


def at(store: casstore.Store, query: str) -> str:
    return store.get(query).version


def test_an_alias_means_a_version_wherever_a_tag_is_taken(filled, tmp_path: Path) -> None:
    set_to = filled.set_alias("m@prod", "m:r2", reason="good")
    assert (str(set_to), set_to.tag, set_to.reason, set_to.is_protected) == (
        "m@prod",
        filled.get("m:r2").tag,
        "good",
        False,
    )
    assert filled.get("m@prod") == filled.get("m:r2")
    assert filled.get("m@prod").aliases == ("prod",)
    assert filled.exists("m@prod")
    assert "m@other" not in filled
    assert str(filled.pin("m@prod").tag) == "m:r2"
    assert filled.stats("m@prod").logical_bytes == 1
    assert Path(filled.checkout("m@prod", tmp_path / "out"), "a").read_bytes() == b"2"
    assert filled.verify("m@prod").tags == ("m:r2",)
    with filled.create("m:based", base="m@prod") as draft:
        Path(draft.path, "a").write_bytes(b"new")
    assert str(draft.model.base.tag) == "m:r2"
    assert [str(each) for each in filled.aliases()] == ["m@prod"] == [str(each) for each in filled.aliases("m")]
    assert filled.aliases("other") == []


def test_what_it_meant_before(filled) -> None:
    moved(filled, "r1", "r2", "r3")
    assert [at(filled, f"m@prod{back}") for back in ("", "~0", "~1", "~2")] == ["r3", "r3", "r2", "r1"]
    with pytest.raises(casstore.TagNotFound, match="m@prod has 2 earlier moves to go back to, not 3"):
        filled.get("m@prod~3")
    filled.set_alias("m@once", "m:r1")
    with pytest.raises(casstore.TagNotFound, match="no earlier move to go back to"):
        filled.get("m@once~1")
    filled.delete("m:r2")
    with pytest.raises(casstore.TagNotFound, match="m@prod meant m:r2 then, which has been deleted"):
        filled.get("m@prod~1")
    with pytest.raises(casstore.TagNotFound, match="has been deleted"):
        filled.rollback_alias("m@prod")
    assert at(filled, "m@prod") == "r3"
    with filled.create("m:r2") as draft:
        Path(draft.path, "a").write_bytes(b"another one of that tag")
    with pytest.raises(casstore.TagNotFound, match="has been deleted"):
        filled.get("m@prod~1")


def test_one_that_was_deleted_and_made_again_goes_on(filled) -> None:
    moved(filled, "r1", "r2")
    filled.delete_alias("m@prod")
    moved(filled, "r2")
    assert at(filled, "m@prod~1") == "r1"
    assert filled.rollback_alias("m@prod").tag.version == "r1"


def test_where_it_stands_already_nothing_happens(filled) -> None:
    first = filled.set_alias("m@prod", "m:r1", reason="first")
    assert filled.set_alias("m@prod", "m:r1", reason="again", expected="m:r1") == first
    assert len(filled.alias_history("m@prod")) == 1


def test_a_move_may_expect_where_it_stands(filled) -> None:
    filled.set_alias("m@prod", "m:r1", expected=None)
    filled.set_alias("m@prod", "m:r2", expected="m:r1")
    for expected in ("m:r1", None, "m:r5"):
        with pytest.raises(casstore.AliasMoved, match="m@prod stands at m:r2, and it was") as caught:
            filled.set_alias("m@prod", "m:r3", expected=expected)
        assert (caught.value.alias, caught.value.current) == ("m@prod", "m:r2")
    with pytest.raises(casstore.AliasMoved, match="expected at m:gone, which is not in this store"):
        filled.set_alias("m@prod", "m:r3", expected="m:gone")
    with pytest.raises(casstore.AliasMoved, match="there is no m@new, and it was expected at m:r1") as caught:
        filled.set_alias("m@new", "m:r3", expected="m:r1")
    assert caught.value.current is None
    with pytest.raises(casstore.AliasMoved, match="there is no m@new"):
        filled.set_alias("m@new", "m:r3", expected="m:gone")
    with pytest.raises(casstore.InvalidTag, match="m@prod means versions of m, and what is expected, other:x"):
        filled.set_alias("m@prod", "m:r3", expected="other:x")
    assert at(filled, "m@prod") == "r2"
    filled.set_alias("m@prod", "m@prod~1", expected="m@prod")  # either may be whatever `get` takes
    assert at(filled, "m@prod") == "r1"


def test_of_eight_processes_one_wins(filled, home: Path) -> None:
    moved(filled, "r1")
    gate, opened = os.pipe()
    filled.close()

    def race(number: int) -> int:
        with casstore.Store(home, auto_gc=False) as mine:
            os.close(opened)
            os.read(gate, 1)  # which ends when nobody holds the gate
            try:
                mine.set_alias("m@prod", f"m:r{2 + number % 4}", expected="m:r1", reason=str(number))
            except casstore.AliasMoved as error:
                assert error.current != "m:r1"
                return 11
            return 0

    racers = [Child(partial(race, number)) for number in range(8)]
    os.close(opened)
    os.close(gate)
    codes = [racer.wait() for racer in racers]
    assert sorted(codes) == [0] + [11] * 7
    assert [move.reason for move in filled.alias_history("m@prod")] == [str(codes.index(0)), ""]
    assert filled.verify().is_sound


def test_rolled_back_twice_it_is_two_moves_back(filled) -> None:
    moved(filled, "r1", "r2", "r3")
    assert [filled.rollback_alias("m@prod", reason="bad").tag.version for _ in range(2)] == ["r2", "r1"]
    assert at(filled, "m@prod~1") == "r2"
    with pytest.raises(casstore.TagNotFound, match="no earlier move to go back to, not 1"):
        filled.rollback_alias("m@prod")
    moved(filled, "r4", "r5")
    assert filled.rollback_alias("m@prod", steps=2).tag.version == "r1"
    assert [move.action for move in filled.alias_history("m@prod")] == [
        *["rollback", "set", "set", "rollback", "rollback", "set", "set", "set"]
    ]
    for alias, message in (("m@none", "there is no alias m@none"), ("none@prod", "there is no alias none@prod")):
        with pytest.raises(casstore.TagNotFound, match=message):
            filled.rollback_alias(alias)
    with pytest.raises(casstore.InvalidTag, match="one step or more"):
        filled.rollback_alias("m@prod", steps=0)


def test_back_to_a_time_whatever_clocks_have_done(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for day, version in ((0, "r1"), (4000, "r2"), (2, "r3"), (9, "r4")):
        now = int((start + timedelta(days=day)).timestamp()) * 10**9
        monkeypatch.setattr("casstore.catalog.aliases.time.time_ns", lambda now=now: now)
        moved(filled, version)

    def then(day: float) -> str:
        (move,) = filled.alias_history("m@prod", at=start + timedelta(days=day))
        return str(move.version)

    assert [then(day) for day in (0, 1, 2, 5, 9, 5000)] == ["r1", "r1", "r3", "r3", "r4", "r4"]
    assert [move.version for move in filled.alias_history("m@prod")] == ["r4", "r3", "r2", "r1"]
    assert filled.alias_history("m@prod")[0].moved_at == start + timedelta(days=9)
    with pytest.raises(casstore.TagNotFound, match="m@prod did not exist at 2025-12-31"):
        then(-1)
    assert filled.rollback_alias("m@prod", to=start + timedelta(days=5)).tag.version == "r3"
    with pytest.raises(casstore.TagNotFound, match="did not exist"):
        filled.rollback_alias("m@prod", to=start - timedelta(days=1))
    filled.delete_alias("m@prod")
    with pytest.raises(casstore.TagNotFound, match="m@prod was deleted at"):
        then(10)


def test_a_protected_alias_moves_only_by_force(filled) -> None:
    moved(filled, "r1", "r2")
    assert filled.protect_alias("m@prod", reason="ask ana").is_protected
    filled.protect_alias("m@prod")
    for attempt in (
        lambda: filled.set_alias("m@prod", "m:r3"), lambda: filled.rollback_alias("m@prod"),
        lambda: filled.delete_alias("m@prod"), lambda: filled.delete("m:r2", drop_aliases=True),
    ):  # fmt: skip
        with pytest.raises(casstore.AliasProtected, match="`casstore alias unprotect m@prod` first"):
            attempt()
    filled.set_alias("m@prod", "m:r2")  # where it stands
    assert filled.set_alias("m@prod", "m:r3", force=True).is_protected
    assert filled.rollback_alias("m@prod", force=True).tag.version == "r2"
    assert not filled.unprotect_alias("m@prod").is_protected
    moved(filled, "r4")
    filled.protect_alias("m@prod")
    assert str(filled.delete_alias("m@prod", force=True)) == "m:r4"
    assert not filled.set_alias("m@prod", "m:r4", expected=None).is_protected
    actions = [move.action for move in filled.alias_history("m@prod")][::-1]
    assert actions == ["set", "set", "protect", "set", "rollback", "unprotect", "set", "protect", "delete", "set"]
    with pytest.raises(casstore.TagNotFound, match="there is no alias m@none"):
        filled.protect_alias("m@none")


def test_what_has_an_alias_is_not_deleted(filled) -> None:
    filled.set_alias("m@prod", "m:r1")
    filled.set_alias("m@best", "m:r1")
    with pytest.raises(casstore.VersionAliased, match="m:r1 is what the aliases m@best, m@prod mean") as caught:
        filled.delete(["m:r2", "m:r1"])
    assert caught.value.aliases == ("m@best", "m@prod")
    assert {"m:r1", "m:r2"} <= set(filled.tags())
    filled.delete(["m:r2", "m:r1"], drop_aliases=True)
    assert filled.aliases() == []
    assert [move.action for move in filled.alias_history("m@prod")] == ["delete", "set"]
    with pytest.raises(casstore.TagNotFound, match="m@prod has been deleted; it last meant m:r1"):
        filled.get("m@prod")
    assert filled.verify().is_sound


def test_an_alias_is_not_enough_to_delete_or_save(filled) -> None:
    moved(filled, "r1")
    for attempt in (lambda: filled.delete("m@prod"), lambda: filled.exact("m@prod")):
        with pytest.raises(casstore.InvalidTag, match=r"m@prod is an alias, which moves; .* now m:r1"):
            attempt()
    with pytest.raises(casstore.InvalidTag, match="m@prod is an alias, and versions are saved under tags"):
        filled.create("m@prod")
    with pytest.raises(casstore.InvalidTag, match="a name alone is wanted here"):
        filled.list("m@prod")


def test_a_version_that_goes_while_it_gets_an_alias(filled, monkeypatch: pytest.MonkeyPatch) -> None:
    find = casstore.actions.registry.aliases.resolve.find  # type: ignore[attr-defined]

    def gone(*arguments):
        row = find(*arguments)
        filled.delete(str(row.tag))
        return row

    monkeypatch.setattr("casstore.actions.registry.aliases.resolve.find", gone)
    with pytest.raises(casstore.TagNotFound, match="m:r1 has been deleted meanwhile"):
        filled.set_alias("m@prod", "m:r1")
    assert filled.aliases() == []


@pytest.mark.parametrize("now", [False, True], ids=["trash", "for good"])
def test_a_version_whose_tag_another_gets_meanwhile(filled, save: Save, monkeypatch: pytest.MonkeyPatch, now) -> None:
    find = casstore.actions.registry.aliases.resolve.find  # type: ignore[attr-defined]

    def replaced(*arguments):
        row = find(*arguments)
        monkeypatch.undo()
        filled.delete(str(row.tag), now=now)
        save(str(row.tag), {"a": b"another"})
        return row

    monkeypatch.setattr("casstore.actions.registry.aliases.resolve.find", replaced)
    with pytest.raises(casstore.TagNotFound, match="m:r1 has been deleted meanwhile"):
        filled.set_alias("m@prod", "m:r1")
    assert filled.aliases() == []


def test_a_version_that_comes_back_under_another_tag_while_it_gets_an_alias(
    filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = casstore.actions.registry.aliases.resolve.find  # type: ignore[attr-defined]

    def renamed(*arguments):
        row = find(*arguments)
        monkeypatch.undo()
        filled.delete(str(row.tag))
        filled.undelete(str(row.tag), as_="m:again")
        return row

    monkeypatch.setattr("casstore.actions.registry.aliases.resolve.find", renamed)
    with pytest.raises(casstore.TagNotFound, match="m:r1 has been deleted meanwhile"):
        filled.set_alias("m@prod", "m:r1")


def test_its_directory_stays(filled, home: Path, age: Age) -> None:
    filled.set_alias("m@prod", "m:r1")
    age(30)
    for evict_all in (False, True):
        filled.gc(evict_all=evict_all)
        assert (home / "models/m/r1").is_dir()
    assert not (home / "models/m/r2").exists()
    moved(filled, "r2")
    filled.gc(evict_all=True)
    assert not (home / "models/m/r1").exists()


def test_sync_tree_prunes_none(filled, home: Path) -> None:
    filled.set_alias("m@prod", "m:r1")
    for version in ("r1", "r2"):
        os.rename(home / "models/m" / version, home.parent / version)
    for dry_run in (True, False):
        report = filled.sync_tree(prune=True, dry_run=dry_run)
        assert report.deleted == ("m:r2",)
        assert any("m:r1 stays, though its directory is gone: it is what m@prod means" in note for note in report.notes)
    assert "m:r1" in filled


def test_evict_gives_none_up(filled, tmp_path: Path) -> None:
    filled.add_remote("origin", str(tmp_path / "remote"))
    filled.set_alias("m@prod", "m:r1")
    assert [str(each.tag) for each in filled.remote("origin").push("m@prod")] == ["m:r1"]
    with pytest.raises(casstore.VersionAliased, match="m:r1 is what the alias m@prod means"):
        filled.evict("m:r1")
    assert filled.elsewhere() == []
    filled.delete_alias("m@prod")
    assert filled.evict("m:r1") == ["m:r1"]


def test_moves_are_events(filled, sql: Sql) -> None:
    moved(filled, "r1", "r2")
    filled.protect_alias("m@prod")
    filled.delete_alias("m@prod", force=True)
    events = filled._workspace.catalog.events.newest()
    mine = [(each.kind, each.details.get("version")) for each in events if each.tag == "m@prod"]
    assert mine == [("alias moved", "r1"), ("alias moved", "r2"), ("alias protected", None), ("alias deleted", None)]
    assert sql("SELECT count(*) FROM alias") == [(0,)]


WRONG = [
    ("m@latest", "m", "'latest' always means the newest version"),
    ("m@LATEST", "m", "'latest' always means the newest version"),
    ("m@v12", "m", "'v12' reads like a version"),
    ("m@V12", "m", "'V12' reads like a version"),
    ("m@", "m", "'' cannot be an alias"),
    ("m@con", "m", "'con' cannot be an alias: Windows"),
    ("m@a/b", "m", "'a/b' cannot be an alias"),
    ("m@\u017fet", "m", "cannot be an alias"),
    ("m@" + "a" * 64, "m", "at most 63"),
    ("m@prod~1", "m", "is where an alias stood"),
    ("m@prod~x", "m", "after '~' stands a number of moves"),
    ("m@prod~" + "1" * 5000, "m", "after '~' stands a number of moves"),
    ("m@prod~", "m", "after '~' stands a number of moves"),
    ("m@prod:r1", "m", "names both an alias and a version"),
    ("m:r1@prod", "m", "cannot be a version"),
    ("m", "m", "is not an alias"),
    ("m:r1", "m", "is not an alias"),
    ("m@prod", "other", "means versions of m"),
    (7, "m", "a tag is text"),
]


@pytest.mark.filterwarnings("ignore:the alias")
def test_what_cannot_be_an_alias(filled) -> None:
    for alias, tag, said in WRONG:
        with pytest.raises(casstore.InvalidTag, match=said):
            filled.set_alias(alias, tag)
    assert filled.aliases() == []


@pytest.mark.filterwarnings("ignore:the alias")
def test_capitals_make_no_other_alias(filled) -> None:
    moved(filled, "r1")
    filled.set_alias("m@PROD", "m:r2", expected="m:r1")
    assert [str(each) for each in filled.aliases()] == ["m@prod"]
    with pytest.warns(UserWarning, match="the alias 'Prod' is kept in lower case"):
        assert at(filled, "m@Prod") == "r2"


@pytest.mark.parametrize("reason", [None, "x" * 4097, "\udc80"])
def test_what_cannot_be_a_reason(filled, reason) -> None:
    with pytest.raises(casstore.InvalidMetadata, match="reason"):
        filled.set_alias("m@prod", "m:r1", reason=reason)
    assert filled.aliases() == []


def test_a_wrong_word_finds_its_neighbour(filled) -> None:
    moved(filled, "r1")
    with pytest.raises(casstore.TagNotFound, match="did you mean m@prod") as caught:
        filled.get("m@prd")
    assert caught.value.suggestion == "m@prod"
    with pytest.raises(casstore.TagNotFound, match="there is no alias m@zz in this store; `casstore alias list m`"):
        filled.get("m@zz")
    with pytest.raises(casstore.TagNotFound, match="did you mean other"):
        filled.get("othr@prod")
    with pytest.raises(casstore.TagNotFound, match="there is no alias m@zz"):
        filled.alias_history("m@zz")


def test_a_store_of_before_there_were_any_can_be_read(filled, home: Path) -> None:
    from tests.crash.scenarios import to_first_schema

    filled.close()
    to_first_schema(home)
    with casstore.Store(home) as again:
        assert again.aliases() == []
        again.set_alias("m@prod", "m:r1")
        assert at(again, "m@prod") == "r1"
