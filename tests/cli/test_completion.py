"""Shells get scripts that work, and completions that never fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def complete(cli, line: str) -> list[str]:
    """What the command answers bash for this line."""
    cli.extra_environment |= {"_CASSTORE_COMPLETE": "bash_complete", "COMP_WORDS": line}
    try:
        return [item.partition(",")[2] for item in cli().out.splitlines() if item]
    finally:
        cli.extra_environment.clear()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_the_command(cli: Cli, shell) -> None:
    assert "_CASSTORE_COMPLETE" in cli("completion", shell).out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=cli("completion", shell).out, text=True, check=True)


def test_unknown_shell_is_a_usage_error(cli: Cli) -> None:
    assert "bash" in cli("completion", "tcsh", code=2).err


def test_verbs_tags_names_and_settings_are_completed(saved: Cli, files: Path) -> None:
    saved("save", "albert:v1", files)
    assert complete(saved, "casstore sta") == ["status", "stats"]
    assert sorted(complete(saved, "casstore show ")) == ["albert", "bert"]
    assert sorted(complete(saved, "casstore show bert:")) == ["bert:v1", "bert:v2"]
    assert sorted(complete(saved, "casstore delete bert:v1 b")) == ["bert:v1", "bert:v2"]
    assert complete(saved, "casstore list al") == ["albert"]
    assert complete(saved, "casstore config get dur") == ["durability"]
    assert complete(saved, f"casstore --home {saved.home} list al") == ["albert"]


def test_completion_makes_no_store_and_raises_nothing(cli: Cli, tmp_path: Path) -> None:
    assert complete(cli, "casstore show b") == []
    assert not cli.home.exists()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "catalog.db").write_text("no database")
    assert complete(cli, f"casstore --home {tmp_path / 'junk'} show b") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_tag_although_it_splits_words_at_colons(saved: Cli, tmp_path: Path) -> None:
    program = tmp_path / "casstore"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m casstore.cli "$@"\n')
    program.chmod(0o755)
    script = saved("completion", "bash").out
    line = "casstore show bert:v"
    script += f'\nCOMP_LINE="{line}" COMP_POINT={len(line)}\n_casstore_completion {program}\necho "${{COMPREPLY[@]}}"\n'
    done = subprocess.run(["bash", "-c", script], env=saved.environment, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["v1", "v2"]
