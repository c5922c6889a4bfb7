from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from casstore.archive.names import fold
from casstore.archive.pathset import PathSet

PATHS = st.text("aAbB\u00e9\u00c9e\u0301/", min_size=1, max_size=4)


@settings(max_examples=300)
@given(st.lists(PATHS))
def test_it_knows_what_was_added(paths: list[str]) -> None:
    known: dict[str, str] = {}
    found = PathSet()
    for path in paths:
        other = known.get(fold(path))
        assert found.find(path) == (None if other is None else "same" if other == path else "alike")
        if other is None:
            known[fold(path)] = path
            found.add(path)


def test_it_grows() -> None:
    found = PathSet()
    for number in range(5000):
        assert found.find(f"N{number}") is None
        found.add(f"N{number}")
    assert {found.find(f"N{number}") for number in range(5000)} == {"same"}
    assert {found.find(f"n{number}") for number in range(5000)} == {"alike"}
    assert found.find("N5000") is None
