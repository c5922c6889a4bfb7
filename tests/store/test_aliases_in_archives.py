"""Aliases that travel with a `.casmodel`: only where it is said, on both sides."""

from __future__ import annotations

import io
from pathlib import Path

import msgpack
import pytest

import casstore
from tests.kit import Save


@pytest.fixture
def source(tmp_path: Path, save: Save):
    with casstore.Store(tmp_path / "source") as opened:
        for number in (1, 2, 3):
            save(f"m:r{number}", {"a": str(number).encode()}, into=opened, durability="relaxed")
        opened.set_alias("m@prod", "m:r2")
        opened.set_alias("m@best", "m:r2")
        opened.set_alias("m@new", "m:r3")
        yield opened


def standing(store: casstore.Store) -> dict[str, str]:
    return {str(each): str(each.tag) for each in store.aliases()}


def test_both_sides_must_say_so(source, store, tmp_path: Path) -> None:
    plain, named = tmp_path / "plain.casmodel", tmp_path / "named.casmodel"
    source.export(["m:r1", "m@prod"], plain)
    source.export(["m:r1", "m@prod"], named, aliases=True)
    for path, aliases in ((plain, False), (named, False), (plain, True)):
        imported = store.import_archive(path, aliases=aliases)
        assert standing(store) == {}
        told = "it came without aliases; `casstore export --aliases` to a .casmodel takes them along"
        assert [note for each in imported for note in each.notes] == ([told] if aliases else [])
    assert [each.notes for each in store.import_archive(named, aliases=True)] == [(), ()]
    assert standing(store) == {"m@best": "m:r2", "m@prod": "m:r2"}
    (move,) = store.alias_history("m@prod")
    assert (move.action, move.reason) == ("import", "imported from named.casmodel")


def test_what_is_here_moves_unless_it_is_protected(source, store, tmp_path: Path) -> None:
    path = source.export(["m:r2", "m:r3"], tmp_path / "named.casmodel", aliases=True)
    store.import_archive(source.export("m:r1", tmp_path / "one.casmodel"))
    for alias in ("m@prod", "m@best"):
        store.set_alias(alias, "m:r1")
    store.protect_alias("m@prod")
    notes = [note for each in store.import_archive(path, aliases=True) for note in each.notes]
    assert len(notes) == 1
    assert notes[0].startswith("m@prod is protected, so it was not moved")
    assert standing(store) == {"m@best": "m:r2", "m@new": "m:r3", "m@prod": "m:r1"}
    assert [move.version for move in store.alias_history("m@best")] == ["r2", "r1"]
    store.import_archive(path, aliases=True)
    assert len(store.alias_history("m@best")) == 2


def test_under_another_tag(source, store, tmp_path: Path) -> None:
    path = source.export("m@prod", tmp_path / "named.casmodel", aliases=True)
    store.import_archive(path, as_tag="other:1", aliases=True)
    assert standing(store) == {"other@best": "other:1", "other@prod": "other:1"}


def test_other_formats_hold_none(source, store, tmp_path: Path) -> None:
    with pytest.raises(casstore.InvalidSource, match=r"only a .casmodel holds aliases, and .*m.tar is not one"):
        source.export("m@prod", tmp_path / "m.tar", aliases=True)
    assert not (tmp_path / "m.tar").exists()
    source.export("m@prod", tmp_path / "m.tar")
    source.export("m@new", tmp_path / "folder", format="folder")
    for path in (tmp_path / "m.tar", tmp_path / "folder"):
        (imported,) = store.import_archive(path, aliases=True)
        assert [note.partition(";")[0] for note in imported.notes] == ["it came without aliases"]
    assert standing(store) == {}


CLAIMS = [
    [("m", "r2", "prod"), ("m", "r2", "prod")],
    [("m", "r9", "prod")],
    [("other", "r2", "prod")],
    [("m", "r2", "latest")],
    [("m", "r2", "v7")],
    [("m", "r2", "Prod")],
    [("m", "r2", "a~1")],
    [("m", "r2", "a:b")],
    [("m", "r2", 7)],
    [("m", "r2")],
    7,
    [None],
]


@pytest.mark.filterwarnings("ignore:the alias")
def test_what_a_stranger_may_claim(source, store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = msgpack.packb
    for claimed in CLAIMS:
        with monkeypatch.context() as patch:
            lie = {True: claimed}.get
            patch.setattr(
                "casstore.archive.casmodel.msgpack.packb", lambda told, lie=lie: real(lie(is_aliases(told), told))
            )
            path = Path(source.export("m:r2", tmp_path / "named.casmodel", aliases=True))
        with pytest.raises(casstore.IntegrityError, match=r"the aliases in .*named\.casmodel"):
            store.import_archive(path)
    assert store.tags() == []


def is_aliases(value) -> bool:
    return type(value) is list and bool(value) and list(map(type, value[0])) == [str, str, str]


def test_one_that_is_damaged_or_cut_short(source, store) -> None:
    sink = io.BytesIO()
    source.export("m:r2", sink, aliases=True)
    data = sink.getvalue()
    at = data.index(b"prod")
    for damaged, said in ((data[:at] + b"pr0d" + data[at + 4 :], "are damaged"), (data[:at], "is cut short")):
        with pytest.raises(casstore.IntegrityError, match=said):
            store.import_archive(io.BytesIO(damaged), aliases=True)
    unknown = data[:10] + b"\x04\x00" + data[12:]
    with pytest.raises(casstore.UnsupportedFormat, match="written by a newer casstore"):
        store.import_archive(io.BytesIO(unknown))
    assert standing(store) == {}
