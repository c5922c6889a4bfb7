"""`casstore annotate`: what is typed, what is shown, and what `show` and `list` make of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def model(cli: Cli, tmp_path: Path) -> Cli:
    (tmp_path / "w").write_text("w")
    cli("save", "net:1", tmp_path / "w", "-l", "stage=dev", "-m", "lr=0.1")
    return cli


def test_what_is_said_is_shown(model: Cli) -> None:
    assert model("annotate", "net", "-l", "stage=prod", "-m", "f1=0.87", "-m", "steps=900").out == "net:1\n"
    assert model("list", "-l", "stage=prod").out.startswith("net:1\t")
    assert model("list", "-l", "stage=dev").out == ""
    shown = dict(line.split("\t")[:2] for line in model("show", "net").out.splitlines())
    assert shown["label.stage"] == "prod"
    assert json.loads(shown["metadata.metrics"]) == {"f1": 0.87, "steps": 900}
    assert shown["annotated.label.stage"].startswith("prod, saved as dev, 20")
    assert shown["annotated.metric.f1"].startswith("0.87, 20")
    document = model("show", "net:1", "--json").json
    assert document["labels"] == {"stage": "prod"}
    assert document["saved_labels"] == {"stage": "dev"}
    assert document["saved_metadata"] == {"lr": 0.1}
    assert [each["key"] for each in document["annotations"]] == ["stage", "f1", "steps"]
    answer = model("annotate", "net:1", "--remove", "stage", "--remove", "metrics.f1", "-m", "loss=nan", "--json").json
    assert (answer["labels"], answer["metadata"]["metrics"]) == ({}, {"steps": 900, "loss": None})
    lines = [line.split("\t") for line in model("annotate", "net", "--log").out.splitlines()]
    assert [line[2:] for line in lines] == [
        ["label.stage", "prod"], ["metric.f1", "0.87"], ["metric.steps", "900"], ["label.stage", ""],
        ["metric.f1", ""], ["metric.loss", "nan"],
    ]  # fmt: skip
    log = model("annotate", "net", "--log", "--json").json
    assert [each["value"] for each in log["annotations"]][3:] == [None, None, None]
    assert [each["kind"] for each in model("events", "--json").json["events"]] == ["saved", "annotated", "annotated"]


def test_on_a_terminal(model: Cli) -> None:
    assert "nothing was said of net:1" in model.on_terminal("annotate", "net", "--log")
    assert "annotated net:1" in model.on_terminal("annotate", "net", "-l", "a=\x1b[31m")
    screen = model.on_terminal("annotate", "net", "--log")
    assert "IS NOW" in screen
    assert "\\x1b[31m" in screen
    assert "annotated.label.a" in model.on_terminal("show", "net")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what: -l KEY=VALUE"),
        (["--log", "-l", "a=b"], "--log shows, and changes nothing"),
        (["-m", "f1=good"], "--metric takes KEY=NUMBER, such as f1=0.87, not 'f1=good'; text goes into a label"),
        (["-m", "f1"], "--metric takes KEY=VALUE"),
        (["-l", "a=1", "-l", "a=2"], "gives 'a' twice"),
        (["--remove", "lr"], "net:1 has no label and no metric 'lr'; it has labels.stage"),
    ],
)
def test_wrong_use(model: Cli, arguments, said) -> None:
    assert said in model("annotate", "net", *arguments, code=2).err
    assert model("annotate", "net:2", "-l", "a=b", code=12).err
