"""A system call fails, once or from then on: a clear error, nothing lost, and it works again once it does not.

CASSTORE_TEST_EVERY=1 has every single call fail, with each of the errors, once and from then on; by default a few of
each operation do, and errors and ways take turns.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
from itertools import product
from pathlib import Path

import pytest

import casstore
from tests.crash import tracer
from tests.crash.conftest import spread
from tests.crash.scenarios import Scenario, check, check_versions, copy_store, hold, let_go, remove
from tests.crash.scenarios.every import NAMES, READING
from tests.kit import EVERY

pytestmark = [pytest.mark.crash, pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")]
ERRORS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.EROFS, errno.EACCES]
# By default, how many calls of an operation are made to fail.
POINTS = 2
FAILED_CLEARLY = 3
# What opens a store that another has open already, or replaces its catalog, is not done with one that is held.
OPENING = ("make a store", "open", "migrate", "rebuild the catalog")


@pytest.mark.parametrize("scenario", [*NAMES, *READING], indirect=True)
def test_an_error_at_a_call(scenario: Scenario, ground: Path, request: pytest.FixtureRequest) -> None:
    template, home = ground / "template", ground / "store"
    scenario.prepare(template)
    name = request.node.callspec.params["scenario"]

    def run(number: int | None = None, error: int = 0, for_ever: bool = False, is_held: bool = False) -> tracer.Traced:
        remove(home)
        if template.exists():
            copy_store(template, home)
        scenario.around(home)
        return tracer.run(
            lambda: _attempt(scenario, home, error, is_held=is_held),
            below=ground, calls=tracer.ALL, fail_at=number, error=error, for_ever=for_ever,
            before=lambda: hold(home) if is_held else None,
        )  # fmt: skip

    length = len(run().calls)
    cases = failed = 0
    first = [*NAMES, *READING].index(name)  # so that all errors have their turn
    for turn, (number, error, for_ever) in enumerate(_cases(length, first), first):
        # A store that has met an error must go on working as well as one that is opened anew.
        traced = run(number, error, for_ever, is_held=name not in OPENING and turn // 2 % 2 == 0)
        what = f"{errno.errorcode[error]} at call {number}, {traced.calls[min(number, len(traced.calls)) - 1]}"
        assert traced.exit_code in (0, FAILED_CLEARLY), what
        assert traced.repeated_syncs == [], what
        try:
            check(home, scenario, acknowledged=True)
        except BaseException:
            print(what)
            raise
        cases += 1
        failed += traced.exit_code == FAILED_CLEARLY
    print(f"{request.node.name}: {cases} cases of {length} calls, {failed} of them ended the operation")


def _cases(length: int, first: int) -> list[tuple[int, int, bool]]:
    """Which call is to fail, with which error, and whether all that follow are to fail too."""
    numbers = spread(range(1, length + 1), POINTS)
    if EVERY:
        return list(product(numbers, ERRORS, [False, True]))
    return [(number, ERRORS[turn % len(ERRORS)], turn % 2 == 1) for turn, number in enumerate(numbers, first)]


def _attempt(scenario: Scenario, home: Path, error: int, *, is_held: bool) -> None:
    """In the traced process: the operation, and if it fails, the operation again when no call fails any more."""
    before = _descriptors()
    try:
        scenario.operation(home)
    except (casstore.CasstoreError, OSError) as raised:
        problem = raised
    else:
        tracer.end_errors()
        return
    tracer.end_errors()
    _check_clear(problem, error)
    del problem
    gc.collect()  # the frames that it went through held files open
    for thread in threading.enumerate():  # a reader that is closed does not wait for what it reads ahead
        if thread is not threading.current_thread():
            thread.join()
    if not is_held:
        assert not (left := _descriptors() - before), left
    if (home / "catalog.db").exists() and not is_held:
        check_versions(home, scenario, acknowledged=False)
    try:
        (scenario.again or scenario.operation)(home)
    except casstore.TagExists:
        assert scenario.new
    except casstore.TagNotFound:
        assert scenario.gone
    if is_held:
        # It had its files open before.
        let_go(home)
        assert not (left := _descriptors() - before), left
    sys.exit(FAILED_CLEARLY)


def _check_clear(problem: Exception, error: int) -> None:
    """That the error says what is the matter: casstore's own words, or the system's."""
    assert str(problem)
    if isinstance(problem, OSError) and not isinstance(problem, casstore.CasstoreError):
        # SQLite does not tell which error it met.
        is_of_catalog = "the catalog" in str(problem)
        assert problem.errno == error or (is_of_catalog and problem.errno in (errno.EIO, errno.ENOSPC)), repr(problem)


def _descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the one of listdir
            continue
    return found
