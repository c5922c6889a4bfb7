"""Where versions came from: what is recorded, what is found in files, and what is told of it."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import casstore
from casstore import Parent
from casstore.actions.registry import likeness
from casstore.storage.layout import Layout
from casstore.storage.manifest import Manifest
from tests.kit import Save, Sql, plant

HF = "hf://org/base@rev"
DATA = "sst2@sha256:" + "ab" * 32


def weights(tensors: int, changed: Collection[int] = (), seed: int = 1) -> bytes:
    """A safetensors file of so many tensors, some of which are others for each seed."""
    header: dict[str, Any] = {}
    data = b""
    for number in range(tensors):
        values = np.random.default_rng([number, seed if number in changed else 0]).standard_normal(64, dtype="f4")
        header[f"layer.{number}"] = {"dtype": "F32", "shape": [64], "data_offsets": [len(data), len(data) + 256]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of(model: casstore.Model, relation: str) -> Parent:
    return Parent(relation, model.tag, model.digest)


def manifest_of(store: casstore.Store, model: casstore.Model) -> Manifest:
    (path,) = (Layout(store.home).manifests / model.name).glob(f"{model.version}.*")
    return Manifest.unpack(path.read_bytes())


@pytest.fixture
def line(save: Save) -> list[casstore.Model]:
    """Three generations: of 10 tensors, one has changed in the second, two more in the third."""
    first = save("base:v1", {"m.safetensors": weights(10)})
    second = save("chat:v1", {"m.safetensors": weights(10, {1})}, parents=[("base:v1", "finetune"), (HF, "finetune")])
    third = save(
        "chat:v2", {"m.safetensors": weights(10, {1, 2, 3})}, parents=[("chat:v1", "finetune"), (DATA, "dataset")]
    )
    return [first, second, third]


def test_parents_are_recorded(store: casstore.Store, line: list[casstore.Model]) -> None:
    first, second, third = line
    assert first.parents == ()
    assert second.parents == (of(first, "finetune"), Parent("finetune", uri=HF))
    assert third.parents == (of(second, "finetune"), Parent("dataset", uri=DATA))
    assert manifest_of(store, third).parents == third.parents
    assert store.verify().is_sound


def test_parents_do_not_change_the_digest(save: Save) -> None:
    files = {"a": b"a"}
    assert save("a:1", files).digest == save("b:1", files, parents=[(HF, "finetune")]).digest


def test_the_base_is_a_parent_unless_said_otherwise(store: casstore.Store, save: Save) -> None:
    first = save("m:1", {"a": b"1"})
    by_itself = save("m:2", {"a": b"2"})
    assert by_itself.parents == (of(first, "base"),)
    assert manifest_of(store, by_itself).parents is None
    assert save("m:3", {"a": b"3"}, base="m:1", parents=[DATA]).parents == (
        of(first, "base"),
        Parent("derived", uri=DATA),
    )
    assert save("m:4", {"a": b"4"}, base="m:1", parents=[("m:1", "finetune")]).parents == (of(first, "finetune"),)
    assert save("m:5", {"a": b"5"}, parents=[DATA]).parents == (Parent("derived", uri=DATA),)
    alone = save("m:6", {"a": b"6"}, base="m:1", parents=[])
    assert alone.parents == ()
    assert alone.base is not None
    assert manifest_of(store, alone).parents == ()


def test_parents_survive_a_new_catalog_and_a_repair(
    store: casstore.Store, line: list[casstore.Model], save: Save, sql: Sql
) -> None:
    alone = save("chat:v3", {"a": b"6"}, parents=[])
    expected = {str(model.tag): model.parents for model in [*line, alone]}
    store.close()
    sql("DELETE FROM parent WHERE number > 0")
    with casstore.Store(store.home) as again:
        assert sorted(map(str, again.verify().damaged_records)) == ["chat:v1", "chat:v2"]
        again.repair()
        assert {tag: again.get(tag).parents for tag in expected} == expected
        assert again.verify().is_sound
    casstore.Store.rebuild_catalog(store.home)
    with casstore.Store(store.home) as again:
        assert {tag: again.get(tag).parents for tag in expected} == expected


def test_archives_and_remotes_carry_parents(store: casstore.Store, line: list[casstore.Model], tmp_path: Path) -> None:
    store.export([model.tag for model in line], tmp_path / "all.casmodel")
    with store.add_remote("origin", str(tmp_path / "remote")) as remote:
        remote.push("chat:v2")
    with casstore.Store(tmp_path / "other") as other:
        other.import_archive(tmp_path / "all.casmodel")
        assert [other.get(model.tag).parents for model in line] == [model.parents for model in line]
        assert other.verify().is_sound
    with casstore.Store(tmp_path / "third") as third:
        third.add_remote("origin", str(tmp_path / "remote"), make=False)
        pulled = third.remote("origin").pull("chat:v2")[0].model
        assert pulled.parents == line[2].parents
        (ancestor, _) = third.lineage("chat:v2").ancestors
        assert (str(ancestor), ancestor.state) == ("chat:v1", "gone")  # it was never here


@pytest.mark.parametrize(
    "parents",
    [
        "m:1",
        [("m:1", "Fine Tune")],
        [("m:1", "x" * 64)],
        [("m:1", "a", "b")],
        [7],
        [("hf://a b/c", "finetune")],
        [("hf://" + "a" * 5000, "finetune")],
        [Parent("finetune")],
        [Parent("finetune", uri=HF, tag=casstore.Tag("m", "1"))],
        [f"hf://{number}" for number in range(1001)],
    ],
)
def test_what_cannot_be_a_parent_is_refused(store: casstore.Store, save: Save, parents: Any) -> None:
    save("m:1", {"a": b"1"})
    with pytest.raises(casstore.InvalidMetadata, match="parent"):
        store.create("m:2", parents=parents)


def test_parents_of_a_version_that_was_deleted(store: casstore.Store, save: Save) -> None:
    model = save("m:1", {"a": b"1"})
    assert model.parents == ()
    store.delete("m:1")
    with pytest.raises(casstore.TagNotFound):
        _ = model.parents


def test_a_parent_that_is_not_there_is_an_error(store: casstore.Store) -> None:
    with pytest.raises(casstore.TagNotFound):
        store.create("m:2", parents=[("m:1", "finetune")])


def test_parents_of_another_version_can_be_taken_over(save: Save, store: casstore.Store) -> None:
    save("m:1", {"a": b"1"})
    second = save("m:2", {"a": b"2"})
    store.delete("m:1")
    assert save("n:1", {"a": b"2"}, parents=second.parents).parents == second.parents


def test_saving_again_compares_parents_that_are_said(save: Save) -> None:
    save("m:1", {"a": b"1"})
    save("m:2", {"a": b"2"}, parents=[("m:1", "finetune"), DATA])
    assert save("m:2", {"a": b"2"}, parents=[DATA, ("m:1", "finetune")], exist_ok=True)
    assert save("m:2", {"a": b"2"}, exist_ok=True)
    with pytest.raises(casstore.TagExists, match="it came from"):
        save("m:2", {"a": b"2"}, parents=[DATA], exist_ok=True)


def test_a_kept_draft_keeps_its_parents(store: casstore.Store, save: Save) -> None:
    first = save("m:1", {"a": b"1"})
    parents = [("m:1", "finetune"), (HF, "merge")]
    with pytest.raises(casstore.InvalidMetadata), store.create("m:2", parents=parents) as draft:
        plant(draft.path, {"a": b"2"}) and draft.metadata.update(x=object())
    (kept,) = store.drafts()
    saved = store.save_draft(kept, "m:3")
    assert saved.parents == (of(first, "finetune"), Parent("merge", uri=HF))


def test_a_kept_draft_gets_no_parent_that_was_not_said(store: casstore.Store, save: Save) -> None:
    save("m:1", {"a": b"1"})
    for given in (None, [DATA]):
        with pytest.raises(casstore.InvalidMetadata), store.create("m:2", parents=[(HF, "merge")]) as draft:
            plant(draft.path, {"a": b"2"}) and draft.metadata.update(x=object())
        (kept,) = store.drafts()
        expected = Parent("merge", uri=HF) if given is None else Parent("derived", uri=DATA)
        assert store.save_draft(kept, f"n:{given is None}".lower(), parents=given).parents == (expected,)


CARD = b"---\nlicense: mit\nbase_model: %s\n---\n# A model\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"adapter_config.json": b'{"base_model_name_or_path": "org/b", "revision": null}'}, [("adapter", "org/b")]),
        (
            {
                "adapter_config.json": b'{"base_model_name_or_path": "org/b", "revision": "r1"}',
                "README.md": CARD % b"org/b",
            },
            [("adapter", "org/b@r1"), ("adapter", "org/b")],
        ),
        ({"README.md": CARD % b"gpt2"}, [("finetune", "gpt2")]),
        ({"README.md": CARD % b"[org/a, org/b]"}, [("merge", "org/a"), ("merge", "org/b")]),
        ({"README.md": CARD % b"org/a\r\nbase_model_relation: quantized"}, [("quantized", "org/a")]),
        ({"README.md": CARD % b"org/a\nbase_model_relation: [x]"}, [("finetune", "org/a")]),
        # Nothing, or nothing sound:
        ({"README.md": b"# A model\nbase_model: org/a\n"}, []),
        ({"README.md": CARD % b"&a [*a]"}, []),
        ({"README.md": CARD % b"/home/ann/base"}, []),
        ({"README.md": CARD % b"../base"}, []),
        ({"README.md": CARD % b"{a: b}"}, []),
        ({"README.md": b"---\nbase_model: org/a\n"}, []),
        ({"adapter_config.json": b"[" * 100_000}, []),
        ({"adapter_config.json": b"\xff"}, []),
        ({"adapter_config.json": b'{"base_model_name_or_path": "a/\\ud800"}'}, []),
        ({"adapter_config.json": b'{"base_model_name_or_path": "/' + b"a/" * 9000 + b'"}'}, []),
        ({"adapter_config.json": b'{"base_model_name_or_path": "a\\u0000b"}'}, []),
        ({"sub/adapter_config.json": b'{"base_model_name_or_path": "org/b"}'}, []),
    ],
)
def test_files_say_what_they_came_from(save: Save, files: dict[str, bytes], found: list[tuple[str, str]]) -> None:
    expected = tuple(Parent(relation, uri=f"hf://{what}") for relation, what in found)
    assert save("m:1", files).parents == expected
    assert save("n:1", files, parents=[]).parents == ()


def test_an_adapter_on_a_version_of_the_store(store: casstore.Store, save: Save) -> None:
    base = save("base:v1", {"a": b"1"})
    config = json.dumps({"base_model_name_or_path": base.path}).encode()
    assert save("adapter:v1", {"adapter_config.json": config}).parents == (of(base, "adapter"),)
    # The base by default is the same version: it is named once, and by what the file says.
    assert save("base:v2", {"adapter_config.json": config}).parents == (of(base, "adapter"),)
    store.delete("base:v1")
    assert save("adapter:v2", {"adapter_config.json": config}, base="base:v2").parents[0].relation == "base"


def test_a_snapshot_of_a_hub(store: casstore.Store, tmp_path: Path) -> None:
    snapshot = plant(tmp_path / "models--org--name/snapshots/c0ffee", {"a": b"a"})
    assert store.save("m:1", snapshot, from_hf=True).parents == (Parent("copy", uri="hf://org/name@c0ffee"),)


def test_lineage_tells_how_much_was_changed(store: casstore.Store, line: list[casstore.Model]) -> None:
    lineage = store.lineage("chat:v2")
    told = [
        (each.depth, each.relation, str(each), each.state, each.changed_count, each.total) for each in lineage.ancestors
    ]
    assert told == [
        (1, "finetune", "chat:v1", "here", 2, 10),
        (2, "finetune", "base:v1", "here", 1, 10),
        (2, "finetune", HF, "outside", None, None),
        (1, "dataset", DATA, "outside", None, None),
    ]
    assert lineage.ancestors[0].changed == pytest.approx(0.2)
    assert lineage.ancestors[0].created_at == line[1].created_at
    below = store.lineage("base:v1").descendants
    assert [(each.depth, str(each), each.changed_count) for each in below] == [(1, "chat:v1", 1), (2, "chat:v2", 2)]
    assert lineage.is_whole
    assert not store.lineage("chat:v2", depth=1).is_whole
    assert not store.lineage("chat:v2", limit=2).is_whole
    with pytest.raises(casstore.InvalidSetting, match="depth"):
        store.lineage("chat:v2", depth=0)


def test_versions_without_tensors_are_compared_by_chunks(store: casstore.Store, save: Save) -> None:
    save("m:1", {"a": b"a", "b": b"b", "empty": b""})
    save("m:2", {"a": b"a", "b": b"c"})
    (parent,) = store.lineage("m:2").ancestors
    assert (parent.unit, parent.changed_count, parent.total) == ("chunks", 1, 2)


def test_a_model_is_not_compared_with_its_data(store: casstore.Store, save: Save) -> None:
    save("data:1", {"a": b"a"})
    save("m:1", {"m.safetensors": weights(3)}, parents=[("data:1", "dataset")])
    (parent,) = store.lineage("m:1").ancestors
    assert (parent.state, parent.changed) == ("here", None)


def test_a_tag_that_was_saved_again_is_another_version(
    store: casstore.Store, line: list[casstore.Model], save: Save
) -> None:
    store.delete("chat:v1")
    save("chat:v1", {"m.safetensors": weights(10, {9})}, parents=[("chat:v2", "finetune")])
    gone, data = store.lineage("chat:v2").ancestors
    assert (str(gone), gone.state, gone.digest) == ("chat:v1", "gone", line[1].digest)
    assert str(data) == DATA
    above = store.lineage("chat:v1").ancestors
    assert [(each.depth, str(each), each.state) for each in above][:2] == [
        (1, "chat:v2", "here"),
        (2, "chat:v1", "gone"),
    ]
    assert store.lineage("base:v1").descendants == ()


def test_an_alias_stands_for_what_it_means_now(store: casstore.Store, line: list[casstore.Model], save: Save) -> None:
    store.set_alias("chat@prod", "chat:v1")
    child = save("n:1", {"a": b"a"}, parents=[("chat@prod", "finetune")])
    store.set_alias("chat@prod", "chat:v2")
    assert child.parents == (of(line[1], "finetune"),)
    assert str(store.lineage("chat@prod").tag) == "chat:v2"


def test_a_parent_that_is_brought_back(store: casstore.Store, line: list[casstore.Model]) -> None:
    store.delete("chat:v1")
    assert store.lineage("chat:v2").ancestors[0].state == "gone"
    assert store.lineage("base:v1").descendants == ()
    assert [str(each.tag) for each in store.likely_parents("chat:v2")] == ["base:v1"]
    store.undelete("chat:v1")
    assert [each.state for each in store.lineage("chat:v2").ancestors] == ["here", "here", "outside", "outside"]
    assert store.get("chat:v1").parents == line[1].parents
    assert len(store.lineage("base:v1").descendants) == 2


def test_a_circle_is_followed_once(store: casstore.Store, line: list[casstore.Model], save: Save) -> None:
    """The very same content under the same tag again: now chat:v1 came from chat:v2, which came from it."""
    store.delete("chat:v1")
    save("chat:v1", {"m.safetensors": weights(10, {1})}, parents=[("chat:v2", "merge")])
    for tag in ("chat:v1", "chat:v2"):
        lineage = store.lineage(tag)
        assert lineage.is_whole
        assert [str(each) for each in lineage.ancestors if each.is_repeated] == [tag]
        assert [str(each) for each in lineage.descendants if each.is_repeated] == [tag]
    assert store.likely_parents("chat:v1")[0].tag == line[0].tag  # chat:v2 came from it, too


def test_two_ways_to_one_ancestor(store: casstore.Store, save: Save) -> None:
    save("a:1", {"a": b"1"})
    for name in ("b", "c"):
        save(f"{name}:1", {"a": name.encode()}, parents=[("a:1", "finetune")])
    save("d:1", {"a": b"d"}, parents=[("b:1", "merge"), ("c:1", "merge")])
    told = [(each.depth, str(each), each.is_repeated) for each in store.lineage("d:1").ancestors]
    assert told == [(1, "b:1", False), (2, "a:1", False), (1, "c:1", False), (2, "a:1", True)]
    told = [(each.depth, str(each), each.is_repeated) for each in store.lineage("a:1").descendants]
    assert told == [(1, "b:1", False), (2, "d:1", False), (1, "c:1", False), (2, "d:1", True)]


def test_a_version_that_a_remote_has(store: casstore.Store, line: list[casstore.Model], tmp_path: Path) -> None:
    store.add_remote("origin", str(tmp_path / "remote")).push("chat:v1")
    store.evict("chat:v1", to_remote="origin")
    parent = store.lineage("chat:v2").ancestors[0]
    assert (str(parent), parent.state) == ("chat:v1", "elsewhere")
    assert store.create("n:1", parents=[("chat:v1", "merge")])


def test_a_long_line_is_no_recursion(store: casstore.Store, save: Save, sql: Sql) -> None:
    model = save("m:1", {"a": b"a"})
    columns = (
        "manifest_id, digest, size, file_count, created_at, ordered_at, description, directories, casstore_version"
    )
    sql(
        f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO version(name,"
        f" version, {columns}) SELECT name, i, {columns} FROM version, n"
    )
    sql("INSERT INTO parent SELECT id, 0, 'base', name, id - 1, digest, NULL FROM version WHERE version <> '1'")
    lineage = store.lineage("m:3000", depth=5000, limit=5000)
    assert len(lineage.ancestors) == 2999
    assert lineage.is_whole
    assert len(store.lineage(model.tag, depth=5000, limit=2000).descendants) == 2000
    assert len(store.lineage("m:1000").ancestors) == 20


def test_what_a_version_likely_came_from(store: casstore.Store, save: Save) -> None:
    save("base:v1", {"m.safetensors": weights(10)})
    save("base:v2", {"m.safetensors": weights(10, {0, 1})})
    halves = weights(10, {0, 1, 2}, 5)
    save("tuned:v1", {"m.safetensors": halves})
    save("other:v1", {"m.safetensors": weights(10, range(10), 7)})
    save("found:v1", {"renamed.safetensors": weights(10, {0, 1, 2, 3}, 5)}, parents=[])
    save("child:v1", {"m.safetensors": weights(10, {0, 1, 2, 3}, 5)}, parents=[("found:v1", "copy")])
    found = store.likely_parents("found:v1")
    assert [(str(each.tag), each.equal, each.total, each.unit) for each in found] == [
        ("tuned:v1", 9, 10, "tensors"),
        ("base:v2", 6, 10, "tensors"),
        ("base:v1", 6, 10, "tensors"),
    ]
    assert found[0].share == pytest.approx(0.9)
    assert [str(each.tag) for each in store.likely_parents("found:v1", name="base", limit=1)] == ["base:v2"]
    with pytest.raises(casstore.TagNotFound):
        store.likely_parents("found:v1", name="nothing")
    with pytest.raises(casstore.InvalidSetting):
        store.likely_parents("found:v1", limit=0)


def test_likeness_without_tensors_and_over_several_files(store: casstore.Store, save: Save) -> None:
    save("m:1", {"a": b"a", "b": b"b"})
    save("m:2", {"a": b"a", "c": b"c"})
    save("n:1", {"x": b"a", "y": b"b", "z": b"z"})
    found = store.likely_parents("n:1")
    assert [(str(each.tag), each.equal, each.unit) for each in found] == [("m:1", 2, "chunks"), ("m:2", 1, "chunks")]
    save("empty:1", {"e": b""})
    assert store.likely_parents("empty:1") == []


def test_of_very_many_some_are_looked_for(store: casstore.Store, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeness, "MOST_SOUGHT", 4)
    monkeypatch.setattr(likeness, "_MOST_KEPT", 5)
    save("m:1", {"m.safetensors": weights(12)})
    save("m:2", {"m.safetensors": weights(12, {0, 1, 2})})
    (found,) = store.likely_parents("m:2")
    assert (found.equal, found.total) == (3, 4)
    assert store.lineage("m:2").ancestors[0].changed_count == 3  # counted, not guessed


def test_equal_tensors_of_one_version_are_counted_each(store: casstore.Store, save: Save) -> None:
    zeros = {"a": b"z" * 9, "b": b"z" * 9, "c": b"c"}
    save("m:1", {"x": b"z" * 9})
    save("m:2", zeros, parents=[])
    (found,) = store.likely_parents("m:2")
    assert (found.equal, found.total) == (2, 3)
    (only,) = store.lineage(save("m:3", {**zeros, "d": b"d"}).tag).ancestors
    assert (only.changed_count, only.total) == (1, 4)


def test_a_store_from_before_knows_bases_as_parents(store: casstore.Store, save: Save, sql: Sql) -> None:
    first, second = save("m:1", {"a": b"1"}), save("m:2", {"a": b"2"})
    store.close()
    tables = ("alias", "alias_move", "annotation", "parent", "event", "trash", "policy")
    sql("".join(f"DROP TABLE {table}; " for table in tables) + "PRAGMA user_version = 5")
    with casstore.Store(store.home) as again:
        assert again.get("m:2").parents == (of(first, "base"),)
        assert [str(each) for each in again.lineage("m:1").descendants] == [str(second.tag)]
        assert again.verify().is_sound
