"""What a remote asks of an object store, of real ones and of directories; which ones are refused; and the command line
against a real one."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.errors import RemoteError, RemoteNotFound, RemoteUnsafe
from casstore.remote import object_store, probe
from casstore.remote.address import RemoteAddress
from casstore.remote.backend import Backend, KeyMissing, KeyTaken
from casstore.remote.bucket import Bucket
from casstore.remote.once import create_once
from tests.kit import checkpoint, contents, noise, plant
from tests.remote.conftest import Servers
from tests.remote.servers import BUCKET, CONDITIONAL, UNCONDITIONAL, Server, free_ports

Open = Callable[[RemoteAddress], Backend]
_MANY = 1003  # more than a page of a listing, and more than one request removes


@pytest.fixture
def open_backend() -> Iterator[Open]:
    """open_backend(address): its backend, which is closed when the test ends."""
    opened = []

    def run(address: RemoteAddress) -> Backend:
        opened.append(address.open())
        return opened[-1]

    yield run
    for backend in opened:
        backend.close()


def _address(server: Servers, kind: str, url: str) -> RemoteAddress:
    return RemoteAddress(url, endpoint=server(kind).endpoint)


@pytest.fixture(params=["directory", *CONDITIONAL])
def address(request: pytest.FixtureRequest, server: Servers, url: str, tmp_path: Path) -> RemoteAddress:
    """A place for a remote, of each kind."""
    if request.param == "directory":
        return RemoteAddress(str(tmp_path / "remote"))
    return _address(server, request.param, url)


@pytest.fixture
def backend(address: RemoteAddress, open_backend: Open) -> Backend:
    return open_backend(address)


def test_what_is_written_is_read(backend: Backend) -> None:
    body = noise(3_000_000)
    backend.put("packs/a/0.pack", body)
    backend.put("packs/a/0.pack", body)  # as after an answer that was lost
    backend.create("refs/m/v1/0", b"")
    assert backend.get("packs/a/0.pack") == body
    assert backend.get("refs/m/v1/0") == b""
    assert backend.get_range("packs/a/0.pack", 0, 10) == body[:10]
    assert backend.get_range("packs/a/0.pack", 1_234_567, 500_000) == body[1_234_567:1_734_567]
    assert backend.get_range("packs/a/0.pack", len(body) - 5, 100) == body[-5:]
    for start in (len(body), len(body) + 1000):  # as of a pack that was cut short
        assert backend.get_range("packs/a/0.pack", start, 100) == b""
    assert backend.get_range("refs/m/v1/0", 0, 100) == b""


def test_a_key_is_created_once(backend: Backend) -> None:
    backend.create("a/b", b"first")
    with pytest.raises(KeyTaken):
        backend.create("a/b", b"second")
    assert backend.get("a/b") == b"first"
    assert create_once(backend, "a/b", b"third") == b"first"
    assert create_once(backend, "a/c", b"third") == b"third"


def test_of_many_that_create_one_key_one_does(backend: Backend) -> None:
    with ThreadPoolExecutor(12) as pool:
        stands = list(pool.map(lambda number: create_once(backend, "a/b", b"%d" % number), range(12)))
    assert len(set(stands)) == 1
    assert backend.get("a/b") == stands[0]


def test_what_is_not_there_is_said_so(backend: Backend) -> None:
    backend.create("a/b", b"")
    for key in ("a/c", "b"):
        with pytest.raises(KeyMissing):
            backend.get(key)
        with pytest.raises(KeyMissing):
            backend.get_range(key, 0, 1)
    assert list(backend.list("b/")) == []
    backend.delete(["a/c", "b/d"])
    backend.delete([])


def test_listings_are_whole_in_order_and_begin_after_a_key(backend: Backend) -> None:
    keys = sorted(f"a/{number % 7}/{number}" for number in range(_MANY))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: backend.create(key, key.encode()), keys))
    backend.create("a.b/0", b"")  # whose parts are others
    backend.create("ab/0", b"")
    found = list(backend.list("a/"))
    assert [entry.key for entry in found] == keys
    assert [entry.size for entry in found] == [len(key) for key in keys]
    assert len({entry.modified_ns // 10**9 for entry in found}) < 600  # by the store's clock
    assert [entry.key for entry in backend.list("a/", keys[-3])] == keys[-2:]
    assert [entry.key for entry in backend.list("a/3/")] == [key for key in keys if key.startswith("a/3/")]
    backend.delete(keys[:-1])
    assert [entry.key for entry in backend.list("a/")] == keys[-1:]


def test_a_probe_passes_it_and_leaves_nothing(backend: Backend) -> None:
    probe.check(backend)
    assert list(backend.list("")) == []


def test_a_remote_that_is_made_twice_is_one(address: RemoteAddress, open_backend: Open) -> None:
    first = Bucket.make(open_backend(address))
    second = Bucket.make(open_backend(address))
    assert first.id == second.id
    assert Bucket.open(open_backend(address)).id == first.id


@pytest.mark.parametrize("kind", UNCONDITIONAL)
def test_stores_that_ignore_conditions_are_for_single_writers(
    kind: str, server: Servers, url: str, store: casstore.Store, tmp_path: Path
) -> None:
    endpoint = server(kind).endpoint
    with pytest.raises(RemoteUnsafe, match=r"a second writer.*If-None-Match.*--single-writer"):
        store.add_remote("origin", url, endpoint=endpoint)
    assert store.remotes() == {}
    saved = store.save("bert:v1", plant(tmp_path / "files", checkpoint(0)))
    with store.add_remote("origin", url, endpoint=endpoint, single_writer=True) as there:
        assert [each.is_new for each in there.push()] == [True]
        assert [each.is_new for each in there.push()] == [False]
        assert there.verify(deep=True).ok
    with casstore.Store(tmp_path / "other") as other, other.add_remote("origin", url, endpoint=endpoint) as there:
        assert contents(there.pull()[0].model) == contents(saved)
        there.delete("bert:v1")
        assert there.gc().packs == 1
        assert there.list() == []


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_a_bucket_that_is_not_there(kind: str, server: Servers, open_backend: Open) -> None:
    missing = _address(server, kind, "s3://no-such-bucket/models")
    with pytest.raises(RemoteNotFound, match="s3://no-such-bucket/models"):
        Bucket.open(open_backend(missing))
    if kind == "seaweedfs":
        return  # which makes it
    with pytest.raises(RemoteError, match=r"s3://no-such-bucket/models.*bucket is not there"):
        Bucket.make(open_backend(missing))
    with pytest.raises(RemoteError, match="no-such-bucket"):
        list(open_backend(missing).list("refs/"))


def test_a_server_that_is_not_there(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_RETRY", {"max_retries": 0})
    (port,) = free_ports(1)
    there = casstore.Remote(url, endpoint=f"http://127.0.0.1:{port}")
    with there, pytest.raises(RemoteError, match="Connection refused"):
        there.list()


def test_wrong_keys(seaweedfs: Server, url: str, store: casstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_remote("origin", url, endpoint=seaweedfs.endpoint).close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret := secrets.token_hex(20))
    with store.remote("origin") as there, pytest.raises(RemoteError, match=r"refuses access.*credentials") as caught:
        there.list()
    assert secret not in str(caught.value)
    with pytest.raises(RemoteError, match=r"refuses access.*credentials"):
        store.add_remote("other", f"{url}-other", endpoint=seaweedfs.endpoint)
    assert list(store.remotes()) == ["origin"]


def test_a_public_bucket_is_read_without_credentials(
    seaweedfs: Server, url: str, store: casstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = url.replace(BUCKET, "public")
    saved = store.save("bert:v1", plant(tmp_path / "files", checkpoint(0)))
    with store.add_remote("origin", public, endpoint=seaweedfs.endpoint) as there:
        there.push()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with (
        casstore.Store(tmp_path / "other") as other,
        other.add_remote("origin", public, endpoint=seaweedfs.endpoint, anonymous=True, make=False) as there,
    ):
        assert contents(there.pull()[0].model) == contents(saved)
        with pytest.raises(RemoteError, match="refuses access"):
            there.delete("bert:v1")
    private = casstore.Remote(url, endpoint=seaweedfs.endpoint, anonymous=True)
    with private, pytest.raises(RemoteError, match="refuses access"):
        private.list()


@dataclass
class Shell:
    """Runs `casstore` as a process, in a store of its own."""

    home: Path

    def json(self, *arguments: object) -> Any:
        """What a command says that succeeds."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "casstore.cli", *map(str, arguments), "--home", str(self.home), "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_line_against_a_real_store(seaweedfs: Server, url: str, tmp_path: Path) -> None:
    first, second = Shell(tmp_path / "first"), Shell(tmp_path / "second")
    tags = [f"bert:v{number}" for number in range(3)]
    with casstore.Store(first.home) as store:
        for number, tag in enumerate(tags):
            store.save(tag, plant(tmp_path / f"{number}", checkpoint(number)))
    reach = ("--endpoint", seaweedfs.endpoint)
    assert first.json("remote", "add", "origin", url, *reach) == {"name": "origin", "url": url}
    pushed = first.json("push", "--all")["pushed"]
    assert [(each["tag"], each["is_new"]) for each in pushed] == [(tag, True) for tag in tags]
    assert pushed[1]["sent_bytes"] < pushed[0]["sent_bytes"]
    assert [each["sent_bytes"] for each in first.json("push", "--all")["pushed"]] == [0, 0, 0]

    assert len(second.json("clone", url, *reach)["pulled"]) == 3
    assert second.json("status") == {"here": [], "there": [], "different": [], "same": 3}
    assert first.json("remote", "verify", "--deep")["ok"]

    with casstore.Store(second.home) as store, store.remote("origin") as there:
        assert contents(store.get("bert:v2")) == checkpoint(2)
        there.delete(["bert:v0", "bert:v1"])
        assert there.push("bert:v1")[0].is_new  # as a new generation
    assert first.json("status") == {"here": ["bert:v0"], "there": [], "different": [], "same": 2}
    collected = first.json("remote", "gc")
    assert (collected["waiting"], collected["revoked"]) == ([], [])
    with casstore.Store(first.home) as store, store.remote("origin") as there:
        report = there.verify(deep=True)
        assert (report.ok, report.versions, there.gc().packs) == (True, 2, 0)
