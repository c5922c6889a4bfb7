"""`casstore backup`: what it prints, and how it ends."""

from __future__ import annotations

from pathlib import Path

import casstore
from tests.cli.conftest import Cli


def test_what_it_tells(saved: Cli, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    first = saved("backup", target, "--json").json
    assert first["directory"] == str(target)
    assert first["versions"] == 2
    assert first["new_containers"] == first["containers"] > 0
    assert first["copied_bytes"] + first["linked_bytes"] == first["stored_bytes"] > 2_000_000
    assert first["damaged"] == []
    lines = dict(line.split("\t") for line in saved("backup", target).out.splitlines())
    assert lines["versions"] == "2"
    assert lines["new files"] == "0"
    assert lines["stored"] == str(first["stored_bytes"])
    saved("--home", target, "verify")
    copied = saved("backup", tmp_path / "copied", "--copy", "--json").json
    assert copied["linked_bytes"] == 0
    screen = saved.on_terminal("backup", tmp_path / "seen")
    assert "MiB" in screen
    assert f"casstore --home {tmp_path}/seen verify" in screen


def test_damage_is_partly_done(saved: Cli, tmp_path: Path) -> None:
    lost = next(path for path in (saved.home / "objects").rglob("*.*") if path.is_file())
    lost.unlink()
    result = saved("backup", tmp_path / "backup", code=3)
    assert f"damaged: {lost} is missing" in result.out
    assert saved("backup", tmp_path / "other", "--json", code=3).json["damaged"] == [f"{lost} is missing"]
    assert "nothing was removed" in saved.on_terminal("backup", tmp_path / "seen", code=3)


def test_refusals(saved: Cli, tmp_path: Path) -> None:
    assert "choose another directory" in saved("backup", saved.home / "backup", code=1).err
    assert saved("backup", code=2).err
    saved("backup", tmp_path / "backup")
    with casstore.Store(tmp_path / "backup"):
        assert "in use" in saved("backup", tmp_path / "backup", code=11).err
