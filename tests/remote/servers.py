"""Object stores that run on this machine: real programs on free loopback ports, one of each for a whole test run.

A server is started by a keeper, a process of its own, and used by any number of processes, such as xdist's workers.
Each user holds a shared lock for as long as it lives. The keeper waits for that lock alone: it gets it when the last
user has ended, however that was, and then ends the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

HOST = "127.0.0.1"
OWNER = ("test", "testtest")
READER = ("reader", "reader-secret")
BUCKET = "buck"
PUBLIC = "public"  # a bucket that anybody may read, of SeaweedFS
_STARTS = 5
_READY_SECONDS = 60.0
_ACTIONS = {OWNER[0]: ["Admin"], READER[0]: ["Read", "List"]}
_SECRETS = dict((OWNER, READER))


@dataclass(frozen=True)
class Server:
    """A server that runs: what it is, and where."""

    kind: str
    port: int
    pid: int

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _seaweedfs(data: Path, ports: Sequence[int]) -> list[str]:
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": _SECRETS[name]}], "actions": actions}
        for name, actions in _ACTIONS.items()
    ]
    identities.append({"name": "anonymous", "credentials": [], "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]})
    config = data.with_suffix(".json")
    config.write_text(json.dumps({"identities": identities}), encoding="utf-8")
    places = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
              "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")  # fmt: skip
    return [
        "weed", f"-logdir={data}", "mini", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}",
        "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{place}={port}" for place, port in zip(places, ports, strict=True)), f"-s3.config={config}",
    ]  # fmt: skip


_PROGRAMS: dict[str, tuple[str, int, Callable[[Path, Sequence[int]], list[str]]]] = {
    "seaweedfs": ("weed", 10, _seaweedfs),
    "moto": ("moto_server", 1, lambda _, ports: ["moto_server", "-H", HOST, "-p", str(ports[0])]),
    "localbucket": ("localbucket", 1, lambda data, ports: ["localbucket", "--port", str(ports[0]), str(data)]),
    "rclone": ("rclone", 1, lambda data, ports: [
        "rclone", "serve", "s3", "--addr", f"{HOST}:{ports[0]}", "--auth-key", ",".join(OWNER), str(data),
    ]),
    "nanio": ("nanio", 1, lambda data, ports: [
        "nanio", "serve", "--host", HOST, "--port", str(ports[0]), "--data-dir", str(data),
    ]),
}  # fmt: skip
CONDITIONAL = ("seaweedfs", "moto", "localbucket")
UNCONDITIONAL = ("rclone", "nanio")


@contextlib.contextmanager
def shared(root: Path, kind: str) -> Iterator[Server]:
    """The server of that kind of all processes that say the same root; started where none runs, or none any more."""
    if shutil.which(_PROGRAMS[kind][0]) is None:
        pytest.skip(f"{_PROGRAMS[kind][0]} is not installed")
    address = root / f"{kind}.server"
    with open(root / f"{kind}.users", "ab") as users, open(root / f"{kind}.starting", "ab") as starting:
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(starting, fcntl.LOCK_EX)
        if not _answers(address):
            _start(root, kind)
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield Server(**json.loads(address.read_text(encoding="utf-8")))


def _answers(address: Path) -> bool:
    """Whether a server runs, of which its keeper has written the address."""
    try:
        socket.create_connection((HOST, json.loads(address.read_text(encoding="utf-8"))["port"])).close()
    except OSError:
        return False
    return True


def _start(root: Path, kind: str) -> None:
    """Start a keeper, and wait until its server answers. It has said so when it closes what it prints to."""
    log = root / f"{kind}.log"
    with open(log, "ab") as errors:
        keeper = subprocess.Popen(
            [sys.executable, __file__, kind, str(root)], stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert keeper.stdout is not None
        with keeper.stdout as stdout:
            said = stdout.read()
    keeper.returncode = 0  # it outlives us, and nobody is to wait for it
    assert said == b"ready", f"{kind} did not start:\n{log.read_text(errors='replace')[-2000:]}"


def _keep(kind: str, root: Path) -> None:
    """Run a server until nobody uses it."""
    address, data = root / f"{kind}.server", root / f"{kind}.data"
    server = _started(kind, data)
    try:
        address.write_text(json.dumps(asdict(Server(kind, server[1], server[0].pid))), encoding="utf-8")
        os.write(1, b"ready")
        os.dup2(2, 1)
        with open(root / f"{kind}.users", "ab") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            address.unlink()  # before the lock goes: who gets it next starts a server
            server[0].kill()
            server[0].wait()
            shutil.rmtree(data, ignore_errors=True)
    finally:
        server[0].kill()


def _started(kind: str, data: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server that answers, and its port. A port may be taken between being found free and being used."""
    for _ in range(_STARTS):
        shutil.rmtree(data, ignore_errors=True)
        (data / BUCKET).mkdir(parents=True)  # a directory is a bucket, for those that keep files
        ports = free_ports(_PROGRAMS[kind][1])
        if (server := launched(kind, data, ports)) is not None:
            return server, ports[0]
    raise SystemExit(f"{kind} does not start")


def launched(kind: str, data: Path, ports: Sequence[int]) -> subprocess.Popen[bytes] | None:
    """A server of what is in a directory, once it answers; None where it does not, as where a port is taken."""
    environment = {**os.environ, "NANIO_ACCESS_KEY": OWNER[0], "NANIO_SECRET_KEY": OWNER[1]}
    server = subprocess.Popen(
        _PROGRAMS[kind][2](data, ports), stdin=subprocess.DEVNULL, stdout=2, stderr=2, cwd=data, env=environment
    )
    if _is_ready(server, ports[0], kind):
        return server
    server.kill()
    server.wait()
    return None


def _is_ready(server: subprocess.Popen[bytes], port: int, kind: str) -> bool:
    """Wait until its bucket has been made, or it has ended."""
    deadline = time.monotonic() + _READY_SECONDS
    names = (BUCKET, PUBLIC) if kind == "seaweedfs" else (BUCKET,)
    while server.poll() is None and time.monotonic() < deadline:
        if all(_has_bucket(port, name) for name in names):
            return True
        time.sleep(0.05)
    return False


def _has_bucket(port: int, name: str) -> bool:
    """Whether a bucket takes an object, and lists it. SeaweedFS makes one with its first object, moto when asked."""
    from obstore.store import S3Store

    endpoint = f"http://{HOST}:{port}"
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=5).close()
    bucket = S3Store(
        name, endpoint=endpoint, access_key_id=OWNER[0], secret_access_key=OWNER[1], region="us-east-1",
        client_options={"allow_http": True}, retry_config={"max_retries": 0},
    )  # fmt: skip
    try:
        bucket.put("ready/ready", b"")
        return [each["path"] for each in bucket.list("ready").collect()] == ["ready/ready"]
    except Exception:  # noqa: BLE001 - whatever it is, it is not ready
        return False


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _keep(sys.argv[1], Path(sys.argv[2]))
