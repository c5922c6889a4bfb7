"""gc, pin and unpin from the command line: what they take away, what they say, and what they leave alone."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import Cli

STEPS = [
    "dead sessions", "unfinished work", "trash", "idle directories", "quarantine", "stray files", "unneeded objects",
    "rewritten", "packed",
]  # fmt: skip
MIB = 1 << 20


def counts(answer):
    return {step["name"]: step["count"] for step in answer["steps"]}


def standing(home):
    return sorted(f"{path.parent.name}:{path.name}" for path in (home / "models").glob("*/*") if path.is_dir())


def object_bytes(home):
    return sum(path.stat().st_size for path in (home / "objects").rglob("*") if path.is_file())


def test_each_step_is_told_with_its_bytes(saved: Cli) -> None:
    before = object_bytes(saved.home)
    answer = saved("gc", "--evict-all", "--json").json
    assert [step["name"] for step in answer["steps"]] == STEPS
    assert all(
        step.keys() == {"name", "count", "skipped", "damaged", "healed", "freed_bytes"} for step in answer["steps"]
    )
    assert counts(answer)["idle directories"] == 2
    assert counts(answer)["packed"] == 1
    assert answer["freed_bytes"] == max(0, sum(step["freed_bytes"] for step in answer["steps"]))
    in_objects = sum(step["freed_bytes"] for step in answer["steps"] if step["name"] != "idle directories")
    assert before - object_bytes(saved.home) == in_objects > MIB
    assert (answer["dry_run"], answer["altered"]) == (False, [])
    assert standing(saved.home) == []
    assert saved("verify").out.startswith("sound: ")
    rows = [line.split("\t") for line in saved("gc").out.splitlines()]
    assert rows == [[name, "0", "0"] for name in (*STEPS, "total")]


def test_where_stray_files_are_is_told(saved: Cli) -> None:
    (saved.home / "objects/packs/0123456789abcdef-1.pack").write_bytes(b"stray")
    assert saved("gc", "--dry-run", "--json").json["strays_kept_in"] == ""
    (saved.home / "objects/packs/0123456789abcdef-2.pack").write_bytes(b"stray")
    screen = saved.on_terminal("gc", columns=400)
    (directory,) = (saved.home / "quarantine/strays").iterdir()
    assert f"stray files are in {directory} for the days of keep_days; remove it to have the space at once" in screen
    assert sorted(path.read_bytes() for path in directory.iterdir()) == [b"stray", b"stray"]
    assert saved("gc", "--json").json["strays_kept_in"] == ""
    saved("config", "set", "keep_days", "0")
    answer = saved("gc", "--json").json
    freed = {step["name"]: step["freed_bytes"] for step in answer["steps"]}
    assert (counts(answer)["quarantine"], freed["quarantine"]) == (2, 10)


def test_a_dry_run_counts_what_gc_then_does(saved: Cli) -> None:
    saved("delete", "bert:v1", "-y")
    planned = saved("gc", "--dry-run", "--evict-all", "--json").json
    assert planned["dry_run"] is True
    assert standing(saved.home) == ["bert:v2"]
    lines = saved("gc", "--dry-run", "--evict-all").out.splitlines()
    done = saved("gc", "--evict-all", "--json").json
    assert counts(planned) == counts(done)
    assert dict(line.split("\t")[:2] for line in lines[:-1]) == {k: str(v) for k, v in counts(done).items()}
    for plan, step in zip(planned["steps"], done["steps"], strict=True):
        most = 1000 * step["count"] if step["name"] in ("rewritten", "packed") else 0
        assert plan["freed_bytes"] == pytest.approx(step["freed_bytes"], abs=most)


def test_what_gc_says_on_a_screen(saved: Cli) -> None:
    screen = saved.on_terminal("gc", "--dry-run", "--evict-all", columns=80)
    assert "WOULD FREE" in screen
    assert "nothing was changed; `casstore gc --evict-all` does it" in screen
    assert "packed: bytes are an estimate" in screen
    assert "shows when" not in saved.on_terminal("gc", "--dry-run", columns=80)
    screen = saved.on_terminal("gc", "--evict-all", columns=80)
    assert "FREED" in screen
    assert "MiB" in screen
    assert "WOULD" not in screen
    assert "nothing was changed" not in screen


def test_settings_say_what_is_idle(saved: Cli) -> None:
    saved("config", "set", "keep_days", "0")
    saved("config", "set", "materialize", "all")
    assert counts(saved("gc", "--json").json)["idle directories"] == 0
    saved("config", "set", "materialize", "newest")
    saved("config", "set", "keep_days", "1")
    assert counts(saved("gc", "--json").json)["idle directories"] == 0
    saved("config", "set", "keep_days", "0")
    assert counts(saved("gc", "--json").json)["idle directories"] == 1
    assert standing(saved.home) == ["bert:v2"]


def test_pins(saved: Cli) -> None:
    assert saved("pin", "bert:v1").out == "bert:v1\n"
    assert saved("pin", "bert:v1", "--json").json == {"tag": "bert:v1", "is_pinned": True}
    saved("gc", "--evict-all")
    assert standing(saved.home) == ["bert:v1"]
    assert saved("unpin", "bert:v1", "--json").json == {"tag": "bert:v1", "is_pinned": False}
    assert saved("unpin", "bert:v1").out == "bert:v1\n"
    saved("gc", "--evict-all")
    assert standing(saved.home) == []
    assert saved("pin", "bert").out == "bert:v2\n", "the newest, now and later"
    assert "bert:v2 is pinned" in saved.on_terminal("pin", "bert:v2", columns=80)
    assert "bert:v2 is not pinned" in saved.on_terminal("unpin", "bert:v2", columns=80)
    assert "did you mean" in saved("pin", "bert:v9", code=12).err
    assert saved("unpin", "bert:v", "--json", code=12).error["type"] == "AmbiguousTag"


def test_what_was_altered_is_named_and_left_alone(saved: Cli) -> None:
    note = saved.home / "models" / "bert" / "v1" / "notes.txt"
    note.write_text("mine")
    answer = saved("gc", "--evict-all", "--json").json
    assert answer["altered"] == ["bert:v1"]
    assert [step["skipped"] for step in answer["steps"]] == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert "left a directory alone" in saved.on_terminal("gc", "--evict-all", columns=80)
    assert note.read_text() == "mine"
    assert saved("gc", "--evict-all").err == ""


def test_auto_decides_by_itself(saved: Cli) -> None:
    assert saved("gc", "--auto", "--json").json == {
        "dry_run": False,
        "freed_bytes": 0,
        "steps": [],
        "altered": [],
        "strays_kept_in": "",
        "left": [],
        "foreign": [],
        "quarantined": [],
        "quarantine_bytes": 0,
        "evictable_bytes": 0,
        "packable_bytes": 0,
        "trash_versions": 0,
        "clock_moved_days": 0,
    }
    assert saved("gc", "--auto").out == ""
    assert "--auto" in saved("gc", "--auto", "--dry-run", code=2).err
    assert "--auto" in saved("gc", "--auto", "--evict-all", code=2).err
    assert "--auto" in saved("gc", "--auto", "--rewrite", code=2).err


@pytest.fixture
def wasteful(cli: Cli, tmp_path: Path):
    """A store in which a deleted version leaves 300 MiB. They are a hole, so they cost no disk here."""
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(300 * MIB)
    with casstore.Store(cli.home) as store:
        store.save("zeros:v1", tmp_path / "zeros", move=True, durability="relaxed")
        store.delete("zeros:v1", now=True)
    return cli


def test_auto_takes_much(wasteful) -> None:
    wasteful.extra_environment["CASSTORE_AUTO_GC"] = "1"
    answer = wasteful("gc", "--auto", "--json").json
    assert counts(answer)["unneeded objects"] >= 1
    assert answer["freed_bytes"] >= 300 * MIB
    assert wasteful("gc", "--auto", "--json").json["steps"] == []


def test_auto_is_switched_off_by_the_environment_and_by_the_setting(wasteful) -> None:
    assert wasteful.environment["CASSTORE_AUTO_GC"] == "0"
    assert wasteful("gc", "--auto", "--json").json["steps"] == []
    wasteful.extra_environment["CASSTORE_AUTO_GC"] = ""
    wasteful("config", "set", "auto_gc", "off")
    assert wasteful("gc", "--auto", "--json").json["steps"] == []
    assert counts(wasteful("gc", "--dry-run", "--json").json)["unneeded objects"] >= 1, "gc itself is always there"
    wasteful("config", "unset", "auto_gc")
    assert wasteful("gc", "--auto", "--json").json["steps"] != []


@pytest.mark.parametrize(("arguments", "lowest"), [(["gc", "--auto"], True), (["gc"], False)])
def test_auto_runs_at_the_lowest_priority(saved: Cli, arguments, lowest) -> None:
    code = "import os, sys; from casstore.cli.main import run; run(sys.argv[1:]); print(os.nice(0), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=saved.environment, capture_output=True, text=True, check=True
    )
    assert int(done.stderr) == (19 if lowest else os.nice(0))


def test_a_dry_run_waits_for_no_answer_in_json(saved: Cli) -> None:
    assert json.loads(saved.on_terminal("gc", "--dry-run", "--json"))["dry_run"] is True


def test_what_stands_twice_for_fast_opening_is_said(saved: Cli, cli: Cli, tmp_path: Path) -> None:
    """And not by what has just taken it all away."""
    (tmp_path / "w").write_bytes(random.Random(1).randbytes(3 << 20))
    saved("save", "big:v1", tmp_path / "w")
    shown = " ".join(saved.on_terminal("gc", columns=80).split())
    assert "directories in recent use keep" in shown
    assert " 0 B" not in shown[shown.index("directories in recent use") :]
    assert "from being packed; `casstore gc --evict-all`" in shown
    answer = saved("gc", "--json").json
    assert (answer["evictable_bytes"], answer["packable_bytes"] >= 3 << 20) == (0, True)
    assert "--evict-all" not in saved.on_terminal("gc", "--evict-all", "--rewrite", columns=80)


def test_what_nobody_else_empties(saved: Cli) -> None:
    """What was found damaged stays in quarantine/ until somebody asks for it to go, and is counted meanwhile."""
    damaged = saved.home / "quarantine" / "abc.pack"
    damaged.write_bytes(b"d" * (2 << 20))
    (saved.home / "quarantine" / "dir").mkdir()
    (saved.home / "quarantine" / "dir" / "file").write_bytes(b"d" * 1000)
    answer = saved("gc", "--json").json
    assert (answer["freed_bytes"], answer["quarantine_bytes"]) == (0, (2 << 20) + 1000)
    assert "gc --empty-quarantine" in " ".join(saved.on_terminal("gc", columns=80).split())
    planned = saved("gc", "--dry-run", "--empty-quarantine", "--json").json
    assert damaged.exists()
    done = saved("gc", "--empty-quarantine", "--json").json
    assert (counts(planned)["quarantine"], planned["freed_bytes"]) == (2, (2 << 20) + 1000)
    assert (counts(done)["quarantine"], done["freed_bytes"], done["quarantine_bytes"]) == (2, (2 << 20) + 1000, 0)
    assert planned["quarantine_bytes"] == 0
    assert not any((saved.home / "quarantine").iterdir())


def test_what_a_deletion_would_free(saved: Cli) -> None:
    versions = saved("list", "bert").out
    answer = saved("delete", "--dry-run", "bert:v1", "bert:v2", "--json").json
    assert answer["would_delete"] == ["bert:v1", "bert:v2"]
    assert answer["frees_bytes"] > 0
    assert "frees" in saved("delete", "--dry-run", "bert:v1").out
    assert "frees" in saved.on_terminal("delete", "--dry-run", "bert:v1", columns=80)
    assert saved("delete", "--dry-run", "bert:v9", code=12).out == ""
    assert saved("list", "bert").out == versions
    saved("delete", "bert:v1", "bert:v2", "-y", "--now")
    assert saved("gc", "--json").json["freed_bytes"] == pytest.approx(answer["frees_bytes"], rel=0.05, abs=2000)
