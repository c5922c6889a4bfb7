"""What the screen shows: tables, bars, questions; and that no name can steer it."""

import dataclasses
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.cli.conftest import Cli
from tests.kit import noise, plant


def test_tables_have_headings_human_sizes_and_local_times(untouched: Cli) -> None:
    screen = untouched.on_terminal("list")
    assert "TAG" in screen
    assert "2.00 MiB" in screen
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", screen)
    shown = untouched.on_terminal("show", "bert")
    assert "BLAKE3" in shown
    assert "accuracy" in shown
    for verb in (["stats"], ["stats", "--by-model"], ["gc", "--dry-run"], ["config"], ["verify"]):
        assert untouched.on_terminal(*verb)


def test_a_narrow_screen_loses_no_tag(untouched: Cli) -> None:
    screen = untouched.on_terminal("list", columns=60)
    assert "bert:v2" in screen
    assert "…" not in screen


def test_a_narrow_screen_leaves_a_url_whole(cli: Cli, tmp_path: Path) -> None:
    url = tmp_path / "a-long-directory" / "in-another-long-directory" / "models"
    url.parent.mkdir(parents=True)
    cli("remote", "add", "origin", url)
    assert f"{url}" in cli.on_terminal("remote", "list", columns=40)


def test_hints_come_on_a_terminal_only(cli: Cli, files: Path) -> None:
    cli("init")
    assert "save NAME:VERSION" in cli.on_terminal("list")
    assert cli("list").err == ""
    assert "casstore path bert:v1" in cli.on_terminal("save", "bert:v1", files)
    assert cli.on_terminal("save", "-q", "bert:v2", files).strip() == "bert:v2"
    assert cli("save", "bert:v3", files).err == ""


def test_a_progress_bar_for_long_work(cli: Cli, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    screen = cli.on_terminal("save", "big:v1", large, "--move", "--durability", "relaxed")
    assert re.search(r"hash|store", screen)
    assert "GiB" in screen.split("saved big:v1")[0]
    assert "\x1b[?25l" in screen  # the live display hides the cursor,
    assert "\x1b[?25h" in screen  # and gives it back


def test_delete_asks(saved: Cli) -> None:
    assert "nothing was deleted" in saved.on_terminal("delete", "bert:v1", typed="n\n", code=1)
    assert "deleted bert:v1" in saved.on_terminal("delete", "bert:v1", typed="y\n")
    assert "interrupted" in saved.on_terminal("delete", "bert:v2", typed="\x03", code=130)
    assert saved("list").out.startswith("bert:v2\t")


def test_names_and_labels_cannot_steer_the_terminal(cli: Cli, files: Path) -> None:
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


def test_no_color_is_heeded(untouched: Cli) -> None:
    untouched = dataclasses.replace(untouched, extra_environment={"NO_COLOR": "1"})
    assert "\x1b[2m" not in untouched.on_terminal("show", "bert")
    assert "\x1b[31m" not in untouched.on_terminal("show", "bret", code=12)


def test_a_move_says_what_it_took_away(cli: Cli, files: Path) -> None:
    screen = cli.on_terminal("save", "bert:v1", files, "--move", columns=400)
    assert f"taken over, and gone from {files}" in screen
    assert not files.exists()


def test_syncing_is_a_step_of_its_own(store: casstore.Store, tmp_path: Path) -> None:
    """It takes long, and hashing is over by then."""
    steps: list[Any] = []

    class Steps:
        def start(self, step, total_bytes):
            steps.append((step, total_bytes))

        def advance(self, done_bytes):
            pass

        def finish(self):
            steps.append("finished")

    source = plant(tmp_path / "out", {"w.bin": noise(2_000_000)})
    store.save("m:1", source, progress=Steps())
    assert steps == [
        ("hash", 2_000_000), "finished", ("store", 2_000_000), "finished", ("sync to disk", None), "finished",
    ]  # fmt: skip
    steps.clear()
    store.save("m:2", source, progress=Steps())
    assert ("sync to disk", None) not in steps, "nothing is new"


def test_a_save_says_how_much_was_new(cli: Cli, files: Path) -> None:
    assert "2 files, 2.00 MiB, 1.00 MiB of it new" in cli.on_terminal("save", "bert:v1", files)
    (files / "config.json").write_text('{"hidden": 8}')
    assert "2 files, 2.00 MiB, 13 B of it new" in cli.on_terminal("save", "bert:v2", files)
    assert cli("save", "bert:v3", files, "--json").json["new_bytes"] == 0
    assert cli("save", "bert:v4", files).out == "bert:v4\t2097165\t2\n"


def test_copying_a_large_file_is_a_step_of_its_own(store: casstore.Store, tmp_path: Path) -> None:
    """Hashing is over by then, and would stand at 100%."""
    done = []

    class Steps:
        def start(self, step, total_bytes):
            done.append([step, total_bytes, 0])

        def advance(self, done_bytes):
            done[-1][2] += done_bytes

        def finish(self):
            pass

    size = 65 << 20
    (tmp_path / "out").mkdir()
    for name, tail in (("a.bin", b"a"), ("b.bin", b"b")):
        with (tmp_path / "out" / name).open("wb") as file:
            file.truncate(size - 1)  # sparse
            file.seek(size - 1)
            file.write(tail)
    store.save("m:1", tmp_path / "out", progress=Steps(), durability="relaxed")
    assert done == [
        ["hash", 2 * size, size], ["copy", 2 * size, 2 * size], ["hash", size, size], ["copy", 2 * size, 2 * size],
        ["hash", 0, 0], ["store", 2 * size, 2 * size],
    ]  # fmt: skip


def test_a_step_that_tells_nothing_is_shown_all_the_same() -> None:
    """Such as a sync, which here lasts until its bar has been seen."""
    text = """
import sys
from casstore.cli.options import Options
from casstore.cli.progress import progress_bar
with progress_bar(Options()) as bar:
    bar.start("sync to disk", None)
    sys.stdin.read()
    bar.finish()
"""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stderr=child, env=environment)
    os.close(child)
    screen = b""
    while b"sync to disk" not in screen:
        screen += os.read(parent, 1 << 16)
    process.communicate(timeout=60)
    os.close(parent)
    assert process.returncode == 0


@pytest.mark.parametrize("columns", [60, 80])
def test_the_key_of_a_setting_is_one_word_on_a_narrow_screen(untouched: Cli, columns: int) -> None:
    screen = untouched.on_terminal("config", columns=columns)
    assert {line.split(" ")[0] for line in screen.splitlines()} >= casstore.SETTINGS.keys()
