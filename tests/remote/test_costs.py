"""How many requests things take: it must not grow with the versions that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

import casstore
from tests.kit import checkpoint, plant
from tests.remote.fault_proxy import FaultProxy
from tests.remote.places import Places

_MOST_NEW = 16  # one is for a signature
_MOST_UNCHANGED = 10


@pytest.fixture(params=[10, pytest.param(100, marks=pytest.mark.crash)])
def versions(request: pytest.FixtureRequest, places: Places) -> int:
    """How many are there, pushed by the store itself."""
    for number in range(request.param):
        places.save(number)
    places.there.push()
    return int(request.param)


def _counted(proxy: FaultProxy, store: casstore.Store, command: str, *arguments: object) -> int:
    """How many requests a command takes that opens the remote for it."""
    proxy.requests.clear()
    with store.remote("origin") as there:
        getattr(there, command)(*arguments)
    return len(proxy.requests)


def _pages(objects: int) -> int:
    """By how many requests a listing of so many objects takes more than one."""
    return objects // 1000


def test_a_push_and_a_status_take_the_same_whatever_is_there(versions: int, places: Places, proxy: FaultProxy) -> None:
    store, new = places.store, places.save(versions)
    assert _counted(proxy, store, "push", "bert:v3") <= _MOST_UNCHANGED
    assert _counted(proxy, store, "push", new) <= _MOST_NEW + _pages(3 * versions)
    assert {request.method for request in proxy.requests} == {"GET", "PUT"}  # no uploads in parts, of which rests stay
    assert _counted(proxy, store, "status") <= 3 + _pages(versions)
    assert _counted(proxy, store, "list") <= 3 + _pages(versions)


def test_another_store_asks_for_what_it_lacks_once(
    versions: int, places: Places, proxy: FaultProxy, tmp_path: Path
) -> None:
    with casstore.Store(tmp_path / "second") as second:
        second.add_remote("origin", places.behind.url, endpoint=proxy.endpoint).close()
        assert _counted(proxy, second, "pull", "bert:v1") <= 10
        assert _counted(proxy, second, "status") <= 3 + versions
        assert _counted(proxy, second, "status") <= 3
        assert _counted(proxy, second, "pull", "bert:v2") <= 10
        second.save("bert:mine", plant(tmp_path / "mine", checkpoint(3, size=3000)))
        assert _counted(proxy, second, "push", "bert:mine") <= _MOST_NEW + 2
        assert _counted(proxy, second, "delete", "bert:mine") <= 4
