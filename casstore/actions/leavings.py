"""What somebody has put into a version's directory, which must not go with it: it goes to quarantine first."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import PurePosixPath

from casstore.actions import model_yaml
from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.sessions import Session
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.storage.layout import DESCRIPTOR_NAME
from casstore.storage.manifest import Manifest, read_manifest_file
from casstore.tag import Tag

_NOTHING_RECORDED: Mapping[str, FileStamp] = {}


def take_away(
    workspace: Workspace, session: Session, tag: Tag, manifest_id: str,
    recorded: Mapping[str, FileStamp] = _NOTHING_RECORDED,
) -> list[str]:  # fmt: skip
    """Take away the directory of a version that has been deleted, or that another will stand in the place of.

    What the version does not have, or has otherwise, goes to quarantine first; returns those paths. `recorded`: the
    stamps of the files that were put there, as far as they are known; what differs from them is compared with the
    manifest. The name's lock must be held. Raises OSError; then the directory stands.
    """
    directory = workspace.layout.model(tag)
    own = _Own(workspace, tag, manifest_id, recorded)
    kept = [_keep(workspace, tag, path) for path in _strangers(str(directory), own)]
    doomed = workspace.set_aside(directory, session)
    # Once more, where nobody finds it any longer: somebody may have written there meanwhile.
    kept += [_keep(workspace, tag, path) for path in _strangers(str(doomed), own)]
    if kept:
        files.sync_directory(workspace.layout.quarantine)
    with contextlib.suppress(OSError):  # gc reaps what is left, and says what it cannot remove
        files.remove_tree(doomed)
    return kept


def _strangers(root: str, own: _Own) -> list[str]:
    """The paths below `root` that are not the version's own; of a directory that is not, only that itself."""
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


def _keep(workspace: Workspace, tag: Tag, path: str) -> str:
    target = workspace.quarantined(tag, os.path.basename(path))
    files.move(path, target)
    return str(target)


class _Own:
    """What of a directory is the version's own, by what was recorded, and where that is not so by the manifest."""

    def __init__(self, workspace: Workspace, tag: Tag, manifest_id: str, recorded: Mapping[str, FileStamp]) -> None:
        self._workspace = workspace
        self._tag = tag
        self._manifest_id = manifest_id
        self._recorded = recorded
        self._folders = _parents(recorded)
        self._digests: dict[str, Digest] | None = None

    def has_directory(self, path: str) -> bool:
        if path in self._folders:
            return True
        self._said()
        return path in self._folders

    def has_file(self, path: str, location: str, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return False
        if self._recorded.get(path) == FileStamp.of(status):
            return True
        digest = self._said().get(path)
        try:
            return digest is not None and hash_file(location) == digest
        except OSError as error:
            files.raise_unless_damage(error)
            return False

    def _said(self) -> dict[str, Digest]:
        """The digest of each file by the version's manifest; none where that cannot be read."""
        if self._digests is None:
            manifest = self._read()
            self._digests = {}
            if manifest is not None:
                self._digests = {file.path: file.digest for file in manifest.files}
                self._folders |= _parents(self._digests) | set(manifest.directories)
                self._folders |= _parents(dict.fromkeys(manifest.directories))
                self._digests[DESCRIPTOR_NAME] = Digest.of(model_yaml.render(manifest))
        return self._digests

    def _read(self) -> Manifest | None:
        layout = self._workspace.layout
        name = self._manifest_id
        for path in (layout.manifest(self._tag, name), layout.pending_manifest(name), layout.deleted_manifest(name)):
            try:
                manifest = Manifest.unpack(read_manifest_file(path))
            except (IntegrityError, OSError) as error:
                files.raise_unless_damage(error)
                continue
            if manifest.tag == self._tag:
                return manifest
        return None


def _parents(paths: Mapping[str, object]) -> set[str]:
    return {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."}
