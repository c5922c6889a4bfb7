"""What networks do to each request of a push, a pull, a delete and a gc: the same command, run again, ends it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import push as pushing
from casstore.errors import IntegrityError, RemoteError, TagNotFound
from casstore.remote import keys, object_store, once
from tests.kit import contents
from tests.remote import servers
from tests.remote.fault_proxy import FaultProxy, Request
from tests.remote.places import Places

KINDS = (
    "lose_ack", "lose_ack_rst", "ack_as:503", "ack_as:500", "refuse:409", "refuse:429", "refuse:503", "rst_before",
    "cut_request:20", "cut_response:20", "flip:0", "flip:100", "hang",
)  # fmt: skip
_MOST_REQUESTS = 200
_HANGS_SECONDS = 1.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent again once, and at once, and no push waits for another."""
    backoff = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2}
    retry = {"max_retries": 1, "retry_timeout": timedelta(seconds=30), "backoff": backoff}
    monkeypatch.setattr(object_store, "_RETRY", retry)

    def waits(_: float) -> None:
        raise AssertionError("it waits for another push, of which there is none")

    monkeypatch.setattr(pushing, "pause", waits)
    monkeypatch.setattr(once, "_FIRST_PAUSE_SECONDS", 0.001)


@dataclass
class Faults:
    """Has one request of each command meet a fault, and runs the command again."""

    proxy: FaultProxy
    kinds: tuple[str, ...]
    errors: list[tuple[Request, str]] = field(default_factory=list)
    _last: int = 0

    def numbers(self, step: int = 1) -> Iterator[int]:
        """Of requests to meet a fault, until a command had fewer."""
        for number in itertools.count(1, step):
            assert number < _MOST_REQUESTS
            yield number
            if self._last < number:
                return

    def run(self, number: int, command: Callable[..., object], *arguments: object) -> bool:
        """Run a command whose request of that number meets a fault; returns whether it succeeded."""
        kind = self.kinds[number % len(self.kinds)]
        self.proxy.requests.clear()
        self.proxy.rule = lambda request: kind if request.number == number else ""
        try:
            with pytest.MonkeyPatch.context() as patch:
                if kind == "hang":
                    patch.setattr(object_store, "_TIMEOUTS", ((1 << 62, _HANGS_SECONDS),))
                command(*arguments)
        except (RemoteError, IntegrityError) as error:
            self.errors += [(request, str(error)) for request in self.proxy.requests if request.action]
            return False
        finally:
            self._last = len(self.proxy.requests)
            self.proxy.rule = lambda _: ""
        return True

    def check_errors(self) -> None:
        """Bits that flip are found, and said where. What else a request suffers is the network's."""
        for request, text in self.errors:
            if request.action.startswith("flip") and not request.is_listing:
                is_named = request.key.split("/", 1)[1] in text
                assert is_named or ("/packs/" in request.key and "chunk " in text), (request, text)
            assert servers.OWNER[1] not in text


@pytest.fixture(
    params=[pytest.param(KINDS, id="any"), *(pytest.param((kind,), id=kind, marks=pytest.mark.crash) for kind in KINDS)]
)
def faults(request: pytest.FixtureRequest, proxy: FaultProxy) -> Faults:
    """The faults of all kinds in turn, or, in the second tier, of each kind at each request."""
    return Faults(proxy, request.param)


def push(store: casstore.Store, tag: str) -> list[bool]:
    """Push as a process would, which opens the remote for it."""
    with store.remote("origin") as there:
        return [each.is_new for each in there.push(tag)]


def pull(store: casstore.Store, tag: str) -> None:
    with store.remote("origin") as there:
        there.pull(tag)


def delete(store: casstore.Store, tag: str) -> None:
    with store.remote("origin") as there:
        there.delete(tag)


def collect(store: casstore.Store) -> None:
    with store.remote("origin") as there:
        there.gc()


def test_a_push_that_is_run_again_is_whole_once(faults: Faults, places: Places, tmp_path: Path) -> None:
    tags = {places.save(0)}
    places.there.push()
    for number in faults.numbers():
        tag = places.save(number)
        tags.add(tag)
        faults.run(number, push, places.store, tag)
        push(places.store, tag)
        assert push(places.store, tag) == [False]
    faults.check_errors()
    listed = [entry.key for entry in places.backend.list(keys.REFS)]
    refs = sorted(f"refs/bert/{tag.partition(':')[2]}/0" for tag in tags)
    assert [key for key in listed if keys.parse_signature(key) is None] == sorted(refs)
    assert [key.partition(".")[0] for key in listed if keys.parse_signature(key) is not None] == refs
    places.check_whole(tags, tmp_path / "other")


def test_a_pull_that_is_run_again_is_whole(faults: Faults, places: Places, tmp_path: Path) -> None:
    tags = [places.save(number) for number in range(14)]
    places.there.push()
    with casstore.Store(tmp_path / "second") as second:
        second.add_remote("origin", places.behind.url, endpoint=faults.proxy.endpoint).close()
        for number, tag in zip(faults.numbers(), reversed(tags), strict=False):
            faults.run(number, pull, second, tag)
            pull(second, tag)
            assert contents(second.get(tag)) == places.saved[tag]
            assert second.signatures(tag) == places.store.signatures(tag)
    faults.check_errors()


def test_a_delete_that_is_run_again_has_deleted(faults: Faults, places: Places, tmp_path: Path) -> None:
    tags = [places.save(number) for number in range(6)]
    places.there.push()
    left = set(tags)
    for number, tag in zip(faults.numbers(), tags, strict=False):
        if not faults.run(number, delete, places.store, tag):
            try:
                delete(places.store, tag)
            except TagNotFound:
                assert tag not in {str(ref.tag) for ref in places.there.list()}
        left.remove(tag)
    faults.check_errors()
    places.check_whole(left, tmp_path / "other")


def test_a_gc_that_is_run_again_leaves_what_is_needed(faults: Faults, places: Places, tmp_path: Path) -> None:
    tags = {places.save(0), places.save(1)}
    places.there.push()
    for number in faults.numbers(3):
        tag = places.save(number + 1)
        places.there.push(tag)
        places.there.delete(tag)
        faults.run(number, collect, places.store)
        collect(places.store)
        assert places.there.verify(deep=True).ok
    faults.check_errors()
    places.check_whole(tags, tmp_path / "other")
