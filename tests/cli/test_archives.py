"""export, import, adopt, sync-tree and save --from-hf, as they are typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import COMMAND, Cli


def test_a_version_goes_through_a_file(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    written = saved("export", "bert:v1", tmp_path / "a.tar").out.strip()
    assert written == str(tmp_path / "a.tar")
    with tarfile.open(written) as archive:
        assert sorted(archive.getnames()) == ["config.json", "model.yaml", "weights.bin"]
    other = type(cli)(tmp_path / "other")
    assert other("import", written).out == "bert:v1\t2097165\t2\tnew\n"
    assert other("import", written).out == "bert:v1\t2097165\t2\tpresent\n"
    [answer] = other("import", written, "--as", "albert", "--json").json
    assert (answer["name"], answer["is_new"], answer["labels"], answer["notes"]) == (
        "albert", True, {"stage": "dev"}, [],
    )  # fmt: skip
    assert saved("show", "bert:v1", "--json").json["digest"] == answer["digest"]


def test_a_version_goes_through_a_pipe(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    other = type(cli)(tmp_path / "other")
    with saved.start("export", "bert:v2", "-", "--format", "casmodel") as source:
        done = subprocess.run(
            [*COMMAND, "import", "-", "-q"], env=other.environment, stdin=source.stdout, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    assert (source.returncode, done.returncode, done.stdout, done.stderr) == (0, 0, "bert:v2\n", "")


def test_every_version_of_a_name_goes_into_one_casmodel(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    answer = saved("export", "bert", tmp_path / "all", "--all", "--format", "casmodel", "--json").json
    assert answer == {"path": str(tmp_path / "all.casmodel"), "tags": ["bert:v2", "bert:v1"]}
    other = type(cli)(tmp_path / "other")
    assert len(other("import", answer["path"]).out.splitlines()) == 2
    assert [line.split("\t")[0] for line in other("list").out.splitlines()] == ["bert:v2", "bert:v1"]
    assert (
        "only a .casmodel holds more than one"
        in saved("export", "bert:v1", tmp_path / "x.tar", "--with", "bert:v2", code=1).err
    )
    assert not (tmp_path / "x.tar").exists()


def test_versions_go_through_an_oci_layout(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'models'}"
    assert saved("export", "bert", place, "--all").out == f"{place}\n"
    assert saved("export", "bert:v1", f"{place}:prod", "--json").json == {"path": f"{place}:prod", "tags": ["bert:v1"]}
    other = type(cli)(tmp_path / "other")
    assert other("import", f"{place}:prod").out == "bert:v1\t2097165\t2\tnew\n"
    assert other("import", f"{place}:v1").out == "bert:v1\t2097165\t2\tpresent\n"
    assert "holds 3 artifacts; say which, as in oci:DIR:REF: it has prod, v1, v2" in other("import", place, code=1).err


def test_bad_exports_and_imports_say_what_to_do(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    assert "did you mean bert" in saved("export", "berd", tmp_path, code=12).err
    assert "'rar' is not one of" in saved("export", "bert", tmp_path, "--format", "rar", code=2).err
    assert (
        f"{tmp_path / 'no'}: there is no such directory" in saved("export", "bert", tmp_path / "no/a.tar", code=1).err
    )
    assert "cannot both go to stdout" in saved("export", "bert", "-", "--json", code=2).err
    assert "does not exist" in saved("import", tmp_path / "nowhere", code=1).err
    (tmp_path / "text").write_text("hello")
    assert f"{tmp_path / 'text'}: the source is not an archive" in saved("import", tmp_path / "text", code=1).err
    saved("export", "bert:v1", tmp_path / "a.tar")
    assert "--as NAME:VERSION" in saved("import", tmp_path / "a.tar", "--as", "bert:v2", code=13).err
    assert len(saved("list").out.splitlines()) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_apart_from_the_store(saved: Cli) -> None:
    told = saved("export", "bert:v1", "/dev/full", "--format", "tar", code=1).err
    assert "No space left on device; free some space there" in told


def test_a_terminal_gets_no_archive(untouched: Cli) -> None:
    assert "is not written to a terminal" in untouched.on_terminal("export", "bert", "-", code=2)


def test_adopt_tells_what_is_shared_and_goes_on_past_a_bad_one(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        saved("export", f"bert:{version}", tmp_path / f"old/models/bert/{version}", "--format", "folder")
    shutil.copytree(tmp_path / "old/models/bert/v1", tmp_path / "old/models/bad name/v1")
    other = type(cli)(tmp_path / "other")
    done = other("adopt", tmp_path / "old", code=3)
    assert "adopted: bert:v1\nadopted: bert:v2\nrefused: " in done.out
    assert "2 versions adopted, 1 refused" in done.out
    assert "is shared" in done.out
    answer = other("adopt", tmp_path / "old", "--json", code=3).json
    assert (answer["adopted_tags"], answer["present_tags"]) == ([], ["bert:v1", "bert:v2"])
    assert answer["refused"][0]["path"].endswith("bad name/v1")
    assert other("show", "bert:v1", "--json").json["labels"] == {"stage": "dev"}
    assert other("adopt", tmp_path / "old/models/bert/v1", code=1).err.count("NAME/VERSION") == 1


def test_sync_tree_says_what_others_have_done(saved: Cli, tmp_path: Path) -> None:
    models = saved.home / "models/bert"
    saved("export", "bert:v1", tmp_path / "v0", "--format", "folder")
    (tmp_path / "v0").rename(models / "v0")
    shutil.rmtree(models / "v2")
    answer = saved("verify", "--json").json
    assert (answer["unknown_directories"], answer["missing_directories"]) == ([str(models / "v0")], ["bert:v2"])
    assert f"not made by casstore: {models / 'v0'}\ndirectory was removed: bert:v2\n" in saved("verify").out
    assert "casstore sync-tree" in saved.on_terminal("verify")
    dry = saved("sync-tree", "--dry-run", "--json").json
    assert (dry["adopted"], dry["missing_tags"], dry["deleted_tags"]) == (["bert:v0"], ["bert:v2"], [])
    assert saved("sync-tree").out.splitlines()[:2] == ["adopted: bert:v0", "missing: bert:v2"]
    assert saved("sync-tree", "--prune").out == "deleted: bert:v2\n"
    assert saved("sync-tree", "--restore", "bert:v2").out == "restored: bert:v2\n"
    assert "not among" in saved("sync-tree", "--restore", "bert:v2", code=12).err
    assert saved("sync-tree", "--prune", "--restore", "bert:v2", code=2).err
    saved("path", "bert:v2")
    shutil.rmtree(models / "v2")
    assert "sync-tree --restore TAG" in saved.on_terminal("sync-tree", "--prune", columns=200)
    assert saved("sync-tree").out == "models/ and the catalog agree\n"
    assert [line.split("\t")[0] for line in saved("list").out.splitlines()] == ["bert:v1", "bert:v0"]


def test_a_snapshot_of_the_hugging_face_cache(cli: Cli, tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--org--tiny"
    snapshot = repository / "snapshots/0123abcd"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs/pr").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "blobs/b1").write_bytes(b"weights" * 20_000)
    (snapshot / "model.safetensors").symlink_to("../../blobs/b1")
    (repository / "refs/main").write_text("0123abcd")
    (repository / "refs/pr/7").write_text("0123abcd")
    (repository / "refs/old").write_text("ffff")
    cli("save", "tiny:v1", "--from-hf", snapshot, "-m", "loss=0.5")
    with casstore.Store(cli.home) as store:
        model = store.get("tiny:v1")
        assert [(file.path, file.size) for file in model.files] == [("model.safetensors", 140_000)]
        assert model.metadata == {
            "loss": 0.5,
            "huggingface": {
                "repo_id": "org/tiny", "repo_type": "model", "revision": "0123abcd", "refs": ["main", "pr/7"],
            },
        }  # fmt: skip
    assert (snapshot / "model.safetensors").is_symlink()
    assert (repository / "blobs/b1").exists()
    assert "not a snapshot in a Hugging Face cache" in cli("save", "tiny:v2", "--from-hf", repository, code=1).err


def test_the_name_says_the_format_and_casmodel_is_the_default(
    saved: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert saved("export", "bert:v1").out == "bert-v1.casmodel\n"
    assert saved("export", "bert:v1", "copy").out == "copy.casmodel\n"
    assert saved("export", "bert:v1", "copy.bentomodel").out == "copy.bentomodel\n"
    assert (tmp_path / "copy.bentomodel").read_bytes()[:6] == b"\xfd7zXZ\0"
    assert (tmp_path / "bert-v1.casmodel").read_bytes()[:8] == b"casmodel"
