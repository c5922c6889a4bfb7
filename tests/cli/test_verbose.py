"""`-v`: what happens unasked is told on stderr, and the result stays what it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.kit import noise, plant


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Two files that cannot be taken over, since each has another name."""
    source = plant(tmp_path / "out", {"a.bin": noise(100_000), "b.bin": noise(100_000, 2)})
    for name in ("a.bin", "b.bin"):
        os.link(source / name, tmp_path / name)
    return source


def test_it_tells_of_copies(cli: Cli, linked: Path) -> None:
    told = cli("save", "m:1", linked, "--move", "-v")
    assert told.out.startswith("m:1\t")
    assert f"note: {linked}/a.bin was copied, not taken over" in told.err
    assert "debug" not in told.err


@pytest.mark.parametrize("flags", [("-vv",), ("-v", "--verbose")])
def test_twice_it_tells_all(cli: Cli, linked: Path, flags: tuple[str, ...]) -> None:
    assert f"debug: {linked}/b.bin was copied, too" in cli("save", "m:1", linked, "--move", *flags).err


def test_before_and_after_the_verb_it_adds_up(cli: Cli, linked: Path) -> None:
    assert "debug: " in cli("-v", "save", "m:1", linked, "--move", "-v").err


def test_without_it_nothing_is_told(cli: Cli, linked: Path) -> None:
    assert cli("save", "m:1", linked, "--move").err == ""


def test_one_run_does_not_have_the_next_tell(cli: Cli, linked: Path) -> None:
    cli("-vv", "list", code=12)
    assert cli("save", "m:1", linked, "--move").err == ""


def test_in_json_each_note_is_a_document(cli: Cli, linked: Path) -> None:
    told = cli("save", "m:1", linked, "--move", "-v", "--json")
    assert told.json["tag"] == "m:1"
    assert "copied" in json.loads(told.err)["note"]
