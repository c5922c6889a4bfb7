"""What a program hands on of a store: copies and pickles open it again, and none closes a file of the original."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import casstore
from casstore import models
from casstore.catalog.connection import Connections
from casstore.storage.descriptors import OpenDirectory, opened
from casstore.storage.locks import Lock
from casstore.storage.sessions import Session
from tests.kit import Save, streamed

COPIES = [copy.copy, copy.deepcopy, *(partial(pickle.dumps, protocol=each) for each in range(6)), cloudpickle.dumps]


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def owners(store: casstore.Store, tmp_path: Path, model: casstore.Model) -> dict[str, Any]:
    workspace = store._workspace
    lock = Lock(tmp_path / "lock")
    assert lock.try_acquire()
    connections = workspace.catalog._connections
    reader = model.open("a")
    reader.read(1)
    return {
        "descriptor": opened(tmp_path / "lock", os.O_RDONLY),
        "directory": OpenDirectory(tmp_path),
        "lock": lock,
        "held": lock.held,
        "guard of a lock": lock.__exit__.guard,  # type: ignore[attr-defined]
        "container": next(iter(workspace.objects._open.values())),
        "objects": workspace.objects,
        "session": workspace.session(),
        "connections": connections,
        "transaction": connections.write(),
        "guard of a transaction": connections.write()._guard,
        "catalog": workspace.catalog,
        "leasing": workspace.leasing,
        "workspace": workspace,
        "draft": store.create("m:other"),
        "reader": reader,
        "raw reader": reader.raw,  # type: ignore[attr-defined]
    }


def test_no_owner_of_a_descriptor_can_be_copied_and_none_is_closed_by_an_attempt(
    store: casstore.Store, save: Save, tmp_path: Path
) -> None:
    model = save("m:1", {"a": b"1" * 2_000_000})
    streamed(model)
    os.fspath(model.path)
    found = owners(store, tmp_path, model)
    before = descriptors()
    for name, owner in found.items():
        for make in COPIES:
            with pytest.raises(TypeError, match="pickle"):
                make(owner)
            gc.collect()
            assert descriptors() == before, (name, make)
    found["session"].close()


def test_the_error_of_a_draft_says_what_to_hand_on(store: casstore.Store) -> None:
    with store.create("m:1") as draft:
        Path(draft.path, "a").write_bytes(b"1")
        with pytest.raises(TypeError, match=r"this Draft cannot be copied or pickled.*the Store or the Model"):
            copy.deepcopy(draft)
    assert draft.model.files


@pytest.mark.parametrize("kind", [Connections, Session, Lock, OpenDirectory])
def test_what_was_never_begun_has_nothing_to_close(kind) -> None:
    before = descriptors()
    kind.__new__(kind)
    gc.collect()
    assert descriptors() == before


@dataclasses.dataclass
class Config:
    model: casstore.Model
    store: casstore.Store
    both: list[Any]


def test_a_dataclass_that_holds_a_model_and_a_store_can_be_made_a_dict(store: casstore.Store, save: Save) -> None:
    model = save("m:1", {"a": b"1"})
    os.fspath(model.path)
    before = descriptors()
    made = dataclasses.asdict(Config(model, store, [model, {"m": model}]))
    assert made["model"] == model
    assert made["both"] == [model, {"m": model}]
    assert made["store"].home == store.home
    assert made["store"].tags() == ["m:1"]
    gc.collect()
    assert before.items() <= descriptors().items()


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_of_a_store_is_closed_by_itself(home: Path, save: Save, make) -> None:
    with casstore.Store(home, auto_gc=False) as store:
        save("m:1", {"a": b"1"}, into=store)
        with make(store) as again:
            assert again.tags() == ["m:1"]
            assert not again._workspace.auto_gc
            assert again._workspace is not store._workspace
        save("m:2", {"a": b"2"}, into=store)
        assert again.tags() == ["m:2", "m:1"]


def test_a_copy_that_is_never_used_opens_nothing(store: casstore.Store) -> None:
    sent = pickle.dumps(store)
    before = descriptors()
    with pickle.loads(sent) as again:
        assert again.home == store.home
        assert repr(again) == repr(store)
    assert descriptors() == before


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_model_says_the_same_where_it_arrives(store: casstore.Store, save: Save, protocol) -> None:
    model = save("m:1", {"a": b"1", "sub/b": b"2"}, labels={"stage": "dev"}, metadata={"acc": 0.5})
    again = pickle.loads(pickle.dumps(model, protocol))
    assert again == model
    assert hash(again) == hash(model)
    assert repr(again) == repr(model)
    assert again._opened is None, "nothing of this asks the store"
    assert (again.labels, again.metadata, again.files) == (model.labels, model.metadata, model.files)
    assert again.path == model.path
    assert again.open("a").read() == b"1"
    assert pickle.loads(pickle.dumps(again)) == model


def test_many_models_open_their_store_once(store: casstore.Store, save: Save, home: Path) -> None:
    model = save("m:1", {"a": b"1"})
    first, *others = [pickle.loads(pickle.dumps(model)) for _ in range(50)]
    assert first.labels == {}
    before = descriptors()
    assert all(each.files == model.files for each in others)
    assert descriptors() == before


def test_a_model_in_terms_of_bentoml_travels_without_what_it_has_loaded(store: casstore.Store, save: Save) -> None:
    save("m:1", {"a": b"1"}, custom_objects={"n": [1]})
    model = models.get("m:1", _model_store=store)
    model._loaded = threading.Lock()  # as load_model may give what cannot be pickled
    assert model.custom_objects == {"n": [1]}
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert again.info.labels == model.info.labels
    assert again.custom_objects == {"n": [1]}
    assert model.with_options(a=1)._custom_objects == {"n": [1]}


def read(model: casstore.Model) -> tuple[bytes, str, int]:
    return model.open("a").read(), model.path, os.getpid()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pools_of_processes_take_models(store: casstore.Store, save: Save, method) -> None:
    model = save("m:1", {"a": b"1"})
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        results = pool.map(read, [model] * 4, chunksize=1)
    assert {result[:2] for result in results} == {(b"1", model.path)}
    assert os.getpid() not in {result[2] for result in results}


def test_a_model_whose_version_is_gone_says_so_where_it_is_used(store: casstore.Store, save: Save, home: Path) -> None:
    model = save("m:1", {"a": b"1"})
    sent = pickle.dumps(model)
    store.delete("m:1")
    again = pickle.loads(sent)
    assert str(again.tag) == "m:1"
    with pytest.raises(casstore.TagNotFound, match=r"m:1 .*was deleted since"):
        again.path  # noqa: B018
    save("m:1", {"a": b"other bytes"})
    with pytest.raises(casstore.TagNotFound, match=r"deleted and saved again.*store.get\(\"m:1\"\)"):
        pickle.loads(sent).open("a")
    store.delete("m:1")
    back = save("m:1", {"a": b"1"})
    assert pickle.loads(sent).files == back.files


@pytest.mark.parametrize("now", [{"labels": {"stage": "prod"}}, {"metadata": {"acc": 0.9}}, {"options": {"a": 1}}, {}])
def test_a_model_whose_labels_or_the_like_are_others_now_says_so(store: casstore.Store, save: Save, now) -> None:
    before = {"labels": {"stage": "dev"}, "metadata": {"acc": 0.5}}
    sent = pickle.dumps(save("m:1", {"a": b"1"}, **before))
    store.delete("m:1")
    save("m:1", {"a": b"1"}, **{**before, **now})
    again = pickle.loads(sent)
    if not now:
        assert (again.labels, again.metadata) == (before["labels"], before["metadata"])
        return
    with pytest.raises(casstore.TagNotFound, match="deleted and saved again"):
        again.files  # noqa: B018


def test_a_model_arrives_at_an_import_of_the_very_same(
    store: casstore.Store, save: Save, home: Path, tmp_path: Path
) -> None:
    """As on another machine, with its store at the same path."""
    sent = pickle.dumps(save("m:1", {"a": b"1"}, labels={"stage": "dev"}, custom_objects={"n": 1}))
    store.export("m:1", tmp_path / "m.casmodel")
    store.close()
    home.rename(tmp_path / "elsewhere")
    with casstore.Store(home) as other:
        other.import_archive(tmp_path / "m.casmodel")
        again = pickle.loads(sent)
        assert again.labels == {"stage": "dev"}
        assert again.open("a").read() == b"1"
        assert again.is_untrusted


def test_a_model_that_arrives_in_a_store_that_was_replaced(home: Path, save: Save) -> None:
    """While another lives that came from the store before it."""
    with casstore.Store(home) as first:
        sent = pickle.dumps(save("m:1", {"a": b"1"}, into=first))
    old = pickle.loads(sent)
    assert old.open("a").read() == b"1"
    shutil.rmtree(home)
    with casstore.Store(home) as second:
        model = save("m:2", {"a": b"2"}, into=second)
        again = pickle.loads(pickle.dumps(model))
        assert again.open("a").read() == b"2"
        assert again.labels == {}
        with pytest.raises(casstore.TagNotFound, match="no m:1"):
            pickle.loads(sent).labels  # noqa: B018
        with pytest.raises(casstore.StoreError, match="open it again"):
            old.files  # noqa: B018


class Registry(casstore.Store):
    """A store with more to say."""

    team = "all"

    def __init__(self, home: Any, team: str) -> None:
        super().__init__(home)
        self.team = team


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_what_a_subclass_has_of_its_own_travels(home: Path, save: Save, make) -> None:
    with Registry(home, "vision") as store:
        store.note = ["of the program's"]  # type: ignore[attr-defined]
        save("m:1", {"a": b"1"}, into=store)
        with make(store) as again:
            assert type(again) is Registry
            assert (again.team, vars(again)["note"]) == ("vision", ["of the program's"])
            assert again.tags() == ["m:1"]
            assert again._workspace is not store._workspace


def test_a_model_or_store_whose_store_is_gone_makes_none(
    store: casstore.Store, save: Save, home: Path, tmp_path: Path
) -> None:
    model = save("m:1", {"a": b"1"})
    sent = pickle.dumps((model, store))
    store.close()
    home.rename(tmp_path / "elsewhere")
    again, store_again = pickle.loads(sent)
    for use in (lambda: again.labels, store_again.tags):
        with pytest.raises(casstore.StoreNotFound, match=f"no store at {home}"):
            use()
    assert not home.exists()
    (tmp_path / "elsewhere").rename(home)
    assert again.labels == {}
    assert store_again.tags() == ["m:1"]


def test_a_half_made_copy_lets_nobody_in_under_a_store_that_is_open(
    store: casstore.Store, save: Save, home: Path
) -> None:
    """A copy that closed the lock of the open catalog would let a rebuilding put another catalog in its place."""
    model = save("m:1", {"a": b"1"})
    for each in (model, store, store._workspace, store._workspace.catalog, model._workspace):
        for make in COPIES:
            with contextlib.suppress(TypeError):
                make(each)
    gc.collect()
    rebuild = [sys.executable, "-m", "casstore.cli", "repair", "--rebuild-catalog", "--home", str(home)]
    refused = subprocess.run(rebuild, capture_output=True, text=True, check=False)
    assert refused.returncode == 11, refused
