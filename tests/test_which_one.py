"""docs/which-one.md: what it names is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import pytest

import casstore
import casstore.models as in_bentomls_terms
from casstore.cli.main import cli

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "which-one.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`]+)`", PAGE)
CALLS = sorted(
    {
        call
        for code in CODE
        for call in re.findall(r"(?<![\w.\"])(store|model|draft|casstore(?:\.models)?)\.(\w+)", code)
    }
)
COMMANDS = sorted(set(re.findall(r"\bcasstore (?!help)([\w-]+)((?: [^`\")|]+)?)", PAGE)))


def slugs(page: Path) -> set[str]:
    lines = page.read_text(encoding="utf-8").splitlines()
    headings = (line.lstrip("# ").lower() for line in lines if line.startswith("#"))
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}


def test_links_lead_to_pages_and_headings() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert len(links) > 20
    for link in links:
        path, _, heading = link.partition("#")
        assert (DOCS / path).is_file(), link
        assert not heading or heading in slugs(DOCS / path), link


@pytest.mark.parametrize(("owner", "name"), CALLS)
def test_calls_exist(owner: str, name: str) -> None:
    owners = {"store": casstore.Store, "model": casstore.Model, "draft": casstore.Draft}
    value = owners.get(owner) or (in_bentomls_terms if "." in owner else casstore)
    assert hasattr(value, name)


def test_what_calls_are_given_is_taken() -> None:
    for name, inside in (found for code in CODE for found in re.findall(r"^store\.(\w+)\((.*)\)", code)):
        taken = inspect.signature(getattr(casstore.Store, name)).parameters
        assert set(re.findall(r"(\w+)=", inside)) <= set(taken), name


@pytest.mark.parametrize(("verb", "rest"), COMMANDS)
def test_commands_and_their_options_exist(verb: str, rest: str) -> None:
    command: click.Command | None = cli.get_command(click.Context(cli), verb)
    assert command is not None
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest.split()[0])
        assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", rest)) <= options
