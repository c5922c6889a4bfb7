"""A remote in a directory, rewritten by hand: what stands there says something else, and every check of it fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

import casstore
from casstore.digest import Digest
from casstore.plain_json import canonical_json
from casstore.remote.segment import HEADER_BYTES
from casstore.storage import pack
from casstore.storage.pack import EncodedChunk, PackStream
from tests.kit import noise, plant, safetensors, weights
from tests.remote.segments import frame, said, sealed

Edit = Callable[[list[Any]], object]


def rewritten(body: bytes, changes: dict[str, Any]) -> bytes:
    """A document that says something else of some of its fields, and has the right `check`; `...` is no field."""
    document = json.loads(body) | changes
    document = {name: value for name, value in document.items() if value is not ... and name != "check"}
    check = str(Digest.of(canonical_json(document).encode("utf-8")))
    return canonical_json({**document, "check": check}).encode("utf-8")


def step(number: int) -> dict[str, bytes]:
    """The files of one step of a run."""
    tensor = weights("F32", 5, number, 150_000)
    return {
        "w.safetensors": safetensors({"w": ("F32", tensor)}),
        "own.bin": noise(3000, number),
        "deep/step": b"%d" % number,
        "same.bin": noise(2000),
    }


def pushed(root: Path) -> Path:
    """A remote with the versions run:1, run:2 and run:3, and the store that they came from; returns the remote."""
    with casstore.Store(root / "origin") as store:
        store.add_remote("origin", str(root / "remote"))
        for number in (1, 2, 3):
            with store.create(f"run:{number}") as draft:
                plant(draft.path, step(number))
            store.remote("origin").push(f"run:{number}")
    return root / "remote"


class Rewriting:
    """The objects of a remote in a directory, to be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def keys(self, prefix: str = "") -> list[str]:
        """The keys of all objects that begin so, in order."""
        paths = (path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        found = sorted(str(path.relative_to(self.root)) for path in paths)
        return [key for key in found if key.startswith(prefix) and not key.startswith(".")]

    def body(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def put(self, key: str, body: bytes) -> None:
        """Write an object, whether it stands or not."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(body)

    def flip(self, key: str, place: int) -> None:
        """Flip a bit of an object."""
        body = bytearray(self.body(key))
        body[place] ^= 1
        self.put(key, bytes(body))

    def remove(self, prefix: str) -> None:
        shutil.rmtree(self.root / prefix)

    def say(self, key: str, **changes: Any) -> None:
        """Change fields of a document."""
        self.put(key, rewritten(self.body(key), changes))

    def ref(self, tag: str) -> dict[str, Any]:
        """What the ref of a version says, which has been pushed once."""
        document: dict[str, Any] = json.loads(self.body(self.ref_key(tag)))
        return document

    def ref_key(self, tag: str) -> str:
        return f"refs/{tag.replace(':', '/')}/0"

    def segment(self, tag: str) -> list[Any]:
        """What the three sections of a version's segment say."""
        data = self.body(self.ref(tag)["segment"])
        sections, start = [], HEADER_BYTES
        for place in (16, 52, 88):
            length = int.from_bytes(data[place : place + 4], "little")
            sections.append(data[start : start + length])
            start += length
        return [said(section) for section in sections]

    def resegment(self, tag: str, edit: Edit) -> None:
        """Change what the sections of a version's segment say, and have its ref agree with that."""
        sections = self.segment(tag)
        edit(sections)
        data, check = sealed([section if isinstance(section, bytes) else frame(section) for section in sections])
        ref = self.ref(tag)
        self.put(ref["segment"], data)
        changes: dict[str, Any] = {"segment_check": str(check), "segment_bytes": len(data)}
        if isinstance(sections[1], dict):
            manifest = sections[1]
            changes["manifest"] = str(Digest.of(frame(manifest)))
            changes["digest"] = str(Digest.of(msgpack.packb([manifest["files"], manifest["directories"]])))
        self.say(self.ref_key(tag), **changes)

    def records(self, key: str) -> list[tuple[pack.PackEntry, bytes]]:
        """The records of a pack, and their entries."""
        body = self.body(key)
        entries = pack.read_entries(self.root / key)
        return [(entry, body[entry.offset : entry.offset + entry.length]) for entry in entries]

    def packs(self, tag: str) -> list[str]:
        """The keys of the packs that a version's segment names."""
        return [f"packs/{push.hex()}/{number}.pack" for push, number, *_ in self.segment(tag)[0]]


def pack_of(*chunks: EncodedChunk) -> bytes:
    """A pack of these."""
    pieces: list[bytes] = []
    stream = PackStream(lambda data: pieces.append(bytes(data)))
    for chunk in chunks:
        stream.add(chunk)
    stream.end()
    return b"".join(pieces)
