"""A second reader of remotes, written from docs/format.md alone, reads what casstore writes there.

Neither it nor what it borrows from tests/test_format.py imports anything of casstore: remotes are made by another
process, or long ago.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.storage.test_documented_format import written
from tests.test_format import Row, chunks_of, decode, decode_delta, digest_of, read_index, read_record, unzstd

DATA = Path(__file__).parents[1] / "data"
DOCUMENT = Path(__file__).parents[2].joinpath("docs/format.md").read_text(encoding="utf-8")
SECTION = DOCUMENT.partition("## Remotes")[2].partition("\n## ")[0]
NUMBER = r"(?:0|[1-9][0-9]*)"
PUSH = r"[0-9a-f]{32}"
PART = r"[a-z0-9](?:[-._a-z0-9]*[a-z0-9])?"
# The tree of "Remotes", and the kind of document that its table has there.
KEYS = {
    r"casremote": "remote",
    rf"refs/{PART}/{PART}/{NUMBER}(?:\.s{NUMBER})?": "ref",
    rf"refs/{PART}/{PART}/{NUMBER}\.x": "tombstone",
    rf"pushes/{PUSH}/open": "push",
    rf"pushes/{PUSH}/v{NUMBER}": "seen",
    rf"pushes/{PUSH}/end": "end",
    rf"gc/{NUMBER}": "epoch",
    rf"summaries/{NUMBER}": "summary",
    rf"packs/{PUSH}/{NUMBER}\.pack": None,
    rf"segments/{PUSH}/{NUMBER}": None,
}
# What no remote had when the golden one was made.
LATER = {rf"refs/{PART}/{PART}/{NUMBER}\.[0-9a-f]{{64}}\.sig": None}
FIELDS = {
    "remote": {"id", "single_writer"},
    "ref": {
        "name", "version", "digest", "manifest", "size", "created_at", "labels", "described", "segment",
        "segment_check", "segment_bytes", "push",
    },
    "tombstone": {"by", "at"},
    "push": {"epoch", "tags", "content", "by"},
    "seen": {"epoch"},
    "end": {"push", "state", "refs", "by"},
    "epoch": {"epoch", "run", "condemned"},
    "summary": {"refs"},
}  # fmt: skip


def read_document(kind: str, body: bytes) -> dict[str, Any]:
    """ "Documents"."""
    body = unzstd(body) if kind == "summary" else body
    document: dict[str, Any] = json.loads(body)
    assert body.decode("utf-8") == written(document)
    check = document.pop("check")
    assert check == digest_of(written(document).encode("utf-8")).hex()
    assert (document.pop("kind"), document.pop("format"), document.pop("requires")) == (kind, 1, [])
    assert document.pop("hash") == "blake3-256"
    assert document.keys() == FIELDS[kind]
    return document


class Segment:
    """ "Segments"."""

    def __init__(self, data: bytes) -> None:
        assert struct.unpack_from("<8sHHI", data) == (b"casssegm", 1, 0, 1)
        self.check = digest_of(data[:124]).hex()
        sections = []
        start = 124
        for place in (16, 52, 88):
            length, digest = struct.unpack_from("<I32s", data, place)
            sections.append(data[start : start + length])
            assert digest_of(sections[-1]) == digest
            start += length
        assert start == len(data)
        self.packs = [
            (f"packs/{push.hex()}/{number}.pack", size, digest)
            for push, number, size, digest, *_ in msgpack.unpackb(unzstd(sections[0]))
        ]
        self.manifest_bytes = sections[1]
        self.manifest = msgpack.unpackb(unzstd(sections[1]))
        self.rows = self._rows(*msgpack.unpackb(unzstd(sections[2]))[:8])

    def _rows(self, more: bytes, *columns: list[int]) -> dict[bytes, tuple[int, Row]]:
        recipes = dict(self.manifest["recipes"])
        digests: list[bytes] = []
        for _, _, size, blob in self.manifest["files"]:
            named = [digest for digest, _, _ in chunks_of(recipes[blob])] if blob in recipes else [blob] * bool(size)
            digests += [digest for digest in dict.fromkeys(named) if digest not in digests]
        digests += [more[at : at + 32] for at in range(0, len(more), 32)]
        assert all(len(column) == len(digests) for column in columns)
        rows = {}
        last, end = None, 16
        for digest, pack, gap, length, raw, encoding, base, grouping in zip(digests, *columns, strict=True):
            offset = (end if pack == last else 16) + gap
            last, end = pack, offset + length
            on = digests[base - 1] if base else None
            rows[digest] = (
                pack, Row(digest, offset, length, raw, encoding, on, digests[grouping - 1] if grouping else on)
            )  # fmt: skip
        return rows


class Remote:
    """ "Reading a remote", where it is a directory."""

    def __init__(self, root: Path) -> None:
        self.objects = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
        }
        self.documents: dict[str, dict[str, Any]] = {}
        for key, body in self.objects.items():
            if key.startswith("probe/"):
                continue
            [kind] = (kind for pattern, kind in {**KEYS, **LATER}.items() if re.fullmatch(pattern, key))
            assert not key.endswith(".sig") or digest_of(body).hex() == key.split(".")[-2]
            if kind is not None:
                self.documents[key] = read_document(kind, body)
        assert "casremote" in self.documents

    def refs(self) -> dict[str, dict[str, Any]]:
        """The refs of the versions that are there, by tag."""
        found = {}
        for tag in {key.rpartition("/")[0] for key in self.objects if key.startswith("refs/")}:
            names = {key.rpartition("/")[2] for key in self.objects if key.startswith(f"{tag}/")}
            generation = max((int(name) for name in names if name.isdecimal()), default=-1)
            if generation < 0 or f"{generation}.x" in names:
                continue
            again = [int(name.partition(".s")[2]) for name in names if name.startswith(f"{generation}.s")]
            ref = self.documents[f"{tag}/{generation}.s{max(again)}" if again else f"{tag}/{generation}"]
            assert tag == f"refs/{ref['name']}/{ref['version']}"
            found[f"{ref['name']}:{ref['version']}"] = ref
        return found

    def segment(self, ref: Mapping[str, Any]) -> Segment:
        """The segment of a ref, with which it agrees."""
        assert ref["segment"].startswith(f"segments/{ref['push']}/")
        data = self.objects[ref["segment"]]
        segment = Segment(data)
        manifest = segment.manifest
        assert (segment.check, len(data)) == (ref["segment_check"], ref["segment_bytes"])
        assert digest_of(segment.manifest_bytes).hex() == ref["manifest"]
        digest = digest_of(msgpack.packb([manifest["files"], manifest["directories"]]))
        described = json.loads(manifest["description"])
        described["context"] = {"bentoml_version": "", "python_version": "", **described["context"]}
        described.pop("untrusted", None)
        assert digest.hex() == ref["digest"]
        assert digest_of(written(described).encode("utf-8")).hex() == ref["described"]
        assert [manifest[name] for name in ("name", "version", "created_at")] == [
            ref[name] for name in ("name", "version", "created_at")
        ]
        assert described["labels"] == ref["labels"]
        assert sum(file[2] for file in manifest["files"]) == ref["size"]
        return segment

    def files(self, ref: Mapping[str, Any]) -> dict[str, bytes]:
        """The files of a version, from the ranges of packs that its segment names."""
        segment = self.segment(ref)
        for key, size, digest in segment.packs:
            assert (len(self.objects[key]), digest_of(self.objects[key])) == (size, digest)
        found: dict[bytes, bytes] = {}

        def chunk(digest: bytes, links: int = 0) -> bytes:
            assert links <= 8
            if digest not in found:
                pack, row = segment.rows[digest]
                body = self.objects[segment.packs[pack][0]]
                record, encoded = read_record(body[row.offset : row.offset + row.length], 0)
                assert record._replace(offset=row.offset) == row
                if row.base is None or row.grouping is None:
                    found[digest] = decode(row.encoding, encoded, row.raw_bytes)
                else:
                    found[digest] = decode_delta(encoded, chunk(row.base, links + 1), chunk(row.grouping, 8))
                assert (len(found[digest]), digest_of(found[digest])) == (row.raw_bytes, digest)
            return found[digest]

        recipes = dict(segment.manifest["recipes"])
        contents = {}
        for path, _, size, blob in segment.manifest["files"]:
            named = [digest for digest, _, _ in chunks_of(recipes[blob])] if blob in recipes else [blob] * bool(size)
            contents[path] = b"".join(map(chunk, named))
            assert (len(contents[path]), digest_of(contents[path])) == (size, blob)
        return contents

    def has_deltas(self) -> bool:
        """Whether a version there has a chunk that is stored as what it differs by from another."""
        return any(row.base for ref in self.refs().values() for _, row in self.segment(ref).rows.values())


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Remote:
    root = tmp_path_factory.mktemp("golden")
    with tarfile.open(DATA / "remote-format-1.tar.xz") as archive:
        archive.extractall(root, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))  # type: ignore[arg-type]
    return Remote(root / "remote")


def test_the_golden_remote_is_read(golden: Remote) -> None:
    """It has one thing of each kind (tests/data/make_remote.py)."""
    expected = json.loads((DATA / "remote-format-1.json").read_text(encoding="utf-8"))
    found = {
        tag: {
            "labels": ref["labels"],
            "digest": ref["digest"],
            "files": {
                path: [len(content), hashlib.sha256(content).hexdigest()] for path, content in golden.files(ref).items()
            },
        }
        for tag, ref in golden.refs().items()
    }
    assert found == expected
    assert golden.has_deltas()


@pytest.mark.parametrize("pattern", KEYS)
def test_the_golden_remote_has_one_of_each_kind(golden: Remote, pattern: str) -> None:
    assert any(re.fullmatch(pattern, key) for key in golden.objects)


def test_the_documents_say_what_happened(golden: Remote) -> None:
    documents = golden.documents
    (epoch,) = (document for key, document in documents.items() if key.startswith("gc/"))
    assert epoch["epoch"] == 1
    assert epoch["condemned"] == sorted(epoch["condemned"])
    live = {key for ref in golden.refs().values() for key, _, _ in golden.segment(ref).packs}
    assert live.isdisjoint(epoch["condemned"])
    assert len(epoch["condemned"]) == 2
    assert {key for key in golden.objects if key.startswith("packs/")} == live | {*epoch["condemned"]}
    opened = {key.split("/")[1]: each for key, each in documents.items() if key.endswith("/open")}
    seen = {key.split("/")[1]: each for key, each in documents.items() if re.search(r"/v\d+$", key)}
    ends = {key.split("/")[1]: each for key, each in documents.items() if key.endswith("/end")}
    (still_open,) = opened.keys() - ends.keys()
    assert seen == {still_open: {"epoch": 1}}
    assert opened[still_open]["tags"] == ["run:9"]
    assert opened[still_open]["epoch"] == 0
    for push, end in ends.items():
        assert end["push"] == push
        assert bool(end["refs"]) == (end["state"] == "sealed")
        assert bool(end["by"]) == (end["state"] == "revoked")
        for key, text in end["refs"]:
            assert golden.objects[key] == text.encode("utf-8")
            ref = documents[key]
            content = digest_of(bytes.fromhex(ref["digest"]) + bytes.fromhex(ref["described"])).hex()
            assert (opened[push]["content"], opened[push]["tags"]) == (content, [f"{ref['name']}:{ref['version']}"])


def test_the_summary_has_refs_as_they_stand(golden: Remote) -> None:
    (summary,) = (each for key, each in golden.documents.items() if key.startswith("summaries/"))
    assert summary["refs"]
    assert {key: text.encode("utf-8") for key, text in summary["refs"].items()}.items() <= golden.objects.items()


def test_the_tables_of_the_document_are_those_of_this_reader() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `(\w+)` \| (.+) \|$", SECTION, re.MULTILINE)
    said = {kind: fields for _, kind, fields in rows}
    assert said.keys() == FIELDS.keys()
    for kind, fields in said.items():
        assert FIELDS[kind] <= {*re.findall(r"`(\w+)`", fields)}
    tree = SECTION.partition("```\n")[2].partition("```")[0]
    names = [line.split()[0] for line in tree.splitlines()]
    assert len(names) == len(KEYS) + len(LATER) + 2  # `.s<k>` is a ref too, and `probe/` means nothing


_PUSH = """
import sys, casstore
with casstore.Store(sys.argv[1] + "/store") as store:
    for step in sys.argv[2:]:
        with store.create("run:" + step, labels={"step": step}) as draft:
            with open(sys.argv[1] + "/" + step, "rb") as source, open(draft.path + "/w.safetensors", "wb") as file:
                file.write(source.read())
            open(draft.path + "/step", "w").write(step)
    store.sign("run:0", sys.argv[1] + "/key.pem")
    store.add_remote("origin", sys.argv[1] + "/remote")
    remote = store.remote("origin")
    remote.push()
    remote.delete("run:0")
    remote.gc()
    remote.push("run:0")
"""


def test_a_remote_of_this_release_is_read(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(1 << 20)
    header = json.dumps({"w": {"dtype": "F16", "shape": [len(noise) // 2], "data_offsets": [0, len(noise)]}}).encode()
    contents = {}
    for step in range(3):
        changed = bytearray(noise)
        changed[step::1000] = bytes(len(changed[step::1000]))
        contents[f"run:{step}"] = {
            "w.safetensors": struct.pack("<Q", len(header)) + header + changed, "step": str(step).encode()
        }  # fmt: skip
        (tmp_path / str(step)).write_bytes(contents[f"run:{step}"]["w.safetensors"])
    make_key: list[str | Path] = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]
    subprocess.run([*make_key, tmp_path / "key.pem"], check=True)
    subprocess.run([sys.executable, "-c", _PUSH, str(tmp_path), "0", "1", "2"], check=True)
    remote = Remote(tmp_path / "remote")
    assert {tag: remote.files(ref) for tag, ref in remote.refs().items()} == contents
    assert remote.has_deltas()
    for key, body in remote.objects.items():
        if key.startswith("packs/"):
            assert {row.encoding for row in read_index(body)}
    (signature,) = (key for key in remote.objects if key.endswith(".sig"))
    assert signature.startswith("refs/run/0/1.")
    assert json.loads(remote.objects[signature])["dsseEnvelope"]
    assert {key for key in remote.objects if key.startswith("refs/run/0/")} == {
        *(f"refs/run/0/{n}" for n in ("0", "0.x", "1")), signature
    }  # fmt: skip
