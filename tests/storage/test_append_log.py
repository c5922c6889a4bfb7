"""Logs that are appended to: what a crash or damage takes is a line, never the others."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from casstore.storage import append_log

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.lists(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "check"), VALUES, max_size=3))


@given(DOCUMENTS, DOCUMENTS)
def test_what_is_appended_is_read(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as place:
        log = Path(place) / "aliases" / "bert.log"
        append_log.append(log, first)
        append_log.append(log, second)
        assert append_log.read(log) == (first + second, 0)


@given(DOCUMENTS.filter(bool), DOCUMENTS.filter(bool), st.data())
def test_a_line_that_was_cut_is_passed_over(
    first: list[dict[str, Any]], second: list[dict[str, Any]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as place:
        log = Path(place) / "bert.log"
        append_log.append(log, first)
        whole = log.read_bytes()
        last = len(whole.splitlines()[-1])
        log.write_bytes(whole[: len(whole) - data.draw(st.integers(2, last))])
        append_log.append(log, second)
        assert append_log.read(log) == (first[:-1] + second, 1)


@given(DOCUMENTS.filter(bool), st.data())
def test_a_line_that_is_damaged_is_passed_over(documents: list[dict[str, Any]], data: st.DataObject) -> None:
    with TemporaryDirectory() as place:
        log = Path(place) / "bert.log"
        append_log.append(log, documents)
        lines = log.read_bytes().splitlines(keepends=True)
        number = data.draw(st.integers(0, len(lines) - 1))
        line = bytearray(lines[number])
        line[data.draw(st.integers(0, len(line) - 2))] ^= 1 << data.draw(st.integers(0, 7))
        lines[number] = bytes(line)
        log.write_bytes(b"".join(lines))
        found = append_log.read(log)
        assert found.documents == documents[:number] + documents[number + 1 :]
        assert found.damaged in (1, 2)  # where the damage is an end of line, there are two


def test_damage_that_leaves_a_number_what_it_was_is_damage(tmp_path: Path) -> None:
    log = tmp_path / "bert.log"
    append_log.append(log, [{"ratio": 2e-186}])
    log.write_bytes(log.read_bytes().replace(b"2e-186", b"2E-186"))
    assert append_log.read(log) == ([], 1)


def test_there_need_be_none(tmp_path: Path) -> None:
    assert append_log.read(tmp_path / "bert.log") == ([], 0)
