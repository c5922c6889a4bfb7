"""Which Python objects may be unpickled without consent: not those that came in an archive, in whatever version.

The mark belongs to the bytes: every version that brings them gets it, and it counts until the user trusts them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path

from casstore.actions.sources.homes import homes_above
from casstore.actions.workspace import Workspace
from casstore.description import CUSTOM_OBJECTS_NAME, Description
from casstore.digest import Digest
from casstore.errors import IntegrityError
from casstore.storage.layout import Layout
from casstore.storage.manifest import FileEntry, Manifest


class Trust(Enum):
    """What the caller says of Python objects that a save brings."""

    NONE = auto()  # they come in an archive
    GIVEN = auto()  # they come in an archive, and are to be trusted from now on, wherever these bytes are saved
    AS_KNOWN = auto()  # they stand in the user's own files: trusted unless these bytes are known to be untrusted
    MADE_NOW = auto()  # the caller has just pickled them


def objects_of(files: Iterable[FileEntry]) -> Digest | None:
    """The digest of a version's Python objects; None if it has none."""
    return next((file.digest for file in files if file.path == CUSTOM_OBJECTS_NAME), None)


def is_untrusted(workspace: Workspace, objects: Digest, source: Path | None) -> bool:
    """Whether these bytes are untrusted in this store, or in the store that the directory `source` belongs to."""
    if workspace.catalog.trust.is_untrusted(objects):
        return True
    return source is not None and _is_untrusted_there(workspace.layout, objects, source)


def marked(workspace: Workspace, manifest: Manifest, trust: Trust, source: Path | None) -> Description:
    """The description of a new version, with the mark of untrusted Python objects if it needs one.

    `trust`: what the caller says of them. `source`: the directory that they come from.
    """
    objects = objects_of(manifest.files)
    if objects is None or trust in (Trust.GIVEN, Trust.MADE_NOW):
        return manifest.description.marked(is_untrusted=False)
    is_marked = trust is Trust.NONE or is_untrusted(workspace, objects, source)
    return manifest.description.marked(is_untrusted=is_marked)


def _is_untrusted_there(own: Layout, objects: Digest, source: Path) -> bool:
    """Whether `source` is the directory of a version in another store that does not trust these objects."""
    for home, parts in homes_above(source):
        if len(parts) < 3 or parts[0] != "models" or home == Path(os.path.realpath(own.home)):
            continue
        manifests = Layout(home).manifests / parts[1]
        for path in manifests.glob(f"{parts[2]}.*"):
            with contextlib.suppress(OSError, IntegrityError):
                manifest = Manifest.unpack(path.read_bytes())
                if manifest.description.is_untrusted and objects_of(manifest.files) == objects:
                    return True
    return False
