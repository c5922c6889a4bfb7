"""sign, and verify --signatures, as they are typed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

pytest.importorskip("cryptography")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    make: list[str | Path] = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private]
    subprocess.run(make, check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private


def test_a_version_is_signed_and_checked(saved: Cli, key: Path, tmp_path: Path) -> None:
    public = key.with_suffix(".pub")
    answer = saved("sign", "bert:v1", "--key", key, "-o", tmp_path / "model.sig", "--json").json
    assert (answer["tag"], answer["hash"], answer["files"]) == ("bert:v1", "sha256", 2)
    assert answer["key"] in (tmp_path / "model.sig").read_text()
    assert saved("show", "bert:v1", "--json").json["signed_by"] == [{"key": answer["key"], "hash": "sha256"}]
    assert f"signed.{answer['key'][:16]}\tsha256, not checked here" in saved("show", "bert:v1").out
    said = saved("verify", "bert:v1", "--signatures", "--key", public).out
    assert said.splitlines()[0] == "1 of 1 version signed"
    said = saved("verify", "--signatures", "--key", public, code=1).out
    assert said.startswith("not signed as asked: bert:v2: it is not signed; sign it with `casstore ")
    assert "sign bert:v2 --key KEY`" in said
    assert "1 of 2 versions signed\nsound: " in said
    checks = saved("verify", "--signatures", "--key", public, "--json", code=1).json
    assert not checks["is_sound"]
    assert [(each["tag"], each["is_valid"]) for each in checks["signatures"]] == [("bert:v2", False), ("bert:v1", True)]
    assert saved("sign", "bert:v2", "--key", key).out == f"bert:v2\t{answer['key']}\n"
    assert saved("verify", "--signatures", "--key", public, "--quick").out.startswith("2 of 2 versions signed\nnothing")


def test_a_copy_takes_the_place_of_signatures_alone(saved: Cli, key: Path, tmp_path: Path) -> None:
    private = key.read_bytes()
    (tmp_path / "link").symlink_to(key)
    (tmp_path / "list").write_text("[1]")
    for taken in (key, tmp_path / "link", tmp_path / "list", key.with_suffix(".pub")):
        said = saved("sign", "bert:v1", "--key", key, "-o", taken, code=1).err
        assert f"{taken} is there and is not a signature, so it stays and nothing is signed" in said
    assert key.read_bytes() == private
    assert saved("show", "bert:v1", "--json").json["signed_by"] == []
    (tmp_path / "empty").touch()
    for free in (tmp_path / "model.sig", tmp_path / "model.sig", tmp_path / "empty", "/dev/null"):
        saved("sign", "bert:v1", "--key", key, "-o", free)
    assert "dsseEnvelope" in (tmp_path / "empty").read_text()


def test_the_setting_says_which_keys(saved: Cli, cli: Cli, key: Path, tmp_path: Path) -> None:
    assert "--signatures --key FILE" in saved("verify", "--signatures", code=2).err
    assert "--key is for --signatures" in saved("verify", "--key", key, code=2).err
    saved("sign", "bert:v1", "--key", key)
    saved("export", "bert:v1", tmp_path / "a.tar")
    saved("export", "bert:v2", tmp_path / "b.tar")
    other = type(cli)(tmp_path / "other")
    other("init")
    other("config", "set", "require_signature", key.with_suffix(".pub"))
    said = other("import", tmp_path / "b.tar", code=1).err
    assert (
        "the store takes only what is signed: it is not signed; sign it in the store that it comes from (casstore s"
        in said
    )
    other("import", tmp_path / "a.tar")
    assert other("verify", "--signatures").out.startswith("1 of 1 version signed")
    assert "holds no key" in other("config", "set", "require_signature", tmp_path / "a.tar", code=1).err


def test_signatures_go_along_with_push_and_clone(saved: Cli, cli: Cli, key: Path, tmp_path: Path) -> None:
    saved("remote", "add", "origin", tmp_path / "remote")
    saved("sign", "bert:v1", "--key", key)
    pushed = saved("push", "--all", "--json").json["pushed"]
    assert [(each["tag"], each["is_new"], each["signatures"]) for each in pushed] == [
        ("bert:v1", True, 1), ("bert:v2", True, 0),
    ]  # fmt: skip
    other = type(cli)(tmp_path / "other")
    other("clone", tmp_path / "remote")
    assert "1 of 2 versions signed" in other("verify", "--signatures", "--key", key.with_suffix(".pub"), code=1).out
    strict = type(cli)(tmp_path / "strict")
    strict("clone", tmp_path / "remote", "--none")
    strict("config", "set", "require_signature", key.with_suffix(".pub"))
    said = strict("pull", "bert:v2", code=1).err
    assert "the store takes only what is signed: it is not signed" in said
    assert "; a push from where it is saved and signed brings a signature there" in said
    assert "push bert:v2`" not in said, "it is this store's --home that would be in it"
    saved("sign", "bert:v2", "--key", key)
    assert saved("push", "bert:v2", "--json").json["pushed"] == [
        {"tag": "bert:v2", "is_new": False, "sent_bytes": 0, "packs": 0, "signatures": 1}
    ]
    strict("pull", "--all")
    assert strict("verify", "--signatures").out.startswith("2 of 2 versions signed")
