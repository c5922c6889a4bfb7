"""Searches among the versions of a remote: the same expressions as in the store, over what a remote lists."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore.cli.exits import ExitCode
from tests.cli.conftest import Cli

EXPRESSIONS = [
    "labels.stage = prod",
    "labels.stage != prod",
    "not labels.stage exists",
    "size > 2 and size <= 4",
    "name ~ 'run-*' or version = v0",
    "labels.owner like 'A%'",
    "created < 1d and tag in (bert:v0, 'run-1:v1')",
    "created > 1d",
    "version not in (v1, v2)",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six versions, all of which are in its remote."""
    place = tmp_path_factory.mktemp("searching-remotes")
    with casstore.Store(place / "home", auto_gc=False) as store:
        for number in range(6):
            labels = {"stage": "prod"} if number % 2 else {"owner": "ann"} if number else {}
            name = ("bert", "run-1", "run-2")[number % 3]
            with store.create(f"{name}:v{number}", labels=labels, metadata={"acc": number}) as draft:
                Path(draft.path, "w").write_bytes(bytes(number))
        with store.add_remote("origin", str(place / "remote")) as there:
            there.push()
    return place / "home"


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_an_expression_finds_there_what_it_finds_here(home: Path, where: str) -> None:
    with casstore.Store(home) as store, store.remote() as there, casstore.Remote(str(home.parent / "remote")) as bare:
        here = {model.tag for model in store.list(where=where)}
        assert {ref.tag for ref in there.list(where=where)} == here == {ref.tag for ref in bare.list(where=where)}


def test_names_labels_order_and_limit_are_those_of_the_store(home: Path) -> None:
    with casstore.Store(home) as store, store.remote() as there:
        assert [str(ref.tag) for ref in there.list()] == [f"{n}:v{v}" for v, n in reversed([*enumerate(_names())])]
        for name, labels, sort, limit in [
            ("run-*", None, "-size", 2),
            ("run-1", None, "size", None),
            (None, {"stage": "prod"}, "labels.owner,-name", None),
            (None, None, "name,-created", 4),
            ("nothing", None, "size", None),
        ]:
            here = [model.tag for model in store.list(name, labels=labels, sort=sort, limit=limit)]
            assert [ref.tag for ref in there.list(name, labels=labels, sort=sort, limit=limit)] == here
        newest = [model.tag for model in store.list(sort="-created", limit=2)]
        assert [ref.tag for ref in there.list(limit=2)] == newest
        assert there.table("run-1", columns="tag,size,labels.stage,labels", sort="size") == [
            {"tag": "run-1:v1", "size": 1, "labels.stage": "prod"},
            {"tag": "run-1:v4", "size": 4, "labels.stage": None, "labels.owner": "ann"},
        ]


def _names() -> list[str]:
    return ["bert", "run-1", "run-2"] * 2


@pytest.mark.parametrize("field", ["metadata.acc", "metrics.acc", "pinned", "alias", "files", "opened", "base"])
def test_what_a_remote_does_not_list_is_refused_before_it_is_asked(home: Path, field: str) -> None:
    with casstore.Store(home) as store, store.remote() as there:
        with pytest.raises(casstore.InvalidQuery, match=f"a remote does not list {field}, only tag, name"):
            there.list(where=f"size > 1 or not {field} exists")
        with pytest.raises(casstore.InvalidQuery, match=f"a remote does not list {field}, only tag, name"):
            there.list(sort=f"-{field}")
        with pytest.raises(casstore.InvalidQuery, match="a remote does not list"):
            there.table(columns=f"tag,{field}")
        with pytest.raises(casstore.InvalidQuery, match="expected a comparison"):
            there.list(where="size")
        with pytest.raises(casstore.InvalidTag):
            there.get("run-*")


def test_the_command_line(home: Path) -> None:
    cli = Cli(home)
    listed = cli("list", "run-*", "size > 1", "--sort", "-size", "--limit", "2", "--remote", "origin").out
    assert [line.split("\t")[::4] for line in listed.splitlines()] == [["run-2:v5", "yes"], ["run-1:v4", "yes"]]
    assert cli("list", "--remote", "--columns", "tag,labels.stage", "version = v1").out == "run-1:v1\tprod\n"
    document = cli("list", "version = v1", "--columns", "tag,size", "--remote", "--json").json
    assert document == {"url": f"{home.parent}/remote", "versions": [{"tag": "run-1:v1", "size_bytes": 1}]}
    assert cli("count", "labels.stage = prod", "--remote").out == "3\n"
    assert "no version fits" in cli.on_terminal("list", "size > 1GB", "--remote")
    assert "no version fits" in cli.on_terminal("count", "size > 1GB", "--remote")
    assert "fits" not in cli("count", "size > 1GB", "--remote").err
    refused = cli("list", "metrics.acc > 1", "--remote", code=ExitCode.USAGE)
    assert "a remote does not list metrics.acc" in refused.err
