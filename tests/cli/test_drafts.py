"""casstore drafts, and casstore save --draft."""

# ruff: noqa: PT012 - what is refused is refused in a with block

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import Cli


@pytest.fixture
def kept(cli: Cli):
    with (
        casstore.Store(cli.home) as store,
        pytest.raises(casstore.InvalidMetadata),
        store.create("bert:v1", labels={"stage": "dev"}, metadata={"acc": 0.5}) as draft,
    ):
        Path(draft.path, "w.bin").write_bytes(bytes(5000))
        draft.metadata["loss"] = object()
    return store.drafts()[0]


def test_no_draft_is_kept(cli: Cli) -> None:
    cli("init")
    assert cli("drafts").out == ""
    assert cli("drafts", "--json").json == {"drafts": []}
    assert "no draft is kept" in cli.on_terminal("drafts")


def test_drafts_are_listed(cli: Cli, kept) -> None:
    [line] = cli("drafts").out.splitlines()
    draft_id, moment, size, tag, reason = line.split("\t")
    assert (draft_id, size, tag) == (kept.id, "5000", "bert:v1")
    assert moment.endswith("Z")
    assert reason.startswith("InvalidMetadata: metadata.loss is of type object")
    [document] = cli("drafts", "--json").json["drafts"]
    assert (document["id"], document["path"], document["tag"]) == (kept.id, kept.path, "bert:v1")
    assert (document["size_bytes"], document["file_count"]) == (5000, 1)
    assert "metadata.loss" in document["left_out"][0]
    screen = cli.on_terminal("drafts")
    assert kept.id in screen
    assert "4.88 KiB" in screen
    assert f"casstore save bert:v1 --draft {kept.id}" in screen


def test_a_draft_is_saved(cli: Cli, kept) -> None:
    done = cli("save", "bert:v2", "--draft", kept.id[:6], "-m", "loss=0.25", "-l", "stage=prod", "--json")
    assert (done.json["tag"], done.json["labels"], done.json["size_bytes"]) == ("bert:v2", {"stage": "prod"}, 5000)
    assert cli("show", "bert:v2", "--json").json["metadata"] == {"acc": 0.5, "loss": 0.25}
    assert cli("drafts").out == ""
    assert "no draft" in cli("save", "bert:v3", "--draft", kept.id, code=12).err


def test_what_a_policy_forgets_is_said(cli: Cli, kept, tmp_path: Path) -> None:
    file = tmp_path / "w"
    for version in ("v2", "v3"):
        file.write_text(version)
        cli("save", f"bert:{version}", file)
    with casstore.Store(cli.home) as store:
        store.set_policy("bert", keep_last=1)
    done = cli("save", "bert:v1", "--draft", kept.id)
    assert "note: bert: forgotten by policy: bert:v2\n" in done.err
    assert _tags(cli) == ["bert:v3", "bert:v1"], "it was kept before the others were saved"
    assert "bert:v1" not in cli("save", "bert:v4", file, "-q").err
    assert _tags(cli) == ["bert:v4"]


def _tags(cli: Cli) -> list[str]:
    with casstore.Store(cli.home) as store:
        return [*store.tags()]


def test_a_draft_is_removed(cli: Cli, kept) -> None:
    assert cli("drafts", "--remove", kept.id).out == f"{kept.id}\n"
    assert cli("drafts").out == ""
    assert "no draft" in cli("drafts", "--remove", kept.id, code=12).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bert:v2", "out", "--draft", "abc"], "not both"),
        (["bert:v2"], "Missing argument 'PATH'"),
        (["bert:v2", "--draft", "abc", "--module", "torch"], "do not go with --draft"),
        (["bert:v2", "--draft", "abc", "--from-hf"], "do not go with --draft"),
    ],
)
def test_wrong_use(cli: Cli, arguments, message) -> None:
    assert message in cli("save", *arguments, code=2).err
