"""What is said of a version after its save: found, kept, told apart from what was saved, and never another's."""

from __future__ import annotations

import errno
import functools
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import casstore
from casstore.actions.registry import annotating
from casstore.annotated import METRIC, Annotated, Annotation, place_of
from casstore.storage import annotation_log, append_log
from tests.kit import Child, Picture, Save, Sql


@pytest.fixture
def saved(save: Save) -> casstore.Model:
    return save("m:1", {"a": b"1"}, labels={"stage": "dev", "k": "v"}, metadata={"lr": 0.1, "metrics": {"acc": 0.5}})


def log_of(home: Path, name: str = "m") -> Path:
    return home / f"annotations/{name}.log"


def rows(sql: Sql) -> list[Any]:
    labels = sql("SELECT key, value FROM label ORDER BY key")
    return [*labels, *sql("SELECT path, value FROM metadata ORDER BY path")]


def rebuilt(store: casstore.Store) -> casstore.Store:
    home = store.home
    store.close()
    assert casstore.Store.rebuild_catalog(home).unreadable == ()
    return casstore.Store(home)


def said(store: casstore.Store, tag: str = "m:1") -> list[tuple[str, str, object]]:
    return [(each.kind, each.key, each.value) for each in store.annotations(tag)]


def test_what_is_said_is_found_and_what_was_saved_stays(store, saved, home: Path, sql: Sql) -> None:
    before = Path(saved.path, "model.yaml").read_bytes()
    manifests = {path: path.read_bytes() for path in (home / "manifests").rglob("*") if path.is_file()}
    model = store.annotate("m", labels={"stage": "prod", "new": 1}, metrics={"f1": 0.9, "acc": np.float32(0.75)})
    for each in (model, store.get("m:1"), store.list("m")[0], store.exact("m:1")):
        assert each.labels == {"stage": "prod", "k": "v", "new": "1"}
        assert each.metadata == {"lr": 0.1, "metrics": {"acc": 0.75, "f1": 0.9}}
        assert each.saved_labels == {"stage": "dev", "k": "v"}
        assert each.saved_metadata == {"lr": 0.1, "metrics": {"acc": 0.5}}
    assert saved.labels["stage"] == "dev"  # as when it was asked for
    assert model == saved
    assert model.digest == saved.digest
    assert store.list(labels={"stage": "prod"}) == [saved]
    assert store.list(labels={"stage": "dev"}) == []
    assert rows(sql) == [
        ("k", "v"), ("new", "1"), ("stage", "prod"), ("lr", 0.1), ("metrics.acc", 0.75), ("metrics.f1", 0.9),
    ]  # fmt: skip
    assert Path(saved.path, "model.yaml").read_bytes() == before
    assert {path: path.read_bytes() for path in (home / "manifests").rglob("*") if path.is_file()} == manifests
    assert store.verify().is_sound
    with pytest.raises(casstore.ReadOnly):
        model.labels["stage"] = "x"
    event = store.events()[-1]
    assert (event.kind, event.tag) == ("annotated", "m:1")
    assert event.details == {"labels": {"stage": "prod", "new": "1"}, "metrics": {"f1": 0.9, "acc": 0.75}}


def test_taking_away(store, saved, sql: Sql) -> None:
    store.annotate("m:1", labels={"new": "1"}, metrics={"f1": 1})
    model = store.annotate("m:1", remove=["new", "metrics.f1", "labels.k", "acc"])
    assert (model.labels, model.metadata) == ({"stage": "dev"}, {"lr": 0.1, "metrics": {}})
    assert model.saved_labels["k"] == "v"
    assert rows(sql) == [("stage", "dev"), ("lr", 0.1)]
    count = len(said(store))
    store.annotate("m:1", remove="k")  # which is gone already
    assert len(said(store)) == count
    assert store.annotate("m:1", labels={"k": "again"}).labels["k"] == "again"
    with pytest.raises(casstore.InvalidMetadata, match=r"no label and no metric 'lr'; it has labels\.k, lab"):
        store.annotate("m:1", remove="lr")
    store.annotate("m:1", labels={"both": "1"}, metrics={"both": 1})
    with pytest.raises(casstore.InvalidMetadata, match=r"say labels\.both or metrics\.both"):
        store.annotate("m:1", remove="both")
    assert "both" in store.annotate("m:1", remove="metrics.both").labels
    assert store.events()[-1].details == {"removed": ["metrics.both"]}
    with pytest.raises(casstore.InvalidMetadata, match="both set and removed"):
        store.annotate("m:1", labels={"k": "1"}, remove="k")


def test_what_holds_is_not_said_again(store, saved, home: Path, picture: Picture) -> None:
    store.annotate("m:1", labels={"stage": "prod"}, metrics={"loss": math.nan})
    before = picture()
    store.annotate("m:1", labels={"stage": "prod", "k": "v"}, metrics={"loss": math.nan, "acc": 0.5})
    assert picture() == before
    assert [each.number for each in store.annotations("m:1")] == [1, 2]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "nothing to say"),
        ({"metrics": {"f1": "0.9"}}, "the metric 'f1' is a number, not '0.9'; text goes into a label"),
        ({"metrics": {"f1": True}}, "is a number"),
        ({"metrics": {"f1": None}}, "is a number"),
        ({"metrics": {"f1": [1.0]}}, "is a number"),
        ({"metrics": {1: 1.0}}, "is no name"),
        ({"metrics": {"": 1.0}}, "is no name"),
        ({"metrics": {"a\udcff": 1.0}}, "not Unicode"),
        ({"metrics": {"f1": 10**400}}, "too large"),
        ({"metrics": [1]}, "metrics is a dict"),
        ({"labels": {"k": {}}}, "labels map text to text"),
        ({"labels": {"k": "x" * 1_000_001}}, "a million characters"),
        ({"remove": "nobody"}, "has no label and no metric"),
        ({"labels": {"a": "b"}, "remove": ["nobody"]}, "has no label and no metric"),
    ],
)
def test_what_cannot_be_said(store, saved, given, match, picture: Picture) -> None:
    before = picture()
    with pytest.raises(casstore.InvalidMetadata, match=match):
        store.annotate("m:1", **given)
    assert picture() == before


def test_of_which_version(store, saved, save: Save) -> None:
    save("m:23", {"a": b"1"})
    save("m:24", {"a": b"1"})
    assert str(store.annotate("m", metrics={"a": 1}).tag) == "m:24"
    with pytest.raises(casstore.AmbiguousTag):
        store.annotate("m:2", metrics={"a": 1})
    for tag in ("m:9", "n"):
        with pytest.raises(casstore.TagNotFound):
            store.annotate(tag, metrics={"a": 1})
        with pytest.raises(casstore.TagNotFound):
            store.annotations(tag)


def test_values_of_every_kind_come_back(store, saved, sql: Sql) -> None:
    metrics = {
        "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "large": 2**63 - 1, "larger": 2**64, "zero": -0.0,
        "a.b.c": 1, "'; DROP TABLE version; --": 2, "blank key": 3, "ä\u2028\x1b": 4, "numpy": np.int64(7),
    }  # fmt: skip
    labels = {"a.b": "x", "": "empty", "long": "y" * 100_000, "ü": "\n\t\0"}
    store.annotate("m:1", labels=labels, metrics=metrics)
    for opened in (store, rebuilt(store)):
        model = opened.get("m:1")
        assert model.labels == {**saved.saved_labels, **labels}
        found = dict(model.metadata["metrics"])
        assert math.isnan(found.pop("nan"))
        assert found == {**{key: value for key, value in metrics.items() if key != "nan"}, "acc": 0.5}
        assert type(found["larger"]) is float
        assert opened.verify().is_sound
    opened.close()
    assert ("metrics.'; DROP TABLE version; --", 2) in sql("SELECT path, value FROM metadata")


def test_a_dotted_name_means_what_is_nested(store, save: Save, sql: Sql) -> None:
    metadata = {"metrics": {"eval": {"f1": 0.5, "deep": {"x": 1}}, "eval.f1": 0.4, "train": 3}, "other": [1, 2]}
    save("m:1", {"a": b"1"}, metadata=metadata)
    store.annotate("m:1", metrics={"eval.f1": 0.9, "eval.deep.x": 2, "train.loss": 0.1})
    expected = {"eval": {"deep": {"x": 2}}, "eval.f1": 0.9, "train": 3, "train.loss": 0.1}
    assert store.get("m:1").metadata == {"metrics": expected, "other": [1, 2]}
    assert sql("SELECT value FROM metadata WHERE path = 'metrics.eval.f1'") == [(0.9,)]
    assert store.annotate("m:1", metrics={"eval": 7}, remove="metrics.train.loss").metadata["metrics"]["eval"] == 7
    assert store.get("m:1").saved_metadata == metadata
    save("n:1", {"a": b"1"}, metadata={"metrics": "see the log"})
    assert store.annotate("n:1", metrics={"f1": 1}).metadata == {"metrics": {"f1": 1}}
    assert store.annotate("n:1", remove="f1").metadata == {"metrics": {}}


@given(
    st.recursive(
        st.dictionaries(st.sampled_from(["a", "b", "a.b", "b.a"]), st.integers(0, 3), max_size=3),
        lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner | st.integers(0, 3), max_size=3),
    ),
    st.dictionaries(st.sampled_from(["a", "b", "a.b", "a.a.b", "b.a.b"]), st.none() | st.integers(4, 9), max_size=3),
)
def test_each_name_means_one_number(saved: dict[str, Any], later: dict[str, Any]) -> None:
    merged = Annotated({}, later).metadata_over({"metrics": saved, "x": 1})
    for name, value in [*later.items()][-1:]:
        place = place_of(dict(merged.get("metrics", {})), name)
        assert place is None if value is None else place is not None and place[0][place[1]] == value
    assert merged["x"] == 1
    text = Annotated({"l": None}, later).text
    assert Annotated.parse(text) == Annotated({"l": None}, later)


def test_a_new_catalog_is_made_of_the_log(store, saved, home: Path, sql: Sql) -> None:
    store.annotate("m:1", labels={"stage": "prod"}, metrics={"f1": 0.9})
    store.annotate("m:1", remove="k", metrics={"f1": 0.95})
    before, table = store.annotations("m:1"), rows(sql)
    with rebuilt(store) as again:
        assert again.annotations("m:1") == before
        assert rows(sql) == table
        assert again.get("m:1").labels == {"stage": "prod"}
        again.annotate("m:1", labels={"k": "w"})
        assert [each.number for each in again.annotations("m:1")] == [1, 2, 3, 4, 5]


def test_damaged_lines(store, saved, home: Path) -> None:
    for number in range(5):
        store.annotate("m:1", metrics={f"f{number}": number})
    path = log_of(home)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"f1", b"f7"), b"\0" * 30 + b"\n", *lines[3:]]))
    report = store.verify()
    assert not report.is_sound
    assert report.damaged_copies == (str(path),)
    assert "2 lines are damaged" in report.reasons[0]
    assert store.verify("m:1", quick=True).damaged_copies == (str(path),)
    home = store.home
    copy = home.parent / "copy"
    store.close()
    shutil.copytree(home, copy, symlinks=True)
    casstore.Store.rebuild_catalog(copy)
    with casstore.Store(copy) as other:
        assert other.get("m:1").metadata["metrics"] == {"acc": 0.5, "f0": 0, "f3": 3, "f4": 4}
    report = store.repair()
    assert [Path(each).name.partition(".")[2] for each in report.quarantined] == ["m.log"]
    assert store.verify().is_sound
    with rebuilt(store) as again:
        assert again.get("m:1").metadata["metrics"] == {"acc": 0.5, **{f"f{number}": number for number in range(5)}}


@pytest.mark.parametrize("is_said", [True, False])
def test_a_log_that_cannot_be_read(store, saved, home: Path, is_said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_said:
        store.annotate("m:1", labels={"stage": "prod"})
    else:
        append_log.append(log_of(home), [{}])
    inode, real = log_of(home).stat().st_ino, annotation_log.read

    def read(path: Path) -> annotation_log.AnnotationLog:
        if path.exists() and path.stat().st_ino == inode:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(annotation_log, "read", read)
    assert store.verify().damaged_copies == (str(log_of(home)),)
    assert len(store.gc().left) == is_said
    (kept,) = store.repair().quarantined
    assert Path(kept).stat().st_ino == inode
    assert store.verify().is_sound
    with rebuilt(store) as again:
        assert again.get("m:1").labels["stage"] == ("prod" if is_said else "dev")


@pytest.mark.parametrize("lost", ["the file", "the last", "a part of the last", "zeros at the end", "its beginning"])
@pytest.mark.parametrize("then", ["gc", "annotate", "repair"])
def test_what_the_log_lacks_is_written_again(store, saved, home: Path, lost: str, then: str) -> None:
    store.annotate("m:1", metrics={"f0": 0})
    store.annotate("m:1", metrics={"f1": 1}, labels={"l": "2"})
    path = log_of(home)
    data, told = path.read_bytes(), annotation_log.read(path)
    last = data.rindex(b"\n", 0, -1) + 1
    if lost == "the file":
        path.unlink()
    else:
        kept = data[:last]
        torn = {
            "a part of the last": data[last:-9], "zeros at the end": b"\0" * 99,
            "its beginning": b"\0" * 40 + data[last + 40 :],
        }  # fmt: skip
        path.write_bytes(kept + torn.get(lost, b""))
    assert store.verify().is_sound  # as after a crash
    if then == "annotate":
        store.annotate("m:1", labels={"l": "2"})  # which holds already
    else:
        getattr(store, then)()
    assert annotation_log.read(path) == told
    assert path.read_bytes() == data or lost == "the file"
    assert store.verify().is_sound


def test_what_is_saved_anew_inherits_nothing(store, saved, save: Save, home: Path) -> None:
    store.annotate("m:1", labels={"stage": "prod"})
    store.delete("m:1")
    again = save("m:1", {"a": b"1"}, labels={"stage": "dev"})
    assert again.labels == {"stage": "dev"}
    assert again.digest == saved.digest
    store.annotate("m:1", metrics={"f1": 1})
    assert [each.number for each in store.annotations("m:1")] == [2]
    with rebuilt(store) as opened:
        assert opened.get("m:1").labels == {"stage": "dev"}
        assert said(opened) == [("metric", "f1", 1)]


def test_what_comes_back_has_its_own_again(store, saved, save: Save, home: Path, tmp_path: Path) -> None:
    save("m:2", {"a": b"2"})
    store.annotate("m:1", labels={"stage": "prod"})
    archive = store.export("m:1", tmp_path / "m.casmodel")
    with store.add_remote("origin", str(tmp_path / "there")) as there:
        there.push("m:1")
        assert there.get("m:1").labels["stage"] == "dev"  # only what was saved travels
    store.evict("m:1", to_remote="origin")
    assert store.get("m:1").labels["stage"] == "prod"
    shutil.rmtree(home / "models/m/1", ignore_errors=True)
    assert store.get("m:1").path
    shutil.rmtree(home / "models/m/1")
    store.sync_tree(prune=True)
    assert store.restore_pruned("m:1").labels["stage"] == "prod"
    store.delete("m:1")
    assert store.import_archive(archive)[0].model.labels["stage"] == "prod"
    assert store.import_archive(archive, as_tag="m:3")[0].model.labels["stage"] == "dev"
    assert store.import_archive(archive, as_tag="n:1")[0].model.labels["stage"] == "dev"
    with casstore.Store(tmp_path / "other") as other:
        assert other.import_archive(archive)[0].model.labels["stage"] == "dev"
    assert store.verify().is_sound


def test_archives_hold_what_was_saved(store, saved, tmp_path: Path) -> None:
    store.annotate("m:1", labels={"stage": "prod"})
    store.export("m:1", tmp_path / "folder", format="folder")
    assert yaml.safe_load((tmp_path / "folder/model.yaml").read_text())["labels"]["stage"] == "dev"
    # The same version, whatever was said of it since.
    assert not store.import_archive(tmp_path / "folder")[0].is_new
    (tmp_path / "a").write_bytes(b"1")
    again = store.save(
        "m:1", tmp_path / "a", exist_ok=True, labels=dict(saved.saved_labels), metadata=dict(saved.saved_metadata)
    )
    assert again.labels["stage"] == "prod"


def test_repair_of_a_damaged_record_keeps_what_was_said(store, saved, sql: Sql) -> None:
    store.annotate("m:1", labels={"stage": "prod"}, metrics={"f1": 1})
    before = rows(sql)
    sql("UPDATE version SET size = 7, annotated = '{'")
    sql("DELETE FROM label")
    sql("DELETE FROM metadata")
    with pytest.raises(casstore.IntegrityError, match="the catalog's record of m:1 is damaged"):
        _ = store.get("m:1").labels
    assert store.verify().damaged_records == ("m:1",)
    assert store.repair().restored == ("m:1",)
    assert store.get("m:1").labels["stage"] == "prod"
    assert rows(sql) == before
    assert store.verify().is_sound


def test_a_backup_has_them_too(store, saved, tmp_path: Path) -> None:
    store.annotate("m:1", labels={"stage": "prod"})
    store.backup(tmp_path / "backup")
    store.annotate("m:1", labels={"stage": "old"})
    store.backup(tmp_path / "backup")
    casstore.Store.rebuild_catalog(tmp_path / "backup")
    with casstore.Store(tmp_path / "backup") as backup:
        assert backup.get("m:1").labels["stage"] == "old"
        assert len(backup.annotations("m:1")) == 2


def test_several_processes_annotate(store, saved, home: Path) -> None:
    def say(process: int) -> None:
        with casstore.Store(home) as opened:
            for number in range(8):
                opened.annotate("m:1", metrics={f"p{process}": number, "all": process * 100 + number})

    children = [Child(functools.partial(say, process)) for process in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    numbers = [each.number for each in store.annotations("m:1")]
    assert numbers == list(range(1, 49))
    metrics = store.get("m:1").metadata["metrics"]
    assert {metrics[f"p{process}"] for process in range(3)} == {7}
    log = annotation_log.read(log_of(home))
    assert log.damaged == 0
    assert [each for (several,) in [log.said.values()] for each in several] == numbers


def test_a_version_that_is_deleted_meanwhile(store, saved, monkeypatch: pytest.MonkeyPatch) -> None:
    real = annotating._complete

    def complete(*arguments: Any, **named: Any) -> int:
        with store._workspace.catalog._connections.write() as connection:
            connection.execute("DELETE FROM version")
        return real(*arguments, **named)

    monkeypatch.setattr(annotating, "_complete", complete)
    with pytest.raises(casstore.TagNotFound, match="deleted meanwhile"):
        store.annotate("m:1", metrics={"f1": 1})


def test_names_and_orders_of_many(store, save: Save, home: Path) -> None:
    """Numbers grow within a name, and each name has a log of its own; a log longer than its end is read too."""
    for tag in ("m:1", "m:2", "n:1"):
        save(tag, {"a": b"1"})
    for number in range(3):
        for tag in ("m:1", "m:2", "n:1"):
            store.annotate(tag, labels={"l": str(number) * 40_000})
    assert [each.number for each in store.annotations("m:2")] == [2, 4, 6]
    assert [each.number for each in store.annotations("n:1")] == [1, 2, 3]
    assert log_of(home).stat().st_size > 64 << 10
    with rebuilt(store) as again:
        assert [each.number for each in again.annotations("m:2")] == [2, 4, 6]


def test_a_line_longer_than_the_end_of_a_log(store, saved, home: Path) -> None:
    store.annotate("m:1", labels={"l": "x" * 200_000})
    store.annotate("m:1", labels={"l": "y" * 200_000})
    assert annotation_log.last_number(log_of(home)) == 2
    with open(log_of(home), "ab") as log:
        log.write(b"{" * 100_000)
    store.annotate("m:1", labels={"l": "z"})
    assert [each.number for each in store.annotations("m:1")] == [1, 2, 3]
    assert annotation_log.read(log_of(home)).damaged == 0
    assert store.verify().is_sound


def test_lines_of_a_later_release_are_kept(store, saved, home: Path) -> None:
    store.annotate("m:1", labels={"stage": "prod"})
    append_log.append(log_of(home), [{"annotations": [{"number": 7, "kind": "vote", "of": "m:1"}, 1]}, {"x": 1}])
    assert store.verify().is_sound
    store.annotate("m:1", labels={"stage": "old"})
    with rebuilt(store) as again:
        assert again.get("m:1").labels["stage"] == "old"
        assert again.verify().is_sound


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_store_that_can_only_be_read(saved, store, home: Path) -> None:
    store.annotate("m:1", labels={"stage": "prod"})
    store.close()
    with tempfile.TemporaryDirectory() as place:  # which others can reach
        os.chmod(place, 0o755)
        copy = Path(place) / "store"
        shutil.copytree(home, copy, symlinks=True)
        casstore.Store.init(copy, shared="all")

        def other() -> None:
            os.setgid(65534)
            os.setuid(65534)
            with casstore.Store(copy) as opened:
                assert opened.get("m:1").labels["stage"] == "prod"
                assert len(opened.annotations("m:1")) == 1
                with pytest.raises(casstore.StoreUnwritable):
                    opened.annotate("m:1", labels={"stage": "x"})

        assert Child(other).wait() == 0


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=5), st.floats() | st.none()), max_size=5))
def test_what_a_log_is_given_it_says(given_lines: list[tuple[int, str, float | None]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "annotations" / "m.log"
        subject = annotation_log.Subject("1", 2, "ab")
        lines = [Annotation(n, METRIC, key, value, 3, "me@here") for n, key, value in given_lines]
        annotation_log.append(path, [(subject, each) for each in lines])
        expected = {each.number: each for each in lines}
        assert list(map(repr, annotation_log.read(path).of(subject))) == [repr(expected[n]) for n in sorted(expected)]
        assert annotation_log.last_number(path) == max(expected, default=0)
