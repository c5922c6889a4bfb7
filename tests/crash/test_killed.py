"""Killed at every call that changes a file: what was acknowledged is there, what was not is absent or complete.

CASSTORE_TEST_EVERY=1 kills at every single call, when it is about to be made and when it has been; by default, of a run
of like calls, the first two and the last count, and of these some, spread over the operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest

from tests.crash import tracer
from tests.crash.conftest import spread
from tests.crash.scenarios import Scenario, check, copy_store, remove
from tests.crash.scenarios.every import NAMES
from tests.crash.tracer import Call
from tests.kit import EVERY

# By default, how many calls of an operation it is killed at.
POINTS = 5
pytestmark = [pytest.mark.crash, pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")]


@pytest.mark.parametrize("scenario", NAMES, indirect=True)
def test_killed_at_every_call(scenario: Scenario, ground: Path, request: pytest.FixtureRequest) -> None:
    template, home = ground / "template", ground / "store"
    scenario.prepare(template)

    def attempt(**options: Any) -> tracer.Traced:
        remove(home)
        if template.exists():
            copy_store(template, home)
        scenario.around(home)
        return tracer.run(lambda: scenario.operation(home), below=ground, **options)

    whole = attempt()
    assert whole.acknowledged
    check(home, scenario, acknowledged=True)
    counted: Counter[str] = Counter()
    for is_done in [False, True] if EVERY else [False]:
        # A run may make some calls more than another.
        for turn, number in enumerate(chain(points_of(whole.calls, POINTS), count(len(whole.calls) + 1))):
            traced = attempt(kill_at=number, is_done=is_done)
            try:
                check(home, scenario, acknowledged=traced.acknowledged, gc_first=turn % 2 == 0)
            except BaseException:
                print(f"killed at call {number}, {is_done=}, of {[str(call) for call in traced.calls[-5:]]}")
                raise
            if not traced.killed:
                assert traced.acknowledged
                break
            counted[traced.calls[-1].name] += 1
    assert counted.total() > 3
    points = ", ".join(f"{name} {number}" for name, number in counted.most_common())
    print(f"{request.node.name}: {counted.total()} points of {len(whole.calls)} calls: {points}")


def points_of(calls: Sequence[Call], wanted: int) -> list[int]:
    """The numbers of so many calls, spread over those that count, or of all."""
    return spread([each for each in range(1, len(calls) + 1) if EVERY or not _is_amid(calls, each - 1)], wanted)


def _is_amid(calls: Sequence[Call], index: int) -> bool:
    """Whether two calls before this one and the one after it are like it.

    SQLite writes a transaction to its log page by page, and none of it counts before the last is there. A new store's
    256 directories are made one after another.
    """

    def kind(call: Call) -> tuple[str, str]:
        return call.name, call.path.rpartition("/")[0] if call.name == "mkdir" else call.path

    around = calls[max(0, index - 2) : index + 2]
    return len(around) == 4 and len({kind(call) for call in around}) == 1
