"""OCI image layouts: directories of blobs by SHA-256, with an index of what they hold; `skopeo` and `oras` copy them.

The documents are those of the OCI image specification 1.1 (https://github.com/opencontainers/image-spec), the artifacts
in them CNCF ModelPack (https://github.com/modelpack/model-spec) or what KitOps and Docker make of models. Nothing that
is read is trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from casstore.archive import limits
from casstore.archive.formats import Format
from casstore.errors import IntegrityError, InvalidSource, UnsafeArchive
from casstore.plain_json import parsed
from casstore.storage import files
from casstore.storage.descriptors import Descriptor as OpenFile

SCHEME = "oci:"
LAYOUT_NAME, INDEX_NAME = "oci-layout", "index.json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
FILE_PATH, FILE_METADATA = "org.cncf.model.filepath", "org.cncf.model.file.metadata+json"
_TITLE = "org.opencontainers.image.title"
# Registries take manifests of 4 MiB; the layers of the largest models take 1 MB.
MAX_DOCUMENT_BYTES = 16 << 20
_MAX_REFS_NAMED = 20
_READ_BYTES = 1 << 20
_HEX = re.compile("sha256:([0-9a-f]{64})")
# The grammar of the annotation, as in the specification.
_COMPONENT = "[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_REF = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")
_CONFIG_TYPES = re.compile(
    r"application/vnd\.(?:cncf\.model\.config\.v1|kitops\.modelkit\.config\.v1|docker\.ai\.model\.config\.v0\.[0-9]+)\+json"
)
_LAYER_TYPES = re.compile(
    r"application/vnd\.(?:cncf\.model\.(?:weight|weight\.config|doc|code|dataset)|"
    r"kitops\.modelkit\.(?:model|modelpart|dataset|code|docs|prompt))\.v1\."
    r"(?P<form>raw|gguf|safetensors|tar|tar\+gzip|tar\+zstd)"
)
_FORMS = {"tar": Format.TAR, "tar+gzip": Format.GZ, "tar+zstd": Format.ZST}
_DOCKER = "application/vnd.docker.ai."
# What Docker puts into layers, and the file's name where no annotation gives one.
_DOCKER_FILES = {
    "gguf.v3": "model.gguf",
    "gguf.v3.lora": "adapter.gguf",
    "gguf.v3.mmproj": "mmproj.gguf",
    "mmproj": "mmproj.gguf",
    "safetensors": "model.safetensors",
    "dduf": "model.dduf",
    "license": "LICENSE",
    "chat.template.jinja": "chat_template.jinja",
    "model.file": "",
}
_DOCKER_TARS = {"vllm.config.tar", "dir.tar"}


class Place(NamedTuple):
    """What `oci:DIR[:REF]` names."""

    directory: Path
    ref: str | None

    def __str__(self) -> str:
        return f"{SCHEME}{self.directory}" + (f":{self.ref}" if self.ref else "")


def place(endpoint: object) -> Place | None:
    """The place in an OCI layout that an endpoint names; None for any other. Raises InvalidSource."""
    if not isinstance(endpoint, str) or not endpoint.startswith(SCHEME):
        return None
    # As skopeo cuts it: a reference may have colons, a directory may not.
    directory, colon, ref = endpoint.removeprefix(SCHEME).partition(":")
    if not directory or directory.startswith("//") or (colon and not _REF.fullmatch(ref)):
        raise InvalidSource(
            f"{endpoint} names no place in an OCI layout; write oci:DIR or oci:DIR:REF, such as oci:models:v1"
        )
    return Place(Path(os.path.expanduser(directory)), ref or None)


def as_ref(text: str) -> str:
    """A reference that is spelt as `text` where that is one."""
    if _REF.fullmatch(text):
        return text
    return "-".join(re.findall("[A-Za-z0-9]+", text))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a document says of a blob: its type, SHA-256 in hexadecimal, size and annotations."""

    media_type: str
    sha256: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": f"sha256:{self.sha256}",
            "size": self.size,
        }
        return {**made, "annotations": dict(self.annotations)} if self.annotations else made


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an artifact: one file at `path`, or with `packed` a tar of several."""

    blob: Descriptor
    path: str
    is_executable: bool
    packed: Format | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model in a layout. `config`: the parsed document. `name`: what errors call it."""

    name: str
    ref: str | None
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str]


class Layout:
    """An OCI layout that is there, for reading. Errors call it by its path."""

    def __init__(self, directory: Path) -> None:
        """Raises InvalidSource where there is none, UnsafeArchive, OSError."""
        self.directory = directory
        try:
            said = self._json(directory / LAYOUT_NAME, LAYOUT_NAME)
        except FileNotFoundError as error:
            what = "does not exist" if not directory.exists() else f"is not an OCI layout: it has no {LAYOUT_NAME}"
            raise InvalidSource(f"{directory} {what}") from error
        if not str(said.get("imageLayoutVersion", "")).startswith("1."):
            raise InvalidSource(f"{directory} is an OCI layout of a version that casstore does not know")

    def entries(self) -> list[dict[str, Any]]:
        """What the index lists, as it stands there. Raises UnsafeArchive, OSError."""
        try:
            index = self._json(self.directory / INDEX_NAME, INDEX_NAME)
        except FileNotFoundError as error:
            raise InvalidSource(f"{self.directory} is not an OCI layout: it has no {INDEX_NAME}") from error
        return self._manifests(index, INDEX_NAME)

    def artifact(self, ref: str | None) -> Artifact:
        """The model of that reference; without one, the only one there is.

        Raises InvalidSource where it is not there or is no model, UnsafeArchive for documents that contradict
        themselves, IntegrityError for those that are damaged.
        """
        entry = self._chosen(ref)
        name = str(Place(self.directory, ref_of(entry)))
        blob = self._descriptor(entry, name)
        for _ in range(2):  # an index in the index, as some programs write for one model
            if blob.media_type != INDEX_TYPE:
                break
            listed = self._manifests(self._document(blob, name), name)
            if len(listed) != 1:
                raise InvalidSource(f"{name} is a list of {len(listed)} images, not a model; name one that is a model")
            blob = self._descriptor(listed[0], name)
        if blob.media_type != MANIFEST_TYPE:
            raise InvalidSource(f"{name} is of the type {blob.media_type!r:.80}, which is not that of a model")
        return self._artifact(self._document(blob, name), name, ref_of(entry))

    def opened(self, blob: Descriptor, name: str) -> OpenFile:
        """The file of a blob, of the size that is said. Raises IntegrityError, OSError."""
        path = self.directory / "blobs" / "sha256" / blob.sha256
        try:
            file = files.open_regular(path)
        except FileNotFoundError as error:
            raise IntegrityError(f"{name} is not whole: {path} is missing; copy it again") from error
        size = os.fstat(file.fileno()).st_size
        if size != blob.size:
            file.close()
            raise IntegrityError(f"{path} has {size:,} bytes, and {name} says {blob.size:,}; copy it again")
        return file

    def _chosen(self, ref: str | None) -> dict[str, Any]:
        entries = self.entries()
        refs = [ref_of(entry) for entry in entries]
        found = [entry for entry, each in zip(entries, refs, strict=True) if ref is None or each == ref]
        if len(found) == 1:
            return found[0]
        if len(found) > 1 and ref is not None:
            raise UnsafeArchive(f"{self.directory} has {ref!r} twice")
        named = sorted(each for each in refs if each)
        more = f" and {len(named) - _MAX_REFS_NAMED} more" if len(named) > _MAX_REFS_NAMED else ""
        there = (
            f"it has {', '.join(named[:_MAX_REFS_NAMED])}{more}" if named else f"it has {len(entries)} without a name"
        )
        if not entries:
            raise InvalidSource(f"{self.directory} is an OCI layout with nothing in it")
        if ref is None:
            raise InvalidSource(
                f"{self.directory} holds {len(entries)} artifacts; say which, as in oci:DIR:REF: {there}"
            )
        raise InvalidSource(f"{self.directory} has no {ref!r}; {there}")

    def _artifact(self, manifest: dict[str, Any], name: str, ref: str | None) -> Artifact:
        if manifest.get("schemaVersion") != 2:
            raise UnsafeArchive(f"{name} has a manifest of another schema than 2")
        blob = self._descriptor(manifest.get("config"), name)
        if not _CONFIG_TYPES.fullmatch(blob.media_type):
            raise InvalidSource(
                f"{name} is not a model: its configuration is of the type {blob.media_type!r:.80}; known are those of "
                "CNCF ModelPack, KitOps and Docker's models"
            )
        layers = manifest.get("layers")
        if not isinstance(layers, list) or len(layers) > limits.MAX_MEMBERS:
            raise UnsafeArchive(f"{name} has no list of layers")
        blobs = [self._descriptor(each, name) for each in layers]
        counts: dict[str, int] = {}
        for each in blobs:
            counts[each.media_type] = counts.get(each.media_type, 0) + 1
        seen: dict[str, int] = {}
        found = []
        for each in blobs:
            seen[each.media_type] = seen.get(each.media_type, 0) + 1
            found.append(_layer(each, name, seen[each.media_type], counts[each.media_type]))
        annotations = _annotations(manifest, name)
        return Artifact(name, ref, self._document(blob, name), tuple(found), annotations)

    def _document(self, blob: Descriptor, name: str) -> dict[str, Any]:
        """A blob that is a JSON object. Raises IntegrityError, UnsafeArchive, OSError."""
        if blob.size > MAX_DOCUMENT_BYTES:
            raise UnsafeArchive(f"{name} has a document of {blob.size:,} bytes, which is too large")
        with self.opened(blob, name) as descriptor:
            data = b"".join(Checked(descriptor, blob, name))
        return _parsed(data, name)

    def _json(self, path: Path, name: str) -> dict[str, Any]:
        return _parsed(files.read_file(path, MAX_DOCUMENT_BYTES), f"{name} of {self.directory}")

    def _manifests(self, index: dict[str, Any], name: str) -> list[dict[str, Any]]:
        listed = index.get("manifests")
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise UnsafeArchive(f"{name} of {self.directory} lists no manifests")
        return listed

    def _descriptor(self, said: object, name: str) -> Descriptor:
        if isinstance(said, dict):
            media_type, digest, size = (said.get(key) for key in ("mediaType", "digest", "size"))
            if isinstance(media_type, str) and isinstance(digest, str) and type(size) is int and size >= 0:
                found = _HEX.fullmatch(digest)
                if found is None:
                    raise UnsafeArchive(f"{name} names a blob by {digest[:80]!r}, which is no SHA-256")
                return Descriptor(media_type, found[1], size, _annotations(said, name))
        raise UnsafeArchive(f"{name} names a blob without type, digest and size")


class Checked:
    """The bytes of a blob, from front to back; at their end its SHA-256 is compared. Raises IntegrityError, OSError."""

    def __init__(
        self, descriptor: int, blob: Descriptor, name: str, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        self._descriptor = descriptor
        self._blob = blob
        self._name = name
        self._advance = advance
        self._sha256 = hashlib.sha256()
        self._head = b""

    def peek(self, size: int) -> bytes:
        """The first bytes, which will be read all the same."""
        self._head = self._head or self.read(size)
        return self._head

    def read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        data = os.read(self._descriptor, min(size, _READ_BYTES))
        self._sha256.update(data)
        self._advance(len(data))
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(_READ_BYTES):
            yield data
        self.finish()

    def finish(self) -> None:
        """Read what is left, and compare."""
        while self.read(_READ_BYTES):
            pass
        if self._sha256.hexdigest() != self._blob.sha256:
            raise IntegrityError(
                f"the blob {self._blob.sha256[:16]}... of {self._name} is not what its digest says; copy it again"
            )


def _layer(blob: Descriptor, name: str, number: int, of: int) -> Layer:
    kind = _LAYER_TYPES.fullmatch(blob.media_type)
    docker = blob.media_type.removeprefix(_DOCKER) if blob.media_type.startswith(_DOCKER) else None
    if kind is not None:
        packed, default = _FORMS.get(kind["form"]), ""
    elif docker in _DOCKER_TARS:
        packed, default = Format.TAR, ""
    elif docker in _DOCKER_FILES:
        packed, default = None, _DOCKER_FILES[docker]
    else:
        raise InvalidSource(
            f"{name} has a layer of the type {blob.media_type!r:.80}, which casstore does not know; unpack it with the "
            "program that made it, and save what it holds with `casstore save NAME DIRECTORY`"
        )
    if default and of > 1:
        stem, dot, extension = default.partition(".")
        default = f"{stem}-{number:05}-of-{of:05}{dot}{extension}"
    path = blob.annotations.get(FILE_PATH) or blob.annotations.get(_TITLE) or default
    if not path and packed is None:
        raise InvalidSource(f"{name} has a layer without a file's name: it has no annotation {FILE_PATH}")
    return Layer(blob, path, _is_executable(blob.annotations.get(FILE_METADATA)), packed)


def _is_executable(metadata: str | None) -> bool:
    """Whether a file's metadata say that its owner may run it; what cannot be read says nothing."""
    try:
        mode = parsed((metadata or "{}").encode()).get("mode")
    except (ValueError, AttributeError, RecursionError):
        return False
    return type(mode) is int and bool(mode & 0o100)


def ref_of(entry: Mapping[str, Any]) -> str | None:
    """The reference of what an index lists; None where it has none."""
    annotations = entry.get("annotations")
    ref = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return ref if isinstance(ref, str) and ref else None


def _annotations(document: Mapping[str, Any], name: str) -> dict[str, str]:
    said = document.get("annotations") or {}
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise UnsafeArchive(f"{name} has annotations that are not texts")
    return said


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        document = parsed(data)
    except (ValueError, RecursionError) as error:
        raise UnsafeArchive(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UnsafeArchive(f"{name} is not a JSON object")
    if not data.isascii() or b"\\ud" in data.lower():
        _check_unicode(document, name)
    return document


def _check_unicode(document: dict[str, Any], name: str) -> None:
    """Raise UnsafeArchive where half of a surrogate pair stands alone: no file system or catalog holds such text."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        alone = error.object[error.start : error.start + 1]
        raise UnsafeArchive(f"{name} has text that is not Unicode: {alone!r} stands alone") from error
    except RecursionError as error:
        raise UnsafeArchive(f"{name} is not JSON: {error}") from error
