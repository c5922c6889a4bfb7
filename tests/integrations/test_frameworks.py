"""BentoML's own savers, loaders and services over casstore, with scikit-learn and with packed versions."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import casstore
from casstore import models
from casstore.integrations import bentoml as integration
from tests.kit import Leftovers, script

pytest.importorskip("bentoml", minversion="1.4", reason="needs casstore[bentoml]")
pytest.importorskip("sklearn", reason="needs scikit-learn")


def trained():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])


def test_saved_packed_away_and_loaded(store: casstore.Store, installed) -> None:
    import bentoml

    saved = bentoml.sklearn.save_model("iris", trained(), labels={"stage": "dev"}, metadata={"rows": 4})
    assert store.tags() == [str(saved.tag)]
    assert store.get("iris").labels == {"stage": "dev"}
    assert store.get("iris").created_at == saved.info.creation_time
    assert store.get("iris").module == "bentoml.sklearn"
    store.gc(evict_all=True)
    assert not list((store.home / "models/iris").glob(f"{saved.tag.version}/*"))
    found = bentoml.models.get("iris:latest")
    assert found.info.signatures["predict"].batchable is False
    assert list(bentoml.sklearn.load_model("iris:latest").predict([[0.1], [2.9]])) == [0, 1]
    assert list(found.load_model().predict([[0.1], [2.9]])) == [0, 1]
    assert list(bentoml.sklearn.load_model(found).predict([[3.0]])) == [1]
    assert store.verify().is_sound


def test_casstore_models_loads_by_bentomls_modules(store: casstore.Store, installed) -> None:
    import bentoml

    tag = bentoml.sklearn.save_model("iris", trained(), custom_objects={"names": ["no", "yes"]}).tag
    store.gc(evict_all=True)
    model = models.get("iris")
    assert model.tag.version == tag.version
    assert list(model.load_model().predict([[0.1], [2.9]])) == [0, 1]
    assert model.custom_objects == {"names": ["no", "yes"]}
    archive = models.export_model("iris", str(store.home.parent / "iris.tar"))
    models.delete("iris")
    with pytest.raises(casstore.UntrustedObjects):
        models.import_model(archive).load_model()


def test_another_process_loads_it(store: casstore.Store) -> None:
    save = """
from casstore.integrations.bentoml import install
install()
import bentoml
from sklearn.linear_model import LogisticRegression
model = LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
print(bentoml.sklearn.save_model("iris:v1", model).tag)
"""
    load = """
from casstore.integrations.bentoml import install
install()
import bentoml
print(*bentoml.sklearn.load_model("iris").predict([[0.1], [2.9]]))
"""
    done = script(save)
    assert done.stdout == "iris:v1\n", done.stderr
    store.gc(evict_all=True)
    done = script(load)
    assert done.stdout == "0 1\n", done.stderr


def test_a_saver_that_fails(
    store: casstore.Store, installed, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers
) -> None:
    import bentoml
    import joblib

    def half(model, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(joblib, "dump", half)
    with pytest.raises(KeyboardInterrupt):
        bentoml.sklearn.save_model("iris", trained())
    assert store.tags() == []
    assert leftovers() == []


SERVICE = """
from casstore.integrations.bentoml import install

install()  # before a model is asked for, in each worker, as each imports this file

import bentoml
from bentoml.models import BentoModel


@bentoml.service
class Iris:
    model = BentoModel("iris:latest")

    def __init__(self) -> None:
        self.classifier = bentoml.sklearn.load_model(self.model)

    @bentoml.api
    def classify(self, rows: list[list[float]]) -> list[int]:
        return [int(each) for each in self.classifier.predict(rows)]
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pydantic, when BentoML looks at the service
def test_a_bento_takes_its_models_with_it(
    store: casstore.Store, installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one store, packed away, to another."""
    import bentoml

    tag = bentoml.sklearn.save_model("iris", trained(), labels={"stage": "dev"}).tag
    store.gc(evict_all=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project/iris_service.py").write_text(SERVICE)
    monkeypatch.setitem(sys.modules, "iris_service", None)  # so that it is forgotten afterwards
    del sys.modules["iris_service"]
    bento = bentoml.build("iris_service:Iris", build_ctx=str(tmp_path / "project"), python={"lock_packages": False})
    assert [model.tag for model in bento.info.all_models] == [tag]
    archive = bento.export(str(tmp_path / "iris.bento"))
    integration.install(str(tmp_path / "second"))
    assert bentoml.models.list() == bentoml.list() == []
    assert bentoml.import_bento(archive).tag == bento.tag
    assert [model.tag for model in bentoml.models.list()] == [tag]
    assert list(bentoml.sklearn.load_model("iris").predict([[2.9]])) == [1]
    with casstore.Store(tmp_path / "second") as second:
        assert second.get("iris").labels == {"stage": "dev"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(url, process):
    request = urllib.request.Request(
        f"{url}/classify", json.dumps({"rows": [[0.1], [2.9]]}).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read())
        except OSError:  # not yet listening, or not yet ready
            time.sleep(0.3)
    return None


@pytest.mark.parametrize("command", [("-m", "bentoml"), ("-m", "casstore.integrations.bentoml")])
def test_a_service_of_a_packed_version_is_served(store: casstore.Store, installed, tmp_path: Path, command) -> None:
    """By `bentoml serve` as it is, too: the workers are what needs the store."""
    import bentoml

    bentoml.sklearn.save_model("iris", trained())
    store.gc(evict_all=True)
    assert not list((store.home / "models/iris").glob("*/*"))
    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    arguments = ["serve", "service:Iris", "--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *arguments], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
        try:
            assert answer(f"http://127.0.0.1:{port}", process) == [0, 1], (tmp_path / "log").read_text()
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
