"""Opening stores and versions again where a Store or a Model arrives that was pickled or copied elsewhere."""

from __future__ import annotations

import os
import weakref
from typing import NamedTuple

from casstore.actions.home import open_workspace
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import TagNotFound
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

    @classmethod
    def of(cls, workspace: Workspace, row: VersionRow) -> Sent:
        return cls(Address.of(workspace), row.tag, row.digest, row.manifest_id)

    def open(self) -> tuple[Workspace, VersionRow]:
        """Find the version again. Raises TagNotFound where it is gone, and what opening a store raises."""
        workspace = _shared(self.address)
        row = workspace.catalog.versions.find(self.tag)
        if row is None:
            raise TagNotFound(
                f"there is no {self.tag} in the store {self.address.home} any more: it was deleted since this model "
                "was pickled, or the store is another; `casstore list` shows what there is"
            )
        if row.digest != self.digest:
            raise TagNotFound(
                f"{self.tag} in the store {self.address.home} is not what it was when this model was pickled: it was "
                f'deleted and saved again, or the store is another; store.get("{self.tag}") gives what it is now'
            )
        return workspace, row


# Thousands of models may arrive one by one, as at a DataLoader's workers: those of one store open it once.
_open: weakref.WeakValueDictionary[Address, Workspace] = weakref.WeakValueDictionary()


def _shared(address: Address) -> Workspace:
    found = _open.get(address)
    return found if found is not None else _open.setdefault(address, address.open())
