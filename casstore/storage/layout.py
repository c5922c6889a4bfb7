"""Where things stand in a store: the one place that knows its paths."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from casstore.digest import Digest
from casstore.errors import InvalidTag
from casstore.tag import Tag

DESCRIPTOR_NAME = "model.yaml"
LATEST_NAME = "latest"
RESERVE_NAME = ".reserve"
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
# What casstore names its files by. All else in its directories is not its own, such as what a desktop, a network
# file system or fsck leaves: it is left alone.
_SESSION_ID = re.compile("[0-9a-z]{16}")
_FILE_ID = re.compile("[0-9a-z]{16}(-[0-9]{1,20})?")
_MANIFEST_ID = re.compile("[0-9a-z]{16}-[0-9]+")
_FAN_OUT = re.compile("[0-9a-f]{2}")
_LOOSE_STEM = re.compile("[0-9a-f]{64}")


def new_id() -> str:
    """16 random base32 characters (80 bits): the id of a session, pack or manifest, never used twice."""
    return "".join(_BASE32[byte & 31] for byte in os.urandom(16))


def is_session_id(name: str) -> bool:
    """Whether that is what casstore names a session."""
    return _SESSION_ID.fullmatch(name) is not None


def is_file_id(text: str) -> bool:
    """Whether that is an id of casstore's, by which it names packs, loose files and manifests."""
    return _FILE_ID.fullmatch(text) is not None


def is_fan_out(name: str) -> bool:
    """Whether that is the name of a directory of loose files."""
    return _FAN_OUT.fullmatch(name) is not None


def is_container_name(path: Path) -> bool:
    """Whether casstore gives a pack or a loose file such a name, in a directory of that kind."""
    stem, _, ending = path.name.rpartition(".")
    if ending == "pack":
        return path.parent.name == "packs" and is_file_id(stem)
    return path.parent.name == stem[:2] and _LOOSE_STEM.fullmatch(stem) is not None and is_file_id(ending)


def _named(file_id: str) -> str:
    """An id as part of a name, also where a damaged catalog has put into it what no name can hold."""
    return file_id.replace("\0", "?").replace("/", "?")


class Layout:
    """The paths of the store at `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.catalog = home / "catalog.db"
        self.instance = home / "instance"
        self.next_instance = home / ".instance"
        self.loose = home / "objects" / "loose"
        self.packs = home / "objects" / "packs"
        self.manifests = home / "manifests"
        # The dot keeps them apart from models of these names.
        self.pending_manifests = self.manifests / ".pending"
        self.deleted_manifests = self.manifests / ".deleted"
        self.trashed_manifests = self.manifests / ".trash"
        self.signatures = self.manifests / ".signatures"  # made when there is the first
        self.models = home / "models"
        self.sessions = home / "sessions"
        self.remotes = home / "remotes.toml"
        self.aliases = home / "aliases"  # made when there is the first
        self.annotations = home / "annotations"  # likewise
        self.policies = home / "policies.log"  # likewise
        self.elsewhere = home / "elsewhere.json"
        self.drafts = home / "drafts"  # made when there is one to be kept
        self.quarantine = home / "quarantine"
        self.quarantined_strays = self.quarantine / "strays"
        self.pruned_manifests = self.quarantine / "pruned"
        self.changed_files = self.quarantine / "changed"
        self.locks = home / "locks"
        self.rooms = [
            str(directory)
            for directory in (
                *(self.loose, self.packs, self.manifests, self.pending_manifests, self.deleted_manifests),
                *(self.trashed_manifests, self.models, self.sessions, self.quarantine, self.locks),
            )
        ]

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
            self.deleted_manifests,
            self.trashed_manifests,
            self.models,
            self.sessions,
            self.quarantine,
            self.locks,
        ]

    def loose_file(self, digest: Digest, file_id: str) -> str:
        text = digest.hex()
        return f"{self.loose}/{text[:2]}/{text}.{_named(file_id)}"

    def pack(self, pack_id: str) -> str:
        return f"{self.packs}/{_named(pack_id)}.pack"

    def pending_manifest(self, manifest_id: str) -> Path:
        return self.pending_manifests / _named(manifest_id)

    def deleted_manifest(self, manifest_id: str) -> Path:
        return self.deleted_manifests / _named(manifest_id)

    def trashed_manifest(self, manifest_id: str) -> Path:
        return self.trashed_manifests / _named(manifest_id)

    def trashed_ids(self) -> list[str]:
        """The ids of the manifests in the trash. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):  # in stores of earlier releases there is no such directory
            return sorted(name for name in os.listdir(self.trashed_manifests) if is_file_id(name))
        return []

    def manifest(self, tag: Tag, manifest_id: str) -> Path:
        return self.manifests / tag.name / f"{tag.version}.{_named(manifest_id)}"

    def model(self, tag: Tag) -> Path:
        return self.models.joinpath(tag.name, tag.version)

    def annotation_log(self, name: str) -> Path:
        return self.annotations / f"{name}.log"

    def latest(self, name: str) -> Path:
        return self.models / name / LATEST_NAME

    def name_lock(self, name: str) -> Path:
        return self.locks / f"{name}.lock"

    def alias_log(self, name: str) -> Path:
        return self.aliases / f"{name}.log"

    def alias_lock(self, name: str) -> Path:
        # The dot keeps it apart from the locks of models.
        return self.locks / f".aliases-{name}.lock"

    def draft_lock(self, draft_id: str) -> Path:
        # The dot keeps it apart from the locks of models.
        return self.locks / f".draft-{draft_id}.lock"

    @property
    def unfinished_backup(self) -> Path:
        """Stands in a directory from when a first backup into it begins until that is complete."""
        return self.home / "unfinished-backup"

    @property
    def policies_lock(self) -> Path:
        """Held by who changes a policy of retention."""
        return self.locks / ".policies.lock"

    @property
    def open_lock(self) -> Path:
        """Held, shared with others, by each process that has the catalog open."""
        return self.locks / ".open.lock"

    @property
    def gc_lock(self) -> Path:
        """Held by gc while it runs, and by other work that takes containers away."""
        return self.locks / ".gc.lock"

    @property
    def reserve(self) -> Path:
        """Room that is kept for a full disk."""
        return self.locks / RESERVE_NAME

    def session(self, session_id: str) -> Path:
        return self.sessions / session_id

    def session_lock(self, session_id: str) -> Path:
        return self.sessions / f"{session_id}.lock"

    def standing_manifests(self) -> Iterator[tuple[Tag, str, Path]]:
        """Every manifest that has its final name: the tag and the id that the name says, and its path."""
        for directory in self.manifests.iterdir() if self.manifests.is_dir() else ():
            if directory != self.pending_manifests and directory.is_dir():
                paths: list[Path] = []
                with contextlib.suppress(FileNotFoundError):  # its last version is being deleted
                    paths = list(directory.iterdir())
                for path in paths:
                    version, _, manifest_id = path.name.rpartition(".")
                    with contextlib.suppress(InvalidTag):  # what a user has put there
                        if path.name == path.name.lower() and _MANIFEST_ID.fullmatch(manifest_id):
                            yield Tag(directory.name, version), manifest_id, path
