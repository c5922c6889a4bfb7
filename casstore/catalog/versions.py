"""SQL that finds and lists versions, and the values that stand for rows of versions, directories and containers."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from casstore.annotated import Annotated
from casstore.catalog import decoding
from casstore.catalog.connection import Connections
from casstore.catalog.parents import parents_of
from casstore.catalog.schema import IS_HERE
from casstore.catalog.sqlite_errors import damaged, translated_errors
from casstore.description import Description
from casstore.digest import DIGEST_BYTES, Digest
from casstore.errors import IntegrityError
from casstore.late_classes import dataclass
from casstore.storage.container import Container, FileStamp, Kind
from casstore.storage.manifest import (
    Base,
    FileEntry,
    Manifest,
    digest_of,
    entry_path,
    file_entry,
    said_parents,
)
from casstore.storage.recipe import Recipe
from casstore.tag import LATEST, WINDOWS_DEVICE, AliasName, Tag


class VersionRow(NamedTuple):
    """The row of a committed version, without its files. `description` is JSON; times are UTC nanoseconds."""

    id: int
    name: str
    version: str
    manifest_id: str
    digest: bytes
    size: int
    file_count: int
    created_at_ns: int
    description: str
    directories: str
    base_name: str | None
    base_version: str | None
    base_digest: bytes | None
    casstore_version: str
    opened_at_ns: int | None
    annotated: str | None

    @property
    def tag(self) -> Tag:
        return Tag.of_checked(self.name, self.version)

    def described(self) -> Description:
        """The description. Raises IntegrityError if the catalog's record of it is damaged."""
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Description.of(json.loads(self.description))
        raise self.damage()

    def checked_description(self) -> Description:
        """The description, checked enough to make a manifest or a `model.yaml` of it. Raises IntegrityError."""
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Description.parse(self.description)
        raise self.damage()

    def said_later(self) -> Annotated:
        """What was said after the save. Raises IntegrityError if the catalog's record of it is damaged."""
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return Annotated.parse(self.annotated)
        raise self.damage()

    def labels(self) -> dict[str, str]:
        """The labels that hold now: what was saved, and over it what was said later. Raises IntegrityError."""
        return self.said_later().labels_over(self.described().labels)

    def metadata(self) -> dict[str, Any]:
        """The metadata that holds now, as `labels`. Raises IntegrityError."""
        return self.said_later().metadata_over(self.described().numbers)

    def directory_paths(self) -> list[str]:
        """The empty directories. Raises IntegrityError if the catalog's record of them is damaged."""
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            parsed = json.loads(self.directories)
            if isinstance(parsed, list):
                return [entry_path(path) for path in parsed]
        raise self.damage()

    def damage(self) -> IntegrityError:
        """The error for a version whose row has impossible values."""
        return IntegrityError(
            f"the catalog's record of {self.name}:{self.version} is damaged; `casstore repair` writes it again"
        )


class NewChunk(NamedTuple):
    """A chunk's location to be committed, as in `container.Location`. A delta's generation counts the changes before
    it."""

    digest: Digest
    offset: int
    length: int
    raw_bytes: int
    encoding: int = 0
    base: Digest | None = None
    grouping: Digest | None = None
    generation: int = 0


@dataclass(frozen=True, slots=True)
class NewContainer:
    """A container to be committed: its row, and the chunks that it holds."""

    file_id: str
    kind: Kind
    digest: Digest | None
    executable: bool
    size: int
    synced: bool
    stamp: FileStamp | None
    chunks: Sequence[NewChunk]

    def as_container(self, row_id: int = 0) -> Container:
        """The container, as which its file is found. `row_id` is the caller's to choose: it has no row yet."""
        return Container(row_id, self.file_id, self.kind, self.digest, self.executable)


@dataclass(frozen=True, slots=True)
class DirectoryRow:
    """The record of a version's directory under models/, and of each file's (path, inode, size, mtime_ns).

    `evicting`: gc is about to remove the directory, or a process is about to put it there; it does not count as
    standing. If that was interrupted, gc or the next process that makes the directory settles it. `synced`: its name
    is on disk.
    """

    inode: int
    boot_id: str
    entries: bytes
    evicting: bool = False
    synced: bool = False


_COLUMNS = (
    "SELECT id, name, version, manifest_id, digest, size, file_count, created_at, description, directories,"
    " base_name, base_version, base_digest, casstore_version, opened_at, annotated FROM version"
)
# A name, a version and the id of a manifest: all checks that `Tag` makes of the parts of a tag, in one match.
_PART = rf"(?=[^:]{{1,63}}:)(?!{WINDOWS_DEVICE}:)[a-z0-9](?:[-._a-z0-9]*[a-z0-9])?"
_IDENTITY = re.compile(f"{_PART}:(?!{LATEST}:){_PART}:[0-9a-z]{{16}}(?:-[0-9]{{1,20}})?")
_NEWEST_FIRST = " ORDER BY ordered_at DESC, id DESC"


class Versions:
    """Finds and lists versions, and reads their files."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        with translated_errors(self._connections.path):
            return iter(self._connections.get().execute(sql, tuple(parameters)).fetchall())

    def find(self, tag: Tag) -> VersionRow | None:
        """The version of exactly this tag; None if there is none."""
        return self._confirmed(" WHERE name = ? AND version = ?", (tag.name, tag.version))

    def aliased(self, alias: AliasName) -> VersionRow | None:
        """The version that an alias means; None if there is no such alias."""
        where = " WHERE id = (SELECT version_id FROM alias WHERE name = ? AND alias = ?)"
        row = next(self._select(where, (alias.name, alias.alias)), None)
        if row is not None and row.name != alias.name:
            raise decoding.malformed(f"the alias {alias} means {row.name}:{row.version}")
        return row

    def newest(self, name: str) -> VersionRow | None:
        return self._confirmed(" WHERE name = ?" + _NEWEST_FIRST + " LIMIT 1", (name,))

    def has_later(self, name: str, than_ns: int) -> bool:
        """Whether a version of this name is placed after a moment, such as one saved before the clock went back."""
        return any(self._rows("SELECT 1 FROM version WHERE name = ? AND ordered_at >= ? LIMIT 1", (name, than_ns)))

    def last_committed(self) -> VersionRow | None:
        """The version that was committed last."""
        return next(self._select(f" WHERE {IS_HERE} ORDER BY id DESC LIMIT 1"), None)

    def _confirmed(self, clause: str, parameters: Sequence[Any]) -> VersionRow | None:
        """The first of these versions. Raises CatalogDamaged unless the table agrees with the index that led to it."""
        row = next(self._select(clause, parameters), None)
        again = None if row is None else self.by_id(row.id)
        if row is None or again is None or (again.name, again.version) == (row.name, row.version):
            return row
        if self._connections.get().in_transaction:
            raise damaged(self._connections.path, f"an index leads from {row.tag} to another version")
        # Between the two it may have been deleted, and brought back under another tag.
        with self._connections.read():
            return self._confirmed(clause, parameters)

    def by_id(self, version_id: int) -> VersionRow | None:
        return next(self._select(f" WHERE id = ? AND {IS_HERE}", (version_id,)), None)

    def by_ids(self, version_ids: Sequence[int]) -> Iterator[VersionRow]:
        """Those of these versions that there are, in any order."""
        return self._select(" WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(version_ids),))

    def found(self, where: str, parameters: Sequence[Any]) -> list[VersionRow]:
        """The versions that a search finds: it calls a version `v`."""
        return list(self._select(f" AS v{where}", parameters))

    def base_of(self, row: VersionRow) -> VersionRow | None:
        """The version that this one came from; if that is gone, the one committed before it under the same name."""
        found = None
        if row.base_name is not None and row.base_version is not None:
            found = self.find(decoding.tag(row.base_name, row.base_version))
        if found is not None and found.id < row.id:
            return found
        return next(self._select(" WHERE name = ? AND id < ? ORDER BY id DESC LIMIT 1", (row.name, row.id)), None)

    def with_prefix(self, name: str, prefix: str) -> list[VersionRow]:
        """The versions of a name whose version part begins with `prefix`, newest first."""
        where = " WHERE name = ? AND version >= ? AND version < ?" + _NEWEST_FIRST
        return list(self._select(where, (name, prefix, prefix + "\x7f")))

    def select(self, name: str | None = None, labels: Mapping[str, str] | None = None) -> Iterator[VersionRow]:
        """Versions by name, newest first. `name` and `labels` limit them to one name, and to those with all labels."""
        conditions, parameters = [IS_HERE if name is None else "name = ?"], [] if name is None else [name]
        if labels:
            # The first label by its index; the others in one condition, since SQLite takes at most 1,000 of them.
            conditions.append("id IN (SELECT version_id FROM label WHERE key = ? AND value = ?)")
            parameters += [*next(iter(labels.items()))]
        if labels and len(labels) > 1:
            conditions.append(
                "NOT EXISTS (SELECT 1 FROM json_each(?) AS wanted WHERE NOT EXISTS (SELECT 1 FROM label"
                " WHERE version_id = version.id AND label.key = wanted.key AND label.value = wanted.value))"
            )
            parameters.append(json.dumps(labels))
        where = " WHERE " + " AND ".join(conditions)
        return self._select(where + " ORDER BY name, ordered_at DESC, id DESC", parameters)

    def names(self) -> list[str]:
        sql = f"SELECT DISTINCT name FROM version WHERE {IS_HERE} ORDER BY name"
        return [decoding.name(row[0]) for row in self._rows(sql)]

    def counts(self) -> dict[str, int]:
        """How many versions each name has."""
        rows = self._rows(f"SELECT name, count(*) FROM version WHERE {IS_HERE} GROUP BY name ORDER BY name")
        return {decoding.name(row[0]): row[1] for row in rows}

    def digests(self) -> set[bytes]:
        """The digest of every version, those in the trash too."""
        return {row[0] for row in self._rows("SELECT DISTINCT digest FROM version")}

    def tags(self) -> list[str]:
        """Every tag as text, for suggestions and shell completion; newest first."""
        sql = f"SELECT name, version FROM version WHERE {IS_HERE}{_NEWEST_FIRST}"
        return [f"{row[0]}:{row[1]}" for row in self._rows(sql)]

    def files(self, version_id: int, *, deleted: bool = False) -> list[FileEntry]:
        """The version's files, sorted by path; none if it has been deleted, but with `deleted`, of one in the trash.

        Raises IntegrityError for rows that cannot be, such as unsafe paths.
        """
        stands = "" if deleted else f" AND EXISTS (SELECT 1 FROM version WHERE id = ?1 AND {IS_HERE})"
        sql = f"SELECT path, executable, size, digest FROM file WHERE version_id = ?1{stands} ORDER BY path"
        rows = list(self._rows(sql, (version_id,)))
        try:
            return [file_entry(*row) for row in rows]
        except (TypeError, ValueError) as error:
            row = self.by_id(version_id)
            raise decoding.malformed(str(error)) if row is None else row.damage() from error

    def checked_files(self, row: VersionRow) -> list[FileEntry]:
        """The version's files, compared with its digest; none if it has been deleted. Raises IntegrityError."""
        try:
            files = self.files(row.id)
            is_sound = digest_of(files, row.directory_paths()) == row.digest
        except (TypeError, ValueError, IntegrityError):
            is_sound = False
        if is_sound:
            return files
        if self.by_id(row.id) is None:
            return []
        raise row.damage()

    def by_manifest(self, manifest_ids: Iterable[str]) -> dict[str, Tag]:
        """The tags of the versions that have these manifests."""
        sql = f"SELECT name, version FROM version WHERE manifest_id = ? AND {IS_HERE}"
        return {manifest: decoding.tag(*row) for manifest in manifest_ids for row in self._rows(sql, (manifest,))}

    def has_session(self, begin: str) -> bool:
        """Whether a session whose id begins so has saved a version that is here, in the trash, or being deleted."""
        sql = (
            "SELECT EXISTS(SELECT 1 FROM version WHERE manifest_id >= ?1 AND manifest_id < ?2)"
            " OR EXISTS(SELECT 1 FROM tombstone WHERE manifest_id >= ?1 AND manifest_id < ?2)"
        )
        return any(row[0] for row in self._rows(sql, (begin, f"{begin}~")))  # "~" comes after all that ids hold

    def manifest(self, row: VersionRow, recipes: Mapping[Digest, Recipe], *, deleted: bool = False) -> Manifest:
        """The version's manifest, made from its rows. Raises IntegrityError, CatalogDamaged."""
        base = None
        if row.base_name is not None and row.base_version is not None and row.base_digest is not None:
            base = Base(decoding.tag(row.base_name, row.base_version), decoding.digest(row.base_digest))
        return Manifest(
            tag=row.tag,
            created_at_ns=row.created_at_ns,
            files=tuple(self.files(row.id, deleted=deleted)),
            directories=tuple(row.directory_paths()),
            recipes=recipes,
            description=row.checked_description(),
            base=base,
            parents=said_parents(base, parents_of(self._connections, row.id)),
            casstore_version=row.casstore_version,
        )

    def _select(self, clause: str, parameters: Sequence[Any] = ()) -> Iterator[VersionRow]:
        return map(version_row, self._rows(_COLUMNS + clause, parameters))


def version_row(row: tuple[Any, ...]) -> VersionRow:
    """The row of these columns. Raises CatalogDamaged for one with impossible values."""
    made = VersionRow._make(row)
    try:
        # Lists of tens of thousands pass here. Joining the texts, and combining the numbers, fails for any other type.
        is_sound = (
            _IDENTITY.fullmatch(made.name + ":" + made.version + ":" + made.manifest_id) is not None
            and len(made.digest) == DIGEST_BYTES
            and made.digest >= b""
            and (made.size | made.file_count) >= 0
            and type(made.created_at_ns | (made.opened_at_ns or 0)) is int
        )
    except TypeError:
        is_sound = False
    if not is_sound:
        raise decoding.malformed(f"its record of {made.name!r:.40}:{made.version!r:.40} has impossible values")
    return made
