"""What delete says before it asks."""

from pathlib import Path

import casstore
from tests.cli.conftest import Cli


def test_it_shows_what_would_go(saved: Cli) -> None:
    screen = saved.on_terminal("delete", "bert:v1", "bert:v2", typed="n\n", code=1)
    for line, label in ((screen.splitlines()[0], "stage=dev"), (screen.splitlines()[1], "stage=prod")):
        assert "2.00 MiB" in line
        assert "saved just now" in line
        assert label in line
    assert "pinned" not in screen
    saved("pin", "bert:v2")
    screen = saved.on_terminal("delete", "--all-versions-of", "bert", typed="n\n", code=1)
    assert "bert:v2: pinned" in screen
    assert screen.index("pinned") < screen.index("Delete these 2 versions?")
    assert len(saved("list").out.splitlines()) == 2


def test_a_name_alone_is_refused_before_it_asks(saved: Cli) -> None:
    for done in (saved.on_terminal("delete", "bert", code=2), saved("delete", "bert", "-y", code=2).err):
        assert "bert names no version: it has 2, bert:v2 being the newest" in done
        assert "casstore delete --all-versions-of bert" in done
        assert "Delete" not in done
    assert "none of that name" in saved.on_terminal("delete", "other", code=2)
    assert "did you mean" in saved.on_terminal("delete", "bert:v9", code=12)


def test_what_cannot_be_deleted_is_said_before_the_rest_is_asked_for(saved: Cli) -> None:
    screen = saved.on_terminal("delete", "bert", "bert:v1", typed="y\n", code=3)
    assert screen.index("bert names no version") < screen.index("Delete this version?")
    assert [line.split("\t")[0] for line in saved("list").out.splitlines()] == ["bert:v2"]


def test_many_are_counted(cli: Cli, files: Path) -> None:
    with casstore.Store(cli.home) as store:
        for number in range(12):
            store.save(f"bert:{number}", files, durability="relaxed")
    screen = cli.on_terminal("delete", "--all-versions-of", "bert", typed="n\n", code=1)
    assert "and 2 more, 4.00 MiB" in screen
    assert "Delete these 12 versions?" in screen


def test_a_version_that_is_named_twice_is_one(saved: Cli) -> None:
    assert saved("delete", "bert:v1", "BERT:V1", "--dry-run", "--json").json["would_delete"] == ["bert:v1"]
    assert "Delete this version?" in saved.on_terminal("delete", "bert:V1", "bert:v1", typed="n\n", code=1)
    assert saved("delete", "bert:v1", "bert:V1", "--all-versions-of", "bert", "--yes", "--json").json["failed"] == []


def test_they_are_told_in_the_order_in_which_they_were_typed(saved, files):
    with casstore.Store(saved.home) as store:
        store.save("other:1", files)
    tags = ["bert:v2", "other:1", "bert:v1"]
    assert saved("delete", *tags, "--yes").out.splitlines() == tags


def test_the_others_go_where_one_has_gone_meanwhile(saved):
    done = saved("delete", "bert:v2", "bert:v9", "other:1", "bert:v1", "--yes", "--json", code=3).json
    assert done["deleted"] == ["bert:v2", "bert:v1"]
    assert [failure["tag"] for failure in done["failed"]] == ["bert:v9", "other:1"]
    assert saved("list").out == ""
