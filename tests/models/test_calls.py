"""create, get, list and delete of casstore.models: what code written for BentoML relies on."""

from __future__ import annotations

import datetime
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import casstore
from casstore import models, opening
from tests.kit import Child, Leftovers, script


def make(tag, **description):
    with models.create(tag, **description) as model:
        Path(model.path_of("w.bin")).write_bytes(str(tag).encode() * 1000)
    return model


def test_a_model_is_created_and_found() -> None:
    start = datetime.datetime.now(datetime.timezone.utc)
    with models.create(
        "bert", labels={"stage": "dev"}, metadata={"accuracy": 0.9}, module="somewhere", api_version="v3",
        signatures={"predict": {"batchable": True, "batch_dim": 1}}, options={"pool": 3}, custom_objects={"a": 1},
        context=models.ModelContext("torch", {"torch": "2.4.0"}),
    ) as model:  # fmt: skip
        Path(model.path, "w.bin").write_bytes(b"weights")
        assert model.path_of("/w.bin") == model.path_of("w.bin") == str(Path(model.path) / "w.bin")
        assert str(model) == f'Model(tag="{model.tag}")'
        model.info.metadata["steps"] = 900
        model.info.labels["team"] = "nlp"
        model.custom_objects["b"] = 2
    end = datetime.datetime.now(datetime.timezone.utc)
    for found in (model, models.get("bert"), models.get(model.tag), models.get(f"bert:{model.tag.version[:-2]}")):
        assert found == model
        assert hash(found) == hash(model)
        assert found.path == model.path
        assert Path(found.path_of("w.bin")).read_bytes() == b"weights"
        assert start <= found.creation_time <= end
        assert found.custom_objects == {"a": 1, "b": 2}
        info = found.info
        assert (info.name, info.version, info.tag) == ("bert", model.tag.version, model.tag)
        assert info.labels == {"stage": "dev", "team": "nlp"}
        assert info.metadata == {"accuracy": 0.9, "steps": 900}
        assert (info.module, info.api_version) == ("somewhere", "v3")
        assert info.signatures == {"predict": models.ModelSignature(True, (1, 1))}
        assert info.context.framework_versions == {"torch": "2.4.0"}
        assert info.context.bentoml_version
        assert info.creation_time == found.creation_time
        assert found.file_size == sum(path.stat().st_size for path in Path(found.path).rglob("*") if path.is_file())


def test_what_is_given_positionally_and_left_out() -> None:
    with models.create("m", api_version=None, signatures=None, labels=None, metadata=None):
        pass
    info = models.get("m").info
    assert (info.module, info.api_version, info.signatures, info.labels, info.metadata) == ("", "v1", {}, {}, {})
    assert info.context.framework_name == ""


def test_a_tag_is_saved_once() -> None:
    first = make("m:v1")
    with pytest.raises(casstore.TagExists, match="m:v1 is already saved"), models.create("m:v1"):
        pytest.fail("the block is not entered")
    assert models.list() == [first]


def test_two_that_write_one_tag_do_not_mix() -> None:
    late = models.create("m:v1")
    Path(late.__enter__().path_of("late")).write_bytes(b"late")
    make("m:v1")
    with pytest.raises(casstore.TagExists):
        late.__exit__(None, None, None)
    assert sorted(path.name for path in Path(models.get("m:v1").path).iterdir()) == ["model.yaml", "w.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(store: casstore.Store, error, leftovers: Leftovers) -> None:
    being_written = []

    def write():
        with models.create("m:v1") as model:
            being_written.append(model)
            Path(model.path_of("w.bin")).write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert models.list() == []
    assert leftovers() == []
    with pytest.raises(casstore.CasstoreError, match="is over; a draft can be used once"):
        being_written[0].path  # noqa: B018


def test_get_by_name_latest_and_prefix() -> None:
    one, two, other = make("m:v1.0"), make("m:v1.1"), make("n:v2")
    assert models.get("m") == models.get("m:latest") == two
    assert models.get("m:v1.0") == one
    assert models.get("n:v") == other
    assert models.get("best", model_aliases={"best": "m:v1.0"}) == one
    with pytest.raises(casstore.AmbiguousTag, match=r"m:v1\.0, m:v1\.1|m:v1\.1, m:v1\.0"):
        models.get("m:v1")
    for missing in ("m:v3", "o", "o:latest"):
        with pytest.raises(casstore.TagNotFound):
            models.get(missing)
    with pytest.raises(casstore.InvalidTag, match="ends in ':'"):
        models.get("m:")
    with pytest.raises(casstore.InvalidTag, match="not NoneType"):
        models.get(None)  # type: ignore[arg-type]


def test_a_tag_made_late_with_an_older_name_is_the_latest() -> None:
    make("m:v9")
    newest = make("m:v1")
    assert models.get("m") == newest


def test_list() -> None:
    assert models.list() == []
    two, one, other = make("m:v2"), make("m:v1"), make("a:v1")
    assert models.list() == [other, one, two]
    assert models.list("m") == models.list(_model_store=None, tag="m") == [one, two]
    assert models.list("m:v1") == models.list(one.tag) == [one]
    assert models.list("m:v") == models.list("o:v1") == []
    with pytest.raises(casstore.TagNotFound):
        models.list("o")


def test_delete() -> None:
    one, two, three = (make(f"m:v{number}") for number in (1, 2, 3))
    other = make("n:v1")
    with pytest.raises(casstore.TagNotFound):
        models.delete("m:v")
    models.delete("m:latest")
    models.delete(one.tag)
    assert models.list() == [two, other]
    assert models.get("m:latest") == two
    assert not Path(three._store.home, "models/m/v3").exists()
    models.delete("m")
    assert models.list() == [other]
    models.delete("m:latest")  # as in BentoML, no error
    with pytest.raises(casstore.TagNotFound):
        models.delete("m")


def test_another_store_and_its_tags(tmp_path: Path) -> None:
    class Tag:  # as BentoML's: any object with a version and the text
        version = "v1"

        def __str__(self):
            return "m:v1"

    with casstore.Store(tmp_path / "other") as other:
        with models.create(Tag(), _model_store=other) as model:  # type: ignore[arg-type]
            pass
        assert models.get(Tag(), _model_store=other) == model  # type: ignore[arg-type]
        assert models.list(_model_store=other) == [model]
        assert models.list() == []
        models.delete(Tag(), _model_store=other)  # type: ignore[arg-type]
        assert other.tags() == []


def test_the_home_is_that_of_the_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    make("m:v1")
    monkeypatch.setenv("CASSTORE_HOME", str(tmp_path / "second"))
    assert models.list() == []
    make("n:v1")
    monkeypatch.setenv("CASSTORE_HOME", str(home))
    assert [str(model.tag) for model in models.list()] == ["m:v1"]


def test_threads_share_one_store(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counted(casstore.Store):
        def __init__(self, home, **options):
            opened.append(home)
            super().__init__(home, **options)

    monkeypatch.setattr(opening, "Store", Counted)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: make(f"m:{number}"), range(8)))
    assert models.list("m") == made
    assert len(opened) == 1


def test_nothing_is_opened_at_import(home: Path) -> None:
    done = script("import sys; from casstore import models; print('bentoml' in sys.modules)")
    assert done.stdout == "False\n", done.stderr
    assert not home.exists()


def test_a_packed_model_is_looked_at_without_a_directory(store: casstore.Store) -> None:
    make("m:v1", labels={"k": "v"})
    store.gc(evict_all=True)
    model = models.get("m:v1")
    place = store.home / "models/m/v1"
    assert repr(model) == f'Model(tag="m:v1", path="{place}")'
    assert model.info.labels == {"k": "v"}
    size = model.file_size
    assert not place.exists()
    assert Path(model.path) == place
    assert size == sum(path.stat().st_size for path in place.iterdir())


def test_equal_tags_are_equal_models(tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "other") as other, models.create("m:v1", _model_store=other) as there:
        pass
    assert make("m:v1") == there
    assert make("m:v2") != there
    assert there != "m:v1"


def test_code_of_external_modules_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nowhere_else")
    exec("class Token:\n    def __init__(self, text): self.text = text", vars(module))
    monkeypatch.setitem(sys.modules, "nowhere_else", module)
    with models.create("m", external_modules=[module], custom_objects={"t": module.Token("hello")}):
        pass
    done = script("from casstore import models; print(models.get('m').custom_objects['t'].text)")
    assert done.stdout == "hello\n", done.stderr


def test_external_modules_are_forgotten_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    module = types.ModuleType("nowhere_else")
    monkeypatch.setitem(sys.modules, "nowhere_else", module)

    def write(error=None):
        with models.create("n", external_modules=[module]):
            assert "nowhere_else" in cloudpickle.list_registry_pickle_by_value()
            if error is not None:
                raise error

    write()
    with pytest.raises(KeyError):
        write(KeyError)
    assert "nowhere_else" not in cloudpickle.list_registry_pickle_by_value()
    with pytest.raises(ValueError, match="x"), models.create("n", external_modules=[types.ModuleType("x")]):
        pytest.fail("the block is not entered")


def test_push_and_pull_say_what_to_do() -> None:
    for call in (models.push, models.pull):
        with pytest.raises(casstore.NoRemote, match="casstore remote add origin URL"):
            call("m:v1", force=True)


def test_push_and_pull_go_through_the_default_remote(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("m:v1")
    make("m:v2", labels={"stage": "dev"})
    with casstore.Store(home) as store:
        store.add_remote("origin", str(tmp_path / "remote"))
    for _ in range(2):
        models.push("m:v1")
        models.push("m")
    with pytest.raises(casstore.TagNotFound):
        models.push("m:v3")
    monkeypatch.setenv("CASSTORE_HOME", str(tmp_path / "other"))
    with casstore.Store(tmp_path / "other") as store:
        store.add_remote("origin", str(tmp_path / "remote"), make=False)
    for _ in range(2):
        pulled = models.pull("m", force=True)
        assert str(pulled.tag) == "m:v2"
        assert pulled.info.labels == {"stage": "dev"}
        assert Path(pulled.path).is_dir()
    assert [str(model.tag) for model in models.list()] == ["m:v2"]
    models.pull("m:v1")
    assert [str(model.tag) for model in models.list()] == ["m:v1", "m:v2"]
    with pytest.raises(casstore.TagNotFound, match="casstore list --remote"):
        models.pull("m:v3")


def test_a_forked_child_goes_on() -> None:
    make("m:v1")

    def work():
        assert [str(model.tag) for model in models.list()] == ["m:v1"]
        make("m:v2")

    assert Child(work).wait() == 0
    assert str(models.get("m").tag) == "m:v2"
