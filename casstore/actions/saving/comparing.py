"""Comparing files that are to be saved with a version that is saved already."""

from __future__ import annotations

from casstore.actions.describing import times
from casstore.actions.describing.model_yaml import Descriptor
from casstore.actions.sources.source import Source
from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.versions import VersionRow
from casstore.description import FIELDS
from casstore.storage import files
from casstore.storage.manifest import Base
from casstore.storage.parents import Parent


def difference(
    workspace: Workspace, row: VersionRow, source: Source, described: Descriptor, *, may_be_part: bool = False
) -> str | None:
    """How these files and their descriptor differ from a saved version, in words; None if they do not.

    `may_be_part`: missing files do not count, as in a directory whose removal was interrupted.
    """
    saved = {file.path: file for file in workspace.catalog.versions.checked_files(row)}
    given = {file.path: file for file in source.files}
    for path in sorted(given.keys() - saved.keys() if may_be_part else given.keys() ^ saved.keys()):
        return f"the saved version has {'a' if path in saved else 'no'} file {path}"
    for path, file in given.items():
        if file.status.st_size != saved[path].size or files.is_executable(file.status) != saved[path].executable:
            return f"{path} differs"
    if not may_be_part and sorted(row.directory_paths()) != source.empty_directories:
        return "its empty directories differ"
    is_of_files = source.descriptor is None and may_be_part  # among the files that are still there, which may be older
    said = difference_of_description(row, described, is_time_known=not is_of_files)
    if said is not None:
        return said
    for path, file in given.items():
        scanned = source.scanned.get(path)
        if (hash_file(file.disk_path) if scanned is None else scanned.blob) != saved[path].digest:
            return f"{path} differs"
    return None


def difference_of_description(row: VersionRow, described: Descriptor, *, is_time_known: bool = True) -> str | None:
    """How what is said of a saved version, and its creation time, differ from a descriptor; None if they do not."""
    ours, theirs = row.described().completed(), described.description
    for field in FIELDS:
        if getattr(ours, field) != getattr(theirs, field):
            return f"its {field} differ{'s' if field in ('module', 'api_version', 'context') else ''}"
    if ours.not_finite_places != theirs.not_finite_places:
        return "its metadata differ"
    is_known = is_time_known and not described.is_from_the_future
    if is_known and row.created_at_ns // 1000 != described.created_at_ns // 1000:
        return f"it was created at {times.timestamp(row.created_at_ns).isoformat()}"
    return None


def difference_of_base(row: VersionRow, base: Base) -> str | None:
    """How the base of a saved version differs from another, in words; None if it does not."""
    saved = None if row.base_name is None else f"{row.base_name}:{row.base_version}"
    if saved is None:
        return f"it has no base, and this one comes from {base.tag}"
    if saved != str(base.tag):
        return f"its base is {saved}, not {base.tag}"
    return None if row.base_digest == base.digest else f"its base is another {saved}, which has been deleted"


def difference_of_parents(saved: tuple[Parent, ...], given: tuple[Parent, ...]) -> str | None:
    """How what a saved version came from differs from what another one comes from, in words; None if it does not."""
    if set(saved) == set(given):
        return None
    words = ["; ".join(f"{each} ({each.relation})" for each in parents) or "nothing" for parents in (saved, given)]
    return f"it came from {words[0]}, not from {words[1]}"
