"""MLflow's artifacts in a store, with the real MLflow: nothing of it leaves the test's directory, or the machine."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

import casstore
from tests.kit import Child, plant

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("mlflow", minversion="3", reason="needs casstore[mlflow]")
    import mlflow
    import mlflow.pyfunc
    from mlflow.exceptions import InvalidUrlException, MlflowException
    from mlflow.store.artifact import artifact_repository_registry as registry

    from casstore.integrations import mlflow as integration
    from casstore.integrations.mlflow import CasstoreArtifactRepository

RUN = "0123456789abcdef" * 2
MODEL = f"m-{RUN}"


@pytest.fixture(autouse=True)
def tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A tracking store and a registry in files; a checkout that is not installed has no entry point."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING", "false")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    if "casstore" not in registry.get_registered_artifact_repositories():
        monkeypatch.setitem(registry._artifact_repository_registry._registry, "casstore", CasstoreArtifactRepository)


@pytest.fixture
def at(store: casstore.Store):
    """at(uri): the repository there, as MLflow gets it. The store stands at `$CASSTORE_HOME`."""
    return registry.get_artifact_repository


def contents(root: str) -> dict[str, bytes]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def refused(code: str, text: str, action) -> None:
    with pytest.raises(MlflowException, match=text) as caught:
        action()
    assert caught.value.error_code == code


def test_the_entry_point() -> None:
    try:
        importlib.metadata.distribution("casstore")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("casstore is not installed")
    [entry] = importlib.metadata.entry_points(group="mlflow.artifact_repository", name="casstore")
    assert entry.load() is CasstoreArtifactRepository


def test_a_version_is_read_where_it_stands(at, store: casstore.Store, tmp_path: Path) -> None:
    model = store.save("bert:v1", plant(tmp_path / "out", {"config.json": b"{}", "sub/w.bin": b"weights"}))
    store.set_alias("bert@prod", "bert:v1")
    for uri in ("casstore://bert:v1", "casstore://bert@prod", "casstore:///bert:v1/"):
        repo = at(uri)
        assert [(i.path, i.is_dir, i.file_size) for i in repo.list_artifacts()] == [
            ("config.json", False, 2),
            ("sub", True, None),
        ]
        assert [i.path for i in repo.list_artifacts("sub")] == ["sub/w.bin"]
        assert repo.list_artifacts("config.json") == repo.list_artifacts("none") == []
        assert repo.download_artifacts("") == model.path
        assert repo.download_artifacts("sub/w.bin") == f"{model.path}/sub/w.bin"
    assert [i.path for i in at("casstore://bert:v1/sub").list_artifacts()] == ["w.bin"]
    copied = at("casstore://bert:v1").download_artifacts("sub", str(plant(tmp_path / "there", {})))
    assert contents(copied) == {"w.bin": b"weights"}


@pytest.mark.parametrize("version", ["bert:v1", "bert@prod"])
def test_a_version_after_a_third_slash_is_told_where_it_is(at, store: casstore.Store, version: str) -> None:
    repo = at("casstore:/")  # which is what MLflow makes of casstore:///bert:v1, and asks for the rest in it
    refused("INVALID_PARAMETER_VALUE", f"write casstore://{version}$", lambda: repo.list_artifacts(version))


@pytest.mark.parametrize("uri", ["casstore://bert", "casstore://bert/sub", "casstore://"])
def test_a_uri_that_names_no_version_says_what_does(at, store: casstore.Store, uri: str) -> None:
    repo = at(uri)
    for action in (repo.list_artifacts, lambda: repo.download_artifacts(""), lambda: repo.get_local_path("")):
        refused("INVALID_PARAMETER_VALUE", r"names no version: write casstore://(bert|NAME):VERSION", action)
    for action in (lambda: repo.log_artifact(__file__), repo.delete_artifacts):
        refused("INVALID_PARAMETER_VALUE", "names no version", action)


def test_what_is_not_there_or_cannot_be(at, store: casstore.Store, tmp_path: Path) -> None:
    store.save("bert:v1", plant(tmp_path / "out", {"config.json": b"{}"}))
    missing = "RESOURCE_DOES_NOT_EXIST"
    invalid = "INVALID_PARAMETER_VALUE"
    refused(missing, "bert:v7", at("casstore://bert:v7").list_artifacts)
    refused(invalid, "bert:", at("casstore://bert:").list_artifacts)
    refused(missing, "has no artifact 'none'", lambda: at("casstore://bert:v1").download_artifacts("none"))
    refused(missing, "none", lambda: at("casstore://bert:v1").download_artifacts("none", str(tmp_path)))
    refused(invalid, "leads out of", lambda: at("casstore://bert:v1").download_artifacts("../v2/config.json"))
    for uri in ("casstore://bert:v1/../../x", "casstore://bert:v1/.", "casstore://e/../m/artifacts"):
        refused(invalid, "leads out of", lambda uri=uri: at(uri).download_artifacts(""))
    refused(invalid, "read-only", lambda: at("casstore://bert:v1").log_artifact(__file__))
    refused(invalid, "read-only", at("casstore://bert:v1").delete_artifacts)
    # A place that MLflow makes below a location does not lead to versions that others have saved.
    refused(invalid, "leads to no other versions", lambda: at("casstore://").list_artifacts("bert:v1"))


def test_what_a_run_logs_is_one_version(at, store: casstore.Store, tmp_path: Path) -> None:
    repo = at(f"casstore://e/{RUN}/artifacts")
    assert repo.list_artifacts() == []
    assert os.listdir(repo.download_artifacts("")) == []
    out = plant(tmp_path / "out", {"a.txt": b"a", "sub/b.txt": b"b", ".git/c": b"c"})
    repo.log_artifact(str(out / "a.txt"))
    repo.log_artifacts(str(out), "all")
    [model] = store.list()
    assert (model.name, model.labels) == ("mlflow-run-01234567", {"mlflow.kind": "run", "mlflow.id": RUN})
    assert model.metadata["mlflow"] == {"run_id": RUN, "artifact_uri": f"casstore://e/{RUN}/artifacts"}
    assert model.parents == ()
    every = {"a.txt": b"a", "all/a.txt": b"a", "all/sub/b.txt": b"b", "all/.git/c": b"c"}
    was = repo.download_artifacts("")
    assert contents(was) == every
    (out / "a.txt").write_bytes(b"new")
    repo.log_artifact(str(out / "a.txt"))
    assert contents(was) == every  # what was given out stays, whatever is logged
    assert contents(repo.download_artifacts("")) == {**every, "a.txt": b"new"}
    assert contents(str(out)) == {"a.txt": b"new", "sub/b.txt": b"b", ".git/c": b"c"}
    refused("INVALID_PARAMETER_VALUE", "one name", lambda: repo.log_artifact(str(out / "a.txt"), "a.txt"))
    assert store.deleted() == []
    assert store.drafts() == []
    assert store.verify().damage == ()


def test_what_is_deleted_goes_to_the_trash(at, store: casstore.Store, tmp_path: Path) -> None:
    repo = at(f"casstore://e/{RUN}/artifacts")
    repo.log_artifacts(str(plant(tmp_path / "out", {"a": b"a", "ab": b"ab", "sub/b": b"b", "sub/c": b"c"})))
    repo.delete_artifacts("none")
    assert store.deleted() == []
    repo.delete_artifacts("sub")
    repo.delete_artifacts("a")
    assert [i.path for i in repo.list_artifacts()] == ["ab"]
    repo.delete_artifacts()
    repo.delete_artifacts()
    assert store.list() == repo.list_artifacts() == []
    assert sorted(str(each.tag).partition(":")[2] for each in store.deleted()) == [RUN, f"{RUN}.2", f"{RUN}.3"]
    repo.log_artifact(str(tmp_path / "out/a"))
    assert [i.path for i in repo.list_artifacts()] == ["a"]


def test_the_directory_of_a_state_is_looked_through_once(
    at, store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = at(f"casstore://e/{RUN}/artifacts")
    out = plant(tmp_path / "out", {name: name.encode() for name in "abcd"})
    repo.log_artifacts(str(out))
    real, asked = vars(casstore.Model)["path"].fget, []
    monkeypatch.setattr(casstore.Model, "path", property(lambda model: asked.append(model.tag) or real(model)))
    repo.log_artifact(str(out / "a"))
    assert len(asked) == 1


def test_a_state_that_was_brought_back_is_neither_lost_nor_in_the_way(
    at, store: casstore.Store, tmp_path: Path
) -> None:
    repo = at(f"casstore://e/{RUN}/artifacts")
    out = plant(tmp_path / "out", {name: name.encode() for name in "abcd"})
    for name in "ab":
        repo.log_artifact(str(out / name))
    repo.delete_artifacts("a")
    back = store.undelete(f"mlflow-run-01234567:{RUN}.2")
    assert [i.path for i in repo.list_artifacts()] == ["b"]
    repo.log_artifact(str(out / "c"))
    repo.log_artifact(str(out / "d"))
    repo.delete_artifacts("d")
    assert [i.path for i in repo.list_artifacts()] == ["b", "c"]
    assert back in store.list()
    repo.log_artifact(f"{back.path}/a")  # the run has all of it again
    [model] = store.list()
    assert contents(repo.download_artifacts("")) == {"a": b"a", "b": b"b", "c": b"c"}
    # All of a run, after which it logged on.
    repo.delete_artifacts()
    repo.log_artifact(str(out / "d"))
    back = store.undelete(model.tag)
    assert [i.path for i in repo.list_artifacts()] == ["d"]
    repo.log_artifact(str(out / "c"))
    assert [i.path for i in repo.list_artifacts()] == ["c", "d"]
    assert back in store.list()


NAMES = {
    "a.txt": b"a", "A.txt": b"A", "model.yaml": b"nc: 80", "sub/model.yaml": b"nc: 1", "Sub/x": b"x", "sub/X": b"X",
    "other-names/1/model.yaml": b"taken", "Stra\N{LATIN SMALL LETTER SHARP S}e": b"s", "STRASSE": b"S",
}  # fmt: skip


@pytest.mark.parametrize("root", [f"casstore://e/{RUN}/artifacts", f"casstore://e/models/{MODEL}/artifacts"])
@pytest.mark.parametrize("order", [1, -1])
def test_artifacts_of_names_that_no_version_has_come_back(
    at, store: casstore.Store, tmp_path: Path, root: str, order: int
) -> None:
    repo = at(root)
    for number, (name, raw) in enumerate(list(NAMES.items())[::order]):
        local = plant(tmp_path / f"out{number}", {name: raw})
        if number % 2:
            repo.log_artifacts(str(local))
        else:
            repo.log_artifact(str(local / name), os.path.dirname(name))
    assert contents(repo.download_artifacts("")) == NAMES
    assert contents(repo.download_artifacts("sub")) == {"model.yaml": b"nc: 1", "X": b"X"}
    assert contents(repo.download_artifacts("Sub")) == {"x": b"x"}
    assert [(i.path, i.file_size) for i in repo.list_artifacts("Sub")] == [("Sub/x", 1)]
    for name, raw in NAMES.items():
        path = repo.download_artifacts(name)
        assert (os.path.basename(path), Path(path).read_bytes()) == (os.path.basename(name), raw)
    [model] = store.list()
    assert len({file.path.casefold() for file in model.files}) == len(NAMES)
    assert contents(at(model.url).download_artifacts("")) == NAMES
    repo.log_artifact(str(plant(tmp_path / "new", {"model.yaml": b"nc: 2"}) / "model.yaml"))
    repo.delete_artifacts("A.txt")
    changed = {**NAMES, "model.yaml": b"nc: 2"}
    del changed["A.txt"]
    assert contents(repo.download_artifacts("")) == changed
    assert "A.txt" not in store.list()[0].metadata["mlflow"]["names"].values()
    repo.delete_artifacts("model.yaml")
    for action in (lambda: repo.download_artifacts("model.yaml"), lambda: repo.download_artifacts("a.TXT")):
        refused("RESOURCE_DOES_NOT_EXIST", "model.yaml|a.TXT", action)
    assert store.drafts() == []
    assert store.verify().damage == ()


def test_a_version_without_such_names_says_nothing_of_them(at, store: casstore.Store, tmp_path: Path) -> None:
    repo = at(f"casstore://e/{RUN}/artifacts")
    out = plant(tmp_path / "out", {"a.txt": b"a", "model.yaml": b"nc: 80"})
    repo.log_artifacts(str(out))
    assert store.list()[0].metadata["mlflow"]["names"] == {"other-names/1/model.yaml": "model.yaml"}
    repo.delete_artifacts("model.yaml")
    assert "names" not in store.list()[0].metadata["mlflow"]


def test_a_name_that_cannot_be_kept_leaves_nothing(at, store: casstore.Store, tmp_path: Path) -> None:
    repo = at(f"casstore://e/{RUN}/artifacts")
    repo.log_artifact(__file__)
    out = plant(tmp_path / "out", {"a": b"a"})
    os.rename(os.fsencode(out / "a"), os.fsencode(out) + b"/\xff")
    with pytest.raises(MlflowException, match=r"not UTF-8; rename the file\Z") as caught:
        repo.log_artifacts(str(out))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert [model.version for model in store.list()] == [RUN]
    assert store.drafts() == []


def in_a_thread_that_stays(repo: CasstoreArtifactRepository, work) -> None:
    repo.thread_pool.submit(work).result()


@pytest.mark.parametrize("used", ["downloads", "logs", "reads a version", "deletes"])
def test_a_forked_child_goes_on_with_what_threads_of_its_parent_have_used(
    at, store: casstore.Store, tmp_path: Path, used: str
) -> None:
    out = plant(tmp_path / "out", {"a": b"a", "b": b"b"})
    repo = at(f"casstore://e/{RUN}/artifacts")
    repo.log_artifact(str(out / "a"))
    [model] = store.list()
    work = {
        "downloads": lambda: repo.download_artifacts("a", str(tmp_path)),
        "logs": lambda: in_a_thread_that_stays(repo, lambda: repo.log_artifact(str(out / "b"))),
        "reads a version": lambda: in_a_thread_that_stays(repo, at(model.url).list_artifacts),
        "deletes": lambda: in_a_thread_that_stays(repo, lambda: repo.delete_artifacts("a")),
    }
    work[used]()
    assert [each for each in threading.enumerate() if each.name.startswith("MlflowCasstore")]

    def child() -> None:
        signal.alarm(60)
        repo.log_artifact(str(out / "b"), "child")
        assert contents(repo.download_artifacts("child")) == {"b": b"b"}

    assert Child(child).wait() == 0
    assert "child/b" in {file.path for file in store.list()[0].files}
    assert store.verify().damage == ()


def log_beside(uri: str, out: Path, word: str, count: int) -> None:
    def log(number: int) -> None:
        (out / f"{word}-{number}").write_text(word)
        CasstoreArtifactRepository(uri).log_artifact(str(out / f"{word}-{number}"), word)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(log, range(count)))


def test_processes_and_threads_that_log_at_once_lose_nothing(at, store: casstore.Store, tmp_path: Path) -> None:
    uri = f"casstore://e/{RUN}/artifacts"
    children = [Child(partial(log_beside, uri, tmp_path, word, 6)) for word in ("one", "two")]
    assert [child.wait() for child in children] == [0, 0]
    [model] = store.list()
    assert [file.path for file in model.files] == sorted(f"{w}/{w}-{n}" for w in ("one", "two") for n in range(6))
    assert store.drafts() == []
    assert store.deleted() == []


def test_what_another_process_logs_meanwhile_is_kept(
    at, store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"casstore://e/{RUN}/artifacts"
    log_beside(uri, tmp_path, "old", 1)
    [old] = store.list()
    store.set_alias(f"{old.name}@kept", old.tag)  # so what comes next can be made of it until the very end
    others = iter(["other", "more"])

    def late(*arguments, function=integration._Root.next_version):
        for word in others:  # after it was looked up what there is
            integration._turns.begin()  # it has a turn of its own, as a process has
            log_beside(uri, tmp_path, word, 1)
        return function(*arguments)

    monkeypatch.setattr(integration._Root, "next_version", late)
    log_beside(uri, tmp_path, "mine", 1)
    *newer, _ = store.list()
    assert len(newer) == 1
    assert [file.path for file in newer[0].files] == ["mine/mine-0", "more/more-0", "old/old-0", "other/other-0"]


class Doubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # not installed for development
    def predict(self, model_input: list[int]):
        return [2 * each for each in model_input]


def test_a_logged_model_is_one_version_of_its_name(at, store: casstore.Store) -> None:
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", artifact_location="casstore://e"))
    with mlflow.start_run() as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.log_dict({"lr": 0.1}, "params.json")
        info = mlflow.pyfunc.log_model(
            name="Double", python_model=Doubled(), pip_requirements=[], registered_model_name="double"
        )
    [model] = store.list("double")
    assert model.version == info.model_id
    assert model.labels == {"mlflow.kind": "model", "mlflow.id": info.model_id}
    uri = f"casstore://e/models/{info.model_id}/artifacts"
    assert model.metadata["mlflow"] == {
        "model_id": info.model_id, "run_id": run.info.run_id, "name": "Double", "artifact_uri": uri,
    }  # fmt: skip
    assert store.list(where="not labels.mlflow.kind = run") == [model]
    assert [file.path for file in store.get(f"mlflow-run-{run.info.run_id[:8]}").files] == ["params.json"]
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("double", "prod", "1")
    for each in ("models:/double@prod", info.model_uri):
        assert mlflow.pyfunc.load_model(each).predict([1, 2]) == [2, 4]
    # MLflow writes a file beside those of a registered model: not into the store.
    local = Path(mlflow.artifacts.download_artifacts("models:/double@prod"))
    assert (local / "registered_model_meta").exists()
    assert (local / "python_model.pkl").samefile(Path(model.path, "python_model.pkl"))
    assert store.verify().added_files == ()
    # Later files make it another state of the same model.
    client.log_model_artifact(info.model_id, __file__)
    [changed] = store.list("double")
    assert changed.version == f"{info.model_id}.2"
    assert "test_mlflow.py" in {file.path for file in changed.files}
    assert changed.metadata == model.metadata


def test_a_version_is_registered_and_opened_without_a_copy(at, store: casstore.Store, tmp_path: Path) -> None:
    model = store.save("bert:v1", plant(tmp_path / "out", {"config.json": b"{}"}))
    registered = mlflow.register_model(model.url, "bert")
    mlflow.MlflowClient().set_registered_model_alias("bert", "prod", registered.version)
    assert mlflow.artifacts.download_artifacts("models:/bert@prod") == model.path
    assert mlflow.artifacts.download_artifacts("models:/bert@prod/config.json") == f"{model.path}/config.json"


def test_a_model_unknown_to_mlflow_and_one_with_an_alias(at, store: casstore.Store, tmp_path: Path) -> None:
    repo = at(f"casstore://e/models/{MODEL}/artifacts")
    out = plant(tmp_path / "out", {"a": b"a", "b": b"b"})
    repo.log_artifact(str(out / "a"))
    store.set_alias("mlflow-model-01234567@kept", f"mlflow-model-01234567:{MODEL}")
    repo.log_artifact(str(out / "b"))
    assert [model.version for model in store.list()] == [f"{MODEL}.2", MODEL]
    assert [i.path for i in repo.list_artifacts()] == ["a", "b"]
    refused("INVALID_PARAMETER_VALUE", "kept", repo.delete_artifacts)
    with pytest.raises(InvalidUrlException):  # after which `mlflow gc` goes on
        repo.delete_artifacts()


def test_gc_goes_on_where_an_alias_means_a_state(at, store: casstore.Store) -> None:
    experiment = mlflow.create_experiment("e", artifact_location="casstore://e")
    client = mlflow.MlflowClient()
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    for run in runs:
        client.log_text(run, run, "a.txt")
        client.delete_run(run)
    kept, gone = sorted(f"mlflow-run-{run[:8]}:{run}" for run in runs)
    store.set_alias(f"{kept.partition(':')[0]}@it", kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.cli import gc
    done = CliRunner().invoke(gc, ["--backend-store-uri", mlflow.get_tracking_uri(), "--run-ids", ",".join(runs)])
    assert done.exit_code == 0, done.output
    assert f"{kept} is what the alias" in done.output
    assert [str(model.tag) for model in store.list()] == [kept]
    assert [str(each.tag) for each in store.deleted()] == [gone]


def test_a_server_keeps_artifacts_in_the_store(
    store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask", reason="needs mlflow, mlflow-skinny has no server")
    pytest.importorskip("sqlalchemy", reason="needs mlflow, mlflow-skinny has no server")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "casstore://")
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.server import app, handlers
    monkeypatch.setattr(handlers, "_artifact_repo", None)
    store.save("bert:v1", plant(tmp_path / "out", {"config.json": b"{}"}))
    client = app.test_client()
    url = "/api/2.0/mlflow-artifacts/artifacts"
    for name in ("MLmodel", "data/w.bin"):
        assert client.put(f"{url}/1/models/{MODEL}/artifacts/{name}", data=name.encode()).status_code == 200
    assert client.put(f"{url}/1/{RUN}/artifacts/a.txt", data=b"a").status_code == 200
    for path, raw in ((f"models/{MODEL}/artifacts/data/w.bin", b"data/w.bin"), (f"{RUN}/artifacts/a.txt", b"a")):
        with client.get(f"{url}/1/{path}") as answer:
            assert answer.data == raw
    listed = client.get(url, query_string={"path": f"1/models/{MODEL}/artifacts"}).get_json()["files"]
    assert [each["path"] for each in listed] == ["MLmodel", "data"]
    assert client.get(f"{url}/1/{RUN}/artifacts/none").status_code == 404
    assert client.get(f"{url}/bert:v1/config.json").status_code == 400
    assert client.delete(f"{url}/bert:v1").status_code == 400
    assert client.delete(f"{url}/1/{RUN}/artifacts").status_code == 200
    assert [str(model.tag) for model in store.list()] == ["bert:v1", f"mlflow-model-01234567:{MODEL}.2"]


def test_where_nothing_was_logged_no_store_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASSTORE_HOME", str(tmp_path / "none"))
    repo = registry.get_artifact_repository(f"casstore://e/{RUN}/artifacts")
    assert repo.list_artifacts() == []
    repo.delete_artifacts()
    repo.delete_artifacts("a")
    refused("RESOURCE_DOES_NOT_EXIST", "none", registry.get_artifact_repository("casstore://bert:v1").list_artifacts)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_of_the_page(store: casstore.Store, capfd: pytest.CaptureFixture[str], number: int) -> None:
    page = Path(__file__).parents[2].joinpath("docs/how-to/mlflow.md").read_text(encoding="utf-8")
    program = re.findall(r'^```python title="\w+\.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)[number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(program, "page", "exec"), {"__name__": f"page{number}"})
    said = capfd.readouterr().out
    assert said.startswith(("[2, 4]\ndouble ['mlflow-run-", "True")[number])


def test_a_model_that_was_left_to_a_remote_is_pulled(at, store: casstore.Store, tmp_path: Path) -> None:
    out = plant(tmp_path / "out", {"a": b"a"})
    older, newer = (at(f"casstore://e/models/m-{RUN[:-1]}{last}/artifacts") for last in "01")
    for repo in (older, newer):
        repo.log_artifacts(str(out))
    tag = store.list()[1].tag
    store.add_remote("origin", str(tmp_path / "origin"), make=True).push([str(tag)])
    store.evict(tag)
    assert [model.tag for model in store.list()] != [tag]
    assert [i.path for i in older.list_artifacts()] == ["a"]
    assert tag in [model.tag for model in store.list()]
