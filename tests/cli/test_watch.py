"""casstore watch: directories of a trainer that knows nothing of casstore."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.cli.main import cli as program
from tests.kit import plant


@pytest.fixture
def store(cli) -> Iterator[casstore.Store]:
    with casstore.Store(cli.home, auto_gc=False) as opened:
        yield opened


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for number in (500, 1000):
        plant(tmp_path / f"out/checkpoint-{number}", {"w.bin": b"%d" % number, "trainer_state.json": b"{}"})
    plant(tmp_path / "out/other", {"w.bin": b"x"})
    return tmp_path / "out"


def test_all_that_is_complete_is_saved_once(cli, store: casstore.Store, out: Path) -> None:
    done = cli("watch", out, "--as", "run", "--marker", "trainer_state.json", "--once")
    assert [line.split("\t")[0] for line in done.out.splitlines()] == ["run:checkpoint-500", "run:checkpoint-1000"]
    assert sorted(store.tags()) == ["run:checkpoint-1000", "run:checkpoint-500"]
    with store.get("run:checkpoint-500").open("w.bin") as file:
        assert file.read() == b"500"
    assert not (store.home / "models/run").exists() or list((store.home / "models/run").iterdir()) == []
    again = cli("watch", out, "--as", "run", "--marker", "trainer_state.json", "--once")
    assert (again.out, again.err) == ("", "")


def test_a_directory_that_never_becomes_complete(cli, store: casstore.Store, out: Path) -> None:
    (out / "checkpoint-500/trainer_state.json").unlink()
    done = cli("watch", out, "--as", "run", "--marker", "trainer_state.json", "--once", code=3)
    assert store.tags() == ["run:checkpoint-1000"]
    assert done.err.splitlines() == [
        "checkpoint-500: waiting for its trainer_state.json", "not complete, and not saved: checkpoint-500",
    ]  # fmt: skip
    (out / "checkpoint-500/trainer_state.json").write_text("{}")
    cli("watch", out, "--as", "run", "--marker", "trainer_state.json", "--once")
    assert len(store.tags()) == 2


def test_no_directory_matches(cli, store: casstore.Store, out: Path, tmp_path: Path) -> None:
    """A wrong pattern is not taken for a training that has nothing to save yet."""
    done = cli("watch", out, "--as", "run", "--pattern", "step_*", "--once")
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith(f"no directory in {out} matches step_*; those there are: ")
    assert "checkpoint-500" in line
    assert line.endswith(" (--pattern says which are meant)")
    (tmp_path / "none").mkdir()
    done = cli("watch", tmp_path / "none", "--as", "run", "--once")
    assert done.err.splitlines() == [f"no directory in {tmp_path / 'none'} matches checkpoint-*"]
    assert cli("watch", out, "--as", "run", "--pattern", "step_*", "--once", "-q").err == ""
    assert store.tags() == []


def test_an_empty_directory_is_not_complete(cli, store: casstore.Store, tmp_path: Path) -> None:
    (tmp_path / "out/checkpoint-1").mkdir(parents=True)
    done = cli("watch", tmp_path / "out", "--as", "run", "--settle", "0", "--every", "0.05", "--once", code=3)
    assert done.err.splitlines() == [
        "checkpoint-1: waiting for files, as it is empty", "not complete, and not saved: checkpoint-1",
    ]  # fmt: skip
    assert store.tags() == []


def test_without_a_marker_what_has_not_changed_is_saved(cli, store: casstore.Store, out: Path) -> None:
    done = cli("watch", out, "--as", "run", "--pattern", "o*", "--settle", "0", "--every", "0.05", "--once", "--json")
    assert done.json == {"tag": "run:other", "size_bytes": 1, "file_count": 1}


def test_a_marker_is_not_all_where_something_must_settle(cli, store: casstore.Store, out: Path) -> None:
    """What has the marker waits for the rest; told by what is said, as nobody waits for an hour."""
    process = cli.start("watch", out, "--as", "run", "--marker", "trainer_state.json", "--settle", "3600")
    said = [process.stderr.readline().strip() for _ in range(3)]
    assert sorted(said[1:]) == [f"checkpoint-{n}: waiting for 3600 s without a change" for n in (1000, 500)]
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert store.tags() == []


def test_another_directory_of_a_name_that_is_saved(cli, store: casstore.Store, out: Path) -> None:
    cli("watch", out, "--as", "run", "--marker", "trainer_state.json", "--once")
    (out / "checkpoint-500/w.bin").write_bytes(b"other")
    done = cli("watch", out, "--as", "run", "--marker", "trainer_state.json", "--once", code=3)
    assert "not complete" not in done.err
    assert "checkpoint-500: not saved, as run:checkpoint-500 is saved already, with other files" in done.err
    with store.get("run:checkpoint-500").open("w.bin") as file:
        assert file.read() == b"500"


def test_it_goes_on_until_ctrl_c(cli, store: casstore.Store, out: Path) -> None:
    shutil.rmtree(out / "checkpoint-1000")
    process = cli.start("watch", out, "--as", "run", "--marker", "trainer_state.json", "--every", "0.05")
    assert process.stdout.readline().startswith("run:checkpoint-500\t")
    plant(out / "unfinished", {"w.bin": b"more", "trainer_state.json": b"{}"})
    (out / "unfinished").rename(out / "checkpoint-1500")
    assert process.stdout.readline().startswith("run:checkpoint-1500\t")
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate()
    assert (process.returncode, rest) == (130, "")
    assert "Traceback" not in err
    assert len(store.tags()) == 2


def test_another_run_that_writes_directories_of_the_same_names(cli, store: casstore.Store, out: Path) -> None:
    process = cli.start("watch", out, "--as", "run", "--marker", "trainer_state.json", "--every", "0.05")
    assert process.stdout.readline().startswith("run:checkpoint-500\t")
    assert process.stdout.readline().startswith("run:checkpoint-1000\t")
    (out / "checkpoint-500").rename(out / "first-run")  # whose inode is not given to another
    plant(out / "unfinished", {"w.bin": b"of another run", "trainer_state.json": b"{}"})
    (out / "unfinished").rename(out / "checkpoint-500")
    plant(out / "unfinished", {"w.bin": b"more", "trainer_state.json": b"{}"})
    (out / "unfinished").rename(out / "checkpoint-1500")
    assert process.stdout.readline().startswith("run:checkpoint-1500\t")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert "checkpoint-500: not saved, as run:checkpoint-500 is saved already, with other files" in err


def test_a_marker_that_comes_a_moment_later_is_no_news(cli, store: casstore.Store, out: Path) -> None:
    (out / "checkpoint-500/trainer_state.json").unlink()
    os.utime(out / "checkpoint-500", (1, 1))  # so that it is looked at first
    process = cli.start("watch", out, "--as", "run", "--marker", "trainer_state.json", "--every", "0.05")
    assert process.stdout.readline().startswith("run:checkpoint-1000\t")
    (out / "checkpoint-500/trainer_state.json").write_text("{}")
    assert process.stdout.readline().startswith("run:checkpoint-500\t")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert "waiting" not in err


def test_a_full_disk_ends_nothing(
    store: casstore.Store, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults, real = [errno.ENOSPC, errno.ENOSPC], casstore.Store.create

    def create(*arguments: Any, **said: Any) -> casstore.Draft:
        if faults:
            code = faults.pop()
            raise OSError(code, os.strerror(code))
        return real(*arguments, **said)

    monkeypatch.setattr(casstore.Store, "create", create)
    arguments = ["--home", str(store.home), "--every", "20", "--settle", "0.1", "--once"]
    program.main(["watch", str(out), "--as", "run", "--pattern", "checkpoint-500", *arguments], standalone_mode=False)
    assert store.tags() == ["run:checkpoint-500"]
    said = [line for line in capsys.readouterr().err.splitlines() if "not saved" in line]
    assert len(said) == 1
    assert said[0].startswith("checkpoint-500: not saved, and tried again: No space left on device")
    assert "gc --empty-trash" in said[0]


def test_a_name_that_cannot_be_one(cli, out: Path) -> None:
    done = cli("watch", out, "--as", "Bad Name", "--once", code=2)
    assert done.err.endswith("; 'bad-name' would do\n")


@pytest.mark.parametrize("arguments", [["--as", "a/b"], [], ["--as", "run", "--settle", "-1"]])
def test_wrong_use(cli, out: Path, arguments: list[str]) -> None:
    cli("watch", out, *arguments, "--once", code=2)
