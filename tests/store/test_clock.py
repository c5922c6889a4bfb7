"""A clock that jumps by years changes no decision about what is kept, nor which version is the latest."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import casstore
from tests.kit import contents, noise

YEAR = 365 * 24 * 3600
NOW = 1_700_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """clock(years): what all clocks of this process say from now on, beginning in 2023."""

    def set_to(years):
        seconds = NOW + years * YEAR
        monkeypatch.setattr(time, "time", lambda: float(seconds))
        monkeypatch.setattr(time, "time_ns", lambda: seconds * 10**9)

    return set_to


@pytest.mark.parametrize("years", [(0, 10, -10), (0, -10, 10), (30, 0, 15), (-20, -30, -25)])
def test_latest_is_what_was_saved_last(store: casstore.Store, clock, years) -> None:
    for number, year in enumerate(years):
        clock(year)
        with store.create(f"m:{number}") as draft:
            Path(draft.path, "w").write_bytes(noise(200_000, number))
        assert store.get("m").tag.version == str(number)
        assert store.get("m:latest").tag.version == str(number)
        assert store.list("m")[0].tag.version == str(number)
    for year in (*years, 40, -40):
        clock(year)
        store.gc()
        assert len(store.tags()) == len(years)
        assert store.get("m").tag.version == str(len(years) - 1)
        for number in range(len(years)):
            assert contents(store.get(f"m:{number}")) == {"w": noise(200_000, number)}


@pytest.mark.parametrize("jump", [-20, 20])
def test_gc_takes_nothing_from_a_running_save_whatever_the_clock_says(
    store: casstore.Store, home: Path, clock, jump
) -> None:
    clock(0)
    with casstore.Store(home, auto_gc=False) as other, store.create("m:1") as draft:
        Path(draft.path, "w").write_bytes(noise(200_000))
        clock(jump)
        other.gc(evict_all=True)
        Path(draft.path, "x").write_bytes(noise(200_000, 1))
        clock(-jump)
        other.gc(evict_all=True)
    assert contents(store.get("m:1")) == {"w": noise(200_000), "x": noise(200_000, 1)}
    assert store.verify().is_sound
