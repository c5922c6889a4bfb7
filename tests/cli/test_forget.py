"""`casstore forget` and `casstore policy`: what they show, when they ask, and what they refuse."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import casstore
from casstore.cli import output
from tests.cli.conftest import Cli
from tests.kit import plant


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Cli:
    """A store with run:v0 to run:v3, and other:1."""
    with casstore.Store(cli.home) as store:
        for number in range(4):
            source = plant(tmp_path / f"out{number}", {"w.bin": bytes([number]) * 5000})
            about = {"metrics": {"acc": number / 10}, "step": number * 500}
            store.save(f"run:v{number}", source, metadata=about, durability="relaxed")
        store.save("other:1", source, durability="relaxed")
    return cli


def tags(cli: Cli) -> list[str]:
    return [line.split("\t")[0] for line in cli("list", "run").out.splitlines()]


def test_a_dry_run_in_a_pipe(run: Cli) -> None:
    done = run("forget", "run", "--keep-last", "1", "--keep-best", "metrics.acc:min:1", "--dry-run")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["keep", "run:v3"], ["forget", "run:v2"], ["forget", "run:v1"], ["keep", "run:v0"],
    ]  # fmt: skip
    assert rows[0][5] == "newest, last 1"
    assert rows[3][5] == "least metrics.acc 1 of 1: 0"
    assert rows[0][2].endswith("Z")
    assert rows[0][4] == ""
    assert int(rows[1][4]) > 0
    assert done.err == ""
    assert len(tags(run)) == 4


def test_json(run: Cli) -> None:
    plan = run(
        "forget", "run", "other", "--keep-every", "metadata.step:1000", "--keep-last", "1", "--yes", "--json"
    ).json
    assert not plan["dry_run"]
    assert plan["forgotten"] == ["run:v1"]
    assert plan["frees_bytes"] == sum(each["frees_bytes"] for each in plan["versions"])
    assert [each["tag"] for each in plan["versions"] if each["keep"]] == ["run:v3", "run:v2", "run:v0", "other:1"]
    assert plan["notes"] == ["other: keep-every metadata.step:1000: no version has a number metadata.step"]
    assert tags(run) == ["run:v3", "run:v2", "run:v0"]


def test_in_a_pipe_it_says_what_to_type(run: Cli) -> None:
    assert "add --yes, or --dry-run" in run("forget", "run", "--keep-last", "1", code=2).err
    assert len(tags(run)) == 4
    assert run("forget", "run", "--keep-last", "1", "-y").out.count("forget\t") == 3
    assert tags(run) == ["run:v3"]
    assert run("forget", "run", "--keep-last", "1", "-y").out.count("keep\t") == 1


def test_it_shows_and_asks(run: Cli) -> None:
    screen = run.on_terminal("forget", "run", "--keep-last", "2", typed="n\n", code=1)
    assert "KEEP" in screen
    assert screen.index("FORGET  run:v1") < screen.index("Forget 2 versions of 4, which frees")
    assert "nothing was forgotten" in screen
    assert len(tags(run)) == 4
    screen = run.on_terminal("forget", "run", "--keep-last", "2", typed="y\n")
    assert "2 of 4 versions forgotten" in screen
    assert "come back" in screen
    assert tags(run) == ["run:v3", "run:v2"]
    screen = run.on_terminal("forget", "run", "--keep-last", "2")
    assert "0 of 2 versions would go" in screen
    assert "Forget" not in screen


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "--yes"), 2, "no rule says what to keep"),
        (("run",), 2, "no rule says what to keep"),
        (("run", "--dry-run"), 2, "no rule says what to keep"),
        (("--keep-last", "1", "--yes"), 2, "say of which names"),
        (("run", "--keep-label", "a=b", "--yes"), 2, "keeps no version of run"),
        (("run", "--keep-last", "0", "--yes"), 2, "0 is not in the range"),
        (("run", "--keep-best", "acc:max:1", "--yes"), 2, "did you mean 'metrics.acc'"),
        (("run", "--keep-within", "6m", "--yes"), 2, "write min or mo"),
        (("runn", "--keep-last", "1", "--yes"), 12, "did you mean run?"),
        (("x*", "--keep-last", "1", "--yes"), 12, "no name in this store matches"),
        (("run:v1", "--keep-last", "1", "--yes"), 2, "a name alone is wanted"),
        (("run", "--policies", "--yes"), 2, "no policy is stored"),
        (("run", "--keep-where", "siez > 1", "--yes"), 2, "did you mean size?\n  siez > 1\n  ^"),
    ],
)
def test_what_is_refused(run: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in run("forget", *arguments, code=code).err


def test_a_rule_that_keeps_nothing_is_a_warning(run: Cli) -> None:
    done = run("forget", "run", "--keep-last", "9", "--keep-best", "metrics.loss:min:1", "--dry-run")
    assert done.err == "warning: run: keep-best metrics.loss:min:1: no version has a number metrics.loss\n"


def test_policies(run: Cli) -> None:
    assert run("policy").out == ""
    assert run("policy", "set", "r*", "--keep-last", "3", "--keep-label", "a b=c").out == "r*\n"
    assert run("policy", "set", "other", "--keep-daily", "7", "--json").json == {
        "pattern": "other", "rules": {"keep_daily": 7},
    }  # fmt: skip
    assert run("policy", "show").out == "other\t--keep-daily 7\nr*\t--keep-last 3 --keep-label 'a b=c'\n"
    assert run("policy", "show", "run").out == run("policy", "show", "r*").out
    assert run("policy", "--json").json["policies"][0] == {"pattern": "other", "rules": {"keep_daily": 7}}
    assert "no policy is stored for 'x'" in run("policy", "show", "x", code=12).err
    assert run("forget", "--policies", "--dry-run").out.count("forget\t") == 1
    assert run("forget", "--policies", "--yes", "--json").json["forgotten"] == ["run:v0"]
    assert run("policy", "unset", "r*").out == "r*\n"
    assert "did you mean" in run("policy", "unset", "othr", code=2).err
    screen = run.on_terminal("policy")
    assert "NAMES" in screen
    assert "--keep-daily 7" in screen


def test_gc_says_what_policies_forget(run: Cli) -> None:
    run("policy", "set", "run", "--keep-last", "1")
    assert run("gc").out.splitlines()[0] == "policies\t3\t0"
    assert tags(run) == ["run:v3"]


def test_ages_of_what_is_to_come() -> None:
    now = datetime.now(timezone.utc)
    assert output.age(now + timedelta(days=3660, minutes=1)) == "in 3,660 days"
    assert output.age(now + timedelta(seconds=30)) == output.age(now - timedelta(seconds=30)) == "just now"
    assert output.age(now - timedelta(days=2, minutes=1)) == "2 days ago"
