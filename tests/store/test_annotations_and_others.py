"""What was said of a version after its save, where other verbs meet it: searches, retention, the trash, comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore.actions.registry import annotating
from casstore.storage import annotation_log
from tests.kit import Save, Sql


def log_of(home: Path, name: str = "m") -> Path:
    return home / f"annotations/{name}.log"


def rebuilt(store: casstore.Store) -> casstore.Store:
    home = store.home
    store.close()
    assert casstore.Store.rebuild_catalog(home).unreadable == ()
    return casstore.Store(home)


@pytest.fixture
def three(store: casstore.Store, save: Save) -> casstore.Store:
    """Three versions, of which the first was found to be the best, and then that it is not the worst either."""
    for number in (1, 2, 3):
        save(f"m:{number}", {"a": b"%d" % number}, labels={"stage": "dev"}, metadata={"metrics": {"f1": number / 10}})
    store.annotate("m:1", labels={"stage": "prod"}, metrics={"f1": 0.9})
    return store


def test_searches_go_by_what_holds_now(three: casstore.Store) -> None:
    assert [each.version for each in three.list(where="metrics.f1 > 0.5")] == ["1"]
    assert [each.version for each in three.list(where="metrics.f1 = 0.1")] == []
    assert [each.version for each in three.list(where="labels.stage = prod")] == ["1"]
    assert [each.version for each in three.list(sort="-metrics.f1")] == ["1", "3", "2"]
    three.annotate("m:1", remove="f1")
    assert [each.version for each in three.list(sort="-metrics.f1")] == ["3", "2", "1"]
    assert [each.version for each in three.list(where="metrics.f1 exists")] == ["3", "2"]


def test_retention_goes_by_what_holds_now(three: casstore.Store) -> None:
    assert [str(tag) for tag in three.forget("m", keep_best="metrics.f1:max:1").forgotten] == ["m:2"]
    assert [str(tag) for tag in three.forget("m", keep_label="stage=prod").forgotten] == ["m:2"]
    three.annotate("m:2", labels={"stage": "prod"})
    assert three.forget("m", keep_label="stage=prod", dry_run=False).forgotten == ()


def test_a_comparison_shows_what_holds_now(three: casstore.Store) -> None:
    found = three.diff("m:2", "m:1")
    assert [(each.path, each.old, each.new) for each in found.labels] == [("stage", "dev", "prod")]
    assert [(each.path, each.old, each.new) for each in found.metrics] == [("metrics.f1", 0.2, 0.9)]


def test_an_alias_says_which_version(three: casstore.Store) -> None:
    three.set_alias("m@best", "m:1")
    assert three.annotate("m@best", metrics={"recall": 1}).version == "1"
    assert [each.key for each in three.annotations("m@best")] == ["stage", "f1", "recall"]


def test_the_trash_keeps_it(three: casstore.Store, home: Path) -> None:
    three.delete("m:1")
    assert three.deleted()[0].labels == {"stage": "prod"}
    assert three.list(where="metrics.f1 > 0.5") == []
    three.annotate("m:2", metrics={"f1": 0.3})  # does not get a number that is taken
    assert three.undelete("m:1").labels == {"stage": "prod"}
    assert [each.version for each in three.list(where="metrics.f1 > 0.5")] == ["1"]
    assert [each.number for tag in ("m:1", "m:2") for each in three.annotations(tag)] == [1, 2, 3]
    assert three.verify().is_sound
    with rebuilt(three) as again:
        assert again.get("m:1").metadata == {"metrics": {"f1": 0.9}}


def test_a_new_catalog_has_it_of_what_is_in_the_trash(three: casstore.Store) -> None:
    three.delete(["m:1", "m:2", "m:3"])
    with rebuilt(three) as again:
        assert {str(each.tag): each.labels["stage"] for each in again.deleted()} == {
            "m:1": "prod", "m:2": "dev", "m:3": "dev",
        }  # fmt: skip
        assert again.undelete("m:1").metadata == {"metrics": {"f1": 0.9}}
        assert again.verify().is_sound


@pytest.mark.parametrize("as_", ["m:9", "n:1"])
def test_what_comes_back_under_another_tag_is_in_its_log(three: casstore.Store, as_: str) -> None:
    three.delete("m:1")
    assert three.undelete("m:1", as_=as_).labels == {"stage": "prod"}
    with rebuilt(three) as again:
        assert again.get(as_).labels == {"stage": "prod"}
        again.annotate(as_, metrics={"f1": 1})
        assert [each.number for each in again.annotations(as_)] == [1, 2, 3]


@pytest.mark.parametrize("then", ["gc", "repair", "annotate"])
@pytest.mark.parametrize("lost", ["the file", "a line"])
def test_a_log_is_mended_for_what_is_in_the_trash(three: casstore.Store, home: Path, lost: str, then: str) -> None:
    three.annotate("m:2", metrics={"f1": 0.3})
    told = annotation_log.read(log_of(home))
    three.delete("m:1")
    if lost == "the file":
        log_of(home).unlink()
    elif then == "repair":
        log_of(home).write_bytes(log_of(home).read_bytes().replace(b"prod", b"work"))
        assert three.verify().damaged_copies == (str(log_of(home)),)
    else:
        log_of(home).write_bytes(log_of(home).read_bytes().splitlines(keepends=True)[0])
    if then == "annotate":
        three.annotate("m:2", metrics={"f1": 0.3})  # which holds already
    else:
        getattr(three, then)()
    assert annotation_log.read(log_of(home)) == told
    assert three.verify().is_sound


def test_a_version_that_is_put_into_the_trash_meanwhile(three: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = annotating.annotate

    def annotate(*arguments: object) -> object:
        monkeypatch.undo()
        three.delete("m:2")
        if target is not None:
            three.undelete("m:2", as_=target)
        return real(*arguments)  # type: ignore[arg-type]

    for target in (None, "m:4"):
        monkeypatch.setattr(annotating, "annotate", annotate)
        with pytest.raises(casstore.TagNotFound, match="m:2 has been deleted meanwhile"):
            three.annotate("m:2", metrics={"f1": 1})
        if target is None:
            three.undelete("m:2")
    assert three.annotations("m:4") == []


def test_repair_writes_parents_and_annotations_again(three: casstore.Store, save: Save, sql: Sql) -> None:
    made = save("m:4", {"a": b"4"}, parents=[("m:1", "finetune"), ("https://data.example/set", "dataset")])
    three.annotate("m:4", labels={"stage": "prod"})
    sql("UPDATE version SET size = 7 WHERE version = '4'")
    sql("DELETE FROM parent")
    sql("DELETE FROM label")
    assert "m:4" in three.repair().restored
    again = three.get("m:4")
    assert (again.parents, again.labels) == (made.parents, {"stage": "prod"})
    assert sql("SELECT count(*) FROM parent WHERE version_id = (SELECT id FROM version WHERE version = '4')") == [(2,)]
    assert three.verify().is_sound
