"""Which versions have lost bytes, as far as stat tells: quickly enough to be asked whenever versions are listed."""

from __future__ import annotations

import os
import time

from casstore.actions.workspace import Workspace, hash_file
from casstore.catalog.index import Fingerprint, LooseFile
from casstore.storage import files
from casstore.storage.container import FileStamp
from casstore.tag import Tag

_SETTLED_NS = 2_000_000_000  # a younger file may be written to again without its times telling


def damaged_tags(workspace: Workspace) -> set[Tag]:
    """The versions that need a chunk whose container is gone, cut short or written to.

    Only a loose file that has been written to since it was stored is read, and what it holds is noted. Bytes that
    changed without a trace are for `verify` to find, which also tells whether some copy of them stands.
    """
    references = workspace.catalog.references
    lost = {
        digest
        for each in workspace.catalog.index.containers_in_use()
        if _is_lost(workspace, each)
        for digest, _ in references.chunks_of(each.container)
    }
    return {tag for tag, _ in references.dependents(lost, set())} if lost else set()


def _is_lost(workspace: Workspace, row: LooseFile) -> bool:
    path = row.container.path(workspace.layout)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return workspace.catalog.index.is_live(row.container)  # gc may have taken it away meanwhile
    except OSError:
        return False
    now, then = FileStamp.of(status), row.stamp
    if row.container.is_pack or now.size != then.size:
        return now.size < then.size or not row.container.is_pack
    # In a copy of the store inodes are others, and times may be.
    if now.inode != then.inode or now.mtime_ns == then.mtime_ns:
        return False
    return _is_written_over(workspace, row, path, status)


def _is_written_over(workspace: Workspace, row: LooseFile, path: str, status: os.stat_result) -> bool:
    index = workspace.catalog.index
    seen = Fingerprint.of(status)
    digest = index.fingerprints([(seen.device, seen.inode)]).get(seen)
    if digest is None:
        try:
            digest = hash_file(path)
        except OSError as error:
            files.raise_unless_damage(error)
            return True
        if time.time_ns() - seen.ctime_ns >= _SETTLED_NS and not workspace.catalog.read_only:
            index.remember({seen: digest})
    return digest != row.container.digest
