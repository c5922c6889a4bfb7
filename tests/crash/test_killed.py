"""Killed at every call that changes a file: what was acknowledged is there, what was not is absent or complete.

CASSTORE_TEST_EVERY=1 kills at every single call, when it is about to be made and when it has been; by default, of a run
of like calls, the first two and the last count, and of these every second, or fewer where there are many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest

from tests.crash import tracer
from tests.crash.conftest import EVERY, NAMES
from tests.crash.scenarios import check, copy_store, remove
from tests.crash.tracer import Call

# Every so manieth call of these is enough for a short run, of the others every second.
STRIDE = {
    "gc": 4, "evict": 4, "repair": 4, "rebuild the catalog": 4,
    "import a tar": 4, "import a casmodel": 4, "adopt in place": 8, "adopt and move": 8, "sync the tree": 10,
}  # fmt: skip
pytestmark = pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")


@pytest.mark.parametrize("scenario", NAMES, indirect=True)
def test_killed_at_every_call(scenario, ground, request):
    template, home = ground / "template", ground / "store"
    name = request.node.callspec.params["scenario"]
    scenario.prepare(template)

    def attempt(**options: object) -> tracer.Traced:
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
        for number in count(1):
            if (
                number <= len(whole.calls)
                and not EVERY
                and (_is_amid(whole.calls, number - 1) or number % STRIDE.get(name, 2))
            ):
                continue
            traced = attempt(kill_at=number, is_done=is_done)
            try:
                check(home, scenario, acknowledged=traced.acknowledged, gc_first=number % 8 < 4)
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


def _is_amid(calls: Sequence[Call], index: int) -> bool:
    """Whether two calls before this one and the one after it are like it.

    SQLite writes a transaction to its log page by page, and none of it counts before the last is there. A new store's
    256 directories are made one after another.
    """

    def kind(call: Call) -> tuple[str, str]:
        return call.name, call.path.rpartition("/")[0] if call.name == "mkdir" else call.path

    around = calls[max(0, index - 2) : index + 2]
    return len(around) == 4 and len({kind(call) for call in around}) == 1
