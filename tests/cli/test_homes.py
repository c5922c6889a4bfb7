"""Which store is meant: `~`, none at all, a directory that is none, and names that the system cannot tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

import casstore
from casstore.cli import main
from tests.cli.conftest import Cli
from tests.kit import Child

READING = [
    ("list",), ("list", "bert"), ("show", "bert"), ("path", "bert"), ("delete", "-y", "bert:v1"), ("gc",), ("verify",),
    ("repair",), ("stats",), ("config",), ("config", "set", "keep_days", "3"), ("pin", "bert"), ("unpin", "bert"),
    ("sync-tree",), ("export", "bert", "/nowhere/x.tar"), ("backup", "/nowhere"),
]  # fmt: skip
NOBODY = 54_321  # a user without an entry in the list of users


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_what_reads_makes_no_store_and_says_what_to_type(cli: Cli, tmp_path: Path, arguments) -> None:
    typo = tmp_path / "ty po"
    said = cli("--home", typo, *arguments, code=12).err
    assert f"error: there is no store at {typo}" in said
    assert f"`casstore init --home '{typo}'`" in said
    assert f"`casstore save --home '{typo}' NAME PATH`" in said
    assert not typo.exists()
    assert not cli.home.exists()


def test_the_error_of_a_store_that_is_not_there_is_json_where_that_is_wanted(cli: Cli) -> None:
    error = cli("list", "--json", code=12).error
    assert (error["type"], error["exit_code"]) == ("StoreNotFound", 12)
    assert "`casstore init`" in error["message"], "the store of the environment needs no --home"


@pytest.mark.parametrize("verb", ["save", "import", "adopt", "init", "demo"])
def test_what_saves_makes_a_store(saved: Cli, files: Path, tmp_path: Path, verb) -> None:
    tree, archive, home = tmp_path / "tree", tmp_path / "bert.tar", tmp_path / "new" / "store"
    (tree / "bert").mkdir(parents=True)
    saved("export", "bert:v1", archive)
    arguments: dict[str, list[str | Path]] = {
        "save": ["bert:v1", files],
        "import": [archive],
        "adopt": [tree],
        "init": [],
        "demo": ["--keep", home],
    }
    saved("--home", home, verb, *arguments[verb])
    assert saved("--home", home, "list").err == ""


def test_a_directory_of_other_things_is_no_store_and_stays_as_it_is(cli: Cli, files: Path) -> None:
    before = sorted(os.listdir(files))
    said = cli("--home", files, "list", code=12).err
    assert "holds other things, such as 'config.json'" in said
    assert sorted(os.listdir(files)) == before


def test_an_empty_directory_is_no_store_and_stays_empty(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cli("--home", tmp_path / "empty", "list", code=12)
    assert os.listdir(tmp_path / "empty") == []


def test_in_python_a_store_is_made_unless_that_is_not_wanted(home: Path) -> None:
    with pytest.raises(casstore.StoreNotFound, match="no store at") as caught:
        casstore.Store(home, create=False)
    assert isinstance(caught.value, casstore.StoreError | FileNotFoundError)
    assert not home.exists()
    with casstore.Store(home) as store, casstore.Store(home, create=False) as again:
        assert again.tags() == store.tags() == []


def test_what_is_left_of_a_store_is_told_from_none(store: casstore.Store, save_one, home: Path) -> None:
    store.close()
    for path in home.glob("catalog.db*"):
        path.unlink()
    with pytest.raises(casstore.CatalogDamaged, match="rebuild-catalog"):
        casstore.Store(home, create=False)


@pytest.fixture
def save_one(store: casstore.Store, files: Path):
    return store.save("m:1", files)


@pytest.mark.parametrize("how", ["--home=~/x/store", "CASSTORE_HOME"])
def test_a_tilde_is_the_home_directory(
    cli: Cli, files: Path, tmp_path: Path, how, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.extra_environment |= {"HOME": str(tmp_path / "me")}
    if how == "CASSTORE_HOME":
        cli.extra_environment |= {how: "~/x/store"}
        cli("save", "bert:v1", files)
    else:
        cli(how, "save", "bert:v1", files)
    assert (tmp_path / "me/x/store/catalog.db").exists()
    assert not (tmp_path / "~").exists()
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for home in ("~/x/store", Path("~/x/store")):
        with casstore.Store(home, create=False) as store:
            assert store.tags() == ["bert:v1"]
            assert store.home == tmp_path / "me/x/store"
            assert store.backup("~/backup").directory == str(tmp_path / "me/backup")
    assert not (tmp_path / "~").exists()


def test_a_user_who_is_not_there_is_named(cli: Cli) -> None:
    assert "there is no user 'nobody-of-that-name'" in cli("--home=~nobody-of-that-name/x", "list", code=1).err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("arguments", [["list"], ["save", "bert:v1", "/etc/hostname"], ["init"]], ids=" ".join)
def test_without_a_home_directory_it_says_what_to_set(tmp_path: Path, arguments) -> None:
    said = os.open(tmp_path / "said", os.O_RDWR | os.O_CREAT)

    def run_as_nobody():
        os.environ.pop("HOME", None)
        os.environ.pop("CASSTORE_HOME", None)
        os.setuid(NOBODY)
        os.dup2(said, 2)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - pytest has replaced it
        code = main.run(arguments)
        sys.stderr.flush()
        return code

    assert Child(run_as_nobody).wait() == 1
    os.close(said)
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    assert "HOME is not set" in text
    assert "set CASSTORE_HOME" in text


def test_a_home_that_is_not_utf8_is_refused_with_its_name(cli: Cli, files: Path, tmp_path: Path) -> None:
    home = os.fsencode(tmp_path) + b"/caf\xe9"
    for arguments in (["save", "bert:v1", files], ["list"], ["init"]):
        done = subprocess.run(
            [sys.executable, "-m", "casstore.cli", b"--home", home, *arguments], env=cli.environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "caf\\udce9' is not UTF-8" in done.stderr
    assert not os.path.exists(home)
    with pytest.raises(casstore.StoreError, match="is not UTF-8"):
        casstore.Store(os.fsdecode(home))


def test_hints_and_errors_repeat_the_home_that_was_given(cli: Cli, files: Path, tmp_path: Path) -> None:
    home = tmp_path / "my store"
    screen = cli.on_terminal("save", "--home", home, "bert:v1", files, columns=400)
    assert f"`casstore --home '{home}' path bert:v1`" in screen
    assert f"casstore.Store('{home}').get(\"bert:v1\").path" in screen
    assert f"`casstore --home '{home}' list`" in cli("--home", home, "show", "other", code=12).err
    error = cli("--home", home, "show", "other", "--json", code=12).error
    assert f"`casstore --home '{home}' list`" in error["message"]
    assert "--home" not in cli.on_terminal("save", "bert:v1", files)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_another_programs_database_is_left_as_it_is(cli: Cli, files: Path, tmp_path: Path, journal) -> None:
    home = tmp_path / "other"
    home.mkdir()
    other = apsw.Connection(str(home / "catalog.db"))
    other.execute(f"PRAGMA journal_mode = {journal}; CREATE TABLE photos(x); PRAGMA user_version = 3").fetchall()
    other.close()
    before = (home / "catalog.db").read_bytes()
    for arguments in (["list"], ["save", "bert:v1", files], ["verify"], ["gc"], ["init"]):
        said = cli("--home", home, *arguments, code=1).err
        assert "is an SQLite file of another program, with 'photos' in it" in said
        assert "damaged" not in said
    assert os.listdir(home) == ["catalog.db"]
    assert (home / "catalog.db").read_bytes() == before


def test_another_programs_database_in_a_stores_place_is_no_empty_store(saved: Cli) -> None:
    for path in saved.home.glob("catalog.db*"):
        path.unlink()
    other = apsw.Connection(str(saved.home / "catalog.db"))
    other.execute("CREATE TABLE photos(x)")
    other.close()
    before = (saved.home / "catalog.db").read_bytes()
    said = saved("list", code=1).err
    assert "another program" in said
    assert "repair --rebuild-catalog" in said
    assert (saved.home / "catalog.db").read_bytes() == before
    saved("repair", "--rebuild-catalog")
    assert [line.split("\t")[0] for line in saved("list").out.splitlines()] == ["bert:v2", "bert:v1"]


def test_the_first_of_a_list_is_the_latest_after_a_clock_that_was_ahead(cli: Cli, files: Path, sql_at) -> None:
    cli("save", "bert:v1", files)
    sql_at(cli.home, "UPDATE version SET created_at = created_at + 1000000000000000000, ordered_at = created_at")
    sql_at(cli.home, "UPDATE version SET ordered_at = created_at")
    cli("save", "bert:v2", files)
    cli("save", "other:v1", files)
    first = cli("list", "bert").out.splitlines()[0].split("\t")[0]
    assert first == "bert:v2" == json.loads(cli("show", "bert", "--json").out)["tag"]
    everything = [line.split("\t")[0] for line in cli("list").out.splitlines()]
    assert [tag for tag in everything if tag.startswith("bert")] == ["bert:v2", "bert:v1"]
    assert [each["tag"] for each in cli("list", "--json").json["versions"]] == everything
    with casstore.Store(cli.home) as store:
        assert [str(model.tag) for model in store.list("bert")] == ["bert:v2", "bert:v1"]
        assert list(store.tags()) == everything


@pytest.fixture
def sql_at():
    def run(home, statement):
        connection = apsw.Connection(str(home / "catalog.db"))
        connection.execute(statement)
        connection.close()

    return run
