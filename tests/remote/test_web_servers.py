"""A remote that a web server shows: it is read where that speaks WebDAV, and what is said where it does not."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import casstore
from casstore.errors import RemoteError
from tests.kit import checkpoint, contents, plant
from tests.remote.servers import HOST, free_ports

FILES = checkpoint(0)


class Quiet(SimpleHTTPRequestHandler):
    def do_PROPFIND(self) -> None:
        """As most say it; 501, as this one would, is tried again for long."""
        self.send_error(405)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def shown(store: casstore.Store, tmp_path: Path) -> Path:
    """A remote with a version."""
    store.save("bert:v1", plant(tmp_path / "files", FILES))
    with store.add_remote("disk", str(tmp_path / "remote")) as there:
        there.push()
    return tmp_path / "remote"


@pytest.fixture
def plain(shown: Path) -> Iterator[str]:
    """The URL of a web server that shows it, and knows nothing of WebDAV."""
    with ThreadingHTTPServer((HOST, 0), partial(Quiet, directory=str(shown))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


def test_one_that_cannot_be_listed_is_refused(plain: str, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "other") as other:
        for make in (True, False):
            with pytest.raises(RemoteError, match=r"cannot list what it holds.*rclone serve webdav") as caught:
                other.add_remote("web", plain, make=make)
            assert caught.value.is_refusal
        assert other.remotes() == {}
    with casstore.Remote(plain) as there, pytest.raises(RemoteError, match="cannot list what it holds"):
        there.get("bert:v1")


@pytest.fixture
def webdav(shown: Path) -> Iterator[str]:
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    (port,) = free_ports(1)
    command = ["rclone", "serve", "webdav", "--addr", f"{HOST}:{port}", str(shown)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"http://{HOST}:{port}/casremote").close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"http://{HOST}:{port}"
    finally:
        server.kill()
        server.wait()


def test_one_that_speaks_webdav_is_read_and_not_written(webdav: str, tmp_path: Path) -> None:
    with casstore.Store(tmp_path / "other") as other, other.add_remote("web", webdav) as there:
        assert [str(ref.tag) for ref in there.list()] == ["bert:v1"]
        version = there.get("bert:v1")
        assert {file.path: version.open(file.path).read() for file in version.files} == FILES
        (pulled,) = there.pull()
        assert contents(pulled.model) == FILES
        assert there.verify(deep=True).ok
        other.save("bert:v2", plant(tmp_path / "new", checkpoint(1)))
        for write in (lambda: there.push("bert:v2"), lambda: there.delete("bert:v1"), there.gc):
            with pytest.raises(RemoteError, match="cannot be written to: it is a web server"):
                write()
