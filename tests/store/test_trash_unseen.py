"""What is in the trash is seen by no question but those about the trash: all answers are as if it had gone for good."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.kit import noise

DELETED = ("a:v2", "b:v3", "b:v0")
EXPRESSIONS = [
    "labels.late = yes", "not labels.late exists", "metrics.acc >= 0", "metrics.later exists", "size > 0", "pinned",
    "not pinned", "name != a", "name = ''", "name < b", "version like '%'", "tag like ':%'", "base exists",
    "not alias exists", "metadata.x = t",
]  # fmt: skip
KEYS = [
    None,
    "metrics.acc",
    "-size",
    "labels.k",
    "name",
    "created",
    "opened",
    "alias",
    "base",
    "pinned",
    "metrics.later",
]
COLUMNS = "tag,labels,metadata,alias,pinned,base"
OF_DELETED = "metrics.later > 1 and labels.late = yes and metrics.m2 = 1"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[casstore.Store, casstore.Store]:
    """Two stores of the same versions. Of one some are in the trash, and the other has them no more."""
    place = tmp_path_factory.mktemp("unseen")
    with casstore.Store(place / "trash", auto_gc=False) as store:
        for name in "ab":
            for number in range(4):
                said = {"metrics": {f"m{number}": number, "acc": number / 10}, "x": [number, "t"]}
                base = f"{name}:v{number - 1}" if number else None
                with store.create(
                    f"{name}:v{number}", labels={"k": f"{name}{number}"}, metadata=said, base=base
                ) as new:
                    Path(new.path, "w").write_bytes(noise(70_000, number // 2))
                    Path(new.path, "own").write_text(f"{name}{number}")
        store.annotate("a:v2", labels={"late": "yes"}, metrics={"later": 2.0})
        store.pin("a:v2")
        store.set_alias("a@prod", "a:v2")
        store.set_alias("a@prod", "a:v1")
    shutil.copytree(place / "trash", place / "gone", symlinks=True)
    made = casstore.Store(place / "trash", auto_gc=False), casstore.Store(place / "gone", auto_gc=False)
    for store, now in zip(made, (False, True), strict=True):
        for tag in DELETED:
            store.delete(tag, now=now)
    return made


def tags(models: Any) -> list[str]:
    return [str(model.tag) for model in models]


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_searches(stores: tuple[casstore.Store, casstore.Store], where: str) -> None:
    trash, gone = (
        [
            store.count(where=where), store.count("*", where=where),
            *(tags(store.list(name, where=where, sort=key, limit=limit))
              for name in (None, "b", "*") for key in KEYS for limit in (None, 2)),
        ]
        for store in stores
    )  # fmt: skip
    assert trash == gone


def test_all_other_questions(stores: tuple[casstore.Store, casstore.Store]) -> None:
    def answers(store: casstore.Store) -> dict[str, Any]:
        there = store.tags()
        return {
            "tags": there, "list": tags(store.list()), "count": store.count(), "table": store.table(columns=COLUMNS),
            "labels": tags(store.list(labels={"late": "yes"})), "damaged": list(store.damaged_tags()),
            "newest": [str(store.get(name).tag) for name in ("a", "b:latest", "a@prod")],
            "exists": [store.exists(tag) for tag in (*DELETED, "b", "a@prod")],
            "parents": [repr(store.get(tag).parents) for tag in there],
            "lineage": [repr(store.lineage(tag)) for tag in there],
            "likely": [repr(store.likely_parents(tag)) for tag in there],
            "aliases": [(str(each), str(each.tag)) for each in store.aliases()],
            "forget": [(str(each.tag), each.reasons) for each in store.forget("b", keep_last=1).versions],
            "unknown": store.unknown_fields(where=OF_DELETED), "diff": repr(store.diff("a:v0", "a:v1")),
            "verify": store.verify().damage, "versions": store.stats().versions,
        }  # fmt: skip

    trash, gone = map(answers, stores)
    assert trash == gone
    assert trash["unknown"] == {"metrics.later": None, "labels.late": None}
    assert trash["tags"] == ["b:v2", "b:v1", "a:v3", "a:v1", "a:v0"]
