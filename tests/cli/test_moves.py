"""What --move says of the files that it was given: gone, or still there, and which."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_what_is_saved_already_is_gone_all_the_same(cli: Cli, files: Path) -> None:
    copy = shutil.copytree(files, files.with_name("copy"))
    cli("save", "bert:v1", files)
    screen = cli.on_terminal("save", "bert:v1", copy, "--move", "--exist-ok", columns=400)
    assert f"bert:v1 is saved already, the very same; {copy} is gone, as --move asks" in screen
    assert not copy.exists()
    assert "is saved already, the very same; nothing was changed" in cli.on_terminal(
        "save", "bert:v1", files, "--exist-ok", columns=400
    )
    assert files.exists()


def test_a_directory_in_which_something_stays_is_not_said_to_be_gone(cli: Cli, files: Path) -> None:
    (files / ".git").mkdir()
    (files / ".git/HEAD").write_text("ref")
    screen = cli.on_terminal("save", "bert:v1", files, "--move", columns=400)
    assert "gone" not in screen
    assert "note: left out .git" in screen
    assert [path.name for path in files.iterdir()] == [".git"]
    copy = shutil.copytree(files, files.with_name("copy"))
    assert "gone" not in cli.on_terminal("save", "bert:v2", copy, "--move", "--allow-empty", columns=400)


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_a_file_that_cannot_be_taken_away_is_named(cli: Cli, files: Path) -> None:
    stuck = next(path for path in sorted(files.iterdir()) if path.is_file())
    if subprocess.run(["chattr", "+i", stuck], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        screen = cli.on_terminal("save", "bert:v1", files, "--move", columns=400, code=3)
        assert f"saved, but not taken away, and still there: {stuck}" in screen
        assert "gone from" not in screen
    finally:
        subprocess.run(["chattr", "-i", stuck], check=True)
