"""Writing a `.casmodel`: each chunk once, and as a delta against the version before if the archive has that too."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from casstore.actions import resolve, signatures
from casstore.actions.packs.builder import ENCODE_THREADS
from casstore.actions.packs.sending import Files, Sending
from casstore.actions.workspace import Workspace
from casstore.archive import casmodel
from casstore.catalog.versions import VersionRow
from casstore.errors import TagNotFound
from casstore.progress import Progress
from casstore.storage.manifest import Manifest
from casstore.storage.pack import PackStream


def export_versions(
    workspace: Workspace, rows: Sequence[VersionRow], sink: BinaryIO, progress: Progress, *, with_aliases: bool = False
) -> None:
    """Write these versions and every chunk they need, and `with_aliases` what aliases mean them.

    Raises IntegrityError, OSError.
    """
    rows = sorted(rows, key=lambda row: row.id)  # a version is newer than the one that it came from
    manifests = [_manifest(workspace, row) for row in rows]
    aliases = None
    if with_aliases:
        aliases = [(row.tag, alias) for row in rows for alias in workspace.catalog.aliases.of_version(row.id)]
    signed = [(row.tag, each.bundle) for row in rows for each in signatures.kept(workspace.layout, row.digest)]
    casmodel.write_head(sink.write, (manifest.pack() for manifest in manifests), aliases, signed)
    progress.start("export", sum(manifest.size for manifest in manifests))
    try:
        with ThreadPoolExecutor(ENCODE_THREADS) as pool:
            stream = PackStream(sink.write)
            sending = Sending(workspace, stream, pool, progress)
            exported: dict[int, Files] = {}
            for row, manifest in zip(rows, manifests, strict=True):
                files = [(file.path, manifest.recipe_of(file)) for file in manifest.files]
                base = workspace.catalog.versions.base_of(row)
                sending.add(files, exported.get(base.id, []) if base is not None else [])
                exported[row.id] = files
            stream.end()
    finally:
        progress.finish()


def _manifest(workspace: Workspace, row: VersionRow) -> Manifest:
    digests = {file.digest for file in resolve.files(workspace.catalog, row)}
    manifest = workspace.catalog.versions.manifest(row, workspace.catalog.index.recipes(digests))
    if manifest.digest != row.digest:  # its rows were deleted after they were found
        raise TagNotFound(f"{row.tag} has been deleted meanwhile")
    return manifest
