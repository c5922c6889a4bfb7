"""The small words of the Python interface: exists, in, name, version, a version as a path, and what notebooks show."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange.adopt import Refused
from casstore.notebook import Size, fields, table
from tests.kit import noise, plant


@pytest.fixture
def filled(store: casstore.Store):
    for tag in ("bert:v1", "bert:v2", "albert:v10"):
        with store.create(tag, labels={"by": "<script>alert(1)</script>"}, metadata={"a": ["<b>"] * 500}) as draft:
            plant(draft.path, {"w.bin": noise(100_000, 1), "few": b"x"})
    return store


@pytest.mark.parametrize(
    ("tag", "is_there"),
    [
        ("bert:v1", True),
        ("bert", True),
        ("bert:latest", True),
        ("bert:v3", False),
        ("bert:v", False),
        ("albert:v1", False),  # which get would take for albert:v10
        ("other", False),
        ("other:latest", False),
        (casstore.Tag("bert", "v2"), True),
    ],
)
def test_exists(filled, tag, is_there) -> None:
    assert filled.exists(tag) is is_there
    assert (tag in filled) is is_there


def test_what_cannot_be_a_tag(filled) -> None:
    with pytest.raises(casstore.InvalidTag):
        filled.exists("a/b")
    assert "a/b" not in filled
    assert 7 not in filled
    assert None not in filled


def test_exact(filled) -> None:
    assert filled.exact("bert:v1") == filled.get("bert:v1")
    with pytest.raises(casstore.TagNotFound):
        filled.exact("albert:v1")
    with pytest.raises(casstore.InvalidTag, match=r"it has 2, bert:v2 being the newest.*--all-versions-of bert"):
        filled.exact("bert")
    with pytest.raises(casstore.InvalidTag, match="now bert:v2"):
        filled.exact("bert:latest")


def test_a_model_has_a_name_a_version_and_is_a_path(filled) -> None:
    model = filled.get("bert")
    assert (model.name, model.version) == ("bert", "v2")
    assert os.fspath(model) == model.path
    assert Path(model, "few").read_bytes() == b"x"
    assert sorted(os.listdir(model)) == ["few", "model.yaml", "w.bin"]


class Reader(HTMLParser):
    """Reads a fragment; every element that is opened must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        assert all(name == "colspan" for name, _ in attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p"}


def test_what_notebooks_show(filled, tmp_path: Path) -> None:
    reports = {
        "VerifyReport": filled.verify(),
        "GcReport": filled.gc(),
        "RepairReport": filled.repair(),
        "SyncReport": filled.sync_tree(),
        "BackupReport": filled.backup(tmp_path / "backup"),
        "Usage": filled.stats("bert:v1"),
        "bert:v1": filled.get("bert:v1"),
        "albert:v10": filled.list(),
        "albert": filled,
        "AdoptReport": casstore.AdoptReport(("a:1",), (), (Refused("/x", "<i>no</i>"),), (), 3, 2),
        "InitReport": casstore.Store.init(tmp_path / "other"),
        "RebuildReport": casstore.RebuildReport(("<a>",) * 1000, 3, ()),
    }
    for name, value in reports.items():
        text = value._repr_html_()
        read = Reader(text)
        assert read.tags <= TAGS
        assert name in read.text
        assert len(text) < 10_000
    assert "97.66 KiB (100,001 B)" in Reader(filled.get("bert:v1")._repr_html_()).text
    assert "is_sound yes" in Reader(reports["VerifyReport"]._repr_html_()).text.replace("  ", " ")


def test_a_list_of_versions_is_a_list(filled) -> None:
    models = filled.list("bert")
    assert isinstance(models, list)
    assert models == [filled.get("bert:v2"), filled.get("bert:v1")]
    assert Reader(filled.list("other")._repr_html_()).tags


def test_showing_makes_no_directory(filled) -> None:
    filled.gc(evict_all=True)
    standing = Path(filled.home, "models/bert/v1")
    assert not standing.exists()
    for value in (filled, filled.list(), filled.list()[0]):
        value._repr_html_()
    assert not standing.exists()


def test_long_tables_and_values_are_cut() -> None:
    text = table(("a",), [(n,) for n in range(1000)])
    assert text.count("<tr>") == 51
    assert "and 950 more" in text
    assert "and 90 more" in fields("t", {"many": list(range(100))})
    assert len(fields("t", {"long": "x" * 10_000})) < 500
    assert "none" not in fields("t", {"none": None, "empty": ()})
    assert "1.5 KiB (1,536 B)" in fields("t", {"size": Size(1536)})
