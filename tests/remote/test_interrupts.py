"""A process that is interrupted, forked, or short of descriptors while it uses a remote."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import casstore
from casstore.errors import RemoteError
from tests.kit import Child, checkpoint, contents, part, plant, script
from tests.remote.fault_proxy import FaultProxy, Request
from tests.remote.servers import Server

# Far less than requests may take, and far more than a busy machine does to end a process.
_GUARD_SECONDS = 45


@pytest.fixture
def saved(store: casstore.Store, tmp_path: Path) -> casstore.Model:
    return store.save("bert:v1", plant(tmp_path / "files", checkpoint(0)))


def _interrupted(home: Path, proxy: FaultProxy, command: str) -> tuple[int, str]:
    """Run a command until the proxy holds one of its requests, and interrupt it; the proxy goes on holding."""
    proxy.holds.clear()
    arguments = [sys.executable, "-m", "casstore.cli", command, "bert:v1", "--home", str(home)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not proxy.holds.wait(0.1):
            assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=_GUARD_SECONDS)
    finally:
        process.kill()
    proxy.rule = lambda _: ""
    return process.returncode, output


def _holding(action: str, is_meant: Callable[[Request], bool]) -> Callable[[Request], str]:
    return lambda request: action if is_meant(request) else ""


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    "rule",
    [
        _holding("hold_up:100000", lambda request: request.method == "PUT" and "/packs/" in request.path),
        _holding("hang", lambda request: request.method == "PUT" and request.path.endswith("/end")),
        _holding("hang", lambda request: request.is_listing),
    ],
    ids=["pack", "answer", "listing"],
)
def test_ctrl_c_ends_a_push_while_a_request_is_on_its_way(
    rule: Callable[[Request], str], store: casstore.Store, url: str, proxy: FaultProxy
) -> None:
    with store.add_remote("origin", url, endpoint=proxy.endpoint) as there:
        proxy.rule = rule
        assert _interrupted(store.home, proxy, "push")[0] == 130
        there.push()
        assert there.verify(deep=True).ok
        assert not there.gc().waiting


def test_ctrl_c_ends_a_pull_while_bytes_come(
    saved: casstore.Model, store: casstore.Store, url: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    with store.add_remote("origin", url, endpoint=proxy.endpoint) as there:
        there.push()
    with casstore.Store(tmp_path / "other") as other:
        other.add_remote("origin", url, endpoint=proxy.endpoint).close()
        proxy.rule = _holding("hold_down:100000", lambda request: "/packs/" in request.path)
        assert _interrupted(other.home, proxy, "pull")[0] == 130
        assert list(other.list()) == []
        with other.remote("origin") as there:
            assert contents(there.pull()[0].model) == contents(saved)


@pytest.mark.parametrize("action", ["refuse:400", "cut_response:0"])
def test_a_failed_request_ends_a_process_as_any_error_does(
    action: str, store: casstore.Store, url: str, proxy: FaultProxy
) -> None:
    """Threads of obstore's that would enter the interpreter while it ends abort it: every few times, of itself."""
    store.add_remote("origin", url, endpoint=proxy.endpoint).close()
    proxy.rule = _holding(action, lambda request: request.is_listing)
    text = "import casstore, sys; casstore.Store(sys.argv[1]).remote('origin').list()"
    for _ in range(3):
        done = script(text, store.home)
        assert done.returncode == 1
        assert "RemoteError" in done.stderr.splitlines()[-1]


def _fails(command: Callable[[], object]) -> int:
    signal.alarm(_GUARD_SECONDS)  # it ends a child that hangs
    try:
        command()
    except RemoteError as error:
        return 0 if "was forked" in str(error) and "spawn" in str(error) else 1
    return 1


def test_a_forked_child_is_told_that_it_has_no_threads(seaweedfs: Server, url: str, store: casstore.Store) -> None:
    with store.add_remote("origin", url, endpoint=seaweedfs.endpoint) as there:
        assert there.list() == []
        assert Child(lambda: _fails(there.list)).wait() == 0
        own = casstore.Remote(url, endpoint=seaweedfs.endpoint)
        assert Child(lambda: _fails(own.list)).wait() == 0
        assert there.list() == []


def test_a_child_of_a_parent_that_made_no_request_may_use_a_remote(
    seaweedfs: Server, url: str, store: casstore.Store
) -> None:
    store.add_remote("origin", url, endpoint=seaweedfs.endpoint).close()
    text = (
        "import casstore, os, signal, sys\n"
        "casstore.Remote(sys.argv[1], endpoint=sys.argv[2])\n"
        "if os.fork() == 0:\n"
        f"    signal.alarm({_GUARD_SECONDS})\n"
        "    assert casstore.Remote(sys.argv[1], endpoint=sys.argv[2]).list() == []\n"
        "    os._exit(42)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 42\n"
    )
    done = script(text, url, seaweedfs.endpoint)
    assert done.returncode == 0, done.stderr


_FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import casstore
from casstore.actions.exchange import push
push.PACK_BYTES = 100_000
home, other, url, endpoint = sys.argv[1:]
with casstore.Store(home) as store, store.add_remote("origin", url, endpoint=endpoint) as there:
    assert sum(each.packs for each in there.push()) > 30
    assert there.verify(deep=True).ok
    there.gc()
with casstore.Store(other) as store, store.add_remote("origin", url, endpoint=endpoint) as there:
    assert len(there.pull()) == 3
"""


def test_64_descriptors_are_enough(seaweedfs: Server, url: str, store: casstore.Store, tmp_path: Path) -> None:
    for number in range(3):
        store.save(f"bert:v{number}", plant(tmp_path / f"{number}", part(*range(20 * number, 20 * number + 20))))
    done = script(_FEW_DESCRIPTORS, store.home, tmp_path / "other", url, seaweedfs.endpoint)
    assert done.returncode == 0, done.stderr
