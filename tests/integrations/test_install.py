"""`install`: what it changes in BentoML, what it leaves alone, and that it can be undone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore import models
from casstore.integrations import bentoml as integration
from tests.kit import script

needs_bentoml = pytest.mark.skipif(
    "bentoml" not in {each.metadata["Name"] for each in importlib.metadata.distributions()},
    reason="needs casstore[bentoml]",
)


def save(store, tag, size=100_000, **description):
    with store.create(tag, **description) as draft:
        Path(draft.path, "w.bin").write_bytes(tag.encode() * (size // len(tag)))
    return draft.model


def test_without_bentoml(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(integration.BentoMLUnavailable, match=r"pip install 'casstore\[bentoml\]'"):
        integration.install()
    assert issubclass(integration.BentoMLUnavailable, ImportError)
    assert not home.exists()


@pytest.mark.parametrize("version", ["1.3.22", "1.5.0", "2.0.1"])
def test_another_bentoml(monkeypatch: pytest.MonkeyPatch, home: Path, version) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(integration.BentoMLUnavailable, match=rf"BentoML 1\.4, and {version} is installed"):
        integration.install()
    assert not home.exists()


@needs_bentoml
def test_a_home_is_told_as_a_store_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ["BENTOML_HOME"]
    monkeypatch.setenv("HOME", str(tmp_path))
    integration.install("~/mine")
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "mine")
    left, gone = Path.cwd(), tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        with pytest.raises(casstore.StoreError, match=r"where st is .* works in is gone.*absolute path"):
            integration.install("st")
        assert os.environ["BENTOML_HOME"] == str(tmp_path / "mine")
    finally:
        os.chdir(left)
        integration.uninstall()
    assert os.environ["BENTOML_HOME"] == before


@needs_bentoml
def test_it_is_undone(store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bentoml
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models.model import Model

    save(store, "bert:v1")
    before = (Model.save, os.environ["BENTOML_HOME"], BentoMLContainer.bento_store.get()._path)
    assert bentoml.models.list() == []
    integration.install()
    assert [str(model.tag) for model in bentoml.models.list()] == ["bert:v1"]
    assert os.environ["BENTOML_HOME"] == BentoMLContainer.bentoml_home.get() == str(store.home)
    assert BentoMLContainer.bento_store.get()._path == store.home / "bentos"
    assert bentoml.list() == []
    integration.install()
    integration.uninstall()
    integration.uninstall()
    assert bentoml.models.list() == []
    assert (Model.save, os.environ["BENTOML_HOME"], BentoMLContainer.bento_store.get()._path) == before
    monkeypatch.delenv("BENTOML_HOME")
    integration.install()
    integration.uninstall()
    assert "BENTOML_HOME" not in os.environ


@needs_bentoml
def test_another_home_replaces_the_first(store: casstore.Store, tmp_path: Path, installed) -> None:
    import bentoml

    save(store, "bert:v1")
    integration.install(str(tmp_path / "second"))
    assert bentoml.models.list() == []
    assert os.environ["BENTOML_HOME"] == str(tmp_path / "second")
    integration.install()
    assert len(bentoml.models.list()) == 1


@needs_bentoml
def test_nothing_is_made_before_it_is_wanted(store: casstore.Store, installed) -> None:
    """Neither directories of versions, by looking at them, nor those of BentoML."""
    import bentoml

    for number in range(3):
        save(store, f"bert:v{number}", metadata={"none": None, "n": number}, labels={"k": "v"})
    store.gc(evict_all=True)
    assert not (store.home / "bentos").exists()
    for model in bentoml.models.list():
        assert model.info.labels == {"k": "v"}
        assert "none" not in model.info.metadata
        assert model.file_size > 99_000
        assert model.tag.version in repr(model)
        assert model.creation_time
        assert model == bentoml.models.get(model.tag)
        assert model.with_options() == model
    assert {path.name for path in (store.home / "models/bert").iterdir()} <= {"latest"}
    assert Path(bentoml.models.get("bert:v1").path_of("w.bin")).read_bytes().startswith(b"bert:v1")
    assert (store.home / "models/bert/v1").is_dir()
    assert not (store.home / "models/bert/v2").exists()


@needs_bentoml
def test_saves_need_no_signature_and_imports_do(store: casstore.Store, installed, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    import bentoml
    from bentoml.exceptions import BentoMLException

    for words in (
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"],
        ["pkey", "-in", "key.pem", "-pubout", "-out", "key.pub"],
    ):
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True)
    store.set_setting("require_signature", str(tmp_path / "key.pub"))
    with bentoml.models.create("bert") as model:
        Path(model.path, "w.bin").write_bytes(b"weights")
    saved = store.get("bert")
    assert str(model.tag) == str(saved.tag)
    unsigned = store.export(str(saved.tag), tmp_path / "unsigned.bentomodel")
    store.sign(str(saved.tag), tmp_path / "key.pem")
    signed = store.export(str(saved.tag), tmp_path / "signed.bentomodel")
    store.delete(str(saved.tag), now=True)
    with pytest.raises(BentoMLException, match="it is not signed"):
        bentoml.models.import_model(unsigned)
    assert store.tags() == []
    bentoml.models.import_model(signed)
    assert store.tags() == [str(saved.tag)]
    assert len(store.signatures("bert")) == 1


@needs_bentoml
def test_register(store: casstore.Store, installed) -> None:
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml.exceptions import BentoMLException, InvalidArgument

    kept = save(store, "bert:v1", labels={"k": "v"}, metadata={"a": [1]})
    theirs = BentoMLContainer.model_store.get()
    with theirs.register("bert:v2") as directory:
        for name in ("model.yaml", "w.bin"):
            content = Path(kept.path, name).read_bytes().replace(b"version: v1", b"version: v2")
            Path(directory, name).write_bytes(content)
        assert store.tags() == ["bert:v1"]
    assert store.get("bert:v2").digest == kept.digest
    assert store.get("bert:v2").created_at == kept.created_at
    assert theirs.get("bert:v2").info.labels == {"k": "v"}
    with pytest.raises(BentoMLException, match="bert:v2' already exists"), theirs.register("bert:v2"):
        pytest.fail("the block is not entered")
    with pytest.raises(InvalidArgument, match="names no version"), theirs.register("bert"):
        pytest.fail("the block is not entered")


@needs_bentoml
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_register_that_fails(store: casstore.Store, installed, error) -> None:
    from bentoml._internal.configuration.containers import BentoMLContainer

    directories = []

    def write():
        with BentoMLContainer.model_store.get().register("bert:v1") as directory:
            directories.append(Path(directory))
            Path(directory, "w.bin").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert store.tags() == []
    assert not directories[0].exists()


@needs_bentoml
def test_casstores_errors_are_bentomls(store: casstore.Store, installed) -> None:
    import bentoml
    from bentoml.exceptions import BentoMLException, InvalidArgument, NotFound

    save(store, "bert:v1", 3_000_000)
    with pytest.raises(NotFound, match="did you mean bert"):
        bentoml.models.get("bret")
    with pytest.raises(InvalidArgument, match="Windows"):
        bentoml.models.get("con:v1")
    store.gc(evict_all=True)
    for pack in [*(store.home / "objects").rglob("*.pack"), *(store.home / "objects/loose").rglob("*.*")]:
        pack.unlink()
    with pytest.raises(BentoMLException, match="bert:v1"):
        bentoml.models.get("bert:v1").path  # noqa: B018


@needs_bentoml
def test_objects_of_what_was_imported_need_trust(store: casstore.Store, installed, tmp_path: Path) -> None:
    import bentoml
    from bentoml.exceptions import BentoMLException

    with bentoml.models.create("bert:v1", custom_objects={"a": 1}) as model:
        pass
    assert bentoml.models.get("bert:v1").custom_objects == model.custom_objects == {"a": 1}
    archive = bentoml.models.export_model("bert:v1", str(tmp_path / "bert.tar"))
    bentoml.models.delete("bert:v1")
    bentoml.models.import_model(archive)
    for found in (bentoml.models.get("bert:v1").with_options(), bentoml.models.get("bert:v1")):
        with pytest.raises(BentoMLException, match="trust"):
            found.custom_objects  # noqa: B018
        assert found.load_custom_objects(trust=True) == found.custom_objects == {"a": 1}
    bentoml.models.delete("bert:v1")
    models.import_model(archive, trust=True)
    assert bentoml.models.get("bert:v1").custom_objects == {"a": 1}


@needs_bentoml
def test_other_model_stores_are_left_alone(store: casstore.Store, installed, tmp_path: Path) -> None:
    """Such as the one within a bento, to which models are copied."""
    import bentoml
    from bentoml._internal.models import ModelStore
    from bentoml.models import BentoModel

    save(store, "bert:v1")
    store.gc(evict_all=True)
    (tmp_path / "theirs").mkdir()
    theirs = ModelStore(tmp_path / "theirs")
    with bentoml.models.create("own:v1", _model_store=theirs) as own:
        pass
    assert theirs.list() == [own]
    assert store.tags() == ["bert:v1"]
    BentoModel("bert:v1").resolve(tmp_path / "theirs")
    assert Path(theirs.get("bert:v1").path_of("w.bin")).read_bytes().startswith(b"bert:v1")
    assert theirs.get("bert:v1").path.startswith(str(tmp_path / "theirs"))
    assert theirs.get("own:v1").save() == own
    assert store.tags() == ["own:v1", "bert:v1"]


@needs_bentoml
def test_a_bento_that_carries_its_models(
    store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, say: BentoML has set its store aside before it imports the service, which calls install."""
    import bentoml
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    save(store, "bert:v1")
    (tmp_path / "bento/models").mkdir(parents=True)
    theirs = ModelStore(tmp_path / "bento/models")
    with bentoml.models.create("own:v1", _model_store=theirs) as own:
        pass
    with BentoMLContainer.model_store.patch(theirs):
        integration.install()
        assert bentoml.models.list() == [own]
    integration.install()
    assert [str(model.tag) for model in bentoml.models.list()] == ["bert:v1"]
    integration.uninstall()


CLI = (sys.executable, "-m", "casstore.integrations.bentoml")


@needs_bentoml
def test_the_command_line(store: casstore.Store, run, home: Path, tmp_path: Path) -> None:
    assert json.loads(run(*CLI, "models", "list", "-o", "json")) == []
    save(store, "bert:v1", 2_000_000, module="bentoml.sklearn")
    save(store, "bert:v2", metadata={"none": None})
    save(store, "tiny:v1")
    store.gc(evict_all=True)
    rows = json.loads(run(*CLI, "models", "list", "-o", "json"))
    assert [row["tag"] for row in rows] == ["tiny:v1", "bert:v2", "bert:v1"]
    assert rows[2] | {"creation_time": ""} == {
        "tag": "bert:v1", "module": "bentoml.sklearn", "size": "1.91 MiB", "creation_time": "",
    }  # fmt: skip
    assert run(*CLI, "models", "list", "bert").split()[:6] == ["Tag", "Module", "Size", "Creation", "Time", "bert:v2"]
    assert "- creation_time:" in run(*CLI, "models", "list", "-o", "yaml")
    assert "`casstore list`" in run(*CLI, "models", "list", "other", code=1)
    assert not list((home / "models").glob("*/v*")), "looking at models made a directory"
    assert "version: v2" in run(*CLI, "models", "get", "bert")
    path = run(*CLI, "models", "get", "bert:v1", "-o", "path").strip()
    assert Path(path, "w.bin").stat().st_size > 1_999_000
    run(*CLI, "models", "export", "bert:v1", tmp_path / "out.bentomodel")
    run(*CLI, "models", "delete", "-y", "bert")
    assert store.tags() == ["tiny:v1"]
    assert "imported" in run(*CLI, "models", "import", tmp_path / "out.bentomodel")
    assert "already exists" in run(*CLI, "models", "import", tmp_path / "out.bentomodel", code=1)
    assert store.tags() == ["bert:v1", "tiny:v1"] or store.tags() == ["tiny:v1", "bert:v1"]
    assert "1.4" in run(*CLI, "--version")
    assert run(*CLI, "list") != ""


@needs_bentoml
def test_the_command_line_without_a_store(run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").touch()
    assert "is not a casstore store" in run(*CLI, "models", "list", code=1, CASSTORE_HOME=tmp_path / "full")


@needs_bentoml
def test_two_processes_save_at_once(store: casstore.Store) -> None:
    code = """
import sys, pathlib
from casstore.integrations.bentoml import install
install()
import bentoml
for number in range(4):
    with bentoml.models.create(f"m:{sys.argv[1]}{number}") as model:
        pathlib.Path(model.path_of("w.bin")).write_bytes(sys.argv[1].encode() * 100_000)
    bentoml.models.get("m")
try:
    with bentoml.models.create("m:same") as model:
        pathlib.Path(model.path_of("w.bin")).write_bytes(sys.argv[1].encode())
    print("won")
except bentoml.exceptions.BentoMLException as error:
    print("lost", error)
"""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda letter: script(code, letter), "ab"))
    assert [each.returncode for each in done] == [0, 0], done
    assert sorted(each.stdout.split()[0] for each in done) == ["lost", "won"]
    assert sorted(store.tags()) == sorted(
        [f"m:{letter}{number}" for letter in "ab" for number in range(4)] + ["m:same"]
    )
    assert store.verify().is_sound
