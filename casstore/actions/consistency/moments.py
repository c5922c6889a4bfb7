"""Whether catalog and files are from one moment: a quick look when a store is opened, a full one before gc takes
anything away."""

from __future__ import annotations

import os

from casstore.actions.consistency import takeup
from casstore.actions.consistency.sizes import what_is_wrong
from casstore.actions.workspace import Workspace
from casstore.catalog.catalog import Catalog
from casstore.catalog.marks import Marks
from casstore.errors import CasstoreError, StoreError
from casstore.storage.layout import Layout

_SEEMS = "catalog.db and objects/ seem to be from different moments, or a disk has lost something"


def glance(layout: Layout, catalog: Catalog) -> str:
    """One line where the newest files that the catalog names are not there; empty where nothing is amiss with these.

    Cheap. A file that gc takes away meanwhile, or that a power cut may have taken, does not count.
    """
    try:
        return _glance(layout, catalog)
    except (CasstoreError, OSError, ValueError, TypeError):  # a damaged catalog is for others to tell of
        return ""


def _glance(layout: Layout, catalog: Catalog) -> str:
    for container, size in catalog.references.newest_containers():
        path = container.path(layout)
        reason = what_is_wrong(path, size)
        if reason and any(container == each for each, _ in catalog.references.newest_containers()):
            return f"{path} {reason}: {_SEEMS}; `casstore verify --quick` says what is lost"
    newest = catalog.versions.last_committed()
    if newest is None:
        return ""
    places = [layout.manifest(newest.tag, newest.manifest_id), layout.pending_manifest(newest.manifest_id)]
    # The second look is for one that is just being given its name.
    if any(os.path.lexists(path) for path in (*places, *places)) or catalog.versions.by_id(newest.id) is None:
        return ""
    return (
        f"{places[0]} is missing: catalog.db and manifests/ seem to be from different moments; `casstore repair` helps"
    )


def describe(workspace: Workspace) -> str:
    """One line where something that versions need is not where the catalog says, empty where all is: by one stat for
    each container. gc may run meanwhile. What repair has given up does not count."""
    before: takeup.Missing | None = None
    while True:
        with workspace.catalog.references.marked() as marks:
            found = takeup.find_missing(workspace, marks)
        unknown = found.unplaced - workspace.catalog.mending.known_lost() if found.unplaced else set()
        if not (found.files or unknown):
            return ""
        if before is not None:  # what gc has taken since it was looked up is not named a second time
            files = found.files.keys() & before.files.keys()
            if not (files or unknown):
                return ""
            return f"{_SEEMS}: {len(files):,} files and {len(unknown):,} chunks are missing, and gc waits for `repair`"
        before = found


def check_nothing_is_missing(workspace: Workspace, marks: Marks) -> None:
    """Raise StoreError where something that a version needs is not where the catalog says: what gc would take for
    unneeded may be the only copy. What repair has given up does not count, unless it has turned up since."""
    found = takeup.find_missing(workspace, marks)
    known = workspace.catalog.mending.known_lost() if found.unplaced else set()
    unknown = found.unplaced - known
    if not (found.files or unknown):
        if not found.unplaced or not (where := takeup.holders(workspace, found.unplaced, thorough=True)):
            return
    else:
        where = takeup.holders(workspace, found.chunks)
    affected = workspace.catalog.references.dependents(found.chunks, set())
    affected += workspace.catalog.references.dependents(found.chunks, set(), deleted=True)
    tags = {tag for tag, _ in affected}
    what = f"{len(unknown or found.unplaced):,} chunks have no place in the catalog"
    if found.files:
        container, reason = next(iter(found.files.items()))
        more = f", {len(found.files) - 1:,} more like it" if len(found.files) > 1 else ""
        what = f"{container.path(workspace.layout)} {reason}{more}"
    advice = (
        "put it back if you have it; `casstore repair` finds what else holds these bytes, also in another copy with "
        "--from DIR, and gives up what nothing holds: then gc works again"
    )
    if where:
        advice = f"{where[0]} holds some of it and is unknown to the catalog; `casstore repair` takes it up"
    raise StoreError(
        f"{what}; needed for {len(affected):,} files of {len(tags):,} versions. gc removed nothing, "
        f"since {_SEEMS}: {advice}"
    )
