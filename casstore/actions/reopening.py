"""Opening stores and versions again where a Store or a Model arrives that was pickled or copied elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from typing import TYPE_CHECKING, NamedTuple

from casstore.actions.home import layout_of, open_workspace
from casstore.digest import Digest
from casstore.errors import IntegrityError, TagNotFound

if TYPE_CHECKING:
    from casstore.actions.workspace import Workspace
    from casstore.catalog.versions import VersionRow
    from casstore.tag import Tag


class Address(NamedTuple):
    """What is sent of an open store: its home, and what it was opened with."""

    home: str
    auto_gc: bool

    @classmethod
    def of(cls, workspace: Workspace) -> Address:
        return cls(os.fspath(workspace.layout.home), workspace.auto_gc)

    def open(self) -> Workspace:
        """Open the store; none is made. Raises StoreNotFound, and what opening a store raises."""
        return open_workspace(self.home, self.auto_gc, create=False)


class Sent(NamedTuple):
    """What is sent of a version: where it is, and what tells it from another that may bear the tag there."""

    address: Address
    tag: Tag
    digest: bytes
    manifest_id: str
    description_digest: bytes = b""  # empty of one that an older casstore has pickled, or that is damaged

    @classmethod
    def of(cls, workspace: Workspace, row: VersionRow) -> Sent:
        return cls(Address.of(workspace), row.tag, row.digest, row.manifest_id, _description_digest(row))

    def open(self) -> tuple[Workspace, VersionRow]:
        """Find the version again. Raises TagNotFound where it is gone, and what opening a store raises."""
        workspace = _shared(self.address)
        row = workspace.catalog.versions.find(self.tag)
        if row is None:
            raise TagNotFound(
                f"there is no {self.tag} in the store {self.address.home} any more: it was deleted since this model "
                "was pickled, or the store is another; `casstore list` shows what there is"
            )
        if row.manifest_id != self.manifest_id and not self._is_equal(row):
            raise TagNotFound(
                f"{self.tag} in the store {self.address.home} is not what it was when this model was pickled: it was "
                f'deleted and saved again, or the store is another; store.get("{self.tag}") gives what it is now'
            )
        return workspace, row

    def _is_equal(self, row: VersionRow) -> bool:
        """Whether a version that was saved or imported by itself is the same in all that is recorded."""
        described = _description_digest(row) if self.description_digest else b""
        return (row.digest, described) == (self.digest, self.description_digest)


def _description_digest(row: VersionRow) -> bytes:
    """A digest of a version's whole description, except whether its Python objects are trusted here."""
    with contextlib.suppress(IntegrityError):
        described = {**row.described().completed().document(), "untrusted": None}
        return bytes(Digest.of(json.dumps(described, sort_keys=True).encode()))
    return b""


# Thousands of models may arrive one by one, as at a DataLoader's workers: those of one store open it once.
# Told apart by its catalog's inode: another store may have come to stand there.
_open: weakref.WeakValueDictionary[tuple[Address, tuple[int, int] | None], Workspace] = weakref.WeakValueDictionary()


def _shared(address: Address) -> Workspace:
    key = address, _catalog_of(address)
    found = _open.get(key)
    return found if found is not None else _open.setdefault(key, address.open())


def _catalog_of(address: Address) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):  # which opening it tells better
        status = os.stat(layout_of(address.home).catalog)
        return status.st_dev, status.st_ino
    return None
