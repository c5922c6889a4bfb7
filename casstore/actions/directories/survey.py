"""What stands under models/, or in another tree of `name/version/`, compared with the catalog."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from casstore.actions.directories.presence import was_certain
from casstore.actions.directories.standing import Standing
from casstore.actions.workspace import Workspace
from casstore.catalog.versions import VersionRow
from casstore.errors import InvalidTag
from casstore.storage.layout import LATEST_NAME
from casstore.tag import Tag


@dataclass(slots=True)
class ModelTree:
    """The content of a tree. `versions`: the directories `name/version`, sorted. `names`: the directories of names that
    hold such directories or a `latest`. `strays`: anything else except hidden names, with the reason why it is not a
    version. `unreadable`: directories of names that cannot be listed."""

    versions: list[Path] = field(default_factory=list)
    names: list[Path] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def survey(root: Path) -> ModelTree:
    """The content of a tree. Links are not followed. Raises OSError if `root` itself cannot be listed."""
    tree = ModelTree()
    for entry in _entries(root):
        if not entry.is_dir(follow_symlinks=False):
            tree.strays.append(f"{entry.path} {_what(entry)}, which is not a directory NAME/VERSION; it was left alone")
            continue
        try:
            inside = _entries(entry.path)
        except OSError as error:
            tree.unreadable.append((Path(entry.path), f"it cannot be listed: {error.strerror}"))
            continue
        if any(each.name == LATEST_NAME or each.is_dir(follow_symlinks=False) for each in inside):
            tree.names.append(Path(entry.path))
        for each in inside:
            if each.is_dir(follow_symlinks=False):
                tree.versions.append(Path(each.path))
            elif each.name != LATEST_NAME:
                tree.strays.append(
                    f"{each.path} {_what(each)}, which is not a directory NAME/VERSION; it was left alone"
                )
    return tree


def _entries(directory: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _what(entry: os.DirEntry[str]) -> str:
    return "is a link" if entry.is_symlink() else "is a file" if entry.is_file() else "is a special file"


def tag_at(path: Path) -> Tag:
    """The tag of a directory `name/version`. Raises InvalidTag."""
    return Tag(path.parent.name.lower(), path.name.lower())  # Tag warns about upper case in what it lowers itself


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How models/ and the catalog differ. `foreign`: directories in the tree that casstore did not make. `missing`:
    versions whose directory is gone. `tree`: what stands in models/; None if that is gone as a whole."""

    foreign: tuple[Path, ...]
    missing: tuple[VersionRow, ...]
    tree: ModelTree | None


def disagreement(workspace: Workspace) -> Disagreement:
    """How models/ and the catalog differ now. Directories are listed first: versions deleted meanwhile do not count."""
    try:
        tree = survey(workspace.layout.models)
    except FileNotFoundError:
        tree = None
    foreign = foreign_among(workspace, [] if tree is None else tree.versions)
    missing = [row for row in workspace.catalog.versions.select() if is_missing(workspace, row)]
    return Disagreement(tuple(foreign), tuple(missing), tree)


def foreign_among(workspace: Workspace, paths: Iterable[Path]) -> list[Path]:
    """The directories among these that casstore did not make, and that still stand in the store's tree."""
    return [path for path in paths if not _is_own(workspace, path) and path.is_dir()]


def is_missing(workspace: Workspace, row: VersionRow) -> bool:
    """Whether a user or another tool has removed the version's directory.

    False if gc is removing it, if a process is making it or was killed while making it, or if a power cut may have
    taken it away.
    """
    directory = workspace.layout.model(row.tag)
    if os.path.lexists(directory):
        return False
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or not was_certain(workspace, recorded):
        return False
    if workspace.layout.pending_manifest(row.manifest_id).exists():
        return False
    # The process that makes it gives the manifest its name once it stands.
    return not os.path.lexists(directory)


def _is_own(workspace: Workspace, path: Path) -> bool:
    """Whether casstore has made a directory in the store's tree, or a copy of it, or is about to remove it."""
    try:
        tag = tag_at(path)
        inode = os.lstat(path).st_ino
    except (InvalidTag, OSError):
        return False
    if path != workspace.layout.model(tag):
        return False
    row = workspace.catalog.versions.find(tag)
    standing = None if row is None else Standing(workspace, row)
    if row is not None and standing is not None and standing.recorded is not None:
        # A directory that is being adopted may hold none of the version's own files yet.
        is_coming = standing.recorded.inode == inode and workspace.layout.pending_manifest(row.manifest_id).exists()
        if is_coming or standing.is_ours:
            return True
    return workspace.catalog.deletions.is_deleted_directory(tag, inode)
