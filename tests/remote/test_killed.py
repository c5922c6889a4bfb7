"""Processes that are killed at each request of a push or a pull: what has arrived is used, and nothing is left."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import casstore
from casstore.actions.exchange import push as pushing
from casstore.remote import keys
from tests.kit import contents, counts, part
from tests.pages import ROOT
from tests.remote.fault_proxy import FaultProxy, Request
from tests.remote.places import Places

_PACKS = 4
_PACK_BYTES = 200_000  # each file is one
# `command` runs in a process of its own. It says that it is ready, so that no request comes before its pid is known.
_PROGRAM = """
import sys
import casstore
from casstore.actions.exchange import push
from casstore.remote import records
push.PACK_BYTES = int(sys.argv[4])
records._RUN_BYTES = 100_000
print("ready", flush=True)
input()
with casstore.Store(sys.argv[1]) as store, store.remote("origin") as there:
    getattr(there, sys.argv[2])(sys.argv[3])
"""


def test_many_processes_use_a_server_that_is_killed(tmp_path: Path) -> None:
    """A short form of the benchmark, which says in the end what is wrong."""
    if shutil.which("weed") is None:
        pytest.skip("weed is not installed")
    program = [sys.executable, str(ROOT / "benchmarks/soak_remote.py")]
    done = subprocess.run(
        [*program, "--acts", "4", "--every", "1.5", "--dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(_: float) -> None:
        raise AssertionError("it waits for another push, of which there is none")

    monkeypatch.setattr(pushing, "pause", waits)
    monkeypatch.setattr(pushing, "PACK_BYTES", _PACK_BYTES)


@dataclass
class Killer:
    """Kills processes at their requests: before the store gets one, or after it has answered, before they are told."""

    proxy: FaultProxy
    when: str
    step: int

    def numbers(self) -> Iterator[int]:
        return itertools.count(1 if self.when == "before" else 2, self.step)

    def run(self, number: int, home: Path, command: str, tag: str) -> bool:
        """Run a command; whether it was killed at its request of that number, which it has only if it makes so many."""
        arguments = [sys.executable, "-c", _PROGRAM, str(home), command, tag, str(_PACK_BYTES)]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        def kill(request: Request) -> str:
            if request.number < number:
                return ""
            os.kill(process.pid, signal.SIGKILL)
            return "rst_before"

        def kill_after(request: Request) -> None:
            if request.number >= number:
                os.kill(process.pid, signal.SIGKILL)

        others = self.proxy.connections
        self.proxy.requests.clear()
        if self.when == "before":
            self.proxy.rule = kill
        else:
            self.proxy.applied = kill_after
        process.communicate(b"\n", timeout=120)
        self.proxy.wait_for_connections(others)
        self.proxy.rule, self.proxy.applied = (lambda _: ""), (lambda _: None)
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0


@pytest.fixture(params=["before", "after"])
def when(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[pytest.param(6, id="some"), pytest.param(1, id="each", marks=pytest.mark.crash)])
def killer(request: pytest.FixtureRequest, when: str, proxy: FaultProxy) -> Killer:
    return Killer(proxy, when, request.param)


def _sent(proxy: FaultProxy) -> int:
    """Bytes of packs that have gone to the store."""
    return sum(request.sent_bytes for request in proxy.requests if f"/{keys.PACKS}" in request.path)


def test_a_push_that_was_killed_goes_on(killer: Killer, places: Places, tmp_path: Path) -> None:
    for number in killer.numbers():
        files = part(*range(_PACKS * number, _PACKS * number + _PACKS))
        tag = places.save(number, files)
        before = {entry.key: entry.size for entry in places.backend.list(keys.PACKS)}
        was_killed = killer.run(number, places.store.home, "push", tag)
        arrived = sum(entry.size for entry in places.backend.list(keys.PACKS) if entry.key not in before)
        killer.proxy.requests.clear()
        with places.store.remote("origin") as there:
            there.push(tag)
            sent = _sent(killer.proxy)
            assert not there.push(tag)[0].is_new
        whole = sum(map(len, files.values()))
        assert whole <= arrived + sent <= whole * 1.01  # each byte once, and what a pack has around them
        if not was_killed:
            break
    places.check_whole(set(places.saved), tmp_path / "other")


def test_a_pull_that_was_killed_goes_on(killer: Killer, places: Places, tmp_path: Path) -> None:
    for number in range(12):
        places.save(number, part(*range(_PACKS * number, _PACKS * number + _PACKS)))
    places.there.push()
    with casstore.Store(tmp_path / "second") as second:
        second.add_remote("origin", places.behind.url, endpoint=killer.proxy.endpoint).close()
        for number, tag in zip(killer.numbers(), places.saved, strict=False):
            was_killed = killer.run(number, second.home, "pull", tag)
            with second.remote("origin") as there:
                pulled = there.pull(tag)[0]
                assert not there.pull(tag)[0].is_new
            whole = sum(map(len, places.saved[tag].values()))
            assert pulled.received_bytes <= whole * 1.01
            assert contents(second.get(tag)) == places.saved[tag]
            assert second.signatures(tag) == places.store.signatures(tag)
            if not was_killed:
                break
        second.gc()
        assert set(counts(second.gc(dry_run=True)).values()) <= {0}
