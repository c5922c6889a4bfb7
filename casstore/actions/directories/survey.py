"""What stands under models/, or in another tree of `name/version/`, beside what the catalog says of it."""

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
class Tree:
    """`versions`: the directories `name/version`, sorted. `names`: those of names that hold such, or are marked as
    directories of names by a `latest`. `strays`: what else there is, but for hidden names, with the
    reason why it is none. `unreadable`: directories of names that cannot be listed."""

    versions: list[Path] = field(default_factory=list)
    names: list[Path] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def survey(root: Path) -> Tree:
    """What is in a tree. Links are not followed. Raises OSError where `root` itself cannot be listed."""
    tree = Tree()
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
    """The tag that a directory `name/version` stands for. Raises InvalidTag."""
    return Tag(path.parent.name.lower(), path.name.lower())  # what Tag lowers itself, it warns of


@dataclass(frozen=True, slots=True)
class Disagreement:
    """`foreign`: directories in the tree that casstore did not make. `missing`: versions whose directory is gone.
    `tree`: what stands in models/; None when that is gone as a whole."""

    foreign: tuple[Path, ...]
    missing: tuple[VersionRow, ...]
    tree: Tree | None


def disagreement(workspace: Workspace) -> Disagreement:
    """How tree and catalog differ now. Directories are listed first: what is deleted meanwhile is neither."""
    try:
        tree = survey(workspace.layout.models)
    except FileNotFoundError:
        tree = None
    foreign = foreign_among(workspace, [] if tree is None else tree.versions)
    missing = [row for row in workspace.catalog.versions.select() if is_missing(workspace, row)]
    return Disagreement(tuple(foreign), tuple(missing), tree)


def foreign_among(workspace: Workspace, paths: Iterable[Path]) -> list[Path]:
    """The directories in the store's tree that casstore did not make, and that still stand."""
    return [path for path in paths if not _is_own(workspace, path) and path.is_dir()]


def is_missing(workspace: Workspace, row: VersionRow) -> bool:
    """Whether a user or another tool has taken the version's directory away.

    Not one that gc takes or that is only just being made, also not by a process that was killed at it. Nor one that a
    power cut may have taken.
    """
    directory = workspace.layout.model(row.tag)
    if os.path.lexists(directory):
        return False
    recorded = workspace.catalog.directories.find(row.id)
    if recorded is None or recorded.evicting or not was_certain(workspace, recorded):
        return False
    if workspace.layout.pending_manifest(row.manifest_id).exists():
        return False
    # Whoever makes it gives the manifest its name when it stands.
    return not os.path.lexists(directory)


def _is_own(workspace: Workspace, path: Path) -> bool:
    """Whether a directory in the store's tree is one that casstore has made there, or a copy of one, or is about to
    take away."""
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
        # One that is being adopted may hold none of the version's own files yet.
        is_coming = standing.recorded.inode == inode and workspace.layout.pending_manifest(row.manifest_id).exists()
        if is_coming or standing.is_ours:
            return True
    return workspace.catalog.versions.is_deleted_directory(tag, inode)
