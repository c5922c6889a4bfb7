"""The workspace of every action: the store's paths, its catalog and its objects."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from casstore.actions.missing import check_nothing_gone, is_complete, make_missing
from casstore.errors import StoreUnwritable
from casstore.late_classes import dataclass
from casstore.storage import access, chunking, denials, files
from casstore.storage.chunk_sequence import Locations
from casstore.storage.container import FileStamp
from casstore.storage.layout import Layout, new_id
from casstore.storage.locks import Lock
from casstore.storage.names import as_opened
from casstore.storage.sessions import Session
from casstore.storage.uncopied import Uncopied

if TYPE_CHECKING:
    from casstore.actions.leasing import Leasing
    from casstore.catalog.catalog import Catalog
    from casstore.digest import Digest
    from casstore.storage.descriptors import Descriptor
    from casstore.storage.objects import Objects
    from casstore.storage.recipe import Recipe
    from casstore.tag import Tag

_NAME_LOCK_TIMEOUT_S = 3600.0


class _Referable:
    """Allows weak references to instances of a class with slots."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class Workspace(Uncopied, _Referable):
    """The open parts of a store that actions share. `umask`: that of the process when the store was opened.

    `auto_gc`: whether commits may start a gc if the store's setting allows it. `made`: the store's own directories that
    were missing and have been made again. `guarded`: versions whose directories have been checked for hardlinks.
    `before_close`: what ends that may be unfinished when the store is closed, and returns an error to be raised then.
    """

    layout: Layout
    catalog: Catalog
    objects: Objects
    leasing: Leasing
    umask: int
    auto_gc: bool = True
    made: list[str] = field(default_factory=list)
    guarded: set[int] = field(default_factory=set)
    before_close: list[Callable[[Workspace], BaseException | None]] = field(default_factory=list)

    def close(self) -> None:
        """Close files and connections of all threads, and give leases back."""
        with contextlib.ExitStack() as parts:  # close the rest even if one cannot be closed
            for part in (self.catalog, self.objects, self.leasing):
                parts.callback(part.close)

    def check_writable(self) -> None:
        """Check that the store can be written to, and make its missing directories; `models/` is left as it is.

        Raises StoreUnwritable for a store that can only be read, StoreError if a directory that was needed is gone.
        """
        if self.catalog.read_only:
            raise StoreUnwritable(
                f"{self.layout.home} can only be read by this user; reading works, with model.open() for files. "
                f"To write: {denials.advice(self.layout.home, self.layout.catalog)}"
            )
        self.make_missing(models=False)

    def make_missing(self, *, models: bool) -> None:
        """Make the store's own missing directories again; with `models`, `models/` too.

        Raises StoreError if a directory is gone whose content versions need.
        """
        if not is_complete(self.layout):
            check_nothing_gone(self.layout, self.catalog)
            self.made.extend(make_missing(self.layout, self.catalog, models=models))

    def session(self, begin: str = "") -> Session:
        self.check_writable()
        self.make_missing(models=True)
        return Session(self.layout, begin)

    def name_lock(self, name: str) -> Descriptor:
        """Take the lock for all changes under models/<name>/, for a `with` block. Raises StoreLocked."""
        self.check_writable()
        lock = Lock(self.layout.name_lock(name))
        try:
            lock.check_not_mine(f"model {name!r}")
            # A process that makes a directory of many gigabytes holds it that long.
            lock.acquire(f"model {name!r}", timeout_s=_NAME_LOCK_TIMEOUT_S)
            return lock.held
        except BaseException:
            lock.release()
            raise

    @property
    def mask(self) -> int:
        """The umask of everything made in the store: for a shared home by its own mode, else the process's umask."""
        follows = access.of_home(self.layout.home)
        return follows.mask if follows is not None and follows.is_shared else self.umask

    def file_mode(self, executable: bool) -> int:
        return files.stored_mode(executable, self.mask)

    def may_link(self) -> bool:
        """Whether the larger files of directories are hardlinks of loose files."""
        mode = self.catalog.setting("link_mode")
        return mode == "hardlink" or (mode == "auto" and not (access.ignores_modes() and self._has_reflinks()))

    def may_reflink(self) -> bool:
        """Whether larger files of directories may be copies that share blocks. Without either they are full copies."""
        mode = self.catalog.setting("link_mode")
        is_wanted = mode == "protect" or (mode == "auto" and access.ignores_modes())
        return mode == "reflink" or (is_wanted and self._has_reflinks())

    def _has_reflinks(self) -> bool:
        return files.has_reflinks(self.layout.sessions)

    def write_file(
        self,
        recipe: Recipe,
        executable: bool,
        target: files.StrPath,
        advance: Callable[[int], None] = lambda _: None,
        locations: Locations | None = None,
    ) -> FileStamp:
        """Make `target` a new read-only file from verified chunks. `locations` is as in `Objects.write_blob`.

        Raises IntegrityError, OSError.
        """
        try:
            with files.create_file(target) as descriptor:
                self.objects.write_blob(recipe, descriptor, advance, locations)
                files.set_mode(descriptor, self.file_mode(executable))
                return FileStamp.of(os.fstat(descriptor))
        except BaseException:
            files.remove_file(target)
            raise

    def on_device_of(self, directory: Path, path: Path) -> Path:
        """`path`, or a hidden name in `directory` if that is on another device, such as when models/ is a link."""
        if os.stat(directory).st_dev == os.stat(self.layout.home).st_dev:
            return path
        return directory / f".{path.parent.name}-{path.name}"

    def quarantined(self, tag: Tag, name: str) -> Path:
        """A new path in quarantine/ for a file of that name from the version's directory."""
        # Only the end of a name that is too long to follow the others.
        short = as_opened(os.fsencode(name)[-64:].decode(errors="ignore"))
        return self.layout.quarantine / f"{tag.name}.{tag.version}.{new_id()}.{short}"

    def set_aside(self, path: Path, session: Session) -> Path:
        """Move a version's directory away with one rename; returns its new path. The name's lock must be held."""
        doomed = self.on_device_of(path.parent, session.new_path())
        files.rename(path, doomed)
        return doomed

    def file_pending_manifest(self, tag: Tag, manifest_id: str) -> None:
        """Give a committed version's manifest its final name, if it does not have it yet."""
        pending = self.layout.pending_manifest(manifest_id)
        final = self.layout.manifest(tag, manifest_id)
        if pending.exists():
            files.make_directory(final.parent)
            files.rename(pending, final)


def hash_file(path: files.StrPath) -> Digest:
    """The digest of a file's bytes. Raises OSError."""
    with files.open_regular(path) as descriptor:
        try:
            return chunking.scan_file(descriptor).blob
        except EOFError as error:
            raise OSError(errno.EIO, str(error), str(path)) from error
