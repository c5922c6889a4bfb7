"""casstore alias, and where other verbs tell of aliases."""

from __future__ import annotations

import json

from tests.cli.conftest import Cli


def test_set_list_log_rollback(saved: Cli) -> None:
    assert saved("alias", "set", "bert@prod", "bert:v1", "--if", "none", "-m", "first").out == "bert@prod\tbert:v1\n"
    assert saved("alias", "set", "bert@prod", "bert:v2", "--if", "bert:v1", "--json").json["tag"] == "bert:v2"
    lines = [line.split("\t") for line in saved("alias", "log", "bert@prod").out.splitlines()]
    assert [[line[0], line[1], line[2], line[5]] for line in lines] == [
        ["2", "set", "bert:v2", ""],
        ["1", "set", "bert:v1", "first"],
    ]
    assert saved("show", "bert@prod~1", "--json").json["tag"] == "bert:v1"
    assert saved("alias", "rollback", "bert@prod").out == "bert@prod\tbert:v1\n"
    (listed,) = saved("alias", "list", "--json").json["aliases"]
    assert (listed["alias"], listed["tag"], listed["is_protected"]) == ("bert@prod", "bert:v1", False)
    assert saved("alias", "list", "bert").out.split("\t")[:2] == ["bert@prod", "bert:v1"]
    assert [move["action"] for move in saved("alias", "log", "bert@prod", "--json").json["moves"]] == [
        *["rollback", "set", "set"]
    ]
    assert saved("alias", "log", "bert@prod", "--at", "0s", "--json").json["moves"][0]["action"] == "rollback"
    assert "did not exist at 2020-01-01" in saved("alias", "log", "bert@prod", "--at", "2020-01-01", code=12).err
    assert "did not exist" in saved("alias", "rollback", "bert@prod", "--to", "2020-01-01T00:00:00Z", code=12).err
    assert "not both" in saved("alias", "rollback", "bert@prod", "--to", "1d", "--steps", "1", code=2).err
    for wrong in ("2020-13-01", "yesterday", "9999999999w", ""):
        assert "is not a time; write 2026-11-01" in saved("alias", "log", "bert@prod", "--at", wrong, code=2).err
    assert saved("alias", "delete", "bert@prod").out == "bert@prod\n"
    assert saved("alias", "list").out == ""
    assert "there is no bertt" in saved("alias", "list", "bertt", code=12).err


def test_a_move_that_was_not_expected(saved: Cli) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    error = saved("alias", "set", "bert@prod", "bert:v2", "--if", "bert:v2", "--json", code=11).error
    assert (error["type"], error["current"], error["exit_code"]) == ("AliasMoved", "bert:v1", 11)
    assert "--if none" in saved("alias", "set", "bert@new", "bert:v2", "--if", "bert:v2", code=11).err
    assert "reads like a version" in saved("alias", "set", "bert@v3", "bert:v2", code=2).err


def test_protected(saved: Cli) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    screen = saved.on_terminal("alias", "protect", "bert@prod", "-m", "ask ana")
    assert "bert@prod means bert:v1, and is protected" in screen
    assert "`casstore alias unprotect bert@prod` first" in saved("alias", "set", "bert@prod", "bert:v2", code=1).err
    assert saved("alias", "list").out.rstrip("\n").split("\t")[-1] == "protected"
    saved("alias", "set", "bert@prod", "bert:v2", "--force")
    saved("alias", "unprotect", "bert@prod")
    saved("alias", "delete", "bert@prod")


def test_other_verbs_tell(saved: Cli) -> None:
    assert saved("show", "bert:v1", "--json").json["aliases"] == []
    before = saved("list").out
    saved("alias", "set", "bert@prod", "bert:v1")
    saved("alias", "set", "bert@best", "bert:v1")
    assert saved("show", "bert@best", "--json").json["aliases"] == ["best", "prod"]
    assert "aliases\tbest, prod\n" in saved("show", "bert:v1").out
    lines = saved("list").out.splitlines()
    assert [line.split("\t")[5] for line in lines] == ["", "best prod"]
    assert [line.rpartition("\t")[0] for line in lines] == before.splitlines()
    assert [v["aliases"] for v in saved("list", "bert", "--json").json["versions"]] == [[], ["best", "prod"]]
    assert "ALIASES" in saved.on_terminal("list")
    assert saved("path", "bert@prod").out == saved("path", "bert:v1").out
    assert saved("stats", "bert@prod", "--json").json["versions"] == 1


def test_delete(saved: Cli) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    assert "bert:v1 is what the alias bert@prod means" in saved("delete", "bert:v1", "--yes", code=1).err
    error = saved("delete", "bert:v1", "bert:v2", "--yes", "--json", code=3).json["failed"][0]
    assert (error["type"], error["aliases"]) == ("VersionAliased", ["bert@prod"])
    assert "bert@prod, which means bert:v1: what has an alias" in saved("delete", "bert:v1", "--dry-run").err
    screen = saved.on_terminal("delete", "bert:v1", typed="n\n", code=1)
    assert screen.index("which means bert:v1") < screen.index("Delete this version?")
    assert "which means" not in saved.on_terminal("delete", "bert:v1", "--drop-aliases", typed="n\n", code=1)
    assert "name the version itself, now bert:v1" in saved("delete", "bert@prod", "--yes", code=2).err
    assert saved("delete", "bert:v1", "--yes", "--drop-aliases").out == "bert:v1\n"
    assert saved("alias", "log", "bert@prod", "--json").json["moves"][0]["tag"] is None


def test_archives(saved: Cli, tmp_path) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    path = saved("export", "bert", tmp_path / "all.casmodel", "--all", "--aliases").out.strip()
    other = Cli(tmp_path / "other")
    other("import", path)
    assert other("alias", "list").out == ""
    other("import", path, "--aliases")
    assert other("path", "bert@prod").out.endswith("bert/v1\n")
    assert "only a .casmodel holds aliases" in saved("export", "bert:v1", "b.tar", "--aliases", code=1).err


def test_repair_tells_of_what_it_did(saved: Cli) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    log = saved.home / "aliases/bert.log"
    log.write_text(json.dumps({"alias": "prod"}) + "\n")
    assert "1 damaged lines and lacks 1 of what was done to aliases of bert" in saved("verify", code=1).out
    assert "log of aliases written again: bert" in saved("repair").out
    (manifest,) = (saved.home / "manifests/bert").glob("v1.*")
    manifest.unlink()
    lost = "alias lost: bert@prod was not made: it meant bert:v1, which is gone"
    assert lost in saved("repair", "--rebuild-catalog").out


def test_completion(saved: Cli) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    saved("alias", "set", "bert@best", "bert:v1")

    def completed(*words: str) -> list[str]:
        environment = {"_CASSTORE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words)}
        completing = Cli(saved.home, {**environment, "COMP_CWORD": str(len(words) - 1)})
        return [line.partition(",")[2] for line in completing().out.splitlines()]

    assert completed("casstore", "show", "bert@") == ["bert@best", "bert@prod"]
    assert completed("casstore", "show", "bert@p") == ["bert@prod"]
    assert completed("casstore", "alias", "log", "be") == ["bert@best", "bert@prod"]
    assert set(completed("casstore", "path", "b")) == {"bert:v1", "bert:v2", "bert@best", "bert@prod"}


def test_words_that_are_near(cli: Cli) -> None:
    assert "casstore alias set NAME@ALIAS TAG" in cli("promote", code=2).err
