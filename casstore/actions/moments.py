"""Whether catalog and files are from one moment, before gc takes anything away."""

from __future__ import annotations

from casstore.actions.takeup import find_missing, holders
from casstore.actions.workspace import Workspace
from casstore.errors import StoreError


def check_nothing_is_missing(workspace: Workspace) -> None:
    """Raise StoreError where something that a version needs is not where the catalog says: what gc would take for
    unneeded may be the only copy. What repair has given up does not count, unless it has turned up since.

    `References.mark` must have been called.
    """
    found = find_missing(workspace)
    known = workspace.catalog.mending.known_lost() if found.homeless else set()
    unknown = found.homeless - known
    if not (found.files or unknown):
        if not found.homeless or not (where := holders(workspace, found.homeless, thorough=True)):
            return
    else:
        where = holders(workspace, found.chunks)
    affected = workspace.catalog.references.dependents(found.chunks, set())
    tags = {tag for tag, _ in affected}
    what = f"{len(unknown or found.homeless):,} chunks have no place in the catalog"
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
        f"{what}; needed for {len(affected):,} files of {len(tags):,} versions. gc removed nothing, since catalog.db "
        f"and objects/ seem to be from different moments, or a disk has lost something: {advice}"
    )
