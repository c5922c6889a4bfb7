"""ls, cat, verify of some versions, and list of a name: what is there, and what is said where it is not."""

import os
import subprocess
from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import COMMAND, Cli
from tests.kit import plant


def test_ls_lists_the_files_of_a_version(untouched: Cli) -> None:
    assert untouched("ls", "bert:v1").out == "13\tconfig.json\n2097152\tweights.bin\n"
    answer = untouched("ls", "bert", "--json").json
    assert answer["tag"] == "bert:v2"
    assert answer["files"] == untouched("show", "bert:v2", "--json").json["files"]
    screen = untouched.on_terminal("ls", "bert")
    assert "2.00 MiB" in screen
    assert "these are the files of bert:v2" in screen
    assert "did you mean" in untouched("ls", "bret", code=12).err


def test_ls_alone_is_list(untouched: Cli) -> None:
    assert untouched("ls").out == untouched("list").out
    assert untouched("ls", "--json").json == untouched("list", "--json").json


def test_cat_writes_bytes_as_they_are(untouched: Cli) -> None:
    assert untouched("cat", "bert:v1", "config.json").out == '{"hidden": 4}'
    command = [*COMMAND, "cat", "bert", "weights.bin"]
    done = subprocess.run(command, env=untouched.environment, capture_output=True, check=True)
    assert done.stdout == bytes(range(256)) * 8192
    assert done.stderr == b""
    assert untouched("cat", "bert:v1", "model.yaml").out.startswith("name: bert\n")


def test_cat_of_what_is_not_there(untouched: Cli) -> None:
    assert (
        "bert:v2 has no file confg.json; did you mean config.json?"
        in untouched("cat", "bert", "confg.json", code=12).err
    )
    assert "`casstore ls bert:v2`" in untouched("cat", "bert", "xyzzy", code=12).err
    assert "did you mean" in untouched("cat", "bret", "config.json", code=12).err
    assert "TAG comes first: casstore cat bert config.json" in untouched("cat", "config.json", "bert", code=2).err
    assert untouched("cat", "bert", "config.json", "--json", code=2).error["type"] == "UsageError"


def test_cat_of_a_directory(cli: Cli, tmp_path: Path) -> None:
    cli("save", "deep:v1", plant(tmp_path / "deep", {"1_Pooling/config.json": b"{}"}))
    for given in (["deep", "1_Pooling"], ["deep/1_Pooling/"]):
        said = cli("cat", *given, code=12).err
        assert "1_Pooling of deep:v1 is a directory; `casstore ls deep:v1/1_Pooling` lists its files" in said


def test_cat_on_a_terminal_is_for_text(untouched: Cli) -> None:
    assert '{"hidden": 4}' in untouched.on_terminal("cat", "bert:v1", "config.json")
    assert "redirect it" in untouched.on_terminal("cat", "bert:v1", "weights.bin", code=2)


def test_a_reader_of_cat_that_leaves_early_is_no_error(untouched: Cli) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "cat", "bert:v1", "weights.bin"], env=untouched.environment, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert os.read(reading, 4) == bytes(range(4))
    os.close(reading)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141


def test_cat_of_damage_says_so(saved: Cli) -> None:
    for loose in (saved.home / "objects/loose").rglob("*.*"):
        loose.chmod(0o644)
        loose.write_bytes(b"\xff" * loose.stat().st_size)
    for path in (saved.home / "models").rglob("weights.bin"):
        path.unlink()
    assert "weights.bin" in saved("cat", "bert:v1", "weights.bin", code=1).err


def test_files_of_a_version_are_completed(untouched: Cli) -> None:
    environment = {
        **untouched.environment,
        "_CASSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": "casstore cat bert:v1 w",
    }
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,weights.bin\n"


def test_verify_of_some_versions(saved: Cli) -> None:
    answer = saved("verify", "bert:v1", "--json").json
    assert (answer["is_sound"], answer["tags"]) == (True, ["bert:v1"])
    assert saved("verify", "--json").json["tags"] == []
    assert saved("verify", "bert:v1", "bert").out.endswith(", all of bert:v1, bert:v2\n")
    assert "nothing of bert:v2 is missing" in saved("verify", "bert", "--quick").out
    assert "did you mean" in saved("verify", "bert:v9", code=12).err
    with casstore.Store(saved.home) as store:
        digest = next(f.digest for f in store.get("bert:v2").files if f.path == "config.json")
        chunk = store._workspace.catalog.index.locate([digest])[digest]
        pack = chunk.container.path(store._workspace.layout)
    os.chmod(pack, 0o644)
    with open(pack, "r+b") as file:
        file.seek(chunk.offset + chunk.length - 1)
        file.write(b"\xff")
    assert saved("verify", "bert:v1").out.startswith("sound: ")
    done = saved("verify", "bert:v2", code=1)
    assert done.out.startswith("damaged: bert:v2 config.json\n")


@pytest.mark.parametrize("arguments", [["list", "bret"], ["list", "bret", "-l", "a=b"], ["list", "bret", "--json"]])
def test_list_of_a_name_that_is_not_there(untouched: Cli, arguments) -> None:
    done = untouched(*arguments, code=12)
    assert done.out == ""
    assert "did you mean bert?" in done.err


def test_list_where_labels_do_not_fit_is_empty(untouched: Cli) -> None:
    assert untouched("list", "bert", "-l", "stage=none").out == ""
