"""Words that are no verbs of casstore's lead to what does what they mean; help and version are found as anywhere."""

import subprocess
import sys

import pytest

import casstore
from casstore.cli.main import cli as main
from casstore.cli.words import ALIASES, advice
from tests.cli.conftest import Cli


@pytest.mark.parametrize(("word", "verb"), ALIASES.items())
def test_an_alias_is_the_verb(cli: Cli, word, verb) -> None:
    assert cli(word, "--help").out == cli(verb, "--help").out
    assert f"`casstore {verb} --help`" in cli(word, "--bogus", code=2).err


def test_an_alias_does_its_work(saved: Cli) -> None:
    assert saved("info", "bert:v1").out == saved("show", "bert:v1").out
    assert saved("rm", "bert:v1", "--yes").out == "bert:v1\n"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("get", "casstore path"),
        ("history", "casstore list"),
        ("find", "casstore list NAME -l"),
        ("upload", "casstore push"),
        ("download", "casstore pull"),
        ("PUSH", "did you mean 'push'"),
        ("fsck", "casstore verify"),
        ("du", "casstore stats"),
        ("prune", "casstore gc"),
        ("mv", "casstore save"),
        ("shwo", "did you mean 'show'"),
        ("Verify", "did you mean 'verify'"),
        ("lsit", "did you mean 'list'"),
        ("xyzzy", "casstore help"),
    ],
)
def test_another_word_gets_advice(word, text) -> None:
    said = advice(word, main.commands)
    assert said.startswith(f"there is no verb {word!r}")
    assert text in said


def test_advice_names_verbs_that_are_there(cli: Cli) -> None:
    assert "`casstore remote add NAME URL`" in cli("sync", code=2).err
    for word in casstore.cli.words._INSTEAD:
        assert word not in main.commands
        said = advice(word, main.commands)
        verbs = [part.split()[0].rstrip("`") for part in said.split("`casstore ")[1:]]
        assert verbs
        assert set(verbs) <= set(main.commands), said


def test_help_and_version(cli: Cli) -> None:
    assert cli("help").out == cli("--help").out
    assert cli("help", "save").out == cli("save", "--help").out
    assert cli("help", "rm").out == cli("delete", "--help").out
    assert cli("help", "config", "get").out == cli("config", "get", "--help").out
    assert "did you mean 'save'" in cli("help", "sav", code=2).err
    assert cli("help", "config", "bogus", code=2).err
    assert cli("-V").out == cli("version").out == cli("--version").out
    kernels = casstore.kernels_in_use()
    assert cli("-V").out == f"casstore, version {casstore.__version__}, kernels {kernels}\n"


def test_the_package_runs_as_a_program(cli: Cli) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "casstore", "--version"], env=cli.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == cli("--version").out


def test_a_choice_that_is_missing_is_named_on_one_line(cli: Cli) -> None:
    done = cli("completion", code=2)
    assert "Choose from: bash, zsh, fish" in done.err
    assert "\\" not in done.err
