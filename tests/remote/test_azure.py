"""The dialect of Azure, against its emulator."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

import casstore
from casstore.errors import RemoteError
from casstore.remote import credentials
from tests.kit import checkpoint, contents, plant
from tests.remote.servers import HOST, free_ports

ACCOUNT = "devstoreaccount1"  # and its key, which Microsoft has published
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an emulator with a container `buck`."""
    if shutil.which("azurite-blob") is None:
        pytest.skip("azurite is not installed")
    (port,) = free_ports(1)
    server = subprocess.Popen([
        "azurite-blob", "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location",
        str(tmp_path_factory.mktemp("azurite")), "--blobHost", HOST, "--blobPort", str(port),
    ])  # fmt: skip
    try:
        while server.poll() is None:
            try:
                make_container(port)
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


def make_container(port: int) -> None:
    now, kind = formatdate(usegmt=True), "application/octet-stream"
    headers = {"x-ms-date": now, "x-ms-version": "2021-12-02"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = f"PUT\n\n\n\n\n{kind}\n\n\n\n\n\n\n{signed}/{ACCOUNT}/{ACCOUNT}/buck\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    headers |= {"Content-Type": kind, "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
    url = f"http://{HOST}:{port}/{ACCOUNT}/buck?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, data=b"", headers=headers, method="PUT")).close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*credentials._AZURES, *credentials._AZURE_ACCOUNTS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["endpoint", "emulator"])
def there(
    request: pytest.FixtureRequest, azurite: int, nobody: None, store: casstore.Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[casstore.Remote]:
    """A remote there, found by the endpoint that is given, or by the environment."""
    endpoint = None
    if request.param == "endpoint":
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        endpoint = f"http://{HOST}:{azurite}/{ACCOUNT}"
    else:
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://{HOST}:{azurite}")
    with store.add_remote("origin", f"az://buck/{secrets.token_hex(8)}", endpoint=endpoint) as made:
        yield made


def test_every_verb(there: casstore.Remote, store: casstore.Store, tmp_path: Path) -> None:
    for number in range(3):
        store.save(f"bert:v{number}", plant(tmp_path / f"{number}", checkpoint(number)))
    assert [each.is_new for each in there.push()] == [True] * 3
    assert [each.is_new for each in there.push()] == [False] * 3
    assert there.status().same == 3
    assert len(there.list()) == 3
    version = there.get("bert:v1")
    assert {file.path: version.open(file.path).read() for file in version.files} == checkpoint(1)
    there.delete(["bert:v0", "bert:v2"])
    assert there.gc().packs >= 1
    assert there.repack().packs >= 0
    there.gc()
    report = there.verify(deep=True)
    assert (report.ok, report.versions) == (True, 1)
    assert there.push("bert:v2")[0].is_new
    store.evict("bert:v1")
    for number in (0, 1, 2):
        if store.exists(f"bert:v{number}"):
            store.delete(f"bert:v{number}")
    for pulled in there.pull():
        assert contents(pulled.model) == checkpoint(int(pulled.model.tag.version[1:]))


def test_a_wrong_key_is_said_to_be_that(azurite: int, nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"wrong").decode())
    with casstore.Remote("az://buck/x", endpoint=f"http://{HOST}:{azurite}/{ACCOUNT}") as there:
        with pytest.raises(RemoteError, match="refuses access") as caught:
            there.list()
        assert caught.value.is_refusal


@pytest.mark.parametrize("anonymous", [True, False])
def test_it_must_be_said_whose_container_it_is(anonymous: bool, nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    with (
        casstore.Remote("az://buck/x", anonymous=anonymous) as there,
        pytest.raises(RemoteError, match="AZURE_STORAGE_ACCOUNT_NAME"),
    ):
        there.list()


def test_the_url_may_say_it(nobody: None) -> None:
    for url in ("abfss://buck@acc.dfs.core.windows.net/models", "https://acc.blob.core.windows.net/buck/models"):
        credentials.check_azure_account(casstore.Remote(url).url)
    with pytest.raises(RemoteError, match="must not have credentials"):
        casstore.Remote("abfss://buck:secret@acc.dfs.core.windows.net/models")
