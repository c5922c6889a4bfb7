"""`casstore list` and `casstore count` with expressions, and lists that are longer than a screen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import Cli
from tests.cli.test_narrow import plain

VERSIONS = 130


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A store of 130 versions with metrics, and its CLI."""
    home = tmp_path_factory.mktemp("searching") / "home"
    rng = random.Random(1)
    with casstore.Store(home, auto_gc=False) as store:
        for number in range(VERSIONS):
            with store.create(
                f"{('bert', 'run-1', 'run-2')[number % 3]}:v{number}",
                labels={"stage": "prod" if number % 2 else "dev"},
                metadata={"metrics": {"acc": number / 1000, "loss": rng.random()}, "opt": ["adam", "w"]},
                durability="relaxed", materialize=False,
            ) as draft:  # fmt: skip
                Path(draft.path, "w").write_bytes(bytes(number + 1))
        store.pin("bert:v0")
    return Cli(home)


def tags(text: str) -> list[str]:
    return [line.split("\t")[0] for line in text.splitlines()]


def test_an_expression_stands_alone_or_behind_a_name(many: Cli) -> None:
    newest = tags(many("list", "metrics.acc > 0.126").out)
    assert newest == ["bert:v129", "run-2:v128", "run-1:v127"]
    assert tags(many("list", "--where", "metrics.acc > 0.126").out) == newest
    assert tags(many("list", "bert", "metrics.acc > 0.126").out) == [tag for tag in newest if tag.startswith("bert")]
    assert all(tag.startswith("run-") for tag in tags(many("list", "run-*", "-l", "stage=dev").out))
    assert len(tags(many("list", "run-*", "size", "<=", "10").out)) == 6
    assert tags(many("list", "pinned = true").out) == ["bert:v0"]


def test_sort_limit_and_columns(many: Cli) -> None:
    done = many(
        "list", "run-*", "--sort", "-labels.stage,metrics.acc", "--limit", "2", "--columns", "tag,size,metrics.acc"
    )
    assert done.out == "run-1:v1\t2\t0.001\nrun-2:v5\t6\t0.005\n"
    row = many(
        "list", "bert", "version = v0", "--columns", "tag,size,created,pinned,metadata.opt,labels.no", "--json"
    ).json
    assert row["versions"][0].pop("created_at").endswith("Z")
    assert row == {
        "versions": [
            {"tag": "bert:v0", "size_bytes": 1, "pinned": True, "metadata.opt": ["adam", "w"], "labels.no": None}
        ]
    }
    assert many("list", "bert", "version = v0", "--columns", "tag,pinned,metadata.opt,labels.no,files").out == (
        "bert:v0\ttrue\tadam,w\t\t1\n"
    )


def test_in_a_pipe_and_with_json_all_is_listed(many: Cli) -> None:
    assert len(tags(many("list").out)) == VERSIONS
    assert len(many("list", "--json").json["versions"]) == VERSIONS
    assert many("list", "--limit", "0").out == ""


def test_a_terminal_gets_the_first_and_is_told_of_the_others(many: Cli) -> None:
    screen = plain(many.on_terminal("list"))
    assert screen[0].startswith("TAG")
    assert len(screen) == 102
    assert screen[-1] == "and 30 more versions: --all lists them, and --limit N the first N"
    assert len(plain(many.on_terminal("list", "--all"))) == VERSIONS + 1
    wide = plain(many.on_terminal("list", "size < 3", "--columns", "tag,labels,metrics,opened,digest", columns=60))
    assert {"bert:v0", "run-1:v1"} <= {line.strip() for line in wide}


def test_what_is_longer_than_the_screen_is_paged(many: Cli) -> None:
    paged = Cli(many.home, {"PAGER": "sed s/^/|/"})
    screen = plain(paged.on_terminal("list", "--limit", "39"))
    assert len(screen) == 40
    assert all(line.startswith("|") for line in screen)
    assert not plain(paged.on_terminal("list", "--limit", "38"))[1].startswith("|")
    assert "|" not in paged("list").out
    assert paged.on_terminal("list", "--json").lstrip().startswith("{")


def test_a_table_of_damaged_and_sound_versions_fits_the_screen(saved: Cli) -> None:
    """Rows with a mark, and rows without."""
    for loose in (saved.home / "objects/loose").rglob("*.*"):
        loose.unlink()
        break
    screen = plain(saved.on_terminal("list"))
    assert "STATE" in screen[0]


def test_count(many: Cli) -> None:
    assert many("count").out == f"{VERSIONS}\n"
    assert many("count", "bert").out == "44\n"
    assert many("count", "run-?", "metrics.acc < 0.01").out == "6\n"
    assert many("count", "--where", "labels.stage = prod", "--json").json == {"count": 65}
    assert many("count", "nothing").out == "0\n"


def test_errors_have_a_caret_on_a_line_of_its_own(many: Cli) -> None:
    said = many("list", "metrics.acc > 0.9 and lable.x = 3", code=2).err.splitlines()
    assert said[0] == "error: there is no field 'lable'; did you mean labels.KEY?"
    assert said[2].index("^") == said[1].index("lable")
    error = many("count", "--where", "size ~ 3", "--json", code=2).error
    assert error["type"] == "InvalidQuery"
    assert error["message"].count("\n") == 2
    assert many("list", "--sort", "nam", "--json", code=2).error["suggestion"] == "name"
    assert "did you mean tag?" in many("list", "--columns", "tags", code=2).err
    assert "given twice" in many("list", "size > 1", "--where", "size > 1", code=2).err
    assert "\x1b" not in many("list", "name = \x1b[31m and", code=2).err


@pytest.mark.parametrize(
    ("arguments", "word", "meant"),
    [
        (("list", "bert", "stage = dev"), "stage", "labels.stage"),
        (("list", "size > 1 and acc > 0.9"), "acc", "metrics.acc"),
        (("list", "bert", "opt = w"), "opt", "metadata.opt"),
        (("count", "--where", "stage = dev"), "stage", "labels.stage"),
        (("list", "--sort", "stage"), "stage", "labels.stage"),
        (("list", "--columns", "tag,stage"), "stage", "labels.stage"),
        (("forget", "bert", "--keep-where", "stage = dev", "--dry-run"), "stage", "labels.stage"),
    ],
)
def test_a_word_that_versions_have_below_a_field_is_answered_with_it(
    many: Cli, arguments: tuple[str, ...], word: str, meant: str
) -> None:
    said = many(*arguments, code=2).err.splitlines()
    assert said[0] == f"error: there is no field {word!r}, but versions have {meant}; did you mean that?"
    assert said[2].index("^") == said[1].index(word)
    error = many(*arguments, "--json", code=2).error
    assert error["suggestion"] == meant


def test_a_word_that_versions_have_twice_is_answered_with_both(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"w")
    cli("save", "bert:v1", source, "-l", "lr=low", "-m", "lr=0.1")
    said = cli("list", "lr > 0.01", code=2).err
    assert "there is no field 'lr', but versions have labels.lr and metadata.lr; did you mean one of them?\n" in said


def test_a_pattern_deletes_nothing(many: Cli) -> None:
    many("delete", "-y", "--all-versions-of", "run-*", code=2)
    assert many("count").out == f"{VERSIONS}\n"


def test_an_empty_result_says_so(many: Cli) -> None:
    assert "no version fits" in many.on_terminal("list", "metrics.acc > 5", "--columns", "tag")
    for verb in ("list", "count"):
        said = many.on_terminal(verb, "metrics.acuracc > 0 and metadata.opt = x and labels.zzz = 1", "-l", "stag=dev")
        assert "no version has metrics.acuracc; nearest: metrics.acc" in said
        assert "no version has labels.zzz;" not in said
        assert "no version has labels.zzz" in said
        assert "no version has labels.stag; nearest: labels.stage" in said
        assert said.count("no version") == 3
    assert many("list", "metrics.acuracc > 0").err == ""
    assert "did you mean bert?" in many("list", "bret", "size > 1", code=12).err
