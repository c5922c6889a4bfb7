"""TAG/FILE on the command line: tensors, ls, cat and path."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Cli
from tests.cli.test_completion import complete
from tests.kit import plant, safetensors


@pytest.fixture
def nested(cli: Cli, tmp_path: Path) -> Cli:
    weights = safetensors({"enc.0.w": ("F32", np.zeros((3, 4), "<f4")), "step": ("I64", np.array(1, "<i8"))})
    files = {"sub/w.safetensors": weights, "sub/deep/notes.txt": b"deep", "config.json": b"{}"}
    cli("save", "net:v1", str(plant(tmp_path / "nested", files)))
    return cli


def test_tensors_of_a_version(nested: Cli) -> None:
    lines = [line.split("\t") for line in nested("tensors", "net:v1").out.splitlines()]
    assert [line[:5] for line in lines] == [
        ["enc.0.w", "F32", "3x4", "48", "sub/w.safetensors"],
        ["step", "I64", "-", "8", "sub/w.safetensors"],
    ]
    (found,) = nested("tensors", "net", "--match", "enc*", "--json").json["tensors"]
    assert found == {
        "name": "enc.0.w", "file": "sub/w.safetensors", "dtype": "F32", "shape": [3, 4], "size_bytes": 48,
        "digest": lines[0][5],
    }  # fmt: skip
    for place in ("net:v1/sub", "net/sub/w.safetensors", "net/"):
        assert len(nested("tensors", place).out.splitlines()) == 2
    assert nested("tensors", "net/config.json").out == ""
    screen = nested.on_terminal("tensors", "net")
    assert "2 tensors, 56 B" in screen
    assert "no tensor matches" in nested.on_terminal("tensors", "net", "--match", "x")
    assert "did you mean sub/w.safetensors?" in nested("tensors", "net/sub/w.safetensor", code=12).err


def test_a_narrow_screen_breaks_no_name(cli: Cli, tmp_path: Path) -> None:
    name = "bert.encoder.layer.10.attention.self.query_key_value_projection.weight"
    file = "pytorch_model-00001-of-00002.safetensors"
    content = safetensors({name: ("F32", np.zeros((3, 4), "<f4"))})
    cli("save", "net:v1", str(plant(tmp_path / "long", {file: content})))
    for columns in (80, 100, 200):
        screen = cli.on_terminal("tensors", "net", columns=columns)
        assert name in screen
        assert file in screen


def test_tensors_of_a_version_that_a_remote_has(nested: Cli, tmp_path: Path) -> None:
    here = nested("tensors", "net", "--json").json
    nested("remote", "add", "origin", str(tmp_path / "remote"))
    nested("push", "net:v1")
    assert nested("tensors", "net:v1", "--remote", "--json").json == here
    nested("save", "net:v2", str(plant(tmp_path / "newer", {"config.json": b"[]"})))
    nested("evict", "net:v1", "--to-remote")
    assert nested("tensors", "net:v1", "--json").json == here


def test_a_directory_of_a_version_is_listed(nested: Cli) -> None:
    listed = [line.split("\t")[1] for line in nested("ls", "net:v1/sub").out.splitlines()]
    assert listed == ["sub/deep/notes.txt", "sub/w.safetensors"]
    assert nested("ls", "net/sub/deep/").out == "4\tsub/deep/notes.txt\n"
    assert [each["path"] for each in nested("ls", "net/config.json", "--json").json["files"]] == ["config.json"]
    assert "net:v1 has no file su; did you mean sub?" in nested("ls", "net/su", code=12).err


def test_a_file_is_named_behind_a_slash(nested: Cli) -> None:
    assert nested("cat", "net/sub/deep/notes.txt").out == nested("cat", "net:v1", "sub/deep/notes.txt").out == "deep"
    assert nested("cat", "net:v1/model.yaml").out.startswith("name: net\n")
    assert "did you mean sub/deep/notes.txt" in nested("cat", "net/sub/notes.txt", code=12).err
    assert "casstore cat net/FILE" in nested("cat", "net", code=2).err
    assert "did you mean" in nested("cat", "nte/config.json", code=12).err


def test_the_path_of_one_file(nested: Cli) -> None:
    path = Path(nested("path", "net:v1/config.json").out.rstrip("\n"))
    assert path.read_bytes() == b"{}"
    assert json.loads(nested("path", "net/config.json", "--json").out)["path"] == str(path)
    assert Path(nested("path", "net/sub").out.rstrip("\n")).is_dir()
    assert Path(nested("path", "net/model.yaml").out.rstrip("\n")).is_file()
    assert "did you mean config.json" in nested("path", "net/confg.json", code=12).err


def test_a_shell_completes_files(nested: Cli) -> None:
    assert complete(nested, "casstore cat net:v1/sub/") == ["net:v1/sub/deep/notes.txt", "net:v1/sub/w.safetensors"]
    assert "net:v1" in complete(nested, "casstore path net:")
    assert complete(nested, "casstore ls gone/") == []


def test_some_files_are_checked_out(nested: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = nested("checkout", "net", str(out), "--only", "*.json", "--only", "sub/deep", "--json").json
    assert (told["file_count"], told["size_bytes"]) == (2, 6)
    assert sorted(str(each.relative_to(out)) for each in out.rglob("*") if each.is_file()) == [
        "config.json", "sub/deep/notes.txt",
    ]  # fmt: skip
    assert "did you mean config.json" in nested("checkout", "net", str(out) + "2", "--only", "confg.json", code=12).err
