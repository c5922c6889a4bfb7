"""save --exclude and .casstoreignore: what was left out is named."""

import json
from pathlib import Path

from tests.cli.conftest import Cli


def test_what_is_left_out_is_named(cli: Cli, files: Path) -> None:
    (files / "__pycache__").mkdir()
    (files / "__pycache__/x.pyc").write_bytes(b"")
    for number in range(6):
        (files / f"{number}.log").write_text("log")
    (files / ".casstoreignore").write_text("[0-4].log\n")
    done = cli("save", "bert:v1", files, "--exclude", "5.log")
    assert done.out.startswith("bert:v1\t")
    assert done.err.startswith("note: left out 0.log, 1.log, 2.log, 3.log, 4.log and 2 more (see --exclude")
    assert cli("ls", "bert").out.split() == ["10", ".casstoreignore", "13", "config.json", "2097152", "weights.bin"]
    assert cli("save", "bert:v2", files, "-q").err == ""
    done = cli("save", "bert:v3", files, "--exclude=*.log", "--json")
    assert done.err == ""
    assert json.loads(done.out)["left_out"] == [f"{number}.log" for number in range(6)] + ["__pycache__/"]
    done = cli("save", "bert:v4", files, "--no-ignore", "--json")
    assert done.json["left_out"] == []
    assert done.json["file_count"] == 10


def test_nothing_left_and_bad_patterns(cli: Cli, files: Path) -> None:
    assert "nothing is left of" in cli("save", "bert:v1", files, "--exclude", "*", code=1).err
    assert "'*.log'" in cli("save", "bert:v1", files, "--exclude", "!", code=1).err
    assert cli("list").out == ""
