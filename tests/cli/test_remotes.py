"""Remotes by the command line: what goes there and comes back, what is said of it, and what to type next."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.cli.exits import ExitCode
from casstore.digest import Digest
from casstore.remote.bucket import Bucket
from casstore.remote.directory import DirectoryBackend
from casstore.remote.pushing import Push
from casstore.tag import Tag
from tests.cli.conftest import Cli
from tests.cli.test_completion import complete
from tests.kit import plant


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def pushed(saved: Cli, remote: Path) -> Cli:
    """A store whose bert:v1 and bert:v2 are in its remote."""
    with casstore.Store(saved.home) as store, store.add_remote("origin", str(remote)) as there:
        there.push()
    return saved


@pytest.fixture
def other(pushed: Cli, remote: Path, tmp_path: Path) -> Cli:
    """Another store, which has nothing yet, with the same remote."""
    with casstore.Store(tmp_path / "other") as store:
        store.add_remote("origin", str(remote), make=False)
    return Cli(tmp_path / "other")


def save_another(cli: Cli, tag: str, directory: Path) -> None:
    cli("save", tag, plant(directory, {"config.json": f"{tag} of {cli.home}".encode()}))


def test_a_remote_is_set_up_and_forgotten(saved: Cli, remote: Path, tmp_path: Path) -> None:
    assert saved("remote", "list").out == ""
    assert saved("remote", "add", "origin", remote).out == f"origin\t{remote}\n"
    assert saved("remote", "add", "nas", tmp_path / "nas", "--json").json == {"name": "nas", "url": f"{tmp_path}/nas"}
    assert saved("remote", "list").out == f"origin\t{remote}\tdefault\nnas\t{tmp_path}/nas\t\n"
    saved("remote", "default", "nas")
    assert saved("remote", "list", "--json").json["remotes"] == [
        {"name": "nas", "url": f"{tmp_path}/nas", "default": True},
        {"name": "origin", "url": str(remote), "default": False},
    ]
    assert "default" in saved.on_terminal("remote", "list")
    saved("remote", "remove", "nas")
    assert (tmp_path / "nas/casremote").is_file()
    assert saved("push", "--all").out.count("new") == 2  # the only one is meant


def test_versions_go_there_and_come_back(saved: Cli, remote: Path, tmp_path: Path) -> None:
    saved("remote", "add", "origin", remote)
    assert saved("push", "bert:v1").out.split("\t")[::2] == ["bert:v1", "new\n"]
    assert saved("push", "bert:v1").out == "bert:v1\t0\tpresent\n"
    (there,) = saved("push", "bert", "--json").json["pushed"][1:]
    assert there["tag"] == "bert:v2"
    assert (there["is_new"], there["packs"]) == (True, 1)
    assert 0 < there["sent_bytes"] < 2_000  # only config.json is new
    cloned = Cli(tmp_path / "clone")
    assert [line.split("\t")[0] for line in cloned("clone", remote).out.splitlines()] == ["bert:v1", "bert:v2"]
    assert cloned("list").out == saved("list").out
    shown = [each("show", "bert:v1", "--json").json for each in (saved, cloned)]
    assert shown[0]["files"] == shown[1]["files"]
    assert cloned("cat", "bert:v1", "config.json").out == '{"hidden": 4}'
    assert cloned("verify").out
    assert cloned("pull", "bert:v2").out == "bert:v2\t0\tpresent\n"
    assert cloned("pull", "bert:v1", "--as", "albert:v1", "--json").json["pulled"][0]["tag"] == "albert:v1"
    assert cloned("status").out == "albert:v1\there\n"
    assert cloned("push", "--all", "--dry-run", "--json").json["dry_run"] is True
    assert cloned("status", "--json").json == {"here": ["albert:v1"], "there": [], "different": [], "same": 2}


def test_a_clone_that_was_cut_short_goes_on(saved: Cli, remote: Path, tmp_path: Path) -> None:
    saved("remote", "add", "origin", remote)
    saved("push", "--all")
    cloned = Cli(tmp_path / "clone")
    cloned("clone", remote, "--none")
    assert [line.split("\t")[0] for line in cloned("clone", remote).out.splitlines()] == ["bert:v1", "bert:v2"]
    assert cloned("clone", remote).out == "bert:v1\t0\tpresent\nbert:v2\t0\tpresent\n"
    assert "already" in cloned("clone", tmp_path / "another", code=1).err


def test_a_terminal_is_told_in_words(pushed: Cli, remote: Path, tmp_path: Path) -> None:
    save_another(pushed, "gpt:v1", tmp_path / "gpt")
    assert "only here: 1 version" in pushed.on_terminal("status")
    assert "gpt:v1 would be pushed" in pushed.on_terminal("push", "--all", "--dry-run")
    screen = pushed.on_terminal("push", "--all")
    assert "bert:v1 is there already" in screen
    assert "pushed gpt:v1: " in screen
    assert "sent in 1 pack" in screen
    cloned = Cli(tmp_path / "clone")
    screen = cloned.on_terminal("clone", remote)
    assert "pulled bert:v1: " in screen
    assert f"{cloned.home} has 3 versions of {remote}" in screen
    assert "bert:v1 is here already" in cloned.on_terminal("pull", "bert:v1")
    for verb in ("push", "pull"):
        assert "casstore" not in cloned.on_terminal(verb, "bert:v1", "-q")
    assert "the same: 3 versions" in cloned.on_terminal("status")


def test_what_is_there_is_listed_and_shown(pushed: Cli, other: Cli, remote: Path, tmp_path: Path) -> None:
    other("pull", "bert:v1")
    save_another(other, "bert:v2", tmp_path / "another")
    lines = [line.split("\t") for line in other("list", "--remote").out.splitlines()]
    assert [(line[0], *line[3:]) for line in lines] == [
        ("bert:v2", "stage=prod", "other"),
        ("bert:v1", "stage=dev", "yes"),
    ]
    assert other("list", "--remote", "origin", "-l", "stage=dev").out.startswith("bert:v1\t")
    assert other("list", "BERT", "--remote").out.count("\n") == 2
    assert other("list", "gpt", "--remote").out == ""
    document = other("list", "--remote", "--json").json
    assert document["url"] == str(remote)
    assert [(each["is_here"], each["is_different_here"]) for each in document["versions"]] == [
        (False, True),
        (True, False),
    ]
    fields = dict(line.split("\t", 1) for line in other("show", "bert", "--remote").out.splitlines())
    assert (fields["tag"], fields["here"], fields["label.stage"]) == ("bert:v2", "no", "prod")
    assert (fields["metadata.accuracy"], fields["remote"]) == ("0.93", str(remote))
    shown = other("show", "bert:v1", "--remote", "--json").json
    ours = pushed("show", "bert:v1", "--json").json
    assert {key: shown[key] for key in ("digest", "files", "labels", "metadata", "created_at", "size_bytes")} == {
        key: ours[key] for key in ("digest", "files", "labels", "metadata", "created_at", "size_bytes")
    }
    assert other("cat", "bert", "config.json", "--remote").out == '{"hidden": 8}'
    assert "did you mean config.json?" in other("cat", "bert", "confg.json", "--remote", code=ExitCode.NOT_FOUND).err
    assert "`casstore show bert:v2 --remote`" in other("cat", "bert", "x", "--remote", code=ExitCode.NOT_FOUND).err
    assert "HERE" in other.on_terminal("list", "--remote")
    assert "weights.bin" in other.on_terminal("show", "bert:v1", "--remote")
    assert pushed("remote", "show", "--json").json["versions"] == 2


def test_a_deletion_there_asks_and_leaves_what_is_here(pushed: Cli, other: Cli, remote: Path) -> None:
    assert "there is no terminal to ask on" in pushed("delete", "bert:v1", "--remote", code=ExitCode.USAGE).err
    assert pushed("delete", "bert:v1", "--remote", "--dry-run").out == "bert:v1\n"
    screen = other.on_terminal("delete", "bert:v1", "--remote", typed="n\n", code=ExitCode.FAILED)
    assert "not saved here, so this store cannot bring it back" in screen
    assert "nothing was deleted" in screen
    screen = pushed.on_terminal("delete", "bert:v1", "--remote", "origin", typed="y\n")
    assert "cannot bring it back" not in screen
    assert f"Delete 1 version from {remote}?" in screen
    assert "deleted bert:v1" in screen
    assert pushed("list", "--remote").out.count("\n") == 1
    assert pushed("list").out.count("\n") == 2
    done = pushed("delete", "bert:v1", "bert:v2", "--remote", "--yes", "--json", code=ExitCode.PARTLY_DONE)
    assert (done.json["deleted"], [each["tag"] for each in done.json["failed"]]) == (["bert:v2"], ["bert:v1"])
    assert "casstore list --remote" in pushed("delete", "bert:v2", "--remote", "-y", code=ExitCode.NOT_FOUND).err
    assert pushed("remote", "gc", "--dry-run").out.startswith("2 packs would be removed")
    assert pushed("remote", "gc", "--json").json["packs"] == 2
    assert pushed("push", "--all").out.count("new") == 2
    assert pushed("remote", "verify", "--deep", "--json").json["ok"] is True


def test_a_push_that_was_killed_is_named_and_given_up(pushed: Cli, remote: Path) -> None:
    bucket = Bucket.open(DirectoryBackend(remote))
    killed = Push.begin(bucket, [Tag("bert", "v3")], Digest.of(b"v3"))
    bucket.backend.put(killed.new_pack(b"pack").key, b"pack")
    pushed("delete", "bert:v1", "bert:v2", "--remote", "--yes")
    (push,) = pushed("remote", "gc", "--json").json["pushes"]
    assert (push["id"], push["tags"]) == (killed.id, ["bert:v3"])
    assert "@" in push["by"]
    assert push["opened_at"] <= push["heard_at"]
    screen = pushed.on_terminal("remote", "gc", "origin")
    assert "bert:v3 by " in screen
    assert "last heard of just now" in screen
    assert "gc origin --give-up-after HOURS" in " ".join(screen.split())
    assert pushed("remote", "gc", "--give-up-after", "1", "--json").json["revoked"] == []
    done = pushed("remote", "gc", "--give-up-after", "0", "--json").json
    assert (done["revoked"], done["pushes"], done["packs"]) == ([killed.id], [], 3)
    assert pushed("remote", "gc", "--give-up-after", "-1", code=ExitCode.USAGE).err


def test_damage_there_is_named_and_mended(pushed: Cli, other: Cli, remote: Path) -> None:
    pack = max(remote.rglob("*.pack"), key=lambda path: path.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    done = pushed("remote", "verify", "--deep", code=ExitCode.FAILED)
    assert done.out.startswith("damaged: ")
    assert "is damaged" in other("pull", "--all", code=ExitCode.FAILED).err
    assert other("list").out == ""
    pushed("delete", "bert:v1", "bert:v2", "--remote", "--yes")
    pushed("remote", "gc")
    pushed("push", "--all")
    assert pushed("remote", "verify", "--deep").out.endswith("sound\n")
    assert other("pull", "--all").out.count("new") == 2


NO_REMOTE = "no remote is set up; `casstore remote add origin URL` does it"
NO_NAME = "there is no remote 'nas'; there is origin; `casstore remote add nas URL` sets it up"


@pytest.mark.parametrize(
    "words",
    [
        ("push", "bert"), ("pull", "bert"), ("status",), ("list", "--remote"), ("show", "bert", "--remote"),
        ("delete", "bert:v1", "--remote", "--yes"), ("evict", "bert:v1", "--to-remote"), ("remote", "show"),
        ("remote", "gc"), ("remote", "verify"),
    ],
)  # fmt: skip
def test_without_a_remote_each_verb_says_how_to_set_one_up(untouched: Cli, words: tuple[str, ...]) -> None:
    assert NO_REMOTE in untouched(*words, code=ExitCode.NOT_FOUND).err


@pytest.mark.parametrize(
    "words",
    [
        ("push", "bert", "--to", "nas"), ("pull", "bert", "--from", "nas"), ("status", "nas"),
        ("list", "--remote", "nas"), ("evict", "bert:v1", "--to-remote", "nas"), ("remote", "remove", "nas"),
        ("remote", "default", "nas"),
    ],
)  # fmt: skip
def test_a_remote_that_is_not_known_is_named(pushed: Cli, words: tuple[str, ...]) -> None:
    assert NO_NAME in pushed(*words, code=ExitCode.NOT_FOUND).err


def test_what_to_carry_must_be_said(pushed: Cli) -> None:
    assert "say what to push" in pushed("push", code=ExitCode.USAGE).err
    assert "say what to pull" in pushed("pull", code=ExitCode.USAGE).err
    assert "a pattern such as" in pushed("push", "gpt*", code=ExitCode.NOT_FOUND).err
    assert "casstore list --remote" in pushed("pull", "gpt:v1", code=ExitCode.NOT_FOUND).err
    assert "casstore list --remote" in pushed("show", "gpt", "--remote", code=ExitCode.NOT_FOUND).err
    assert "cannot name; leave out" in pushed("pull", "bert", "--as", "albert:v1", code=ExitCode.FAILED).err


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://host/models", "casstore cannot keep a remote at"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/models", "must not have credentials in it"),
        ("", "the URL of the remote is empty"),
    ],
)
def test_a_wrong_url_is_refused_and_not_kept(untouched: Cli, url: str, text: str) -> None:
    done = untouched("remote", "add", "origin", url, code=ExitCode.FAILED)
    assert text in done.err
    assert "secret" not in done.err
    assert untouched("remote", "list").out == ""


def test_places_that_are_no_remote(saved: Cli, remote: Path, tmp_path: Path) -> None:
    plant(tmp_path / "full", {"thesis.tex": b"years"})
    done = saved("remote", "add", "origin", tmp_path / "full", code=ExitCode.FAILED)
    assert "holds other things, such as 'thesis.tex'" in done.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    for words in (("clone", remote, tmp_path / "clone"), ("remote", "add", "origin", remote, "--no-make")):
        assert "no remote of casstore stands at" in saved(*words, code=ExitCode.NOT_FOUND).err
    assert not remote.exists()
    saved("remote", "add", "origin", remote)
    assert "there is a remote 'origin' already" in saved("remote", "add", "origin", remote, code=ExitCode.FAILED).err
    assert "cannot be called" in saved("remote", "add", "a b", remote, code=ExitCode.USAGE).err
    shutil.rmtree(remote)
    assert "no remote of casstore stands at" in saved("push", "--all", code=ExitCode.NOT_FOUND).err


def test_another_version_under_the_tag_is_refused_on_either_side(pushed: Cli, other: Cli, tmp_path: Path) -> None:
    save_another(other, "bert:v1", tmp_path / "another")
    for words in (("push", "bert:v1"), ("pull", "bert:v1")):
        done = other(*words, "--json", code=ExitCode.EXISTS)
        assert done.error["type"] == "TagExists"
        assert "versions never change" in done.error["message"]
    assert other("status").out == "bert:v2\tthere\nbert:v1\tdifferent\n"
    assert other("pull", "bert:v1", "--as", "bert:theirs").out.startswith("bert:theirs\t")


def test_an_endpoint_that_does_not_answer_is_named_soon(saved: Cli) -> None:
    pytest.importorskip("obstore")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    saved.extra_environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
    place = ("s3://bucket/models", "--endpoint", f"http://127.0.0.1:{port}")
    done = saved("remote", "add", "origin", *place, code=ExitCode.FAILED)
    assert "error: s3://bucket/models " in done.err
    assert "hush-hush" not in done.err
    assert saved("remote", "list").out == ""


def test_obstore_is_wanted_only_for_object_stores(saved: Cli, remote: Path, tmp_path: Path) -> None:
    plant(tmp_path / "without", {"obstore.py": b"raise ImportError\n"})
    saved.extra_environment["PYTHONPATH"] = str(tmp_path / "without")
    environment = {**saved.environment, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "casstore.cli", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "pip install 'casstore[remote]'" in run("remote", "add", "origin", "s3://bucket/models").stderr
    assert run("remote", "add", "origin", str(remote)).returncode == 0
    assert run("push", "--all").returncode == 0


def test_a_store_as_a_cache(pushed: Cli, tmp_path: Path) -> None:
    digest = pushed("show", "bert:v1", "--json").json["digest"]
    assert "newest version" in pushed("evict", "bert:v2", "--to-remote", code=ExitCode.FAILED).err
    pushed("pin", "bert:v1")
    assert "is pinned (`casstore unpin`)" in pushed("evict", "bert:v1", "--to-remote", code=ExitCode.FAILED).err
    pushed("unpin", "bert:v1")
    assert pushed("evict", "bert:v1", "--to-remote").out == "bert:v1\n"
    pushed("gc", "--rewrite")
    assert pushed("list").out.count("\n") == 1
    assert "1 more version in the remote origin alone" in pushed.on_terminal("list")
    assert [each["tag"] for each in pushed("list", "--json").json["elsewhere"]] == ["bert:v1"]
    plant(tmp_path / "new", {"w": b"w"})
    assert "is taken" in pushed("save", "bert:v1", tmp_path / "new", code=ExitCode.EXISTS).err
    assert Path(pushed("path", "bert:v1").out.rstrip("\n"), "config.json").read_text() == '{"hidden": 4}'
    assert pushed("show", "bert:v1", "--json").json["digest"] == digest
    assert pushed("list", "--json").json["elsewhere"] == []
    pushed("evict", "bert:v1", "--to-remote", "origin")
    screen = pushed.on_terminal("delete", "bert:v1", typed="y\n")
    assert "only its name is here, and it stays in the remote origin" in screen
    assert pushed("path", "bert:v1", code=ExitCode.NOT_FOUND).err
    pushed("config", "set", "pull_missing", "origin")
    assert pushed("path", "bert:v1").out
    assert pushed("path", "bert:v9", code=ExitCode.NOT_FOUND).err


def test_remotes_are_completed(pushed: Cli, tmp_path: Path) -> None:
    pushed("remote", "add", "nas", tmp_path / "nas")
    for line in ("push bert --to ", "pull bert --from ", "status ", "remote gc ", "remote default ", "list --remote "):
        assert sorted(complete(pushed, f"casstore {line}")) == ["nas", "origin"], line
    assert complete(pushed, "casstore remote remove n") == ["nas"]
    assert complete(Cli(tmp_path / "none"), "casstore status n") == []


def test_the_demo_shows_what_travels(cli: Cli) -> None:
    done = json.loads(cli("demo", "--remote", "--json").out)
    assert all(check["passed"] for check in done["checks"])
    assert len(done["checks"]) == 5
    first, second, _, fourth = done["travelled"]
    assert second["sent_bytes"] < 0.1 * second["size_bytes"]
    assert fourth["received_bytes"] < 0.5 * first["received_bytes"] + 1_000_000
