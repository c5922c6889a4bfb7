"""What a new version came from: as the caller says, else its base, and what its files say."""

from __future__ import annotations

import contextlib

from casstore.actions.saving.request import SaveRequest
from casstore.actions.sources.origins import Origin, origins
from casstore.actions.sources.source import Source
from casstore.actions.workspace import Workspace
from casstore.digest import Digest
from casstore.errors import InvalidTag
from casstore.storage.manifest import parents_of_base, said_parents
from casstore.storage.parents import Parent
from casstore.tag import Tag


def parents(workspace: Workspace, source: Source, request: SaveRequest) -> tuple[Parent, ...] | None:
    """The parents of a new version, as its manifest has them."""
    if request.parents is not None:
        return said_parents(request.base, request.parents)
    of_files = [_parent(workspace, each) for each in origins(workspace.layout, source, request.description.metadata)]
    found = [each for each in of_files if each is not None]
    # The base is not named twice: what a file calls it says more.
    base = [each for each in parents_of_base(request.base) if all(each.thing != other.thing for other in found)]
    kept: dict[object, Parent] = {}
    for each in [*base, *found]:
        kept.setdefault(each.thing, each)
    return said_parents(request.base, tuple(kept.values()))


def _parent(workspace: Workspace, origin: Origin) -> Parent | None:
    if origin.parts is None:
        return Parent(origin.relation, uri=origin.uri)
    with contextlib.suppress(InvalidTag):
        row = workspace.catalog.versions.find(Tag(*origin.parts))
        if row is not None:
            return Parent(origin.relation, row.tag, Digest(row.digest))
    return None
