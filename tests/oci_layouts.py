"""OCI layouts as other programs make them, written by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MODELPACK = "application/vnd.cncf.model"
KITOPS = "application/vnd.kitops.modelkit"
DOCKER = "application/vnd.docker.ai"
REF_NAME = "org.opencontainers.image.ref.name"
FILE_PATH = "org.cncf.model.filepath"


class Layout:
    """A layout that is being written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []
        self.index()

    def index(self) -> None:
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))

    def blob(self, media_type: str, data: bytes, **annotations: str) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.root / "blobs/sha256" / sha256).write_bytes(data)
        made: dict[str, Any] = {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(data)}
        return {**made, "annotations": annotations} if annotations else made

    def file(self, path: str, data: bytes, kind: str = "weight") -> dict[str, Any]:
        return self.blob(f"{MODELPACK}.{kind}.v1.raw", data, **{FILE_PATH: path})

    def document(self, media_type: str, document: Any, **annotations: str) -> dict[str, Any]:
        return self.blob(media_type, json.dumps(document).encode(), **annotations)

    def artifact(
        self, ref: str | None, layers: Sequence[Mapping[str, Any]], config: Any = None,
        config_type: str = f"{MODELPACK}.config.v1+json", **fields: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Write an artifact, and name it in the index."""
        said = {"descriptor": {"name": "bert", "version": "1.0"}, "config": {}} if config is None else config
        blob = self.document(config_type, said)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blob, "layers": [*layers], **fields}
        entry = self.document(MANIFEST, manifest, **({} if ref is None else {REF_NAME: ref}))
        self.entries.append(entry)
        self.index()
        return entry

    def path_of(self, descriptor: Mapping[str, Any]) -> Path:
        return self.root / "blobs/sha256" / str(descriptor["digest"]).removeprefix("sha256:")


def tar(files: Mapping[str, bytes], compress: str = "") -> bytes:
    """A tar of files, as it is or compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    plain = buffer.getvalue()
    if compress:
        return gzip.compress(plain) if compress == "gzip" else zstandard.compress(plain)
    return plain
