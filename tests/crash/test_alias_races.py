"""Eight processes after one alias, of which one is killed at a call: one wins at most, and all that is told agrees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import casstore
from tests.crash import tracer
from tests.crash.conftest import spread
from tests.crash.scenarios import copy_store, open_store, put, remove
from tests.kit import EVERY, Child, known

pytestmark = [pytest.mark.crash, pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")]
RACERS = 8
POINTS = 5


def race(home: Path, number: int) -> int:
    with open_store(home) as store:
        try:
            store.set_alias("m@prod", f"m:r{number}", expected="m:start")
        except casstore.AliasMoved:
            return 11
    return 0


def batched(data: bytes) -> Iterator[tuple[int, int]]:
    return zip(data[::2], data[1::2], strict=True)


def answer(home: Path, number: int, answers: int) -> None:
    os.write(answers, bytes([number, race(home, number)]))


def start(home: Path, answers: int) -> None:
    """Have all but the first run, each of which writes its number and its answer; none is a child of this process, for
    the tracer waits for whatever is."""

    def start_all() -> None:
        for number in range(1, RACERS):
            Child(partial(answer, home, number, answers))

    assert Child(start_all).wait() == 0
    os.close(answers)


def test_one_of_eight_is_killed(tmp_path: Path) -> None:
    template, home = tmp_path / "template", tmp_path / "store"
    for name in ("start", *(f"r{number}" for number in range(RACERS))):
        put(template, f"m:{name}", {"a": name.encode()}, materialize=False, durability="relaxed")
    with open_store(template) as store:
        store.set_alias("m@prod", "m:start")
    copy_store(template, home)
    calls = tracer.run(lambda: race(home, 0), below=tmp_path).calls
    points = range(1, len(calls) + 1)
    for kill_at in spread([*points], len(points) if EVERY else POINTS):
        remove(home)
        copy_store(template, home)
        answers, answer = os.pipe()
        start(home, answer)
        traced = tracer.run(lambda: race(home, 0), below=tmp_path, kill_at=kill_at)
        with open(answers, "rb") as told:
            codes = dict(batched(told.read()))
        assert len(codes) == RACERS - 1
        if not traced.killed:  # a race that is lost takes fewer calls
            codes[0] = known(traced.exit_code)
        winners = [number for number, code in codes.items() if code == 0]
        assert set(codes.values()) <= {0, 11}
        with open_store(home) as store:
            store.gc()
            standing = store.get("m@prod").version
            assert [move.version for move in store.alias_history("m@prod")] == [standing, "start"]
            assert standing in ([f"r{number}" for number in winners] or ["r0"])
            before = store.aliases()
            assert store.verify().is_sound
        casstore.Store.rebuild_catalog(home)
        with open_store(home) as store:
            assert store.aliases() == before
