"""casstore diff: for people, for pipes, and as JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import casstore
from tests.cli.conftest import Cli
from tests.kit import plant, safetensors


def model(*numbers: float, layers: int = 2) -> bytes:
    array = np.array(numbers, "<f4")
    tensors = {f"encoder.layer.{number}.w": ("F32", array + number) for number in range(layers - 1)}
    return safetensors({**tensors, f"encoder.layer.{layers - 1}.w": ("F32", np.array([1, 2, 3], "<f4"))})


@pytest.fixture
def two(cli: Cli, tmp_path: Path) -> Cli:
    """A store with bert:v1 and bert:v2, and the second's files in `out`."""
    old = {"config.json": b'{"dropout": 0.1}', "gone.txt": b"1", "w.safetensors": model(1, 2), "run.sh": b"#!"}
    new = {
        "config.json": b'{"dropout": 0.0}',
        "new\u202e.txt": b"123",
        "w.safetensors": model(1, 4),
        "run.sh!": b"#!",
    }
    with casstore.Store(cli.home) as store:
        store.save(
            "bert:v1",
            plant(tmp_path / "old", old),
            labels={"stage": "dev"},
            metadata={"f1": 0.5, "by": "ann"},
            materialize=False,
        )
        store.save(
            "bert:v2",
            plant(tmp_path / "out", new),
            labels={"stage": "prod"},
            metadata={"f1": 0.75, "by": "bob"},
            materialize=False,
        )
    return cli


def test_on_a_terminal(two: Cli) -> None:
    screen = two.on_terminal("diff", "bert:v1", "bert:v2").replace("\r", "")
    for line in (
        "bert:v1 -> bert:v2",
        "files: 1 added, 1 removed, 3 changed, 0 the same",
        "  changed   config.json    16 B, 100% of it new",
        "  changed   run.sh         2 B, now executable",
        "  changed   $.dropout  0.1 -> 0.0",
        '  changed   stage  "dev" -> "prod"',
        '  changed   by  "ann" -> "bob"',
        "  f1  0.5 -> 0.75  +0.25",
        "tensors: 1 changed, 1 the same",
        "  changed   w  F32 [2]  100% of its bytes in new chunks",
        "`casstore diff bert:v1 bert:v2 --values` tells by how much",
    ):
        assert line in screen, screen
    assert "new\\u202e.txt" in screen
    assert "encoder.layer.0" in screen
    assert "encoder.layer.1" not in screen


def test_by_how_much(two: Cli) -> None:
    screen = two.on_terminal("diff", "bert:v1", "bert:v2", "--values", "--tensors", "*.w")
    assert "  changed   w  F32 [2]  max|d| 2  rms 1.41  rel 0.894  cos 0.976187  changed 50%" in screen
    assert "config.json" not in screen
    assert "tells by how much" not in screen


def test_one_line_a_layer(two: Cli) -> None:
    assert two("diff", "bert:v1", "bert:v2", "--stat").out == "encoder.layer.0\t1\t0\t1\t0\t0\t0\t1.000000\n"
    figures = two("diff", "bert:v1", "bert:v2", "--stat", "--values").out.split("\t")
    assert float(figures[-1]) == pytest.approx(2 / 5**0.5)


def test_in_a_pipe(two: Cli) -> None:
    lines = two("diff", "bert:v1", "bert:v2").out.splitlines()
    assert [line.split("\t") for line in lines] == [
        ["file", "changed", "config.json", "config.json", "16", "16", "1.0"],
        ["file", "removed", "gone.txt", "gone.txt", "1", "", ""],
        ["file", "added", "new\\u202e.txt", "", "", "3", ""],
        ["file", "changed", "run.sh", "run.sh", "2", "2", "0.0"],
        ["file", "changed", "w.safetensors", "w.safetensors", "183", "183", str(8 / 183)],
        ["document", "changed", "config.json", "$.dropout", "0.1", "0.0"],
        ["label", "changed", "stage", '"dev"', '"prod"'],
        ["metadata", "changed", "by", '"ann"', '"bob"'],
        ["metric", "changed", "f1", "0.5", "0.75", "0.25"],
        ["tensor", "changed", "encoder.layer.0.w", *["encoder.layer.0.w", "F32", "[2]"] * 2, "1.0"],
    ]
    (line,) = two("diff", "bert:v1", "bert:v2", "--values", "--tensors", "*.0.*").out.splitlines()
    figures = list(map(float, line.split("\t")[9:16]))
    cosine = (1 + 2 * 4) / 5**0.5 / 17**0.5
    assert figures == pytest.approx([1, 2, 2**0.5, 2 / 5**0.5, cosine, 0.5, 0])


def test_as_json(two: Cli) -> None:
    found = two("diff", "bert:v1", "bert:v2", "--json", "--values").json
    assert (found["old"], found["new"], found["is_same"], found["same_files"]) == ("bert:v1", "bert:v2", False, 0)
    assert found["files"][0] == {
        "change": "changed", "path": "config.json", "old_path": "config.json", "old_bytes": 16, "new_bytes": 16,
        "share": 1.0, "old_executable": False, "new_executable": False,
    }  # fmt: skip
    assert found["documents"] == [
        {
            "path": "config.json", "more": 0, "problem": "",
            "changes": [{"change": "changed", "path": "$.dropout", "old": 0.1, "new": 0.0}],
        }
    ]  # fmt: skip
    assert found["metrics"] == [{"path": "f1", "old": 0.5, "new": 0.75, "change": 0.25}]
    changed, same = found["tensors"]
    assert (changed["change"], changed["layer"], changed["values"]["max_abs"]) == ("changed", "encoder.layer.0", 2.0)
    info = {"file": "w.safetensors", "name": "encoder.layer.1.w", "dtype": "F32", "shape": [3], "size_bytes": 12}
    assert same == {
        "change": "same", "name": "encoder.layer.1.w", "layer": "encoder.layer.1", "old": info, "new": info,
        "share": 0.0, "values": None, "problem": "",
    }  # fmt: skip
    assert found["damage"] == []


def test_exit_codes(two: Cli, tmp_path: Path) -> None:
    two("diff", "bert:v1", "bert:v1", "--exit-code")
    two("diff", "bert:v1", "bert:v2", "--exit-code", code=1)
    two("diff", "bert:v1", "bert:v2", "--exit-code", "--tensors", "*.1.*")
    two("diff", "bert:v1", "bert:v2", "--exit-code", "--tensors", "*.0.*", code=1)
    two("diff", "bert:v2", tmp_path / "out", "--exit-code")
    two("diff", "bert:v1", tmp_path / "out", "--exit-code", "--json", code=1)
    two("diff", "bert:v1", "bert:v9", code=12)
    two("diff", "bert:v1", tmp_path / "none", code=1)
    assert (
        f"TAG comes first: casstore diff bert:v1 {tmp_path}/out" in two("diff", tmp_path / "out", "bert:v1", code=2).err
    )


def test_what_is_the_same_says_so(two: Cli, tmp_path: Path) -> None:
    assert two("diff", "bert:v1", "bert:v1").out == ""
    assert "files: all 4 the same" in two.on_terminal("diff", "bert:v1", "bert:v1")


def test_damage_is_named_and_ends_with_1(two: Cli) -> None:
    for path in (two.home / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(bytes(path.stat().st_size))
    result = two("diff", "bert:v1", "bert:v2", "--values", code=1)
    assert "damaged: bert:v1 config.json: " in result.err
    assert "damaged: bert:v1 w.safetensors: " in result.err
    assert "file\tadded\t" in result.out
    found = two("diff", "bert:v1", "bert:v2", "--json", code=1).json
    assert [line.split(":")[1] for line in found["damage"]] == ["v1 config.json"]
    screen = two.on_terminal("diff", "bert:v1", "bert:v2", code=1)
    assert "config.json: not compared, it is damaged in bert:v1" in screen
    assert "`casstore verify`" in screen


def test_a_long_list_is_cut_on_a_terminal_alone(cli: Cli, tmp_path: Path) -> None:
    with casstore.Store(cli.home) as store:
        for version, step in (("v1", 0), ("v2", 1)):
            numbers = str([number + step for number in range(100)]).encode()
            files = {"n.json": numbers, "w.safetensors": model(1 + step, layers=250)}
            store.save(f"m:{version}", plant(tmp_path / version, files))
    screen = cli.on_terminal("diff", "m:v1", "m:v2")
    assert "and 80 more, which a pipe and --json get" in screen
    assert "--stat gives one line a layer" in screen
    lines = cli("diff", "m:v1", "m:v2").out.splitlines()
    assert sum(line.startswith("document") for line in lines) == 100
    assert sum(line.startswith("tensor") for line in lines) == 249


def test_yaml_of_other_types_is_shown(cli: Cli, tmp_path: Path) -> None:
    with casstore.Store(cli.home) as store:
        store.save("m:v1", plant(tmp_path / "v1", {"a.yaml": b"d: 2024-01-01\nb: .nan\n2: {1: x}\n"}))
        store.save("m:v2", plant(tmp_path / "v2", {"a.yaml": b"d: 2024-01-02\nb: !!binary YQ==\n2: 3\n"}))
    assert cli("diff", "m:v1", "m:v2").out.splitlines()[1:] == [
        'document\tchanged\ta.yaml\t$.d\t"2024-01-01"\t"2024-01-02"',
        "document\tchanged\ta.yaml\t$.b\tnull\t\"b'a'\"",
        'document\tchanged\ta.yaml\t$[2]\t{"1": "x"}\t3',
    ]
    changes = cli("diff", "m:v1", "m:v2", "--json").json["documents"][0]["changes"]
    assert [(each["old"], each["new"]) for each in changes] == [
        ("2024-01-01", "2024-01-02"), (None, "b'a'"), ({"1": "x"}, 3),
    ]  # fmt: skip
