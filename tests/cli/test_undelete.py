"""What is deleted is shown, and brought back."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import Cli
from tests.cli.test_usage import fields


def test_it_comes_back(saved: Cli) -> None:
    before = saved("list").out
    screen = saved.on_terminal("delete", "bert:v2", "--yes", columns=120)
    assert "`casstore undelete` brings them back; `casstore gc --empty-trash` gives" in " ".join(screen.split())
    assert "casstore undelete bert:v2" in saved("show", "bert:v2", code=12).err
    assert saved("undelete", "bert:v2").out == "bert:v2\n"
    assert saved("list").out == before
    saved("delete", "bert:v1", "-y")
    assert "bert:v1 is back" in saved.on_terminal("undelete", "bert:v1", columns=80)
    assert "list --deleted" in saved("undelete", "bert:v1x", code=12).err
    assert "has not been deleted" in saved("undelete", "bert:v1", code=12).err


def test_what_can_be_brought_back_is_listed(saved: Cli) -> None:
    assert saved("list", "--deleted").out == ""
    assert saved("list", "--deleted", "--json").json == {"deleted": []}
    saved("delete", "bert:v1", "bert:v2", "-y")
    rows = [line.split("\t") for line in saved("list", "--deleted").out.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("bert:v2", "2"), ("bert:v1", "2")]
    assert all(len(row) == 7 and "@" in row[4] for row in rows)
    told = saved("list", "--deleted", "bert", "--json").json["deleted"]
    assert [each["id"] for each in told] == [row[6] for row in rows]
    assert told[1]["labels"] == {"stage": "dev"}
    assert told[0]["goes_at"] > told[0]["deleted_at"] > told[0]["created_at"]
    screen = saved.on_terminal("list", "--deleted", columns=80)
    assert told[0]["digest"][:12] in screen
    assert "trash_days 7" in " ".join(screen.split())
    assert saved("list", "--deleted", "other", "--json").json == {"deleted": []}
    for option in ("--remote", "--label=a=b"):
        assert "--deleted goes with neither" in saved("list", "--deleted", option, code=2).err


def test_one_of_several_and_another_tag(saved: Cli, files: Path) -> None:
    saved("delete", "bert:v1", "-y")
    saved("save", "bert:v1", files, "-l", "n=2")
    (first,) = saved("list", "--deleted", "--json").json["deleted"]
    refused = saved("undelete", "bert:v1", code=13)
    assert "casstore undelete bert:v1 --as bert:VERSION" in refused.err
    saved("delete", "bert:v1", "-y")
    answer = saved("undelete", "bert:v1", "--id", first["digest"][:8], "--as", "bert:old", "--json").json
    assert (answer["tag"], answer["labels"]) == ("bert:old", {"stage": "dev"})
    assert saved("undelete", "bert:v1", "--json").json["labels"] == {"n": "2"}


def test_past_the_trash(saved: Cli) -> None:
    saved("delete", "bert:v1", "-y", "--now")
    assert saved("list", "--deleted").out == ""
    saved("config", "set", "trash_days", "0")
    assert "`casstore gc` gives their space back" in saved.on_terminal("delete", "bert:v2", "-y", columns=80)
    assert saved("list", "--deleted").out == ""
    assert "--now" in saved("delete", "bert:v1", "-y", "--now", "--remote", code=2).err


def test_gc_and_stats_say_what_it_holds(saved: Cli) -> None:
    assert "trash" not in fields(saved("stats").out)
    saved("delete", "bert:v1", "bert:v2", "-y")
    answer, told = saved("stats", "--json").json, fields(saved("stats").out)
    assert (answer["versions"], answer["trash_versions"]) == (0, 2)
    assert int(told["trash"]) == answer["trash_bytes"] > 0
    parts = ("needed", "redundant", "dead", "trapped", "overhead", "trash")
    assert answer["stored_bytes"] == sum(int(told[part]) for part in parts)
    assert "in the trash: 2 deleted versions" in " ".join(saved.on_terminal("stats", columns=80).split())
    assert "2 deleted versions in the trash" in " ".join(saved.on_terminal("gc", columns=80).split())
    done = saved("gc", "--empty-trash", "--json").json
    assert (done["trash_versions"], {step["name"]: step["count"] for step in done["steps"]}["trash"]) == (0, 2)
    assert saved("stats", "--json").json["stored_bytes"] == 0


def test_a_shell_completes_what_is_deleted(saved: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with casstore.Store(saved.home) as store:
        store.delete("bert:v1")
    saved.extra_environment |= {
        "_CASSTORE_COMPLETE": "bash_complete", "COMP_WORDS": "casstore undelete be", "COMP_CWORD": "2",
    }  # fmt: skip
    assert "bert:v1" in saved().out
    assert "bert:v2" not in saved().out
