"""What is wrong with a store, and what of it is looked at: the values that verify and repair go by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.container import Container
from casstore.tag import Tag


@dataclass(slots=True)
class Findings:
    """What is wrong with a store. Each maps what is wrong to the reason.

    `chunks`: whose bytes cannot be read. `files`: loose files with a damaged or missing part that is a mere copy.
    `directories`: versions with the files of their directories that are not what was put there; `additions`: with
    what else is in them, which harms nothing.
    `alias_logs`: paths of logs of aliases that are damaged, or do not say what the catalog says.
    `manifests`: versions whose manifest is missing or damaged. `records`: versions whose rows differ from it.
    `logs`: files beside the catalog with damaged lines. `signatures`: files of signatures that are damaged.
    """

    chunks: dict[Digest, str] = field(default_factory=dict)
    files: dict[Container, str] = field(default_factory=dict)
    directories: dict[Tag, list[str]] = field(default_factory=dict)
    additions: dict[Tag, list[str]] = field(default_factory=dict)
    manifests: dict[Tag, str] = field(default_factory=dict)
    records: dict[Tag, str] = field(default_factory=dict)
    alias_logs: dict[str, str] = field(default_factory=dict)
    logs: dict[Path, str] = field(default_factory=dict)
    signatures: dict[Path, str] = field(default_factory=dict)
    read_chunks: int = 0
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Scope:
    """Versions to be looked at alone: their `chunks`, with all that decoding these needs, their `blobs`, and the
    `containers`, with their sizes, in which some of that stands."""

    rows: tuple[VersionRow, ...]
    chunks: Set[Digest]
    blobs: Set[Digest]
    containers: Sequence[tuple[Container, int]]

    @classmethod
    def of(cls, workspace: Workspace, rows: Iterable[VersionRow]) -> Scope:
        rows = tuple(rows)
        index = workspace.catalog.index
        chunks: set[Digest] = set()
        blobs: set[Digest] = set()
        for row in rows:
            # What cannot be read of the catalog is found when it is compared with the manifest.
            with contextlib.suppress(IntegrityError, ValueError):
                listed = {file.digest for file in workspace.catalog.versions.files(row.id) if file.size}
                recipes = index.recipes(listed)
                chunks |= {digest for recipe in recipes.values() for digest in recipe.digests}
                chunks |= listed - recipes.keys()
                blobs |= listed
        chunks |= index.bases_of(chunks)
        containers = {location.container.id for location in index.locate(chunks).values()}
        copies = {each.container.id for found in index.loose_files(blobs).values() for each in found}
        return cls(rows, chunks, blobs, index.containers(containers | copies))
