"""`.casmodel` archives made by hand, sound or not: what no export would write."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

import casstore
from casstore.archive import casmodel
from casstore.description import Description
from casstore.digest import Digest
from casstore.plain_json import canonical_json
from casstore.storage.coding.codec import Against, encode
from casstore.storage.coding.delta import Grouping
from casstore.storage.coding.encodings import Encoding
from casstore.storage.manifest import FileEntry, Manifest
from casstore.storage.pack import EncodedChunk, PackStream
from casstore.storage.recipe import Recipe, RecipeSegment
from casstore.storage.tensors.elements import Element
from casstore.tag import Tag

FLOATS = Element(4, 23, 8)
DESCRIPTION: dict[str, Any] = {
    "labels": {}, "metadata": {}, "module": "", "api_version": "v1", "signatures": {}, "options": {},
    "context": {"framework_name": "", "framework_versions": {}, "bentoml_version": "1.4.0", "python_version": "3.11.0"},
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What stands in a manifest in place of a description, sound or not."""

    document: Any

    @property
    def text(self) -> str:
        return canonical_json(self.document)


def recipe(parts: Sequence[bytes], blob: Digest | None = None, **segment: Any) -> Recipe:
    """The recipe of a blob that is these chunks in this order, whatever digest it goes by."""
    chunks = tuple((Digest.of(part), len(part)) for part in parts)
    size = sum(map(len, parts))
    return Recipe(blob or Digest.of(b"".join(parts)), size, "by hand", (RecipeSegment(chunks, **segment),))


def manifest(
    tag: str, files: Mapping[str, bytes | Recipe | tuple[Digest, int]], directories: Iterable[str] = (), **changes: Any
) -> Manifest:
    """A version of these files: their bytes, each one chunk, or their recipes, or a digest and a size."""
    entries, recipes = [], {}
    for path, content in files.items():
        if isinstance(content, Recipe):
            entries.append(FileEntry(path, False, content.size, content.blob))
            recipes[content.blob] = content
        else:
            digest, size = content if isinstance(content, tuple) else (Digest.of(content), len(content))
            entries.append(FileEntry(path, False, size, digest))
    made = Manifest(
        Tag(*tag.split(":")), time.time_ns() - 10**12, tuple(entries), tuple(directories), recipes,
        cast(Description, Said(DESCRIPTION)),
        casstore_version=casstore.__version__,
    )  # fmt: skip
    if "description" in changes:
        changes["description"] = Said(changes["description"])
    return replace(made, **changes)


def whole(raw: bytes, **changes: Any) -> EncodedChunk:
    return EncodedChunk(Digest.of(raw), len(raw), Encoding.RAW, raw)._replace(**changes)


def against(raw: bytes, base: bytes, grouping: bytes | None = None, **changes: Any) -> EncodedChunk:
    """A chunk of floats as the difference from another."""
    grouping = base if grouping is None else grouping
    encoding, data = encode(raw, FLOATS, Against(base, Grouping(grouping, FLOATS)))
    assert encoding is Encoding.DELTA
    made = EncodedChunk(Digest.of(raw), len(raw), encoding, data, Digest.of(base), Digest.of(grouping))
    return made._replace(**changes)


def build(manifests: Iterable[Manifest | bytes], chunks: Iterable[EncodedChunk]) -> bytes:
    archive = bytearray()
    casmodel.write_head(archive.extend, [each if isinstance(each, bytes) else each.pack() for each in manifests])
    stream = PackStream(archive.extend)
    for chunk in chunks:
        stream.add(chunk)
    stream.end()
    return bytes(archive)


def steps(count: int, *, seed: int = 0, start: bytes | None = None) -> list[bytes]:
    """Floats as so many steps of training leave them: the first of all is `start`, or not given back with it."""
    random = np.random.default_rng(seed)
    values = random.normal(size=3000).astype("f4") if start is None else np.frombuffer(start, "f4")
    found = [values.tobytes()] if start is None else []
    while len(found) < count:
        values = values + random.normal(size=3000).astype("f4") * np.float32(2e-4)
        found.append(values.tobytes())
    return found
