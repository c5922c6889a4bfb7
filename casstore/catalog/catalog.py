"""The catalog: what SQLite holds of a store. All SQL stands in this folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casstore.catalog import (
    aliases,
    backups,
    commits,
    deletions,
    events,
    freed,
    mending,
    remotes,
    repacking,
    restoring,
    retention,
    search,
    sha256,
    trash,
    upkeep,
    usage,
)
from casstore.catalog import annotations as notes
from casstore.catalog.connection import Connections
from casstore.catalog.directories import Directories
from casstore.catalog.index import Index
from casstore.catalog.instances import Instances
from casstore.catalog.leases import Leases
from casstore.catalog.parents import Parents
from casstore.catalog.references import References
from casstore.catalog.sqlite_errors import damaged, translated_errors
from casstore.catalog.trust import Trust
from casstore.catalog.versions import Versions
from casstore.errors import CasstoreError
from casstore.settings import SETTINGS, check_key, check_setting
from casstore.storage.uncopied import Uncopied

if TYPE_CHECKING:
    from casstore.catalog.aliases import Aliases
    from casstore.catalog.annotations import Annotations
    from casstore.catalog.backups import Backups
    from casstore.catalog.commits import Commits
    from casstore.catalog.deletions import Deletions
    from casstore.catalog.events import Events
    from casstore.catalog.freed import FreedReport
    from casstore.catalog.mending import Mending
    from casstore.catalog.remotes import Remotes
    from casstore.catalog.repacking import Repacking
    from casstore.catalog.restoring import Restoring
    from casstore.catalog.retention import Retention
    from casstore.catalog.search import Searches
    from casstore.catalog.sha256 import Sha256
    from casstore.catalog.trash import Trash
    from casstore.catalog.upkeep import Upkeep
    from casstore.catalog.usage import UsageReport

# What most commands need none of: each is imported and made when it is first asked for.
_LATE: dict[str, Callable[[Catalog], Any]] = {
    "searches": lambda catalog: search.Searches(catalog._connections, catalog.versions),
    "commits": lambda catalog: commits.Commits(catalog._connections, catalog.boot_id),
    "annotations": lambda catalog: notes.Annotations(catalog._connections, catalog.versions),
    "deletions": lambda catalog: deletions.Deletions(catalog._connections, catalog.versions),
    "trash": lambda catalog: trash.Trash(catalog._connections),
    "repacking": lambda catalog: repacking.Repacking(catalog._connections, catalog.boot_id),
    "restoring": lambda catalog: restoring.Restoring(catalog._connections),
    "backups": lambda catalog: backups.Backups(catalog._connections),
    "mending": lambda catalog: mending.Mending(catalog._connections, catalog.boot_id),
    "usage": lambda catalog: usage.UsageReport(catalog._connections),
    "remotes": lambda catalog: remotes.Remotes(catalog._connections),
    "retention": lambda catalog: retention.Retention(catalog._connections),
    "freed": lambda catalog: freed.FreedReport(catalog._connections),
    "events": lambda catalog: events.Events(catalog._connections),
    "sha256": lambda catalog: sha256.Sha256(catalog._connections),
    "aliases": lambda catalog: aliases.Aliases(catalog._connections),
    "upkeep": lambda catalog: upkeep.Upkeep(catalog._connections),
}


class Catalog(Uncopied):
    """The open catalog: `versions` (names), `searches` (versions by expressions), `commits` (new ones), `annotations`
    (what was said of them later), `deletions` (deleted ones), `trash` (those of them that can be brought back),
    `directories` and `leases` (what stands under models/ and who uses it), `index` (where bytes are), `references`
    (what needs what), `repacking` (what moves where), `restoring` (a new catalog), `mending` (where files and catalog
    disagree), `trust` (whose Python objects are not trusted), `backups` (copies of it), `usage` (how many bytes),
    `upkeep` (when gc is due by itself), `instances` (which copy of the store this is), `remotes` (what is known of
    remotes), `events` (what has been done to the store), `aliases`, `parents` (what versions came from), `retention`
    (what is to be kept), `freed` (what each version frees), `sha256` (by which others know contents), and settings.

    Threads may share it; a forked child gets connections of its own.
    """

    _connections: Connections
    boot_id: str
    versions: Versions
    searches: Searches
    commits: Commits
    annotations: Annotations
    deletions: Deletions
    trash: Trash
    repacking: Repacking
    restoring: Restoring
    backups: Backups
    mending: Mending
    usage: UsageReport
    remotes: Remotes
    retention: Retention
    freed: FreedReport
    upkeep: Upkeep
    events: Events
    aliases: Aliases
    sha256: Sha256

    def __init__(self, path: Path, boot_id: str, open_lock: Path | None = None) -> None:
        self._connections = Connections(path, open_lock)
        self.boot_id = boot_id
        self.versions = Versions(self._connections)
        self.directories = Directories(self._connections, boot_id)
        self.leases = Leases(self._connections)
        self.index = Index(self._connections, boot_id)
        self.references = References(self._connections)
        self.trust = Trust(self._connections)
        self.instances = Instances(self._connections)
        self.parents = Parents(self._connections)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in _LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return self.__dict__.setdefault(name, _LATE[name](self))

    @property
    def read_only(self) -> bool:
        """Whether this user cannot write to the store, or its file system is read-only."""
        return self._connections.read_only

    def close(self) -> None:
        self._connections.close()

    def keeping(self) -> contextlib.AbstractContextManager[None]:
        """Keep this thread's temporary tables for the whole of a `with` block, for work such as gc.

        A child that is forked meanwhile may not use the store. If another thread closes the store, the work ends with
        StoreError.
        """
        return self._connections.keeping()

    def setting(self, key: str) -> str:
        """The value of a setting; its default if it has not been set. Raises InvalidSetting."""
        default = check_key(key).default
        with translated_errors(self._connections.path):
            row = self._connections.get().execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
        # Any other value is damage; the default is safe, since no setting decides about data that could be lost.
        return default if row is None or not check_key(key).accepts(str(row[0])) else str(row[0])

    def is_set(self, key: str) -> bool:
        """Whether a setting has been set, even to its default."""
        with translated_errors(self._connections.path):
            row = self._connections.get().execute("SELECT 1 FROM setting WHERE key = ?", (key,)).fetchone()
        return row is not None

    def settings(self) -> dict[str, str]:
        """Every setting with its value."""
        return {key: self.setting(key) for key in SETTINGS}

    def set_setting(self, key: str, value: str | None) -> None:
        """Set a setting; None takes it back to its default. Raises InvalidSetting."""
        check_key(key)
        with self._connections.write() as connection:
            if value is None:
                connection.execute("DELETE FROM setting WHERE key = ?", (key,))
            else:
                connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, check_setting(key, value)))

    def write_over_failed(self) -> bool:
        """After a failed commit, write over it in the log, which may hold all of it. False if this write fails too."""
        try:
            with self._connections.write() as connection:
                connection.execute("UPDATE store SET value = value + 1 WHERE key = 'gc_epoch'")
        except (OSError, CasstoreError):
            return False
        return True

    def check(self, *, quick: bool = False) -> None:
        """Let SQLite check every page. With `quick` it does not compare indexes with their tables.

        Raises CatalogDamaged.
        """
        path = self._connections.path
        with translated_errors(path):
            pragma = "quick_check" if quick else "integrity_check"
            said = str(self._connections.get().execute(f"PRAGMA {pragma}(1)").get)
            if said == "ok":
                violation = self._connections.get().execute("PRAGMA foreign_key_check").fetchone()
                said = "ok" if violation is None else f"a row of {violation[0]} refers to none of {violation[2]}"
        if said != "ok":
            raise damaged(path, said)

    def tidy(self) -> None:
        """Move the write-ahead log into the database unless a reader is in the way, and refresh its statistics."""
        with translated_errors(self._connections.path):
            self._connections.get().execute("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
