"""`casstore adopt --hf-cache`, and `casstore import hf://` from a stand-in of the hub's HTTP interface."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.cli.main import run
from casstore.cli.verbs.adopt import show_refusals
from casstore.integrations import hugging_face
from tests.kit import contents, everything, noise, plant
from tests.stand_ins.hugging_face_hub import COMMIT, Hub

FILES = {"config.json": b"{}", "README.md": b"---\nbase_model: org/base\n---\n", "onnx/model.bin": noise(200_000)}
OTHER = "f" * 40


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two revisions of a model, one of which is not complete, and a data set."""
    root = tmp_path / "hub"
    plant(root, {
        "models--org--Tiny/blobs/e1": b"{}", "models--org--Tiny/blobs/e2": noise(100_000),
        "models--org--Tiny/refs/main": COMMIT.encode(), "datasets--org--rows/snapshots/abc/rows.csv": b"1",
        "version.txt": b"1",
    })  # fmt: skip
    for revision, blob in ((COMMIT, "e2"), (OTHER, "gone")):
        snapshot = root / "models--org--Tiny/snapshots" / revision
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").symlink_to("../../blobs/e1")
        (snapshot / "model.bin").symlink_to(f"../../blobs/{blob}")
    return root


def test_a_cache_is_adopted(store: casstore.Store, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(cache)
    arguments = ["--home", str(store.home), "adopt", "--hf-cache", str(cache), "--json"]
    assert run(arguments) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["adopted_tags"] == [f"org--tiny:{COMMIT[:12]}"]
    assert [each["path"].endswith(OTHER) for each in said["refused"]] == [True]
    model = store.get("org--tiny")
    assert contents(model) == {"config.json": b"{}", "model.bin": noise(100_000)}
    assert model.metadata["huggingface"] == {
        "repo_id": "org/Tiny", "repo_type": "model", "revision": COMMIT, "refs": ["main"],
    }  # fmt: skip
    assert everything(cache) == before
    assert run(arguments) == 3
    assert json.loads(capsys.readouterr().out)["present_tags"] == said["adopted_tags"]
    # What is shown of the store is none of the hub's.
    hugging_face.link(store, "org--tiny", cache)
    (cache / "models--org--Tiny/snapshots" / OTHER / "model.bin").unlink()
    assert run(arguments) == 0
    capsys.readouterr()
    assert len(store.tags()) == 2
    plant(cache / "models--org--Tiny/snapshots" / OTHER, {"more.json": b"{}"})
    assert "saved with other files" in hugging_face.adopt_cache(store, cache).refused[0].reason


def test_what_adopt_refuses(store: casstore.Store, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(store.home)]
    assert run([*home, "adopt", "--hf-cache", str(cache), "--move"]) == 2
    assert run([*home, "adopt"]) == 2
    with pytest.raises(casstore.InvalidSource, match="no Hugging Face cache"):
        hugging_face.adopt_cache(store, cache / "none")
    capsys.readouterr()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://org/name", True), ("hf://models/org/name@v1.0", True), ("hf://datasets/org/name@refs/pr/1", True),
        ("hf://org/name/", True), ("hf://org/name/file.tar", False), ("hf://name", False), ("hf://org/name@", False),
        ("org/name", False),
    ],
)  # fmt: skip
def test_which_uris_are_repositories(uri: str, expected: bool) -> None:
    assert hugging_face.is_repository(uri) is expected


def test_without_huggingface_hub(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(casstore.CasstoreError, match=r"pip install 'casstore\[huggingface\]'"):
        hugging_face.import_repository(store, "hf://org/name")


def test_a_store_that_takes_only_what_is_signed_downloads_nothing(store: casstore.Store, tmp_path: Path) -> None:
    cryptography = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import ec

    key = tmp_path / "key.pub"
    form = cryptography.PublicFormat.SubjectPublicKeyInfo
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key.write_bytes(public.public_bytes(cryptography.Encoding.PEM, form))
    store.set_setting("require_signature", str(key))
    with Hub(FILES) as hub:
        code, _, error = imported(store.home, hub.url, "hf://org/Tiny")
        assert code != 0
        assert "hf://org/Tiny is not imported, as the store takes only what is signed" in error
        assert (hub.downloaded, list(store.tags()), list(store.drafts())) == ([], [], [])


def imported(home: Path, url: str, *arguments: str) -> tuple[int, Any, str]:
    environment = {
        **os.environ, "CASSTORE_HOME": str(home), "HF_ENDPOINT": url, "HF_HOME": str(home.parent / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-m", "casstore", "import", "--json", *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs casstore[huggingface]")
def test_a_repository_is_imported(store: casstore.Store) -> None:
    with Hub(FILES) as hub:
        code, said, error = imported(store.home, hub.url, "hf://org/Tiny")
        assert code == 0, error
        model = store.get("org--tiny")
        assert (str(model.tag), said[0]["is_new"]) == (f"org--tiny:{COMMIT[:12]}", True)
        assert contents(model) == FILES
        assert model.metadata["huggingface"] == {
            "repo_id": "org/Tiny", "repo_type": "model", "revision": COMMIT, "refs": ["main"],
        }  # fmt: skip
        assert {parent.uri for parent in model.parents} == {f"hf://org/Tiny@{COMMIT}", "hf://org/base"}
        assert sorted(hub.downloaded) == sorted(FILES)
        assert imported(store.home, hub.url, f"hf://org/Tiny@{COMMIT}")[1][0]["is_new"] is False
        assert len(hub.downloaded) == 3
        code, said, error = imported(
            store.home, hub.url, "hf://org/Tiny@main", "--as", "tiny:v1", "--include", "*.json"
        )
        assert code == 0, error
        assert contents(store.get("tiny:v1")) == {"config.json": b"{}"}
        assert imported(store.home, hub.url, "hf://org/Tiny", "--include", "*.json")[0] == 13
        for wrong in (["hf://org/none"], ["hf://org/Tiny", "--as", "a:b", "--include", "*.xyz"]):
            code, _, error = imported(store.home, hub.url, *wrong)
            assert (code, "Traceback" in error) == (1, False)
    assert len(store.tags()) == 2
    assert not store.drafts()


@pytest.mark.parametrize("uri", ["hf://", "hf://name", "hf://name/", "hf://org/name@"])
def test_what_is_no_repository_and_no_file_in_one(
    store: casstore.Store, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--home", str(store.home), "import", uri]) == 1
    assert f"error: {uri} is not hf://ORG/NAME or hf://ORG/NAME@REVISION" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_the_hub_is_asked(store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for tag in ("bad tag", "bert:", "bert@prod", "bert:latest"):
        with pytest.raises(casstore.InvalidTag):
            hugging_face.import_repository(store, "hf://org/name", as_tag=tag)
    for endpoint in ("nonsense", "", "hub.example.com"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(casstore.InvalidSource, match=r"HF_ENDPOINT is '.*', which is not the URL of a hub"):
            hugging_face.import_repository(store, "hf://org/name", as_tag="bert")


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="needs casstore[huggingface]")
def test_a_hub_that_does_not_answer(store: casstore.Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    code, _, error = imported(store.home, url, "hf://org/Tiny")
    assert code == 1
    assert f"hf://org/Tiny cannot be had from the hub: [Errno {errno.ECONNREFUSED}]" in error
    assert f"see whether this machine reaches {url}" in error
    assert "adopt --hf-cache` saves what has been downloaded" in error
    code, _, error = imported(store.home, url, "hf://org/Tiny/a.tar")
    assert (code, "hf://org/Tiny/a.tar cannot be opened: [Errno" in error) == (1, True)
    assert not store.drafts()


def test_what_is_not_a_cache_is_not_adopted(
    store: casstore.Store, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for place, says in (
        (tmp_path / "empty", "does$"),
        (cache / "models--org--Tiny", "does$"),
        (tmp_path, f", {cache}$"),
    ):
        with pytest.raises(casstore.InvalidSource, match=f"is not a Hugging Face cache: it holds no .*{says}"):
            hugging_face.adopt_cache(store, place)
    shutil.rmtree(cache / "models--org--Tiny")
    assert hugging_face.adopt_cache(store, cache).adopted == (), "a cache with data sets alone"
    assert run(["--home", str(store.home), "adopt", "--hf-cache", str(tmp_path / "empty")]) == 1
    capsys.readouterr()


def test_what_is_refused_is_named_once(store: casstore.Store, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--home", str(store.home), "adopt", "--hf-cache", str(cache)]) == 3
    [line] = [each for each in capsys.readouterr().out.splitlines() if each.startswith("refused: ")]
    snapshot = cache / "models--org--Tiny/snapshots" / OTHER
    assert line.startswith(f"refused: {snapshot}: model.bin is a link to ../../blobs/gone, which does not exist")


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("/a/b was written to", "/a/b was written to"), ("/a/b/c is a socket", "/a/b: c is a socket"),
        ("/a/bc is a socket", "/a/b: /a/bc is a socket"), ("it has no version", "/a/b: it has no version"),
    ],
)  # fmt: skip
def test_a_refusal_says_its_path_once(reason: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_refusals((casstore.Refused("/a/b", reason),))
    assert capsys.readouterr().out == f"refused: {shown}\n"
