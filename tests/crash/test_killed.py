"""Killed at every call that changes a file: what was acknowledged is there, what was not is absent or complete."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.crash import tracer
from tests.crash.conftest import NAMES
from tests.crash.scenarios import check, copy_store, remove

pytestmark = pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")
EVERY = bool(os.environ.get("CASSTORE_TEST_EVERY"))


@pytest.mark.parametrize("scenario", NAMES, indirect=True)
def test_killed_at_every_call(scenario, ground, request):
    template, home = ground / "template", ground / "store"
    scenario.prepare(template)
    counted: Counter[str] = Counter()
    number = 0
    while True:
        # A new store's directories are made one after another, and 256 of them are alike.
        number += 1 if EVERY or counted["mkdir"] < 20 or request.node.callspec.id != "make a store" else 7
        remove(home)
        if template.exists():
            copy_store(template, home)
        traced = tracer.run(lambda: scenario.operation(home), below=ground, kill_at=number)
        try:
            check(home, scenario, acknowledged=traced.acknowledged)
        except BaseException:
            print(f"killed at call {number}, {[str(call) for call in traced.calls[-5:]]}")
            raise
        if not traced.killed:
            assert traced.acknowledged
            break
        counted[traced.calls[-1].name] += 1
    assert number > 3
    print(f"{request.node.name}: {number - 1} points: {dict(counted)}")
