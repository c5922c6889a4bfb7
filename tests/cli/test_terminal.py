"""What the screen shows: tables, bars, questions; and that no name can steer it."""

import dataclasses
import re


def test_tables_have_headings_human_sizes_and_local_times(untouched):
    screen = untouched.on_terminal("list")
    assert "TAG" in screen
    assert "2.00 MiB" in screen
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", screen)
    shown = untouched.on_terminal("show", "bert")
    assert "BLAKE3" in shown
    assert "accuracy" in shown
    for verb in (["stats"], ["stats", "--by-model"], ["gc", "--dry-run"], ["config"], ["verify"]):
        assert untouched.on_terminal(*verb)


def test_a_narrow_screen_loses_no_tag(untouched):
    screen = untouched.on_terminal("list", columns=60)
    assert "bert:v2" in screen
    assert "…" not in screen


def test_hints_come_on_a_terminal_only(cli, files):
    cli("init")
    assert "save NAME:VERSION" in cli.on_terminal("list")
    assert cli("list").err == ""
    assert "casstore path bert:v1" in cli.on_terminal("save", "bert:v1", files)
    assert cli.on_terminal("save", "-q", "bert:v2", files).strip() == "bert:v2"
    assert cli("save", "bert:v3", files).err == ""


def test_a_progress_bar_for_long_work(cli, tmp_path):
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    screen = cli.on_terminal("save", "big:v1", large, "--move", "--durability", "relaxed")
    assert re.search(r"hash|store", screen)
    assert "GiB" in screen.split("saved big:v1")[0]
    assert "\x1b[?25l" in screen  # the live display hides the cursor,
    assert "\x1b[?25h" in screen  # and gives it back


def test_delete_asks(saved):
    assert "nothing was deleted" in saved.on_terminal("delete", "bert:v1", typed="n\n", code=1)
    assert "deleted bert:v1" in saved.on_terminal("delete", "bert:v1", typed="y\n")
    assert "interrupted" in saved.on_terminal("delete", "bert:v2", typed="\x03", code=130)
    assert saved("list").out.startswith("bert:v2\t")


def test_names_and_labels_cannot_steer_the_terminal(cli, files):
    (files / "evil\x1b]0;owned\x07[bold]name").write_text("x")
    cli("save", "bert:v1", files, "-l", "k\x1b[2J=[red]v[/red]\x9b31m\u202e")
    for arguments in (["list"], ["show", "bert"]):
        for text in (cli.on_terminal(*arguments, columns=200), cli(*arguments).out):
            assert "\x1b[2J" not in text
            assert "\x1b]0" not in text
            assert "\x9b" not in text
            assert "\u202e" not in text
            assert "[red]v[/red]" in text
    assert "[bold]name" in cli.on_terminal("show", "bert", columns=200)


def test_no_color_is_heeded(untouched):
    untouched = dataclasses.replace(untouched, extra_environment={"NO_COLOR": "1"})
    assert "\x1b[2m" not in untouched.on_terminal("show", "bert")
    assert "\x1b[31m" not in untouched.on_terminal("show", "bret", code=12)
