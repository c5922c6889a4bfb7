"""What stats and show tell of bytes: the same figures in JSON, in a pipe and on a screen."""

import re
import shutil
from pathlib import Path

import pytest

import casstore
from tests.cli.conftest import Cli

WEIGHTS = 2097152
LOGICAL = 2 * (WEIGHTS + 13)


def fields(text: str) -> dict[str, str]:
    """Lines of name, tab, value."""
    return dict(line.split("\t", 1) for line in text.splitlines())


def object_bytes(home) -> int:
    return sum(path.stat().st_size for path in (home / "objects").rglob("*") if path.is_file())


def test_stats_of_the_store(saved: Cli) -> None:
    answer = saved("stats", "--json").json
    assert answer["home"] == str(saved.home)
    assert (answer["versions"], answer["logical_bytes"]) == (2, LOGICAL)
    assert answer["stored_bytes"] == object_bytes(saved.home) == answer["loose_bytes"] + answer["packs_bytes"]
    parts = ("encoded_bytes", "redundant_bytes", "dead_bytes", "trapped_bytes", "overhead_bytes")
    assert answer["stored_bytes"] == sum(answer[part] for part in parts)
    assert answer["ratio"] == round(LOGICAL / answer["stored_bytes"], 3)
    shares = ("share_by_file", "share_by_chunk", "share_by_encoding", "share_needed")
    assert sum(answer[share] for share in shares) == pytest.approx(1, abs=1e-5)
    assert sum(each["encoded_bytes"] for each in answer["encodings"].values()) == answer["encoded_bytes"]
    assert not {"frees_bytes", "materialized", "pinned"} & answer.keys()
    plain = saved("stats").out
    assert fields(plain)["model"].startswith("bert\t2\t")
    assert fields(plain)["kernels"] == answer["kernels"] == casstore.kernels_in_use()
    told = fields(plain)
    assert (told["versions"], told["logical"], told["stored"]) == ("2", str(LOGICAL), str(answer["stored_bytes"]))
    named = {"needed": "encoded_bytes", **{part.removesuffix("_bytes"): part for part in parts[1:]}}
    assert {name: told[name] for name in named} == {name: str(answer[part]) for name, part in named.items()}
    assert (told["loose"], told["packs"]) == (str(answer["loose_bytes"]), str(answer["packs_bytes"]))
    assert told["saved.file"] == f"{answer['share_by_file']:.6f}"


def test_stats_of_models(saved: Cli, files: Path) -> None:
    saved("save", "albert:v1", files)
    one, other = saved("stats", "bert", "--json").json, saved("stats", "albert", "--json").json
    assert (one["name"], one["versions"], other["name"]) == ("bert", 2, "albert")
    assert one["stored_bytes"] == one["encoded_bytes"]
    assert saved("stats", "--by-model", "--json").json == {"models": [other, one]}
    assert saved("stats", "--json").json["models"] == [other, one]
    assert [line.split("\t")[:3] for line in saved("stats", "--by-model").out.splitlines()] == [
        ["albert", "1", str(LOGICAL // 2)],
        ["bert", "2", str(LOGICAL)],
    ]
    told = fields(saved("stats", "bert").out)
    assert (told["model"], told["redundant"], told["ratio"]) == (
        "bert",
        str(one["redundant_bytes"]),
        f"{one['ratio']:.2f}",
    )
    saved("stats", "bert", "--by-model", code=2)
    assert "did you mean" in saved("stats", "bret", code=12).err


def test_stats_and_show_of_a_version_agree(saved: Cli) -> None:
    answer = saved("stats", "bert:v1", "--json").json
    shown = saved("show", "bert:v1", "--json").json
    state = {name: answer.pop(name) for name in ("materialized", "pinned")}
    assert answer.pop("tag") == shown["tag"] == "bert:v1"
    assert shown["usage"] == answer
    assert {name: shown[name] for name in state} == state == {"materialized": True, "pinned": False}
    assert not {"dead_bytes", "trapped_bytes", "overhead_bytes"} & answer.keys()
    assert 0 <= answer["frees_at_rewrite_bytes"] <= answer["frees_bytes"] < 1000, "the other has the weights too"
    names = ("stored", "copied", "redundant", "frees")
    told, told_by_show = fields(saved("stats", "bert:v1").out), fields(saved("show", "bert:v1").out)
    assert {name: told[name] for name in names} == {name: str(answer[f"{name}_bytes"]) for name in names}
    assert all(told_by_show[name] == told[name] for name in (*names, "ratio", "frees.later", "held"))
    assert told_by_show["size"] == told["logical"]


def test_how_a_version_is_held(saved: Cli) -> None:
    def held():
        return [fields(saved("show", tag).out)["held"] for tag in ("bert:v1", "bert:v2")]

    assert held() == ["materialized", "materialized"]
    saved("pin", "bert:v1")
    assert held() == ["materialized, pinned", "materialized"]
    saved("gc", "--evict-all")
    assert held() == ["materialized, pinned", "not materialized"], "the other's loose file holds its bytes"
    saved("unpin", "bert:v1")
    saved("pin", "bert:v2")
    saved("gc", "--evict-all")
    assert held() == ["packed", "packed, pinned"]
    saved("path", "bert:v1")
    assert held()[0] == "materialized"


def test_what_a_deletion_frees_comes_back(saved: Cli, files: Path) -> None:
    (files / "weights.bin").write_bytes(bytes(reversed(range(256))) * 8192)
    saved("save", "other:v1", files)
    frees = saved("stats", "other:v1", "--json").json["frees_bytes"]
    before = object_bytes(saved.home)
    saved("delete", "other:v1", "-y", "--now")
    assert saved("stats", "--json").json["dead_bytes"] == frees
    assert "frees what is dead" in saved.on_terminal("stats", columns=80)
    saved("gc")
    assert before - object_bytes(saved.home) == frees > 0


def test_an_empty_store(cli: Cli) -> None:
    cli("init")
    answer = cli("stats", "--json").json
    assert (answer["ratio"], answer["versions"], answer["models"]) == (None, 0, [])
    assert fields(cli("stats").out)["ratio"] == ""
    assert cli("stats", "--by-model").out == ""
    assert cli("stats", "--by-model", "--json").json == {"models": []}
    assert "(whole store)" in cli.on_terminal("stats", columns=80)


@pytest.mark.parametrize("tag", ["bert:v1", "a-very-long-name-of-a-model-for-any-table:v1"])
def test_a_screen_of_80_columns_holds_all(cli: Cli, files: Path, tag) -> None:
    with casstore.Store(cli.home) as store:
        store.save(tag, files, durability="relaxed")
    name = tag.partition(":")[0]
    for arguments in (["stats"], ["stats", "--by-model"], ["stats", name], ["stats", tag], ["show", tag]):
        screen = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", cli.on_terminal(*arguments, columns=80)).replace("\r", "")
        lines = screen.splitlines()
        assert "…" not in screen
        assert "2.00 MiB" in screen
        # The digest is longer than a line; a terminal breaks it by itself.
        assert all(len(line) <= 80 for line in lines if not line.startswith("digest"))


def test_stats_shows_what_a_prune_keeps(saved: Cli) -> None:
    assert "kept" not in fields(saved("stats").out)
    shutil.rmtree(saved.home / "models/bert/v1")
    saved("config", "set", "trash_days", "0")
    saved("sync-tree", "--prune")
    answer, told = saved("stats", "--json").json, fields(saved("stats").out)
    assert answer["kept_bytes"] == int(told["kept"]) > 0
    assert answer["stored_bytes"] == sum(int(told[part]) for part in (
        "needed", "redundant", "dead", "trapped", "overhead", "kept",
    ))  # fmt: skip
    assert "can bring back" in saved.on_terminal("stats", columns=100)
