"""verify of some versions: all that they need is looked at, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.kit import Files, Picture, Sql, flip, noise, plant

BIG = 2_500_000


@pytest.fixture
def three(store: casstore.Store):
    """a and b share a large file; c shares nothing; d is packed, as differences from c."""
    changed = bytearray(noise(BIG, 3))
    changed[1_200_000:1_200_100] = bytes(100)
    versions: list[tuple[str, Files, dict[str, Any]]] = [
        ("a:1", {"w.bin": noise(BIG), "small": noise(500, 9)}, {}),
        ("b:1", {"copy/of/w.bin": noise(BIG), "own": noise(5000, 8)}, {}),
        ("c:1", {"else.bin": noise(BIG, 3), "mid": noise(100_000, 4)}, {}),
        ("d:1", {"else.bin": bytes(changed)}, {"base": "c:1", "materialize": False}),
    ]
    for tag, files, options in versions:
        with store.create(tag, **options) as draft:
            plant(draft.path, files)
    return store


def loose(store, tag, path):
    digest = next(file.digest for file in store.get(tag).files if file.path == path)
    return next((store.home / "objects/loose").rglob(f"{digest}.*"))


def named(report):
    return [(damage.tag, damage.path) for damage in report.damage]


@pytest.mark.parametrize("quick", [False, True])
def test_only_what_they_need_is_read(three, picture: Picture, quick) -> None:
    before = picture()
    whole = three.verify(quick=quick)
    report = three.verify("c:1", quick=quick)
    assert (report.is_sound, report.tags, report.reasons) == (True, ("c:1",), ())
    assert whole.tags == ()
    if quick:
        assert report.read_bytes == 0
    else:
        assert BIG + 100_000 <= report.read_bytes < whole.read_bytes - BIG
    assert three.verify(["a", "b:1", "a:1"], quick=quick).tags == ("a:1", "b:1")
    assert three.verify([], quick=quick).chunks == 0
    assert picture() == before


def test_damage_elsewhere_is_not_theirs(three) -> None:
    flip(loose(three, "a:1", "w.bin"), 77)
    assert three.verify(["c:1", "d:1"]).is_sound
    report = three.verify("b:1")
    assert named(report) == [("b:1", "copy/of/w.bin")], "a:1 shares the damage, and was not asked for"
    assert report.damaged_tags == ["b:1"]
    assert not report.is_sound
    assert named(three.verify(["a:1", "b:1"])) == [("a:1", "w.bin"), ("b:1", "copy/of/w.bin")]


def test_damage_in_what_a_difference_is_against(three) -> None:
    path = loose(three, "c:1", "else.bin")
    flip(path, 10)
    assert named(three.verify("d:1")) == [("d:1", "else.bin")]
    assert three.verify(["a:1", "b:1"]).is_sound


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("harm", [os.unlink, lambda path: os.truncate(path, 100)])
def test_a_missing_or_cut_container(three, harm, quick) -> None:
    path = loose(three, "c:1", "else.bin")
    path.chmod(0o644)
    harm(path)
    assert named(three.verify("c:1", quick=quick)) == [("c:1", "else.bin")]
    assert three.verify("a:1", quick=quick).is_sound


def test_a_redundant_copy_a_directory_a_manifest(three) -> None:
    copy = loose(three, "c:1", "mid")
    flip(copy, 5)
    manifest = next((three.home / "manifests/c").glob("1.*"))
    flip(manifest, 40)
    added = Path(three.get("b:1").path, "own")
    added.chmod(0o644)
    added.write_bytes(b"another")
    report = three.verify("c:1")
    assert report.damage == ()
    assert set(report.damaged_copies) == {str(copy), str(three.home / "manifests/c/1")}
    assert three.verify("b:1").damaged_copies == (str(added),)
    assert three.verify("a:1").is_sound


def test_a_record_that_is_damaged(three, sql: Sql) -> None:
    sql("UPDATE file SET path = 'other' WHERE path = 'mid'")
    assert three.verify("c:1").damaged_records == ("c:1",)
    assert three.verify("a:1").is_sound


def test_a_version_that_is_not_there(three) -> None:
    with pytest.raises(casstore.TagNotFound):
        three.verify(["a:1", "e:1"])
    with pytest.raises(casstore.InvalidTag):
        three.verify("a/b")


def test_what_was_not_read_is_not_noted_as_read(three, sql: Sql) -> None:
    def read():
        return sql("SELECT count(*) FROM container WHERE read_at IS NOT NULL")[0][0]

    sql("UPDATE container SET read_at = NULL")
    three.verify("a:1")
    assert read() == 0
    three.verify()
    assert read() > 0
