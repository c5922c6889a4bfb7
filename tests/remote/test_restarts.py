"""A real object store that is killed and started again while several processes push to it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import casstore
from casstore.remote.address import RemoteAddress
from casstore.remote.bucket import Bucket
from casstore.remote.collect import mark
from casstore.remote.transfers import workers
from tests.kit import checkpoint, contents, known, plant
from tests.remote import servers
from tests.remote.fault_proxy import FaultProxy, proxied

pytestmark = pytest.mark.crash

_PUSHERS = 3
_VERSIONS = 6
_RESTARTS = 3
_REQUESTS_BETWEEN = 40
_PROGRAM = """
import sys
import casstore
with casstore.Store(sys.argv[1]) as store:
    for _ in range(30):
        try:
            with store.remote("origin") as there:
                there.push()
            break
        except casstore.RemoteError as error:
            print(error, flush=True)
    else:
        raise SystemExit("it never ended")
"""


@dataclass
class Restarted:
    """A server of its own, and a proxy before it."""

    data: Path
    ports: list[int]
    process: subprocess.Popen[bytes]
    proxy: FaultProxy

    def restart(self) -> None:
        """Kill it, and start it again with what is on its disk."""
        self.process.kill()
        self.process.wait()
        self.process = known(servers.launched("seaweedfs", self.data, self.ports))

    def wait_for_requests(self, count: int, pushers: Sequence[subprocess.Popen[bytes]]) -> None:
        """Wait until so many more have come, or all have ended."""
        most = len(self.proxy.requests) + count
        while len(self.proxy.requests) < most and any(pusher.poll() is None for pusher in pushers):
            time.sleep(0.01)


@pytest.fixture
def restarted(tmp_path: Path) -> Iterator[Restarted]:
    if shutil.which("weed") is None:
        pytest.skip("weed is not installed")
    (data := tmp_path / "seaweedfs").mkdir()
    ports = servers.free_ports(10)
    process = known(servers.launched("seaweedfs", data, ports))
    with proxied(ports[0]) as proxy:
        server = Restarted(data, ports, process, proxy)
        yield server
    server.process.kill()
    server.process.wait()


def test_pushes_go_on_when_their_server_was_killed(restarted: Restarted, url: str, tmp_path: Path) -> None:
    saved, homes = {}, [tmp_path / f"{number}" for number in range(_PUSHERS)]
    for number, home in enumerate(homes):
        with casstore.Store(home) as store:
            for step in range(_VERSIONS):
                tag = f"run{number}:v{step}"
                saved[tag] = checkpoint(step, size=20_000, seed=number)
                store.save(tag, plant(tmp_path / "files" / tag, saved[tag]))
            store.add_remote("origin", url, endpoint=restarted.proxy.endpoint).close()
    pushers = [
        subprocess.Popen([sys.executable, "-c", _PROGRAM, home], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for home in homes
    ]
    for _ in range(_RESTARTS):
        restarted.wait_for_requests(_REQUESTS_BETWEEN, pushers)
        restarted.restart()
    for pusher in pushers:
        said, _ = pusher.communicate(timeout=300)
        assert pusher.returncode == 0, said.decode()
    address = RemoteAddress(url, endpoint=restarted.proxy.endpoint)
    with (
        casstore.Store(tmp_path / "other") as store,
        store.add_remote("origin", url, endpoint=address.endpoint) as there,
    ):
        assert {str(ref.tag) for ref in there.list()} == set(saved)
        assert there.verify(deep=True).damage == ()
        there.gc()
        for pulled in there.pull():
            assert contents(pulled.model) == saved[str(pulled.model.tag)]
    backend = address.open()
    with workers(4) as pool:
        seen = mark(Bucket.open(backend), pool)
    backend.close()
    assert (seen.unneeded_packs, seen.unneeded_segments) == (frozenset(), [])
