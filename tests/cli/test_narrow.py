"""Tables on narrow screens: one line for each row, no tag broken, nothing wider than the screen but a tag."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import casstore
from casstore.cli.narrow import Shape, cells, lines
from tests.cli.conftest import Cli
from tests.kit import plant


def plain(screen: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen).replace("\r", "").splitlines()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory):
    """A store of versions with generated and long names, many labels, and its CLI."""
    from tests.cli.conftest import Cli

    directory = tmp_path_factory.mktemp("many")
    (directory / "w").write_bytes(b"w" * 2_000_000)
    labels = {"stage": "production", "trained-by": "someone", "dataset": "wikitext-103-raw"}
    with casstore.Store(directory / "home") as store:
        for number in range(30):
            store.save("distilbert-base-uncased", directory / "w", labels=labels, durability="relaxed")
            store.save(f"bert:v{number}", directory / "w", durability="relaxed")
    return Cli(directory / "home")


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_a_version_is_one_line(many, columns) -> None:
    screen = plain(many.on_terminal("list", columns=columns))
    tags = [line.split("\t")[0] for line in many("list").out.splitlines()]
    assert len(screen) == 61
    assert [line.split()[0] for line in screen] == ["TAG", *tags]
    assert all(len(line) <= columns for line in screen)
    assert ("1.91 MiB" in screen[1]) is (columns > 40)
    if columns == 80:
        assert re.search(r"\d{4}-\d\d-\d\d", screen[1])
        assert "dataset=wikit" in screen[2]


def test_a_wide_screen_shows_all(many) -> None:
    screen = plain(many.on_terminal("list", columns=200))
    assert "dataset=wikitext-103-raw" in screen[2]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", screen[1])
    assert "FILES" in screen[0]


def test_a_tag_longer_than_the_screen_is_whole(cli: Cli, files: Path) -> None:
    tag = "a-very-long-name-of-a-model-for-any-table:with-a-version-of-its-own"
    with casstore.Store(cli.home) as store:
        store.save(tag, files, durability="relaxed", labels={"a": "b"})
        store.save("bert:v1", files, durability="relaxed")
    for columns in (80, 60):
        screen = plain(cli.on_terminal("list", columns=columns))
        assert tag in "".join(screen)
        assert any("bert:v1" in line and "2.00 MiB" in line for line in screen)


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_stats_keeps_the_models(many, columns) -> None:
    screen = plain(many.on_terminal("stats", "-q", columns=columns))
    assert screen[0].startswith("MODEL")
    assert "distilbert-base-uncased" in "\n".join(screen)
    for name in ("bert", "(whole store)"):
        assert any(line.startswith(name) and "MiB" in line for line in screen)
    assert all(len(line) <= columns for line in screen)


def test_the_first_column_has_its_room_before_others_grow() -> None:
    shapes = (Shape(steps=((0, 5),)), Shape(steps=((1, 6),)))
    shown = list(lines(shapes, [("name", "labels"), ("a" * 12, "stage=production")], 24))
    assert shown == ["name          labels", f"{'a' * 12}  stage=pro…"]


def test_ls_breaks_no_path_itself(cli: Cli, tmp_path: Path) -> None:
    path = "checkpoints/" + "a" * 60 + "/model.safetensors"
    plant(tmp_path / "out", {path: b"w" * 2000, "few": b"x"})
    cli("save", "m:1", tmp_path / "out")
    screen = plain(cli.on_terminal("ls", "m:1", columns=40))
    assert screen[:2] == [f"1.95 KiB  {path}", "     1 B  few"]


TEXT = st.text(st.sampled_from("ab-: é日\u0301"), max_size=30)


@given(
    st.integers(1, 120),
    st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=6),
    st.integers(1, 60),
)
def test_nothing_is_wider_than_the_screen_but_a_first_cell(screen, rows, room) -> None:
    shapes = (
        Shape(steps=((0, room),)),
        Shape(right=True, steps=((4, 0),)),
        Shape(flexible=False, steps=((2, 10), (5, 0))),
        Shape(steps=((1, 5), (3, 0))),
    )
    shown = list(lines(shapes, rows, screen))
    firsts = [row[0].rstrip() for row in rows]
    for line in shown:
        assert cells(line) <= screen or line.rstrip() in firsts
    at = 0
    for first in firsts:  # each whole, in this order
        while not shown[at].startswith(first):
            at += 1
        at += 1
    natural = sum(max(cells(row[column]) for row in rows) for column in range(4)) + 6
    if natural <= screen:
        assert len(shown) == len(rows)
        seen = [(text, line) for row, line in zip(rows, shown, strict=True) for text in row if cells(text)]
        assert all(text.strip() in line for text, line in seen)
