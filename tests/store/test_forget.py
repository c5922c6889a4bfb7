"""Forgetting versions that no rule keeps: what is planned is what is done, and frees what was told."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.actions.registry import forgetting
from casstore.actions.workspace import Workspace
from casstore.catalog.deletions import Deletions
from tests.kit import Save, noise, weights


@pytest.fixture
def filled(save: Save) -> None:
    """bert:v0 to bert:v5, of which two share each large file; and a name that must stay as it is."""
    for number in range(6):
        save(
            f"bert:v{number}",
            {"w.bin": noise(200_000, number // 2), "own.bin": noise(70_000, 100 + number)},
            metadata={"metrics": {"f1": [0.5, 0.9, 0.1, 0.7, 0.9, 0.3][number]}, "step": number * 400},
            labels={"keep": "yes"} if number == 2 else {}, durability="relaxed",
        )  # fmt: skip
    save("other:1", {"w.bin": noise(200_000, 0)}, durability="relaxed")


def texts(tags: Any) -> list[str]:
    return list(map(str, tags))


def why(plan: casstore.ForgetPlan, tag: str) -> tuple[str, ...]:
    return next(each.reasons for each in plan.versions if str(each.tag) == tag)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 2}, "54"), ({"keep_best": "metrics.f1:max:2"}, "541"), ({"keep_best": "metrics.f1:min:1"}, "52"),
        ({"keep_every": "metadata.step:1000"}, "530"), ({"keep_label": "keep=yes"}, "52"),
        ({"keep_within": "1d"}, "543210"),
        ({"keep_daily": 1}, "5"), ({"keep_last": 1, "keep_label": "keep", "keep_best": ["metrics.f1:max:1"]}, "542"),
        ({"keep_within": timedelta(days=1)}, "543210"), ({"keep_best": "params.step:max:1"}, "5"),
        ({"keep_where": "metrics.f1 > 0.4 and metadata.step exists"}, "54310"),
        ({"keep_where": ["labels.keep = yes", "not created < 1d", "version in (v0, 'v1')"]}, "5210"),
        ({"keep_where": "pinned or alias exists or name = other", "keep_last": 1}, "5"),
    ],
)  # fmt: skip
def test_a_plan_says_what_stays(store: casstore.Store, filled: None, rules: dict[str, Any], kept: str) -> None:
    """`params.step` is `step` in the metadata, where there is no `params`."""
    plan = store.forget("bert", **rules)
    assert texts(plan.kept) == [f"bert:v{number}" for number in kept]
    assert texts(each.tag for each in plan.versions) == [f"bert:v{number}" for number in range(5, -1, -1)]
    assert plan.dry_run
    assert len(store.list("bert")) == 6


def test_it_is_done_and_frees_what_was_told(store: casstore.Store, filled: None) -> None:
    store.set_setting("trash_days", "0")
    before = store.stats().stored_bytes
    plan = store.forget("bert", keep_last=1, keep_label="keep=yes")
    done = store.forget("bert", keep_last=1, keep_label="keep=yes", dry_run=False)
    assert texts(done.forgotten) == texts(plan.forgotten) == ["bert:v4", "bert:v3", "bert:v1", "bert:v0"]
    assert not done.dry_run
    assert done.versions == plan.versions
    assert texts(store.tags()) == ["other:1", "bert:v5", "bert:v2"]
    store.gc(rewrite=True)
    store.gc(rewrite=True)
    assert plan.frees_bytes >= 4 * 70_000
    assert before - store.stats().stored_bytes == pytest.approx(plan.frees_bytes, abs=20_000)
    assert store.verify().is_sound


def test_what_is_forgotten_comes_back_from_the_trash(store: casstore.Store, filled: None) -> None:
    store.forget("bert", keep_last=1, dry_run=False)
    assert len(store.deleted("bert")) == 5
    assert store.undelete("bert:v2").labels == {"keep": "yes"}
    assert texts(store.forget("bert", keep_label="keep=yes").kept) == ["bert:v5", "bert:v2"]


def test_what_each_frees_adds_up(store: casstore.Store, filled: None) -> None:
    """Of a file that several need, all counts with the last of them; what other names need counts with none."""
    plan = store.forget("bert", keep_last=1)
    frees = {str(each.tag): each.frees_bytes for each in plan.versions}
    assert sum(frees.values()) == plan.frees_bytes == store.stats(plan.forgotten).frees_bytes
    assert plan.frees_at_rewrite_bytes == store.stats(plan.forgotten).frees_at_rewrite_bytes
    assert frees["bert:v5"] == 0
    assert 70_000 <= frees["bert:v3"] < 200_000 < 270_000 <= frees["bert:v2"], "they share what is in v2 too"
    assert 70_000 <= frees["bert:v0"] < 200_000, "what it shares with v1 is in other:1"


@pytest.mark.parametrize("materialize", [True, False])
def test_what_chains_of_deltas_free_adds_up(store: casstore.Store, save: Save, materialize: bool) -> None:
    for step in range(6):
        values = weights("F32", 7, step, 100_000)
        head = b'{"w":{"dtype":"F32","shape":[100000],"data_offsets":[0,400000]}}'
        content = len(head).to_bytes(8, "little") + head + values.tobytes()
        save(f"run:{step}", {"m.safetensors": content}, materialize=materialize, durability="relaxed")
    for rules in ({"keep_last": 1}, {"keep_every": "metadata.step:1", "keep_last": 3}, {"keep_last": 5}):
        plan = store.forget("run", **rules)
        assert sum(each.frees_bytes for each in plan.versions) == plan.frees_bytes
        assert plan.frees_bytes == store.stats(plan.forgotten).frees_bytes
        assert all(each.frees_bytes >= 0 for each in plan.versions)


def test_pinned_and_aliased_versions_stay(store: casstore.Store, filled: None) -> None:
    store.pin("bert:v0")
    store.set_alias("bert@prod", "bert:v3")
    plan = store.forget("bert", keep_last=1)
    assert texts(plan.kept) == ["bert:v5", "bert:v3", "bert:v0"]
    assert why(plan, "bert:v0") == ("pinned",)
    assert why(plan, "bert:v3") == ("alias prod",)
    assert why(plan, "bert:v5") == ("newest", "last 1")


def test_names_and_patterns(store: casstore.Store, filled: None, save: Save) -> None:
    save("berta:1", {"x": b"1"})
    save("berta:2", {"x": b"2"})
    assert texts(store.forget(["bert*", "bert"], keep_last=1).kept) == ["bert:v5", "berta:2"]
    assert texts(store.forget("B?rt", keep_last=1).kept) == ["bert:v5"]
    with pytest.raises(casstore.TagNotFound, match="'brt\\*'; the nearest is bert"):
        store.forget("brt*", keep_last=1)
    with pytest.raises(casstore.TagNotFound, match="did you mean bert"):
        store.forget("brt", keep_last=1)
    with pytest.raises(casstore.InvalidTag, match="a name alone"):
        store.forget("bert:v1", keep_last=1)


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ({}, "no rule says what to keep"),
        ({"keep_label": "keep=never"}, "keeps no version of bert .keep-label keep=never: no version has it"),
        ({"keep_best": "metrics.F1:max:3"}, "no version has a number metrics.F1"),
        ({"keep_best": "metadata.name:max:3"}, "no version has a number"),
    ],
)
def test_what_would_drop_everything_is_refused(
    store: casstore.Store, filled: None, rules: dict[str, Any], what: str
) -> None:
    for dry_run in (True, False):
        with pytest.raises(casstore.InvalidPolicy, match=what):
            store.forget("bert", dry_run=dry_run, **rules)
    with pytest.raises(casstore.InvalidPolicy, match="of which names"):
        store.forget(keep_last=1)
    assert len(store.list("bert")) == 6


def test_nothing_is_forgotten_where_one_of_several_names_is_refused(
    store: casstore.Store, filled: None, save: Save
) -> None:
    save("other:2", {"x": b""})
    with pytest.raises(casstore.InvalidPolicy, match="no version of other"):
        store.forget(["bert", "other"], keep_label="keep=yes", dry_run=False)
    assert len(store.tags()) == 8


def test_a_rule_that_keeps_nothing_is_told(store: casstore.Store, filled: None) -> None:
    plan = store.forget("bert", keep_last=1, keep_best="metrics.acc:max:1")
    assert plan.notes == ("bert: keep-best metrics.acc:max:1: no version has a number metrics.acc",)


def test_a_clock_that_was_ahead(
    store: casstore.Store, filled: None, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version from the future stays, says why, and takes no other's place."""
    now = time.time_ns()
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: now + 10 * 365 * 86_400 * 10**9)
        save("bert:ahead", {"x": b"x"})
    save("bert:v6", {"x": b"y"})
    plan = store.forget("bert", keep_within="1h", dry_run=False)
    assert len(plan.kept) == 8
    assert why(plan, "bert:ahead") == ("newer than now, so its age is unknown",)
    with monkeypatch.context() as behind:
        behind.setattr(time, "time_ns", lambda: now - 10 * 365 * 86_400 * 10**9)
        assert store.forget("bert", keep_daily=1, dry_run=False).forgotten == ()
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: now + 30 * 365 * 86_400 * 10**9)
        with pytest.raises(casstore.InvalidPolicy, match="all versions are older"):
            store.forget("bert", keep_within="1y", dry_run=False)


@pytest.mark.usefixtures("filled")
class TestMeanwhile:
    """What others do between a plan and its doing."""

    def test_what_is_pinned_or_aliased_stays(self, store: casstore.Store) -> None:
        plan = store.forget("bert", keep_last=2)
        store.pin("bert:v0")
        store.set_alias("bert@prod", "bert:v1")
        done = store.forget_planned(plan)
        assert texts(done.forgotten) == ["bert:v3", "bert:v2"]
        assert why(done, "bert:v0") == ("pinned",)
        assert done.frees_bytes == sum(each.frees_bytes for each in done.versions)

    def test_what_is_needed_since_others_have_gone_stays(self, store: casstore.Store) -> None:
        plan = store.forget("bert", keep_last=2)
        store.delete(["bert:v5", "bert:v4", "bert:v3"])
        done = store.forget_planned(plan)
        assert texts(done.forgotten) == ["bert:v0"]
        assert why(done, "bert:v3") == ("gone meanwhile",)
        assert texts(model.tag for model in store.list("bert")) == ["bert:v2", "bert:v1"]

    def test_what_is_saved_stays(self, store: casstore.Store, save: Save) -> None:
        plan = store.forget("bert", keep_last=2)
        save("bert:v6", {"x": b"6"})
        save("bert:v7", {"x": b"7"})
        assert texts(store.forget_planned(plan).forgotten) == [f"bert:v{number}" for number in (3, 2, 1, 0)]
        assert len(store.list("bert")) == 4

    def test_one_that_goes_in_the_last_moment(self, store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        plan, forget = store.forget("bert", keep_last=2), forgetting.forget

        def late(workspace: Any, doomed: Any, why: str) -> list[str]:
            monkeypatch.setattr(forgetting, "forget", forget)
            with casstore.Store(store.home) as other:
                other.delete("bert:v1")
            return forget(workspace, doomed, why)

        monkeypatch.setattr(forgetting, "forget", late)
        assert texts(store.forget_planned(plan).forgotten) == ["bert:v3", "bert:v2", "bert:v0"]

    def test_what_is_kept_in_the_last_moment(
        self, store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wait = Workspace.name_lock

        def late(workspace: Workspace, name: str) -> Any:
            monkeypatch.setattr(Workspace, "name_lock", wait)
            with casstore.Store(store.home) as other:
                other.pin("bert:v0")
                other.set_alias("bert@prod", "bert:v1")
                other.annotate("bert:v3", labels={"keep": "yes"})
                other.delete("bert:v2")
                save("bert:v2", {"x": b"another"})
            return wait(workspace, name)

        monkeypatch.setattr(Workspace, "name_lock", late)
        done = store.forget("bert", keep_last=1, keep_label="keep=yes", dry_run=False)
        assert texts(done.forgotten) == ["bert:v4"]
        assert texts(model.tag for model in store.list("bert")) == [
            "bert:v2",
            "bert:v5",
            "bert:v3",
            "bert:v1",
            "bert:v0",
        ]


def test_the_history_says_why(store: casstore.Store, filled: None) -> None:
    store.forget("bert", keep_last=2, keep_where=f"version = v1 or tag = '{'x' * 900}'", dry_run=False)
    told = {event.tag: event.details["why"] for event in store.events() if event.kind == "deleted"}
    assert {*told} == {"bert:v0", "bert:v2", "bert:v3"}
    assert {len(why) for why in told.values()} == {500}
    assert all(why.startswith("kept by none of --keep-last 2 --keep-where ") for why in told.values())


def test_one_transaction_a_name(
    store: casstore.Store, filled: None, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("other:2", {"x": b"2"})
    calls: list[list[str]] = []
    delete = Deletions.delete

    def counted(self: Deletions, tags: Any, *more: Any, **how: Any) -> Any:
        calls.append(texts(tags))
        return delete(self, tags, *more, **how)

    monkeypatch.setattr(Deletions, "delete", counted)
    store.forget(["other", "bert"], keep_last=1, dry_run=False)
    assert calls == [["other:1"], [f"bert:v{number}" for number in (4, 3, 2, 1, 0)]]


def test_metadata_with_other_values(store: casstore.Store, save: Save) -> None:
    """Text is no number; of a list the best counts; what has a place of its own comes before a bare name."""
    for number, value in enumerate(["0.99", math.nan, [0.2, 0.8], 0.5, True, None, 10**30]):
        save(f"m:{number}", {"x": b"%d" % number}, metadata={"acc": value})
    save("m:own", {"x": b"own"}, metadata={"acc": 0.99, "metrics": {"acc": 0.1}})
    save("m:last", {"x": b"last"})
    assert texts(store.forget("m", keep_best="metrics.acc:max:2").kept) == ["m:last", "m:4", "m:2"]
    assert texts(store.forget("m", keep_best="metadata.acc:max:2").kept) == ["m:last", "m:own", "m:4"]
    assert texts(store.forget("m", keep_best="metrics.acc:min:1").kept) == ["m:last", "m:own"]


def test_what_users_put_into_directories_is_kept(store: casstore.Store, filled: None) -> None:
    Path(store.get("bert:v0").path, "notes.txt").write_text("mine")
    (path,) = store.forget("bert", keep_last=1, dry_run=False).quarantined
    assert path.endswith("notes.txt")
