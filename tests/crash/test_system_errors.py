"""A system call fails, once or from then on: a clear error, nothing lost, and it works again once it does not."""

from __future__ import annotations

import errno
import os
import sys

import pytest

import casstore
from tests.crash import tracer
from tests.crash.conftest import NAMES
from tests.crash.scenarios import Scenario, check, copy_store, remove

pytestmark = pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")
EVERY = bool(os.environ.get("CASSTORE_TEST_EVERY"))
ERRORS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EDQUOT, errno.EROFS, errno.EACCES]
# Of the calls of a scenario, how far the next one that fails is from the last, with the errors taking turns.
STRIDE = 1 if EVERY else 7
FAILED_CLEARLY = 3


def descriptors() -> list[str]:
    return sorted(os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name))


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def attempt(scenario: Scenario, home: object, *, again: bool) -> None:
    """In the traced process: the operation, and, where the error comes once only, the operation again."""
    before = descriptors()
    try:
        scenario.operation(home)  # type: ignore[arg-type]
    except (casstore.CasstoreError, OSError) as error:
        print(error)
        left = [path for path in descriptors() if path not in before and "/fd" not in path]
        assert not left, left
        if not again:
            sys.exit(FAILED_CLEARLY)
        try:
            scenario.operation(home)  # type: ignore[arg-type]
        except casstore.TagExists:
            return
        except casstore.TagNotFound:
            assert scenario.gone


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("scenario", NAMES, indirect=True)
def test_an_error_at_a_call(scenario, for_ever, tmp_path, request):
    template, home = tmp_path / "template", tmp_path / "store"
    scenario.prepare(template)
    number, cases, failed = 1, 0, 0
    offset = 3 if for_ever else 0
    while True:
        for error in ERRORS if EVERY else [ERRORS[(cases + offset) % len(ERRORS)]]:
            remove(home)
            if template.exists():
                copy_store(template, home)
            traced = tracer.run(
                lambda: attempt(scenario, home, again=not for_ever), fail_at=number, error=error, for_ever=for_ever
            )
            what = f"{errno.errorcode[error]} at call {number}, {traced.calls[number - 1 : number]}"
            assert traced.exit_code in (0, FAILED_CLEARLY), what
            # What is rebuilt from had been written, and synced, long before; every try reads it anew.
            assert traced.repeated_syncs == [] or "rebuild" in request.node.name, what
            try:
                check(home, scenario, acknowledged=traced.acknowledged)
            except BaseException:
                print(what)
                raise
            cases += 1
            failed += traced.exit_code != 0
        if len(traced.calls) < number:
            break
        number += STRIDE if request.node.callspec.params["scenario"] != "make a store" else STRIDE * 5
    print(f"{request.node.name}: {cases} cases, {failed} of them ended the operation")
