"""A store is killed while it leaves a version to a remote, and its catalog is lost: the version's name is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import casstore
from tests.crash import tracer
from tests.crash.scenarios import copy_store, open_store, remove
from tests.crash.scenarios.steps import cold, doing
from tests.crash.test_killed import points_of

POINTS = 8
pytestmark = [pytest.mark.crash, pytest.mark.skipif(not tracer.IS_SUPPORTED, reason="ptrace of x86-64 Linux")]


def names(home: Path) -> tuple[set[str], set[str]]:
    """The versions that are here, and those that a remote has."""
    with open_store(home) as store:
        return set(store.tags()), {str(each.tag) for each in store.elsewhere()}


@pytest.mark.parametrize("verb", ["evict", "get", "delete"])
def test_a_name_is_not_lost_with_the_catalog(verb: str, ground: Path) -> None:
    template, home = ground / "template", ground / "store"
    cold(template)
    with open_store(template) as store:
        store.add_remote("origin", str(ground / "remote")).push()
        if verb != "evict":
            store.evict("m:0")

    def attempt(**options: Any) -> tracer.Traced:
        remove(home)
        copy_store(template, home)
        return tracer.run(lambda: doing(verb, "m:0")(home), below=home, **options)

    whole = attempt()
    assert whole.acknowledged
    for number in points_of(whole.calls, POINTS):
        assert attempt(kill_at=number).killed
        here, elsewhere = names(home)
        (home / "catalog.db").unlink()
        for path in home.glob("catalog.db-*"):
            path.unlink()
        casstore.Store.rebuild_catalog(home)
        again, elsewhere_again = names(home)
        assert {"m:1", "m:2"} <= again
        if verb == "delete":
            assert elsewhere_again <= elsewhere  # what is being forgotten does not come back
        else:
            assert here | elsewhere == again | elsewhere_again == {"m:0", "m:1", "m:2"}
