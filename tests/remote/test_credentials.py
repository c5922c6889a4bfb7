"""Credentials: where they may come from, what is said where they are missing or weak, and that they are never shown."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import casstore
from casstore.errors import RemoteError
from casstore.remote import credentials, object_store
from tests.kit import checkpoint, contents, plant
from tests.remote.fault_proxy import FaultProxy, Request
from tests.remote.servers import OWNER, READER, Server

SECRET = OWNER[1]
_FROM_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def saved(store: casstore.Store, tmp_path: Path) -> casstore.Model:
    return store.save("bert:v1", plant(tmp_path / "files", checkpoint(0)))


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable gives credentials, and no cloud's machine."""
    for name in _FROM_ENVIRONMENT:
        monkeypatch.delenv(name)
    for name in (*credentials._GOOGLES, *credentials._AZURES, *credentials._IN_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (maker := tmp_path / "sys_vendor").write_text("Nobody, Inc.\n")
    monkeypatch.setattr(credentials, "_MAKER", maker)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("s3://bucket/models", "AWS_ACCESS_KEY_ID.*--profile.*--credential-process.*--anonymous"),
        ("https://bucket.s3.eu-west-1.amazonaws.com/models", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/models", "GOOGLE_APPLICATION_CREDENTIALS.*gcloud auth"),
        ("az://container/models", "AZURE_STORAGE_ACCOUNT_KEY"),
        ("https://account.blob.core.windows.net/container", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_where_there_are_none_nobody_is_asked(
    url: str, advice: str, no_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each library would ask the service of a cloud's machine at 169.254.169.254, for minutes."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a client was made")

    monkeypatch.setattr(object_store, "from_url", asked)
    with casstore.Remote(url) as there, pytest.raises(RemoteError, match=rf"no credentials for {url}.*{advice}"):
        there.list()


def test_a_cloud_machine_has_a_service_for_them(no_environment: None, tmp_path: Path) -> None:
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n")
    assert credentials.s3_provider("s3://bucket", None, None) is None
    (tmp_path / "sys_vendor").write_text("Google\n")
    credentials.check_google("gs://bucket")
    (tmp_path / "sys_vendor").write_text("Microsoft Corporation\n")
    credentials.check_azure("az://container")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A command that prints credentials, and notes that it was run; what it prints can be changed."""
    said = {"Version": 1, "AccessKeyId": OWNER[0], "SecretAccessKey": SECRET, "Expiration": "2999-01-01T00:00:00Z"}
    (tmp_path / "said.json").write_text(json.dumps(said))
    text = "import sys; print(open(sys.argv[1]).read()); open(sys.argv[2], 'a').write('x')"
    return [sys.executable, "-c", text, str(tmp_path / "said.json"), str(tmp_path / "runs")]


@pytest.mark.usefixtures("no_environment", "saved")
def test_a_command_gives_them(
    seaweedfs: Server, url: str, store: casstore.Store, command: list[str], tmp_path: Path
) -> None:
    process = shlex.join(command)
    with store.add_remote("origin", url, endpoint=seaweedfs.endpoint, credential_process=process) as there:
        assert there.push()[0].is_new
        assert there.verify(deep=True).ok
    assert SECRET not in (tmp_path / "store/remotes.toml").read_text()
    assert len((tmp_path / "runs").read_text()) < 20  # not for each request


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("said", [f'"{SECRET}"', f'{{"AccessKeyId": "{SECRET}"}}', SECRET, ""])
def test_a_command_that_gives_none(
    said: str, seaweedfs: Server, url: str, store: casstore.Store, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "said.json").write_text(said)
    with pytest.raises(RemoteError, match=r"credential process did not print.*run it by hand") as caught:
        store.add_remote("origin", url, endpoint=seaweedfs.endpoint, credential_process=shlex.join(command))
    assert SECRET not in str(caught.value)
    with pytest.raises(RemoteError, match=r"credential process gave nothing.*run it by hand"):
        store.add_remote("origin", url, endpoint=seaweedfs.endpoint, credential_process="/no/such/program")


@pytest.mark.usefixtures("no_environment", "saved")
def test_a_profile_gives_them(
    seaweedfs: Server, url: str, store: casstore.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("boto3")
    (tmp_path / "config").write_text(
        f"[profile lab]\naws_access_key_id = {OWNER[0]}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with store.add_remote("origin", url, endpoint=seaweedfs.endpoint, profile="lab") as there:
        assert there.push()[0].is_new
    with pytest.raises(RemoteError, match="the profile 'other' gives no credentials"):
        store.add_remote("other", url, endpoint=seaweedfs.endpoint, profile="other")


@pytest.mark.usefixtures("no_environment")
def test_they_are_looked_for_in_the_order_of_other_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr(credentials, "_of_profile", asked.append)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\n")
    found = {"HOME": str(tmp_path), "AWS_PROFILE": "lab", "AWS_ACCESS_KEY_ID": OWNER[0]}
    credentials.s3_provider("s3://bucket", "mine", None, found)
    assert credentials.s3_provider("s3://bucket", None, None, found) is None
    del found["AWS_ACCESS_KEY_ID"]
    credentials.s3_provider("s3://bucket", None, None, found)
    del found["AWS_PROFILE"]
    credentials.s3_provider("s3://bucket", None, None, found)
    assert asked == ["mine", "lab", "default"]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(
    name: str, seaweedfs: Server, url: str, store: casstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, seaweedfs.endpoint)
    with store.add_remote("origin", url) as there:
        assert there.list() == []


@pytest.mark.usefixtures("saved")
def test_who_may_only_read_is_told_so_at_once(
    seaweedfs: Server, url: str, store: casstore.Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with store.add_remote("origin", url, endpoint=seaweedfs.endpoint) as there:
        there.push()
        store.save("bert:v2", plant(tmp_path / "more", checkpoint(1)))
    for name, value in zip(_FROM_ENVIRONMENT, READER, strict=True):
        monkeypatch.setenv(name, value)
    refused = pytest.raises(RemoteError, match=r"refuses access to \S+.*what they allow")
    with store.remote("origin") as there:
        with refused:
            there.push()
        with refused:
            there.delete("bert:v1")
        assert there.push("bert:v1")[0].is_new is False  # nothing is written for what is there
        assert there.verify(deep=True).ok
        assert there.status().here == ["bert:v2"]
    with casstore.Store(tmp_path / "other") as other:
        with other.add_remote("origin", url, endpoint=seaweedfs.endpoint) as there:
            assert contents(there.pull()[0].model) == checkpoint(0)
        with refused:
            other.add_remote("new", f"{url}-new", endpoint=seaweedfs.endpoint)


@pytest.mark.usefixtures("saved")
def test_who_may_not_remove_can_do_all_but_gc(url: str, store: casstore.Store, proxy: FaultProxy) -> None:
    def without_removing(request: Request) -> str:
        return "refuse:403" if request.method == "DELETE" or request.path.endswith("?delete") else ""

    proxy.rule = without_removing
    with store.add_remote("origin", url, endpoint=proxy.endpoint) as there:
        assert there.push()[0].is_new
        there.delete("bert:v1")
        with pytest.raises(RemoteError, match=r"refuses access to packs/.*what they allow"):
            there.gc()
        assert there.push()[0].is_new
        assert there.verify(deep=True).ok


@pytest.mark.usefixtures("saved")
def test_secrets_are_shown_nowhere(url: str, store: casstore.Store, proxy: FaultProxy, tmp_path: Path) -> None:
    store.add_remote("origin", url, endpoint=proxy.endpoint).close()
    secrets = (SECRET, "Signature=")
    shown = (tmp_path / "store/remotes.toml").read_text()
    for rule in ("refuse:400", "refuse:403", "flip:0"):
        proxy.rule = lambda request, rule=rule: rule if request.is_listing else ""  # type: ignore[misc]
        arguments = ["status", "--json"] if rule == "refuse:400" else ["push", "bert:v1"]
        command = [sys.executable, "-m", "casstore.cli", *arguments, "-vv", "--home", str(store.home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        shown += done.stdout + done.stderr
    assert url in shown
    assert [secret for secret in secrets if secret in shown] == []
