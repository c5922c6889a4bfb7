"""Each verb does its work, and answers in JSON and in pipes as documented."""

import json
import os
import re
import stat
from pathlib import Path

import click
import pytest

import casstore.cli.main
from tests.cli.conftest import Cli

VERBS = (
    "save", "list", "show", "path", "pin", "unpin", "delete", "gc", "verify", "stats", "config", "demo", "completion",
)  # fmt: skip


def test_save_prints_the_tag_bytes_and_files(cli: Cli, files: Path) -> None:
    assert cli("save", "bert:v1", files).out == "bert:v1\t2097165\t2\n"
    assert re.fullmatch(r"bert:[0-9a-z]{16}\n", cli("save", "-q", "bert", files).out)


def test_save_records_what_it_is_told(cli: Cli, files: Path, tmp_path: Path) -> None:
    more = tmp_path / "metadata.json"
    more.write_text('{"loss": 0.1, "steps": 3}')
    cli("save", "bert:v1", files)
    done = cli(
        "save", "bert:v2", files, "-l", "a=b=c", "--label", "empty=", "-m", "accuracy=0.93", "-m", 'langs=["en"]',
        "-m", "note=not json", "-m", "steps=4", "--metadata-file", more, "--module", "transformers",
        "--framework", "torch=2.4", "--framework", "numpy=2.0", "--base", "bert:v1",
        "--durability", "relaxed", "--json",
    )  # fmt: skip
    assert done.json["tag"] == "bert:v2"
    shown = cli("show", "bert:v2", "--json").json
    assert shown["labels"] == {"a": "b=c", "empty": ""}
    assert shown["metadata"] == {"accuracy": 0.93, "langs": ["en"], "note": "not json", "loss": 0.1, "steps": 4}
    assert shown["module"] == "transformers"
    assert shown["context"]["framework_name"] == "torch"
    assert shown["context"]["framework_versions"] == {"torch": "2.4", "numpy": "2.0"}
    assert shown["base"]["tag"] == "bert:v1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shown["created_at"])
    assert [(f["path"], f["size_bytes"]) for f in shown["files"]] == [("config.json", 13), ("weights.bin", 2097152)]


def test_save_against_a_base(cli: Cli, files: Path) -> None:
    cli("save", "bert:v1", files)
    cli("save", "other:v1", files)
    assert cli("save", "bert:v2", files, "-q").out == "bert:v2\n"
    assert cli("show", "bert:v2", "--json").json["base"]["tag"] == "bert:v1", "the newest of the name by default"
    cli("save", "bert:v3", files, "--base", "other")
    assert cli("show", "bert:v3", "--json").json["base"]["tag"] == "other:v1"
    assert "did you mean" in cli("save", "bert:v4", files, "--base", "othe:v1", code=12).err


def test_save_without_a_directory(cli: Cli, files: Path) -> None:
    assert cli("save", "bert:v1", files, "--no-materialize").out == "bert:v1\t2097165\t2\n"
    assert not (cli.home / "models" / "bert" / "v1").exists()
    assert not [path for path in (cli.home / "objects" / "loose").rglob("*") if path.is_file()]
    assert cli("show", "bert:v1", "--json").json["materialized"] is False
    assert cli("verify").out.startswith("sound: ")
    directory = Path(cli("path", "bert").out.rstrip("\n"))
    assert (directory / "weights.bin").read_bytes() == (files / "weights.bin").read_bytes()
    cli("save", "bert:v2", files, "--no-materialize", "--move")
    assert not files.exists() or not any(files.iterdir())


def test_save_reads_metadata_from_stdin(cli: Cli, files: Path) -> None:
    cli("save", "bert:v1", files, "--metadata-file", "-", stdin='{"a": 1}')
    assert cli("show", "bert:v1", "--json").json["metadata"] == {"a": 1}


def test_save_takes_a_single_file_and_moves(cli: Cli, files: Path) -> None:
    cli("save", "one:v1", files / "weights.bin", "--move")
    assert not (files / "weights.bin").exists()
    assert [f["path"] for f in cli("show", "one", "--json").json["files"]] == ["weights.bin"]


def test_save_refuses_an_empty_directory_unless_allowed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no files" in cli("save", "bert:v1", tmp_path / "empty", code=1).err
    assert cli("list").out == ""
    cli("save", "bert:v1", tmp_path / "empty", "--allow-empty", "-m", "a=1")
    assert cli("list").out.startswith("bert:v1\t0\t0\t")


def test_list_is_newest_first_and_filters(saved: Cli, files: Path) -> None:
    lines = [line.split("\t") for line in saved("list").out.splitlines()]
    assert [line[0] for line in lines] == ["bert:v2", "bert:v1"]
    assert [line[1:3] for line in lines] == [["2097165", "2"]] * 2
    assert [line[4] for line in lines] == ["stage=prod", "stage=dev"]
    assert saved("list", "bert", "-l", "stage=dev").out.startswith("bert:v1\t")
    assert saved("list", "other", code=12).out == ""
    assert saved("list", "-l", "stage=none", "--json").json["versions"] == []
    saved("save", "albert:v1", files)
    assert [v["tag"] for v in saved("--json", "list").json["versions"]] == ["albert:v1", "bert:v2", "bert:v1"]


def test_show_in_a_pipe_is_lines_of_tabs(untouched: Cli) -> None:
    lines = [line.split("\t") for line in untouched("show", "bert").out.splitlines()]
    assert ["tag", "bert:v2"] in lines
    assert ["metadata.accuracy", "0.93"] in lines
    assert ["label.stage", "prod"] in lines
    assert [line[1:3] for line in lines if line[0] == "file"] == [["config.json", "13"], ["weights.bin", "2097152"]]


def test_path_is_a_directory_that_holds_the_files(saved: Cli, files: Path) -> None:
    directory = Path(saved("path", "bert:v2").out.rstrip("\n"))
    assert (directory / "weights.bin").read_bytes() == (files / "weights.bin").read_bytes()
    assert stat.S_IMODE(os.stat(directory / "weights.bin").st_mode) & 0o222 == 0
    assert saved("path", "bert", "--json").json == {"tag": "bert:v2", "path": str(directory)}


def test_delete_then_gc(saved: Cli) -> None:
    assert saved("delete", "bert:v1", "--yes").out == "bert:v1\n"
    assert [line.split("\t")[0] for line in saved("list").out.splitlines()] == ["bert:v2"]
    saved("delete", "bert:v2", "-y")
    assert saved("gc", "--json").json["freed_bytes"] < 2097152 // 1024
    planned = saved("gc", "--empty-trash", "--dry-run", "--json").json
    assert planned["dry_run"] is True
    assert planned["freed_bytes"] >= 2097152 // 1024
    done = saved("gc", "--empty-trash", "--json").json
    assert done["dry_run"] is False
    assert done["freed_bytes"] == planned["freed_bytes"] == sum(step["freed_bytes"] for step in done["steps"])
    assert saved("gc").out.splitlines()[-1].split("\t") == ["total", "0", "0"]


def test_gc_says_what_it_left_damaged(saved: Cli) -> None:
    for loose in (saved.home / "objects/loose").rglob("*.*"):
        status = loose.stat()
        loose.chmod(0o644)
        with loose.open("r+b") as file:
            file.seek(-7, os.SEEK_END)
            file.write(b"damaged")
        loose.chmod(0o444)
        os.utime(loose, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk does it
    done = saved("gc", "--evict-all", "--json").json
    assert [step["name"] for step in done["steps"] if step["damaged"]] == ["packed"]
    assert "casstore verify" in saved.on_terminal("gc")
    assert "bert:v2" in saved("verify", code=1).out


def test_delete_every_version_of_a_model(saved: Cli) -> None:
    assert saved("delete", "--all-versions-of", "bert", "--yes", "--json").json == {
        "deleted": ["bert:v2", "bert:v1"], "quarantined": [], "failed": [],
    }  # fmt: skip
    assert saved("list").out == ""
    assert "empty" in saved("delete", "--all-versions-of", "bert", "-y", code=12).err


def test_delete_partly_done(saved: Cli) -> None:
    done = saved("delete", "bert:v1", "bert:v9", "-y", code=3)
    assert done.out == "bert:v1\n"
    assert "bert:v9" in done.err
    answer = saved("delete", "bert:v2", "bert:v8", "bert:latest", "-y", "--json", code=3).json
    assert answer["deleted"] == ["bert:v2"]
    assert [(f["tag"], f["type"]) for f in answer["failed"]] == [
        ("bert:v8", "TagNotFound"),
        ("bert:latest", "InvalidTag"),
    ]


def test_delete_fails_whole_with_the_reason_s_own_code(saved: Cli) -> None:
    saved("delete", "bert:v8", "bert:v9", "-y", code=12)
    saved("delete", "bert:v8", "bert", "-y", code=1)
    saved("delete", "bert", "-y", code=2)


def test_verify_of_a_sound_store(untouched: Cli) -> None:
    assert untouched("verify").out.startswith("sound: ")
    assert untouched("verify", "-q").out == ""
    answer = untouched("verify", "--json").json
    assert answer["is_sound"] is True
    assert answer["read_bytes"] > 0
    assert answer["damaged_tags"] == answer["damaged_files"] == answer["damaged_copies"] == answer["reasons"] == []


def test_verify_names_damage(saved: Cli) -> None:
    for container in (saved.home / "objects").rglob("*"):
        if container.is_file():
            container.chmod(0o600)
            data = bytearray(container.read_bytes())
            data[len(data) // 2] ^= 0xFF
            container.write_bytes(data)
    done = saved("verify", code=1)
    assert "damaged: bert:v1 weights.bin" in done.out
    answer = saved("verify", "--json", code=1).json
    assert answer["is_sound"] is False
    assert answer["damaged_tags"] == ["bert:v1", "bert:v2"]
    assert {"tag": "bert:v2", "path": "weights.bin"} in answer["damaged_files"]
    assert answer["reasons"]


def test_config(cli: Cli) -> None:
    cli("init")
    assert "durability\tfull\tfull\t" in cli("config").out
    cli("config", "set", "durability", "relaxed")
    assert cli("config", "get", "durability").out == "relaxed\n"
    assert cli("config", "get", "durability", "--json").json == {"key": "durability", "value": "relaxed"}
    settings = {setting["key"]: setting for setting in cli("config", "--json").json["settings"]}
    assert (settings["durability"]["value"], settings["durability"]["default"]) == ("relaxed", "full")
    assert cli("config", "unset", "durability", "--json").json == {"key": "durability", "value": "full"}
    assert "full or relaxed" in cli("config", "set", "durability", "none", code=2).err
    assert "durability" in cli("config", "get", "durabilty", code=2).err
    cli("config", "set", "link-mode", "copy")
    assert cli("config", "get", "link_mode").out == "copy\n"


@pytest.mark.parametrize(
    ("key", "default", "value", "bad", "takes"),
    [
        ("keep_days", "7", "0", "-1", "a whole number of days from 0 to 36500"),
        ("keep_days", "7", "36500", "1.5", "a whole number"),
        ("materialize", "newest", "all", "none", "newest or all"),
        ("auto_gc", "on", "off", "no", "on or off"),
    ],
)
def test_config_of_gc(cli: Cli, key, default, value, bad, takes) -> None:
    cli("init")
    assert cli("config", "get", key).out == f"{default}\n"
    assert cli("config", "set", key, value, "--json").json == {"key": key, "value": value}
    assert cli("config", "get", key).out == f"{value}\n"
    assert takes in cli("config", "set", key, "--", bad, code=2).err
    assert cli("config", "get", key).out == f"{value}\n"
    assert f"{key}\t{value}\t{default}\t" in cli("config").out
    cli("config", "unset", key)
    assert cli("config", "get", key).out == f"{default}\n"


def test_demo_checks_itself_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    cli.extra_environment["TMPDIR"] = str(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = cli("demo")
    assert done.out.count("ok  ") == 3
    assert "demo:v4" in done.out
    assert "times less" in done.out
    assert sorted(tmp_path.iterdir()) == before
    assert not cli.home.exists()


def test_demo_can_keep_its_store(cli: Cli, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    answer = cli("demo", "--keep", kept, "--json").json
    assert all(check["passed"] for check in answer["checks"])
    assert answer["stored_bytes"] < answer["plain_bytes"] / 2.5
    assert answer["stored_bytes"] < answer["before_gc_bytes"] / 2
    first, second, third, fourth = answer["versions"]
    assert answer["plain_bytes"] == sum(version["size_bytes"] for version in answer["versions"])
    assert first["new_bytes"] == first["size_bytes"]
    assert second["new_bytes"] < second["size_bytes"] / 10
    assert third["new_bytes"] < third["size_bytes"] / 10
    assert fourth["new_bytes"] > fourth["size_bytes"] * 0.9
    assert cli("--home", kept, "list").out.startswith("demo:v4\t")
    cli("demo", "--keep", kept, code=2)


def test_global_options_work_before_and_after_the_verb(saved: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other"
    saved("--home", other, "init")
    assert saved("--home", other, "list").out == saved("list", "--home", other).out == ""
    assert saved("--home", other, "list", "--home", saved.home).out.count("\n") == 2
    assert saved("--json", "list").out == saved("list", "--json").out
    saved("-q", "--no-progress", "list", "-q", "--no-progress")


def test_help_teaches_by_example(cli: Cli) -> None:
    main = cli("--help").out
    assert "Exit codes:" in main
    assert all(re.search(rf"^  {verb} ", main, re.MULTILINE) for verb in VERBS)
    assert "..." not in main[main.index("Commands:") : main.index("Examples:")]
    for verb in VERBS:
        command = casstore.cli.main.cli.commands[verb]
        text = command.get_help(click.Context(command, info_name=verb))
        assert "Examples:" in text or "Install it" in text
    assert "Examples:" in cli("save", "--help").out
    assert cli("--version").out.startswith("casstore")
    assert "Usage:" in cli(code=2).err


def test_json_is_plain_ascii(cli: Cli, files: Path) -> None:
    cli("save", "bert:v1", files, "-l", "who=Zoë\x1b[31m")
    text = cli("list", "--json").out
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["versions"][0]["labels"] == {"who": "Zoë\x1b[31m"}
