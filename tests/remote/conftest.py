"""Remotes to test with: a server of each kind for the whole run, and a prefix of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import casstore
from casstore.remote import keys
from casstore.remote.address import RemoteAddress
from casstore.remote.documents import Marker
from casstore.remote.once import create_once
from tests.remote import servers
from tests.remote.fault_proxy import FaultProxy, proxied
from tests.remote.places import Places
from tests.remote.servers import Server

Servers = Callable[[str], Server]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Servers]:
    """server(kind): a server, which is started when the first test of the whole run asks for it."""
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Server:
            if kind not in running:
                running[kind] = stack.enter_context(servers.shared(root, kind))
            return running[kind]

        yield get


@pytest.fixture
def seaweedfs(server: Servers) -> Server:
    """A real object store."""
    return server("seaweedfs")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The servers' owner by the environment, and nothing else that AWS's programs would find."""
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.OWNER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.OWNER[1])
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture
def url() -> str:
    """The URL of a prefix that nothing else uses."""
    return f"s3://{servers.BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture
def proxy(seaweedfs: Server) -> Iterator[FaultProxy]:
    """A proxy before the real object store."""
    with proxied(seaweedfs.port) as running:
        yield running


@pytest.fixture
def places(store: casstore.Store, seaweedfs: Server, proxy: FaultProxy, url: str, tmp_path: Path) -> Iterator[Places]:
    """A store with the remotes `origin`, behind the proxy, and `plain`, which is the same."""
    behind = RemoteAddress(url, endpoint=seaweedfs.endpoint)
    backend = behind.open()
    create_once(backend, keys.MARKER, Marker(secrets.token_hex(16)).pack())  # as it is made, but for the probe
    store.add_remote("origin", url, endpoint=proxy.endpoint).close()
    with store.add_remote("plain", url, endpoint=seaweedfs.endpoint) as there:
        yield Places(store, there, behind, backend, tmp_path / "files")
    backend.close()
