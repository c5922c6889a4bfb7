"""Files that were put into a version's directory and must not be removed with it: they go to quarantine first."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from casstore.actions import loose_files
from casstore.actions.describing import model_yaml
from casstore.actions.directories.changed import parents
from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.index import Fingerprint
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.storage.sessions import Session
from casstore.tag import Tag

_log = logging.getLogger(__name__)
_NOTHING_RECORDED: Mapping[str, FileStamp] = {}


def take_away(
    workspace: Workspace, session: Session, tag: Tag, manifest_id: str,
    recorded: Mapping[str, FileStamp] = _NOTHING_RECORDED, noted: dict[Fingerprint, Digest] | None = None,
) -> list[str]:  # fmt: skip
    """Remove the directory of a version that has been deleted, or whose place another version will take.

    Files that the version does not have, or has with other content, go to quarantine first; returns their paths there.
    `recorded`: the stamps of the files that were put there, as far as they are known; a file that differs from its
    stamp is compared with the manifest. `noted`: takes what is to be remembered of loose files that were linked there.
    The name's lock must be held. Raises OSError; then the directory stands, and what was moved by then is named in the
    log.
    """
    directory = workspace.layout.model(tag)
    own = _Own(workspace, tag, manifest_id, recorded)
    kept: list[str] = []
    try:
        _keep_all(workspace, tag, _strangers(str(directory), own), kept)
        doomed = workspace.set_aside(directory, session)
        try:
            _keep_all(workspace, tag, _late(doomed, own), kept)
        except OSError:  # such as for a read-only directory; what stays goes with the session
            _keep_all(workspace, tag, [str(doomed)], kept)
        if kept:
            files.sync_directory(workspace.layout.quarantine)
    except OSError:
        _tell(tag, kept)
        raise
    found: dict[Fingerprint, Digest] = {} if noted is None else noted
    with loose_files.unlinking(workspace, doomed, recorded, found), contextlib.suppress(OSError):
        files.remove_tree(doomed)  # gc reaps what is left, and reports what it cannot remove
    return kept


def make_way(workspace: Workspace, session: Session, tag: Tag, manifest_id: str) -> None:
    """Make way for a version that takes the tag of a deleted one: remove the old directory, and log what is kept."""
    _tell(tag, take_away(workspace, session, tag, manifest_id))


def _tell(tag: Tag, kept: list[str]) -> None:
    if kept:
        _log.warning("%s: kept in %s, since it was not the deleted version's own", tag, ", ".join(kept))


def late(
    workspace: Workspace, tag: Tag, manifest_id: str, recorded: Mapping[str, FileStamp], doomed: Path
) -> list[str]:  # fmt: skip
    """The paths in a directory, set aside at `doomed`, of what was written into it and does not belong to its version.

    `doomed` itself if something else stood in its place, or if it cannot be read. `recorded`: the stamps of its files,
    as for `take_away`.
    """
    return _late(doomed, _Own(workspace, tag, manifest_id, recorded))


def _late(doomed: Path, own: _Own) -> list[str]:
    try:
        if stat.S_ISDIR(os.lstat(doomed).st_mode):
            return _strangers(str(doomed), own)
    except OSError:  # better kept as a whole than lost
        pass
    return [str(doomed)]


def _strangers(root: str, own: _Own) -> list[str]:
    """The paths below `root` that do not belong to the version; a foreign directory counts as one path."""
    found = []
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(f"{root}/{below}") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if own.has_directory(name):
                        pending.append(f"{name}/")
                    elif not _is_empty(entry.path):
                        found.append(entry.path)
                elif not own.has_file(name, entry.path, entry.stat(follow_symlinks=False)):
                    found.append(entry.path)
    return found


def _is_empty(directory: str) -> bool:
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def _keep_all(workspace: Workspace, tag: Tag, paths: list[str], kept: list[str]) -> None:
    """Move these to quarantine, and add each new path to `kept` at once, so that it is there if a later move fails."""
    for path in paths:
        target = workspace.quarantined(tag, os.path.basename(path))
        files.move(path, target)
        kept.append(str(target))


class _Own:
    """Tells what in a directory belongs to the version: by the recorded stamps, else by the manifest."""

    def __init__(self, workspace: Workspace, tag: Tag, manifest_id: str, recorded: Mapping[str, FileStamp]) -> None:
        self._workspace = workspace
        self._tag = tag
        self._manifest_id = manifest_id
        self._recorded = recorded
        self._folders = parents(recorded)
        self._digests: dict[str, Digest] | None = None

    def has_directory(self, path: str) -> bool:
        if path in self._folders:
            return True
        self._said()
        return path in self._folders

    def has_file(self, path: str, disk_path: str, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        if self._recorded.get(path) == FileStamp.of(status):
            return True
        digest = self._said().get(path)
        try:
            return digest is not None and hash_file(disk_path) == digest
        except OSError as error:
            files.raise_unless_damage(error)
            return False

    def _said(self) -> dict[str, Digest]:
        """The digest of each file, from the version's manifest; empty if that cannot be read."""
        if self._digests is None:
            manifest = self._read()
            self._digests = {}
            if manifest is not None:
                self._digests = {file.path: file.digest for file in manifest.files}
                self._folders |= parents((*self._digests, *(f"{path}/" for path in manifest.directories)))
                self._digests[DESCRIPTOR_NAME] = Digest.of(model_yaml.render(manifest))
        return self._digests

    def _read(self) -> Manifest | None:
        layout = self._workspace.layout
        name = self._manifest_id
        kept = layout.trashed_manifest(name), layout.deleted_manifest(name)
        for path in (layout.manifest(self._tag, name), layout.pending_manifest(name), *kept):
            try:
                manifest = Manifest.unpack(read_manifest_file(path))
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
                continue
            if manifest.tag == self._tag:
                return manifest
        return None
