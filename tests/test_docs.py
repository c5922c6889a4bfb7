"""What the documents say is true: their examples run, and what users can call or type is documented."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.main import cli
from tests.pages import Reader, blocks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.crash
def test_the_readme_can_be_followed(tmp_path: Path) -> None:
    """Typed from top to bottom, the command line and Python in one new store and one directory."""
    home = tmp_path / "ann"
    home.mkdir()
    with Reader(home) as reader:
        said = reader.read(README)
    assert sum(line.startswith("casstore ") for line in said) > 10
    assert (home / ".casstore").is_dir()


def test_the_readme_names_files_that_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert {"docs/format.md", "CHANGELOG.md", "LICENSE"} <= set(links)
    for link in links:
        assert (ROOT / link).is_file(), link
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_ci_runs_exactly_the_readme_test_line() -> None:
    demo, tests = (block.text.strip() for block in blocks(README, "sh"))
    assert demo.endswith("casstore demo")
    assert tests.endswith("pytest -q")
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert ci.count(tests) == 1


def test_the_changelog_has_this_release() -> None:
    assert f"## [{casstore.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in casstore.__all__ if not name.startswith("__")])
def test_public_names_are_documented(name: str) -> None:
    value = getattr(casstore, name)
    if not isinstance(value, type):
        assert f"casstore.{name}" in inspect.getsource(casstore.Store), f"{name} is explained nowhere"
        return
    assert _is_documented(value), name
    for attribute, member in vars(value).items():
        if attribute.startswith("_") or not (isinstance(member, property) or _is_method(member)):
            continue
        assert _is_documented(member), f"{name}.{attribute}"


def _is_method(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod))


def _is_documented(value: Any) -> bool:
    text = inspect.getdoc(value) or ""
    # dataclass writes a signature where there is no docstring.
    return bool(text.strip()) and not text.startswith(f"{getattr(value, '__name__', '')}(")


def test_every_error_stands_in_the_tree() -> None:
    tree = sys.modules["casstore.errors"].__doc__ or ""
    for name in casstore.__all__:
        value = getattr(casstore, name)
        if isinstance(value, type) and issubclass(value, casstore.CasstoreError):
            assert re.search(rf"\b{name}\b", tree), name


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups and their members included."""
    pending: list[tuple[str, click.Command]] = [("casstore", cli)]
    while pending:
        words, command = pending.pop()
        yield words, command
        if isinstance(command, click.Group):
            pending += [(f"{words} {name}", member) for name, member in command.commands.items()]


@pytest.mark.parametrize(("words", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands()])
def test_commands_and_options_are_documented(words: str, command: click.Command) -> None:
    assert command.help, f"{words} has no help"
    assert words in README, f"{words} does not stand in the README"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{words} {parameter.opts[0]} has no help"


def test_settings_are_documented() -> None:
    for key, setting in casstore.SETTINGS.items():
        assert f"`{key}`" in README, key
        assert setting.meaning
        assert setting.takes


def test_exit_codes_are_documented() -> None:
    table = README.partition("| code | meaning |")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"\| (\d+) \|", table)} == {code.value for code in ExitCode}
