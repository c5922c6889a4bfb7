"""A system call fails, once or from then on: a clear error, nothing lost, and it works again once it does not.

CASSTORE_TEST_EVERY=1 has every single call fail, with each of the errors; by default a few of each operation do.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path

import pytest

import casstore
from tests.crash import tracer
from tests.crash.conftest import EVERY, NAMES, READING
from tests.crash.scenarios import Scenario, check, check_versions, copy_store, hold, let_go, remove

pytestmark = pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")
ERRORS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.EROFS, errno.EACCES]
# By default, how many calls of an operation are made to fail; the errors take turns.
POINTS = 3
FAILED_CLEARLY = 3
# What opens a store that another has open already, or replaces its catalog, is not done with one that is held.
OPENING = ("make a store", "open", "migrate", "rebuild the catalog")


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("scenario", [*NAMES, *READING], indirect=True)
def test_an_error_at_a_call(scenario, for_ever, ground, request):
    template, home = ground / "template", ground / "store"
    scenario.prepare(template)
    name = request.node.callspec.params["scenario"]

    def run(number: int | None = None, error: int = 0) -> tracer.Traced:
        remove(home)
        if template.exists():
            copy_store(template, home)
        scenario.around(home)
        # A store that has met an error must go on working as well as one that is opened anew.
        is_held = name not in OPENING and number is not None and number % 2 == 0
        return tracer.run(
            lambda: _attempt(scenario, home, error, is_held=is_held),
            below=ground, calls=tracer.ALL, fail_at=number, error=error, for_ever=for_ever,
            before=lambda: hold(home) if is_held else None,
        )  # fmt: skip

    length = len(run().calls)
    step = 1 if EVERY else max(1, length // POINTS)
    cases = failed = 0
    for number in range(1 + (step // 2 if for_ever else 0), length + 1, step):
        for error in ERRORS if EVERY else [ERRORS[(cases + for_ever) % len(ERRORS)]]:
            traced = run(number, error)
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
