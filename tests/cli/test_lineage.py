"""casstore log, casstore lineage, casstore save --parent and --capture."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from casstore.cli import lineages
from tests.cli.conftest import Cli, write_model

HF = "hf://org/base@rev"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """bert:v1, what came from it and other things, and what came from that. No test changes the store."""
    directory = tmp_path_factory.mktemp("line")
    out = write_model(directory / "out")
    with casstore.Store(directory / "home") as store:
        store.save("bert:v1", out)
        (out / "config.json").write_text('{"hidden": 8}')
        store.save("chat:v1", out, parents=[("bert:v1", "finetune"), (HF, "merge"), ("sst2@sha256:abcd", "dataset")])
        store.save("chat:v2", out, parents=["chat:v1"])
        store.save("odd:v1", out, parents=[('hf://a"]--><b>\\', "merge")])
    return Cli(directory / "home")


def test_log_lists_generations(line: Cli) -> None:
    rows = [row.split("\t")[:4] for row in line("log", "chat:v1").out.splitlines()]
    assert rows == [
        ["1", "chat:v2", "derived", "chat:v1"],
        ["0", "chat:v1", "", ""],
        ["-1", "bert:v1", "finetune", "chat:v1"],
        ["-1", HF, "merge", "chat:v1"],
        ["-1", "sst2@sha256:abcd", "dataset", "chat:v1"],
    ]
    shown = line.on_terminal("log", "chat:v1")
    assert "GENERATION" in shown
    assert "+1" in shown


def test_log_draws_a_tree(line: Cli) -> None:
    head, *lines = line("log", "chat:v2", "--graph").out.splitlines()
    assert head.startswith("chat:v2  ")
    assert lines == [
        "came from",
        "`- derived  chat:v1  (0.0% changed, 0 of 3 chunks)",
        "   |- finetune  bert:v1  (33% changed, 1 of 3 chunks)",
        f"   |- merge  {HF}",
        "   `- dataset  sst2@sha256:abcd",
    ]
    assert line("lineage", "chat:v2").out.splitlines() == [head, *lines]


def test_log_says_that_there_is_more(line: Cli) -> None:
    assert "there are more" in line("log", "chat:v2", "--depth", "1").err
    assert line("log", "chat:v2", "--depth", "1", "-q").err == ""
    line("log", "chat:v2", "--depth", "0", code=2)


def test_log_as_json(line: Cli) -> None:
    document = line("log", "chat:v1", "--json").json
    assert document == line("log", "chat:v1", "--format", "json").json
    assert (document["tag"], document["is_whole"]) == ("chat:v1", True)
    first, second, _ = document["ancestors"]
    assert (first["tag"], first["relation"], first["state"], first["changed_count"]) == (
        "bert:v1",
        "finetune",
        "here",
        1,
    )
    assert (second["uri"], second["tag"], second["of"], second["state"]) == (HF, None, "chat:v1", "outside")
    assert document["descendants"][0]["depth"] == 1


def test_log_for_programs_that_draw(line: Cli) -> None:
    drawn = line("log", "chat:v2", "--format", "mermaid").out.splitlines()
    assert drawn[:2] == ["flowchart TD", '  n0["chat:v2"]']
    assert '  n1 -->|"derived, 0.0% changed"| n0' in drawn
    dot = line("log", "chat:v2", "--format", "dot").out.splitlines()
    assert (dot[0], dot[-1]) == ("digraph lineage {", "}")
    assert '  n1 -> n0 [label="derived, 0.0% changed"];' in dot


def test_names_cannot_break_out_of_a_drawing(line: Cli) -> None:
    with casstore.Store(line.home) as store:
        lineage = store.lineage("odd:v1")
    assert '  n1(["hf://a#34;#93;--#62;#60;b#62;#92;"])' in lineages.mermaid(lineage)
    assert '  n1 [label="hf://a\\"]--><b>\\\\", shape=ellipse];' in lineages.dot(lineage)


def test_save_takes_parents(saved: Cli, files: Path) -> None:
    parents = ("--parent", "bert:v1=finetune", "--parent", f"{HF}=merge", "--parent", "bert:v2")
    saved("save", "chat:v1", files, *parents)
    shown = saved("show", "chat:v1", "--json").json["parents"]
    assert [(each["relation"], each["tag"], each["uri"]) for each in shown] == [
        ("finetune", "bert:v1", None),
        ("merge", None, HF),
        ("derived", "bert:v2", None),
    ]
    assert f"bert:v1 (finetune); {HF} (merge)" in saved("show", "chat:v1").out
    saved("save", "chat:v3", files, "--parent", "https://example.org/x?a=B2")
    assert saved("show", "chat:v3", "--json").json["parents"][0]["uri"] == "https://example.org/x?a=B2"
    assert "there is no bert:v9" in saved("save", "chat:v4", files, "--parent", "bert:v9=finetune", code=12).err
    saved("save", "chat:v4", files, "--parent", "", code=2)


def test_infer(line: Cli) -> None:
    assert line("lineage", "--infer", "chat:v2", "--in", "chat").out == "chat:v1\t1.000000\t3\t3\tchunks\n"
    document = line("lineage", "--infer", "chat:v2", "--json").json
    assert document["likely"][0]["tag"] == "chat:v1"
    assert "3 of 3 chunks" in line.on_terminal("lineage", "--infer", "chat:v2")
    assert line("lineage", "--infer", "chat:v2", "--in", "nothing", code=12).out == ""
    line("lineage", "--infer", "chat:v9", code=12)


def test_capture(saved: Cli, files: Path) -> None:
    saved("save", "m:1", files, "--capture", "-m", "a=1")
    metadata = saved("show", "m:1", "--json").json["metadata"]
    assert metadata["a"] == 1
    assert metadata["capture"]["packages"]["casstore"] == casstore.__version__
