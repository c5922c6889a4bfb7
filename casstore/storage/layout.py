"""Where things stand in a store: the one place that knows its paths."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from casstore.digest import Digest
from casstore.tag import Tag

DESCRIPTOR_NAME = "model.yaml"
LATEST_NAME = "latest"
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """16 random base32 characters (80 bits): the id of a session, pack or manifest, never used twice."""
    return "".join(_BASE32[byte & 31] for byte in secrets.token_bytes(16))


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the store at `home`."""

    home: Path

    @property
    def catalog(self) -> Path:
        return self.home / "catalog.db"

    @property
    def loose(self) -> Path:
        return self.home / "objects" / "loose"

    @property
    def packs(self) -> Path:
        return self.home / "objects" / "packs"

    @property
    def pending_manifests(self) -> Path:
        # The dot keeps it apart from a model that is named "pending".
        return self.home / "manifests" / ".pending"

    @property
    def manifests(self) -> Path:
        return self.home / "manifests"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def sessions(self) -> Path:
        return self.home / "sessions"

    @property
    def quarantine(self) -> Path:
        return self.home / "quarantine"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    def directories(self) -> list[Path]:
        """Every directory that a store has from the start, parents first."""
        fan_out = [self.loose / f"{byte:02x}" for byte in range(256)]
        return [
            self.home / "objects",
            self.loose,
            *fan_out,
            self.packs,
            self.manifests,
            self.pending_manifests,
            self.models,
            self.sessions,
            self.quarantine,
            self.locks,
        ]

    def loose_file(self, digest: Digest, file_id: str) -> Path:
        text = digest.hex()
        return self.loose / text[:2] / f"{text}.{file_id}"

    def pack(self, pack_id: str) -> Path:
        return self.packs / f"{pack_id}.pack"

    def pending_manifest(self, manifest_id: str) -> Path:
        return self.pending_manifests / manifest_id

    def manifest(self, tag: Tag, manifest_id: str) -> Path:
        return self.manifests / tag.name / f"{tag.version}.{manifest_id}"

    def model(self, tag: Tag) -> Path:
        return self.models / tag.name / tag.version

    def latest(self, name: str) -> Path:
        return self.models / name / LATEST_NAME

    def name_lock(self, name: str) -> Path:
        return self.locks / f"{name}.lock"

    def session(self, session_id: str) -> Path:
        return self.sessions / session_id

    def session_lock(self, session_id: str) -> Path:
        return self.sessions / f"{session_id}.lock"
