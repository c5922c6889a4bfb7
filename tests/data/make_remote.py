"""Makes the golden remote of the format as it is now: `python tests/data/make_remote.py`.

It writes `remote-format-1.tar.xz`, a directory that is a remote with one thing of each kind, and beside it as JSON what
is in it. It is run once for each format, under a name of its own; the remotes of earlier formats stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import casstore
from casstore.remote import keys, summing_up
from casstore.remote.address import RemoteAddress
from casstore.remote.bucket import Bucket
from casstore.remote.documents import PushOpen
from casstore.remote.pushing import Push, revoke
from casstore.remote.transfers import workers
from casstore.storage import machine
from tests.data.make_store import safetensors

NAME = "remote-format-1"
HERE = Path(__file__).parent


def begin(bucket: Bucket, tag: str) -> Push:
    epoch = bucket.epoch(bucket.newest_epoch())
    push = Push(bucket, keys.new_push_id(), epoch.number, frozenset(epoch.condemned))
    opened = PushOpen(push.epoch, [tag], casstore.Digest.of(tag.encode()), "user@machine")
    bucket.backend.create(keys.push_open(push.id), opened.pack())
    return push


def fill(store: casstore.Store, place: Path) -> dict[str, Any]:
    """Push, delete, push again, pack anew, revoke, and run gc while a push is open; returns what is there then."""
    generator = np.random.default_rng(1)
    weights = generator.normal(0, 0.03, 6000).astype("f4")
    for step in range(3):
        with store.create(f"run:{step}", labels={"step": str(step), "größe": "ü"}, metadata={"loss": 0.5}) as draft:
            tensors = {"halves": (weights.view("<u4") >> 16).astype("<u2"), "floats": weights[:2001]}
            Path(draft.path, "model.safetensors").write_bytes(safetensors(tensors))
            Path(draft.path, "empty").touch()
            Path(draft.path, "deep").mkdir()
            Path(draft.path, "deep", "ü.txt").write_text("später", encoding="utf-8")
            Path(draft.path, "void").mkdir()
        weights = weights + generator.normal(0, 2e-5, weights.size).astype("f4")
    for name in ("gone:1", "again:1"):
        with store.create(name, custom_objects={"name": name}) as draft:
            Path(draft.path, "f").write_bytes(name.encode() * 99)
    store.add_remote("origin", str(place))
    remote = store.remote("origin")
    remote.push()
    bucket = Bucket.open(RemoteAddress(str(place)).open())
    open_push = begin(bucket, "run:9")
    revoke(bucket, begin(bucket, "run:8").id)
    remote.delete(["gone:1", "again:1"])
    remote.push("again:1")
    remote.gc()  # which waits for the push that is open
    with workers(1) as pool, mock.patch.object(summing_up, "MANY", 0):
        summing_up.sum_up(bucket, pool)
    open_push.note(bucket.epoch(1))
    repacked = begin(bucket, "run:0")
    ref, segment = bucket.version(casstore.Tag("run", "0"))
    again = repacked.put_segment(segment)
    bucket.backend.create(bucket.state(ref.tag).next_repacked(ref.tag), again.pack())
    revoke(bucket, repacked.id)
    return {
        str(ref.tag): {
            "labels": dict(ref.labels),
            "digest": str(ref.digest),
            "files": {
                file.path: [file.size, hashlib.sha256(remote.get(ref.tag).open(file.path).read()).hexdigest()]
                for file in remote.get(ref.tag).files
            },
        }
        for ref in remote.list()
    }


def main() -> None:
    setattr(machine, "_who", lambda _process, _user: "user@machine")  # noqa: B010 - a cached function, to mypy
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with casstore.Store(root / "store", auto_gc=False) as store:
            expected = fill(store, root / "remote")
        os.rmdir(root / "remote/.tmp")
        with tarfile.open(HERE / f"{NAME}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(root / "remote", "remote", filter=_anonymous)
        text = json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True)
        (HERE / f"{NAME}.json").write_text(text + "\n", encoding="utf-8")
        print(*sorted(str(path.relative_to(root)) for path in (root / "remote").rglob("*")), sep="\n")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
